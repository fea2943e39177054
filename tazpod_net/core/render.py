"""Status -> text for a person. Pure. Golden renderings are in tests/core/test_render.py."""

from tazpod_net.core.login import ONLY_A_PERSON, REJECTED
from tazpod_net.core.status import Status

_COLOURS = {"green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m"}
_RESET = "\x1b[0m"


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
        return f"{hours} h {minutes} min"
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


def text(status: Status, *, now: float, colour: bool = False, log_hint: str = "tazpod-net logs") -> str:
    """The whole answer of `status`; `now` is seconds since the epoch, for `in 14 s` and the like."""
    del log_hint
    lines = [_first_line(status, colour=colour)]
    lines += [f"  {name:<9} {value}" for name, value in _details(status, now) if value]
    return "\n".join(lines) + "\n"


def _first_line(status: Status, *, colour: bool) -> str:
    word, separator, rest = status.summary.partition(":")
    if not colour:
        return status.summary
    shade = "green" if status.ready and status.online else "yellow"
    if status.supervisor.state in {"fatal", "backoff", "down"} or status.backend.login_code in REJECTED:
        shade = "red"
    return f"{_COLOURS[shade]}{word}{_RESET}{separator}{rest}"


def _details(status: Status, now: float) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if status.daemon.mode == "userspace" and status.daemon.mode_reason and status.supervisor.state == "up":
        rows.append(("why", status.daemon.mode_reason))
    rows.append(("daemon", _daemon_line(status, now)))
    rows.append(("login", _login_line(status)))
    rows += [("identity", _identity_line(status)), ("peers", _peers_line(status)), ("use", _use_line(status))]
    rows.append(("dns", _dns_line(status)))
    rows += [("health", f"{h.text} ({h.code})") for h in status.backend.health if status.live]
    rows += [("drift", f"{d.setting}: wanted {_say(d.wanted)}, is {_say(d.actual)}") for d in status.settings_drift]
    return rows + _note_rows(status)


_ROW_OF_NOTE = {"looked": "looked", "because": "because"}


def _note_rows(status: Status) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    nexts: list[str] = []
    for note in status.notes:
        rows.append((_ROW_OF_NOTE.get(note.code, "note"), note.text))
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


def _daemon_line(status: Status, now: float) -> str:
    daemon = status.daemon
    if daemon.pid is None:
        return ""
    parts = [
        f"tailscaled {daemon.version or daemon.binary_version or '(version unknown)'}",
        f"pid {daemon.pid}",
    ]
    if daemon.mode == "tun" and daemon.interface:
        parts.append(daemon.interface)
    if daemon.adopted:
        parts.append("adopted from an earlier supervisor")
    line = ", ".join(parts)
    if daemon.restarts:
        line += f"; {daemon.restarts} restart{'s' if daemon.restarts > 1 else ''}"
    if daemon.last_exit is not None:
        end = daemon.last_exit
        line += f"{':' if daemon.restarts else '; last exit'} {end.reason}, {clock(end.at, now)} (logs --previous)"
    return line


def clock(rfc3339: str, now: float) -> str:
    """`14:02` today, else the date as well; the given time is UTC and is said in UTC."""
    del now
    day, _, rest = rfc3339.partition("T")
    return f"{rest[:5]} UTC" if rest else day


def _login_line(status: Status) -> str:
    backend = status.backend
    if backend.login is None or (backend.login_code != "ok" and not status.ready):
        return ""
    parts = [backend.login, *backend.tags]
    if backend.key_expiry:
        parts.append(f"node key ends {backend.key_expiry[:10]}")
    if backend.requested_hostname and backend.hostname and backend.requested_hostname != backend.hostname:
        parts.append(f"named {backend.hostname}, asked for {backend.requested_hostname}")
    return ", ".join(parts)


def _identity_line(status: Status) -> str:
    identity = status.identity
    if identity.path is None or not status.live:
        return ""
    store = f" ({identity.store})" if identity.store else ""
    verb = "kept in" if identity.kind == "persist" else "ephemeral, in"
    return f"{verb} {identity.path}{store}"


def _peers_line(status: Status) -> str:
    peers = status.backend.peers
    if not status.ready or not peers.total:
        return ""
    line = f"{peers.online} of {peers.total} online"
    parts = [f"{peers.direct} direct"] if peers.direct else []
    if peers.relayed:
        parts.append(f"{peers.relayed} relayed" + (f" ({status.backend.relay})" if status.backend.relay else ""))
    return line + (": " + ", ".join(parts) if parts else "")


def _use_line(status: Status) -> str:
    socks5, http = status.proxy.socks5, status.proxy.http
    if not socks5 and not http:
        return ""
    if socks5 == http:
        return f"SOCKS5 and HTTP proxy on {socks5}"
    return ", ".join(f"{kind} proxy on {where}" for kind, where in (("SOCKS5", socks5), ("HTTP", http)) if where)


def _dns_line(status: Status) -> str:
    if status.dns.resolver is None or not status.ready:
        return ""
    return status.dns.resolver + (", guarded" if status.dns.guarded else "")


def _first_ip(status: Status) -> str | None:
    return status.backend.ips[0] if status.backend.ips else None


def summary(status: Status, *, ready_for: float | None, because: str = "", wait: float | None = None) -> str:  # noqa: C901 - one row per state
    """The first line. `ready_for`: seconds of readiness; `wait`: seconds until the next start (backoff)."""
    name = "tailscaled"
    match status.supervisor.state:
        case "up" if not status.live:
            return f"not answering: {name} (pid {status.daemon.pid}) {because or 'does not answer'}"
        case "up" if status.ready:
            return _ready_line(status, ready_for)
        case "up":
            return _not_ready_line(status)
        case "starting":
            return (
                f"starting: {name} (pid {status.daemon.pid}), waiting for its answer"
                if status.daemon.pid
                else "starting"
            )
        case "stopping":
            return (
                f"stopping: {name} (pid {status.daemon.pid}) was told to end" if status.daemon.pid else "stopping"
            )
        case "backoff":
            times = f"{status.daemon.restarts + 1} times" if status.daemon.restarts else "once"
            nxt = f", next start in {span(wait)}" if wait is not None else ""
            return f"backing off: {name} ended ({times}){nxt}"
        case "fatal":
            return f"fatal: {because or 'cannot start tailscaled'}"
        case _:
            return "not running"


def _ready_line(status: Status, ready_for: float | None) -> str:
    backend = status.backend
    where = f"on {backend.tailnet} as " if backend.tailnet else "as "
    mode = "by TUN" if status.daemon.mode == "tun" else "userspace (proxy only)"
    glue = " " if status.daemon.mode == "tun" else ", "
    since = f", for {span(ready_for)}" if ready_for is not None else ""
    word = "ready" if status.online else "offline"
    lost = "" if status.online else "; the control server does not see this node"
    return f"{word}: {where}{backend.hostname} ({_first_ip(status)}){glue}{mode}{since}{lost}"


def _not_ready_line(status: Status) -> str:
    backend = status.backend
    code = backend.login_code or ""
    if code == "no-credentials":
        return "waiting for credentials: tailscaled runs, this container is not logged in"
    if code == "logging-in":
        return f"logging in: tailscaled runs, {backend.login}"
    if code in ONLY_A_PERSON or backend.login:
        head, separator, tail = (backend.login or code).partition(": ")
        return f"{head}: {tail}" if separator else f"{head}: tailscaled runs"
    return f"starting: tailscaled runs, its backend is {backend.state or 'not decided'}"
