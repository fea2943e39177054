"""A home that lives as long as one command: made private and with room for sockets, removed with everything in it."""

import os

from tazpod_net.errors import TazpodNetError
from tazpod_net.home import MAX_SOCKET_PATH

_PREFIX = "tazpod-net-run-"
_ROOM = len("/12345678/net/state/tailscaled.sock") + len(_PREFIX)


def make() -> str:
    """An empty home of this user's, in a directory of its own that is for nobody else. Raises TazpodNetError."""
    import tempfile  # noqa: PLC0415 - 8 ms that no supervisor pays

    chosen = tempfile.gettempdir()
    places = [chosen, "/tmp"]  # noqa: S108 - mkdtemp in it is private; for a TMPDIR that is too long for sockets
    base = next((place for place in places if len(os.fsencode(place)) + _ROOM <= MAX_SOCKET_PATH), chosen)
    try:
        home = os.path.join(tempfile.mkdtemp(prefix=_PREFIX, dir=base), "net")
        os.mkdir(home, 0o755)  # by us: the home's owner may end a supervisor that is root's
    except OSError as e:
        why = (e.strerror or "").lower()
        raise TazpodNetError(f"cannot make a throw-away home in {base} ({why})", "set TMPDIR to another place") from e
    return home


def remove(home: str, socket_dir: str | None = None) -> None:
    """Removes a home of `make`, its directory, and one for sockets elsewhere. What is gone already is fine."""
    import shutil  # noqa: PLC0415 - 5 ms and 0.5 MB that no supervisor of a lasting home pays

    above = os.path.dirname(home)
    if os.path.basename(above).startswith(_PREFIX):
        shutil.rmtree(above, ignore_errors=True)
    if socket_dir is not None and os.path.basename(socket_dir).startswith("tazpod-net-"):
        shutil.rmtree(socket_dir, ignore_errors=True)
