"""The engine: events in order, effects performed, safe from inside."""

from tazpod_net.core.events import Adopted, AnyEvent, BecameLive, Exited, Spawned, SpawnFailed, Tick, WantDown, WantUp
from tazpod_net.core.machine import step
from tazpod_net.core.model import Machine, Policy, State
from tazpod_net.engine import Engine


class Recorder:
    """ports.Processes: notes every call; spawns as planned, and raises without a plan."""

    def __init__(self, *answers: Spawned | SpawnFailed | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []

    def spawn(self, at: float, *, avoid_tun: bool) -> Spawned | SpawnFailed:
        """The next planned answer."""
        self.calls.append(f"spawn at {at:g}" + (" without TUN" if avoid_tun else ""))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def terminate(self, pid: int) -> None:
        """Noted."""
        self.calls.append(f"terminate {pid}")

    def kill(self, pid: int) -> None:
        """Noted."""
        self.calls.append(f"kill {pid}")


def test_a_spawn_and_its_answer_are_one_event() -> None:
    """After `feed` the pid is known: what the spawn answered was handled at once."""
    processes = Recorder(Spawned(0.1, 7))
    engine = Engine(Policy(), processes)
    engine.feed(WantUp(0.0))
    assert (engine.machine.state, engine.machine.pid, processes.calls) == (State.STARTING, 7, ["spawn at 0"])


def test_effects_are_performed() -> None:
    """Each effect becomes one call, in order."""
    processes = Recorder(Spawned(0.0, 7), Spawned(1.0, 8))
    engine = Engine(Policy(stop_timeout=5.0), processes)
    for event in (WantUp(0.0), Exited(1.0, 7, tun_failed=True), WantDown(2.0), Tick(7.0), Exited(7.1, 8)):
        engine.feed(event)
    assert processes.calls == ["spawn at 0", "spawn at 1 without TUN", "terminate 8", "kill 8"]
    assert engine.machine.state is State.DOWN


def test_listeners_hear_of_changes_only() -> None:
    """`on_step` gets before, after and the event of each step that changed something, and of no other."""
    engine = Engine(Policy(), Recorder(Spawned(0.1, 7)))
    heard: list[tuple[State, State, str]] = []
    engine.on_step = lambda before, after, event: heard.append((before.state, after.state, type(event).__name__))
    for event in (WantUp(0.0), BecameLive(0.2, 6), BecameLive(0.2, 7), Tick(0.3), WantUp(0.4)):
        engine.feed(event)
    assert heard == [
        (State.DOWN, State.STARTING, "WantUp"),
        (State.STARTING, State.STARTING, "Spawned"),
        (State.STARTING, State.UP, "BecameLive"),
    ]


def test_feeding_from_inside_a_step_keeps_the_order() -> None:
    """An event that a listener feeds waits until the present one and its effects are done."""
    processes = Recorder(Spawned(0.1, 7))
    engine = Engine(Policy(), processes)
    seen: list[str] = []

    def listen(_before: Machine, after: Machine, event: AnyEvent) -> None:
        seen.append(f"{type(event).__name__} {after.state}")
        if isinstance(event, WantUp):
            engine.feed(WantDown(0.0))

    engine.on_step = listen
    engine.feed(WantUp(0.0))
    # WantDown was fed before the spawn was performed, and is handled before the spawn's answer: the child is ended.
    assert seen == ["WantUp starting", "WantDown stopping", "Spawned stopping"]
    assert processes.calls == ["spawn at 0", "terminate 7"]


def test_a_bug_in_the_start_is_a_failed_start() -> None:
    """An unexpected exception ends in fatal, with the reason; the next wish is handled as ever."""
    processes = Recorder(ValueError("boom"), Spawned(1.0, 7))
    engine = Engine(Policy(), processes)
    engine.feed(WantUp(0.0))
    assert engine.machine.state is State.FATAL
    assert "ValueError: boom" in engine.machine.reason
    engine.feed(WantUp(1.0))
    assert (engine.machine.state, engine.machine.pid) == (State.STARTING, 7)


def test_the_policy_may_change_under_way() -> None:
    """The next event is judged by the new policy."""
    engine = Engine(Policy(stop_timeout=25.0), Recorder())
    engine.feed(Adopted(0.0, 7, started=0.0))
    engine.policy = Policy(stop_timeout=1.0)
    engine.feed(WantDown(10.0))
    assert engine.machine.deadline == 11.0


def test_the_engine_adds_nothing_to_the_machine() -> None:
    """It ends where the pure function ends."""
    history: list[AnyEvent] = [WantUp(0.0), BecameLive(0.2, 7), Exited(40.0, 7, "x"), BecameLive(41.0, 8)]
    engine = Engine(Policy(), Recorder(Spawned(0.1, 7), Spawned(40.1, 8)))
    for event in history:
        engine.feed(event)
    machine = Machine()
    for event in (history[0], Spawned(0.1, 7), *history[1:3], Spawned(40.1, 8), history[3]):
        machine, _ = step(machine, event, Policy())
    assert engine.machine == machine
