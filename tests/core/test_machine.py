"""The state machine: every cell of its table has an answer, and whole histories with exact times."""

import subprocess
import sys
from pathlib import Path

import pytest

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
from tazpod_net.core.model import ALIVE, Machine, Policy, State

ROOT = Path(__file__).parent.parent.parent
POLICY = Policy(initial=1.0, maximum=8.0, stable=30.0, stop_timeout=25.0, start_timeout=60.0)

MACHINES = [
    Machine(),
    Machine(state=State.STARTING, want_up=True, deadline=60.0),
    Machine(state=State.STARTING, want_up=True, deadline=60.0, pid=7),
    Machine(state=State.STARTING, want_up=True, deadline=60.0, pid=7, avoid_tun=True, failures=2),
    Machine(state=State.UP, want_up=True, pid=7),
    Machine(state=State.UP, want_up=True, pid=7, failures=3, restarts=4),
    Machine(state=State.STARTING, deadline=60.0),
    Machine(state=State.UP, pid=7),
    Machine(state=State.STOPPING, deadline=25.0),
    Machine(state=State.STOPPING, deadline=25.0, pid=7),
    Machine(state=State.STOPPING, want_up=True, again=True, deadline=25.0, pid=7),
    Machine(state=State.STOPPING, want_up=True, deadline=25.0, pid=7, reason="LocalAPI never answered"),
    Machine(state=State.BACKOFF, want_up=True, deadline=8.0, failures=4, died=True, reason="code 1"),
    Machine(state=State.BACKOFF, want_up=True, deadline=8.0, failures=4, reason="no memory"),
    Machine(state=State.FATAL, want_up=True, failures=1, reason="no binary", fix="install it"),
]
EVENTS: list[AnyEvent] = [
    make(at)
    for at in (5.0, 100.0)
    for make in (
        WantUp,
        WantDown,
        Unwanted,
        WantRestart,
        Cured,
        Tick,
        lambda at: Spawned(at, 7),
        lambda at: Spawned(at, 99),
        lambda at: SpawnFailed(at, "no"),
        lambda at: SpawnFailed(at, "no", permanent=True),
        lambda at: Adopted(at, 7, started=1.0),
        lambda at: BecameLive(at, 7),
        lambda at: BecameLive(at, 99),
        lambda at: Exited(at, 7, "code 1"),
        lambda at: Exited(at, 7, "code 1", permanent=True),
        lambda at: Exited(at, 7, "code 1", tun_failed=True),
        lambda at: Exited(at, 99, "code 1"),
    )
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m.state}-{MACHINES.index(m)}")
def test_every_state_answers_every_event(machine: Machine) -> None:
    """Each cell of the table gives a machine and effects that fit together."""
    for event in EVENTS:
        after, effects = step(machine, event, POLICY)
        assert check(after) == [], event
        pids = [effect.pid for effect in effects if not isinstance(effect, Spawn)]
        assert pids in ([], [after.pid]), event
        if after.state is not machine.state:
            assert after.since == event.at, event


def check(machine: Machine) -> list[str]:
    """What is wrong with a machine in itself."""
    timed = machine.state in {State.STARTING, State.STOPPING, State.BACKOFF}
    rules = {
        "a deadline exactly in the states that have one": (machine.deadline is not None) == timed,
        "no pid without a process": machine.pid is None or machine.state in ALIVE,
        "only what is up is live": machine.state is not State.UP or machine.pid is not None,
        "down is unwanted": machine.state is not State.DOWN or not machine.want_up,
        "what is unwanted lives or is down": machine.want_up or machine.state in {State.DOWN, *ALIVE},
        "backoff and fatal have a reason": bool(machine.reason) or machine.state not in {State.BACKOFF, State.FATAL},
        "what is well has no reason": not machine.reason
        or machine.state in {State.STOPPING, State.BACKOFF, State.FATAL},
        "an ended daemon is remembered only until the next start": not machine.died
        or machine.state in {State.BACKOFF, State.FATAL},
        "asked-for starts wait only in stopping": not machine.again
        or (machine.state is State.STOPPING and machine.want_up),
    }
    return [rule for rule, holds in rules.items() if not holds]


def show(machine: Machine) -> str:
    """A machine in one line: state, `!` if unwanted, pid, `@` deadline, failures, restarts."""
    parts = [machine.state.value + ("" if machine.want_up else "!")]
    parts += [] if machine.pid is None else [f"pid {machine.pid}"]
    parts += [] if machine.deadline is None else [f"@{machine.deadline:g}"]
    parts += [f"f{machine.failures}"] if machine.failures else []
    parts += [f"r{machine.restarts}"] if machine.restarts else []
    return " ".join(parts)


History = list[tuple[AnyEvent, str, tuple[Effect, ...]]]
SPAWN, SPAWN_USERSPACE = (Spawn(),), (Spawn(avoid_tun=True),)
STARTED: History = [
    (WantUp(0.0), "starting @60", SPAWN),
    (Spawned(0.1, 7), "starting pid 7 @60", ()),
    (BecameLive(0.2, 7), "up pid 7", ()),
]

HISTORIES: dict[str, History] = {
    "an ordinary life": [
        *STARTED,
        (WantUp(5.0), "up pid 7", ()),
        (Tick(10.0), "up pid 7", ()),
        (WantDown(20.0), "stopping! pid 7 @45", (Terminate(7),)),
        (Exited(21.0, 7, "code 0"), "down!", ()),
        (WantDown(22.0), "down!", ()),
    ],
    "ends after a stable run: back at once, failures forgotten": [
        *STARTED,
        (Exited(5.0, 7, "SIGKILL", jitter=0.0), "backoff @6 f1", ()),
        (Tick(6.0), "starting @66 f1 r1", SPAWN),
        (Spawned(6.1, 8), "starting pid 8 @66 f1 r1", ()),
        (BecameLive(6.2, 8), "up pid 8 f1 r1", ()),
        (Exited(36.1, 8, "SIGKILL"), "starting @96.1 r2", SPAWN),
    ],
    "a moment before it was stable is not stable": [
        *STARTED,
        (Exited(30.0, 7, "SIGKILL", jitter=0.0), "backoff @31 f1", ()),
    ],
    "a crash loop: doubled delays up to the longest, jitter takes off a fifth at most": [
        (WantUp(0.0), "starting @60", SPAWN),
        (Spawned(0.0, 1), "starting pid 1 @60", ()),
        (Exited(0.5, 1, "code 1", jitter=0.0), "backoff @1.5 f1", ()),
        (Tick(1.4), "backoff @1.5 f1", ()),
        (Tick(1.5), "starting @61.5 f1 r1", SPAWN),
        (Spawned(1.5, 2), "starting pid 2 @61.5 f1 r1", ()),
        (Exited(2.0, 2, "code 1", jitter=0.0), "backoff @4 f2 r1", ()),
        (Tick(4.0), "starting @64 f2 r2", SPAWN),
        (Spawned(4.0, 3), "starting pid 3 @64 f2 r2", ()),
        (Exited(5.0, 3, "code 1", jitter=0.5), "backoff @8.6 f3 r2", ()),
        (Tick(8.6), "starting @68.6 f3 r3", SPAWN),
        (Spawned(8.6, 4), "starting pid 4 @68.6 f3 r3", ()),
        (Exited(9.0, 4, "code 1", jitter=0.0), "backoff @17 f4 r3", ()),
        (Tick(17.0), "starting @77 f4 r4", SPAWN),
        (Spawned(17.0, 5), "starting pid 5 @77 f4 r4", ()),
        (Exited(18.0, 5, "code 1", jitter=0.0), "backoff @26 f5 r4", ()),
        (WantUp(19.0), "starting @79 r5", SPAWN),
    ],
    "does not end on SIGTERM: SIGKILL after the grace, and again": [
        *STARTED,
        (WantDown(1.0), "stopping! pid 7 @26", (Terminate(7),)),
        (Tick(25.9), "stopping! pid 7 @26", ()),
        (Tick(26.0), "stopping! pid 7 @51", (Kill(7),)),
        (Tick(51.0), "stopping! pid 7 @76", (Kill(7),)),
        (Exited(51.1, 7, "SIGKILL"), "down!", ()),
    ],
    "never answers: stopped, then backoff": [
        (WantUp(0.0), "starting @60", SPAWN),
        (Spawned(0.1, 7), "starting pid 7 @60", ()),
        (Tick(60.0), "stopping pid 7 @85", (Terminate(7),)),
        (Exited(60.5, 7, "code 0", jitter=0.0), "backoff @61.5 f1", ()),
        (Tick(61.5), "starting @121.5 f1 r1", SPAWN),
    ],
    "never answers and lives long: not a stable run": [
        (WantUp(0.0), "starting @60", SPAWN),
        (Spawned(0.1, 7), "starting pid 7 @60", ()),
        (Exited(50.0, 7, "code 1", jitter=0.0), "backoff @51 f1", ()),
    ],
    "wanted again while it is being stopped for silence: at once, as out of backoff": [
        (WantUp(0.0), "starting @60", SPAWN),
        (Spawned(0.1, 7), "starting pid 7 @60", ()),
        (Tick(60.0), "stopping pid 7 @85", (Terminate(7),)),
        (WantUp(60.2), "stopping pid 7 @85", ()),
        (Exited(60.5, 7, "code 0"), "starting @120.5", SPAWN),
    ],
    "down before the pid is known: the late child is ended": [
        (WantUp(0.0), "starting @60", SPAWN),
        (WantDown(1.0), "stopping! @26", ()),
        (Tick(26.0), "stopping! @51", ()),
        (Spawned(27.0, 7), "stopping! pid 7 @52", (Terminate(7),)),
        (Exited(28.0, 7), "down!", ()),
    ],
    "down before the pid is known, and there will be none": [
        (WantUp(0.0), "starting @60", SPAWN),
        (WantDown(1.0), "stopping! @26", ()),
        (SpawnFailed(2.0, "no memory"), "down!", ()),
    ],
    "down, then up while stopping: started at once": [
        *STARTED,
        (WantDown(1.0), "stopping! pid 7 @26", (Terminate(7),)),
        (WantUp(2.0), "stopping pid 7 @26", ()),
        (Exited(3.0, 7, "code 0"), "starting @63", SPAWN),
    ],
    "up, then down while stopping: stays down": [
        *STARTED,
        (WantRestart(1.0), "stopping pid 7 @26", (Terminate(7),)),
        (WantDown(2.0), "stopping! pid 7 @26", ()),
        (Exited(3.0, 7, "code 0"), "down!", ()),
    ],
    "a farewell, then the stop": [
        *STARTED,
        (Unwanted(5.0), "up! pid 7", ()),
        (Tick(9.0), "up! pid 7", ()),
        (WantDown(10.0), "stopping! pid 7 @35", (Terminate(7),)),
        (Exited(11.0, 7, "code 0"), "down!", ()),
    ],
    "ends by itself during its farewell: that was it": [
        *STARTED,
        (Unwanted(50.0), "up! pid 7", ()),
        (Exited(51.0, 7, "SIGKILL"), "down!", ()),
        (WantDown(55.0), "down!", ()),
    ],
    "wanted again during the farewell": [
        *STARTED,
        (Unwanted(50.0), "up! pid 7", ()),
        (WantUp(51.0), "up pid 7", ()),
        (Exited(52.0, 7, "SIGKILL"), "starting @112 r1", SPAWN),
    ],
    "restarted during the farewell": [
        *STARTED,
        (Unwanted(50.0), "up! pid 7", ()),
        (WantRestart(51.0), "stopping pid 7 @76", (Terminate(7),)),
        (Exited(52.0, 7, "code 0"), "starting @112", SPAWN),
    ],
    "unwanted where nothing lives is down": [
        (WantUp(0.0), "starting @60", SPAWN),
        (SpawnFailed(0.1, "no memory", jitter=0.0), "backoff @1.1 f1", ()),
        (Unwanted(0.5), "down!", ()),
        (Unwanted(0.6), "down!", ()),
        (WantUp(1.0), "starting @61", SPAWN),
        (Unwanted(1.5), "starting! @61", ()),
        (SpawnFailed(2.0, "no memory"), "down!", ()),
    ],
    "a restart under way is taken back": [
        *STARTED,
        (WantRestart(1.0), "stopping pid 7 @26", (Terminate(7),)),
        (Unwanted(2.0), "stopping! pid 7 @26", ()),
        (Exited(3.0, 7, "code 0"), "down!", ()),
    ],
    "a restart that was asked for is no restart of ours": [
        *STARTED,
        (WantRestart(1.0), "stopping pid 7 @26", (Terminate(7),)),
        (WantRestart(1.5), "stopping pid 7 @26", ()),
        (Exited(2.0, 7, "code 0"), "starting @62", SPAWN),
        (Spawned(2.1, 8), "starting pid 8 @62", ()),
        (BecameLive(2.2, 8), "up pid 8", ()),
    ],
    "a daemon that could not be started never ran: no restart": [
        (WantUp(0.0), "starting @60", SPAWN),
        (SpawnFailed(0.1, "no memory", jitter=0.0), "backoff @1.1 f1", ()),
        (Tick(1.1), "starting @61.1 f1", SPAWN),
        (SpawnFailed(1.2, "no memory", jitter=0.0), "backoff @3.2 f2", ()),
        (WantDown(2.0), "down!", ()),
    ],
    "an end that a person answered with down is no restart": [
        *STARTED,
        (Exited(5.0, 7, "SIGKILL", jitter=0.0), "backoff @6 f1", ()),
        (WantDown(5.5), "down!", ()),
        (WantUp(5.6), "starting @65.6", SPAWN),
    ],
    "TUN fails at the start: userspace once, TUN again at the next start": [
        (WantUp(0.0), "starting @60", SPAWN),
        (Spawned(0.1, 7), "starting pid 7 @60", ()),
        (Exited(0.5, 7, "code 1", tun_failed=True), "starting @60.5", SPAWN_USERSPACE),
        (Spawned(0.6, 8), "starting pid 8 @60.5", ()),
        (Exited(0.9, 8, "code 1", tun_failed=True, jitter=0.0), "backoff @1.9 f1", ()),
        (Tick(1.9), "starting @61.9 f1 r1", SPAWN),
    ],
    "TUN trouble after it was up is an ordinary end": [
        *STARTED,
        (Exited(1.0, 7, "code 1", tun_failed=True, jitter=0.0), "backoff @2 f1", ()),
    ],
    "what time does not cure: fatal until a person or a change": [
        (WantUp(0.0), "starting @60", SPAWN),
        (SpawnFailed(0.1, "no binary", permanent=True), "fatal f1", ()),
        (Tick(1e6), "fatal f1", ()),
        (Cured(1e6), "starting @1.00006e+06", SPAWN),
        (SpawnFailed(1e6, "no binary", permanent=True), "fatal f1", ()),
        (WantRestart(2e6), "starting @2.00006e+06", SPAWN),
        (SpawnFailed(2e6, "no binary", permanent=True), "fatal f1", ()),
        (WantDown(3e6), "down!", ()),
        (Cured(4e6), "down!", ()),
    ],
    "an error that time does not cure after a stable run": [
        *STARTED,
        (Exited(100.0, 7, "code 1", permanent=True), "fatal f1", ()),
    ],
    "adopted: watched, not spawned; its age counts as its run": [
        (Adopted(100.0, 7, started=20.0), "starting pid 7 @160", ()),
        (BecameLive(100.1, 7), "up pid 7", ()),
        (Exited(101.0, 7, "SIGKILL"), "starting @161 r1", SPAWN),
    ],
    "events of another pid are history": [
        *STARTED,
        (Exited(1.0, 6), "up pid 7", ()),
        (BecameLive(1.0, 6), "up pid 7", ()),
        (Spawned(1.0, 6), "up pid 7", ()),
        (SpawnFailed(1.0, "late"), "up pid 7", ()),
        (Adopted(1.0, 6, started=0.0), "up pid 7", ()),
    ],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    """Each event of the history leads to the written state, deadline, counts and effects."""
    machine = Machine()
    for event, shown, effects in HISTORIES[name]:
        machine, asked = step(machine, event, POLICY)
        assert (show(machine), asked) == (shown, effects), event
        assert check(machine) == []


def test_gives_up_after_so_many_failures() -> None:
    """`restart.give_up_after` ends in fatal with the count and the last reason."""
    policy = Policy(give_up_after=2)
    machine, _ = step(Machine(), WantUp(0.0), policy)
    for at in (1.0, 2.0):
        machine, _ = step(machine, SpawnFailed(at, "no memory"), policy)
        machine, _ = step(machine, Tick(at + 0.9), policy)
    assert (machine.state, machine.reason) == (State.FATAL, "gave up after 2 failures in a row: no memory")


def test_without_auto_mode_a_tun_failure_is_a_failure() -> None:
    """`daemon.mode = "tun"` never falls back to userspace."""
    policy = Policy(auto_mode=False)
    machine = Machine(state=State.STARTING, want_up=True, pid=7, deadline=60.0)
    after, effects = step(machine, Exited(1.0, 7, "code 1", tun_failed=True), policy)
    assert (after.state, effects) == (State.BACKOFF, ())


def test_our_reason_for_a_stop_outlives_how_it_ended() -> None:
    """A daemon that was stopped because it never answered is in backoff for that, not for its exit code."""
    machine = Machine(state=State.STARTING, want_up=True, pid=7, deadline=60.0)
    for event in (Tick(60.0), Exited(61.0, 7, "code 0", fix="of another trouble")):
        machine, _ = step(machine, event, POLICY)
    assert (machine.reason, machine.fix) == ("LocalAPI never answered", "")


def test_the_fix_comes_with_the_reason() -> None:
    """What a person can do about a failure stays with it until the next start."""
    machine, _ = step(Machine(), WantUp(0.0), POLICY)
    machine, _ = step(machine, SpawnFailed(0.1, "no binary", permanent=True, fix="install it"), POLICY)
    assert (machine.reason, machine.fix) == ("no binary", "install it")
    machine, _ = step(machine, Cured(1.0), POLICY)
    assert (machine.reason, machine.fix) == ("", "")


@pytest.mark.parametrize(("asked", "deadline"), [(2.0, 12.0), (60.0, 26.0)])
def test_a_second_down_may_shorten_the_grace_and_never_lengthens_it(asked: float, deadline: float) -> None:
    """`down --timeout` during a stop counts from now if that is sooner."""
    machine = Machine(state=State.STOPPING, want_up=True, again=True, pid=7, deadline=26.0)
    after, effects = step(machine, WantDown(10.0), Policy(stop_timeout=asked))
    assert (after.deadline, effects) == (deadline, ())


def test_no_grace_at_all_does_not_kill_in_a_tight_loop() -> None:
    """With a grace of nothing SIGKILL is repeated once a second, not at every turn of the loop."""
    machine = Machine(state=State.STOPPING, pid=7, deadline=10.0)
    after, effects = step(machine, Tick(10.0), Policy(stop_timeout=0.001))
    assert (after.deadline, effects) == (11.0, (Kill(7),))


def test_a_deadline_in_a_state_without_one_is_dropped() -> None:
    """Such a machine cannot be reached; a tick heals it instead of firing for ever."""
    after, effects = step(Machine(deadline=1.0), Tick(2.0), POLICY)
    assert (after, effects) == (Machine(), ())


@pytest.mark.parametrize("state", [State.DOWN, State.BACKOFF, State.FATAL])
def test_an_exit_where_nothing_can_live_changes_nothing(state: State) -> None:
    """Such a machine cannot be reached; the end of its process starts nothing."""
    machine = Machine(state=state, pid=7)
    assert step(machine, Exited(1.0, 7, "code 1"), POLICY) == (machine, ())


def test_stopping_without_a_deadline_gets_one() -> None:
    """Such a machine cannot be reached; being told to end gives it a deadline."""
    after, _ = step(Machine(state=State.STOPPING, pid=7), WantDown(1.0), POLICY)
    assert after.deadline == 26.0


def test_the_documented_table_is_the_machine() -> None:
    """`docs/states.md` is what `scripts/states.py` makes of the code: `python scripts/states.py > docs/states.md`."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "states.py")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert made.stdout == (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
