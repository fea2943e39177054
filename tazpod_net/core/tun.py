"""Whether a TUN daemon can be had here: facts of the two probes -> verdict, sentences, fixes, choice of mode.

Owns the table of causes and every sentence about TUN that a person reads. Must not look at the machine: what is
known comes in as `Facts` (adapters/quickprobe.py) and `Full` (adapters/fullprobe.py).
"""

import errno
import os
from collections.abc import Iterable
from typing import Literal

import msgspec

DEVICE = "/dev/net/tun"  # fixed in wireguard-go, tun/tun_linux.go:26

_OVERFLOW_ID = 65534  # what stat shows for an owner that this user namespace does not map, `man 7 user_namespaces`
_DEVICE_FLAG = "--device /dev/net/tun"
_NET_ADMIN_FLAG = "--cap-add NET_ADMIN"
_AS_ROOT = "run it as root (sudo)"
_USERSPACE_FIX = 'set daemon.mode = "userspace"'

StepName = Literal["socket", "device", "address", "up", "rule"]
Mode = Literal["tun", "userspace"]
# Of the wanted interface name: `held` and `left-over` are TUN devices that a process has open, or none has.
NameState = Literal["absent", "left-over", "held", "not-tun", "ours"]


class Node(msgspec.Struct, frozen=True):
    """What `stat` says about the device node; `mode` is the permission bits, `nodev` the option of its mount."""

    kind: Literal["char", "directory", "other"]
    major: int = 0
    minor: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    device: int = 0
    inode: int = 0
    nodev: bool = False


class Address(msgspec.Struct, frozen=True):
    """A local address in Tailscale's ranges.

    `tunnel`: the interface has no link layer, as TUN devices (and WireGuard's) have none; `idle`: it is up and
    without carrier, which for a TUN device means that no process has it open.
    """

    interface: str
    address: str
    tunnel: bool = True
    idle: bool = False


class Step(msgspec.Struct, frozen=True):
    """One thing that the full probe tried; `errno` is None if it worked."""

    name: StepName
    errno: int | None = None


class Holder(msgspec.Struct, frozen=True):
    """The process that has the wanted interface open."""

    pid: int
    name: str


class Full(msgspec.Struct, frozen=True):
    """Answer of the full probe; the wire format between the child and its parent too.

    `rules`: priorities of Tailscale's ip rules found (5210 to 5270, IPv4 then IPv6); `routes`: how many are in its
    table 52; `swept`: what killed probes had left, removed now; `kept`: what could not be removed.
    """

    steps: tuple[Step, ...] = ()
    rules: tuple[int, ...] = ()
    routes: int = 0
    swept: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    holder: Holder | None = None

    def worked(self, name: StepName) -> bool | None:
        """True or False as the step went, None if it was not tried."""
        return next((step.errno is None for step in self.steps if step.name == name), None)


class Facts(msgspec.Struct, frozen=True):
    """What the probes saw. An errno of None means that the call worked, or that an earlier one already failed."""

    device_path: str = DEVICE
    interface: str = "tailscale0"
    uid: int = 0
    node: Node | None = None
    stat_errno: int | None = None
    open_errno: int | None = None
    tunsetiff_errno: int | None = None
    cap_net_admin: bool | None = None
    cap_net_admin_bounding: bool | None = None  # False: nobody in this container can have it, root included
    cap_dac_override: bool | None = None
    in_initial_userns: bool | None = None
    name_state: NameState = "absent"
    addresses: tuple[Address, ...] = ()
    own_addresses: tuple[str, ...] = ()
    netns: int = 0  # inode numbers, 0 where /proc could not be read
    userns: int = 0
    boot_id: str = ""
    full: Full | None = None

    @property
    def interface_present(self) -> bool:
        """The wanted interface name exists in this network namespace."""
        return self.name_state != "absent"

    @property
    def foreign_addresses(self) -> tuple[str, ...]:
        """Tailnet addresses of interfaces that are somebody else's."""
        return tuple(address.address for address in _foreign(self))


class Verdict(msgspec.Struct, frozen=True):
    """`cause` is a code for programs, `text` the sentence that `mode_reason` quotes, `fix` what to do about it."""

    possible: bool
    cause: str
    text: str
    fix: str = ""
    foreign: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """`mode` is None exactly if `refused` has the problem and the fix of a `TazpodNetError`."""

    mode: Mode | None
    reason: str
    fix: str = ""
    refused: tuple[str, str] | None = None


class Finding(msgspec.Struct, frozen=True):
    """One line of `tazpod-net probe`; `ok` is None for what is neither good nor bad, or was not looked at."""

    name: str
    ok: bool | None
    text: str
    fix: str = ""


class _Trouble(msgspec.Struct, frozen=True):
    cause: str
    text: str
    fix: str


def judge(facts: Facts) -> Verdict:
    """The first trouble on the way a TUN daemon goes, or `ok`; a foreign tailscaled is named beside any of them."""
    foreign = foreign_sentence(facts)
    trouble = _device_trouble(facts) or _name_trouble(facts)
    if trouble is None and foreign is not None:
        trouble = _Trouble("foreign", foreign, "use that one, or '--mode userspace'")
    trouble = trouble or _full_trouble(facts)
    if trouble is None:
        return Verdict(possible=True, cause="ok", text="TUN works here")
    return Verdict(possible=False, cause=trouble.cause, text=trouble.text, fix=trouble.fix, foreign=foreign)


def choose_mode(configured: Literal["auto", "tun", "userspace"], verdict: Verdict) -> Choice:
    """The mode to start in: `auto` goes to userspace for any trouble but a foreign tailscaled, which refuses."""
    if configured == "userspace":
        return Choice(mode="userspace", reason='daemon.mode is "userspace"')
    if verdict.foreign is not None:
        fix = "programs here use it already; '--mode userspace' adds a second node"
        return Choice(mode=None, reason=verdict.foreign, fix=fix, refused=(verdict.foreign, fix))
    if verdict.possible:
        return Choice(mode="tun", reason=verdict.text)
    if configured == "auto":
        return Choice(mode="userspace", reason=verdict.text, fix=verdict.fix)
    problem = f'{verdict.text}, daemon.mode is "tun"'
    return Choice(mode=None, reason=verdict.text, fix=verdict.fix, refused=(problem, verdict.fix))


def without_root(verdict: Verdict, why: str, fix: str) -> Verdict:
    """The verdict for a user whom root would have helped, and who could not become root: `why`, and what helps."""
    if verdict.possible or not verdict.fix.startswith(_AS_ROOT):
        return verdict
    return msgspec.structs.replace(verdict, text=f"{verdict.text}, and {why}", fix=fix)


def with_full(facts: Facts, full: Full) -> Facts:
    """The facts with the full probe's answer added."""
    return msgspec.structs.replace(facts, full=full)


def fingerprint(facts: Facts) -> str:
    """What a full verdict depends on, readable: while it stays the same, a remembered `Full` holds.

    Errnos of the quick probe are part of it because the device cgroup and security modules have no identity of
    their own; the boot id because inode numbers of namespaces begin again with each boot.
    """
    node = facts.node
    parts = {
        "node": None if node is None else (node.kind, node.device, node.inode, node.major, node.minor),
        "rights": None if node is None else (oct(node.mode), node.uid, node.gid, node.nodev),
        "errnos": (facts.stat_errno, facts.open_errno, facts.tunsetiff_errno),
        "caps": (facts.cap_net_admin, facts.cap_net_admin_bounding, facts.cap_dac_override),
        "uid": facts.uid,
        "netns": facts.netns,
        "userns": facts.userns,
        "boot": facts.boot_id,
    }
    return " ".join(f"{name}={value}".replace(" ", "") for name, value in parts.items())


def foreign_sentence(facts: Facts) -> str | None:
    """Names another tailscaled of this network namespace by interface and address, or is None.

    A held interface without a tailnet address counts if its name is Tailscale's or its holder is known to be a
    tailscaled: one that is not logged in yet has no address.
    """
    found = _foreign(facts)
    if found:
        # The wanted interface first, then IPv4 before IPv6: the pair a person knows.
        first = min(found, key=lambda a: (a.interface != facts.interface, ":" in a.address))
        return f"another tailscaled owns this network namespace ({first.interface}, {first.address})"
    if facts.name_state == "held" and _looks_like_tailscaled(facts):
        return f"another tailscaled owns this network namespace ({facts.interface})"
    return None


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Every fact in the order in which a TUN daemon meets them, each with the flag that would fix it."""
    return (
        *_device_findings(facts),
        _capability_finding(facts),
        _namespace_finding(facts),
        _name_finding(facts),
        *_address_findings(facts),
        *(_full_findings(facts, facts.full) if facts.full is not None else ()),
    )


# --- causes


def _device_trouble(facts: Facts) -> _Trouble | None:
    return _node_trouble(facts) or _open_trouble(facts) or _create_trouble(facts, facts.tunsetiff_errno)


def _node_trouble(facts: Facts) -> _Trouble | None:
    path, node = facts.device_path, facts.node
    if node is None and facts.stat_errno == errno.EACCES:
        return _Trouble("device-mode", f"{path} may not be reached by uid {facts.uid}", _become_root(facts))
    if node is None:
        return _Trouble("no-device", f"{path} is missing", _start_with(facts, _DEVICE_FLAG))
    if node.kind == "directory":
        # `-v /dev/net/tun:/dev/net/tun` makes one where the host has no such node.
        fix = f"load the host's tun module (modprobe tun), then {_start_with(facts, _DEVICE_FLAG)} instead of -v"
        return _Trouble("not-a-device", f"{path} is a directory, not a TUN device", fix)
    if node.kind == "other" or facts.tunsetiff_errno == errno.ENOTTY:
        fix = f"remove it and {_start_with(facts, _DEVICE_FLAG)}"
        return _Trouble("not-a-device", f"{path} is not a TUN device", fix)
    return None


def _open_trouble(facts: Facts) -> _Trouble | None:
    path = facts.device_path
    match facts.open_errno:
        case None:
            return None
        case errno.ENOENT:
            return _Trouble("no-device", f"{path} is missing", _start_with(facts, _DEVICE_FLAG))
        case errno.ENODEV | errno.ENXIO:
            return _Trouble("no-driver", f"{path} has no driver behind it", "load it on the host: modprobe tun")
        case errno.EPERM:
            fix = _start_with(facts, _DEVICE_FLAG)
            return _Trouble("device-cgroup", f"{path} may not be opened (device cgroup)", fix)
        case errno.EACCES:
            return _access_trouble(facts)
        case code:
            return _Trouble("refused", f"{path} cannot be opened ({_message(code)})", _USERSPACE_FIX)


def _access_trouble(facts: Facts) -> _Trouble:
    """EACCES at open: mode and owner, unless the caller stands above them; then the mount or a security module."""
    path, node = facts.device_path, facts.node
    if node is not None and node.nodev:
        fix = f"{_start_with(facts, _DEVICE_FLAG)} instead of a bind mount"
        return _Trouble("device-nodev", f"{path} may not be opened (its mount has the option nodev)", fix)
    if node is None or not facts.cap_dac_override or _OVERFLOW_ID in (node.uid, node.gid):
        seen = "" if node is None else f" (mode {node.mode:04o}, owner {node.uid})"
        return _Trouble("device-mode", f"{path} may not be opened by uid {facts.uid}{seen}", _become_root(facts))
    if facts.in_initial_userns is False:
        # A filesystem mounted inside a user namespace carries SB_I_NODEV, which no mount option shows.
        fix = "bind-mount the host's node instead of making one in the container"
        return _Trouble("device-nodev", f"{path} may not be opened (made inside a user namespace)", fix)
    return _security_trouble(f"{path} may not be opened")


def _create_trouble(facts: Facts, code: int | None) -> _Trouble | None:
    """EPERM has two meanings, told apart by the caller's own capability: it counts in its user namespace only."""
    match code:
        case None if facts.cap_net_admin is False:
            return _no_net_admin(facts)
        case None:
            return None
        case errno.EPERM if not facts.cap_net_admin:
            return _no_net_admin(facts)
        case errno.EPERM if not facts.in_initial_userns:
            fix = "give the container a network of its own, or no user namespace (--userns=host)"
            text = "a TUN device may not be made (the network namespace belongs to another user namespace)"
            return _Trouble("user-namespace", text, fix)
        case errno.EPERM | errno.EACCES:
            return _security_trouble("a TUN device may not be made")
        case _:
            return _Trouble("refused", f"the kernel makes no TUN device ({_message(code)})", _USERSPACE_FIX)


def _no_net_admin(facts: Facts) -> _Trouble:
    fix = _start_with(facts) if facts.cap_net_admin_bounding is False or facts.uid == 0 else _AS_ROOT
    return _Trouble("no-net-admin", "a TUN device may not be made (no CAP_NET_ADMIN)", fix)


def _security_trouble(what: str) -> _Trouble:
    fix = "start the container with --security-opt label=disable (SELinux) or apparmor=unconfined (AppArmor)"
    return _Trouble("security", f"{what} (a security module or seccomp forbids it)", fix)


def _name_trouble(facts: Facts) -> _Trouble | None:
    name = facts.interface
    if facts.name_state == "not-tun":
        text = f"the name {name} is taken by another kind of device"
        return _Trouble("busy", text, "set daemon.interface to a free name")
    if facts.name_state == "held":
        fix = f"stop it, set daemon.interface to a free name, or {_USERSPACE_FIX}"
        return _Trouble("busy", f"{_holder(facts)} holds {name} (device or resource busy)", fix)
    return None


def _full_trouble(facts: Facts) -> _Trouble | None:
    """What only the full probe can see; an answer that proves nothing is no trouble."""
    for step in facts.full.steps if facts.full is not None else ():
        if step.errno is None or _is_inconclusive(step):
            continue
        if step.name == "device":
            return _create_trouble(facts, step.errno)
        text = f"a TUN device can be made, but not configured (netlink {step.name}: {_message(step.errno)})"
        return _Trouble("no-netlink", text, "allow AF_NETLINK sockets (seccomp profile, RestrictAddressFamilies=)")
    return None


def _is_inconclusive(step: Step) -> bool:
    """Whether the failure says something about the probe and not about TUN."""
    return step.errno in _PROVES_NOTHING[step.name]


_PROVES_NOTHING: dict[StepName, tuple[int, ...]] = {
    "socket": (),
    # The name was taken, or pyroute2 does not know this machine's ioctl numbers.
    "device": (errno.EBUSY, errno.EEXIST, errno.EOPNOTSUPP),
    # Somebody removed the scratch device meanwhile.
    "address": (errno.ENODEV,),
    "up": (errno.ENODEV,),
    # A kernel without CONFIG_IP_MULTIPLE_TABLES: tailscaled then runs without policy routing.
    "rule": (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EEXIST),
}


# --- fixes


def _start_with(facts: Facts, flag: str = "") -> str:
    """The flags to start the container with; NET_ADMIN joins if it would be the next thing missing."""
    wants_capability = not flag or facts.cap_net_admin_bounding is False
    flags = [flag] * bool(flag) + [_NET_ADMIN_FLAG] * wants_capability
    return f"start the container with {' '.join(flags)}"


def _become_root(facts: Facts) -> str:
    host = f"give the host's node mode 0666 (chmod 0666 {facts.device_path} on the host)"
    return host if facts.uid == 0 else f"{_AS_ROOT}, or {host}"


def _message(code: int) -> str:
    return os.strerror(code).lower()


# --- whose interface


def _foreign(facts: Facts) -> tuple[Address, ...]:
    """Tailnet addresses on tunnels that are neither ours nor without a process behind them.

    An address in 100.64/10 on Ethernet is an ordinary CGNAT address (pod networks, providers), not a tailnet.
    """
    ours = _own_interfaces(facts)
    idle = {facts.interface} if facts.name_state == "left-over" else set[str]()
    return tuple(a for a in facts.addresses if a.tunnel and not a.idle and a.interface not in ours | idle)


def _own_interfaces(facts: Facts) -> set[str]:
    """By interface, so that knowing one of its two addresses is enough."""
    known = {a.interface for a in facts.addresses if a.address in facts.own_addresses}
    return known | {facts.interface} if facts.name_state == "ours" else known


def _looks_like_tailscaled(facts: Facts) -> bool:
    holder = facts.full.holder if facts.full is not None else None
    return facts.interface.startswith("tailscale") if holder is None else "tailscale" in holder.name


def _holder(facts: Facts) -> str:
    holder = facts.full.holder if facts.full is not None else None
    return "another program" if holder is None else f"{holder.name} (pid {holder.pid})"


# --- findings


def _device_findings(facts: Facts) -> Iterable[Finding]:
    """Node, open and TUNSETIFF, up to the first that fails."""
    trouble = _node_trouble(facts)
    if trouble is not None or facts.node is None:
        yield _bad("device", trouble)
        return
    node = facts.node
    seen = f"{facts.device_path}: {node.major}:{node.minor}, mode {node.mode:04o}, owner {node.uid}"
    yield Finding("device", ok=True, text=seen)
    trouble = _open_trouble(facts)
    if trouble is not None:
        yield _bad("open", trouble)
        return
    yield Finding("open", ok=True, text=f"{facts.device_path} can be opened")
    trouble = _create_trouble(facts, facts.tunsetiff_errno)
    yield _bad("create", trouble) if trouble else Finding("create", ok=True, text="a TUN device may be made")


def _bad(name: str, trouble: _Trouble | None) -> Finding:
    return Finding(name, ok=False, text=trouble.text if trouble else "", fix=trouble.fix if trouble else "")


def _capability_finding(facts: Facts) -> Finding:
    if facts.cap_net_admin is None:
        return Finding("capability", ok=None, text="CAP_NET_ADMIN: not known")
    if facts.cap_net_admin:
        return Finding("capability", ok=True, text="CAP_NET_ADMIN is there")
    return Finding("capability", ok=False, text="CAP_NET_ADMIN is missing", fix=_no_net_admin(facts).fix)


def _namespace_finding(facts: Facts) -> Finding:
    where = {True: "the initial one", False: "a container's own", None: "not known"}[facts.in_initial_userns]
    return Finding("user namespace", ok=None, text=f"user namespace: {where}")


def _name_finding(facts: Facts) -> Finding:
    trouble = _name_trouble(facts)
    if trouble is not None:
        return _bad("interface", trouble)
    name = facts.interface
    texts = {
        "left-over": f"{name} is left over, nobody has it open: it is used again",
        "ours": f"{name} is this home's own",
    }
    return Finding("interface", ok=True, text=texts.get(facts.name_state, f"the name {name} is free"))


def _address_findings(facts: Facts) -> Iterable[Finding]:
    foreign = foreign_sentence(facts)
    if foreign is not None:
        yield Finding("foreign", ok=False, text=foreign, fix="use that one, or '--mode userspace'")
    for a in facts.addresses:
        if not a.tunnel:
            # tailscale drops 100.64/10 that arrives elsewhere: util/linuxfw/iptables_runner.go:700
            text = f"{a.interface} has {a.address}: by TUN, tailscaled drops what comes in there from 100.64.0.0/10"
            yield Finding("range", ok=None, text=text)


def _full_findings(facts: Facts, full: Full) -> Iterable[Finding]:
    for step in full.steps:
        if step.errno is None:
            yield Finding(f"try {step.name}", ok=True, text=_STEP_TEXTS[step.name])
        else:
            ok = None if _is_inconclusive(step) else False
            yield Finding(f"try {step.name}", ok=ok, text=f"{_STEP_TEXTS[step.name]}: {_message(step.errno)}")
    if full.swept:
        yield Finding("swept", ok=None, text=f"removed what a killed probe left: {', '.join(full.swept)}")
    if full.kept:
        yield Finding("kept", ok=False, text=f"not removed: {', '.join(full.kept)}", fix="ip link del, ip rule del")
    if (full.rules or full.routes) and foreign_sentence(facts) is None and facts.name_state != "ours":
        found = f"{len(full.rules)} ip rules (5210-5270) and {full.routes} routes in table 52"
        yield Finding("left-overs", ok=None, text=f"{found} of an earlier tailscaled: harmless without its interface")


_STEP_TEXTS: dict[StepName, str] = {
    "socket": "netlink socket",
    "device": "scratch TUN device",
    "address": "address on it",
    "up": "brought up",
    "rule": "ip rule",
}
