"""Status -> text for a person. Pure. Golden renderings are in tests/core/test_render.py."""

from collections.abc import Callable

from tazpod_net.core.login import ONLY_A_PERSON, REJECTED
from tazpod_net.core.outcome import control_trouble
from tazpod_net.core.status import DaemonPart, Status
from tazpod_net.core.timefmt import local_time, parse_rfc3339

_COLOURS = {"green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m"}
_RESET = "\x1b[0m"

OffsetAt = Callable[[float], int]
"""Seconds east of UTC at a moment (seconds since the epoch): the caller knows the time zone, this module does not."""


def span(seconds: float) -> str:
    """A length of time as a person says it, two units at most: `4 s`, `0.9 s`, `4 min`, `3 h 12 min`, `5 days`."""
    if seconds < 10:  # noqa: PLR2004 - tenths are worth saying only here
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 60:  # noqa: PLR2004
        return f"{int(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:  # noqa: PLR2004
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def short(status: Status) -> str:
    """The line of `status --short`: `tailnet: STATE [MODE IP NAME]`."""
    word = short_state(status)
    parts = [word]
    if word in {"ready", "offline"}:
        parts += [status.daemon.mode or "-", _first_ip(status) or "-", status.backend.hostname or "-"]
    return "tailnet: " + " ".join(parts)


def short_state(status: Status) -> str:
    """STATE of `status --short`, one word of the contract's list."""
    supervisor = status.supervisor.state
    if supervisor == "down":
        return "stopped" if status.wanted == "stopped" else "down"
    if supervisor in {"stopping", "backoff", "fatal"}:
        return supervisor
    if status.ready:
        return "ready" if status.online else "offline"
    return _waiting_state(status)


_WAITING = {
    "no-credentials": "waiting-credentials",
    "logged-out": "waiting-credentials",
    "node-deleted": "waiting-credentials",
    "needs-approval": "waiting-approval",
    "tailnet-lock": "waiting-approval",
    "login-url": "waiting-login",
    "stopped": "stopped",
    "node-key-expired": "key-expired",
}


def _waiting_state(status: Status) -> str:
    code = status.backend.login_code or ""
    if code in _WAITING:
        return _WAITING[code]
    return "key-rejected" if code in REJECTED else "starting"


def text(status: Status, *, now: float, colour: bool = False, offset_at: OffsetAt | None = None) -> str:
    """The whole answer of `status`. `now`: seconds since the epoch. Without `offset_at` times are said in UTC."""
    lines = [_first_line(status, colour=colour)]
    lines += [f"  {name:<9} {value}" for name, value in _details(status, now, offset_at) if value]
    return "\n".join(lines) + "\n"


def _first_line(status: Status, *, colour: bool) -> str:
    word, separator, rest = status.summary.partition(":")
    if not colour:
        return status.summary
    shade = "green" if status.ready and status.online else "yellow"
    if status.supervisor.state in {"fatal", "backoff", "down"} or status.backend.login_code in REJECTED:
        shade = "red"
    return f"{_COLOURS[shade]}{word}{_RESET}{separator}{rest}"


Rows = list[tuple[str, str]]


def _details(status: Status, now: float, offset_at: OffsetAt | None) -> Rows:
    """Only what has something to say: before the node is ready, the first line and the notes say it all."""
    rows: Rows = []
    if status.ready and status.daemon.mode == "userspace" and status.daemon.mode_reason:
        rows.append(("why", status.daemon.mode_reason))
    rows.append(("daemon", _daemon_line(status, now, offset_at)))
    if status.ready:
        rows += [("login", _login_line(status, now)), ("identity", _identity_line(status))]
        rows += [("peers", _peers_line(status)), ("use", _use_line(status)), ("dns", _dns_line(status))]
    rows += [("health", f"{h.text} ({h.code})") for h in status.backend.health if _is_news(status, h.code)]
    rows += [("drift", f"{d.setting}: wanted {_say(d.wanted)}, is {_say(d.actual)}") for d in status.settings_drift]
    return rows + _note_rows(status)


# What the first line says already, in the words of tailscaled (`tsconst/health.go`).
_SAID_ABOVE = frozenset({"login-state", "wantrunning-false", "warming-up", "state-store-health"})


def _is_news(status: Status, code: str) -> bool:
    return status.live and (status.ready or code not in _SAID_ABOVE)


_ROWS_OF_NOTES = {"looked": "looked", "because": "because"}
_ONLY_NEXT = frozenset({"start", "backoff", "fatal"})  # their text is the first line's; it is there for programs


def _note_rows(status: Status) -> Rows:
    rows: Rows = []
    nexts: list[str] = []
    for note in status.notes:
        if note.code not in _ONLY_NEXT:
            rows.append((_ROWS_OF_NOTES.get(note.code, "note"), note.text))
        if note.next and note.next not in nexts:
            nexts.append(note.next)
    login_next = status.backend.login_next
    if login_next and not status.ready and login_next not in nexts:
        nexts.insert(0, login_next)
    return rows + [("next", text) for text in nexts]


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(v) for v in value) or "none"
    return str(value) if value not in {None, ""} else "none"


def _daemon_line(status: Status, now: float, offset_at: OffsetAt | None) -> str:
    daemon = status.daemon
    eventful = daemon.adopted or daemon.restarts or daemon.last_exit is not None
    if daemon.pid is None or not (status.ready or (status.live and eventful)):
        return ""
    parts = [f"tailscaled {daemon.short_version or '(version unknown)'}", f"pid {daemon.pid}"]
    if daemon.mode == "tun" and daemon.interface:
        parts.append(daemon.interface)
    if daemon.adopted:
        parts.append("adopted from an earlier supervisor")
    return ", ".join(parts) + _past(daemon, now, offset_at)


def _past(daemon: DaemonPart, now: float, offset_at: OffsetAt | None) -> str:
    """`; 1 restart: SIGKILL, likely out of memory, 14:02 (logs --previous)`."""
    restarts = f"; {daemon.restarts} restart{'s' if daemon.restarts > 1 else ''}" if daemon.restarts else ""
    if daemon.last_exit is None:
        return restarts
    end = daemon.last_exit
    return f"{restarts or '; last exit'}: {end.reason}, {clock(end.at, now, offset_at)} (logs --previous)"


def clock(rfc3339: str, now: float, offset_at: OffsetAt | None = None) -> str:
    """`14:02` today, `2026-11-22 14:02` on another day; `14:02 UTC` where no offset is known."""
    at = parse_rfc3339(rfc3339)
    if at is None:
        return rfc3339
    east = offset_at or (lambda _: 0)
    day, minute = local_time(at + east(at))
    today, _ = local_time(now + east(now))
    said = minute if day == today else f"{day} {minute}"
    return said if offset_at is not None else f"{said} UTC"


def _login_line(status: Status, now: float) -> str:
    backend = status.backend
    parts = [backend.login or "ok", *backend.tags]
    if backend.key_expiry:
        parts.append(f"node key ends {backend.key_expiry[:10]}{_days_left(backend.key_expiry, now)}")
    return ", ".join(parts)


def _days_left(rfc3339: str, now: float) -> str:
    """` (99 days)`."""
    ends = parse_rfc3339(rfc3339)
    if ends is None:
        return ""
    days = int((ends - now) // 86400)
    if days < 0:
        return " (over)"
    return f" ({days} day{'' if days == 1 else 's'})"


def _identity_line(status: Status) -> str:
    identity = status.identity
    if identity.path is None:
        return ""
    path = status.paths.home if identity.path == f"{status.paths.home}/state" else identity.path
    store = {"mount": " (bind mount)", None: ""}.get(identity.store, f" ({identity.store})")
    return f"{'kept in' if identity.kind == 'persist' else 'ephemeral, in'} {path}{store}"


def _peers_line(status: Status) -> str:
    peers = status.backend.peers
    if not peers.total:
        return ""
    line = f"{peers.online} of {peers.total} online"
    parts = [f"{peers.direct} direct"] if peers.direct else []
    if peers.relayed:
        parts.append(f"{peers.relayed} relayed" + (f" ({status.backend.relay})" if status.backend.relay else ""))
    return line + (": " + ", ".join(parts) if parts else "")


def _use_line(status: Status) -> str:
    socks5, http = status.proxy.socks5, status.proxy.http
    if not (socks5 or http):
        return ""
    where = ", ".join(f"{kind} on {place}" for kind, place in (("SOCKS5", socks5), ("HTTP", http)) if place)
    if socks5 == http:
        where = f"SOCKS5 and HTTP on {socks5}"
    return f'tazpod-net run -- CMD, or eval "$(tazpod-net env)"; {where}'


def _dns_line(status: Status) -> str:
    words = [status.dns.resolver, "guarded" if status.dns.guarded else None]
    words += ["names in /etc/hosts" if status.dns.hosts_block else None]
    return ", ".join(filter(None, words)) if words[0] or words[2] else ""


def _first_ip(status: Status) -> str | None:
    return status.backend.ips[0] if status.backend.ips else None


def headline(text: str) -> str:
    """A summary without what changes by itself, for places that are told only of changes."""
    for ages in (", for ", ", next start in "):
        text = text.rpartition(ages)[0] or text
    return text


def summary(
    status: Status,
    *,
    ready_for: float | None = None,
    not_live_because: str = "",
    trouble: str = "",
    wait: float | None = None,
) -> str:
    """The first line.

    `ready_for`: seconds of readiness. `not_live_because`: what is the matter with a daemon that does not answer.
    `trouble`: what went wrong (backoff, fatal). `wait`: seconds until the next start (backoff).
    """
    match status.supervisor.state:
        case "up" if not status.live:
            return f"not answering: tailscaled (pid {status.daemon.pid}) {not_live_because or 'does not answer'}"
        case "up" if status.ready:
            return _ready_line(status, ready_for)
        case "up":
            return _not_ready_line(status)
        case "starting":
            return f"starting: tailscaled{_pid(status)}, waiting for its answer"
        case "stopping":
            return f"stopping: tailscaled{_pid(status)} was told to end"
        case "backoff":
            return f"backing off: {trouble}" + ("" if wait is None else f", next start in {span(max(wait, 0.0))}")
        case "fatal":
            return f"fatal: {trouble}"
        case _:
            return "not running"


def _pid(status: Status) -> str:
    return "" if status.daemon.pid is None else f" (pid {status.daemon.pid})"


def _ready_line(status: Status, ready_for: float | None) -> str:
    backend = status.backend
    where = f"on {backend.tailnet} as " if backend.tailnet else "as "
    mode = " by TUN" if status.daemon.mode == "tun" else ", userspace (proxy only)"
    since = f", for {span(ready_for)}" if ready_for is not None else ""
    word, lost = ("ready", "") if status.online else ("offline", "; the control server does not see this node")
    return f"{word}: {where}{backend.hostname} ({_first_ip(status)}){mode}{since}{lost}"


def _not_ready_line(status: Status) -> str:
    backend = status.backend
    code = backend.login_code or ""
    if code == "no-credentials":
        return f"{backend.login}: tailscaled runs, this container is not logged in"
    if code == "logging-in":
        return f"logging in: tailscaled runs, {_awaited(status)}"
    if code in ONLY_A_PERSON or backend.login:
        head, separator, tail = (backend.login or code).partition(": ")
        return f"{head}: {tail}" if separator else f"{head}: tailscaled runs"
    awaited = control_trouble(status) or f"its backend is {backend.state or 'not decided'}"
    return f"starting: tailscaled runs, {awaited}"


def _awaited(status: Status) -> str:
    """What a login waits for: what tailscaled itself finds wrong, or else what the session says."""
    said = status.backend.login or ""
    if not said.startswith("logging in"):
        return said
    return control_trouble(status) or said.removeprefix("logging in").lstrip(":; ") or "waiting for the control server"
