"""The states of one supervised daemon, what is wanted of it, and the policy. Plain values; nothing here acts.

Words: supervisor's STARTING / BACKOFF / STOPPING / FATAL; *want* is kept apart from *is*, as s6 does.
"""

from enum import StrEnum

import msgspec


class State(StrEnum):
    """Where the daemon is in its life. The values are those of `supervisor.state` in the status object."""

    DOWN = "down"
    STARTING = "starting"  # spawned or adopted, LocalAPI has not answered yet
    UP = "up"  # LocalAPI answered
    STOPPING = "stopping"  # SIGTERM sent, or to be sent as soon as the pid is known
    BACKOFF = "backoff"  # ended unasked, waits for the next start
    FATAL = "fatal"  # time does not cure it: waits for a person or a change


ALIVE = frozenset({State.STARTING, State.UP, State.STOPPING})


class Policy(msgspec.Struct, frozen=True):
    """Times in seconds. `auto_mode`: a failed TUN start may fall back to userspace."""

    initial: float = 0.5
    maximum: float = 60.0
    stable: float = 30.0
    give_up_after: int = 0  # consecutive failures; 0 = never
    stop_timeout: float = 25.0
    start_timeout: float = 60.0
    auto_mode: bool = True


class Machine(msgspec.Struct, frozen=True):
    """Everything that decides what happens next. Times are monotonic seconds."""

    state: State = State.DOWN
    want_up: bool = False
    since: float = 0.0  # of `state`
    pid: int | None = None
    started: float = 0.0  # of the present daemon
    deadline: float | None = None
    failures: int = 0  # in a row, none of them after a stable run
    restarts: int = 0  # unasked ends that were followed by a new start
    died: bool = False  # the last daemon ended unasked: the next start counts as a restart
    again: bool = False  # somebody asked for it during the stop under way: start at once when that is over
    avoid_tun: bool = False  # the present start is userspace because TUN failed a moment ago
    reason: str = ""  # why it is in backoff or fatal, or is being stopped by us
    fix: str = ""  # what a person can do about `reason`, if that is known
