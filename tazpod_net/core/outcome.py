"""Turns a status into the one line that `up`, `wait` and `login` end with. Pure."""

from tazpod_net.core.login import ONLY_A_PERSON, REJECTED
from tazpod_net.core.status import Status


def blocked(status: Status) -> tuple[str, str] | None:
    """(problem, what to do) if only a person can make it go on; None if time may."""
    if status.supervisor.state == "fatal":
        return f"tailnet did not start: {_text(status, 'because') or _tail(status.summary)}", _next(status)
    broken = next((h.text for h in status.backend.health if h.code == "state-store-health"), None)
    if broken is not None:
        return f"the node's state cannot be used ({broken})", "tazpod-net logs"
    code = status.backend.login_code
    if not status.live or code not in ONLY_A_PERSON:
        return None
    text = status.backend.login or code or ""
    if code in REJECTED or code == "no-credentials":
        text += _looked(status)
    return text, status.backend.login_next or ""


def _tail(summary: str) -> str:
    return summary.partition(": ")[2] or summary


def _text(status: Status, code: str) -> str | None:
    return next((n.text for n in status.notes if n.code == code), None)


def _looked(status: Status) -> str:
    found = _text(status, "looked")
    return f" (looked: {found})" if found else ""


def _next(status: Status) -> str:
    return next((n.next for n in status.notes if n.next), None) or "tazpod-net status"


def why_not(status: Status) -> str:
    """Why it is not ready (yet), in a few words."""
    person = blocked(status)
    if person is not None:
        return person[0]
    if status.supervisor.state == "backoff":
        trouble = _tail(status.summary).rpartition(", next start in ")[0] or _tail(status.summary)
        because = _text(status, "because")
        return trouble + (f": {because}" if because else "")
    if not status.live:
        return status.summary
    control = control_trouble(status)
    if control is not None:
        return control
    if status.ready:
        return "the control server does not see this node"
    return status.backend.login or f"the backend is {status.backend.state or 'not decided'}"


_LAST_ERROR = "The last login error was: "  # health/warnings.go:115
_CONTROL = {  # health codes of tailscaled (`tsconst/health.go`)
    "network-status": "the network is down",
    "not-in-map-poll": "control server is not reached",
    "no-derp-connection": "no relay (DERP) is reached",
    "no-derp-home": "no relay (DERP) is reached",
}


def control_trouble(status: Status) -> str | None:
    """What tailscaled's own health says of the way to the control server and the relays."""
    found = {h.code: h.text for h in status.backend.health}
    error = found.get("login-state", "").partition(_LAST_ERROR)[2]
    if error:
        return plain(error)
    return next((said for code, said in _CONTROL.items() if code in found), None)


# Texts of Go's net and tls packages and of tailscaled's controlclient/direct.go -> one plain clause.
_PLAIN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("rate limited", "too many requests", "http 429"), "control server allows no more logins for now"),
    (
        ("certificate has expired or is not yet valid",),
        "control server's certificate is not valid at this clock's time",
    ),
    (
        ("no such host", "server misbehaving", "dns fallback", "name resolution"),
        "control server's name does not resolve",
    ),
    (("connection refused",), "control server refuses connections"),
    (("network is unreachable", "no route to host", "network is down"), "control server cannot be reached from here"),
    (("x509:", "tls:"), "control server's certificate is not trusted"),
    (("deadline exceeded", "i/o timeout", "timed out", "timeout"), "control server does not answer"),
    (("http 5",), "control server has trouble of its own"),
    (("eof", "connection reset"), "control server closes the connection"),
)
_LONGEST = 120


def plain(error: str) -> str:
    """A network error of tailscaled in plain words; the text itself, on one line, where none are known."""
    low = error.lower()
    said = next((said for needles, said in _PLAIN if any(needle in low for needle in needles)), None)
    one = " ".join(error.split()).rstrip(": ")
    return said or (one if len(one) <= _LONGEST else one[: _LONGEST - 1] + "…")


def started_line(status: Status, *, probe_ms: float, live_ms: float | None, login_ms: float | None) -> str:
    """What a start did: `probe 12 ms: TUN · tailscaled 1.102.5 pid 412, 48 ms · login 610 ms`."""
    mode = "TUN" if status.daemon.mode == "tun" else "userspace"
    parts = [f"probe {probe_ms:.0f} ms: {mode}"]
    if status.daemon.pid is not None:
        version = status.daemon.short_version
        live = f", {live_ms:.0f} ms" if live_ms is not None else ""
        parts.append(f"tailscaled {version} pid {status.daemon.pid}{live}".replace("  ", " "))
    if login_ms is not None:
        parts.append(f"login {login_ms:.0f} ms")
    return " · ".join(parts)
