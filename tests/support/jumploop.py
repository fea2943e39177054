"""An event loop whose clock jumps: when nothing is ready it goes straight to the next timer.

A test of an hour takes milliseconds and its times are exact. File descriptors are real. Without a timer and without
anything ready the test would hang for ever: that is an error here (`NothingHappensError`).
"""

import asyncio
import contextlib
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
START = 1000.0  # where the clock begins; not zero, which looks like "unknown"


class NothingHappensError(AssertionError):
    """Nobody will ever wake this loop again."""


class _JumpSelector(selectors.DefaultSelector):
    """Never sleeps: what is ready is reported, else the loop's clock is moved by what it wanted to sleep."""

    loop: "JumpLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            raise NothingHappensError("nothing is ready, no timer runs: the test would wait for ever")
        self.loop.jump(timeout)
        return []


class JumpLoop(asyncio.SelectorEventLoop):
    """The loop. `jumps` counts how often it would have woken the machine by a timer."""

    def __init__(self) -> None:
        selector = _JumpSelector()
        selector.loop = self
        self._virtual = START
        self.jumps = 0
        super().__init__(selector)
        self._clock_resolution = 1e-6  # sums of floats may fall short of a timer by less
        self.errors: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Time passes."""
        self.jumps += 1
        self._virtual += seconds

    def timers(self) -> list[float]:
        """When the timers that are armed will fire, in seconds from now."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sorted(handle.when() - self._virtual for handle in scheduled if not handle.cancelled())


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` on a jumping loop to its end. What went wrong in a callback is an error of the test.

    Tasks that are left are cancelled, as `asyncio.run` does.
    """
    loop = JumpLoop()
    whole = loop.create_task(_to_the_end(loop, main))
    try:
        return loop.run_until_complete(whole)
    except NothingHappensError:
        whole.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(whole)
        raise
    finally:
        loop.close()


async def _to_the_end(loop: JumpLoop, main: Coroutine[Any, Any, T]) -> T:
    try:
        result = await main
    except Exception as e:
        for context in loop.errors:
            e.add_note(f"in a callback: {context.get('message')}: {context.get('exception')!r}")
        raise
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    for context in loop.errors:
        raise AssertionError(f"in a callback: {context.get('message')}") from context.get("exception")
    return result
