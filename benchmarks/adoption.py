"""`kill -9` of the supervisor, and a new one: does it keep the daemon, and is a line of its log lost?"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.contestants import OURS, Tazpod
from benchmarks.figures import Facts, Section
from benchmarks.numbered import balance, noisy_daemon, stop_writers
from benchmarks.stage import NotHereError, Stage
from benchmarks.supervisors import ALL, Supervisor
from benchmarks.watching import processes_with, wait_for_end, wait_running

PAUSE_S = 0.0005  # between numbered lines
HOW = (
    "Each supervisor keeps a tailscaled that writes a numbered line every {pause:g} ms beside its own. After 1 s the "
    "process that watches the daemon is killed with SIGKILL; 0.2 s later a new one is started (s6 and runit do that "
    "themselves) and all is looked at for {watch:g} s, 200 times a second. Then the writers are ended, and the log is "
    "compared with what the kernel had taken from them. Kept: the old daemon lives and no other was started."
)


class Round(NamedTuple):
    """What was seen."""

    kept: bool
    most: int
    pids: int
    written: int
    lost: int
    doubled: int


class _Watched(Protocol):
    """What a round needs of a contestant."""

    socket: Path
    logs: Path

    def start(self) -> object: ...
    def watcher(self) -> int: ...
    def watch_again(self) -> object: ...
    def stop(self) -> None: ...


class _Ours:
    """tazpod-net in the shape of the peers."""

    def __init__(self, stage: Stage, daemon: Path) -> None:
        self._tazpod = Tazpod(stage, "userspace", TAZPOD_NET_DAEMON_BINARY=str(daemon))
        self.socket = self._tazpod.socket
        self.logs = self._tazpod.home / "logs"

    def start(self) -> None:
        self._tazpod.up()

    def watcher(self) -> int:
        return self._tazpod.supervisor

    def watch_again(self) -> None:
        self._tazpod.up()
        wait_running(self.socket)

    def stop(self) -> None:
        self._tazpod.stop()


def run(*, quick: bool) -> Section:
    """Some rounds of each."""
    rounds, watch = (1, 1.5) if quick else (5, 8.0)
    rows: list[tuple[str, ...]] = []
    absent: list[str] = []
    with Stage() as stage:
        makers: dict[str, Callable[[Path], _Watched]] = {OURS: lambda daemon: _Ours(stage, daemon)}
        makers |= {kind.name: lambda daemon, k=kind: _peer(stage, k, daemon) for kind in ALL}  # type: ignore[misc]
        for name, make in makers.items():
            try:
                rows.append(_row(name, [_round(stage, make, watch) for _ in range(rounds)]))
            except NotHereError as e:
                absent.append(str(e))
    header = ("", "rounds", "daemon kept", "most daemons at once", "daemons in all", "lines", "lost", "doubled")
    how = HOW.format(pause=PAUSE_S * 1000, watch=watch)
    return Section("adoption", "kill -9 of the supervisor", how, [Facts("side by side", header, rows)], absent)


def _peer(stage: Stage, kind: type[Supervisor], daemon: Path) -> _Watched:
    return kind(stage, daemon)


def _row(name: str, rounds: list[Round]) -> tuple[str, ...]:
    return (
        name,
        str(len(rounds)),
        f"{sum(r.kept for r in rounds)} of {len(rounds)}",
        str(max(r.most for r in rounds)),
        str(sum(r.pids for r in rounds)),
        *(f"{sum(column):,}" for column in zip(*((r.written, r.lost, r.doubled) for r in rounds), strict=True)),
    )


def _round(stage: Stage, make: Callable[[Path], _Watched], watch: float) -> Round:
    directory = stage.fresh("n")
    record = directory / "record"
    noisy = noisy_daemon(directory, stage.lab.tailscaled, lines=200_000, pause=PAUSE_S, record=record)
    contestant = make(noisy)
    contestant.start()
    try:
        seen = _Seen(contestant.socket)
        seen.look_for(1.0)
        before = set(seen.pids)
        watcher = contestant.watcher()
        os.kill(watcher, signal.SIGKILL)
        wait_for_end(watcher)
        seen.look_for(0.2)
        contestant.watch_again()
        seen.look_for(watch)
        kept = seen.now() == before == seen.pids
        stop_writers(record)
        books = balance(record, [path for path in contestant.logs.iterdir() if path.is_file()])
        if not kept:
            _end_orphans(before & seen.now())
    finally:
        contestant.stop()
    return Round(kept, seen.most, len(seen.pids), books.written, books.lost, books.doubled)


def _end_orphans(daemons: set[int]) -> None:
    """A daemon that nobody watches any more holds its logger's pipe open, and with it the end of s6 and runit."""
    for pid in daemons:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)


class _Seen:
    """Daemons on one socket, looked at again and again."""

    def __init__(self, socket: Path) -> None:
        self._argument = f"--socket={socket}"
        self.pids: set[int] = set()
        self.most = 0

    def now(self) -> set[int]:
        """Pids that live now."""
        return set(processes_with(self._argument, program="tailscaled"))

    def look_for(self, seconds: float) -> None:
        """Looks for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.now()
            self.pids |= found
            self.most = max(self.most, len(found))
            time.sleep(0.005)
