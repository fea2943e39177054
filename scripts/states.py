"""Prints docs/states.md, made by asking the machine itself: `python scripts/states.py > docs/states.md`."""

import msgspec

from tazpod_net.core.effects import Effect, Kill, Spawn, Terminate
from tazpod_net.core.events import (
    Adopted,
    AnyEvent,
    BecameLive,
    Cured,
    Exited,
    Spawned,
    SpawnFailed,
    Tick,
    Unwanted,
    WantDown,
    WantRestart,
    WantUp,
)
from tazpod_net.core.machine import step
from tazpod_net.core.model import Machine, Policy, State

NOW = 1000.0
POLICY = Policy()
UNCHANGED = "-"

HEAD = """# The states of the daemon

Made by `scripts/states.py` from `tazpod_net/core/machine.py`: one total function, asked about every state and every
event. A test compares this page with the code.

`-` means unchanged, nothing to do. **Spawn**, **Terminate** (SIGTERM) and **Kill** (SIGKILL) are what the machine asks
for. Events about another process than the present one are history: `-` everywhere. *Wanted* is kept apart from the
state: a daemon may be stopping and wanted, or up and unwanted while a farewell (an ephemeral node's logout) goes on.

A failure (an end that was not asked for, or a start that could not happen) leads to `backoff`, with a delay that
doubles from `restart.initial_s` to `restart.max_s` and is shortened by up to a fifth; to `fatal`, if time does not cure
it or `restart.give_up_after` failures followed each other; or, if the daemon was up and ran for `restart.stable_s`,
straight back to `starting`. `fatal` waits for a person, or for a change of the binary, the device or the configuration.
"""

MEANING = {
    State.DOWN: "nothing runs, nothing is wanted",
    State.STARTING: "spawned or adopted, LocalAPI has not answered yet",
    State.UP: "LocalAPI has answered",
    State.STOPPING: "SIGTERM sent, or to be sent as soon as the pid is known",
    State.BACKOFF: "ended unasked, waits for the next start",
    State.FATAL: "time does not cure it: waits for a person or a change",
}

VARIANTS: dict[str, Machine] = {
    "down": Machine(),
    "starting, pid not known yet": Machine(state=State.STARTING, want_up=True, deadline=NOW),
    "starting": Machine(state=State.STARTING, want_up=True, pid=1, deadline=NOW),
    "starting in userspace mode, because TUN failed": Machine(
        state=State.STARTING, want_up=True, pid=1, deadline=NOW, avoid_tun=True
    ),
    "up": Machine(state=State.UP, want_up=True, pid=1),
    "up, unwanted": Machine(state=State.UP, pid=1),
    "stopping, pid not known yet": Machine(state=State.STOPPING, deadline=NOW),
    "stopping, unwanted": Machine(state=State.STOPPING, pid=1, deadline=NOW),
    "stopping, start wanted": Machine(state=State.STOPPING, want_up=True, again=True, pid=1, deadline=NOW),
    "stopping, because it never answered": Machine(
        state=State.STOPPING, want_up=True, pid=1, deadline=NOW, reason="never answered"
    ),
    "backoff": Machine(state=State.BACKOFF, want_up=True, failures=1, died=True, deadline=NOW, reason="code 1"),
    "fatal": Machine(state=State.FATAL, want_up=True, failures=1, reason="no binary"),
}

EVENTS: dict[str, AnyEvent] = {
    "`WantUp`": WantUp(NOW),
    "`WantDown`": WantDown(NOW),
    "`Unwanted`": Unwanted(NOW),
    "`WantRestart`": WantRestart(NOW),
    "`Cured`": Cured(NOW),
    "`Spawned`": Spawned(NOW, 1),
    "`SpawnFailed`": SpawnFailed(NOW, "no", jitter=0.0),
    "`SpawnFailed`, permanent": SpawnFailed(NOW, "no", permanent=True),
    "`Adopted`": Adopted(NOW, 1, started=0.0),
    "`BecameLive`": BecameLive(NOW, 1),
    "`Exited` after a stable run": Exited(NOW, 1, "code 1", jitter=0.0),
    "`Exited` sooner": Exited(NOW, 1, "code 1", jitter=0.0),
    "`Exited`, permanent": Exited(NOW, 1, "code 1", permanent=True),
    "`Exited`, TUN is the cause": Exited(NOW, 1, "code 1", tun_failed=True, jitter=0.0),
    "`Tick` before the deadline": Tick(NOW - 0.001),
    "`Tick` at the deadline": Tick(NOW),
}


def page() -> str:
    """The whole text."""
    states = "".join(f"| `{state}` | {MEANING[state]} |\n" for state in State)
    parts = [HEAD, "| state | meaning |\n|---|---|\n" + states]
    return "\n".join([*parts, *(_section(name, machine) for name, machine in VARIANTS.items())])


def _section(name: str, machine: Machine) -> str:
    rows = [(event_name, _cell(machine, event_name, event)) for event_name, event in EVENTS.items()]
    told = [row for row in rows if row[1] != UNCHANGED]
    silent = " · ".join(row[0] for row in rows if row[1] == UNCHANGED)
    lines = [f"## {name}", "", "| event | answer |", "|---|---|"]
    lines += [f"| {event} | {cell} |" for event, cell in told]
    lines += [f"| {silent} | {UNCHANGED} |"]
    return "\n".join(lines) + "\n"


def _cell(machine: Machine, name: str, event: AnyEvent) -> str:
    started = NOW - (POLICY.stable if "stable" in name else 1.0)
    before = msgspec.structs.replace(machine, started=started)
    after, effects = step(before, event, POLICY)
    parts = [f"→ `{after.state}`"] if after.state is not before.state or _starts(effects) else []
    parts += [_effect(effect) for effect in effects]
    parts += _changes(before, after)
    return ", ".join(parts) or UNCHANGED


def _starts(effects: tuple[Effect, ...]) -> bool:
    return any(isinstance(effect, Spawn) for effect in effects)


def _effect(effect: Effect) -> str:
    match effect:
        case Spawn(avoid_tun=avoid_tun):
            return "**Spawn** in userspace mode" if avoid_tun else "**Spawn**"
        case Terminate():
            return "**Terminate**"
        case Kill():
            return "**Kill**"


def _changes(before: Machine, after: Machine) -> list[str]:
    told = []
    if after.want_up and not before.want_up:
        told.append("wanted")
    if before.want_up and not after.want_up:
        told.append("unwanted")
    if after.again and not before.again:
        told.append("start at once when it has ended")
    if after.pid is not None and before.pid is None:
        told.append("pid noted")
    if after.failures != before.failures:
        told.append("failures forgotten" if after.failures == 0 else "one more failure")
    if after.restarts != before.restarts:
        told.append("one more restart")
    if after.deadline is not None and after.deadline != before.deadline:
        told.append(f"deadline in {after.deadline - NOW:g} s")
    return told


if __name__ == "__main__":
    print(page(), end="")
