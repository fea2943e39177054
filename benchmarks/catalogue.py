"""The names of all benchmarks, in the order of a full run and of the report."""

from typing import NamedTuple, Protocol

from benchmarks import adoption, herd, hook, log, restart, resting, rounds, start, status
from benchmarks.figures import Section


class Run(Protocol):
    """Measures. May raise NotHereError, SetupError (cannot run here) or FailedError (broke)."""

    def __call__(self, *, quick: bool) -> Section:
        """`quick`: few rounds and short waits."""
        ...


class Benchmark(NamedTuple):
    """One line for a person, and the work."""

    summary: str
    run: Run


def measure(name: str, *, quick: bool) -> Section:
    """Runs one benchmark; raises what it may raise."""
    rounds.waits.clear()
    rounds.patience[0] = 0.0 if quick else rounds.PATIENCE
    return BENCHMARKS[name].run(quick=quick)


BENCHMARKS: dict[str, Benchmark] = {
    "start": Benchmark("from nothing to Running, beside containerboot and a start by hand", start.run),
    "restart": Benchmark("killed daemon to Running again, beside a start by hand", restart.run),
    "status": Benchmark("the three forms of status, beside tailscale status", status.run),
    "hook": Benchmark("the shell hook, beside bash -c :", hook.run),
    "memory": Benchmark("memory of the supervisor, beside containerboot, supervisord, s6, runit", resting.run_memory),
    "idle": Benchmark("its wakeups when nothing happens, beside the same", resting.run_idle),
    "herd": Benchmark("200 up at the same moment", herd.run),
    "log": Benchmark("100 MB of log lines through to the rotated files, beside s6-log and svlogd", log.run),
    "adoption": Benchmark("kill -9 of the supervisor, beside supervisord, s6, runit", adoption.run),
}
