"""The log's code ended at every single step that changes the disk, and at every step of the recovery after it."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tazpod_net.adapters import spool as spool_module
from tests.support.spool_home import SpoolHome, numbered
from tests.support.spool_steps import CrashError, Steps

PLENTY = 10_000  # steps; more than any scenario has


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The step counter, over batches so small that little data has many steps."""
    monkeypatch.setattr(spool_module, "_BATCH", 4096)
    monkeypatch.setattr(spool_module, "_PUNCH", 4096)
    return Steps(monkeypatch)


def attempt(home: SpoolHome, steps: Steps, last: int, *, halfway: bool = False, files: int = 50) -> bool:
    """One supervisor's life, up to step `last`; True if it came to its end without that."""
    steps.arm(last, halfway=halfway)
    try:
        home.spool(max_bytes=9000, files=files).flush()
    except CrashError:
        return False
    finally:
        steps.disarm()
        home.close()
    return True


def prepared(root: Path, *, earlier: int, runs: int) -> SpoolHome:
    """A home with `earlier` lines in its log already, and two dead runs with spools left over, 800 lines each."""
    home = SpoolHome(root)
    spool = home.spool(max_bytes=9000, files=50)
    fd = spool.open_for_daemon()
    os.write(fd, numbered(0, earlier))
    spool.flush()
    os.write(fd, numbered(earlier, earlier + 800))
    os.close(fd)
    for run in range(1, runs):
        fd = spool.open_for_daemon()
        os.write(fd, numbered(earlier + run * 800, earlier + (run + 1) * 800)[: -1 if run == runs - 1 else None])
        os.close(fd)
    home.close()
    return home


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize("earlier", [0, 700])
def test_end_at_any_step_loses_and_doubles_nothing(steps: Steps, tmp_path: Path, earlier: int, halfway: bool) -> None:
    """Ended at step N for every N, rotation, punching and removal included, the next start makes the log whole."""
    for last in range(PLENTY):
        home = prepared(tmp_path / str(last), earlier=earlier, runs=2)
        finished = attempt(home, steps, last, halfway=halfway)
        made = steps.done
        assert attempt(home, steps, PLENTY)
        assert home.log_bytes() == numbered(0, earlier + 1600), f"ended at step {last}"
        assert home.spools() == []
        assert max(home.sizes()) <= 9000
        if finished:
            break
    assert last > 60
    assert {"replace", "pwrite", "punch", "open", "unlink", "write"} <= set(made)


@pytest.mark.parametrize("files", [0, 1])
def test_end_at_any_step_with_few_old_files(steps: Steps, tmp_path: Path, files: int) -> None:
    """Also where the old log is thrown away, what is there is the end of the lines, without a gap."""
    for last in range(PLENTY):
        home = prepared(tmp_path / str(last), earlier=0, runs=1)
        finished = attempt(home, steps, last, files=files)
        assert attempt(home, steps, PLENTY, files=files)
        assert numbered(0, 800).endswith(home.log_bytes()), f"ended at step {last}"
        assert len(home.log_files()) == files + 1
        assert sum(home.sizes()) > files * 4500
        if finished:
            break
    assert last > 30


def test_end_in_the_recovery_too(steps: Steps, tmp_path: Path) -> None:
    """Ended at every step, and again at the first steps of the next start, and again: nothing changes."""
    for last in range(0, PLENTY, 3):
        home = prepared(tmp_path / str(last), earlier=350, runs=1)
        finished = attempt(home, steps, last, halfway=True)
        for again in range(1, 12):
            attempt(home, steps, again, halfway=bool(again % 2))
        assert attempt(home, steps, PLENTY)
        assert home.log_bytes() == numbered(0, 1150), f"ended at step {last}"
        if finished:
            break
    assert last > 30


ACTS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 150)),
    st.tuples(st.just("crash"), st.integers(0, 40)),
    st.tuples(st.just("pump"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("new run"), st.just(0)),
    st.tuples(st.just("limit"), st.sampled_from([500, 3000, 20_000])),
    st.tuples(st.just("move log"), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTS, max_size=30), st.booleans())
def test_any_history_keeps_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]], halfway: bool
) -> None:
    """Writes, crashes, restarts, new runs, new limits and a log moved away, in any order: each line once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_BATCH", 2048)
        patch.setattr(spool_module, "_PUNCH", 4096)
        history = _History(SpoolHome(tmp_path_factory.mktemp("history")), Steps(patch), halfway=halfway)
        for act, number in acts:
            history.act(act, number)
        assert history.end() == numbered(0, history.written)


class _History:
    """A home through good and bad days. `moved` are the bytes of the logs that a person moved away."""

    def __init__(self, home: SpoolHome, steps: Steps, *, halfway: bool) -> None:
        self.home, self.steps, self.halfway = home, steps, halfway
        self.limit = 3000
        self.written = 0
        self.moved = b""
        self.spool = home.spool(max_bytes=self.limit)
        self.fd = self.spool.open_for_daemon()

    def act(self, act: str, number: int) -> None:
        if act == "write":
            os.write(self.fd, numbered(self.written, self.written + number))
            self.written += number
        elif act == "limit":
            self.limit = number
            self.restart()
        else:
            getattr(self, act.replace(" ", "_"))(*([number] if act == "crash" else []))

    def pump(self) -> None:
        self.spool.pump(8000)

    def crash(self, last: int) -> None:
        self.steps.arm(last, halfway=self.halfway)
        try:
            self.spool.flush()
        except CrashError:
            self.restart()
        finally:
            self.steps.disarm()

    def restart(self) -> None:
        self.steps.disarm()
        self.home.close()
        self.spool = self.home.spool(max_bytes=self.limit)

    def new_run(self) -> None:
        os.close(self.fd)
        self.fd = self.spool.open_for_daemon()

    def move_log(self) -> None:
        """Takes the log away, with all old files, after the supervisor has settled what a crash left."""
        self.spool.recover()
        self.moved += self.home.log_bytes()
        for path in self.home.log_files():
            os.unlink(path)

    def end(self) -> bytes:
        """All lines that ever reached a log."""
        os.close(self.fd)
        self.spool.flush()
        assert self.spool.trouble is None
        assert self.home.spools() == []
        self.home.close()
        return self.moved + self.home.log_bytes()
