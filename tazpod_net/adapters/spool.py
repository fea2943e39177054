"""The way of the daemon's output: from the spool, which the daemon itself holds open and locked, into its log.

Owns `spool.<number>` (one per run of the daemon), `state/log.checkpoint`, `state/runs.json`, `logs/tailscaled.log`
and its old files. Everything is synchronous and bounded. It must not start, stop or signal the daemon, and must not
read a clock; only the holder of the supervisor's lock may use it, because two pumps would spoil each other's
checkpoint.

Why nothing is lost or doubled when this process is killed at any instruction: a byte counts as moved when the
checkpoint says so, and the checkpoint is one small `pwrite` after the log was written. Killed before it, the log is
cut back to the recorded size at the next start, and the same bytes come again; killed after it, they are done. The
spool's disk space is given back (a hole is punched at its front), the log rotated and a spool removed only behind a
checkpoint. The order of calls in `RotatingLog.rotate`, `Spool._append` and `Spool._retire` is that promise.
"""

import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from tazpod_net.core.lines import MAX_LINE, LineRules, join_lines, split_lines, whole_lines
from tazpod_net.core.logbook import (
    RECORD_SIZE,
    SLOTS,
    Checkpoint,
    Run,
    SpoolMark,
    decode_runs,
    encode_runs,
    end_runs_except,
    find_run,
    pack_checkpoint,
    put_run,
    runs_after_rotation,
    unpack_checkpoint,
)
from tazpod_net.errors import TazpodNetError
from tazpod_net.linux import IN_CLOSE_WRITE, IN_MODIFY, Inotify, is_lock_free, punch_hole
from tazpod_net.rotating import RotatingLog

CHECKPOINT_NAME = "log.checkpoint"
RUNS_NAME = "runs.json"
PUMP_BYTES = 4 << 20
"""Bytes that one call of `pump` moves at most, about 10 ms of work."""

_BATCH = 256 << 10  # bytes read at once: 1 MiB was not clearly faster, and the process keeps 2 MB less afterwards
_PUNCH = 1 << 20  # bytes consumed before a hole is punched
_SMALLEST_BATCH = 2 * MAX_LINE  # a line of MAX_LINE and the secret across its end must be seen whole
_BLOCK = 4096  # holes begin and end at blocks
_STUCK_BACKLOG = 64 << 20  # unread bytes kept while the log cannot be written
_BACKLOG = 1 << 30  # unread bytes kept in any case: more would only fill the disk
_TAIL_LINES = 200
_TAIL_BYTES = 64 << 10
_PREFIX = "spool."
_NEW_SPOOL = "spool.new"
_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO in the way must not stop the loop


class Counts(msgspec.Struct):
    """Of one spool since it was made. `filtered`: kept out by the rules; `lost`: the log could not take them."""

    lines: int = 0
    bytes: int = 0
    filtered: int = 0
    lost: int = 0


class _TroubleError(Exception):
    """Something could not be done; `str()` is the sentence for `status`."""


def can_punch(directory: str) -> bool:
    """True if files in `directory` can give back space at their front; false on 9p and NFS: spool elsewhere.

    Raises:
        OSError: nothing can be created in `directory`.
    """
    path = os.path.join(directory, f"{_PREFIX}try.{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o600)
    try:
        os.unlink(path)
        os.ftruncate(fd, 2 * _BLOCK)
        punch_hole(fd, 0, _BLOCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class Spool:
    """One home's spools and its log. Create it freely: nothing is opened before the first call.

    `max_bytes` is the size at which the log is rotated, `files` the number of old files kept; `spool_dir` is where
    the spools are (default `state_dir`). `on_lines` gets every line, masked, also those that a filter keeps out of
    the log, once each; `on_read` gets the same as one text for each batch, which is much cheaper to search than
    many lines; `on_text` gets the very bytes that were appended to the log.
    """

    def __init__(
        self,
        state_dir: str,
        log_path: str,
        *,
        max_bytes: int,
        files: int,
        rules: LineRules,
        on_lines: Callable[[list[bytes]], None] | None = None,
        on_read: Callable[[bytes], None] | None = None,
        on_text: Callable[[bytes], None] | None = None,
        spool_dir: str | None = None,
    ) -> None:
        self.trouble: str | None = None
        self.counts = Counts()
        self._dir = spool_dir or state_dir
        self._runs_path = os.path.join(state_dir, RUNS_NAME)
        self._checkpoint = _CheckpointFile(os.path.join(state_dir, CHECKPOINT_NAME))
        self._log = RotatingLog(log_path)
        self._max_bytes, self._files, self._rules = max(1, max_bytes), files, rules
        self._on_lines, self._on_read, self._on_text = on_lines, on_read, on_text
        self._inotify: Inotify | None = None
        self._silent_fd = -1  # stands in for inotify where that is not to be had
        self._spools: list[_SpoolFile] = []
        self._runs: list[Run] = []
        self._runs_written = True
        self._last_seq = 0
        self._dropped_lines = self._dropped_bytes = 0
        self._loaded = False  # the spools are open, with their offsets
        self._recovered = False  # the log fits the checkpoint, too
        self._rotation_trouble: str | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    # -- the daemon's side

    def open_for_daemon(self) -> int:
        """Makes the spool of a new run; returns it locked, for the daemon's fds 1 and 2. Close it after the spawn.

        Raises:
            TazpodNetError: it cannot be created.
        """
        seq = max(self._last_seq, self._highest_seq()) + 1
        path = self._spool_path(seq)
        try:
            fd = _create_locked(os.path.join(self._dir, _NEW_SPOOL), path)
        except OSError as e:
            raise TazpodNetError(f"cannot create {path}: {_reason(e)}", "the daemon's output goes there") from e
        self._last_seq = seq
        self._tail.clear()
        if self._loaded:
            try:
                self._add(seq, None)
            except _TroubleError:
                self._recovered = False  # no fd is left, say: the next pump looks for it again
        return fd

    def locked_spool(self) -> str | None:
        """Path of the newest spool that a process holds locked: a daemon of this home lives. None: there is none.

        Raises:
            TazpodNetError: a spool may not be read.
        """
        for seq in reversed(self._found_seqs()):
            path = self._spool_path(seq)
            try:
                if _is_locked(path):
                    return path
            except FileNotFoundError:
                continue
            except OSError as e:
                raise TazpodNetError(f"cannot read {path}: {_reason(e)}", "use the uid that owns the home") from e
        return None

    def holders(self, path: str) -> list[int]:
        """Pids, of this pid namespace, that have the file at `path` as their fd 2."""
        try:
            wanted = os.stat(path)
        except FileNotFoundError:
            return []
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return sorted(pid for pid in pids if _has_as_stderr(pid, wanted))

    def begin_run(self, pid: int, at_iso: str) -> None:
        """Remembers that the newest spool is that of `pid`, started `at_iso`; for `logs --previous`."""
        self._load_runs()
        run = find_run(self._runs, max(self._last_seq, self._highest_seq()))
        self._put_run(msgspec.structs.replace(run, pid=pid, started=at_iso))

    # -- the log's side

    def recover(self) -> None:
        """Brings log and checkpoint together again after any end of the process before; may be called any time.

        Failure is no exception: `trouble` says it, and each `pump` tries again.
        """
        try:
            self._recover()
        except _TroubleError as e:
            self.trouble = str(e)

    def pump(self, limit: int = PUMP_BYTES) -> bool:
        """Moves what is there, about `limit` bytes at most; True: there may be more, call again at once.

        With `trouble` set nothing is lost for now: call again after a while, nothing else will wake you.
        """
        try:
            more = self._pump(limit)
            self.trouble = self._rotation_trouble
        except _TroubleError as e:
            self.trouble = str(e)
            more = False
            with suppress(_TroubleError):
                self._bound_backlog(_STUCK_BACKLOG)
        if not self._runs_written:
            self._write_runs()
        return more

    def flush(self) -> None:
        """Moves everything that is there now."""
        while self.pump():
            pass

    def tail(self, count: int) -> list[str]:
        """The last lines, masked, of the newest run; 200 at most, with those which the log could not take."""
        lines = [*self._tail, *self._unread_tail()] if self.trouble else list(self._tail)
        return lines[-count:] if count > 0 else []

    def watch_fd(self) -> int:
        """An fd that is readable when a spool was written to; pump once after the first call."""
        if self._inotify is None and self._silent_fd < 0:
            try:
                self._inotify = Inotify()
            except OSError:  # EMFILE: 128 instances for each user by default
                self._silent_fd = os.eventfd(0)
            self._watch_spools()
        return self._silent_fd if self._inotify is None else self._inotify.fd

    @property
    def blind(self) -> bool:
        """True if `watch_fd` misses a spool, because the user's inotify watches are used up: pump by a timer."""
        return any(spool.watch_descriptor < 0 for spool in self._spools)

    def drain_watch(self) -> None:
        """Reads the events away; call it before `pump`, never after."""
        if self._inotify is not None:
            self._inotify.drain()

    def reconfigure(self, max_bytes: int, files: int, rules: LineRules) -> None:
        """Takes new settings for what comes next; old files over `files` are removed now."""
        self._max_bytes, self._files, self._rules = max(1, max_bytes), files, rules
        self._rotation_trouble = None
        with suppress(OSError):
            self._log.prune(files)

    def close(self) -> None:
        """Closes every file; what was not pumped stays in the spool for the next supervisor."""
        self._close_files()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        if self._silent_fd >= 0:
            os.close(self._silent_fd)
            self._silent_fd = -1

    # -- spools on disk

    def _spool_path(self, seq: int) -> str:
        return os.path.join(self._dir, f"{_PREFIX}{seq}")

    def _found_seqs(self) -> list[int]:
        try:
            names = os.listdir(self._dir)
        except FileNotFoundError:
            return []
        suffixes = [name[len(_PREFIX) :] for name in names if name.startswith(_PREFIX)]
        return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())

    def _highest_seq(self) -> int:
        """The highest number ever used. Those of removed spools are in the checkpoint: none comes again."""
        checkpoint = self._checkpoint.load()
        return max([checkpoint.last_seq if checkpoint else 0, *self._found_seqs()])

    def _add(self, seq: int, mark: SpoolMark | None) -> None:
        path = self._spool_path(seq)
        with _doing("read", path):
            self._spools.append(_SpoolFile(path, seq, mark))
        self._watch_spools()

    def _watch_spools(self) -> None:
        if self._inotify is not None:
            for spool in self._spools:
                spool.watch(self._inotify)

    def _close_files(self) -> None:
        for spool in self._spools:
            spool.close(self._inotify)
        self._spools = []
        self._log.close()
        self._checkpoint.close()
        self._loaded = self._recovered = False

    # -- start

    def _recover(self) -> None:
        self._close_files()
        checkpoint = self._checkpoint.load()
        self._load_spools(checkpoint or Checkpoint())
        with _doing("write", self._log.path):
            self._log.recover(checkpoint)
            self._log.prune(self._files)
        self._save()
        self._recovered = True
        self._load_runs()
        self._set_runs(end_runs_except(self._runs, {spool.seq for spool in self._spools}))
        self._seed_tail()

    def _load_spools(self, known: Checkpoint) -> None:
        """After this, `_save` writes nothing that is not so, whether the log can be opened or not."""
        self._log.remember(known.log_inode, known.log_size)
        self._dropped_lines, self._dropped_bytes = known.dropped_lines, known.dropped_bytes
        marks = {mark.seq: mark for mark in known.spools}
        with _doing("read", self._dir):
            seqs = self._found_seqs()
        for seq in seqs:
            self._add(seq, marks.get(seq))
        self._last_seq = max([self._last_seq, known.last_seq, *seqs])
        self._loaded = True

    def _seed_tail(self) -> None:
        """After an adoption: the last lines of the run that goes on, as far as the newest log file has them."""
        if self._tail or not self._spools or self._spools[-1].offset == 0:
            return
        run = find_run(self._runs, self._spools[-1].seq)
        first = run.offset if run.inode == self._log.inode else 0
        start = max(first, self._log.size - _TAIL_BYTES)
        with suppress(OSError):
            text = self._log.read(start)
            self._tail.extend(_text_lines(text if start == first else text.partition(b"\n")[2]))

    # -- moving

    def _pump(self, limit: int) -> bool:
        if not self._recovered:
            self._recover()
        if self.blind:
            self._watch_spools()
        self._bound_backlog(_BACKLOG)
        crowded = len(self._spools) > SLOTS
        moved = 0
        for spool in self._spools[:SLOTS]:
            while moved < limit and (count := self._move(spool)):
                moved += count
            if moved >= limit:
                return True
            self._retire(spool)
        if crowded:
            self._make_room_for_new_spools()
        return crowded

    def _move(self, spool: "_SpoolFile", *, final: bool = False) -> int:
        """One batch: write all, checkpoint, give space back. Returns the bytes of the spool that are done with."""
        with _doing("read", spool.path):
            data = spool.read(min(_BATCH, max(self._max_bytes, _SMALLEST_BATCH)))
            final = final and spool.offset + len(data) >= spool.size()
        used, text = whole_lines(data, self._rules, final=final)
        if not used:
            return 0
        room = self._room_for(used)
        if used > room:
            used, text = self._first_lines(data, room, final=final)
        text = self._rules.redact(text)
        lines, kept = self._filter(text)
        self._note_begin(spool)
        self._append(spool, used, kept)
        self._count(text, kept)
        self._show(spool, text, lines, kept)
        return used

    def _count(self, text: bytes, kept: bytes) -> None:
        counts, lines = self.counts, kept.count(b"\n")
        counts.lines += lines
        counts.bytes += len(kept)
        if kept is not text:
            counts.filtered += text.count(b"\n") - lines

    def _first_lines(self, data: bytes, room: int, *, final: bool) -> tuple[int, bytes]:
        """As `whole_lines`, but only as many as fit into `room` bytes, one at least."""
        newline = data.rfind(b"\n", 0, room)
        if newline < 0:
            newline = data.find(b"\n", 0, MAX_LINE + 1)
        end = MAX_LINE + self._rules.span if newline < 0 else newline + 1
        return whole_lines(data[:end], self._rules, final=final and end >= len(data))

    def _filter(self, text: bytes) -> tuple[list[bytes], bytes]:
        """(the lines; what of them goes into the log). If nobody looks at each line, only the last ones."""
        if self._on_lines is None and not self._rules.drop:
            return text.rsplit(b"\n", _TAIL_LINES + 1)[:-1], text
        lines = split_lines(text)
        kept = self._rules.keep(lines)
        return lines, text if kept is lines else join_lines(kept)

    def _append(self, spool: "_SpoolFile", used: int, kept: bytes) -> None:
        """The step that must not be torn: either log, checkpoint and offset all move, or none of them does."""
        log, before = self._log, (spool.offset, self._dropped_lines, self._dropped_bytes)
        try:
            with _doing("write", log.path):
                log.append(_marker(self._dropped_lines, self._dropped_bytes) + kept)
            spool.offset += used
            self._dropped_lines = self._dropped_bytes = 0
            self._save()
        except _TroubleError:
            spool.offset, self._dropped_lines, self._dropped_bytes = before
            log.cut_back()
            raise
        log.commit()
        if spool.offset - spool.punched >= _PUNCH and spool.punch():
            self._save()

    def _show(self, spool: "_SpoolFile", text: bytes, lines: list[bytes], kept: bytes) -> None:
        if spool.seq == self._last_seq:
            self._tail.extend(line.decode("utf-8", "replace") for line in lines[-_TAIL_LINES:])
        if self._on_lines is not None:
            self._on_lines(lines)
        if self._on_read is not None:
            self._on_read(text)
        if self._on_text is not None and kept:
            self._on_text(kept)

    def _room_for(self, wanted: int) -> int:
        """Bytes that still fit into the log, after rotating it if `wanted` do not and it is not empty."""
        log = self._log
        with _doing("write", log.path):
            log.settle()
        if not log.size or log.size + min(wanted, MAX_LINE) <= self._max_bytes:
            return self._max_bytes - log.size
        try:
            self._set_runs(runs_after_rotation(self._runs, log.rotate(self._files)))
        except OSError as e:
            # A log that grows past its limit is better than one that stops.
            self._rotation_trouble = f"cannot rotate {_short(log.path)}: {_reason(e)}"
            with _doing("write", log.path):
                log.settle()
            return wanted
        self._rotation_trouble = None
        self._save()
        return self._max_bytes

    def _retire(self, spool: "_SpoolFile", *, forced: bool = False) -> None:
        """Removes a spool that nobody holds, after its last line, whole or not."""
        with _doing("read", spool.path):
            if not (forced or spool.is_free()):
                return
        while self._move(spool, final=True):
            pass
        with _doing("remove", spool.path):
            spool.remove(self._inotify)
        # Forgotten after it is gone: a spool that is there and not in the checkpoint would be read from its start.
        self._spools.remove(spool)
        self._save()
        self._put_run(msgspec.structs.replace(find_run(self._runs, spool.seq), ended=True))

    def _make_room_for_new_spools(self) -> None:
        """More spools than the checkpoint holds: the oldest is only held by stray children of a dead daemon."""
        if len(self._spools) > SLOTS:
            self._retire(self._spools[0], forced=True)

    # -- backlog

    def _bound_backlog(self, most: int) -> None:
        """Drops the oldest lines while more than `most` bytes are unread; the log gets a line that counts them."""
        excess = sum(spool.unread() for spool in self._spools) - most
        if excess <= 0 or not self._loaded or not all(spool.punching for spool in self._spools):
            return  # without punching, dropping would lose lines and free nothing
        excess += most // 4  # not a few lines at every call
        for spool in self._spools[:SLOTS]:
            while excess > 0 and (count := self._drop(spool, excess)):
                excess -= count
            spool.punch()
        self._save()

    def _drop(self, spool: "_SpoolFile", most: int) -> int:
        with _doing("read", spool.path):
            data = spool.read(min(_BATCH, most))
        count = (data.rfind(b"\n") + 1) or len(data)
        before = (spool.offset, self._dropped_lines, self._dropped_bytes)
        spool.offset += count
        self._dropped_lines += data.count(b"\n", 0, count)
        self._dropped_bytes += count
        try:
            self._save()
        except _TroubleError:
            spool.offset, self._dropped_lines, self._dropped_bytes = before
            raise
        self.counts.lost += data.count(b"\n", 0, count)
        return count

    def _unread_tail(self) -> list[str]:
        """What the newest run said last and the log could not take."""
        if not self._spools or self._spools[-1].seq != self._last_seq:
            return []
        try:
            text = self._spools[-1].read_last(_TAIL_BYTES)
        except OSError:
            return []
        return _text_lines(self._rules.redact(text))

    # -- records

    def _save(self) -> None:
        marks = tuple(spool.mark() for spool in self._spools[:SLOTS])
        dropped = (self._dropped_lines, self._dropped_bytes)
        with _doing("write", self._checkpoint.path):
            self._checkpoint.store(Checkpoint(self._last_seq, self._log.inode, self._log.end, *dropped, spools=marks))

    def _load_runs(self) -> None:
        if not self._runs:
            self._runs = decode_runs(_read_file(self._runs_path))

    def _put_run(self, run: Run) -> None:
        self._set_runs(put_run(self._runs, run))

    def _set_runs(self, runs: list[Run]) -> None:
        if runs != self._runs:
            self._runs = runs
            self._write_runs()

    def _note_begin(self, spool: "_SpoolFile") -> None:
        run = find_run(self._runs, spool.seq)
        if run.inode is None:
            self._put_run(msgspec.structs.replace(run, inode=self._log.inode, offset=self._log.size))

    def _write_runs(self) -> None:
        """Only `logs --previous` needs this file: a failure is made good at a later pump, and is no trouble."""
        try:
            _replace_file(self._runs_path, encode_runs(self._runs))
            self._runs_written = True
        except OSError:
            self._runs_written = False


class _SpoolFile:
    """One open spool: what was consumed (`offset`) and given back (`punched`) of it, in bytes."""

    def __init__(self, path: str, seq: int, mark: SpoolMark | None) -> None:
        self.path, self.seq = path, seq
        self.punching = True
        self.watch_descriptor = -1
        self.fd = os.open(path, os.O_RDWR | _OPEN_FLAGS)
        self.inode = os.fstat(self.fd).st_ino
        if mark is not None and mark.inode == self.inode:
            self.offset, self.punched = mark.offset, mark.punched
        else:
            self.offset, self.punched = self._first_data(), 0

    def mark(self) -> SpoolMark:
        return SpoolMark(self.seq, self.inode, self.offset, self.punched)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def unread(self) -> int:
        return max(0, self.size() - self.offset)

    def read(self, count: int) -> bytes:
        """What follows `offset`. A person who empties the file makes it begin again: the daemon only appends."""
        data = os.pread(self.fd, count, self.offset)
        if data or self.size() >= self.offset:
            return data
        self.offset, self.punched = self._first_data(), 0
        return os.pread(self.fd, count, self.offset)

    def read_last(self, count: int) -> bytes:
        start = max(self.offset, self.size() - count)
        return os.pread(self.fd, count, start)

    def is_free(self) -> bool:
        return is_lock_free(self.fd)

    def punch(self) -> bool:
        """Gives the consumed blocks back to the filesystem; false if there are none, or if it cannot."""
        end = self.offset - self.offset % _BLOCK
        if not self.punching or end <= self.punched:
            return False
        try:
            punch_hole(self.fd, self.punched, end - self.punched)
        except OSError:
            self.punching = False
            return False
        self.punched = end
        return True

    def watch(self, inotify: Inotify) -> None:
        """Writes, and the close of the last handle: from then on it is free and can be removed."""
        if self.watch_descriptor < 0:
            with suppress(OSError):
                self.watch_descriptor = inotify.add(self.path, IN_MODIFY | IN_CLOSE_WRITE)

    def remove(self, inotify: Inotify | None) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close(inotify)

    def close(self, inotify: Inotify | None) -> None:
        if inotify is not None and self.watch_descriptor >= 0:
            inotify.remove(self.watch_descriptor)
        os.close(self.fd)

    def _first_data(self) -> int:
        """Without a mark: what was punched away is done; some of what follows may come twice, nothing is lost."""
        try:
            return os.lseek(self.fd, 0, os.SEEK_DATA)
        except OSError:  # ENXIO: it holds nothing
            return 0


class _CheckpointFile:
    """The file of the one record. The first `store` allocates its bytes: no disk is too full for the next one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def load(self) -> Checkpoint | None:
        return unpack_checkpoint(_read_file(self.path))

    def store(self, checkpoint: Checkpoint) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)
        if os.pwrite(self._fd, pack_checkpoint(checkpoint), 0) != RECORD_SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def _doing(verb: str, path: str) -> Iterator[None]:
    """Turns an OSError into the sentence `cannot VERB PATH: REASON`."""
    try:
        yield
    except OSError as e:
        raise _TroubleError(f"cannot {verb} {_short(path)}: {_reason(e)}") from e


def _short(path: str) -> str:
    """Directory and name, as people know them from the home: `logs/tailscaled.log`."""
    return os.path.join(os.path.basename(os.path.dirname(path)), os.path.basename(path))


def _reason(e: OSError) -> str:
    text = e.strerror or str(e)
    return text[:1].lower() + text[1:]


def _marker(lines: int, size: int) -> bytes:
    if not size:
        return b""
    text = f"tazpod-net: {lines} lines ({size} bytes) were dropped here: the log could not take them in time\n"
    return text.encode()


def _text_lines(text: bytes) -> list[str]:
    """The last lines of a piece that was cut out anywhere; an unfinished last one counts."""
    lines = text.decode("utf-8", "replace").split("\n")
    return [line for line in lines if line][-_TAIL_LINES:]


def _create_locked(new: str, path: str) -> int:
    """Creates a file, locks it, then names it `path`; the lock belongs to the returned open file description.

    In this order, whoever finds a spool unlocked knows that no daemon can live on it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        os.unlink(new)  # of a supervisor that was killed before the rename
    fd = os.open(new, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(new, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    try:
        return not is_lock_free(fd)
    finally:
        os.close(fd)


def _has_as_stderr(pid: int, wanted: os.stat_result) -> bool:
    try:
        found = os.stat(f"/proc/{pid}/fd/2")
    except OSError:  # it ended, has no fd 2, or belongs to somebody else
        return False
    return (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev)


def _read_file(path: str) -> bytes:
    """The file's bytes, 1 MiB at most; empty if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except OSError:
        return b""
    try:
        return os.read(fd, _BATCH)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _replace_file(path: str, data: bytes) -> None:
    new = path + ".new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.replace(new, path)
