"""`status`, `status --json` and `status --short`, beside `tailscale status` on the same daemon."""

import os
import time

from benchmarks.contestants import OURS, Tazpod
from benchmarks.figures import Budget, Section, Series, Table
from benchmarks.rounds import calm, rotate
from benchmarks.stage import FailedError, Stage

PEER = "tailscale status"
BARE = "python -S -c pass"
HOW = (
    "Wall time of the command, from posix_spawn to its reaping, output to a file that nobody reads; all on the same "
    "logged-in daemon. The bare interpreter is the floor under anything written in Python."
)


def run(*, quick: bool) -> Section:
    """Many rounds: a command takes milliseconds."""
    with Stage() as stage:
        tazpod = Tazpod(stage, "userspace")
        tazpod.up()
        commands = {
            f"{OURS} status": tazpod.argv("status"),
            f"{OURS} status --json": tazpod.argv("status", "--json"),
            f"{OURS} status --short": tazpod.argv("status", "--short"),
            PEER: [str(stage.lab.tailscale), f"--socket={tazpod.socket}", "status"],
            BARE: [str(tazpod.program.parent / "python"), "-S", "-c", "pass"],
        }
        timed = {name: _Timed(argv, tazpod.env) for name, argv in commands.items()}
        rotate(timed, 2)  # the page cache is warm for everybody
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 if quick else 40):
            calm()
            for name, values in rotate(timed, 5).items():
                samples[name] += values
        tazpod.stop()
    series = [Series(name, values, Budget(1.5) if name.startswith(OURS) else None) for name, values in samples.items()]
    return Section("status", "what a prompt or a script pays", HOW, [Table("wall time", "ms", series, reference=PEER)])


class _Timed:
    """One run of a command, in milliseconds."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._argv = argv
        self._env = env

    def __call__(self) -> float:
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        began = time.perf_counter()
        pid = os.posix_spawn(self._argv[0], self._argv, self._env, file_actions=quiet)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - began
        if status != 0:
            raise FailedError(f"{' '.join(self._argv[1:])}: exit {os.waitstatus_to_exitcode(status)}")
        return took * 1000
