"""What a benchmark hands back, and how it is shown: figures beside their peers, as ratios of one run.

Pure: knows no process and no clock. An absolute figure says more about the machine than about the program, so every
table with a peer shows ratios, taken within each round and then summed up.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Cell = str
QUICK_NOTE = "Quick form: too few rounds and too short waits to judge anything by."


@dataclass(frozen=True)
class Budget:
    """The most that is allowed: of the median `ratio` to the peer, or of the median `value` itself."""

    limit: float
    kind: Literal["ratio", "value"] = "ratio"


@dataclass(frozen=True)
class Series:
    """One contestant's figures, one per round, in the order of the rounds."""

    name: str
    samples: Sequence[float]
    budget: Budget | None = None


@dataclass(frozen=True)
class Table:
    """Contestants side by side. `reference`: name of the series that the others are divided by."""

    title: str
    unit: str
    series: Sequence[Series]
    reference: str | None = None

    def ratios(self, series: Series) -> list[float]:
        """`series` divided by the reference, round by round; empty without a reference that was measured."""
        peer = next((s for s in self.series if s.name == self.reference), None)
        if peer is None or peer is series:
            return []
        return [own / other for own, other in zip(series.samples, peer.samples, strict=False) if other]


@dataclass(frozen=True)
class Facts:
    """What is counted or answered, not timed: a table of words."""

    title: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """The result of one benchmark. `how`: what was measured, from where to where; `notes`: what a reader must know."""

    name: str
    title: str
    how: str
    parts: Sequence[Table | Facts] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def number(value: float) -> str:
    """Three figures are enough for anybody."""
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def spread(values: Sequence[float], mark: str = "") -> str:
    """`median (min-max)`; the median alone for one value, `-` for none."""
    if not values:
        return "-"
    middle = f"{number(statistics.median(values))}{mark}"
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))}-{number(max(values))})"


def verdict(table: Table, series: Series) -> str:
    """`≤ 1.0x: met`, for a series with a budget that could be judged."""
    budget = series.budget
    if budget is None:
        return ""
    judged = table.ratios(series) if budget.kind == "ratio" else list(series.samples)
    bound = f"≤ {budget.limit:g}{'x' if budget.kind == 'ratio' else ' ' + table.unit}"
    if not judged:
        return f"{bound}: no peer here"
    return f"{bound}: {'met' if statistics.median(judged) <= budget.limit else '**missed**'}"


def markdown(section: Section, circumstances: str = "") -> str:
    """The section as it stands in a report; on a terminal it reads as well."""
    lines = [f"## {section.name}: {section.title}", "", section.how]
    for part in section.parts:
        lines += ["", f"**{part.title}**", "", *(_facts(part) if isinstance(part, Facts) else _table(part))]
    if section.notes:
        lines += ["", *(f"- {note}" for note in section.notes)]
    if circumstances:
        lines += ["", f"_{circumstances}_"]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    ratio = f"x {table.reference}" if table.reference else "ratio"
    rows = [
        (s.name, spread(s.samples), str(len(s.samples)), spread(table.ratios(s), "x"), verdict(table, s))
        for s in table.series
    ]
    return _grid(("", f"{table.unit}, median (min-max)", "n", ratio, "budget"), rows)


def _facts(facts: Facts) -> list[str]:
    return _grid(facts.header, facts.rows)


def _grid(header: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return ["| " + " | ".join(line) + " |" for line in padded]
