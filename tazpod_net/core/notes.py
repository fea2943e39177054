"""Notes of the status object that follow from what the backend says. Pure."""

import re

from tazpod_net.core.backend import Backend
from tazpod_net.core.status import Note

DAY = 86400.0
EXPIRY_SOON, EXPIRY_VERY_SOON = 30, 7  # days


def key_expiry(backend: Backend, epoch: float, *, renews: bool) -> Note | None:
    """The end of the node key, 30 and 7 days ahead. `renews`: a new key can be minted, so nobody has to do anything."""
    if backend.key_ends is None:
        return None
    days = (backend.key_ends - epoch) / DAY
    if days >= EXPIRY_SOON or days <= 0:
        return None  # what has ended is said by the login
    when = f"ends in {days:.0f} day{'' if 0.5 <= days < 1.5 else 's'}" if days >= 1 else "ends within a day"  # noqa: PLR2004
    code = "key-expires-very-soon" if days < EXPIRY_VERY_SOON else "key-expires-soon"
    if renews:
        return Note(code, f"the node key {when}; it is renewed by itself")
    return Note(code, f"the node key {when}", "renew it: tazpod-net tailscale up --force-reauth, or log in anew")


def other_name(backend: Backend, requested: str | None) -> Note | None:
    """The name that control granted is not the one asked for: `-1` means that an older node has it."""
    granted = backend.hostname
    if not requested or not granted or granted.lower() == requested.lower() or not backend.ready:
        return None
    if backend.prefs is not None and backend.prefs.hostname != requested:
        return None  # a person asked for another name since: that is a drift
    text = f"asked for the name {requested}, the tailnet gave {granted}"
    if not granted.lower().startswith(re.sub(r"[^a-z0-9]+", "-", requested.lower()).strip("-") + "-"):
        return Note("name-changed", text)  # made fit for DNS
    return Note(
        "name-taken",
        f"{text}: another node has it",
        f"remove the old {requested} in the admin console, or set login.hostname",
    )
