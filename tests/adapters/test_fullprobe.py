"""The full TUN probe as the program that it is, against the real kernel, each case in namespaces of its own."""

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys

import msgspec
import pytest

from tazpod_net.adapters import fullprobe
from tazpod_net.core.tun import Facts, Full, Step, judge, with_full
from tests.adapters.test_quickprobe import IN_USERNS, TUN, WITHOUT_NET_ADMIN, answer_of, environment, space

__all__ = ["space"]  # a fixture

needs_space = pytest.mark.usefixtures("space")

# What the programs have at hand besides PRELUDE: the probe as a child, and one that stops with everything made.
TOOLS = """
import re, signal
from tazpod_net.core.tun import Full

COMMAND = [sys.executable, "-m", "tazpod_net.adapters.fullprobe"]
STOPS = '''
import signal, sys
from tazpod_net.adapters import fullprobe
actions = fullprobe._actions
def stopping(netlink, name):
    yield from actions(netlink, name)
    yield "up", lambda: (print(name, flush=True), signal.pause())
fullprobe._actions = stopping
sys.exit(fullprobe.main())
'''

def probe(interface="tailscale0"):
    request = msgspec.json.encode({"interface": interface})
    done = subprocess.run(COMMAND, input=request, stdout=subprocess.PIPE, timeout=30, check=True)
    return msgspec.json.decode(done.stdout, type=Full)

def stopped_probe():
    child = subprocess.Popen([sys.executable, "-c", STOPS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b'{"interface": "tailscale0"}')
    child.stdin.close()
    return child, child.stdout.readline().decode().strip()

def scratch():
    from pyroute2 import IPRoute
    with IPRoute() as netlink:
        rules = [r.get_attr("FRA_IIFNAME") for r in netlink.get_rules(family=socket.AF_INET)]
        addresses = [a.get_attr("IFA_ADDRESS") for a in netlink.get_addr(family=socket.AF_INET) if a["index"] > 1]
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    return sorted(names), sorted(rule for rule in rules if rule), sorted(addresses)
"""
EVERY_STEP = tuple(Step(name) for name in ("socket", "rule", "device", "address", "up"))


def full_of(program: str = "answer(probe())", *, prepare: str = TUN, wrap: tuple[str, ...] = ()) -> Full:
    """The full answer that a program in a namespace answered with."""
    return msgspec.json.decode(answer_of(TOOLS + program, prepare=prepare, wrap=wrap), type=Full)


def verdict_of(*, prepare: str = TUN, wrap: tuple[str, ...] = ()) -> tuple[str, Full]:
    """The cause after both probes, and the full answer."""
    answer = answer_of(TOOLS + "answer([quick('tailscale0'), probe()])", prepare=prepare, wrap=wrap)
    facts, full = msgspec.json.decode(answer, type=tuple[Facts, Full])
    return judge(with_full(facts, full)).cause, full


@needs_space
def test_everything_is_made_and_nothing_stays() -> None:
    """Device, address and rule can all be set, and are gone afterwards."""
    program = """
before = scratch()
full = probe()
assert scratch() == before == ([], [], []), scratch()
answer(full)
"""
    assert full_of(program) == Full(steps=EVERY_STEP)


@needs_space
def test_own_user_and_network_namespace() -> None:
    """Root of a rootless container with a network of its own gets the same yes."""
    assert verdict_of(wrap=(*IN_USERNS, "--net"))[0] == "ok"


@needs_space
@pytest.mark.parametrize(
    ("prepare", "wrap", "cause", "step"),
    [
        (":", (), "no-device", Step("device", errno.ENOENT)),
        ("mknod -m 666 /dev/net/tun c 10 199", (), "no-driver", Step("device", errno.ENODEV)),
        ("mkdir /dev/net/tun", (), "not-a-device", Step("device", errno.EISDIR)),
        (TUN, WITHOUT_NET_ADMIN, "no-net-admin", Step("rule", errno.EPERM)),
        (TUN, IN_USERNS, "user-namespace", Step("rule", errno.EPERM)),
    ],
    ids=["no device", "no driver", "directory", "no NET_ADMIN", "foreign user namespace"],
)
def test_the_failing_step_agrees_with_the_quick_probe(
    prepare: str, wrap: tuple[str, ...], cause: str, step: Step
) -> None:
    """Both probes meet the same obstacle; the answer ends with the step that failed."""
    found, full = verdict_of(prepare=prepare, wrap=wrap)
    assert found == cause
    assert full.steps[-1] == step


# struct seccomp_data { int nr; u32 arch; ...; u64 args[6] }: deny socket(AF_NETLINK, ...) with EPERM.
SECCOMP = """
import ctypes
code = [
    (0x20, 0, 0, 0),             # load nr
    (0x15, 0, 3, SOCKET),        # is it socket?
    (0x20, 0, 0, 16),            # load args[0]
    (0x15, 0, 1, 16),            # is it AF_NETLINK?
    (0x06, 0, 0, 0x00050001),    # SECCOMP_RET_ERRNO | EPERM
    (0x06, 0, 0, 0x7FFF0000),    # SECCOMP_RET_ALLOW
]
program = b"".join(struct.pack("HBBI", *line) for line in code)
buffer = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
"""
SOCKET_NUMBERS = {"x86_64": 41, "aarch64": 198}


@needs_space
def test_netlink_that_is_forbidden_is_what_only_the_full_probe_sees() -> None:
    """Where a seccomp profile forbids AF_NETLINK the quick probe says yes, and the full one names the obstacle."""
    number = SOCKET_NUMBERS.get(platform.machine())
    if number is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("number of socket(2) is not known for this machine")
    program = SECCOMP.replace("SOCKET", str(number)) + "answer([quick('tailscale0'), probe()])"
    facts, full = msgspec.json.decode(answer_of(TOOLS + program), type=tuple[Facts, Full])
    assert judge(facts).possible
    assert full.steps == (Step("socket", errno.EPERM),)
    assert judge(with_full(facts, full)).cause == "no-netlink"


@needs_space
def test_left_overs_of_a_killed_probe_are_swept_by_the_next() -> None:
    """`kill -9` with everything made: the next probe removes device, address and rule, and says so."""
    program = """
child, name = stopped_probe()
child.kill()
child.wait()
assert scratch() == ([name], [name], ["169.254.255.8"]), scratch()
full = probe()
assert full.swept == (name,), full
assert scratch() == ([], [], []), scratch()
answer(full)
"""
    assert full_of(program).steps == EVERY_STEP


@needs_space
def test_a_rule_alone_is_swept_too() -> None:
    """A probe killed before its device was made left only the rule."""
    program = """
from pyroute2 import IPRoute
with IPRoute() as netlink:
    netlink.rule("add", priority=31000, src="169.254.255.8", src_len=32, iifname="tzp4000000", table=254)
    netlink.rule("add", priority=31001, src="169.254.255.8", src_len=32, iifname="tzp4000000", table=254)
full = probe()
assert scratch() == ([], ["tzp4000000"], []), "the rule of another priority is somebody else's"
answer(full)
"""
    assert full_of(program).swept == ("tzp4000000",)


@needs_space
def test_a_living_probe_is_not_swept_and_tidies_up_on_sigterm() -> None:
    """Two probes at once do not disturb each other; SIGTERM ends one in order, with exit code 1 and no answer."""
    program = """
child, name = stopped_probe()
full = probe()
assert scratch() == ([name], [name], ["169.254.255.8"]), scratch()
child.terminate()
assert child.stdout.read() == b""
assert child.wait() == 1
assert scratch() == ([], [], []), scratch()
answer(full)
"""
    assert full_of(program) == Full(steps=EVERY_STEP)


@needs_space
def test_an_interface_that_only_looks_like_ours_stays() -> None:
    """The sweep takes names of the form tzp<number> and nothing else."""
    program = """
for name in ("tzp", "tzpx1", "tzp1x", "xtzp1"):
    attach(name, persist=True)
full = probe()
assert scratch()[0] == ["tzp", "tzp1x", "tzpx1", "xtzp1"], scratch()
answer(full)
"""
    assert full_of(program).swept == ()


@needs_space
def test_what_tailscale_left_is_counted_and_not_touched() -> None:
    """Rules 5210 to 5270 and table 52 of a killed daemon are reported, and still there."""
    program = """
from pyroute2 import IPRoute
def rules():
    with IPRoute() as netlink:
        return [r.get_attr("FRA_PRIORITY") for r in netlink.get_rules(family=socket.AF_INET)]
with IPRoute() as netlink:
    for priority in (5200, 5210, 5230, 5250, 5270, 5271):
        netlink.rule("add", priority=priority, table=52)
    netlink.route("add", dst="10.1.0.0/16", table=52, type="throw")
    netlink.route("add", dst="10.2.0.0/16", table=53, type="throw")
    netlink.route("add", dst="10.3.0.0/16", type="throw")
before = rules()
full = probe()
assert rules() == before
answer(full)
"""
    full = full_of(program)
    assert full.rules == (5210, 5230, 5250, 5270)
    assert full.routes == 1


@needs_space
def test_holder_of_the_interface_is_named() -> None:
    """The process that has the interface open is found by its open file."""
    program = """
fd = attach("tailscale0")
open("/proc/self/comm", "w").write("tailscaled")
full = probe()
assert full.holder.pid == os.getpid()
answer(full)
"""
    holder = full_of(program).holder
    assert holder is not None
    assert holder.name == "tailscaled"


@needs_space
def test_left_over_interface_has_no_holder() -> None:
    """A persistent device that nobody has open belongs to nobody."""
    assert full_of("attach('tailscale0', persist=True); answer(probe())").holder is None


@needs_space
def test_device_that_cannot_be_removed_is_reported() -> None:
    """What stays is said, instead of a clean answer."""
    program = """
from tazpod_net.adapters import fullprobe
remove = fullprobe._try
actions = []
def _try(action):
    actions.append(action)
    return None if len(actions) > 4 else remove(action)  # the four steps are done, the removal is not
fullprobe._try = _try
full = fullprobe.diagnose("tailscale0")
name = scratch()[0][0]
assert full.kept == (name, f"rule 31000 of {name}"), full
answer(full)
"""
    assert full_of(program).steps == EVERY_STEP


def test_same_pid_in_another_pid_namespace_gets_the_next_name() -> None:
    """A name whose socket somebody has is in use, whatever pid he has in his own namespace."""
    guard = fullprobe._take_guard(f"tzp{os.getpid()}")
    assert guard is not None
    with guard, fullprobe._claim_name() as name:
        assert name == f"tzp{os.getpid() + 1}"
        assert fullprobe._take_guard(name) is None
    with fullprobe._claim_name() as name:
        assert name == f"tzp{os.getpid()}"


def test_forbidden_abstract_sockets_do_not_end_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard the pid alone names the device."""
    monkeypatch.setattr(fullprobe, "_take_guard", lambda _name: None)
    with fullprobe._claim_name() as name:
        assert name == f"tzp{os.getpid()}"


def test_netlink_that_says_no_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user can ask; where no netlink socket can be had, that is the whole answer."""

    def refuse(**_options: object) -> None:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(fullprobe, "IPRoute", refuse)
    assert fullprobe.diagnose("tzt0") == Full(steps=(Step("socket", errno.EACCES),))
    assert fullprobe._remove("tzt0") == ()
    assert fullprobe._remove("lo") == ("lo",)


def test_kernel_without_strict_checks_is_asked_the_old_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 4.20 the socket option does not exist: the dump is then filtered by the probe."""
    opened: list[dict[str, bool]] = []

    def open_old(**options: bool) -> object:
        opened.append(options)
        if options:
            raise OSError(errno.ENOPROTOOPT, "no such option")
        return object()

    monkeypatch.setattr(fullprobe, "IPRoute", open_old)
    fullprobe._open_netlink()
    assert opened == [{"strict_check": True}, {}]


def run_probe(request: bytes) -> subprocess.CompletedProcess[bytes]:
    """The program as its parent starts it."""
    command = [sys.executable, "-m", "tazpod_net.adapters.fullprobe"]
    return subprocess.run(command, input=request, capture_output=True, timeout=60, check=False, env=environment())


@pytest.mark.parametrize("request_text", [b"", b"{", b"[]", b"{}", b'{"interface": 7}'])
def test_a_wrong_request_is_one_line_and_exit_code_2(request_text: bytes) -> None:
    """The parent's mistake is said in a line, without a traceback."""
    done = run_probe(request_text)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"fullprobe: bad request: ")
    assert done.stderr.count(b"\n") == 1


def test_a_probe_that_hangs_ends_itself() -> None:
    """A parent that died without closing its end leaves no process behind."""
    program = "from tazpod_net.adapters import fullprobe; fullprobe._LIFETIME_S = 1; fullprobe.main()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env=environment()) as child:
        assert child.wait(timeout=30) == -signal.SIGALRM
