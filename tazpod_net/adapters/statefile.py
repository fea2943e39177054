"""tailscaled's state file, the node's identity: can it be used, move it aside, bring another in. Deletes nothing."""

import os
import time

import msgspec

from tazpod_net.adapters import files
from tazpod_net.errors import TazpodNetError

_TPMS = ("/dev/tpmrm0", "/dev/tpm0")  # feature/tpm/tpm_linux.go:14
_SEALED = frozenset({"key", "nonce", "data"})  # feature/tpm/tpm.go:317
_ASIDE = "tazpod-net up --fresh-identity moves it aside and joins as a new node"


class StateError(TazpodNetError):
    """The identity cannot be read; time does not cure that."""


def check(path: str) -> None:
    """Raises StateError for a state file that tailscaled could not use.

    It would run on in memory, not logged in and not saying why (`cmd/tailscaled/tailscaled.go:694-706`), for an empty
    file too. Absent is fine: a new node.
    """
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except FileNotFoundError:
        return
    except OSError as e:
        problem = f"the node's state {path} cannot be read ({(e.strerror or '').lower()})"
        raise StateError(problem, "give the supervisor's user the right to read it") from e
    found = _decode(raw)
    if found is None:
        raise StateError(f"the node's state {path} is {'corrupt' if raw else 'empty'}", _ASIDE)
    if found.keys() >= _SEALED and not any(os.path.exists(tpm) for tpm in _TPMS):
        raise StateError(f"the node's state {path} is sealed to the TPM of another machine", _ASIDE)


def _decode(raw: bytes) -> dict[str, object] | None:
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def move_aside(path: str) -> str | None:
    """Renames the state; returns its new name, or None if there was none. The daemon's caches go with it."""
    if not os.path.lexists(path):
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    kept = f"{path}.aside-{stamp}"
    number = 1
    while os.path.lexists(kept):
        number += 1
        kept = f"{path}.aside-{stamp}-{number}"
    os.rename(path, kept)
    profiles = os.path.join(os.path.dirname(path), "profile-data")
    if os.path.isdir(profiles):
        os.rename(profiles, f"{kept}-profile-data")
    return kept


def bring_in(source: str, path: str) -> None:
    """Copies a foreign state, such as /var/lib/tailscale/tailscaled.state, into a home without one (mode 0600).

    Raises TazpodNetError if the home has an identity, or the file is not one.
    """
    if os.path.exists(path) and os.path.getsize(path) > 0:
        raise TazpodNetError(
            f"this home has an identity already ({path})", "with --fresh-identity it is moved aside first"
        )
    try:
        with open(source, "rb") as f:
            raw = f.read()
    except OSError as e:
        raise TazpodNetError(
            f"{source} cannot be read ({(e.strerror or '').lower()})", "run it as root, or copy it"
        ) from e
    found = _decode(raw)
    if not found:
        raise TazpodNetError(f"{source} is not a tailscaled state", "give a tailscaled.state")
    if found.keys() >= _SEALED and not any(os.path.exists(tpm) for tpm in _TPMS):
        raise TazpodNetError(f"{source} is sealed to the TPM of another machine", "log in anew instead")
    files.write_atomic(path, raw, 0o600)
