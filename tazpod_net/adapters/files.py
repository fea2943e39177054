"""Small files of the home: the lock, atomic replacement, the marks. Each write is whole or not at all."""

import contextlib
import errno
import fcntl
import os
from typing import Any

import msgspec

from tazpod_net.errors import TazpodNetError

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs"})


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replaces `path` by temp file and rename, so that a reader sees the old or the new. Raises OSError."""
    temp = f"{path}.tmp{os.getpid()}"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        _write_all(fd, data)
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise
    os.close(fd)
    os.rename(temp, path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_json(path: str, value: object, mode: int = 0o600) -> None:
    """An object as one line of JSON, replaced atomically. Raises OSError."""
    write_atomic(path, msgspec.json.encode(value) + b"\n", mode)


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a file, or None: absent, unreadable or cut off are all "no record"."""
    try:
        with open(path, "rb") as f:
            value = msgspec.json.decode(f.read())
    except (OSError, ValueError, msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def remove(path: str) -> None:
    """Removes a file; absent is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_home(home: str, state: str, logs: str) -> None:
    """Makes the directories and `.gitignore` of a new home. Raises TazpodNetError with the way out."""
    fresh = not os.path.isdir(home)
    mask = os.umask(0o022)  # others may read the status; what is secret has its own mode
    try:
        os.makedirs(home, 0o755, exist_ok=True)
        os.makedirs(state, 0o755, exist_ok=True)
        os.makedirs(logs, 0o755, exist_ok=True)
        ignore = os.path.join(home, ".gitignore")
        if fresh or not os.path.exists(ignore):
            write_atomic(ignore, b"*\n", 0o644)
    except OSError as e:
        raise home_error(home, e) from e
    finally:
        os.umask(mask)


def are_ours(directory: str) -> bool:
    """Whether this user made everything in it: where root's daemon ran, neither its key nor its log can be used."""
    return strange_in(directory) is None


def strange_in(directory: str) -> str | None:
    """The path of something in it that another user made; itself, if we may not look into it."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return None
    except OSError:
        return directory
    for name in names:
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_uid != os.geteuid():
                return path
    return None


def home_error(home: str, error: OSError) -> TazpodNetError:
    """The plain line for a home that cannot be used."""
    fixes = {
        errno.ENOSPC: "free some space there, or choose another home with --home",
        errno.EDQUOT: "free some space there, or choose another home with --home",
        errno.EROFS: "mount it writable, or choose another home with --home",
        errno.EACCES: "run it as the owner of that directory, or choose another home with --home",
        errno.EPERM: "run it as the owner of that directory, or choose another home with --home",
        errno.ENOTDIR: "a file is in the way: choose another home with --home",
        errno.EEXIST: "a file is in the way: choose another home with --home",
    }
    what = (error.strerror or str(error)).lower()
    fix = fixes.get(error.errno or 0, "choose another home with --home")
    return TazpodNetError(f"cannot write the home {home} ({what})", fix)


def mount_of(path: str) -> tuple[str, str]:
    """(mount point, filesystem type) that `path` lies on, from /proc/self/mountinfo (`man 5 proc`)."""
    best, kind = "", ""
    real = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            mount = _unescape(left.split()[4])
            inside = real == mount or real.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, right.split()[0]
    return best, kind


def _unescape(mount: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mount = mount.replace(octal, character)
    return mount


def refuse_network_filesystem(home: str) -> None:
    """A home on NFS is refused: flock(2) is not local there, and two daemons could share one identity."""
    if mount_of(home)[1] in _NETWORK:
        raise TazpodNetError(
            f"the home {home} is on a network filesystem, where a lock does not hold",
            "choose a local directory with --home or TAZPOD_NET_HOME",
        )


class Lock:
    """The supervisor's lock: whoever holds it is the only one to change this home."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def take(self) -> bool:
        """Takes the lock without waiting; False if somebody has it. Raises OSError if the file cannot be made."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self.fd = fd
        return True

    def sign(self, pid: int, ticks: int) -> None:
        """Writes who holds it, for messages; a full disk must not keep a supervisor from running."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{pid} {ticks}\n".encode(), 0)

    def release(self) -> None:
        """Closes it; the kernel releases the lock with the last descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_holder(path: str) -> tuple[int, int] | None:
    """(pid, start ticks) that the holder wrote, or None. Says nothing about whether it still holds the lock."""
    try:
        with open(path, "rb") as f:
            pid, ticks = f.read(64).split()
    except (OSError, ValueError):
        return None
    return int(pid), int(ticks)
