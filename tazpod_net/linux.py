"""Linux calls that Python's standard library lacks: holes in files, inotify, a look at a lock.

A leaf: import time
imports nothing of this package and decides nothing. ctypes costs 4 ms to import, so that it is imported by
what needs it and not at the top: no start of the daemon waits for it.
"""

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8

# _IOW('X', 43, struct space_resv), linux/falloc.h: fallocate(PUNCH_HOLE|KEEP_SIZE) as an ioctl, for every
# filesystem since Linux 5.6 (fs/ioctl.c, ioctl_preallocate); without ctypes.
_FS_IOC_UNRESVSP64 = 0x4030582B
_SPACE_RESV = struct.Struct("=hh4xqqiI16x")
_NO_SUCH_IOCTL = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS)
_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02  # man 2 fallocate


class Inotify:
    """An inotify instance; `fd` is readable when something happened. Which thing it was is not told."""

    def __init__(self) -> None:
        import ctypes  # noqa: PLC0415 - 4 ms, see the module

        self._get_errno = ctypes.get_errno
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The flags IN_CLOEXEC and IN_NONBLOCK are these numbers by definition (man 2 inotify_init).
        self.fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def add(self, path: str, mask: int) -> int:
        """Watches the file at `path`; returns the descriptor for `remove`.

        Raises:
            OSError: ENOSPC when the user's watches are used up.
        """
        return self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask))

    def remove(self, descriptor: int) -> None:
        """Ends a watch; one that ended by itself, with its file, is no error."""
        self._libc.inotify_rm_watch(self.fd, descriptor)

    def drain(self) -> None:
        """Reads all events away."""
        with suppress(BlockingIOError):
            while os.read(self.fd, 64 << 10):
                pass

    def close(self) -> None:
        """Ends every watch."""
        os.close(self.fd)

    def _checked(self, result: int) -> int:
        if result < 0:
            raise OSError(self._get_errno(), os.strerror(self._get_errno()))
        return result


def punch_hole(fd: int, start: int, length: int) -> None:
    """Gives `length` bytes at `start` back to the filesystem; they read as zeros, and the file's size stays.

    Raises:
        OSError: EOPNOTSUPP where the filesystem cannot (9p, NFS before 4.2).
    """
    try:
        fcntl.ioctl(fd, _FS_IOC_UNRESVSP64, _SPACE_RESV.pack(0, os.SEEK_SET, start, length, 0, 0))
    except OSError as e:
        if e.errno not in _NO_SUCH_IOCTL:
            raise
        _fallocate_punch(fd, start, length)


def is_lock_free(fd: int) -> bool:
    """True if no other open file description of this file has a flock on it. Holds a shared lock for an instant."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _fallocate_punch(fd: int, start: int, length: int) -> None:
    """The system call itself, for kernels before 5.6 and processors with other ioctl numbers."""
    import ctypes  # noqa: PLC0415 - 4 ms, see the module

    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_int64
    if libc.fallocate64(fd, _KEEP_SIZE_AND_PUNCH_HOLE, size(start), size(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def local_offset(epoch: float) -> int:
    """Seconds by which local time is ahead of UTC at that moment."""
    return time.localtime(epoch).tm_gmtoff
