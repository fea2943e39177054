"""What is tried for a condition, and the words for what failed; the real paths are in tests/e2e/test_wait.py."""

import asyncio

import pytest

from tazpod_net.core.conditions import parse
from tazpod_net.core.peers import Machine
from tazpod_net.errors import TazpodNetError
from tazpod_net.targets import Targets
from tests.support.jumploop import run

KNOWN = (
    Machine("me", "me.example.ts.net", ("100.64.0.1",), own=True),
    Machine("vault", "vault.example.ts.net", ("100.64.0.2",), online=True, tags=("tag:s",)),
    Machine("build", "build.example.ts.net", ("100.64.0.3",), online=False, tags=("tag:s", "tag:off")),
    Machine("other", "other.example.ts.net", ("100.64.0.4",), online=False, tags=("tag:off",)),
)


class World:
    """ports.Tailnet and ports.Network: what was asked, and the answers; an exception is raised, a number takes time."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def _answer(self, kind: str, asked: str, timeout: float) -> object:  # noqa: ASYNC109
        self.asked.append(f"{kind} {asked}")
        answer = self.answers[kind]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            async with asyncio.timeout(timeout):
                await asyncio.sleep(answer)
            return None
        return answer

    async def ping(self, ip: str, timeout: float) -> str | None:  # noqa: ASYNC109
        """Implements ports.Tailnet."""
        answer = await self._answer("ping", ip, timeout)
        assert answer is None or isinstance(answer, str)
        return answer

    async def dial(self, host: str, port: int, timeout: float) -> str | None:  # noqa: ASYNC109
        """Implements ports.Tailnet."""
        answer = await self._answer("dial", f"{host} {port}", timeout)
        assert answer is None or isinstance(answer, str)
        return answer

    async def resolves(self, name: str, timeout: float) -> bool:  # noqa: ASYNC109
        """Implements ports.Tailnet."""
        return bool(await self._answer("resolves", name, timeout))

    async def lookup(self, name: str, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Implements ports.Network."""
        answer = await self._answer("lookup", name, timeout)
        return answer if isinstance(answer, list) else []

    async def connect(self, address: str, port: int, timeout: float) -> None:  # noqa: ASYNC109
        """Implements ports.Network."""
        await self._answer(f"connect {address}", str(port), timeout)


def misses(world: World, *texts: str, mode: str = "userspace") -> dict[str, str]:
    """What did not hold."""
    targets = Targets(world, world, mode=lambda: mode, known=lambda: KNOWN)
    return run(targets.misses([parse(text) for text in texts]))


REFUSED = ConnectionRefusedError(111, "Connect call failed ('10.0.0.5', 22)")


@pytest.mark.parametrize(
    ("text", "mode", "answers", "asked", "why"),
    [
        ("peer:vault", "tun", {"ping": None}, ["ping 100.64.0.2"], None),
        ("peer:vault", "tun", {"ping": 60.0}, ["ping 100.64.0.2"], "is online and does not answer a ping"),
        ("peer:vault", "tun", {"ping": "no matching peer"}, ["ping 100.64.0.2"], "no matching peer"),
        ("peer:vault", "tun", {"ping": FileNotFoundError(2, "x")}, ["ping 100.64.0.2"], "no such file or directory"),
        ("peer:build", "tun", {}, [], "is offline"),
        ("peer:nobody", "tun", {}, [], "no such peer in the tailnet"),
        ("peer:me", "tun", {}, [], None),
        ("peer:tag:s", "tun", {"ping": None}, ["ping 100.64.0.2"], None),
        ("peer:tag:off", "tun", {}, [], "all 2 are offline"),
        ("peer:tag:none", "tun", {}, [], "no node has this tag"),
        ("tcp:vault:22", "userspace", {"dial": None}, ["dial vault 22"], None),
        ("tcp:vault:22", "userspace", {"dial": TazpodNetError("dial failure: connect tcp 100.64.0.2:22: refused")},
         ["dial vault 22"], "connect tcp 100.64.0.2:22: refused"),
        ("tcp:vault:22", "userspace", {"dial": 60.0}, ["dial vault 22"], "no answer within 5 s"),
        ("tcp:x.org:22", "userspace", {"dial": "[2001:db8::1]:22", "connect 2001:db8::1": None},
         ["dial x.org 22", "connect 2001:db8::1 22"], None),
        ("tcp:10.0.0.5:22", "tun", {"connect 10.0.0.5": REFUSED}, ["connect 10.0.0.5 22"], "connection refused"),
        ("tcp:10.0.0.5:22", "tun", {"connect 10.0.0.5": 60.0}, ["connect 10.0.0.5 22"], "no answer within 5 s"),
        ("tcp:db:22", "tun", {"lookup": ["::1", "10.0.0.5"], "connect ::1": REFUSED, "connect 10.0.0.5": None},
         ["lookup db", "connect ::1 22", "connect 10.0.0.5 22"], None),
        ("tcp:db:22", "tun", {"lookup": OSError("Name or service not known")}, ["lookup db"],
         "name or service not known"),
        ("tcp:db:22", "tun", {"lookup": []}, ["lookup db"], "no address"),
        ("name:vault", "userspace", {}, [], None),
        ("name:x.org", "userspace", {"resolves": True}, ["resolves x.org"], None),
        ("name:x.org", "userspace", {"resolves": False, "lookup": ["10.0.0.5"]}, ["resolves x.org", "lookup x.org"],
         None),
        ("name:x.org", "userspace", {"resolves": PermissionError(13, "x"), "lookup": OSError("Nope")},
         ["resolves x.org", "lookup x.org"], "does not resolve (nope)"),
        ("name:vault", "tun", {"lookup": OSError("Temporary failure in name resolution")}, ["lookup vault"],
         "does not resolve (temporary failure in name resolution)"),
        ("name:vault", "tun", {"lookup": 60.0}, ["lookup vault"], "the resolver does not answer within 5 s"),
    ],
)  # fmt: skip
def test_what_is_tried(text: str, mode: str, answers: dict[str, object], asked: list[str], why: str | None) -> None:
    """Each condition goes the way of its mode, and fails with a reason that says whose fault it is."""
    world = World(**answers)
    assert misses(world, text, mode=mode) == ({} if why is None else {text: why})
    assert world.asked == asked


def test_a_tag_with_many_nodes_asks_a_few() -> None:
    """One answer is enough, and nobody pings a whole fleet."""
    world = World(ping=None)
    fleet = tuple(Machine(f"n{n}", "", (f"100.64.0.{n}",), online=True, tags=("tag:f",)) for n in range(50))
    targets = Targets(world, world, mode=lambda: "tun", known=lambda: fleet)
    assert run(targets.misses([parse("peer:tag:f")])) == {}
    assert len(world.asked) == 4


def test_all_are_tried_at_once() -> None:
    """Ten silent ports take the time of one."""
    world = World(dial=60.0)

    async def story() -> float:
        targets = Targets(world, world, mode=lambda: "userspace", known=lambda: KNOWN)
        found = await targets.misses([parse(f"tcp:vault:{port}") for port in range(1, 11)])
        assert len(found) == 10
        return asyncio.get_running_loop().time()

    assert run(story()) < 1000.0 + 6
