"""The answers of `/livez`, `/readyz` and `/healthz`: yes or no, and why. Pure.

They go to whoever may connect: no URL that logs somebody in, no path of this machine.
"""

import re  # msgspec has loaded it already
from collections.abc import Callable

from tazpod_net.core import outcome
from tazpod_net.core.status import Status

OK = "ok"
NO_ADDRESS = "node currently has no tailscale IPs"  # containerboot's words (kube/health/healthz.go)
_SECRETIVE = re.compile(r"\w+://\S+|(?<!\w)[~.]?/[^\s,;:)]+")


def _live(status: Status) -> bool:
    return status.live


def _ready(status: Status) -> bool:
    return status.ready


def _has_address(status: Status) -> bool:
    """containerboot's meaning of healthy: the node has at least one address of the tailnet."""
    return status.live and bool(status.backend.ips)


_PROBES: dict[str, tuple[Callable[[Status], bool], str]] = {
    "/livez": (_live, "not live"),
    "/readyz": (_ready, "not ready"),
    "/healthz": (_has_address, NO_ADDRESS),
}
PATHS = tuple(_PROBES)


def answer(path: str, status: Status) -> tuple[bool, str]:
    """Whether the answer is yes, and the text."""
    holds, no = _PROBES[path]
    return (True, OK) if holds(status) else (False, f"{no}: {_why(status)}")


def _why(status: Status) -> str:
    """The first line of `status`, or what is behind it."""
    backing_off = status.supervisor.state == "backoff"
    said = outcome.why_not(status) if backing_off else status.summary
    return " ".join(_SECRETIVE.sub("…", said).split())
