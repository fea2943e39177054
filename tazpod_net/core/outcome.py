"""Turns a status into the one line that `up`, `wait` and `login` end with. Pure."""

from tazpod_net.core.login import ONLY_A_PERSON, REJECTED
from tazpod_net.core.status import Status


def blocked(status: Status) -> tuple[str, str] | None:
    """(problem, what to do) if only a person can make it go on; None if time may."""
    if status.supervisor.state == "fatal":
        because = next((n.text for n in status.notes if n.code == "because"), "")
        problem = "tailnet did not start: " + status.summary.partition(": ")[2]
        return problem + (f" ({because})" if because and because not in problem else ""), _next(status)
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


def _looked(status: Status) -> str:
    found = next((n.text for n in status.notes if n.code == "looked"), None)
    return f" (looked: {found})" if found else ""


def _next(status: Status) -> str:
    return next((n.next for n in status.notes if n.next), None) or "tazpod-net status"


def why_not(status: Status) -> str:
    """Why it is not ready (yet), in a few words."""
    person = blocked(status)
    if person is not None:
        return person[0]
    state = status.supervisor.state
    if state == "backoff":
        note = next((n.text for n in status.notes if n.code == "backoff"), "")
        return f"tailscaled keeps ending ({note})" if note else "tailscaled keeps ending"
    if not status.live:
        return status.summary
    control = next((h.text for h in status.backend.health if h.code in _CONTROL), None)
    if control:
        return control
    if status.ready:
        return "the control server does not see this node"
    return status.backend.login or f"the backend is {status.backend.state}"


_CONTROL = ("login-state", "network-status", "not-in-map-poll", "no-derp-connection", "no-derp-home")


def started_line(status: Status, *, probe_ms: float, live_ms: float | None, login_ms: float | None) -> str:
    """What a start did: `probe 12 ms: TUN · tailscaled 1.102.5 pid 412, 48 ms · login 610 ms`."""
    mode = "TUN" if status.daemon.mode == "tun" else "userspace"
    parts = [f"probe {probe_ms:.0f} ms: {mode}"]
    if status.daemon.pid is not None:
        version = status.daemon.version or status.daemon.binary_version or ""
        live = f", {live_ms:.0f} ms" if live_ms is not None else ""
        parts.append(f"tailscaled {version} pid {status.daemon.pid}{live}".replace("  ", " "))
    if login_ms is not None:
        parts.append(f"login {login_ms:.0f} ms")
    return " · ".join(parts)
