"""Memory and idle switches of what stays: each supervisor beside the others, at the same time, on quiet daemons.

Both benchmarks wait two minutes first; run together they share that.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.contestants import CONTAINERBOOT, OURS, Containerboot, Tazpod
from benchmarks.figures import Budget, Facts, Section, Series, Table
from benchmarks.stage import NotHereError, Stage
from benchmarks.supervisors import ALL, Supervisor
from benchmarks.watching import memory_kib, race, switches
from tests.support.lab import Mode

MEMORY_HOW = (
    "From smaps_rollup of the supervisor (s6 and runit: scanner, supervisors and logger together), {settle:g} s after "
    "the last of them was logged in, 5 times in turn. PSS shares pages among all that map them, so other Python "
    "programs on the machine make it smaller; RSS is what it would be if nobody shared anything."
)
IDLE_HOW = (
    "Voluntary and involuntary context switches of all threads of the supervisor (s6 and runit: scanner, supervisors "
    "and logger together), from {settle:g} s after the last login on, over {window:g} s, every one at the same time; "
    "each keeps a logged-in tailscaled that nobody uses, all on one tailnet."
)
LOOKS = 5


class Kept(NamedTuple):
    """Whose processes are looked at; `pids` asks anew."""

    name: str
    pids: Callable[[], Sequence[int]]


class Outcome(NamedTuple):
    """What one stay has given: samples by name, and who could not be there."""

    settle: float
    window: float
    memory: dict[str, list[dict[str, float]]]
    idle: dict[str, float]
    by_part: dict[str, list[int]]
    absent: list[str]


_stays: dict[bool, Outcome] = {}


def run_memory(*, quick: bool) -> Section:
    """PSS, and RSS and private memory for the reader."""
    stay = _stay(quick=quick)
    parts = [_memory_table(stay, kind, budget) for kind, budget in (("Pss", 1.0), ("Rss", None), ("Private", None))]
    return Section("memory", "own memory, logged in", MEMORY_HOW.format(settle=stay.settle), parts, stay.absent)


def run_idle(*, quick: bool) -> Section:
    """Switches per minute."""
    stay = _stay(quick=quick)
    series = [
        Series(name, [count], Budget(2.0, "value") if name.startswith(OURS) else None)
        for name, count in stay.idle.items()
    ]
    table = Table("switches of a quiet supervisor", "per minute", series, reference=CONTAINERBOOT)
    rows = [(name, *map(str, counts)) for name, counts in stay.by_part.items()]
    header = ("switches in each fifth of that time", *(f"{i + 1}" for i in range(LOOKS)))
    facts = Facts("when", header, rows)
    how = IDLE_HOW.format(settle=stay.settle, window=stay.window)
    return Section("idle", "wakeups when nothing happens", how, [table, facts], stay.absent)


def _memory_table(stay: Outcome, kind: str, budget: float | None) -> Table:
    series = [
        Series(
            name,
            [sample[kind] / 1024 for sample in samples],
            Budget(budget) if budget and name.startswith(OURS) else None,
        )
        for name, samples in stay.memory.items()
    ]
    return Table(kind.upper() if kind != "Private" else "private pages", "MiB", series, reference=CONTAINERBOOT)


def _stay(*, quick: bool) -> Outcome:
    """Measured once in a process."""
    if quick not in _stays:
        _stays[quick] = _look(settle=3.0, window=5.0) if quick else _look(settle=120.0, window=300.0)
    return _stays[quick]


def _look(*, settle: float, window: float) -> Outcome:
    absent: list[str] = []
    with contextlib.ExitStack() as stages:
        everyone = list(_settled(stages, absent))
        time.sleep(settle)
        memory: dict[str, list[dict[str, float]]] = {kept.name: [] for kept in everyone}
        for _ in range(LOOKS):
            for kept in everyone:
                memory[kept.name].append(memory_kib(kept.pids()))
        counts = [_count(everyone)]
        for _ in range(LOOKS):
            time.sleep(window / LOOKS)
            counts.append(_count(everyone))
    minutes = window / 60
    idle = {name: (counts[-1][name] - counts[0][name]) / minutes for name in memory}
    by_part = {name: [after[name] - before[name] for before, after in itertools.pairwise(counts)] for name in memory}
    return Outcome(settle, window, memory, idle, by_part, absent)


def _count(everyone: Sequence[Kept]) -> dict[str, int]:
    return {kept.name: switches(kept.pids()) for kept in everyone}


def _settled(stages: contextlib.ExitStack, absent: list[str]) -> Iterator[Kept]:
    """Starts everyone and logs them in: userspace on one stage, TUN on its own."""
    stage = stages.enter_context(Stage())
    yield _ours(stage, "userspace")
    try:
        yield _ours(stages.enter_context(Stage("tun")), "tun")
    except NotHereError as e:
        absent.append(f"{OURS} by TUN: {e}")
    peer = Containerboot(stage, "userspace")
    run = peer.start()
    race(run.began, run.socket, run.word)
    yield Kept(CONTAINERBOOT, lambda: [peer.pid])
    for kind in ALL:
        try:
            yield _peer(kind(stage))
        except NotHereError as e:
            absent.append(str(e))


def _ours(stage: Stage, mode: Mode) -> Kept:
    tazpod = Tazpod(stage, mode)
    tazpod.up()
    supervisor = tazpod.supervisor
    return Kept(f"{OURS}, {mode}", lambda: [supervisor])


def _peer(supervisor: Supervisor) -> Kept:
    supervisor.start()
    supervisor.log_in()
    pids = supervisor.pids()
    return Kept(supervisor.name, lambda: pids)
