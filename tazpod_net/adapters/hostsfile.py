"""/etc/hosts: read, changed by a function of its bytes, written without losing any of others'.

Atomically by rename, with mode, owner and extended attributes kept; in place where it is a mount point (containers) or
has a second name. A write in place is noted in a journal before, old and new bytes both: after a crash half way the
file is a piece of the new and the rest of the old, is recognised as that, and finished. Whatever has become of the
file meanwhile (engines write it anew at a restart) is no such mixture, and is left alone.

Writers of our own kind exclude each other by flock on the file itself, which holds across containers that share it.
Others do not take locks: what they wrote between our reading and our writing is seen, and read again.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator

from tazpod_net.adapters import files
from tazpod_net.errors import TazpodNetError

HOSTS = "/etc/hosts"
LARGEST = 16 << 20  # bytes
_ATTEMPTS = 5  # when others write at the same time
_IN_PLACE = frozenset({errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV, errno.ENOTSUP})
_HEAD = b"tazpod-net hosts journal 1"


class BusyError(TazpodNetError):
    """Somebody else is writing it: try again."""


class _Seen:
    """The file as it was read: its bytes, and what tells that it has not been written since."""

    def __init__(self, fd: int) -> None:
        self.info = os.fstat(fd)
        if not stat.S_ISREG(self.info.st_mode):
            raise TazpodNetError(f"{HOSTS} is not a file", "dns.hosts = false leaves it alone")
        if self.info.st_size > LARGEST:
            raise TazpodNetError(f"{HOSTS} is larger than {LARGEST >> 20} MiB", "dns.hosts = false leaves it alone")
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        self.data = b"".join(parts)
        if b"\0" in self.data:
            raise TazpodNetError(f"{HOSTS} is not a text file", "dns.hosts = false leaves it alone")
        self.mark = _mark(self.info)


def _mark(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class HostsFile:
    """One hosts file. `journal`: a path in a directory of this process's user, None for none."""

    def __init__(self, journal: str | None, path: str = HOSTS) -> None:
        self.journal = journal
        self.path = path

    def mark(self) -> object:
        """Changes when the file does; None if there is none."""
        try:
            return _mark(os.stat(self.path))
        except OSError:
            return None

    def read(self) -> bytes:
        """Its bytes; none if there is no file. Raises OSError, or TazpodNetError for what is no hosts file."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return b""
        try:
            return _Seen(fd).data
        finally:
            os.close(fd)

    def change(self, edit: Callable[[bytes], bytes]) -> bool:
        """Writes `edit(bytes)` if that is something else; True if it was.

        Raises OSError, BusyError, or TazpodNetError for what is no hosts file.
        """
        for _ in range(_ATTEMPTS):
            with self._locked() as (path, fd):
                if fd is None:
                    new = edit(b"")
                    if new:
                        self._create(path, new)
                    return bool(new)
                seen = _Seen(fd)
                new = edit(seen.data)
                if new == seen.data:
                    return False
                if _mark(os.stat(path)) != seen.mark:
                    continue  # an editor or an engine was quicker
                self._write(path, seen, new)
                return True
        raise BusyError(f"{HOSTS} changes all the time", "another program writes it")

    def repair(self) -> bool:
        """Finishes a write that a crash has cut; True if there was one."""
        found = self._read_journal()
        if found is None:
            return False
        old, new = found

        def finish(data: bytes) -> bytes:
            same = _common(data, new)
            is_cut = data not in {old, new} and same > 0 and data[same:] == old[same:]
            return new if is_cut else data

        done = self.change(finish)
        self._drop_journal()
        return done

    # --- the lock ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[tuple[str, int | None]]:
        """The file behind all links, and a locked descriptor of it; None if there is no file."""
        for _ in range(_ATTEMPTS):
            path = os.path.realpath(self.path)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                yield path, None
                return
            try:
                _lock(fd)
                if os.path.samestat(os.stat(path), os.fstat(fd)):  # else it was replaced while we took the lock
                    yield path, fd
                    return
            finally:
                os.close(fd)
        raise BusyError(f"{HOSTS} is replaced all the time", "another program writes it")

    # --- writing ----------------------------------------------------------------------------------------------

    def _create(self, path: str, new: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            _write_at(fd, new, 0)
        finally:
            os.close(fd)

    def _write(self, path: str, seen: _Seen, new: bytes) -> None:
        if seen.info.st_nlink == 1 and files.mount_of(path)[0] != path:
            try:
                _replace(path, seen.info, new)
            except OSError as e:
                if e.errno not in _IN_PLACE:
                    raise
            else:
                return
        self._write_in_place(path, seen.data, new)

    def _write_in_place(self, path: str, old: bytes, new: bytes) -> None:
        """From the first byte that differs on, in one ascending pass: what follows is cut off last."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._note(old, new)
            start = _common(old, new)
            try:
                _write_at(fd, new[start:], start)
                os.ftruncate(fd, len(new))
            except OSError:
                with contextlib.suppress(OSError):  # no room: the old bytes have theirs
                    _write_at(fd, old[start:], start)
                    os.ftruncate(fd, len(old))
                raise
        finally:
            os.close(fd)
            self._drop_journal()

    def _note(self, old: bytes, new: bytes) -> None:
        if self.journal is not None:
            with contextlib.suppress(OSError):  # without it a cut block is still recognised by its lines
                files.write_atomic(self.journal, b"%b %d %d\n" % (_HEAD, len(old), len(new)) + old + new, 0o600)

    def _read_journal(self) -> tuple[bytes, bytes] | None:
        """Old and new bytes of a write that was begun; only what this user wrote itself counts."""
        if self.journal is None:
            return None
        try:
            fd = os.open(self.journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(fd, "rb") as f:
            info = os.fstat(fd)
            if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
                return None
            head, _, rest = f.read(3 * LARGEST).partition(b"\n")
        words = head.removeprefix(_HEAD).split()
        if not head.startswith(_HEAD) or len(words) != 2 or not all(word.isdigit() for word in words):  # noqa: PLR2004
            return None
        size, whole = int(words[0]), int(words[0]) + int(words[1])
        return (rest[:size], rest[size:]) if len(rest) == whole else None

    def _drop_journal(self) -> None:
        if self.journal is not None:
            with contextlib.suppress(OSError):
                files.remove(self.journal)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise BusyError(f"another program holds a lock on {HOSTS}", "it is tried again") from e
    except OSError as e:
        if e.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}:
            raise  # a filesystem without locks: go on without


def _replace(path: str, info: os.stat_result, new: bytes) -> None:
    """A new file with the old one's mode, owner and extended attributes (labels, access lists), renamed over it."""
    temp = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tazpod-net")
    files.remove(temp)  # of a crash: the lock is held, nobody else writes one now
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_at(fd, new, 0)
            os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
            for name in os.listxattr(path):
                os.setxattr(fd, name, os.getxattr(path, name))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temp, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def _common(one: bytes, other: bytes) -> int:
    """How many bytes they have in common at their beginning, by halving."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _write_at(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
