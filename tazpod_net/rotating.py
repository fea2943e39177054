"""A log file that is appended to in checkpointed batches, and rotated by size into `.1` (newest of the old) … `.N`.

Owns that file and its numbered neighbours, and knows what other people's hands may do to them. It must not know
where the lines come from, nor when they are safe: its caller keeps the checkpoint. Every method may raise OSError.
"""

import errno
import os
import stat
from contextlib import suppress

from tazpod_net.core.logbook import Checkpoint, size_to_keep


class RotatingLog:
    """The file at `path`. `size` is what a checkpoint covers, `end` where the bytes written since then end.

    Others may cut, remove, move or replace the file at any time: call `settle` before each batch.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.inode = self.size = self.end = 0
        self._fd = -1
        self._device = 0
        self._torn = False  # it may end with bytes that no checkpoint covers
        self._needs_newline = False  # it ends inside a line that is not ours

    def remember(self, inode: int, size: int) -> None:
        """What the checkpoint says, for as long as the file cannot be opened."""
        self.inode, self.size, self.end = inode, size, size

    def recover(self, checkpoint: Checkpoint | None) -> None:
        """Opens the file and cuts it back to what the checkpoint covers (`core.logbook.size_to_keep`)."""
        self._fd = self._create_or_open()
        found = os.fstat(self._fd)
        keep = size_to_keep(checkpoint, found.st_ino, found.st_size, _inodes(self._old_files()))
        if keep < found.st_size:
            os.ftruncate(self._fd, keep)
        self._take(self._fd)

    def settle(self) -> None:
        """Makes `size` true again, and opens the file if it is not the one at `path`."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if self._fd >= 0 and found and (found.st_ino, found.st_dev) == (self.inode, self._device):
            self._settle_same(found.st_size)
            return
        if self._fd >= 0:
            self.cut_back()
            self.close()
        self._take(self._create_or_open())

    def append(self, text: bytes) -> None:
        """Appends all of `text`. After an OSError the caller calls `cut_back`, after the checkpoint `commit`."""
        if not text:
            return
        self._torn = True
        rest = memoryview(b"\n" + text if self._needs_newline else text)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        # Where our own write ended, and not the file's size: somebody else may append at the same time.
        self.end = os.lseek(self._fd, 0, os.SEEK_CUR)

    def commit(self) -> None:
        """What was appended is covered by a checkpoint."""
        if self._torn:
            self.size, self._torn, self._needs_newline = self.end, False, False

    def cut_back(self) -> None:
        """Takes away what was written behind `size`; if even that fails, `settle` does it later."""
        self.end = self.size
        if not self._torn:
            return
        with suppress(OSError):
            if os.fstat(self._fd).st_size > self.size:
                os.ftruncate(self._fd, self.size)
            self._torn = False

    def rotate(self, files: int) -> set[int]:
        """Moves the log to `.1` and so on, and begins a new one; returns the inodes of the old files that are left.

        Each step can be the last one: files are moved only up to the first gap, which a crash in the middle of an
        earlier rotation may have left.
        """
        gap = 1
        while gap < files and os.path.lexists(self._numbered(gap)):
            gap += 1
        with suppress(FileNotFoundError):  # somebody else took it away at the same moment
            for number in range(min(gap, files), 0, -1):
                os.replace(self._numbered(number - 1), self._numbered(number))
            if not files:
                os.unlink(self.path)
        left = _inodes(self._old_files())
        self.close()
        self._take(self._create_or_open())
        return left

    def prune(self, files: int) -> None:
        """Removes the old files that are over `files`."""
        for path in self._old_files():
            if int(path.rpartition(".")[2]) > files:
                os.unlink(path)

    def read(self, start: int) -> bytes:
        """Bytes from `start` to `size`."""
        return os.pread(self._fd, self.size - start, start)

    def close(self) -> None:
        """Forgets the file, not what is known about it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._torn = -1, False

    def _create_or_open(self) -> int:
        # NOFOLLOW, NONBLOCK and the check: a link or a FIFO put in its place must not lead or stop a root process.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            fd = os.open(self.path, flags, 0o644)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "It is not a plain file")
        return fd

    def _take(self, fd: int) -> None:
        found = os.fstat(fd)
        self._fd, self.inode, self._device, self._torn = fd, found.st_ino, found.st_dev, False
        self._accept(found.st_size)

    def _settle_same(self, size: int) -> None:
        if self._torn:
            if size > self.size:
                os.ftruncate(self._fd, self.size)
            self._torn, size = False, min(size, self.size)
        if size != self.size:
            self._accept(size)

    def _accept(self, size: int) -> None:
        """Takes `size` as it is; what is in the file was written by others or by an earlier supervisor."""
        self.size = self.end = size
        self._needs_newline = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def _numbered(self, number: int) -> str:
        return f"{self.path}.{number}" if number else self.path

    def _old_files(self) -> list[str]:
        directory, name = os.path.split(self.path)
        prefix = name + "."
        found = [entry for entry in os.listdir(directory) if entry.startswith(prefix)]
        return [os.path.join(directory, entry) for entry in found if entry[len(prefix) :].isdecimal()]


def _inodes(paths: list[str]) -> set[int]:
    inodes = set()
    for path in paths:
        with suppress(FileNotFoundError):
            inodes.add(os.stat(path, follow_symlinks=False).st_ino)
    return inodes
