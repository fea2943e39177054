"""Many `up` at the same moment from nothing: one daemon, every exit code 0, and how long the slowest took."""

import os
import statistics
import time
from pathlib import Path

from benchmarks.contestants import OURS, Tazpod
from benchmarks.figures import Budget, Facts, Section, Series, Table
from benchmarks.rounds import calm
from benchmarks.stage import Stage, Started, tail
from benchmarks.watching import processes_with

COUNT_EVERY = 0.25  # seconds
HOW = (
    "Shells stand ready behind a FIFO and are let go at once; each runs `up` (wait for ready) on the same home, where "
    "nothing runs and nothing was. From the letting go to the end of each. Daemons are counted by their command line, "
    "four times a second: looking costs the machine that is measured."
)


def run(*, quick: bool) -> Section:
    """200 at once, three times; the budget is for the slowest."""
    size, rounds = (20, 1) if quick else (200, 3)
    slowest: list[float] = []
    median: list[float] = []
    rows: list[tuple[str, ...]] = []
    with Stage() as stage:
        for number in range(rounds):
            herd = _Herd(stage, size)
            herd.let_go()
            slowest.append(max(herd.took))
            median.append(statistics.median(herd.took))
            rows.append((str(number + 1), str(size), str(herd.failed), str(herd.most), herd.said))
            herd.tazpod.stop()
            stage.forget_nodes()
    table = Table(
        f"{size} at once",
        "s",
        [Series("slowest", slowest, Budget(5.0, "value")), Series("half were done within", median)],
    )
    facts = Facts("answers", ("round", "started", "not exit 0", "most daemons at once", "first complaint"), rows)
    return Section("herd", f"{size} simultaneous {OURS} up", HOW, [table, facts])


class _Herd:
    """One round."""

    def __init__(self, stage: Stage, size: int) -> None:
        self.tazpod = Tazpod(stage, "userspace")
        self.took: list[float] = []
        self.failed = 0
        self.most = 0
        self.said = ""
        self._gate = self.tazpod.output.parent / "gate"
        os.mkfifo(self._gate)
        self._outputs = [self.tazpod.output.parent / f"up{n}" for n in range(size)]
        self._all = [self._wait_at_gate(stage, output) for output in self._outputs]

    def _wait_at_gate(self, stage: Stage, output: Path) -> Started:
        program = f'read -r _ <"{self._gate}"; exec "$@"'
        return stage.launch(["sh", "-c", program, "sh", *self.tazpod.argv("up")], self.tazpod.env, output)

    def let_go(self) -> None:
        """Opens the gate and watches until all have ended."""
        waiting = {started.process.pid: started for started in self._all}
        fd = os.open(self._gate, os.O_RDWR)  # both ends: nobody who opens it from now on waits
        time.sleep(0.5)  # all of them stand in `read`
        calm()
        began = time.monotonic()
        os.write(fd, b"\n" * len(waiting))
        looked = 0.0
        while waiting:
            for pid in [p for p, started in waiting.items() if started.process.poll() is not None]:
                self._ended(waiting.pop(pid), time.monotonic() - began)
            if time.monotonic() - looked > COUNT_EVERY:
                self._count()
                looked = time.monotonic()
            time.sleep(0.005)
        os.close(fd)

    def _ended(self, started: Started, took: float) -> None:
        self.took.append(took)
        if started.process.returncode != 0:
            self.failed += 1
            self.said = self.said or tail(self._outputs[self._all.index(started)]).strip()

    def _count(self) -> None:
        self.most = max(self.most, len(processes_with(f"--socket={self.tazpod.socket}", program="tailscaled")))
