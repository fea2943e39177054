"""The quick TUN probe against the real kernel, each case in namespaces of its own.

The machine's /dev/net/tun is never touched: each case has its own node, on a tmpfs in a private mount namespace.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import tazpod_net
from tazpod_net.adapters.quickprobe import quick
from tazpod_net.core.tun import Facts, Verdict, judge
from tests.support.eventually import eventually
from tests.support.netns import Namespace, tun_refusal

ROOT = Path(tazpod_net.__file__).parent.parent
TUN = "mknod -m 666 /dev/net/tun c 10 200"
DEVICES_CGROUP = Path("/sys/fs/cgroup/devices")

# What the programs that run inside a namespace have at hand.
CHECKOUT = Path(__file__).parents[2]
PRELUDE = """
import fcntl, os, socket, struct, subprocess, sys
import msgspec
from tazpod_net.adapters import quickprobe
from tazpod_net.adapters.quickprobe import quick

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def attach(name, *, flags=0x5001, persist=False):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, quickprobe._TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if persist:
        fcntl.ioctl(fd, quickprobe._TUNSETIFF + 1, 1)  # TUNSETPERSIST
        os.close(fd)
    return fd

def configure(name, *addresses, up=True, **options):
    from pyroute2 import IPRoute
    index = socket.if_nametoindex(name)
    with IPRoute() as netlink:
        for address in addresses:
            netlink.addr("add", index=index, address=address, prefixlen=128 if ":" in address else 32, **options)
        if up:
            netlink.link("set", index=index, state="up")

def answer(value):
    sys.stdout.buffer.write(msgspec.json.encode(value))

def ask(*own, ours=False):
    answer(quick("tailscale0", own, interface_is_ours=ours))
"""


@pytest.fixture
def space() -> None:
    """Skips where no TUN device can be had in namespaces of our own."""
    if refusal := tun_refusal():
        pytest.skip(refusal)


needs_space = pytest.mark.usefixtures("space")


def environment() -> dict[str, str]:
    """The test's own, in which a child finds the tree under test from any directory."""
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def answer_of(program: str, *, prepare: str = TUN, wrap: tuple[str, ...] = ()) -> str:
    """What `program` answered in new network and mount namespaces; its traceback is the failure's text.

    Args:
        program: Python, after PRELUDE.
        prepare: shell commands that fill /dev/net, which is empty.
        wrap: a command that starts the interpreter with other rights.
    """
    setup = f"set -e; {prepare}; exec " + '"$@"'
    command = ("sh", "-c", setup, "sh", *wrap, sys.executable, "-c", PRELUDE + program)
    with Namespace(tun=False, overlays=()) as place:
        done = place.run(command, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def facts_of(program: str = "ask()", *, prepare: str = TUN, wrap: tuple[str, ...] = ()) -> Facts:
    """The facts that a program in a namespace answered with."""
    return msgspec.json.decode(answer_of(program, prepare=prepare, wrap=wrap), type=Facts)


WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
IN_USERNS = ("unshare", "--user", "--map-root-user")
AS_UID_1000 = "os.setgroups([]); os.setgid(1000); os.setuid(1000); ask()"
YES = Verdict(possible=True, cause="ok", text="TUN works here")


@needs_space
def test_own_network_namespace_is_a_yes() -> None:
    """With the device and NET_ADMIN the answer is yes, and the facts are the namespace's own."""
    facts = facts_of()
    assert judge(facts) == YES
    assert facts.node is not None
    assert (facts.node.major, facts.node.minor, facts.node.mode) == (10, 200, 0o666)
    assert (facts.cap_net_admin, facts.cap_net_admin_bounding, facts.name_state) == (True, True, "absent")
    assert facts.netns != os.stat("/proc/self/ns/net").st_ino
    assert facts.userns == os.stat("/proc/self/ns/user").st_ino
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@needs_space
def test_no_interface_is_made() -> None:
    """Interface numbers go on without a gap, so nobody who watches the namespace saw anything."""
    program = """
attach("before", persist=True)
quick("tailscale0")
attach("after", persist=True)
answer([socket.if_nametoindex("before"), socket.if_nametoindex("after")])
"""
    before, after = msgspec.json.decode(answer_of(program), type=list[int])
    assert after == before + 1


@needs_space
@pytest.mark.parametrize(
    ("prepare", "cause", "open_errno"),
    [
        (":", "no-device", None),
        ("ln -s nowhere /dev/net/tun", "no-device", None),
        ("mkdir /dev/net/tun", "not-a-device", None),
        ("touch /dev/net/tun", "not-a-device", None),
        ("mknod -m 666 /dev/net/tun c 1 3", "not-a-device", None),
        ("mknod -m 666 /dev/net/tun c 10 199", "no-driver", errno.ENODEV),
        (f"mount -o remount,nodev /dev/net; {TUN}", "device-nodev", errno.EACCES),
    ],
    ids=["empty", "dangling link", "directory", "file", "/dev/null", "no driver", "nodev"],
)
def test_what_is_wrong_with_the_node(prepare: str, cause: str, open_errno: int | None) -> None:
    """Each broken node is told from the others."""
    facts = facts_of(prepare=prepare)
    assert judge(facts).cause == cause
    assert facts.open_errno == open_errno


@needs_space
def test_plain_user_is_stopped_by_the_mode() -> None:
    """Uid 1000 and a node of mode 0600: the sentence names both."""
    verdict = judge(facts_of(AS_UID_1000, prepare="mknod -m 600 /dev/net/tun c 10 200"))
    assert verdict.cause == "device-mode"
    assert verdict.text == "/dev/net/tun may not be opened by uid 1000 (mode 0600, owner 0)"


@needs_space
def test_plain_user_who_may_open_still_lacks_net_admin() -> None:
    """An open that works proves nothing: TUNSETIFF says no, and root would help."""
    facts = facts_of(AS_UID_1000)
    assert (facts.open_errno, facts.tunsetiff_errno) == (None, errno.EPERM)
    assert (judge(facts).cause, judge(facts).fix) == ("no-net-admin", "run it as root (sudo)")


@needs_space
def test_root_without_net_admin() -> None:
    """A container without --cap-add NET_ADMIN."""
    verdict = judge(facts_of(wrap=WITHOUT_NET_ADMIN))
    assert (verdict.cause, verdict.fix) == ("no-net-admin", "start the container with --cap-add NET_ADMIN")


@needs_space
def test_network_namespace_of_another_user_namespace() -> None:
    """NET_ADMIN is there and does not count, as in a rootless container with the host's network."""
    facts = facts_of(wrap=IN_USERNS)
    assert (facts.cap_net_admin, facts.in_initial_userns) == (True, False)
    assert judge(facts).cause == "user-namespace"


@needs_space
def test_network_namespace_of_the_own_user_namespace() -> None:
    """A rootless container with a network of its own can have TUN."""
    facts = facts_of(wrap=(*IN_USERNS, "--net"))
    assert facts.in_initial_userns is False
    assert judge(facts) == YES


@pytest.fixture
def denying_cgroup() -> Iterator[Path]:
    """A device cgroup (version 1) that denies the TUN device, for whoever joins it."""
    group = DEVICES_CGROUP / f"tazpod-net-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as e:
        pytest.skip(f"no writable device cgroup of version 1: {e}")
    (group / "devices.deny").write_text("c 10:200 rwm")
    yield group

    def removed() -> bool:
        group.rmdir()
        return True

    eventually(removed)


@needs_space
def test_device_cgroup(denying_cgroup: Path) -> None:
    """The node is there with mode 0666, and opening it is what the cgroup forbids."""
    facts = facts_of(prepare=f"{TUN}; echo $$ > {denying_cgroup}/cgroup.procs")
    assert (facts.open_errno, judge(facts).cause) == (errno.EPERM, "device-cgroup")
    assert judge(facts).text == "/dev/net/tun may not be opened (device cgroup)"


@needs_space
@pytest.mark.parametrize(
    "wrap", [(), WITHOUT_NET_ADMIN, IN_USERNS, (*IN_USERNS, "--net")], ids=["root", "no cap", "userns", "own both"]
)
def test_refused_type_answers_as_a_real_device_would(wrap: tuple[str, ...]) -> None:
    """The throw-away request that makes nothing and one that makes a device agree on yes and on the errno."""
    program = """
try:
    attach("real")
    real = None
except OSError as e:
    real = e.errno
answer([quick("tailscale0").tunsetiff_errno, real])
"""
    thrown_away, real = msgspec.json.decode(answer_of(program, wrap=wrap), type=list[int | None])
    assert thrown_away == real


@needs_space
@pytest.mark.parametrize(
    ("program", "state", "foreign"),
    [
        (
            "fd = attach('tailscale0'); configure('tailscale0', '100.64.0.9'); ask()",
            "held",
            "another tailscaled owns this network namespace (tailscale0, 100.64.0.9)",
        ),
        (
            "fd = attach('tailscale0'); ask()",
            "held",
            "another tailscaled owns this network namespace (tailscale0)",
        ),
        (
            "fd = attach('tailscale1'); configure('tailscale1', '100.64.0.9'); ask()",
            "absent",
            "another tailscaled owns this network namespace (tailscale1, 100.64.0.9)",
        ),
        (
            "fd = attach('tailscale1'); configure('tailscale1', '100.127.255.1', label='tailscale1:x'); ask()",
            "absent",
            "another tailscaled owns this network namespace (tailscale1, 100.127.255.1)",
        ),
        (
            "fd = attach('tun0'); configure('tun0', '100.128.0.1', '100.63.0.1'); ask()",
            "absent",
            None,
        ),
        (
            "fd = attach('tailscale0'); configure('tailscale0', '100.64.0.1'); ask('100.64.0.1')",
            "ours",
            None,
        ),
        (
            "fd = attach('tailscale1'); configure('tailscale1', '100.64.0.1'); ask('100.64.0.1')",
            "absent",
            None,
        ),
        ("fd = attach('tailscale0'); ask(ours=True)", "ours", None),
        ("ask(ours=True)", "absent", None),
        ("fd = attach('tailscale0', flags=0x5002); ask()", "not-tun", None),
        ("fd = attach('tailscale0', flags=0x5101); ask()", "not-tun", None),
        (
            "fd = attach('eth7', flags=0x5002); configure('eth7', '100.64.0.9'); ask()",
            "absent",
            None,
        ),
    ],
    ids=[
        "held with address",
        "held, not logged in",
        "another name",
        "labelled address at the end of the range",
        "addresses beside the range",
        "our own",
        "our own under another name",
        "our own, not logged in",
        "our own, gone",
        "TAP device of that name",
        "multi-queue device of that name",
        "CGNAT address on Ethernet",
    ],
)
def test_who_has_the_interface(program: str, state: str, foreign: str | None) -> None:
    """Holders, left-overs, our own device and look-alikes, as a real kernel shows them."""
    facts = facts_of(program)
    assert (facts.name_state, judge(facts).foreign) == (state, foreign)


@needs_space
def test_name_held_by_another_process() -> None:
    """EBUSY comes across processes, and the holder goes on undisturbed."""
    program = """
attached, done = os.pipe()
resume, end = os.pipe()
if os.fork() == 0:
    os.close(end)
    fd = attach("tun7")
    configure("tun7", "10.9.8.7")
    os.write(done, b"x")
    os.read(resume, 1)
    os._exit(0)
os.close(resume)
os.read(attached, 1)
answer([quick("tun7"), quick("tun7")])
"""
    first, second = msgspec.json.decode(answer_of(program), type=tuple[Facts, Facts])
    assert judge(first).text == "another program holds tun7 (device or resource busy)"
    assert second == first


@needs_space
@pytest.mark.parametrize("up", [True, False])
def test_left_over_persistent_device_is_free_to_use(up: bool) -> None:
    """A device that nobody has open is no foreign tailscaled, even with the dead one's address, and stays."""
    program = f"""
attach("tailscale0", persist=True)
configure("tailscale0", "100.64.0.9", up={up})
before = socket.if_nametoindex("tailscale0")
seen = quick("tailscale0")
assert socket.if_nametoindex("tailscale0") == before
assert quickprobe._addresses_v4(sock.fileno()) == [("tailscale0", "100.64.0.9")]
answer(seen)
"""
    facts = facts_of(program)
    assert facts.name_state == "left-over"
    assert facts.foreign_addresses == ()
    assert judge(facts) == YES


@needs_space
@pytest.mark.parametrize(
    ("hold", "flags", "state"),
    [("fd = attach('tailscale0')", 0x41, "held"), ("attach('tailscale0', persist=True)", 0x01, "left-over")],
)
def test_who_may_not_ask_sees_it_by_the_carrier(hold: str, flags: int, state: str) -> None:
    """Without the right to attach, an interface with a carrier counts as held, one without as left over."""
    program = f"""
sys.path.append({str(CHECKOUT)!r})
from tests.support.eventually import eventually
{hold}
configure("tailscale0", "10.9.8.7")
# The kernel derives IFF_RUNNING from the carrier a little later (linkwatch).
eventually(lambda: quickprobe._ifreq_short(sock.fileno(), quickprobe._SIOCGIFFLAGS, "tailscale0") & 0x41 == {flags})
os.unlink("/dev/net/tun")
ask()
"""
    facts = facts_of(program)
    assert facts.name_state == state
    assert judge(facts).cause == "no-device"


@needs_space
def test_ipv6_address_of_a_tailnet_without_ipv4() -> None:
    """A foreign tailscaled is found by its IPv6 address too."""
    if not os.path.exists("/proc/self/net/if_inet6"):
        pytest.skip("kernel without IPv6")
    facts = facts_of("fd = attach('tailscale1'); configure('tailscale1', 'fd7a:115c:a1e0::9'); ask()")
    assert judge(facts).foreign == "another tailscaled owns this network namespace (tailscale1, fd7a:115c:a1e0::9)"


@needs_space
def test_many_addresses_are_all_looked_at() -> None:
    """The list of addresses has no fixed size."""
    program = """
fd = attach("tun9")
configure("tun9", *(f"10.1.{i // 250}.{i % 250 + 1}" for i in range(300)), "100.64.0.9")
ask()
"""
    assert facts_of(program).foreign_addresses == ("100.64.0.9",)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "no-device"),
        (lambda path: path.touch(), "not-a-device"),
        (lambda path: path.mkdir(), "not-a-device"),
        (lambda path: path.symlink_to("/dev/null"), "not-a-device"),
        (os.mkfifo, "not-a-device"),
    ],
    ids=["missing", "file", "directory", "another device", "fifo"],
)
def test_any_user_gets_an_answer_about_any_path(make: object, cause: str, tmp_path: Path) -> None:
    """The probe neither raises nor hangs, whatever stands where the node should be."""
    path = tmp_path / "tun"
    assert callable(make)
    make(path)
    assert judge(quick("tzt0", device=str(path))).cause == cause


def test_unreadable_places_are_unknown_and_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, and on a kernel without IPv6, the facts say so and the rest goes on."""
    monkeypatch.setattr("tazpod_net.adapters.quickprobe._read", lambda _path: b"")
    monkeypatch.setattr("tazpod_net.adapters.quickprobe._inode", lambda _path: 0)
    facts = quick("tzt0")
    assert (facts.cap_net_admin, facts.cap_net_admin_bounding, facts.in_initial_userns) == (None, None, None)
    assert (facts.netns, facts.boot_id, facts.name_state) == (0, "", "absent")


def test_importing_it_costs_the_supervisor_nothing_heavy() -> None:
    """The quick probe runs before the spawn: no module that the supervisor puts off or never loads."""
    program = (
        "import sys; given = {*sys.modules}; import tazpod_net.adapters.quickprobe; print(*{*sys.modules} - given)"
    )
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout.split()
    heavy = {"asyncio", "dataclasses", "pyroute2", "selectors", "socket", "ssl", "subprocess"}
    assert "tazpod_net.core.tun" in loaded
    assert heavy & set(loaded) == set()
