"""Reading the log: last lines, following, and the run before the last exit."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.adapters import logreader
from tazpod_net.adapters.logreader import follow, previous_run, tail_lines
from tazpod_net.adapters.spool import Spool
from tazpod_net.core.lines import LineRules
from tazpod_net.errors import TazpodNetError
from tests.support import spool_rig
from tests.support.eventually import eventually
from tests.support.spool_home import SpoolHome, numbered

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SpoolHome]:
    """A new home."""
    home = SpoolHome(tmp_path)
    yield home
    home.close()


def run(spool: Spool, data: bytes, pid: int = 1) -> None:
    """One whole run of a daemon, pumped."""
    fd = spool.open_for_daemon()
    spool.begin_run(pid, "2026-01-01T00:00:00Z")
    os.write(fd, data)
    os.close(fd)
    spool.flush()


def texts(data: bytes) -> list[str]:
    """The lines of `data` as people see them."""
    return data.decode().splitlines()


def append(path: str, data: bytes) -> None:
    """As `echo >>` does."""
    with open(path, "ab") as file:
        file.write(data)


# -- the last lines


@pytest.mark.parametrize("count", [0, 1, 3, 999, 1000, 1001, 5000])
def test_last_lines_across_rotated_files(home: SpoolHome, count: int) -> None:
    """More lines than the newest file holds come from the older ones, oldest first."""
    run(home.spool(max_bytes=3000), numbered(0, 1000))
    assert len(home.log_files()) > 5
    assert list(tail_lines(home.log, count)) == texts(numbered(max(0, 1000 - count), 1000))
    assert list(tail_lines(home.log, None)) == texts(numbered(0, 1000))


LINES = st.lists(st.text("ab\xe9 ", max_size=9), max_size=5)


@given(st.lists(LINES, min_size=1, max_size=4), st.integers(0, 25), st.integers(1, 9))
def test_last_lines_whatever_the_block(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], count: int, block: int
) -> None:
    """Empty lines, empty files, lines longer than what is read at once: always the last ones."""
    log = str(tmp_path_factory.mktemp("logs") / "log")
    for number, lines in enumerate(reversed(files)):
        Path(f"{log}.{number}" if number else log).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    everything = [line for lines in files for line in lines]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logreader, "_BLOCK", block)
        assert list(tail_lines(log, count)) == (everything[-count:] if count else [])
        assert list(tail_lines(log, None)) == everything


def test_unfinished_last_line_is_shown(home: SpoolHome) -> None:
    """What a person sees with `cat` is there, too, and bytes that are no text do not matter."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(b"one\ntwo \xff")
    assert list(tail_lines(home.log, 2)) == ["one", "two \N{REPLACEMENT CHARACTER}"]
    assert list(tail_lines(home.log, 1)) == ["two \N{REPLACEMENT CHARACTER}"]


def test_no_log_is_said(home: SpoolHome) -> None:
    """Without a log there is one line that says so; a log that cannot be read is named."""
    with pytest.raises(TazpodNetError, match="there is no log at"):
        tail_lines(home.log, 10)
    os.makedirs(os.path.dirname(home.log))
    with pytest.raises(TazpodNetError, match="there is no log at"):
        tail_lines(home.log, 10)
    os.symlink(home.log, home.log)
    with pytest.raises(TazpodNetError, match=r"cannot read .*tailscaled\.log"):
        tail_lines(home.log, 10)


def test_stopping_early_leaves_no_file_open(home: SpoolHome) -> None:
    """A reader whose output nobody wants any more closes what it opened."""
    run(home.spool(max_bytes=3000), numbered(0, 1000))
    before = os.listdir("/proc/self/fd")
    for reader in (tail_lines(home.log, None), follow(home.log, 10)):
        next(reader)
        del reader
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- following


def followed(path: str, count: int | None, *steps: Callable[[], object]) -> list[str]:
    """All lines that a follower shows while `steps` happen, each when there is nothing new to show."""
    coming = iter(steps)

    def pause() -> bool:
        step = next(coming, None)
        if step is not None:
            step()
        return step is not None

    return [line for burst in follow(path, count, pause=pause) for line in burst]


def test_following_begins_with_the_last_lines(home: SpoolHome) -> None:
    """First the last lines, then the new ones; an unfinished line when it is finished."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(b"one\ntwo\nth")
    shown = followed(
        home.log,
        1,
        lambda: append(home.log, b"ree\n"),
        lambda: append(home.log, b"fo"),
        lambda: append(home.log, b"ur\n"),
    )
    assert shown == ["two", "three", "four"]


def test_following_waits_for_the_log(home: SpoolHome) -> None:
    """A log that is not there yet is shown from its beginning."""
    shown = followed(home.log, 5, lambda: None, lambda: run(home.spool(max_bytes=3000), numbered(0, 500)))
    assert shown == texts(numbered(0, 500))


@pytest.mark.parametrize("files", [0, 1, 50])
def test_following_goes_through_rotations(home: SpoolHome, files: int) -> None:
    """Rotated once between two looks, or many times: what still exists is shown once, in order."""
    spool = home.spool(max_bytes=3000, files=files)
    run(spool, numbered(0, 300))
    shown = followed(
        home.log,
        None,
        lambda: run(spool, numbered(300, 310)),
        lambda: run(spool, numbered(310, 400)),
        lambda: run(spool, numbered(400, 2000)),
        lambda: run(spool, numbered(2000, 2001)),
    )
    assert shown[-1:] == texts(numbered(2000, 2001))
    assert shown == sorted(set(shown))
    if files == 50:
        assert shown == texts(numbered(0, 2001))


def test_following_shows_no_line_twice_after_a_crash(home: SpoolHome) -> None:
    """Lines that were written, shown, cut off by the next supervisor and written again are shown once."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(numbered(0, 10))

    def crash_and_recover() -> None:
        os.truncate(home.log, len(numbered(0, 12)))

    shown = followed(
        home.log,
        0,
        lambda: append(home.log, numbered(10, 15)),
        crash_and_recover,
        lambda: append(home.log, numbered(12, 14)),
        lambda: append(home.log, numbered(14, 20)),
        lambda: append(home.log, numbered(20, 21)),
    )
    assert shown == texts(numbered(10, 21))


def test_following_when_it_comes_back_otherwise(home: SpoolHome) -> None:
    """Lines that differ from those which were shown before the cut are new."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(numbered(0, 10))

    def cut_and_go_on() -> None:
        os.truncate(home.log, len(numbered(0, 5)))
        append(home.log, numbered(5, 6) + b"other\n")

    shown = followed(home.log, 0, cut_and_go_on, lambda: append(home.log, numbered(7, 8)))
    assert shown == ["other", *texts(numbered(7, 8))]


@pytest.mark.parametrize("again", [0, 3])
def test_following_a_log_emptied_by_a_person(home: SpoolHome, again: int) -> None:
    """After `: > tailscaled.log` everything in it is new, whether it was seen empty or not."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(numbered(0, 100))

    def empty() -> None:
        os.truncate(home.log, 0)
        append(home.log, numbered(200, 200 + again))

    shown = followed(home.log, 1, empty, lambda: append(home.log, numbered(300, 310)))
    assert shown == texts(numbered(99, 100) + numbered(200, 200 + again) + numbered(300, 310))


@pytest.mark.parametrize("later", [False, True])
def test_following_a_log_moved_away_by_a_person(home: SpoolHome, later: bool) -> None:
    """The moved file is shown to its end, then the new one; older files, which were there before, are not."""
    run(home.spool(max_bytes=3000), numbered(0, 300))
    last = Path(home.log).read_bytes()

    def move() -> None:
        append(home.log, b"last\n")
        os.rename(home.log, home.state + "/moved")
        if not later:
            create()

    def create() -> None:
        Path(home.log).write_bytes(b"new\n")

    shown = followed(home.log, 0, move, create)
    assert last
    assert shown == ["last", "new"]


def test_unfinished_end_of_a_file_that_was_left(home: SpoolHome) -> None:
    """What has no newline in a file that is gone will get none: it is shown as it is."""
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(b"one\nhalf")

    def replace() -> None:
        os.rename(home.log, home.log + ".1")
        Path(home.log).write_bytes(b"new\n")

    assert followed(home.log, 1, replace) == ["one", "half", "new"]


def test_line_longer_than_what_is_remembered(home: SpoolHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor reading stops at a line without end; what was shown long ago is forgotten."""
    monkeypatch.setattr(logreader, "_BLOCK", 100)
    monkeypatch.setattr(logreader, "_REMEMBERED", 300)
    os.makedirs(os.path.dirname(home.log))
    Path(home.log).write_bytes(b"")
    shown = followed(
        home.log,
        0,
        lambda: append(home.log, b"x" * 1050 + b"\n"),
        lambda: append(home.log, b"end\n"),
        lambda: os.truncate(home.log, 10),
        lambda: append(home.log, b"\n"),
    )
    assert "".join(shown) == "x" * 1050 + "end" + "x" * 10


FOLLOW = """
import sys
from tazpod_net.adapters.logreader import follow
for burst in follow(sys.argv[1], None):
    sys.stdout.write("".join(line + "\\n" for line in burst))
    sys.stdout.flush()
"""


def test_following_through_kills_and_rotations(home: SpoolHome, tmp_path: Path) -> None:
    """A follower beside a supervisor that is killed again and again sees each line once, in order."""
    output = tmp_path / "followed"
    with (
        output.open("wb") as file,
        subprocess.Popen([sys.executable, "-c", FOLLOW, home.log], stdout=file, cwd=REPOSITORY) as follower,
    ):
        command = [sys.executable, "-m", "tests.support.spool_rig", "campaign", str(tmp_path), "60", "3"]
        done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
        eventually(lambda: output.stat().st_size >= len(home.log_bytes()))
        follower.terminate()
    answer = json.loads(done.stdout)
    assert answer["difference"] is None
    assert spool_rig.difference(output.read_bytes(), answer["runs"] * spool_rig.RUN_LINES) is None


# -- the run before


def test_previous_run_while_one_goes_on(home: SpoolHome) -> None:
    """Its lines only, from its first to its last, wherever the rotations left them."""
    spool = home.spool(max_bytes=3000)
    run(spool, numbered(0, 100))
    run(spool, numbered(100, 500))
    fd = spool.open_for_daemon()
    spool.begin_run(3, "2026-01-01T00:00:00Z")
    assert list(previous_run(home.state, home.log)) == texts(numbered(100, 500))
    os.write(fd, numbered(500, 900))
    spool.flush()
    assert list(previous_run(home.state, home.log)) == texts(numbered(100, 500))
    assert list(previous_run(home.state, home.log, 2)) == texts(numbered(498, 500))
    os.close(fd)
    spool.flush()
    assert list(previous_run(home.state, home.log)) == texts(numbered(500, 900))


def test_previous_run_after_a_crash_of_the_supervisor(home: SpoolHome) -> None:
    """A run whose daemon ended while no supervisor was there, and whose start nobody noted, is a run, too."""
    fd = home.spool().open_for_daemon()
    os.write(fd, numbered(0, 10))
    os.close(fd)
    spool = home.spool()
    os.close(spool.open_for_daemon())
    spool.flush()
    run(spool, numbered(10, 20))
    os.close(spool.open_for_daemon())
    assert list(previous_run(home.state, home.log)) == texts(numbered(10, 20))


def test_previous_run_that_said_nothing(home: SpoolHome) -> None:
    """A daemon that ended without a word has no lines, and not those of another."""
    spool = home.spool()
    run(spool, numbered(0, 10))
    run(spool, b"")
    assert list(previous_run(home.state, home.log)) == []


def test_previous_run_whose_lines_were_dropped(home: SpoolHome) -> None:
    """Filtered lines do not shift the borders of the runs."""
    spool = home.spool(rules=LineRules(drop=(re.compile(rb"noise"),)))
    run(spool, b"noise\n")
    run(spool, b"noise\nlast words\n")
    run(spool, b"noise\n")
    fd = spool.open_for_daemon()
    spool.begin_run(4, "2026-01-01T00:00:00Z")
    assert list(previous_run(home.state, home.log)) == []
    os.write(fd, b"music\n")
    os.close(fd)
    spool.flush()
    assert list(previous_run(home.state, home.log)) == ["music"]


def test_previous_run_that_is_partly_rotated_away(home: SpoolHome) -> None:
    """What is left of it is shown, and when nothing is left, that is said."""
    spool = home.spool(max_bytes=3000, files=2)
    run(spool, numbered(0, 10))
    run(spool, numbered(10, 500))
    run(spool, numbered(500, 501))
    fd = spool.open_for_daemon()
    spool.begin_run(4, "2026-01-01T00:00:00Z")
    assert list(previous_run(home.state, home.log)) == texts(numbered(500, 501))
    os.write(fd, numbered(501, 900))
    spool.flush()
    with pytest.raises(TazpodNetError, match="rotated away"):
        previous_run(home.state, home.log)
    os.close(fd)
    spool.flush()
    shown = list(previous_run(home.state, home.log))
    assert shown == texts(numbered(501, 900))[-len(shown) :]
    assert len(shown) > 150


def test_previous_run_in_a_log_that_was_emptied(home: SpoolHome) -> None:
    """A person who emptied the log leaves an empty run, not somebody else's lines."""
    spool = home.spool()
    run(spool, numbered(0, 10))
    run(spool, numbered(10, 20))
    os.truncate(home.log, 0)
    fd = spool.open_for_daemon()
    os.write(fd, b"new\n")
    spool.flush()
    os.close(fd)
    assert list(previous_run(home.state, home.log)) == []


def test_no_previous_run_is_said(home: SpoolHome) -> None:
    """Before the first exit, and without any record."""
    with pytest.raises(TazpodNetError, match="there is no previous run"):
        previous_run(home.state, home.log)
    spool = home.spool()
    fd = spool.open_for_daemon()
    spool.begin_run(1, "2026-01-01T00:00:00Z")
    os.write(fd, b"first\n")
    spool.flush()
    with pytest.raises(TazpodNetError, match="there is no previous run"):
        previous_run(home.state, home.log)
    os.close(fd)
