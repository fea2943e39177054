"""The keeper of the block, on a clock that jumps: when it writes, when it is quiet, and what it does with trouble."""

import asyncio
from collections.abc import Callable

import pytest

from tazpod_net.core.backend import Backend
from tazpod_net.core.hostsblock import has_block
from tazpod_net.core.peers import Machine
from tazpod_net.errors import TazpodNetError
from tazpod_net.names import BREATH, RETRY, RETRY_MOST, Names
from tests.support.jumploop import JumpLoop, run

HOME = "/home/net"
ME = Machine("me", "me.example.ts.net", ("100.64.0.1",), own=True)
PLAIN = b"127.0.0.1 localhost\n"


class FakeHosts:
    """A hosts file in memory. `error` is raised by whatever would write; `writes` has the times."""

    def __init__(self) -> None:
        self.data = PLAIN
        self.error: Exception | None = None
        self.writes: list[float] = []
        self.tries = 0

    def mark(self) -> object:
        """Implements ports.Hosts."""
        return self.data

    def read(self) -> bytes:
        """Implements ports.Hosts."""
        return self.data

    def repair(self) -> bool:
        """Implements ports.Hosts."""
        return False

    def change(self, edit: Callable[[bytes], bytes]) -> bool:
        """Implements ports.Hosts."""
        self.tries += 1
        if self.error is not None:
            raise self.error
        new = edit(self.data)
        if new == self.data:
            return False
        self.data = new
        self.writes.append(asyncio.get_running_loop().time())
        return True


def tailnet(*names: str, online: bool = True, state: str = "Running") -> Backend:
    """What the daemon says: this node and these peers."""
    peers = [
        Machine(name, f"{name}.example.ts.net", (f"100.64.1.{n}",), online=online) for n, name in enumerate(names, 1)
    ]
    return Backend(state=state, ips=("100.64.0.1",), machines=(ME, *peers))


class World:
    """A keeper and its file."""

    def __init__(self) -> None:
        self.hosts = FakeHosts()
        self.wanted: bool | None = True
        self.told = 0
        self.said: list[str] = []
        self.names = Names(self.hosts, HOME, wanted=lambda: self.wanted, hostname=lambda: "box")
        self.names.notify = self._tell
        self.names.said = lambda what, why: self.said.append(f"{what}: {why}")
        self.names.start()

    def _tell(self) -> None:
        self.told += 1

    @property
    def is_there(self) -> bool:
        """Whether the file has a block."""
        return has_block(self.hosts.data, HOME)


async def settle() -> None:
    """What is due now happens."""
    await asyncio.sleep(0.001)


def test_the_first_write_is_at_once_and_told() -> None:
    """The status learns of it."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await settle()
        assert (world.is_there, world.names.present, world.told) == (True, True, 1)
        assert b"vault.example.ts.net" in world.hosts.data

    run(story())


def test_a_storm_is_one_write() -> None:
    """News in one breath are written together; the last of them counts."""

    async def story() -> None:
        world = World()
        for n in range(50):
            world.names.follow(tailnet(*(f"n{m}" for m in range(n + 1))))
            await asyncio.sleep(BREATH / 100)
        await asyncio.sleep(BREATH * 2)
        assert len(world.hosts.writes) == 2
        assert b"n49.example.ts.net" in world.hosts.data

    run(story())


def test_when_nothing_changes_it_is_quiet() -> None:
    """Peers that come online or go offline change no name: no write, no look into the file, no timer."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await asyncio.sleep(BREATH * 2)
        tries = world.hosts.tries
        for _ in range(10):
            world.names.follow(tailnet("vault", online=False))
            world.names.follow(tailnet("vault"))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpLoop)
        assert loop.timers() == []
        assert world.hosts.tries == tries

    run(story())


def test_a_file_that_others_have_written_is_looked_at_again() -> None:
    """An engine wrote it anew: the next news brings the block back."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await asyncio.sleep(BREATH * 2)
        world.hosts.data = PLAIN + b"10.0.0.5 other\n"
        world.names.follow(tailnet("vault"))
        await asyncio.sleep(BREATH * 2)
        assert world.is_there
        assert world.hosts.data.startswith(PLAIN + b"10.0.0.5 other\n")

    run(story())


@pytest.mark.parametrize("state", ["NeedsLogin", "NeedsMachineAuth", "Stopped"])
def test_without_a_tailnet_it_goes(state: str) -> None:
    """And a write that was due is not made any more."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await settle()
        world.names.follow(tailnet("vault", "late"))  # due after a breath
        world.names.follow(Backend(state=state))
        assert not world.is_there
        await asyncio.sleep(BREATH * 3)
        assert (world.hosts.data, world.names.present) == (PLAIN, False)

    run(story())


@pytest.mark.parametrize("state", [None, "NoState", "Starting"])
def test_while_the_daemon_starts_it_stays(state: str | None) -> None:
    """A restart of the daemon takes no name away."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await settle()
        world.names.follow(Backend(state=state))
        await asyncio.sleep(BREATH * 3)
        assert world.is_there

    run(story())


def test_what_is_not_known_yet_changes_nothing() -> None:
    """A block of before stays until it is known whether one is wanted; then it goes, or stays."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await settle()
        world.wanted = None
        world.names.follow(tailnet("other"))
        await asyncio.sleep(BREATH * 3)
        assert b"vault" in world.hosts.data
        world.wanted = False
        world.names.follow(tailnet("other"))
        assert world.hosts.data == PLAIN

    run(story())


def test_trouble_that_may_pass_is_tried_again_ever_less() -> None:
    """A full disk, a lock: told once, tried with pauses that double; and the retries end with the trouble."""

    async def story() -> None:
        world = World()
        world.hosts.error = OSError(28, "No space left on device")
        world.names.follow(tailnet("vault"))
        await settle()
        assert (world.names.trouble, world.told) == ("/etc/hosts cannot be written (no space left on device)", 1)
        before = world.hosts.tries
        await asyncio.sleep(3600)
        assert world.hosts.tries - before < 3600 / RETRY_MOST + 10
        assert world.told == 1
        world.hosts.error = None
        await asyncio.sleep(RETRY_MOST)
        assert (world.is_there, world.names.trouble, world.told) == (True, None, 2)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpLoop)
        assert loop.timers() == []

    run(story())


def test_a_busy_file_is_tried_soon() -> None:
    """Another supervisor writes its block."""

    async def story() -> None:
        world = World()
        world.hosts.error = TazpodNetError("another program holds a lock on /etc/hosts")
        world.names.follow(tailnet("vault"))
        await settle()
        world.hosts.error = None
        await asyncio.sleep(RETRY + 0.1)
        assert world.is_there

    run(story())


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_file_that_may_not_be_written_is_not_tried_again(error: OSError) -> None:
    """Once is enough to know, until somebody asks by hand."""

    async def story() -> None:
        world = World()
        world.hosts.error = error
        world.names.follow(tailnet("vault"))
        await asyncio.sleep(3600)
        world.names.follow(tailnet("vault", "late"))
        await asyncio.sleep(3600)
        assert (world.hosts.tries, world.names.may_write) == (1, False)
        world.hosts.error = None
        world.names.apply(tailnet("vault").machines)
        assert (world.is_there, world.names.may_write) == (True, True)

    run(story())


def test_a_leftover_goes_where_none_is_wanted() -> None:
    """A killed supervisor's block, after the configuration changed."""

    async def story() -> None:
        world = World()
        world.names.follow(tailnet("vault"))
        await settle()
        world.wanted = False
        second = Names(world.hosts, HOME, wanted=lambda: False, hostname=lambda: "box")
        second.start()
        assert world.hosts.data == PLAIN

    run(story())


def test_what_was_left_out_is_said_once() -> None:
    """In our own log."""

    async def story() -> None:
        world = World()
        for _ in range(3):
            world.names.follow(tailnet("localhost", "box"))
            await asyncio.sleep(BREATH * 2)
        assert [said for said in world.said if said.startswith("names left out")] == [
            "names left out: localhost is reserved; box is this container's own name"
        ]

    run(story())
