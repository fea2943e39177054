"""Stand-ins for the outside of the supervisor, and ready-made knowledge for the status object.

A fake does what a test planned and raises on everything else, so that a test fails where the surprise is.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable
from typing import Self

import msgspec

from tazpod_net.core.backend import STATES, Backend, Notify, Peer, PeerCounts, Prefs, Snapshot, Tailnet
from tazpod_net.core.events import Adopted, AnyEvent, Spawned, SpawnFailed, WantUp
from tazpod_net.core.exits import ExitStatus
from tazpod_net.core.login import Candidate, Code, Minted, Said
from tazpod_net.core.model import Machine, Policy, State
from tazpod_net.core.report import Clock, Known
from tazpod_net.core.status import DnsPart, IdentityPart, LastExit, PathsPart, Status
from tazpod_net.engine import Engine
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import DaemonFacts
from tazpod_net.session import Hooks, Plan, Session
from tazpod_net.supervisor import Self as Me
from tazpod_net.supervisor import Supervisor
from tests.support.jumploop import START

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
HOME = "/workspace/.tazpod/net"

UP = Machine(state=State.UP, want_up=True, since=0.0, pid=412)
READY = Backend(
    state="Running",
    version="1.102.5-t1a2b3c",
    have_node_key=True,
    ips=("100.64.0.1", "fd7a:115c:a1e0::1"),
    online=True,
    hostname="tazpod",
    dns_name="tazpod.example.ts.net",
    tailnet="example.ts.net",
    tags=("tag:tazpod",),
    key_expiry="2027-03-02T12:30:00Z",
    relay="fra",
    peers=PeerCounts(total=12, online=7, direct=5, relayed=2),
)


def known(**changes: object) -> Known:
    """A supervisor of a ready TUN daemon at noon, 3 h 12 min after it became ready, with `changes`."""
    base = Known(
        clock=Clock(mono=20_000.0, epoch=NOON),
        version="0.1.0",
        pid=398,
        start_ticks=4711,
        since=100.0,
        machine=UP,
        backend=READY,
        live=True,
        said=Said(Code.OK, "ok"),
        ready_since=20_000.0 - 3.2 * 3600,
        daemon_version="1.102.5",
        daemon_since=110.0,
        mode="tun",
        mode_reason="TUN works",
        interface="tailscale0",
        rss_bytes=50_000_000,
        identity=IdentityPart("persist", f"{HOME}/state", "mount"),
        dns=DnsPart("100.100.100.100", guarded=True),
        paths=PathsPart(HOME, f"{HOME}/state/tailscaled.sock", f"{HOME}/logs/tailscaled.log"),
    )
    return msgspec.structs.replace(base, **changes)


# --- the outside of a supervisor on the virtual clock -----------------------------------------------------------------


class Life(msgspec.Struct, frozen=True):
    """How one planned daemon lives. Seconds count from its spawn; None: never.

    `failed`: it cannot be started at all. `ends_after`: it ends by itself, with `status` and the last words `says`.
    `answers_after`: LocalAPI is there. `obeys_after`: seconds from SIGTERM to its end, None: it ignores it.
    """

    failed: SpawnFailed | None = None
    ends_after: float | None = None
    status: ExitStatus = ExitStatus(code=1)
    says: tuple[str, ...] = ()
    answers_after: float | None = 0.05
    obeys_after: float | None = 0.2
    mode: str = "tun"


def fails(reason: str = "no binary", *, permanent: bool = False, fix: str = "") -> Life:
    """A daemon that cannot be started."""
    return Life(failed=SpawnFailed(0.0, reason, permanent=permanent, fix=fix))


class FakeDaemon:
    """ports.Daemon: lives as planned, one plan for each spawn. A spawn without a plan is an error."""

    def __init__(self, log: "FakeLog", lives: list[Life]) -> None:
        self.facts = DaemonFacts()
        self.log = log
        self.lives = lives
        self.life: Life | None = None
        self.pid: int | None = None
        self.calls: list[tuple[float, str]] = []
        self.remembered: list[tuple[int, LastExit | None]] = []
        self.signs: object = "as at the start"
        self.stopped = False
        self._next_pid = 411
        self._end: ExitStatus | None = None
        self._fds: tuple[int, int] | None = None

    # --- the test's side

    def told(self, *words: str) -> list[tuple[float, str]]:
        """When what was asked of it: seconds from the start of the test, and `spawn`, `terminate 412`, …."""
        wanted = words or ("spawn", "terminate", "kill")
        return [(round(at - START, 3), call) for at, call in self.calls if call.partition(" ")[0] in wanted]

    def die(self, status: ExitStatus) -> None:
        """It ends now."""
        if self._fds is not None and self._end is None:
            self._end = status
            self.log.lines = list(self.life.says) if self.life is not None else []
            os.write(self._fds[1], b"x")

    def close(self) -> None:
        """Gives back its descriptors."""
        for fd in self._fds or ():
            os.close(fd)
        self._fds = None

    def answers_in(self) -> float:
        """Seconds until LocalAPI is there; infinity for never."""
        after = None if self.life is None else self.life.answers_after
        if after is None or self.stopped:
            return math.inf
        return max(0.0, (self.facts.since or 0.0) + after - _now())

    # --- the supervisor's side

    def spawn(self, at: float, *, avoid_tun: bool) -> Spawned | SpawnFailed:
        """Implements ports.Processes."""
        assert self.pid is None, f"a second daemon beside pid {self.pid}"
        assert self.lives, "an unplanned spawn"
        self.calls.append((at, "spawn userspace" if avoid_tun else "spawn"))
        life = self.lives.pop(0)
        if life.failed is not None:
            return msgspec.structs.replace(life.failed, at=at)
        self._begin(life, at, "userspace" if avoid_tun else life.mode)
        return Spawned(at, self._next_pid)

    def adopt(self, at: float, life: Life, age: float) -> Adopted:
        """A survivor of an earlier supervisor is found."""
        self._begin(life, at - age, life.mode)
        self.facts = msgspec.structs.replace(self.facts, adopted=True)
        return Adopted(at, self._next_pid, started=at - age)

    def _begin(self, life: Life, at: float, mode: str) -> None:
        self.close()
        self._next_pid += 1
        self.pid, self.life, self._end, self._fds = self._next_pid, life, None, os.pipe2(os.O_CLOEXEC)
        self.facts = msgspec.structs.replace(
            self.facts, mode=mode, interface="tailscale0" if mode == "tun" else None, since=at, adopted=False
        )
        if life.ends_after is not None:
            pid = self.pid
            asyncio.get_running_loop().call_at(
                at + life.ends_after, lambda: self.die(life.status) if self.pid == pid else None
            )

    def terminate(self, pid: int) -> None:
        """Implements ports.Processes."""
        assert pid == self.pid, f"terminates {pid}, not {self.pid}"
        self.calls.append((_now(), f"terminate {pid}"))
        if self.life is not None and self.life.obeys_after is not None:
            asyncio.get_running_loop().call_later(
                self.life.obeys_after, lambda: self.die(ExitStatus(code=0)) if self.pid == pid else None
            )

    def kill(self, pid: int) -> None:
        """Implements ports.Processes."""
        assert pid == self.pid, f"kills {pid}, not {self.pid}"
        self.calls.append((_now(), f"kill {pid}"))
        self.die(ExitStatus(signal=9))

    def exit_fd(self) -> int | None:
        """Implements ports.Daemon."""
        return None if self._fds is None else self._fds[0]

    def ended(self) -> ExitStatus:
        """Implements ports.Daemon."""
        assert self._end is not None, "asked how it ended while it lives"
        self.close()
        self.pid = None
        return self._end

    def is_stopped(self) -> bool:
        """Implements ports.Daemon."""
        return self.stopped

    def rss_bytes(self) -> int | None:
        """Implements ports.Daemon: never twice the same, which alone must not count as news."""
        return None if self.pid is None else 50_000_000 + int(_now() * 1000)

    def remember(self, *, restarts: int, last_exit: LastExit | None) -> None:
        """Implements ports.Daemon."""
        self.remembered.append((restarts, last_exit))
        self.facts = msgspec.structs.replace(self.facts, restarts=restarts, last_exit=last_exit)

    def cure_signs(self) -> object:
        """Implements ports.Daemon."""
        self.calls.append((_now(), "cure_signs"))
        return self.signs


def _now() -> float:
    return asyncio.get_running_loop().time()


class FakeLog:
    """ports.Log: has the lines that the last daemon left; can be in trouble."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.blind = False
        self.lines: list[str] = []
        self.pumped = 0
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def pump(self, limit: int = 0) -> bool:
        """Implements ports.Log."""
        self.pumped += 1
        return False

    def watch_fd(self) -> int:
        """Implements ports.Log."""
        return self.fd

    def drain_watch(self) -> None:
        """Implements ports.Log."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def tail(self, count: int) -> list[str]:
        """Implements ports.Log."""
        return self.lines[-count:]

    def close(self) -> None:
        """Gives back its descriptor."""
        os.close(self.fd)


class FakeStore:
    """ports.Store: what was published when."""

    def __init__(self) -> None:
        self.published: list[Status] = []
        self.full = False

    def publish(self, status: Status) -> None:
        """Implements ports.Store."""
        self.published.append(status)

    def is_full(self) -> bool:
        """Implements ports.Store."""
        return self.full


class FakeOwnLog:
    """ports.OwnLog: the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def event(self, what: str, **fields: object) -> None:
        """Implements ports.OwnLog."""
        self.lines.append(f"{what}: {fields.get('why')}")


class FakeControl:
    """A control server as the backend of a FakeApi sees it. Times are seconds of the virtual clock."""

    def __init__(self) -> None:
        self.good = {"good-key"}
        self.refusals: dict[str, str] = {}
        self.answers_after: float | None = 0.1
        self.online = True
        self.peers = 0
        self.exits: list[str] = []  # names of peers that offer themselves as exit nodes


class FakeApi:
    """ports.LocalApi of the daemon's backend: a small tailscaled. What no test planned raises.

    `hang`: snapshots get no answer. `bus_ends`: the bus is cut, once.
    """

    def __init__(self, daemon: FakeDaemon, control: FakeControl, *, logged_in: bool) -> None:
        self.daemon = daemon
        self.control = control
        self.state = 6 if logged_in else 2
        self.have_key = logged_in
        self.auth_url = ""
        self.hang = False
        self.refuses: dict[str, str] = {}  # first word of a call -> LocalAPI's error
        self.calls: list[tuple[float, str]] = []
        self.pref: dict[str, object] = {"WantRunning": logged_in, "RouteAll": True, "ControlURL": ""}
        self._key: str | None = None
        self._buses: list[asyncio.Queue[Notify | None]] = []

    # --- the test's side

    def told(self, *words: str) -> list[tuple[float, str]]:
        """When what was asked of it, snapshots only on request: seconds from the start of the test."""
        wanted = words or ("start", "login", "edit", "logout")
        return [(round(at - START, 3), call) for at, call in self.calls if call.partition(" ")[0] in wanted]

    def tell(self, **news: object) -> None:
        """One line on the bus."""
        for bus in self._buses:
            bus.put_nowait(Notify(**news))  # type: ignore[arg-type]

    def cut_bus(self) -> None:
        """The bus ends, as for a reader that fell behind."""
        for bus in self._buses:
            bus.put_nowait(None)

    def become(self, state: int) -> None:
        """The backend goes to another state and says so."""
        self.state = state
        self.tell(state=state)

    # --- the supervisor's side

    def _ask(self, call: str) -> None:
        if self.daemon.answers_in() > 1e-6:
            raise ConnectionRefusedError(111, "Connection refused")
        self.calls.append((_now(), call))
        if call.partition(" ")[0] in self.refuses:
            raise TazpodNetError(self.refuses[call.partition(" ")[0]])

    async def ready(self) -> bool:
        """Implements ports.LocalApi: like the real one it blocks, 30 s at most, until the backend exists."""
        wait = self.daemon.answers_in()
        await asyncio.sleep(min(wait, 30.0))
        if wait > 30.0:
            raise TimeoutError
        return True

    async def snapshot(self, *, peers: bool = True, timeout: float = 10.0) -> Snapshot:  # noqa: ASYNC109 - the port's
        """Implements ports.LocalApi."""
        assert peers
        if self.hang:
            self.calls.append((_now(), "snapshot"))
            await asyncio.sleep(timeout)
            raise TimeoutError
        self._ask("snapshot")
        running = self.state == 6
        me = Peer(dns_name="tazpod.example.ts.net." if running else "", online=running and self.control.online)
        return Snapshot(
            version="1.102.5",
            backend_state=STATES[self.state],
            have_node_key=self.have_key,
            auth_url=self.auth_url,
            ips=["100.64.0.1"] if running else None,
            self_=me,
            tailnet=Tailnet("me", "example.ts.net") if running else None,
            peer=self._peers(),
        )

    def _peers(self) -> dict[str, Peer]:
        plain = {f"k{n}": Peer(online=True) for n in range(self.control.peers)}
        exits = {name: Peer(id=f"id-{name}", dns_name=f"{name}.example.ts.net.", offers_exit=True)
                 for name in self.control.exits}  # fmt: skip
        return plain | exits

    async def prefs(self) -> dict[str, object]:
        """Implements ports.LocalApi."""
        self._ask("prefs")
        return dict(self.pref)

    async def edit_prefs(self, masked: dict[str, object]) -> None:
        """Implements ports.LocalApi."""
        fields = {name: value for name, value in masked.items() if f"{name}Set" in masked}
        self._ask(f"edit {fields}")
        self.pref.update(fields)
        self.tell(prefs=msgspec.convert(self.pref, Prefs))

    async def start(self, prefs: dict[str, object], auth_key: str | None) -> None:
        """Implements ports.LocalApi."""
        self._ask(f"start {auth_key}")
        self.pref, self._key = prefs, auth_key

    async def login_interactive(self) -> None:
        """Implements ports.LocalApi: only now does the backend talk to control."""
        self._ask("login")
        if self.control.answers_after is not None:
            asyncio.get_running_loop().call_later(self.control.answers_after, self._answered, self._key)

    def _answered(self, key: str | None) -> None:
        if key is None:
            self.auth_url = "https://control.example/a/1"
            self.tell(version="1.0")
        elif key in self.control.good:
            self.have_key = True
            self.become(6)
        else:
            self.tell(err_message=self.control.refusals.get(key, "invalid key: API key does not exist"))

    async def logout(self, timeout: float = 15.0) -> None:  # noqa: ASYNC109 - the port's
        """Implements ports.LocalApi."""
        self._ask("logout")
        if self.control.answers_after is None:
            await asyncio.sleep(timeout)
            raise TimeoutError
        self.have_key = False
        self.become(2)

    async def serve_config(self) -> tuple[bytes, str]:
        """Implements ports.LocalApi."""
        raise AssertionError("an unplanned question for the serve configuration")

    async def set_serve_config(self, body: bytes, etag: str) -> bool:
        """Implements ports.LocalApi."""
        raise AssertionError("an unplanned change of the serve configuration")

    async def watch(self) -> AsyncIterator[Notify]:
        """Implements ports.LocalApi: the first line says how it is."""
        self._ask("watch")
        bus: asyncio.Queue[Notify | None] = asyncio.Queue()
        self._buses.append(bus)
        try:
            yield Notify(version="1.102.5", state=self.state, prefs=msgspec.convert(self.pref, Prefs))
            while (line := await bus.get()) is not None:
                yield line
        finally:
            self._buses.remove(bus)


class World:
    """A supervisor with everything around it fake but the loop's file descriptors. Use as a context manager."""

    def __init__(
        self,
        *lives: Life,
        keys: tuple[str, ...] = (),
        logged_in: bool = True,
        policy: Policy | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.keys = list(keys)
        self.log, self.store, self.own_log, self.control = FakeLog(), FakeStore(), FakeOwnLog(), FakeControl()
        self.daemon = FakeDaemon(self.log, list(lives))
        self.api = FakeApi(self.daemon, self.control, logged_in=logged_in)
        self.session = Session(self.api, plan or Plan(), self._hooks())
        self.engine = Engine(policy or Policy(), self.daemon)
        self.supervisor = Supervisor(
            Me(version="0", pid=398, start_ticks=1, since=START, paths=PathsPart("/h"), identity=IdentityPart()),
            self.engine,
            self.daemon,
            self.session,
            self.log,
            self.store,
            self.own_log,
            random=lambda: 0.0,
            now=_now,
            epoch=lambda: NOON + _now() - START,
        )
        self.running: asyncio.Task[None] | None = None
        self.minted: list[tuple[str | None, Minted]] = []  # what minting will answer, after a second each

    async def _mint(self, candidate: Candidate) -> tuple[str | None, Minted]:
        assert self.minted, f"an unplanned minting by {candidate}"
        await asyncio.sleep(1)
        return self.minted.pop(0)

    def _hooks(self) -> Hooks:
        return Hooks(
            on_live=lambda pid: self.supervisor.on_live(pid),
            on_change=lambda: self.supervisor.changed(),
            on_trouble=lambda text: self.own_log.event("trouble", why=text),
            candidates=lambda: tuple(Candidate(f"fingerprint of {key}", key.startswith("mint")) for key in self.keys),
            key=lambda candidate: candidate.fingerprint.removeprefix("fingerprint of "),
            mint=self._mint,
            epoch=lambda: NOON + _now() - START,
            now=_now,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        self.session.detach()
        self.daemon.close()
        self.log.close()

    def begin(self, first: AnyEvent | None = None) -> None:
        """The first daemon is wanted (or what `first` says) before the loop runs, as in the real start."""
        self.engine.feed(first or WantUp(_now()))
        self.running = asyncio.get_running_loop().create_task(self.supervisor.run())

    async def until(self, holds: Callable[[Status], bool], within: float = 1000.0) -> Status:
        """The first status of which this is true. AssertionError after `within` virtual seconds."""
        try:
            async with asyncio.timeout(within):
                while not holds(self.supervisor.status()):
                    await self.supervisor.change()
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s: {self.supervisor.status().summary}") from None
        return self.supervisor.status()

    async def up(self) -> Status:
        """From the start to ready."""
        if self.running is None:
            self.begin()
        return await self.until(lambda status: status.ready)

    @property
    def at(self) -> float:
        """Seconds since the start of the test."""
        return round(_now() - START, 3)
