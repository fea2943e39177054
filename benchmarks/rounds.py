"""Rounds: every contestant once in each, the order turned by one from round to round, and only on a calm machine.

So whatever disturbs the machine for a while hits everybody, and nobody always comes first.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CALM_SHARE = 0.9  # of all CPUs idle
CALM_LOOK = 0.1  # seconds of one look
PATIENCE = 8.0  # seconds
patience: list[float] = [PATIENCE]
"""How long a calm moment is waited for before it goes on regardless; nothing in quick form."""
waits: list[bool] = []
"""For each wait of this process, whether it was calm in the end."""


def rotate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Calls each once per round; the answers by name, in the order of the rounds."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(contestants[name]())
    return samples


def calm() -> None:
    """Returns when the CPUs have been idle for a moment, or when patience is over. Call it before each start."""
    deadline = time.monotonic() + patience[0]
    while not (idle := _idle_share() >= CALM_SHARE) and time.monotonic() < deadline:
        continue
    waits.append(idle)


def _idle_share() -> float:
    before = _idle_seconds()
    began = time.monotonic()
    time.sleep(CALM_LOOK)
    return (_idle_seconds() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)


def _idle_seconds() -> float:
    """Of all CPUs together, since boot (`man 5 proc`, /proc/uptime): in hundredths."""
    return float(Path("/proc/uptime").read_text().split()[1])
