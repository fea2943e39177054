"""A tailscaled that also writes numbered lines, and the books about them: written, found, lost, doubled."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks import writer

_LINE = re.compile(rb"numbered (\d+) (\d{8}) ")


class Books(NamedTuple):
    """Of all writers of one record together. `complete` is false if a line was cut or changed."""

    written: int
    lost: int
    doubled: int
    seconds: float
    began: float


def noisy_daemon(directory: Path, tailscaled: Path, *, lines: int, pause: float, record: Path) -> Path:
    """A program that becomes `tailscaled` with a writer as its child, or after it if there is no pause."""
    script = directory / "tailscaled-noisy"
    writes = f"{sys.executable} -S {writer.__file__} {record} {lines} {pause} $$"
    asked = f'[ "$1" = --version ] && exec {tailscaled} "$@"'  # a supervisor may ask: that is no run
    script.write_text(f'#!/bin/sh\n{asked}\n{writes}{" &" if pause else ""}\nexec {tailscaled} "$@"\n')
    script.chmod(0o755)
    return script


def records(record: Path) -> list[tuple[int, int, float, float]]:
    """Pid, lines written, began and ended of each writer."""
    found = []
    for path in record.parent.glob(f"{record.name}.[0-9]*"):
        words = path.read_text().split()
        if words:
            found.append((int(words[0]), int(words[1]), float(words[2]), float(words[3])))
    return found


def stop_writers(record: Path) -> None:
    """Ends those that pause; what they wrote is with the logger soon after."""
    record.with_name(f"{record.name}.stop").touch()
    time.sleep(0.5)


def balance(record: Path, logs: Iterable[Path]) -> Books:
    """Compares what was written with what the logs hold."""
    seen: Counter[tuple[int, int]] = Counter()
    for path in logs:
        seen.update((int(found[1]), int(found[2])) for found in _LINE.finditer(path.read_bytes()))
    writers = records(record)
    lost = sum(1 for pid, written, _, _ in writers for number in range(written) if (pid, number) not in seen)
    began, ended = min(w[2] for w in writers), max(w[3] for w in writers)
    return Books(
        written=sum(w[1] for w in writers),
        lost=lost,
        doubled=sum(count - 1 for count in seen.values()),
        seconds=ended - began,
        began=began,
    )
