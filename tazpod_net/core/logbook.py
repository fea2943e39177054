"""What is remembered about the log: the checkpoint between spool and log, and where each run of the daemon begins.

Pure: records to bytes and back, and the decisions at a start. It must not touch files; `adapters/spool.py` writes
these records, `adapters/logreader.py` reads the runs.
"""

import struct
import zlib
from collections.abc import Collection, Iterable

import msgspec

SLOTS = 8
"""Spools that one checkpoint can hold. More than one exists only while something of an earlier run is left over."""
MAX_RUNS = 16

_MAGIC = b"tznlog1\n"
_HEAD = struct.Struct("<8sQQQQQ")
_SLOT = struct.Struct("<QQQQ")
_CRC = struct.Struct("<I")
RECORD_SIZE = _HEAD.size + SLOTS * _SLOT.size + _CRC.size
"""Bytes of a packed checkpoint: below a page, so that one `pwrite` of it is never seen half done after a kill."""


class SpoolMark(msgspec.Struct, frozen=True):
    """How far a spool has been moved: bytes consumed, and bytes given back to the filesystem."""

    seq: int
    inode: int
    offset: int
    punched: int


class Checkpoint(msgspec.Struct, frozen=True):
    """The one record that says which bytes of the spools are in the log.

    `last_seq` is the highest spool number ever used (numbers are never used twice); `dropped_lines` and
    `dropped_bytes` were thrown away, and the log does not say so yet.
    """

    last_seq: int = 0
    log_inode: int = 0
    log_size: int = 0
    dropped_lines: int = 0
    dropped_bytes: int = 0
    spools: tuple[SpoolMark, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """One run of the daemon and where its lines begin. `inode` None: it wrote none yet; 0: rotated away."""

    seq: int
    pid: int | None = None
    started: str | None = None
    inode: int | None = None
    offset: int = 0
    ended: bool = False


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    """RECORD_SIZE bytes. The caller sees to it that there are at most SLOTS spools."""
    c = checkpoint
    head = _HEAD.pack(_MAGIC, c.last_seq, c.log_inode, c.log_size, c.dropped_lines, c.dropped_bytes)
    slots = b"".join(_SLOT.pack(m.seq, m.inode, m.offset, m.punched) for m in c.spools)
    body = head + slots + bytes((SLOTS - len(c.spools)) * _SLOT.size)
    return body + _CRC.pack(zlib.crc32(body))


def unpack_checkpoint(data: bytes) -> Checkpoint | None:
    """The checkpoint in `data`; None if it is missing, torn or of another program."""
    body, crc = data[: RECORD_SIZE - _CRC.size], data[RECORD_SIZE - _CRC.size : RECORD_SIZE]
    if len(crc) < _CRC.size or not body.startswith(_MAGIC) or _CRC.unpack(crc)[0] != zlib.crc32(body):
        return None
    marks = tuple(SpoolMark(*slot) for slot in _SLOT.iter_unpack(body[_HEAD.size :]) if slot[0])
    _magic, last_seq, inode, size, lines, dropped = _HEAD.unpack_from(body)
    return Checkpoint(last_seq, inode, size, lines, dropped, marks)


def size_to_keep(checkpoint: Checkpoint | None, inode: int, size: int, rotated: Collection[int]) -> int:
    """How many bytes of the log (now `inode`, `size`) stay after a restart; `rotated`: inodes of the old files.

    The file that the checkpoint names: what was written after it is cut off, and comes again from the spool; if it
    is smaller, a person has cut it. Another file while the named one is among the rotated: the crash was inside a
    rotation, and nothing of ours can be in the new file yet. Another file altogether (a copied home, a file that a
    person put there) or no checkpoint: all of it stays.
    """
    if checkpoint is None:
        return size
    if inode == checkpoint.log_inode:
        return min(size, checkpoint.log_size)
    return 0 if checkpoint.log_inode in rotated else size


def decode_runs(data: bytes) -> list[Run]:
    """Runs, oldest first; none if `data` is not what `encode_runs` writes."""
    try:
        return msgspec.json.decode(data, type=list[Run])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def encode_runs(runs: Iterable[Run]) -> bytes:
    """JSON, one run per line for people."""
    return b"[\n" + b",\n".join(msgspec.json.encode(run) for run in runs) + b"\n]\n"


def put_run(runs: list[Run], run: Run) -> list[Run]:
    """`runs` with the one of this `seq` replaced or added; at most the MAX_RUNS newest are kept."""
    others = [r for r in runs if r.seq != run.seq]
    return sorted([*others, run], key=lambda r: r.seq)[-MAX_RUNS:]


def find_run(runs: list[Run], seq: int) -> Run:
    """The run of this spool; a new record if there is none."""
    return next((run for run in runs if run.seq == seq), Run(seq))


def end_runs_except(runs: list[Run], seqs: Collection[int]) -> list[Run]:
    """`runs` where those without a spool are marked as ended."""
    ended = msgspec.structs.replace
    return [run if run.ended or run.seq in seqs else ended(run, ended=True) for run in runs]


def runs_after_rotation(runs: list[Run], inodes: Collection[int]) -> list[Run]:
    """`runs` where those that begin in a file which is gone say so: its inode number may soon name another file."""
    gone = msgspec.structs.replace
    return [run if run.inode is None or run.inode in inodes else gone(run, inode=0, offset=0) for run in runs]


def previous_run(runs: list[Run]) -> tuple[Run, Run | None] | None:
    """The run before the last exit, and the one whose first line ends it (None: it goes to the end of the log).

    That is the last run if it has ended, else the one before it. None: there was no exit.
    """
    index = len(runs) - 1 if runs and runs[-1].ended else len(runs) - 2
    if index < 0:
        return None
    return runs[index], next((run for run in runs[index + 1 :] if run.inode is not None), None)
