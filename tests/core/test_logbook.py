"""Checkpoint records, the decision at a start, and the list of runs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.logbook import (
    MAX_RUNS,
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
    previous_run,
    put_run,
    runs_after_rotation,
    size_to_keep,
    unpack_checkpoint,
)

NUMBERS = st.integers(0, 2**64 - 1)
MARKS = st.builds(SpoolMark, st.integers(1, 2**64 - 1), NUMBERS, NUMBERS, NUMBERS)
CHECKPOINTS = st.builds(
    Checkpoint,
    *[NUMBERS] * 5,
    spools=st.lists(MARKS, max_size=SLOTS).map(tuple),
)


@given(CHECKPOINTS)
def test_checkpoint_survives_packing(checkpoint: Checkpoint) -> None:
    """What is packed comes back, always in the same number of bytes, also when more follows in the file."""
    data = pack_checkpoint(checkpoint)
    assert len(data) == RECORD_SIZE
    assert unpack_checkpoint(data + b"rest") == checkpoint


@given(CHECKPOINTS, st.integers(0, RECORD_SIZE - 1), st.integers(1, 255))
def test_damaged_checkpoint_is_none(checkpoint: Checkpoint, at: int, change: int) -> None:
    """A record with any byte changed, or cut anywhere, is not believed."""
    data = pack_checkpoint(checkpoint)
    assert unpack_checkpoint(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]) is None
    assert unpack_checkpoint(data[:at]) is None


def test_empty_page_is_no_checkpoint() -> None:
    """A file of zeros, as a power cut leaves it, is not a checkpoint."""
    assert unpack_checkpoint(bytes(4096)) is None


@pytest.mark.parametrize(
    ("inode", "size", "rotated", "kept"),
    [
        (7, 150, [], 100),  # written behind the checkpoint: comes again
        (7, 100, [], 100),
        (7, 60, [], 60),  # a person cut it
        (8, 50, [7], 0),  # killed inside a rotation
        (8, 50, [], 50),  # a copied home, or another file put there
    ],
)
def test_what_is_kept_of_the_log_at_a_start(inode: int, size: int, rotated: list[int], kept: int) -> None:
    """The table of the start, for a checkpoint of 100 bytes in inode 7."""
    assert size_to_keep(Checkpoint(log_inode=7, log_size=100), inode, size, rotated) == kept


def test_without_a_checkpoint_all_is_kept() -> None:
    """A log from before this program, or beside a lost checkpoint, is not touched."""
    assert size_to_keep(None, 7, 150, []) == 150


def test_runs_survive_encoding() -> None:
    """Runs come back as they were; a damaged file is an empty list."""
    runs = [Run(1, pid=5, started="2026-01-01T00:00:00Z", inode=9, offset=3, ended=True), Run(2)]
    data = encode_runs(runs)
    assert decode_runs(data) == runs
    assert decode_runs(encode_runs([])) == []
    for damaged in (b"", data[:-5], b"\xff\xfe", b'[{"seq": "one"}]', b"{}"):
        assert decode_runs(damaged) == []


def test_only_the_newest_runs_are_kept() -> None:
    """The list is bounded, ordered, and has each run once."""
    runs: list[Run] = []
    for seq in range(1, MAX_RUNS + 4):
        runs = put_run(runs, Run(seq))
    runs = put_run(runs, Run(MAX_RUNS + 3, pid=1))
    assert [run.seq for run in runs] == list(range(4, MAX_RUNS + 4))
    assert find_run(runs, MAX_RUNS + 3).pid == 1
    assert find_run(runs, 99) == Run(99)


def test_runs_without_a_spool_have_ended() -> None:
    """Only a run whose spool is there can still go on."""
    assert end_runs_except([Run(1), Run(2)], {2}) == [Run(1, ended=True), Run(2)]


def test_runs_whose_file_is_gone_say_so() -> None:
    """After a rotation, an inode number that is free again must not lead to another file."""
    runs = [Run(1, inode=10, offset=5), Run(2, inode=11, offset=6), Run(3)]
    assert runs_after_rotation(runs, {11}) == [Run(1, inode=0), Run(2, inode=11, offset=6), Run(3)]


WITH_LINES = [Run(1, inode=10), Run(2, inode=10, offset=50), Run(3, inode=11)]


def test_previous_run_is_the_one_before_the_one_that_goes_on() -> None:
    """While a daemon runs, the previous run is the one before it."""
    assert previous_run(WITH_LINES) == (WITH_LINES[1], WITH_LINES[2])


def test_previous_run_is_the_last_one_once_that_has_ended() -> None:
    """While nothing runs, the previous run is the one that ended last."""
    ended = [*WITH_LINES[:2], msgspec.structs.replace(WITH_LINES[2], ended=True)]
    assert previous_run(ended) == (ended[2], None)


def test_previous_run_ends_where_the_next_lines_begin() -> None:
    """A run that has not written anything yet ends nothing."""
    assert previous_run([WITH_LINES[0], Run(2), Run(3)]) == (Run(2), None)
    assert previous_run([WITH_LINES[0], Run(2)]) == (WITH_LINES[0], None)


def test_no_previous_run() -> None:
    """Before the first exit there is none."""
    assert previous_run([]) is None
    assert previous_run([Run(1)]) is None
