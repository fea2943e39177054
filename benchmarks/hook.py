"""The shell hook when the daemon lives, beside the same shell without it and `bash -c :`."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Budget, Facts, Section, Series, Table
from benchmarks.rounds import calm, rotate
from benchmarks.stage import FailedError, NotHereError
from tests.support.netns import HERE

HOOK = Path(__file__).resolve().parents[1] / "bashrc.d" / "tazpod-net.sh"
PEER = "bash -c :"
TIMES = 200
HOW = (
    f"The hook is sourced {TIMES} times in one interactive shell on a terminal, its supervisor alive; the shell's own "
    f"clock around the loop, divided by {TIMES}. `{PEER}` is the wall time of a whole process, from posix_spawn to its "
    "reaping: what any command in an rc file would cost. Processes are counted by strace."
)
# Both shells have the clock, zsh in a module.
LOOP = """
[ -z "${ZSH_VERSION-}" ] || zmodload zsh/datetime
began=$EPOCHREALTIME
for each in {1..%d}; do . "$HOOK"; done
ended=$EPOCHREALTIME
echo "took $began $ended"
"""
_TOOK = re.compile(r"took (\d+)[.,](\d{6})\d* (\d+)[.,](\d{6})")


def run(*, quick: bool) -> Section:
    """Both shells that are there."""
    shells = [name for name in ("bash", "zsh") if shutil.which(name)]
    if "bash" not in shells or not shutil.which("script"):
        raise NotHereError("bash or script (util-linux) is not installed")
    with tempfile.TemporaryDirectory(prefix="tzb-") as name:
        directory = Path(name)
        env = _environment(directory)
        timed = {f"hook in {shell}": _Hook(shell, env, directory) for shell in shells}
        contestants: dict[str, Callable[[], float]] = {**timed, PEER: _plain}
        samples: dict[str, list[float]] = {label: [] for label in contestants}
        for _ in range(1 if quick else 20):
            calm()
            for label, values in rotate(contestants, 3).items():
                samples[label] += values
        forks = [(f"hook in {shell}", PEER, "0 more", _forks(shell, env, directory)) for shell in shells]
    budget = Budget(1.0, "value")
    series = [Series(label, values, None if label == PEER else budget) for label, values in samples.items()]
    return Section(
        "hook",
        "what a new shell pays",
        HOW,
        [
            Table("wall time", "ms", series, reference=PEER),
            Facts("processes made", ("what", "peer", "budget", "result"), forks),
        ],
    )


def _environment(directory: Path) -> dict[str, str]:
    """A home whose supervisor lives: this process stands for it."""
    state = directory / "state"
    state.mkdir()
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (state / "short").write_text(f"tailnet: ready tun 100.64.0.1 tazpod\n{os.getpid()} {ticks}\n")
    (directory / "loop").write_text(LOOP % TIMES)
    (directory / "once").write_text('. "$HOOK"\n')
    (directory / "never").write_text(":\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(directory), "TERM": "xterm", "LC_ALL": "C"}
    return {**env, "TAZPOD_NET_HOME": str(directory), "HOOK": str(HOOK)}


def _interactive(shell: str, script: Path) -> list[str]:
    """An interactive shell without start-up files that sources `script`."""
    return [shell, *(["--norc"] if shell == "bash" else ["-f"]), "-ic", f". {script}"]


def _on_terminal(argv: list[str], env: dict[str, str]) -> str:
    done = HERE.run(["script", "-qec", " ".join(f"'{word}'" for word in argv), "/dev/null"], env=env)
    if done.returncode != 0:
        raise FailedError(f"{argv[0]}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class _Hook:
    """The mean of one loop, in milliseconds."""

    def __init__(self, shell: str, env: dict[str, str], directory: Path) -> None:
        self._argv = _interactive(shell, directory / "loop")
        self._env = env

    def __call__(self) -> float:
        found = _TOOK.search(_on_terminal(self._argv, self._env))
        if found is None:
            raise FailedError(f"{self._argv[0]} did not tell the time")
        began, ended = (int(found[i]) * 1_000_000 + int(found[i + 1]) for i in (1, 3))
        return (ended - began) / 1000 / TIMES


def _plain() -> float:
    """One run of `bash -c :`, in milliseconds."""
    began = time.perf_counter()
    subprocess.run(["bash", "-c", ":"], check=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def _forks(shell: str, env: dict[str, str], directory: Path) -> str:
    """How many processes more a shell makes with the hook than without."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    counts = []
    for script in ("never", "once"):
        trace = directory / "trace"
        strace = ["strace", "-f", "-e", "trace=fork,vfork,clone,clone3", "-o", str(trace)]
        _on_terminal([*strace, *_interactive(shell, directory / script)], env)
        counts.append(len(re.findall(r"\b(?:v?fork|clone3?)\(", trace.read_text())))
    return f"{counts[1] - counts[0]} more"
