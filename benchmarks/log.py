"""Log throughput: numbered lines from the daemon through to the rotated file, beside s6-log and svlogd."""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import writer
from benchmarks.contestants import OURS, Tazpod
from benchmarks.figures import Budget, Facts, Section, Series, Table
from benchmarks.numbered import balance, noisy_daemon, records
from benchmarks.rounds import calm, rotate
from benchmarks.stage import FailedError, Stage

FILE_BYTES = 10 << 20
HOW = (
    "{size:.0f} MB of numbered lines of about 110 bytes, one write each as tailscaled does it, from the first "
    "write until the last line stands in the newest log file; files of 10 MiB, enough of them to keep all. "
    "tazpod-net: the daemon writes them before it becomes tailscaled: the whole way through the spool. s6-log and "
    "svlogd: the same writer into their pipe. Afterwards every number is looked for in the files."
)


class _Passed(NamedTuple):
    megabytes_per_second: float
    written: int
    lost: int
    doubled: int
    files: int


def run(*, quick: bool) -> Section:
    """In turn, with the books of every round."""
    lines = (5_000_000 if quick else 100_000_000) // len(writer.line(10_000, 0))
    passed: dict[str, list[_Passed]] = {}
    absent = [f"{name} is not installed" for name in ("s6-log", "svlogd") if shutil.which(name) is None]
    with Stage() as stage:
        loggers: dict[str, Callable[[], _Passed]] = {OURS: lambda: _ours(stage, lines)}
        if shutil.which("s6-log"):
            loggers["s6-log"] = lambda: _logger(stage, lines, ["s6-log", "-b", "n40", f"s{FILE_BYTES}"])
        if shutil.which("svlogd"):
            loggers["svlogd"] = lambda: _logger(stage, lines, ["svlogd"])

        def rate(name: str, once: Callable[[], _Passed]) -> float:
            calm()
            passed.setdefault(name, []).append(once())
            return passed[name][-1].megabytes_per_second

        samples = rotate(
            {name: lambda n=name, o=once: rate(n, o) for name, once in loggers.items()},  # type: ignore[misc]
            1 if quick else 5,
        )
    how = HOW.format(size=lines * len(writer.line(10_000, 0)) / 1e6)
    return Section("log", "log throughput, and nothing lost", how, [_table(samples), _books(passed)], absent)


def _table(samples: dict[str, list[float]]) -> Table:
    """As seconds per 100 MB, so that less is better everywhere: 0.5 times their throughput is twice their time."""
    peers = [name for name in samples if name != OURS]
    fastest = max(peers, key=lambda name: statistics.median(samples[name]), default=None)
    series = [
        Series(name, [100 / rate for rate in rates], Budget(2.0) if name == OURS else None)
        for name, rates in samples.items()
    ]
    return Table("time for 100 MB", "s", series, reference=fastest)


def _books(passed: dict[str, list[_Passed]]) -> Facts:
    rows = [
        (
            name,
            f"{max(p.megabytes_per_second for p in rounds):.0f}",
            *(str(sum(column)) for column in zip(*((p.written, p.lost, p.doubled) for p in rounds), strict=True)),
            str(rounds[-1].files),
        )
        for name, rounds in passed.items()
    ]
    return Facts("books of all rounds", ("", "best MB/s", "lines written", "lost", "doubled", "files"), rows)


def _ours(stage: Stage, lines: int) -> _Passed:
    directory = stage.fresh("n")
    record = directory / "record"
    daemon = noisy_daemon(directory, stage.lab.tailscaled, lines=lines, pause=0, record=record)
    settings = {
        "TAZPOD_NET_DAEMON_BINARY": str(daemon),
        "TAZPOD_NET_LOG_MAX_BYTES": str(FILE_BYTES),
        "TAZPOD_NET_LOG_FILES": "40",
    }
    tazpod = Tazpod(stage, "userspace", **settings)
    tazpod.up("--no-wait")
    try:
        return _passed(record, tazpod.home / "logs", "tailscaled.log*", lines)
    finally:
        tazpod.stop()
        shutil.rmtree(tazpod.home)


def _logger(stage: Stage, lines: int, argv: Sequence[str]) -> _Passed:
    directory = stage.fresh("n")
    logs = stage.fresh("l")
    (logs / "config").write_text(f"s{FILE_BYTES}\nn40\n")  # svlogd's
    record = directory / "record"
    daemon = noisy_daemon(directory, Path("/bin/true"), lines=lines, pause=0, record=record)
    pipe = ["sh", "-c", f'"{daemon}" 2>&1 | {" ".join(argv)} {logs}']
    logger = stage.launch(pipe, stage.env(directory), directory / "output")
    try:
        return _passed(record, logs, "*", lines)
    finally:
        logger.process.wait(10)
        shutil.rmtree(logs)


def _passed(record: Path, logs: Path, pattern: str, lines: int) -> _Passed:
    ended = _last_line_seen(record, logs, pattern, lines)
    files = [path for path in logs.glob(pattern) if path.is_file() and path.name not in {"config", "lock", "state"}]
    books = balance(record, files)
    size = books.written * len(writer.line(10_000, 0)) / 1e6
    return _Passed(size / (ended - books.began), books.written, books.lost, books.doubled, len(files))


def _last_line_seen(record: Path, logs: Path, pattern: str, lines: int) -> float:
    """The moment when the last line is in the newest file, looked at every 5 ms; or the writer's end, if later."""
    last = f"{lines - 1:08d} ".encode()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        newest = sorted(logs.glob(pattern), key=_age)[:3]
        if any(last in _end_of(path) for path in newest):
            return max([time.monotonic(), *(r[3] for r in records(record))])
        time.sleep(0.005)
    raise FailedError("the last line did not come through within 120 s")


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:  # renamed meanwhile
        return 0.0


def _end_of(path: Path, size: int = 1 << 16) -> bytes:
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - size))
            return f.read()
    except FileNotFoundError:
        return b""
