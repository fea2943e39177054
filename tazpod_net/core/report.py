"""Builds the status object from what is known. Pure; the clock's reading comes in as a value."""

import msgspec

from tazpod_net.core import render
from tazpod_net.core.argv import Wanted, drift
from tazpod_net.core.backend import Backend
from tazpod_net.core.exits import how_of
from tazpod_net.core.login import Code, Said
from tazpod_net.core.machine import GAVE_UP
from tazpod_net.core.model import Machine, State
from tazpod_net.core.notes import key_expiry, other_name
from tazpod_net.core.status import (
    BackendPart,
    DaemonPart,
    DnsPart,
    Drift,
    HealthNote,
    IdentityPart,
    LastEvent,
    LastExit,
    Note,
    PathsPart,
    PeersPart,
    ProxyPart,
    Status,
    SupervisorPart,
)
from tazpod_net.core.timefmt import rfc3339


class Clock(msgspec.Struct, frozen=True):
    """One reading of both clocks, so that monotonic times can be shown."""

    mono: float
    epoch: float

    def show(self, mono: float | None) -> str | None:
        """A monotonic time as RFC 3339."""
        return None if mono is None else rfc3339(self.epoch + (mono - self.mono))


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the status object is made of. Times are monotonic seconds unless said otherwise."""

    clock: Clock
    version: str
    pid: int
    start_ticks: int
    since: float
    machine: Machine
    backend: Backend
    live: bool
    said: Said
    wanted: str = "up"
    ready_since: float | None = None
    not_live_because: str = ""
    daemon_version: str | None = None
    daemon_since: float | None = None
    adopted: bool = False
    mode: str | None = None
    mode_reason: str | None = None
    interface: str | None = None
    rss_bytes: int | None = None
    last_exit: LastExit | None = None
    last_exit_because: str | None = None
    last_exit_next: str | None = None
    last_event: LastEvent | None = None
    requested_hostname: str | None = None
    settings: Wanted = Wanted()
    server: str | None = None  # login.server, if it is configured
    identity: IdentityPart = IdentityPart()
    proxy: ProxyPart = ProxyPart()
    dns: DnsPart = DnsPart()
    paths: PathsPart = PathsPart()
    notes: tuple[Note, ...] = ()
    looked: str | None = None
    restarts: int = 0
    renews: bool = False  # a new node key can be had without a person


def build(known: Known) -> Status:
    """The status object."""
    machine, backend, clock = known.machine, known.backend, known.clock
    live = known.live and machine.state in {State.UP, State.STARTING}
    ready = live and backend.ready and known.said.code is Code.OK  # else it has an address and no tailnet
    bare = Status(
        checked_at=rfc3339(clock.epoch),
        live=live,
        ready=ready,
        online=ready and backend.online,
        wanted=known.wanted,
        supervisor=SupervisorPart(
            pid=known.pid,
            start_ticks=known.start_ticks,
            version=known.version,
            since=clock.show(known.since),
            state=machine.state.value,
            state_since=clock.show(machine.since),
        ),
        last_event=known.last_event,
        daemon=_daemon(known),
        backend=_backend(known, live=live),
        identity=known.identity,
        proxy=known.proxy if machine.pid is not None else ProxyPart(),
        dns=known.dns,
        settings_drift=_drift(known, ready=ready),
        paths=known.paths,
        notes=_notes(known, live=live),
    )
    return msgspec.structs.replace(bare, summary=_summary(known, bare))


def _summary(known: Known, status: Status) -> str:
    machine, now = known.machine, known.clock.mono
    return render.summary(
        status,
        ready_for=None if known.ready_since is None else now - known.ready_since,
        not_live_because=known.not_live_because,
        trouble=_trouble(machine),
        wait=None if machine.state is not State.BACKOFF or machine.deadline is None else machine.deadline - now,
    )


def _trouble(machine: Machine) -> str:
    """What went wrong, for the first line: `tailscaled exited 5 times (code 1 after 0.4 s)`."""
    if not machine.died or machine.reason.startswith(GAVE_UP):
        return machine.reason
    if machine.state is State.FATAL:
        how, _, why = machine.reason.partition(": ")
        return f"tailscaled exited ({how})" + (f": {why}" if why else "")
    times = "once" if machine.failures == 1 else f"{machine.failures} times"
    return f"tailscaled exited {times} ({how_of(machine.reason)})"


def _daemon(known: Known) -> DaemonPart:
    machine = known.machine
    running = machine.pid is not None
    return DaemonPart(
        pid=machine.pid,
        version=known.backend.version if running else None,
        binary_version=known.daemon_version,
        since=known.clock.show(known.daemon_since) if running else None,
        adopted=known.adopted and running,
        mode=known.mode,
        mode_reason=known.mode_reason,
        interface=known.interface if running else None,
        restarts=known.restarts,
        next_start=known.clock.show(machine.deadline) if machine.state is State.BACKOFF else None,
        rss_bytes=known.rss_bytes if running else None,
        last_exit=known.last_exit,
    )


def _backend(known: Known, *, live: bool) -> BackendPart:
    if not live:
        return BackendPart(requested_hostname=known.requested_hostname)
    backend, said = known.backend, known.said
    return BackendPart(
        state=backend.state,
        login=said.text,
        login_code=None if said.code is None else said.code.value,
        login_next=said.next,
        auth_url=backend.auth_url,
        tailnet=backend.tailnet,
        hostname=backend.hostname,
        requested_hostname=known.requested_hostname,
        dns_name=backend.dns_name,
        ips=list(backend.ips),
        tags=list(backend.tags),
        key_expiry=backend.key_expiry,
        relay=backend.relay,
        health=[HealthNote(code, text) for code, text in backend.health],
        peers=PeersPart(*msgspec.structs.astuple(backend.peers)),
    )


def _drift(known: Known, *, ready: bool) -> list[Drift]:
    if not ready or known.backend.prefs is None:
        return []
    rows = drift(known.settings, known.backend.prefs, known.backend.exit_nodes)
    return [Drift(*row) for row in [*_server_drift(known), *rows]]


def _server_drift(known: Known) -> list[tuple[str, object, object]]:
    """A saved login is at another control server than the configured one: only a login would change that."""
    actual = "" if known.backend.prefs is None else known.backend.prefs.control_url
    if not known.server or not actual or actual.rstrip("/") == known.server.rstrip("/"):
        return []
    return [("login.server", known.server, actual)]


def _notes(known: Known, *, live: bool) -> list[Note]:
    notes: list[Note] = []
    code = known.said.code if live else None
    if code == "no-credentials" and known.looked:
        notes.append(Note("looked", known.looked))
    if known.machine.state in {State.BACKOFF, State.FATAL}:
        notes += _failure_notes(known)
    standing = (
        key_expiry(known.backend, known.clock.epoch, renews=known.renews),
        other_name(known.backend, known.requested_hostname),
    )
    if live and known.backend.ready and _server_drift(known):
        notes.append(Note("other-server", "it is logged in at another control server than login.server names",
                          "tazpod-net logout, then: tazpod-net up"))  # fmt: skip
    return [*notes, *(note for note in standing if live and note is not None), *known.notes]


def _failure_notes(known: Known) -> list[Note]:
    """Why it failed, and what to do: for a daemon that ended from its log, for one that never ran from the start."""
    machine = known.machine
    because, fix = (known.last_exit_because, known.last_exit_next) if machine.died else (None, None)
    notes = [Note("because", because)] if because and because not in _trouble(machine) else []
    fix = machine.fix or fix
    if machine.state is State.FATAL:
        text = "it goes on by itself when the binary, the device or the configuration changes"
        return [*notes, Note("fatal", text, fix or "tazpod-net up")]
    steps = [fix] if fix else []
    steps += ["now: tazpod-net restart"]
    steps += ["log: tazpod-net logs --previous"] if machine.died else []
    return [*notes, Note("backoff", machine.reason, "; ".join(steps))]
