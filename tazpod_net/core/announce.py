"""What a supervisor says by itself in a container's log: one line for each change that matters to people. Pure."""

from tazpod_net.core.outcome import blocked
from tazpod_net.core.render import short_state
from tazpod_net.core.status import Status

_SILENT = frozenset({"starting", "stopping", "stopped", "down"})


def announcement(status: Status) -> tuple[str, str] | None:
    """(what it is, the line) or None where nothing is worth a line. The first is equal while there is no news."""
    state = short_state(status)
    if state in _SILENT:
        return None
    if state in {"ready", "offline"}:
        return _here(status, state)
    trouble = blocked(status)
    if trouble is None:
        return state, status.summary
    problem, fix = trouble
    return f"{state} {problem}", f"{problem}: {fix}" if fix else problem


def _here(status: Status, state: str) -> tuple[str, str]:
    line = status.summary.rpartition(", for ")[0] or status.summary
    if status.daemon.mode == "userspace" and status.daemon.mode_reason:
        line += f": {status.daemon.mode_reason}"
    return f"{state} {line}", line
