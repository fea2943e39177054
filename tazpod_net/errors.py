"""Errors that a person may see. Each is one line: what went wrong, then what to do about it.

Exit codes (everywhere): 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing is running.
"""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3


class TazpodNetError(Exception):
    """An expected failure; `str()` gives `problem: fix`, the text after `tazpod-net: `."""

    exit_code = EXIT_FAILED

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}: {self.fix}" if self.fix else self.problem


class UsageError(TazpodNetError):
    """The command line is wrong."""

    exit_code = EXIT_USAGE


class ConfigError(TazpodNetError):
    """The configuration is wrong; `problems` has one line for each error found, never only the first."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NotRunningError(TazpodNetError):
    """There is no supervisor for this home."""

    exit_code = EXIT_NOT_RUNNING
