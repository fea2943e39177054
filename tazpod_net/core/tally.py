"""What only adds up while a supervisor runs: the ends of its daemon, and how long it was in which state.

Counters of `metrics` (`core.metrics` shows them); they begin at zero with each supervisor, as counters do.
"""

import msgspec


class End(msgspec.Struct, frozen=True):
    """One kind of end. Empty: not so, or not known. `reason`: why, where the log tells, one of a few sentences."""

    code: str = ""
    signal: str = ""
    reason: str = ""


class Tally(msgspec.Struct):
    """Counts. Times are monotonic seconds."""

    ends: dict[End, int] = {}
    word: str | None = None  # the present state, as `status --short` says it
    since: float = 0.0  # of `word`
    spent: dict[str, float] = {}  # seconds in each state, the present stay not included

    def entered(self, word: str, at: float) -> None:
        """The state is `word` now; the same one again changes nothing."""
        if word == self.word:
            return
        if self.word is not None:
            self.spent[self.word] = self.seconds(at)[self.word]
        self.word, self.since = word, at

    def seconds(self, at: float) -> dict[str, float]:
        """Seconds in each state until `at`."""
        found = dict(self.spent)
        if self.word is not None:
            found[self.word] = found.get(self.word, 0.0) + max(0.0, at - self.since)
        return found

    def ended(self, end: End) -> None:
        """The daemon has ended."""
        self.ends[end] = self.ends.get(end, 0) + 1
