"""Probes and metrics on the virtual clock: how often the daemon is asked, and what its silence costs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from tazpod_net.adapters.localapi import LocalApiError
from tazpod_net.core import events
from tazpod_net.core.exits import ExitStatus
from tazpod_net.core.metrics import LogCounts, Usage
from tazpod_net.exposition import Exposition
from tests.support import jumploop
from tests.support.fakes import Life, World


class Daemon:
    """What the daemon says of itself, and how often it was asked."""

    def __init__(self, answer: Callable[[float], Awaitable[bytes]]) -> None:
        self.answer = answer
        self.asked = 0

    async def __call__(self, within: float) -> bytes:
        """Within so many seconds, as adapters.localapi does it."""
        self.asked += 1
        async with asyncio.timeout(within):
            return await self.answer(within)


async def good(_timeout: float) -> bytes:
    """An honest daemon, which takes its time."""
    await asyncio.sleep(0.2)
    return b"tailscaled_a 1\n"


async def never(_timeout: float) -> bytes:
    """A daemon that hangs."""
    await asyncio.Event().wait()
    return b""


async def refuses(_timeout: float) -> bytes:
    """A build without user metrics."""
    raise LocalApiError(404, "not found")


async def gone(_timeout: float) -> bytes:
    """One that has just ended."""
    raise ConnectionRefusedError


def exposition(world: World, daemon: Daemon) -> Exposition:
    """That of a world."""
    return Exposition(world.supervisor, daemon, LogCounts, Usage, lambda: None)


def snapshots(world: World) -> int:
    """How often the backend was asked for its status."""
    return len(world.api.told("snapshot"))


def values(text: bytes, *names: str) -> list[str]:
    """Of these series, in this order."""
    said = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return [said.get(name, "-") for name in names]


class TestQuestions:
    """However many ask, the daemon is asked once a second."""

    def test_a_hundred_probes_are_one_question(self) -> None:
        """Asked at once they share one look; within a second nobody looks again; then somebody does."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(100)
                asked, shown = snapshots(world), exposition(world, Daemon(good))
                answers = await asyncio.gather(*[shown.probe("/readyz") for _ in range(100)])
                assert answers == [(True, "ok")] * 100
                await asyncio.sleep(0.9)
                await shown.probe("/livez")
                assert snapshots(world) - asked <= 2  # one that was under way when the others came is made once more
                asked = snapshots(world)
                await asyncio.sleep(0.2)
                await shown.probe("/livez")
                assert snapshots(world) == asked + 1

        jumploop.run(main())

    def test_scrapes_share_one_text_for_a_second(self) -> None:
        """At once and shortly after; the command always gets that of the moment."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                daemon = Daemon(good)
                shown = exposition(world, daemon)
                first, *others = await asyncio.gather(*[shown.scrape() for _ in range(100)])
                assert all(other is first for other in others)
                assert (await shown.scrape()) is first
                assert daemon.asked == 1
                await asyncio.sleep(0.5)
                assert (await shown.metrics()) != first
                await asyncio.sleep(0.6)
                assert (await shown.scrape()) is not first
                assert daemon.asked == 2

        jumploop.run(main())


class TestSilence:
    """A daemon that does not tell its own metrics."""

    @pytest.mark.parametrize("answer", [never, refuses, gone])
    def test_costs_only_its_own(self, answer: Callable[[float], Awaitable[bytes]]) -> None:
        """Ours are there, within a second; it is said that the others are not; they come back with it."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                daemon = Daemon(answer)
                shown, began = exposition(world, daemon), world.at
                text = await shown.metrics()
                assert world.at - began <= 1.001
                assert values(text, "tazpod_net_ready", "tazpod_net_daemon_metrics_up", "tailscaled_a") == [
                    "1",
                    "0",
                    "-",
                ]
                daemon.answer = good
                await asyncio.sleep(1)
                text = await shown.metrics()
                assert values(text, "tazpod_net_daemon_metrics_up", "tailscaled_a") == ["1", "1"]

        jumploop.run(main())

    def test_a_hung_backend(self) -> None:
        """The probes say no when it has not answered for a second, and yes again when it does."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(100)
                shown = exposition(world, Daemon(never))
                world.api.hang = True
                assert await shown.probe("/livez") == (True, "ok")  # not known yet
                await asyncio.sleep(2)
                holds, text = await shown.probe("/livez")
                assert (holds, text.startswith("not live: not answering")) == (False, True)
                world.api.hang = False
                await asyncio.sleep(10)
                assert await shown.probe("/livez") == (True, "ok")

        jumploop.run(main())


class TestTime:
    """Seconds in each state."""

    def test_they_add_up(self) -> None:
        """A start, a run, an end, a back-off, the next run: in sum the life of the supervisor."""

        async def main() -> None:
            lives = (Life(ends_after=20.0, status=ExitStatus(signal=9)), Life())
            async with World(*lives) as world:
                await world.up()
                shown = exposition(world, Daemon(gone))
                await asyncio.sleep(60)
                text = await shown.metrics()
                found = dict(spent(text))
                assert sum(found.values()) == pytest.approx(world.at, abs=0.002)
                assert found["starting"] == pytest.approx(0.1, abs=0.01)
                assert found["ready"] + found["offline"] > 55
                assert found["backoff"] > 0
                exits = 'tazpod_net_daemon_exits_total{code="",signal="SIGKILL",reason=""}'
                assert values(text, exits, "tazpod_net_daemon_restarts_total") == ["1", "1"]

        jumploop.run(main())

    def test_a_stop_of_ours_is_counted_as_asked(self) -> None:
        """`restart` is an end with its reason, and no restart that nobody asked for."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                await world.up()
                await asyncio.sleep(5)
                world.supervisor.feed(events.WantRestart)
                await world.until(lambda status: not status.ready)
                await world.up()
                text = await exposition(world, Daemon(gone)).metrics()
                exits = [
                    line for line in text.decode().splitlines() if line.startswith("tazpod_net_daemon_exits_total")
                ]
                assert [line.partition("reason=")[2] for line in exits] == ['"as asked"} 1']
                assert values(text, "tazpod_net_daemon_restarts_total") == ["0"]

        jumploop.run(main())


def spent(text: bytes) -> Iterable[tuple[str, float]]:
    """Seconds by state."""
    for line in text.decode().splitlines():
        if line.startswith("tazpod_net_state_seconds_total{"):
            name, value = line.rsplit(" ", 1)
            yield name.split('"')[1], float(value)
