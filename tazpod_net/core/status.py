"""The status object, schema 1 (contract, section 5): always an object, every key always present. Pure data.

Times are RFC 3339 UTC strings. Readers ignore keys that they do not know; keys are only ever added.
"""

from typing import Any

import msgspec

SCHEMA = 1


class Note(msgspec.Struct, frozen=True):
    """Something a person should know, with the next step if there is one."""

    code: str
    text: str
    next: str | None = None


class SupervisorPart(msgspec.Struct, frozen=True):
    """`start_ticks` is field 22 of /proc/PID/stat: pid and ticks together name one process (`man 5 proc`)."""

    pid: int | None = None
    start_ticks: int | None = None
    version: str = ""
    since: str | None = None
    state: str = "down"
    state_since: str | None = None


class LastEvent(msgspec.Struct, frozen=True):
    """The newest change of state."""

    at: str
    what: str
    why: str


class LastExit(msgspec.Struct, frozen=True):
    """How the daemon ended last; `code` or `signal` is null where the kernel does not tell (adopted, reaped)."""

    at: str
    code: int | None
    signal: str | None
    reason: str
    log_tail: list[str]


class DaemonPart(msgspec.Struct, frozen=True):
    """The tailscaled process."""

    pid: int | None = None
    version: str | None = None
    binary_version: str | None = None
    since: str | None = None
    adopted: bool = False
    mode: str | None = None
    mode_reason: str | None = None
    interface: str | None = None
    restarts: int = 0
    next_start: str | None = None
    rss_bytes: int | None = None
    last_exit: LastExit | None = None

    @property
    def short_version(self) -> str:
        """`1.102.5` of `1.102.5-t1234-g5678`; empty if nobody knows."""
        return (self.version or self.binary_version or "").partition("-")[0]


class HealthNote(msgspec.Struct, frozen=True):
    """A health warning of tailscaled."""

    code: str
    text: str


class PeersPart(msgspec.Struct, frozen=True):
    """Counts of peers."""

    total: int = 0
    online: int = 0
    direct: int = 0
    relayed: int = 0


class BackendPart(msgspec.Struct, frozen=True):
    """What the backend says of login and tailnet."""

    state: str | None = None
    login: str | None = None
    login_code: str | None = None
    login_next: str | None = None
    auth_url: str | None = None
    tailnet: str | None = None
    hostname: str | None = None
    requested_hostname: str | None = None
    dns_name: str | None = None
    ips: list[str] = []
    tags: list[str] = []
    key_expiry: str | None = None
    relay: str | None = None
    health: list[HealthNote] = []
    peers: PeersPart = PeersPart()


class IdentityPart(msgspec.Struct, frozen=True):
    """Where the node's identity is kept."""

    kind: str = "persist"
    path: str | None = None
    store: str | None = None


class ProxyPart(msgspec.Struct, frozen=True):
    """Addresses of the proxies, `host:port`, in userspace mode."""

    socks5: str | None = None
    http: str | None = None


class DnsPart(msgspec.Struct, frozen=True):
    """The resolver in use."""

    resolver: str | None = None
    guarded: bool = False
    hosts_block: bool = False


class Drift(msgspec.Struct, frozen=True):
    """A setting that is not as configured."""

    setting: str
    wanted: Any
    actual: Any


class PathsPart(msgspec.Struct, frozen=True):
    """Where things are."""

    home: str = ""
    socket: str = ""
    log: str = ""


class Status(msgspec.Struct, frozen=True):
    """The object of `status --json` and `state/status.json`."""

    checked_at: str
    schema: int = SCHEMA
    live: bool = False
    ready: bool = False
    online: bool = False
    wanted: str = "up"
    summary: str = ""
    notes: list[Note] = []
    supervisor: SupervisorPart = SupervisorPart()
    last_event: LastEvent | None = None
    daemon: DaemonPart = DaemonPart()
    backend: BackendPart = BackendPart()
    identity: IdentityPart = IdentityPart()
    proxy: ProxyPart = ProxyPart()
    dns: DnsPart = DnsPart()
    settings_drift: list[Drift] = []
    paths: PathsPart = PathsPart()

    def answers(self, condition: str) -> bool:
        """Whether `condition` (live, ready or online) holds."""
        return {"live": self.live, "ready": self.ready, "online": self.online}[condition]


def to_json(status: Status) -> bytes:
    """One line of JSON, without the newline."""
    try:
        return msgspec.json.encode(status)
    except UnicodeEncodeError:  # a path that is no UTF-8
        return msgspec.json.encode(_printable(msgspec.to_builtins(status)))


def _printable(value: object) -> object:
    """The same with a question mark for each byte of a path that JSON cannot say."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value


def to_pretty_json(status: Status) -> bytes:
    """What a person reads: indented, with a newline at the end."""
    return msgspec.json.format(to_json(status), indent=2) + b"\n"


def from_json(data: bytes) -> Status:
    """Reads a status of any version. Raises msgspec.DecodeError on garbage."""
    try:
        return msgspec.json.decode(data, type=Status)
    except RecursionError as e:
        raise msgspec.DecodeError(str(e)) from e


def steady(status: Status) -> Status:
    """The status without what changes by itself: publishing that would wake the machine for nothing."""
    return msgspec.structs.replace(
        status,
        checked_at="",
        summary="",
        daemon=msgspec.structs.replace(status.daemon, rss_bytes=None),
    )
