"""The dated report: one Markdown file a day, one section for each benchmark, the newest run of each.

Holds nothing that names a machine, a person or a path.
"""

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

HEADING = re.compile(r"^## (\w+): ", re.MULTILINE)


def header(day: str) -> str:
    """What the figures were taken on."""
    facts = (
        f"kernel {platform.release()}, {os.cpu_count()} CPUs",
        f"Python {platform.python_version()} ({_linkage()})",
        "tailscaled as pinned in tests/lab/go.mod",
    )
    text = "\n".join(f"- {fact}" for fact in facts)
    reading = "How to read them: docs/benchmarks.md. Ratios count, milliseconds are this machine's."
    return f"# Benchmarks of {day}\n\n{reading}\n\n{text}\n"


def _linkage() -> str:
    """A Python built with `--enable-shared` starts and weighs otherwise than Debian's."""
    maps = Path("/proc/self/maps").read_text()
    return "libpython shared" if "libpython" in maps else "libpython static"


def circumstances(*, seconds: float, quick: bool, load: float, calm: Sequence[bool]) -> str:
    """The line under a section; `load`: the load average before it began, `calm`: whether it was before each start."""
    form = "quick form, " if quick else ""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    quiet = f", calm before {sum(calm)} of {len(calm)} starts" if calm else ""
    return f"{form}{now}, took {seconds:.0f} s, load average before it {load:.1f}{quiet}"


def split(text: str) -> dict[str, str]:
    """Sections of a report by the name of their benchmark."""
    starts = [(found[1], found.start()) for found in HEADING.finditer(text)]
    ends = [start for _, start in starts[1:]] + [len(text)]
    return {name: text[start:end].strip() + "\n" for (name, start), end in zip(starts, ends, strict=True)}


def write(path: Path, sections: dict[str, str], order: list[str]) -> None:
    """Puts `sections` in place of their older selves; others of the same day stay."""
    known = split(path.read_text()) if path.exists() else {}
    known |= sections
    body = "\n".join(known[name] for name in order if name in known)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header(datetime.now(UTC).strftime('%Y-%m-%d'))}\n{body}")
