"""That every benchmark runs to its end and has something to say. What it says is for people: no timing here."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.catalogue import BENCHMARKS, measure
from benchmarks.figures import Budget, Facts, Section, Series, Table, markdown, verdict
from benchmarks.stage import NotHereError
from tests.support.lab import Binaries
from tests.support.progress import SetupError

WITH_PEERS = {"start", "restart", "status", "memory"}  # peers that need nothing but the lab


@pytest.mark.timeout(300)  # the first one installs the program into an environment of its own
@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_benchmark_runs_in_quick_form(name: str, lab: Binaries) -> None:
    """Its quick form yields figures, or facts, of everyone who took part, and ratios where there is a peer."""
    assert lab.tailscaled.exists()
    try:
        section = measure(name, quick=True)
    except (NotHereError, SetupError) as e:
        pytest.skip(str(e))
    tables = [part for part in section.parts if isinstance(part, Table)]
    facts = [part for part in section.parts if isinstance(part, Facts)]
    assert all(series.samples and min(series.samples) >= 0 for table in tables for series in table.series)
    assert all(part.rows for part in facts)
    assert tables or facts
    ratios = [ratio for table in tables for series in table.series for ratio in table.ratios(series)]
    assert bool(ratios) >= (name in WITH_PEERS)
    text = markdown(section)
    assert all(series.name in text for table in tables for series in table.series)


class TestFigures:
    """How figures are summed up."""

    TABLE = Table(
        "t", "ms", [Series("ours", [30.0, 10.0, 8.0], Budget(1.0)), Series("peer", [10.0, 10.0, 10.0])], "peer"
    )

    def test_ratios_are_taken_within_each_round(self) -> None:
        """A round in which everybody was slow spoils no ratio."""
        assert self.TABLE.ratios(self.TABLE.series[0]) == [3.0, 1.0, 0.8]

    def test_a_budget_is_judged_by_the_median(self) -> None:
        """One slow round does not miss it."""
        assert verdict(self.TABLE, self.TABLE.series[0]) == "≤ 1x: met"

    def test_a_missed_budget_stands_out(self) -> None:
        """It is printed in bold."""
        strict = Series("ours", [30.0, 20.0, 8.0], Budget(1.0))
        assert verdict(Table("t", "ms", [strict, self.TABLE.series[1]], "peer"), strict) == "≤ 1x: **missed**"

    def test_a_missing_peer_is_said(self) -> None:
        """Nothing is judged without a peer."""
        lone = Series("ours", [1.0], Budget(1.0))
        assert verdict(Table("t", "ms", [lone], "peer"), lone) == "≤ 1x: no peer here"


def test_a_report_keeps_the_sections_of_other_runs(tmp_path: Path) -> None:
    """A later run of one benchmark replaces its own section and nothing else, in the order of the names."""
    path = tmp_path / "reports" / "day.md"
    first, second = (markdown(Section(name, "title", "how")) for name in ("first", "second"))
    report.write(path, {"second": second}, ["first", "second"])
    report.write(path, {"first": first}, ["first", "second"])
    newer = markdown(Section("second", "newer", "how"))
    report.write(path, {"second": newer}, ["first", "second"])
    assert report.split(path.read_text()) == {"first": first, "second": newer}
