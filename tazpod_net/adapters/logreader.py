"""Reads the daemon's log for people: its last lines, what comes next, and the run before the last exit.

Only reads, and needs no supervisor. The log may be rotated, cut back (after a crash of the supervisor), emptied or
removed by anyone at any moment: files are told apart by inode, never by name.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile

from tazpod_net.core.logbook import Run, decode_runs
from tazpod_net.core.logbook import previous_run as previous_of
from tazpod_net.errors import TazpodNetError

_BLOCK = 256 << 10  # bytes read at once
_REMEMBERED = 4 << 20  # bytes shown last: more than one batch of the supervisor, which a crash may bring twice
_HEAD = 64  # bytes that tell a file from a later one with the same inode number
_POLL = 0.25  # seconds


def tail_lines(log_path: str, count: int | None) -> Iterator[str]:
    """The last `count` lines (None: all), oldest first, across the rotated files.

    Raises:
        TazpodNetError: there is no log, or it may not be read.
    """
    files = _open_all(log_path)
    if not files:
        raise TazpodNetError(f"there is no log at {log_path}", "it begins with the first: tazpod-net up")
    return _lines(files, count)


def previous_run(state_dir: str, log_path: str, count: int | None = None) -> Iterator[str]:
    """The last `count` lines (None: all) of the run before the last exit.

    Raises:
        TazpodNetError: there was none, its lines are rotated away, or the log may not be read.
    """
    found = previous_of(_runs(os.path.join(state_dir, "runs.json")))
    if found is None:
        raise TazpodNetError("there is no previous run", "the present one: tazpod-net logs")
    run, following = found
    if run.inode is None:
        return iter(())
    files = _open_all(log_path)
    kept = _of_run(files, run, following)
    if not kept:
        _close_all(files)
        raise TazpodNetError("the previous run's lines are rotated away", "raise log.files or log.max_bytes")
    _close_all(file for file in files if file not in kept)
    return _lines(kept, count)


def follow(log_path: str, count: int | None, *, pause: Callable[[], bool] | None = None) -> Iterator[list[str]]:
    """The last `count` lines (None: all), then each burst of new ones as it comes, for ever.

    Rotation loses and doubles nothing. A log that was cut back and written again, as after a crash of the
    supervisor, is gone through silently up to the first line that is new. A missing log is waited for. `pause` is
    called when there is nothing new; it waits a while (default 0.25 s), and ends all with False.

    Raises:
        TazpodNetError: the log may not be read.
    """
    follower = _Follower(log_path)
    try:
        yield from map(_decoded, follower.begin(count))
        while True:
            if text := follower.read():
                yield _decoded(text)
            elif not (pause or _pause)():
                return
    finally:
        follower.close()


class _File:
    """An open log file, and the part of it, from `start` to `end`, that is to be read."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self.fd)
        self.inode = found.st_ino
        self.start, self.end = 0, found.st_size

    def identity(self) -> tuple[int, bytes]:
        """Tells files apart, also where the inode number of a removed one is used again at once."""
        return self.inode, os.pread(self.fd, _HEAD, 0)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self, count: int) -> bytes:
        return os.pread(self.fd, count, self.start)

    def texts(self) -> Iterator[bytes]:
        """What is between `start` and `end`, in pieces of whole lines; a missing last newline is added."""
        rest = b""
        while self.start < self.end and (data := self.read(min(_BLOCK, self.end - self.start))):
            self.start += len(data)
            whole = data.rfind(b"\n") + 1
            if whole:
                yield rest + data[:whole]
                rest = b""
            rest += data[whole:]
        if rest:
            yield rest + b"\n"

    def keep_last(self, count: int) -> int:
        """Moves `start` so that at most `count` lines are left; returns how many they are."""
        found, position = 0, self.end
        while position > self.start and found < count:
            begin = max(self.start, position - _BLOCK)
            data = os.pread(self.fd, position - begin, begin)
            newline = len(data)
            while found < count and (newline := data.rfind(b"\n", 0, newline)) >= 0:
                first = begin + newline + 1
                found += first < self.end
            position = begin
        if found < count:
            return found + (self.start < self.end)
        self.start = first if count else self.end
        return count

    def drop_unfinished(self) -> None:
        """Moves `end` behind the last newline."""
        last = os.pread(self.fd, _BLOCK, max(0, self.end - _BLOCK))
        self.end -= len(last) - (last.rfind(b"\n") + 1)

    def close(self) -> None:
        os.close(self.fd)


class _Follower:
    """Where a reader of the growing log stands.

    `_files` holds the file being read and the newer ones already found, all open, so that none can get away.
    `_shown` ends with what was shown last of the first of them; `_expected` is what was shown already of the bytes
    that come next, after the file was cut back.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._files: deque[_File] = deque()
        self._older: set[tuple[int, bytes]] = set()
        self._shown = bytearray()
        self._expected = b""

    def begin(self, count: int | None) -> Iterator[bytes]:
        """The last whole lines that are there, and stands behind them."""
        files = _open_all(self._path)
        if not files:
            return
        *old, current = files
        self._files.append(current)
        current.drop_unfinished()
        if count is not None:
            _keep_last(files, count)
        for file in old:
            self._older.add(file.identity())
            yield from file.texts()
            file.close()
        yield from current.texts()
        current.start = max(0, current.end - _REMEMBERED)
        self._shown[:] = current.read(current.end - current.start)
        current.start = current.end

    def read(self) -> bytes:
        """New whole lines; none if there is nothing new now."""
        if text := self._read_fresh():
            return text
        if not self._find_newer():
            return b""
        # The rename came after the last byte: what is read of it now is all that there will be.
        return self._read_fresh() or self._leave() or self._read_fresh()

    def close(self) -> None:
        _close_all(self._files)
        self._files.clear()

    def _read_fresh(self) -> bytes:
        while text := self._read_whole_lines():
            if fresh := self._without_expected(text):
                return fresh
        return b""

    def _read_whole_lines(self) -> bytes:
        if not self._files:
            return b""
        file = self._files[0]
        data = file.read(_BLOCK)
        if not data and file.size() < file.start:
            self._rewind(file)
            data = file.read(_BLOCK)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _BLOCK:
            end = _BLOCK
        file.start += end
        return data[:end]

    def _rewind(self, file: _File) -> None:
        """The file is smaller: cut back by the supervisor, which writes the same again, or emptied by a person."""
        begin = file.start - len(self._shown)
        again = os.pread(file.fd, max(0, file.size() - begin), begin)
        common = _common_lines(again, bytes(self._shown))
        if begin and not common:  # not a crash: that takes no more than one batch back
            begin = 0
            self._shown.clear()
        file.start = begin + common
        self._expected = bytes(self._shown[common:])
        del self._shown[common:]

    def _without_expected(self, text: bytes) -> bytes:
        self._shown += text
        if len(self._shown) > 2 * _REMEMBERED:
            del self._shown[:-_REMEMBERED]
        expected, self._expected = self._expected, b""
        if not expected:
            return text
        if expected.startswith(text):
            self._expected = expected[len(text) :]
            return b""
        return text[_common_lines(text, expected) :]

    def _find_newer(self) -> bool:
        """True if there are files newer than the one being read, or one where there was none."""
        if len(self._files) > 1:
            return True
        current = self._files[0] if self._files else None
        with suppress(FileNotFoundError):
            if current and os.stat(self._path).st_ino == current.inode:
                return False
        files = _open_all(self._path)
        position = next((i for i, file in enumerate(files) if current and file.inode == current.inode), None)
        if position is None:
            newer = [file for file in files if file.identity() not in self._older]
        else:
            newer = files[position + 1 :]
        _close_all(file for file in files if file not in newer)
        self._files.extend(newer)
        return bool(newer)

    def _leave(self) -> bytes:
        """Goes on to the next file; returns what the left one had behind its last newline."""
        if len(self._files) < 2:  # noqa: PLR2004 - the file being read, and a newer one
            return b""
        file = self._files.popleft()
        file.end = file.size()
        rest = b"".join(file.texts())
        self._older.add(file.identity())
        file.close()
        self._shown.clear()
        self._expected = b""
        return rest


def _open_all(log_path: str) -> list[_File]:
    """The log and its old files, oldest first, each once.

    Opened newest first: a rotation in the middle moves files on to names that are still to come, never back.
    """
    directory, name = os.path.split(log_path)
    prefix = name + "."
    with suppress(FileNotFoundError):
        numbers = [entry[len(prefix) :] for entry in os.listdir(directory) if entry.startswith(prefix)]
        highest = max([0, *(int(number) for number in numbers if number.isdecimal())])
        paths = [log_path, *(f"{log_path}.{number}" for number in range(1, highest + 2))]
        return _open_each(paths)[::-1]
    return []


def _open_each(paths: list[str]) -> list[_File]:
    files: dict[int, _File] = {}
    for path in paths:
        try:
            file = _File(path)
        except FileNotFoundError:
            continue
        except OSError as e:
            _close_all(files.values())
            raise TazpodNetError(f"cannot read {path}: {e.strerror}", "use the uid that owns the home") from e
        if file.inode in files:
            file.close()
        else:
            files[file.inode] = file
    return list(files.values())


def _close_all(files: Iterable[_File]) -> None:
    for file in files:
        file.close()


def _keep_last(files: list[_File], count: int) -> None:
    for file in reversed(files):
        count -= file.keep_last(count)


def _lines(files: list[_File], count: int | None) -> Iterator[str]:
    if count is not None:
        _keep_last(files, count)
    try:
        for file in files:
            for text in file.texts():
                yield from _decoded(text)
    finally:
        _close_all(files)


def _decoded(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").removesuffix("\n").split("\n")


def _common_lines(one: bytes, other: bytes) -> int:
    """Bytes of the whole lines with which both begin."""
    pairs = zip(one.split(b"\n")[:-1], other.split(b"\n")[:-1], strict=False)
    return sum(len(line) + 1 for line, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _runs(path: str) -> list[Run]:
    try:
        with open(path, "rb") as file:
            return decode_runs(file.read())
    except OSError:
        return []


def _of_run(files: list[_File], run: Run, following: Run | None) -> list[_File]:
    """The files with lines of `run`, bounded to them; none if all of them are gone."""
    inodes = [file.inode for file in files]
    last = len(files)
    if following is not None:
        if following.inode not in inodes:
            return []
        last = inodes.index(following.inode) + 1
        files[last - 1].end = min(files[last - 1].end, following.offset)
    if run.inode not in inodes[:last]:  # its first lines are gone, at least
        return files[:last] if any(file.end for file in files[:last]) else []
    first = inodes.index(run.inode)
    files[first].start = run.offset
    return files[first:last]


def _pause() -> bool:
    time.sleep(_POLL)
    return True
