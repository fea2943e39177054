"""The shell hook, beside `bash -c :`."""

from benchmarks.figures import Facts, Section


def run(*, quick: bool) -> Section:  # noqa: ARG001 - the signature of all
    """The row of the budget; there is nothing to measure yet."""
    row = ("hook when the daemon lives", "bash -c :", "+ ≤ 1 ms, no fork", "comes with the shell hook")
    return Section("hook", "what a new shell pays", "", [Facts("hook", ("what", "peer", "budget", "result"), [row])])
