"""Feeds events to the pure machine and performs its effects, one at a time, in order. Needs no event loop.

So the first daemon can be spawned before asyncio is imported (50 ms), and tests can run histories on any clock.
"""

from collections import deque
from collections.abc import Callable

from tazpod_net.core.effects import Effect, Kill, Spawn, Terminate
from tazpod_net.core.events import AnyEvent, SpawnFailed
from tazpod_net.core.machine import step
from tazpod_net.core.model import Machine, Policy
from tazpod_net.ports import Processes

OnStep = Callable[[Machine, Machine, AnyEvent], None]


class Engine:
    """Owns the machine. `on_step(before, after, event)` is told of every step that changed it."""

    def __init__(self, policy: Policy, processes: Processes) -> None:
        self.policy = policy
        self.processes = processes
        self.machine = Machine()
        self.on_step: OnStep = lambda _before, _after, _event: None
        self._queue: deque[AnyEvent] = deque()
        self._busy = False

    def feed(self, event: AnyEvent) -> None:
        """Handles `event` and everything that follows from it at once; also safe from inside `on_step`."""
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                self._take(self._queue.popleft())
        finally:
            self._busy = False

    def _take(self, event: AnyEvent) -> None:
        before = self.machine
        self.machine, effects = step(before, event, self.policy)
        if self.machine != before:
            self.on_step(before, self.machine, event)
        for effect in effects:
            self._perform(effect, event.at)

    def _spawn(self, at: float, *, avoid_tun: bool) -> AnyEvent:
        try:
            return self.processes.spawn(at, avoid_tun=avoid_tun)
        except Exception as e:  # noqa: BLE001 - a bug there must not leave a start that never ends
            reason = f"tailscaled could not be started (internal error: {type(e).__name__}: {e})"
            return SpawnFailed(at, reason=reason, permanent=True, fix="report it; then: tazpod-net up")

    def _perform(self, effect: Effect, at: float) -> None:
        match effect:
            case Spawn(avoid_tun=avoid_tun):
                self._queue.append(self._spawn(at, avoid_tun=avoid_tun))
            case Terminate(pid=pid):
                self.processes.terminate(pid)
            case Kill(pid=pid):
                self.processes.kill(pid)
