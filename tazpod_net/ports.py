"""What the supervisor needs of the outside, as small protocols. Concrete ones are in adapters; fakes in the tests."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from tazpod_net.core.backend import Notify, Snapshot
from tazpod_net.core.events import Spawned, SpawnFailed
from tazpod_net.core.exits import ExitStatus
from tazpod_net.core.status import LastExit, Note, Status


class Processes(Protocol):
    """Starts and ends the daemon. Never blocks."""

    def spawn(self, at: float, *, avoid_tun: bool) -> Spawned | SpawnFailed:
        """Starts it; the answer is the next event."""

    def terminate(self, pid: int) -> None:
        """SIGTERM."""

    def kill(self, pid: int) -> None:
        """SIGKILL."""


class LocalApi(Protocol):
    """See adapters.localapi."""

    async def ready(self) -> bool:
        """Blocks until the backend exists."""

    async def snapshot(self, *, peers: bool = True, timeout: float = 10.0) -> Snapshot:  # noqa: ASYNC109
        """`GET status`."""

    async def prefs(self) -> dict[str, object]:
        """`GET prefs`."""

    async def edit_prefs(self, masked: dict[str, object]) -> None:
        """`PATCH prefs`."""

    async def start(self, prefs: dict[str, object], auth_key: str | None) -> None:
        """`POST start`."""

    async def login_interactive(self) -> None:
        """`POST login-interactive`."""

    async def logout(self, timeout: float = 15.0) -> None:  # noqa: ASYNC109
        """`POST logout`."""

    async def serve_config(self) -> tuple[bytes, str]:
        """`GET serve-config`: JSON and ETag."""

    async def set_serve_config(self, body: bytes, etag: str) -> bool:
        """`POST serve-config`; False: somebody changed it after `etag` was read."""

    def watch(self) -> AsyncIterator[Notify]:
        """The bus."""


class Tailnet(Protocol):
    """What the daemon can try out there: see adapters.localapi."""

    async def ping(self, ip: str, timeout: float) -> str | None:  # noqa: ASYNC109
        """Why a peer does not answer; None if it does. TimeoutError: silence."""

    async def dial(self, host: str, port: int, timeout: float) -> str | None:  # noqa: ASYNC109
        """Connects by the daemon; or returns the `host:port` outside the tailnet that is to be dialled without it."""

    async def resolves(self, name: str, timeout: float) -> bool:  # noqa: ASYNC109
        """Whether the daemon's own resolver knows a name."""


class Network(Protocol):
    """What any program of the container can try: see adapters.network."""

    async def lookup(self, name: str, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Addresses of a name as programs get them. Raises OSError with the resolver's words, or TimeoutError."""

    async def connect(self, address: str, port: int, timeout: float) -> None:  # noqa: ASYNC109
        """Connects and hangs up. Raises OSError or TimeoutError."""


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the present (or last) daemon process. `since`: monotonic seconds."""

    mode: str | None = None
    mode_reason: str | None = None
    interface: str | None = None
    socks5: str | None = None
    http: str | None = None
    adopted: bool = False
    since: float | None = None
    restarts: int = 0
    binary_version: str | None = None
    last_exit: LastExit | None = None
    probe_ms: float = 0.0
    notes: tuple[Note, ...] = ()


class Daemon(Processes, Protocol):
    """The process of this home's daemon, and what is remembered of it across supervisors."""

    facts: DaemonFacts

    def exit_fd(self) -> int | None:
        """Readable when the daemon has ended; None without one."""

    def ended(self) -> ExitStatus:
        """How it ended; call it when `exit_fd` is readable. Forgets the process."""

    def is_stopped(self) -> bool:
        """Whether the process is stopped (SIGSTOP)."""

    def rss_bytes(self) -> int | None:
        """Resident memory."""

    def remember(self, *, restarts: int, last_exit: LastExit | None) -> None:
        """Keeps the history for the next supervisor."""

    def cure_signs(self) -> object:
        """Changes when something changes that could end a fatal state (binary, device, configuration files)."""


class Log(Protocol):
    """The daemon's log: see adapters.spool."""

    trouble: str | None

    @property
    def blind(self) -> bool:
        """Inotify has run out: nothing tells of new lines, look by a timer."""

    def pump(self, limit: int = ...) -> bool:
        """Moves what is there; True if there may be more at once."""

    def watch_fd(self) -> int:
        """Readable when there is something to move."""

    def drain_watch(self) -> None:
        """Takes the news off `watch_fd`."""

    def tail(self, count: int) -> list[str]:
        """The last lines of this run."""


class Store(Protocol):
    """Where others read the state."""

    def publish(self, status: Status) -> None:
        """Writes status.json and short; trouble with the disk is not fatal."""

    def is_full(self) -> bool:
        """Whether the disk of the home has no room."""


class Hosts(Protocol):
    """/etc/hosts: see adapters.hostsfile. All raise OSError, and TazpodNetError for what is no hosts file."""

    def mark(self) -> object:
        """Changes when the file does."""

    def read(self) -> bytes:
        """Its bytes."""

    def change(self, edit: Callable[[bytes], bytes]) -> bool:
        """Writes what `edit` makes of its bytes; True if that was something else."""

    def repair(self) -> bool:
        """Finishes a write that a crash has cut; True if there was one."""


class OwnLog(Protocol):
    """The supervisor's own log."""

    def event(self, what: str, **fields: object) -> None:
        """One line."""
