"""Step 2 of the TUN probe: a short-lived program that really makes a TUN device, through pyroute2, and removes it.

    python -m tazpod_net.adapters.fullprobe <<< '{"interface": "tailscale0"}'

reads one JSON object from stdin and prints one `core.tun.Full` as JSON. Exit code 0: answered; 1: ended by SIGTERM,
tidied up; 2: the request is wrong. It ends itself after 10 s. Owns the scratch objects: device `tzp<pid>`, address
169.254.255.8 and one ip rule. Must not judge (core.tun does), nor touch anything of Tailscale's.

pyroute2's TUN device is persistent: a probe that is killed in between leaves it. So each probe first listens on an
abstract unix socket named after its device, which dies with the process and is seen by everyone in this network
namespace. A scratch object whose socket nobody has is left over, and the next probe sweeps it; a bare pid would not
do, because containers with host networking share interfaces and not pids.
"""

import contextlib
import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tazpod_net.core.tun import Full, Holder, Step, StepName

_LIFETIME_S = 10
_SCRATCH = re.compile(r"tzp[0-9]{1,8}")
# Reserved (RFC 3927, 2.1) and link-local: a running tailscaled does not count it as a change of the network
# (net/netmon/netmon.go, filterRoutableIPs). 15 probes with 192.0.0.8 made it log 11 rebinds, with this address none.
_ADDRESS = "169.254.255.8"
_SCOPE_HOST = 254  # never chosen as the source of other traffic, `man 7 rtnetlink`
_RULE_PRIORITY = 31000  # after Tailscale's 5210-5270, before main (32766)
_TABLE_MAIN = 254
_TAILSCALE_RULES = range(5210, 5271)  # wgengine/router/osrouter/router_linux.go:1594-1628, base 5200
_TAILSCALE_TABLE = 52
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Request(msgspec.Struct, frozen=True):
    """What the parent asks; `interface` is the name that the daemon would get."""

    interface: str


class _Stop:
    """Whether SIGTERM came: looked at between steps, so that no exception lands inside pyroute2's loop."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.came = True


def main() -> int:
    """Reads the request, diagnoses, prints the answer; returns the exit code."""
    signal.alarm(_LIFETIME_S)  # default action: also ends a read that never ends, or a netlink call that hangs
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    except msgspec.DecodeError as e:
        print(f"fullprobe: bad request: {e}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 2
    stop = _Stop()
    full = diagnose(request.interface, lambda: stop.came)
    if stop.came:
        return 1
    os.write(1, msgspec.json.encode(full) + b"\n")
    return 0


def diagnose(interface: str, is_stopped: Callable[[], bool] = lambda: False) -> Full:
    """Sweeps, tries every step, looks for what Tailscale left; everything that it made is gone when it returns."""
    holder = _find_holder(interface)
    try:
        netlink = _open_netlink()
    except (OSError, NetlinkError) as e:
        return Full(steps=(Step("socket", _code(e)),), holder=holder)
    with netlink:
        swept, kept = _sweep(netlink)
        with _claim_name() as name:
            steps, left = _try_steps(netlink, name, is_stopped)
        rules, routes = _find_left_overs(netlink)
    steps = (Step("socket"), *steps)
    return Full(steps=steps, rules=rules, routes=routes, swept=swept, kept=kept + left, holder=holder)


# --- the steps


def _try_steps(netlink: IPRoute, name: str, is_stopped: Callable[[], bool]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Steps up to the first that fails for good, and what could not be removed.

    The rule comes first: where netlink may not write, no device is made that netlink could not remove.
    """
    steps: list[Step] = []
    try:
        for step, action in _actions(netlink, name):
            if is_stopped():
                break
            steps.append(Step(step, _try(action)))
            # A kernel without policy routing still makes devices.
            if steps[-1].errno not in (None, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                break
    finally:
        left = _remove(name)
    return tuple(steps), left


def _actions(netlink: IPRoute, name: str) -> Iterator[tuple[StepName, Callable[[], object]]]:
    """The flags of the device are those of wireguard-go (tun/tun_linux.go:583)."""
    flags = {"no_pi": 1, "vnet_hdr": 1}
    yield "rule", lambda: _set_rule(netlink, "add", name)
    yield "device", lambda: netlink.link("add", ifname=name, kind="tuntap", mode="tun", ifr=flags)
    yield "address", lambda: _add_address(netlink, name)
    yield "up", lambda: netlink.link("set", index=socket.if_nametoindex(name), state="up")


def _add_address(netlink: IPRoute, name: str) -> None:
    index = socket.if_nametoindex(name)
    netlink.addr("add", index=index, address=_ADDRESS, prefixlen=32, scope=_SCOPE_HOST)


def _set_rule(netlink: IPRoute, command: str, name: str) -> None:
    """A rule for packets from the scratch address that came in by the scratch device: there are none."""
    netlink.rule(command, priority=_RULE_PRIORITY, src=_ADDRESS, src_len=32, iifname=name, table=_TABLE_MAIN)


def _remove(name: str) -> tuple[str, ...]:
    """Takes device and rule away, on a socket of its own whatever state the other is in; returns what is left.

    Whether it worked is looked at and not taken from the answers: they differ with rights and kernel.
    """
    try:
        netlink = _open_netlink()
    except (OSError, NetlinkError):
        return (name,) if _exists(name) else ()
    with netlink:
        _try(lambda: _set_rule(netlink, "del", name))
        _try(lambda: netlink.link("del", ifname=name))
        rule = (f"rule {_RULE_PRIORITY} of {name}",) if name in _names_in_rules(netlink) else ()
    return (name, *rule) if _exists(name) else rule


# --- the sweep


@contextlib.contextmanager
def _claim_name() -> Iterator[str]:
    """A scratch name that is ours while the block runs: by pid, or the next if another pid namespace has it."""
    for number in range(os.getpid(), os.getpid() + 16):
        guard = _take_guard(f"tzp{number}")
        if guard is not None:
            with guard:
                yield f"tzp{number}"
            return
    # Abstract sockets are forbidden here (AppArmor): the pid alone must do, and nobody sweeps.
    yield f"tzp{os.getpid()}"


def _take_guard(name: str) -> socket.socket | None:
    """The socket that marks `name` as in use, or None if it is, or if that cannot be known."""
    guard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        guard.bind(f"\0tazpod-net/probe/{name}")
    except OSError:
        guard.close()
        return None
    return guard


def _sweep(netlink: IPRoute) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Removes scratch objects of probes that are gone: (removed, not removable)."""
    names = {name for _, name in socket.if_nameindex()} | _names_in_rules(netlink)
    swept: list[str] = []
    kept: list[str] = []
    for name in sorted(filter(_SCRATCH.fullmatch, names)):
        guard = _take_guard(name)
        if guard is None:
            continue
        with guard:
            left = _remove(name)
        kept += left
        swept += [] if left else [name]
    return tuple(swept), tuple(kept)


# --- what others left


def _find_left_overs(netlink: IPRoute) -> tuple[tuple[int, ...], int]:
    """Priorities of Tailscale's ip rules and the number of routes in its table, IPv4 and IPv6."""
    priorities = [r.get_attr("FRA_PRIORITY") for family in _FAMILIES for r in _dump_rules(netlink, family)]
    rules = tuple(priority for priority in priorities if priority in _TAILSCALE_RULES)
    return rules, sum(_count_routes(netlink, family) for family in _FAMILIES)


def _names_in_rules(netlink: IPRoute) -> set[str]:
    """Names of scratch devices, living or gone, that a scratch rule speaks of."""
    rules = _dump_rules(netlink, socket.AF_INET)
    return {r.get_attr("FRA_IIFNAME") or "" for r in rules if r.get_attr("FRA_PRIORITY") == _RULE_PRIORITY}


def _dump_rules(netlink: IPRoute, family: int) -> list[Any]:
    """Every rule of the family; none where the kernel has no such thing (no IPv6, no policy routing)."""
    try:
        return list(netlink.get_rules(family=family))
    except (OSError, NetlinkError):
        return []


def _count_routes(netlink: IPRoute, family: int) -> int:
    """Routes in table 52, chosen by the kernel: pyroute2's own filter reads every route, 30 us for each."""
    try:
        routes = list(netlink.route("dump", family=family, table=_TAILSCALE_TABLE, dump_filter=None))
    except (OSError, NetlinkError):
        return 0
    return sum(route.get_attr("RTA_TABLE") == _TAILSCALE_TABLE for route in routes)


def _find_holder(interface: str) -> Holder | None:
    """The process of this pid namespace that has `interface` open, by the `iff:` line of /proc/PID/fdinfo."""
    if not _exists(interface):
        return None
    here = os.stat("/proc/self/ns/net").st_ino
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Processes end while one looks, and others' may be closed to us.
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == here and _has_open(pid, interface):
                return Holder(pid=int(pid), name=_read(f"/proc/{pid}/comm").strip())
    return None


def _has_open(pid: str, interface: str) -> bool:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/{pid}/fd/{fd}").endswith("tun"):
                continue
            if f"iff:\t{interface}\n" in _read(f"/proc/{pid}/fdinfo/{fd}"):
                return True
    return False


# --- tools


def _open_netlink() -> IPRoute:
    """A netlink socket on which the kernel filters dumps; an older kernel (before 4.20) has none of that."""
    try:
        return IPRoute(strict_check=True)
    except OSError as e:
        if e.errno != errno.ENOPROTOOPT:
            raise
    return IPRoute()


def _try(action: Callable[[], object]) -> int | None:
    try:
        action()
    except (OSError, NetlinkError) as e:
        return _code(e)
    return None


def _code(e: OSError | NetlinkError) -> int:
    return int((e.errno if isinstance(e, OSError) else e.code) or errno.EIO)


def _exists(name: str) -> bool:
    """Asked by ioctl: it must work where netlink does not."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
