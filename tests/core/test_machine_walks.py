"""Random walks over the machine in a small world of processes: what must never happen, and what must happen in the end.

`World` plays the outside: it knows which processes live, which spawn is outstanding and what people asked for, checks
every step against that, and feeds late and foreign events as well. The seeded bugs at the end show that it sees them.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tazpod_net.core import machine as real
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
from tests.core.test_machine import check

POLICY = Policy(initial=0.5, maximum=20.0, stable=30.0, stop_timeout=25.0, start_timeout=60.0)
POLICIES = [
    POLICY,
    Policy(give_up_after=3),
    Policy(auto_mode=False, stop_timeout=0.01),
    Policy(start_timeout=1.0, stable=0.5),
]
ASKED: dict[str, Callable[[float], AnyEvent]] = {
    "up": WantUp,
    "down": WantDown,
    "restart": WantRestart,
    "cured": Cured,
    "unwanted": Unwanted,
}
StepFunction = Callable[[Machine, AnyEvent, Policy], tuple[Machine, tuple[Effect, ...]]]
FAREWELL = 5.0  # seconds after Unwanted until the supervisor stops it in any case
Move = tuple[str, float, float]  # name, and two numbers in [0, 1) that the move interprets


class World:
    """The outside of one machine. Every broken rule is an AssertionError that names the event."""

    def __init__(self, policy: Policy, step: StepFunction = real.step) -> None:
        self.policy = policy
        self.step = step
        self.machine = Machine()
        self.now = 100.0
        self.alive: int | None = None
        self.is_live = False
        self.outstanding = False
        self.wanted = False
        self.dead: list[int] = []
        self.unasked_ends = 0
        self.terminated_at: float | None = None
        self.kills = 0

    # --- one step, checked ----------------------------------------------------------------------------------------

    def feed(self, event: AnyEvent) -> None:
        """Gives the machine an event that is true, and checks and performs what it asks for."""
        before = self.machine
        self.now = event.at
        self.note_want(event)
        self.machine, effects = self.step(before, event, self.policy)
        for effect in effects:
            self.perform(effect, event, before)
        assert check(self.machine) == [], event
        assert self.machine.pid == self.alive, event
        assert self.machine.want_up == self.wanted, event
        assert self.machine.restarts <= self.unasked_ends, f"restarts count only unasked ends: {event}"
        assert self.machine.restarts == before.restarts or Spawn in map(type, effects), event

    def feed_stale(self, event: AnyEvent) -> None:
        """Gives the machine an event that is history or foreign: it must change nothing."""
        after, effects = self.step(self.machine, event, self.policy)
        assert (after, effects) == (self.machine, ()), f"stale: {event}"

    def note_want(self, event: AnyEvent) -> None:
        """What people want, by their own words."""
        if isinstance(event, WantUp | WantRestart | Adopted):
            self.wanted = True
        if isinstance(event, WantDown | Unwanted):
            self.wanted = False

    def perform(self, effect: Effect, event: AnyEvent, before: Machine) -> None:
        """Does what the machine asks for, if that is allowed."""
        match effect:
            case Spawn(avoid_tun=avoid_tun):
                assert not avoid_tun or self.policy.auto_mode, f"userspace although TUN is demanded: {event}"
                assert not (avoid_tun and before.avoid_tun), f"userspace after userspace: {event}"
                assert self.alive is None, f"spawned beside pid {self.alive}: {event}"
                assert not self.outstanding, f"spawned during a spawn: {event}"
                assert self.wanted, f"spawned unwanted: {event}"
                asked = isinstance(event, WantUp | WantRestart | Cured)
                assert before.state is not State.FATAL or asked, f"fatal spawned by itself: {event}"
                self.outstanding = True
            case Terminate(pid=pid):
                assert pid == self.alive, f"terminates {pid}: {event}"
                assert self.terminated_at is None, f"a second SIGTERM is ignored by tailscaled: {event}"
                self.terminated_at = event.at
            case Kill(pid=pid):
                assert pid == self.alive, f"kills {pid}: {event}"
                assert self.terminated_at is not None, f"killed without a SIGTERM: {event}"
                assert event.at - self.terminated_at >= self.policy.stop_timeout - 1e-6, f"killed early: {event}"
                self.kills += 1

    # --- what can happen ------------------------------------------------------------------------------------------

    def move(self, name: str, a: float, b: float) -> None:
        """One move. What cannot happen now is fed as a late or foreign event instead."""
        at = self.now + a * 0.2
        if name == "time":
            self.pass_time(a, b)
        elif name in ASKED:
            self.feed(ASKED[name](at))
        elif name == "born":
            self.born(at, b)
        elif name == "live":
            self.goes_live(at)
        elif name == "ends":
            self.ends(at, a, b)
        elif name == "adopted":
            self.adopted(at, a)
        else:
            self.stale(at, a, b)

    def pass_time(self, a: float, b: float) -> None:
        """A little, up to the deadline exactly, or far beyond it."""
        deadline = self.machine.deadline
        target = self.now + a * 100.0
        if deadline is not None and b < 0.6:
            target = max(self.now, deadline - (0.001 if b < 0.2 else 0.0))
        self.feed(Tick(target))

    def born(self, at: float, b: float) -> None:
        """The outstanding spawn ends: a process, a failure, or one that time does not cure."""
        if not self.outstanding:
            self.feed_stale(Spawned(at, 50_000) if self.alive else SpawnFailed(at, "late"))
            return
        self.outstanding = False
        if b < 0.7:
            self.alive = 1000 + len(self.dead)
            self.feed(Spawned(at, self.alive))
        else:
            self.feed(SpawnFailed(at, "no memory", permanent=b > 0.9, jitter=b))

    def goes_live(self, at: float) -> None:
        """LocalAPI of the living daemon answers."""
        if self.alive is None:
            self.feed_stale(BecameLive(at, 1000))
            return
        self.is_live = True
        self.feed(BecameLive(at, self.alive))

    def ends(self, at: float, a: float, b: float) -> None:
        """The living daemon ends, asked or not."""
        if self.alive is None:
            self.feed_stale(Exited(at, self.dead[-1] if self.dead else 1000, "old"))
            return
        pid, asked = self.alive, self.terminated_at is not None
        self.alive, self.is_live, self.terminated_at, self.kills = None, False, None, 0
        self.dead.append(pid)
        silenced = self.machine.state is State.STOPPING and self.machine.reason != ""
        self.unasked_ends += not asked or silenced
        self.feed(Exited(at, pid, "code 1", tun_failed=a > 0.4, permanent=b > 0.9, jitter=b))

    def adopted(self, at: float, a: float) -> None:
        """A survivor is found; only a supervisor that has started nothing yet looks for one."""
        if self.machine == Machine():
            self.alive = 900
            self.feed(Adopted(at, self.alive, started=at - a * 100.0))
        elif self.machine.state is not State.DOWN:
            self.feed_stale(Adopted(at, 60_000, started=0.0))

    def stale(self, at: float, a: float, b: float) -> None:
        """News about a process that is long gone, or was never ours."""
        pid = random.Random(b).choice([*self.dead, 70_000])
        makers: list[Callable[[], AnyEvent]] = [
            lambda: Exited(at, pid, "late", tun_failed=True),
            lambda: Exited(at, pid, "late", permanent=True),
            lambda: BecameLive(at, pid),
        ]
        self.feed_stale(makers[int(a * len(makers))]())

    # --- how it must end ------------------------------------------------------------------------------------------

    def settle(self, *, stubborn: bool, news: random.Random) -> None:
        """From here on everything works: what is wanted comes up, what is not goes down, in bounded time."""
        end = self.now + self.longest()
        while not self.settled():
            if news.random() < 0.3:
                self.stale(self.now, news.random(), news.random())
            self.next_thing(end, stubborn=stubborn)

    def settled(self) -> bool:
        """Wanted and up, or unwanted and down."""
        return self.machine.state is (State.UP if self.wanted else State.DOWN)

    def longest(self) -> float:
        """Seconds: a start that is given up, a stop with SIGKILL, a delay, a start. Nothing may take longer."""
        grace = self.policy.stop_timeout
        return FAREWELL + self.policy.start_timeout + 2 * grace + 2.0 + self.policy.maximum + 5.0

    def next_thing(self, end: float, *, stubborn: bool) -> None:
        """The soonest thing that a world without trouble does next."""
        deadline = self.machine.deadline
        due: list[tuple[float, Callable[[float], None]]] = []
        if deadline is not None:
            due.append((max(self.now, deadline), lambda at: self.feed(Tick(at))))
        if not self.wanted and self.machine.state in {State.STARTING, State.UP}:
            due.append((self.now + FAREWELL, lambda at: self.feed(WantDown(at))))
        if self.outstanding:
            due.append((self.now + 0.01, lambda at: self.born(at, 0.0)))
        elif self.alive is not None and self.terminated_at is not None:
            if self.kills or not stubborn:
                due.append((self.now + 0.2, lambda at: self.ends(at, 0.0, 0.0)))
        elif self.alive is not None and not self.is_live:
            due.append((self.now + 0.05, self.goes_live))
        elif self.machine.state is State.FATAL:
            due.append((self.now + 1.0, lambda at: self.feed(Cured(at))))
        assert due, f"nothing will ever happen again: {self.machine}"
        at, act = min(due, key=lambda row: row[0])
        assert at <= end, f"not settled in {self.longest():g} s: {self.machine}"
        act(at)


MOVES = ["time", "time", "up", "down", "restart", "cured", "born", "born", "born", "live", "live", "ends", "ends"]
MOVES += ["adopted", "stale", "unwanted"]
number = st.floats(0.0, 1.0, exclude_max=True, width=32)
moves = st.lists(st.tuples(st.sampled_from(MOVES), number, number), max_size=60)


def walk(world: World, steps: Iterable[Move]) -> World:
    """Takes every step."""
    for name, a, b in steps:
        world.move(name, a, b)
    return world


def random_moves(source: random.Random, count: int = 60) -> list[Move]:
    """A walk without hypothesis: quick, and the same for the same source."""
    return [(source.choice(MOVES), source.random(), source.random()) for _ in range(count)]


@settings(max_examples=300, deadline=None)
@given(moves, st.sampled_from(POLICIES))
def test_what_must_never_happen(steps: list[Move], policy: Policy) -> None:
    """No history has two processes, an unwanted spawn, an early kill, or a change by a stale event."""
    walk(World(policy), steps)


@settings(max_examples=300, deadline=None)
@given(moves, st.sampled_from(POLICIES), st.booleans(), st.randoms(use_true_random=False))
def test_what_must_happen_in_the_end(steps: list[Move], policy: Policy, stubborn: bool, news: random.Random) -> None:
    """From any point, once everything works, what is wanted comes up and what is not goes down, in bounded time."""
    walk(World(policy), steps).settle(stubborn=stubborn, news=news)


@settings(max_examples=200, deadline=None)
@given(moves, st.booleans())
def test_down_always_ends_in_down(steps: list[Move], stubborn: bool) -> None:
    """After `down` the machine is down within the grace and a kill, whatever happened before."""
    world = walk(World(POLICY), steps)
    world.feed(WantDown(world.now))
    asked = world.now
    world.settle(stubborn=stubborn, news=random.Random(0))
    assert world.machine.state is State.DOWN
    assert world.now - asked <= POLICY.stop_timeout + 1.0


def test_the_walks_go_everywhere() -> None:
    """The moves reach every state, every effect and a machine with each of its memories: else the rules check air."""
    states: set[str] = set()
    effects: set[str] = set()
    memories: set[str] = set()

    def watched(machine: Machine, event: AnyEvent, policy: Policy) -> tuple[Machine, tuple[Effect, ...]]:
        after, asked = real.step(machine, event, policy)
        states.add(after.state)
        effects.update(type(effect).__name__ for effect in asked)
        memories.update(name for name in ("again", "avoid_tun", "died", "reason", "fix") if getattr(after, name))
        memories.update(name for name in ("failures", "restarts") if getattr(after, name) > 1)
        return after, asked

    for seed in range(200):
        source = random.Random(seed)
        walk(World(POLICIES[seed % 4], watched), random_moves(source))
    assert states == {state.value for state in State}
    assert effects == {"Spawn", "Terminate", "Kill"}
    assert memories == {"again", "avoid_tun", "died", "reason", "failures", "restarts"}


SOURCE = Path(real.__file__).read_text(encoding="utf-8")
SPAWNED_STOPPING = "            return late, (Terminate(event.pid),)\n"
BUGS: dict[str, tuple[str, str] | tuple[str, str, str]] = {
    "a child that was born while stopping is not ended": (SPAWNED_STOPPING, "            return late, ()\n"),
    "the exit of any pid counts": ("    if machine.pid != event.pid or machine.pid is None:\n", "    if False:\n"),
    "any daemon that answers is ours": (
        "if machine.state is State.STARTING and machine.pid == event.pid:",
        "if machine.state is State.STARTING:",
    ),
    "up spawns although it is stopping": (
        "            return msgspec.structs.replace(machine, want_up=True, again=True), ()\n",
        "            return _start(machine, event.at, policy, want_up=True)\n",
        "_want_up",
    ),
    "up while starting spawns again": (
        "            return msgspec.structs.replace(machine, want_up=True), ()\n",
        "            return _start(machine, event.at, policy)\n",
    ),
    "down in backoff is forgotten": ("_rest(machine, event.at), ()\n", "machine, ()\n", "_want_down"),
    "unwanted in backoff is forgotten": ("_rest(machine, event.at), ()\n", "machine, ()\n", "_unwanted"),
    "a daemon that ends in its farewell is started again": (
        "    if not machine.want_up:\n        return _rest(machine, event.at), ()\n",
        "",
        "_ended_unasked",
    ),
    "wanted again in its farewell is forgotten": (
        "msgspec.structs.replace(machine, want_up=True), ()",
        "machine, ()",
        "_want_up",
    ),
    "down while stopping is forgotten": (
        "msgspec.structs.replace(machine, want_up=False, again=False, deadline=deadline)",
        "msgspec.structs.replace(machine, deadline=deadline)",
    ),
    "what was stopped starts although it is unwanted": (
        "    if not machine.want_up:\n        return _rest(machine, event.at), ()\n    if machine.again:",
        "    if machine.again:",
    ),
    "killed at once": (
        "            return _stop(machine, event.at, policy, want_up=False)\n",
        (
            "            after, _ = _stop(machine, event.at, policy, want_up=False)\n"
            "            return after, (() if machine.pid is None else (Terminate(machine.pid), Kill(machine.pid)))\n"
        ),
    ),
    "terminated twice": (
        "            return later, (() if machine.pid is None else (Kill(machine.pid),))\n",
        "            return later, (() if machine.pid is None else (Terminate(machine.pid),))\n",
    ),
    "a kill is tried only once": (
        "deadline=event.at + max(policy.stop_timeout, _KILL_AGAIN))",
        "deadline=None)",
    ),
    "a start has no time limit": ("        deadline=at + policy.start_timeout,\n        avoid_tun=avoid_tun,\n", ""),
    "the late child's grace began before it was born": (
        "msgspec.structs.replace(machine, pid=event.pid, deadline=event.at + policy.stop_timeout)",
        "msgspec.structs.replace(machine, pid=event.pid)",
    ),
    "backoff has no end": ("deadline=None if over else event.at", "deadline=None if True else event.at"),
    "fatal tries again by itself": (
        "    if machine.deadline is None or event.at < machine.deadline:\n",
        (
            "    if machine.state is State.FATAL:\n        return _start(machine, event.at, policy)\n"
            "    if machine.deadline is None or event.at < machine.deadline:\n"
        ),
    ),
    "fatal is not cured": ("    if machine.state is State.FATAL:\n", "    if machine.state is State.BACKOFF:\n"),
    "the pid of the dead is kept": (
        "        event.at,\n        pid=None,\n        failures=failures,",
        "        event.at,\n        failures=failures,",
    ),
    "a failed spawn counts as a restart": ("died=isinstance(event, Exited)", "died=True"),
    "a restart that was asked for is counted": (
        "    if machine.again:\n        return _start(machine, event.at, policy, failures=0)\n",
        (
            "    if machine.again:\n        machine = msgspec.structs.replace(machine, died=True)\n"
            "        return _start(machine, event.at, policy, failures=0)\n"
        ),
    ),
    "userspace is tried again and again": (" and not machine.avoid_tun:\n", ":\n"),
    "a survivor is adopted beside a living daemon": (
        "    if machine.state is not State.DOWN:\n        return",
        "    if False:\n        return",
    ),
}


def with_bug(old: str, new: str, function: str = "") -> StepFunction:
    """`step` of a copy of the module in which `old`, which must be there (or in `function`) once, is `new`."""
    start = SOURCE.index(f"def {function}(") if function else 0
    end = SOURCE.index("\n\n\ndef ", start) if function else len(SOURCE)
    assert SOURCE.count(old, start, end) == 1, f"not in the code any more, bring the bug up to date: {old!r}"
    changed = SOURCE[:start] + SOURCE[start:end].replace(old, new) + SOURCE[end:]
    module = ModuleType("machine_with_a_bug")
    exec(compile(changed, "machine_with_a_bug", "exec"), module.__dict__)
    step: StepFunction = module.step
    return step


def finds_something(step: StepFunction, seeds: int) -> bool:
    """Whether one of the walks breaks a rule."""
    for seed in range(seeds):
        source = random.Random(seed)
        try:
            world = walk(World(POLICIES[seed % 4], step), random_moves(source))
            world.settle(stubborn=seed % 2 == 0, news=source)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_the_walks_have_teeth(bug: str) -> None:
    """Each plausible bug, put into a copy of the code, is found by the walks."""
    assert finds_something(with_bug(*BUGS[bug]), seeds=400)


def test_nothing_is_found_without_a_bug() -> None:
    """The same walks over the code as it is find nothing: the teeth bite only bugs."""
    assert not finds_something(real.step, seeds=400)
