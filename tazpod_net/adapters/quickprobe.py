"""Step 1 of the TUN probe: facts for `core.tun.judge` within 3 ms, before the daemon is spawned.

Must not change anything, create an interface, start a process, or read /sys/class/net (it shows the network
namespace that mounted it). Imports stay small: this runs before the supervisor's heavy imports.

The throw-away TUNSETIFF asks for a device of *no* type. The kernel checks in the order name, CAP_NET_ADMIN over the
network namespace, security modules, type (drivers/net/tun.c, tun_set_iff), so the refused type (EINVAL) means that
everything else was granted. Creating a real one costs 0.4 ms, but closing it 15 ms (measured on 6.18: the kernel
waits for RCU), and every network manager of a shared namespace sees it come and go. The full probe does create one.
"""

import _socket
import array
import errno
import fcntl
import os
import struct
from collections.abc import Collection

from tazpod_net.core.tun import DEVICE, Address, Facts, NameState, Node

# `man 7 netdevice`, linux/if_tun.h, linux/if_arp.h, linux/capability.h
_SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8912, 0x8913, 0x8927
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_ARPHRD_NONE = 0xFFFE
_CAP_DAC_OVERRIDE, _CAP_NET_ADMIN = 1, 12
_ST_NODEV = 4  # `man 3 statvfs`
_INITIAL_USERNS_INODE = 0xEFFFFFFD  # PROC_USER_INIT_INO, linux/proc_ns.h

# The direction bits of _IOW and _IOR are laid out differently there (asm/ioctl.h).
_OLD_LAYOUT = os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha", "parisc"))
_TUNSETIFF = 0x800454CA if _OLD_LAYOUT else 0x400454CA
_TUNGETFEATURES = 0x400454CF if _OLD_LAYOUT else 0x800454CF
_TUN_NUMBER = (10, 200)  # misc major, TUN_MINOR

_IFREQ = struct.Struct("16sH22x")  # name and one short, 40 bytes: enough on 32-bit machines too, where it is 32
_IFREQ_SIZE = 40 if struct.calcsize("P") == 8 else 32  # noqa: PLR2004 - struct ifreq holds pointers and longs
_IFCONF = struct.Struct("iP")

# A `%d` in a name is replaced by a free number, so no interface can have this name.
_FREE_NAME = "tzq%d"
_TAILNET_V6 = "fd7a115ca1e0"  # net/tsaddr/tsaddr.go: fd7a:115c:a1e0::/48


def quick(
    interface: str, own_addresses: Collection[str] = (), *, interface_is_ours: bool = False, device: str = DEVICE
) -> Facts:
    """Looks at the device, the caller's rights and this network namespace; raises nothing, changes nothing.

    Args:
        interface: the TUN name that the daemon would get, at most 15 bytes.
        own_addresses: addresses of this home's own daemon, as `status` prints them; their interface is not foreign.
        interface_is_ours: the caller knows that its own living daemon holds `interface` (it may not be logged in).
        device: path of the device node; only tests have another.

    Where `interface` exists and the caller may make TUN devices, TUNSETIFF is tried on it with the daemon's own
    flags, because only that tells a held device (EBUSY, nothing happens) from a left-over persistent one (attached
    for 15 ms, stays as it is): the answer is the one that tailscaled will get.
    """
    node, stat_errno = _stat(device)
    open_errno, tunsetiff_errno = _try_device(device) if node is not None and node.kind == "char" else (None, None)
    usable = node is not None and node.kind == "char" and open_errno is None and tunsetiff_errno is None
    effective, bounding = _capabilities()
    name_state, addresses = _look_at_network(interface, device if usable else None)
    is_ours = interface_is_ours or any(a.interface == interface and a.address in own_addresses for a in addresses)
    return Facts(
        device_path=device,
        interface=interface,
        uid=os.geteuid(),
        node=node,
        stat_errno=stat_errno,
        open_errno=open_errno,
        tunsetiff_errno=tunsetiff_errno,
        cap_net_admin=_bit(effective, _CAP_NET_ADMIN),
        cap_net_admin_bounding=_bit(bounding, _CAP_NET_ADMIN),
        cap_dac_override=_bit(effective, _CAP_DAC_OVERRIDE),
        in_initial_userns=_is_initial(userns := _inode("/proc/self/ns/user")),
        name_state="ours" if is_ours and name_state != "absent" else name_state,
        addresses=addresses,
        own_addresses=tuple(own_addresses),
        netns=_inode("/proc/self/ns/net"),
        userns=userns,
        boot_id=_read("/proc/sys/kernel/random/boot_id").decode("ascii").strip(),
    )


# --- the device


def _stat(device: str) -> tuple[Node | None, int | None]:
    try:
        seen = os.stat(device)
        nodev = bool(os.statvfs(device).f_flag & _ST_NODEV)
    except OSError as e:
        return None, e.errno
    kinds = {0o020000: "char", 0o040000: "directory"}
    node = Node(
        kind=kinds.get(seen.st_mode & 0o170000, "other"),  # type: ignore[arg-type]  # the literals stand above
        major=os.major(seen.st_rdev),
        minor=os.minor(seen.st_rdev),
        mode=seen.st_mode & 0o7777,
        uid=seen.st_uid,
        gid=seen.st_gid,
        device=seen.st_dev,
        inode=seen.st_ino,
        nodev=nodev,
    )
    return node, None


def _try_device(device: str) -> tuple[int | None, int | None]:
    """Errnos of `open` and of a throw-away TUNSETIFF; None where it worked or was not reached."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as e:
        return e.errno, None
    try:
        return None, _try_create(fd)
    finally:
        os.close(fd)


def _try_create(fd: int) -> int | None:
    if not _is_tun(fd):
        return errno.ENOTTY
    code = _ioctl_errno(fd, _TUNSETIFF, _IFREQ.pack(_FREE_NAME.encode(), _IFF_NO_PI))
    return None if code == errno.EINVAL else code


def _is_tun(fd: int) -> bool:
    """Whether EINVAL of this device can be believed; a kernel without TUNGETFEATURES is known by its number."""
    try:
        (features,) = struct.unpack("I", fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)))
    except OSError:
        seen = os.fstat(fd)
        return (os.major(seen.st_rdev), os.minor(seen.st_rdev)) == _TUN_NUMBER
    return bool(features & _IFF_TUN)


def _ioctl_errno(fd: int, request: int, argument: bytes) -> int | None:
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as e:
        return e.errno
    return None


# --- the caller


def _capabilities() -> tuple[int | None, int | None]:
    """Effective and bounding set as bit masks, None where /proc cannot be read."""
    fields = dict(line.split(b":", 1) for line in _read("/proc/self/status").splitlines() if b":" in line)
    effective, bounding = fields.get(b"CapEff"), fields.get(b"CapBnd")
    return int(effective, 16) if effective else None, int(bounding, 16) if bounding else None


def _bit(mask: int | None, bit: int) -> bool | None:
    return None if mask is None else bool(mask >> bit & 1)


def _is_initial(userns: int) -> bool | None:
    return userns == _INITIAL_USERNS_INODE if userns else None


def _inode(path: str) -> int:
    """Inode number, 0 where it cannot be read."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _read(path: str) -> bytes:
    """Content of a small /proc file, empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)


# --- the network namespace


def _look_at_network(interface: str, device: str | None) -> tuple[NameState, tuple[Address, ...]]:
    """State of the wanted name and the tailnet addresses; `device` is None where TUNSETIFF would tell nothing."""
    try:
        sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return "absent", ()
    try:
        fd = sock.fileno()
        found = [*_addresses_v4(fd), *_addresses_v6()]
        addresses = tuple(_describe(fd, name, address) for name, address in found)
        return _name_state(fd, interface, device), addresses
    finally:
        sock.close()


def _name_state(fd: int, interface: str, device: str | None) -> NameState:
    flags = _ifreq_short(fd, _SIOCGIFFLAGS, interface)
    if flags is None:
        return "absent"
    if _ifreq_short(fd, _SIOCGIFHWADDR, interface) != _ARPHRD_NONE:
        return "not-tun"
    match _attach_errno(interface, device) if device is not None else errno.EPERM:
        case None:
            return "left-over"
        case errno.EINVAL:
            return "not-tun"
        case errno.EBUSY:
            return "held"
        case _:  # Not allowed to ask: a TUN device has a carrier while a process has it open.
            return "held" if flags & _IFF_RUNNING else "left-over"


def _attach_errno(interface: str, device: str) -> int | None:
    """The answer that tailscaled would get for the existing `interface` (wireguard-go, tun/tun_linux.go:583)."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        return e.errno
    try:
        return _ioctl_errno(fd, _TUNSETIFF, _IFREQ.pack(interface.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    finally:
        os.close(fd)


def _describe(fd: int, name: str, address: str) -> Address:
    flags = _ifreq_short(fd, _SIOCGIFFLAGS, name) or 0
    return Address(
        interface=name,
        address=address,
        tunnel=_ifreq_short(fd, _SIOCGIFHWADDR, name) == _ARPHRD_NONE,
        idle=flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP,
    )


def _ifreq_short(fd: int, request: int, name: str) -> int | None:
    """The short that an interface ioctl answers with (flags or hardware type), None if there is no such name."""
    try:
        answer = fcntl.ioctl(fd, request, _IFREQ.pack(name.encode(), 0))
    except OSError:
        return None
    return int(_IFREQ.unpack(answer)[1])


def _addresses_v4(fd: int) -> list[tuple[str, str]]:
    """Interface and address of every local address in 100.64.0.0/10.

    SIOCGIFCONF and not /proc/self/net/fib_trie: that one grows with the routes (3,000: 5-13 ms against 0.05) and
    has no interface names.
    """
    data = _ifconf(fd)
    found = []
    for at in range(0, len(data) - _IFREQ_SIZE + 1, _IFREQ_SIZE):
        packed = data[at + 20 : at + 24]  # ifr_name, then sin_family, sin_port, sin_addr
        if packed[0] == 100 and packed[1] & 0xC0 == 64:  # noqa: PLR2004 - 100.64.0.0/10
            # An address label may follow the name: `eth0:1`.
            found.append((data[at : at + 16].split(b"\0")[0].split(b":")[0].decode(), _socket.inet_ntoa(packed)))
    return found


def _ifconf(fd: int) -> bytes:
    """The kernel's list of struct ifreq; asked for its size first, with room for addresses that come in between."""
    try:
        size, _ = _IFCONF.unpack(fcntl.ioctl(fd, _SIOCGIFCONF, _IFCONF.pack(0, 0)))
        buffer = array.array("B", bytes(size + 16 * _IFREQ_SIZE))
        address, length = buffer.buffer_info()
        used, _ = _IFCONF.unpack(fcntl.ioctl(fd, _SIOCGIFCONF, _IFCONF.pack(length, address)))
    except OSError:
        return b""
    return buffer.tobytes()[:used]


def _addresses_v6() -> list[tuple[str, str]]:
    """Interface and address of every local address in Tailscale's IPv6 range; none on a kernel without IPv6."""
    lines = (line.split() for line in _read("/proc/self/net/if_inet6").decode("ascii", "replace").splitlines())
    return [
        (fields[5], _socket.inet_ntop(_socket.AF_INET6, bytes.fromhex(fields[0])))
        for fields in lines
        if fields and fields[0].startswith(_TAILNET_V6)
    ]
