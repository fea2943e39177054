"""The state machine of the daemon: `step(machine, event, policy) -> (machine, effects)`, one total function.

Each event has one function; each of them answers for every state. "Unchanged, no effects" is an answer, not a gap.
An event about another pid than ours is history and changes nothing. The table is in `docs/states.md`.
"""

from typing import assert_never

import msgspec

from tazpod_net.core.backoff import delay
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
from tazpod_net.core.model import Machine, Policy, State

NEVER_ANSWERED = "LocalAPI never answered"
GAVE_UP = "gave up after "
_KILL_AGAIN = 1.0  # seconds at least between two SIGKILL, whatever the configured grace

Step = tuple[Machine, tuple[Effect, ...]]


def step(machine: Machine, event: AnyEvent, policy: Policy) -> Step:  # noqa: C901 - one case for each event
    """What the machine becomes on `event`, and what has to be done. Total: every state answers every event."""
    match event:
        case WantUp():
            return _want_up(machine, event, policy)
        case WantDown():
            return _want_down(machine, event, policy)
        case Unwanted():
            return _unwanted(machine, event)
        case WantRestart():
            return _want_restart(machine, event, policy)
        case Cured():
            return _cured(machine, event, policy)
        case Spawned():
            return _spawned(machine, event, policy)
        case SpawnFailed():
            return _spawn_failed(machine, event, policy)
        case Adopted():
            return _adopted(machine, event, policy)
        case BecameLive():
            return _became_live(machine, event)
        case Exited():
            return _exited(machine, event, policy)
        case Tick():
            return _tick(machine, event, policy)
        case _:
            assert_never(event)


def move(machine: Machine, state: State, at: float, **changes: object) -> Machine:
    """The one place where `state` changes: `since` goes with it, and a deadline never outlives its state."""
    changes.setdefault("deadline", None)
    return msgspec.structs.replace(machine, state=state, since=at, **changes)


def _start(machine: Machine, at: float, policy: Policy, *, avoid_tun: bool = False, **changes: object) -> Step:
    started = move(
        machine,
        State.STARTING,
        at,
        pid=None,
        started=at,
        deadline=at + policy.start_timeout,
        avoid_tun=avoid_tun,
        again=False,
        restarts=machine.restarts + machine.died,
        died=False,
        reason="",
        fix="",
        **changes,
    )
    return started, (Spawn(avoid_tun=avoid_tun),)


def _stop(machine: Machine, at: float, policy: Policy, **changes: object) -> Step:
    """SIGTERM now; with the pid not known yet, as soon as it is."""
    stopping = move(machine, State.STOPPING, at, deadline=at + policy.stop_timeout, **changes)
    return stopping, (() if machine.pid is None else (Terminate(machine.pid),))


def _rest(machine: Machine, at: float) -> Machine:
    """Down and unwanted: nothing of what went wrong before is left."""
    return move(
        machine, State.DOWN, at, want_up=False, pid=None, failures=0, died=False, again=False, reason="", fix=""
    )


def _want_up(machine: Machine, event: WantUp, policy: Policy) -> Step:
    match machine.state:
        case State.DOWN | State.BACKOFF | State.FATAL:
            return _start(machine, event.at, policy, want_up=True, failures=0)
        case State.STARTING | State.UP:
            return msgspec.structs.replace(machine, want_up=True), ()
        case State.STOPPING:
            return msgspec.structs.replace(machine, want_up=True, again=True), ()
        case _:
            assert_never(machine.state)


def _unwanted(machine: Machine, event: Unwanted) -> Step:
    """Nothing is ended yet; but where nothing lives there is nothing to wait for."""
    match machine.state:
        case State.STARTING | State.UP | State.STOPPING:
            return msgspec.structs.replace(machine, want_up=False, again=False), ()
        case State.BACKOFF | State.FATAL:
            return _rest(machine, event.at), ()
        case State.DOWN:
            return machine, ()
        case _:
            assert_never(machine.state)


def _want_down(machine: Machine, event: WantDown, policy: Policy) -> Step:
    match machine.state:
        case State.STARTING | State.UP:
            return _stop(machine, event.at, policy, want_up=False)
        case State.BACKOFF | State.FATAL:
            return _rest(machine, event.at), ()
        case State.STOPPING:
            deadline = _sooner(machine.deadline, event.at + policy.stop_timeout)
            return msgspec.structs.replace(machine, want_up=False, again=False, deadline=deadline), ()
        case State.DOWN:
            return machine, ()
        case _:
            assert_never(machine.state)


def _sooner(deadline: float | None, asked: float) -> float:
    """A stop that is under way gets no longer grace, but a shorter one if it is asked for now."""
    return asked if deadline is None else min(deadline, asked)


def _want_restart(machine: Machine, event: WantRestart, policy: Policy) -> Step:
    match machine.state:
        case State.STARTING | State.UP:
            return _stop(machine, event.at, policy, want_up=True, again=True)
        case State.STOPPING:
            return msgspec.structs.replace(machine, want_up=True, again=True), ()
        case State.DOWN | State.BACKOFF | State.FATAL:
            return _start(machine, event.at, policy, want_up=True, failures=0)
        case _:
            assert_never(machine.state)


def _cured(machine: Machine, event: Cured, policy: Policy) -> Step:
    if machine.state is State.FATAL:
        return _start(machine, event.at, policy, failures=0)
    return machine, ()


def _spawned(machine: Machine, event: Spawned, policy: Policy) -> Step:
    if machine.pid is not None:
        return machine, ()
    match machine.state:
        case State.STARTING:
            return msgspec.structs.replace(machine, pid=event.pid, started=event.at), ()
        case State.STOPPING:
            late = msgspec.structs.replace(machine, pid=event.pid, deadline=event.at + policy.stop_timeout)
            return late, (Terminate(event.pid),)
        case State.DOWN | State.UP | State.BACKOFF | State.FATAL:
            return machine, ()
        case _:
            assert_never(machine.state)


def _spawn_failed(machine: Machine, event: SpawnFailed, policy: Policy) -> Step:
    if machine.pid is not None:
        return machine, ()
    match machine.state:
        case State.STARTING:
            return _failed(machine, event, policy) if machine.want_up else (_rest(machine, event.at), ())
        case State.STOPPING:
            return _ended_while_stopping(machine, event, policy)
        case State.DOWN | State.UP | State.BACKOFF | State.FATAL:
            return machine, ()
        case _:
            assert_never(machine.state)


def _adopted(machine: Machine, event: Adopted, policy: Policy) -> Step:
    if machine.state is not State.DOWN:
        return machine, ()
    adopted = move(
        machine,
        State.STARTING,
        event.at,
        want_up=True,
        pid=event.pid,
        started=event.started,
        deadline=event.at + policy.start_timeout,
        avoid_tun=False,
    )
    return adopted, ()


def _became_live(machine: Machine, event: BecameLive) -> Step:
    if machine.state is State.STARTING and machine.pid == event.pid:
        return move(machine, State.UP, event.at), ()
    return machine, ()


def _exited(machine: Machine, event: Exited, policy: Policy) -> Step:
    if machine.pid != event.pid or machine.pid is None:
        return machine, ()
    match machine.state:
        case State.STARTING | State.UP:
            return _ended_unasked(machine, event, policy)
        case State.STOPPING:
            return _ended_while_stopping(machine, event, policy)
        case State.DOWN | State.BACKOFF | State.FATAL:
            return machine, ()
        case _:
            assert_never(machine.state)


def _ended_unasked(machine: Machine, event: Exited, policy: Policy) -> Step:
    if not machine.want_up:
        return _rest(machine, event.at), ()
    if event.tun_failed and machine.state is State.STARTING and policy.auto_mode and not machine.avoid_tun:
        return _start(machine, event.at, policy, avoid_tun=True)
    if machine.state is State.UP and event.at - machine.started >= policy.stable:
        machine = msgspec.structs.replace(machine, failures=0)
        if not event.permanent:
            return _start(msgspec.structs.replace(machine, died=True), event.at, policy)
    return _failed(machine, event, policy)


def _failed(machine: Machine, event: Exited | SpawnFailed, policy: Policy) -> Step:
    """Backoff, or fatal if time cannot cure it. Our own reason for a stop says more than how it ended."""
    failures = machine.failures + 1
    given_up = 0 < policy.give_up_after <= failures and not event.permanent
    reason, fix = (machine.reason, "") if machine.reason else (event.reason, event.fix)
    if given_up:
        reason = f"{GAVE_UP}{failures} failures in a row: {reason}"
    over = given_up or event.permanent
    ended = move(
        machine,
        State.FATAL if over else State.BACKOFF,
        event.at,
        pid=None,
        failures=failures,
        died=isinstance(event, Exited),
        reason=reason,
        fix=fix,
        deadline=None if over else event.at + delay(policy, failures, event.jitter),
    )
    return ended, ()


def _ended_while_stopping(machine: Machine, event: Exited | SpawnFailed, policy: Policy) -> Step:
    """Down-then-up while stopping starts at once: a person waits for it. After a start timeout it backs off."""
    if not machine.want_up:
        return _rest(machine, event.at), ()
    if machine.again:
        return _start(machine, event.at, policy, failures=0)
    return _failed(machine, event, policy)


def _tick(machine: Machine, event: Tick, policy: Policy) -> Step:
    if machine.deadline is None or event.at < machine.deadline:
        return machine, ()
    match machine.state:
        case State.STARTING:
            return _stop(machine, event.at, policy, reason=NEVER_ANSWERED)
        case State.STOPPING:
            later = msgspec.structs.replace(machine, deadline=event.at + max(policy.stop_timeout, _KILL_AGAIN))
            return later, (() if machine.pid is None else (Kill(machine.pid),))
        case State.BACKOFF:
            return _start(machine, event.at, policy)
        case State.DOWN | State.UP | State.FATAL:
            return msgspec.structs.replace(machine, deadline=None), ()
        case _:
            assert_never(machine.state)
