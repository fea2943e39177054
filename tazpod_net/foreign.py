"""Finds a tailscaled that this program did not start but that uses this home's state or socket, and stops it.

A scan of command lines decides (2 ms for 100 processes); psutil says who it is, and is imported only then (15 ms
that no ordinary start pays).
"""

import os
import select

import msgspec

from tazpod_net.adapters import process
from tazpod_net.core.argv import read_argv
from tazpod_net.errors import TazpodNetError


class Foreigner(msgspec.Struct, frozen=True):
    """A process that is in the way. `uses`: which file of ours."""

    pid: int
    uses: str


def find(state_dir: str, socket_path: str, *, not_pid: int | None) -> Foreigner | None:
    """The first tailscaled, other than `not_pid`, with our state file or our socket on its command line."""
    ours = [os.path.join(state_dir, "tailscaled.state"), socket_path]
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in {not_pid, os.getpid()}:
            found = _uses(int(name), ours)
            if found is not None:
                return Foreigner(int(name), found)
    return None


def _uses(pid: int, ours: list[str]) -> str | None:
    argv = process.argv_of(pid)
    if len(argv) < 2 or "tailscaled" not in os.path.basename(argv[0]) or argv[1] == "be-child":  # noqa: PLR2004
        return None
    seen = read_argv(argv)
    state = seen.state or (os.path.join(seen.state_dir, "tailscaled.state") if seen.state_dir else None)
    for theirs, mine in ((state, ours[0]), (seen.socket, ours[1])):
        if theirs is not None and _same(pid, theirs, mine):
            return mine
    return None


def _same(pid: int, theirs: str, mine: str) -> bool:
    """Whether a path of that process is our file: seen through its own root and working directory."""
    base = f"/proc/{pid}/root" if theirs.startswith("/") else f"/proc/{pid}/cwd/"
    try:
        return os.path.samefile(os.path.dirname(base + theirs), os.path.dirname(mine)) and (
            os.path.basename(theirs) == os.path.basename(mine)
        )
    except OSError:
        return False


def describe(found: Foreigner) -> str:
    """`a tailscaled started by hand (pid 77, by tazpod since 14:02)`."""
    import psutil  # noqa: PLC0415 - see the module's docstring

    try:
        who = psutil.Process(found.pid)
        return f"a tailscaled started by hand (pid {found.pid}, user {who.username()})"
    except psutil.Error:
        return f"a tailscaled started by hand (pid {found.pid})"


def stop(found: Foreigner, timeout: float) -> None:
    """SIGTERM, then after `timeout` seconds SIGKILL. Raises TazpodNetError if it may not be signalled."""
    try:
        watched = process.Watched(found.pid)
    except ProcessLookupError:
        return
    try:
        watched.terminate()
        if not _ended(watched, timeout):
            watched.signal(9)
            _ended(watched, 5.0)
    except PermissionError as e:
        raise TazpodNetError(f"tailscaled (pid {found.pid}) may not be stopped by this user", "run it as root") from e
    finally:
        watched.close()


def _ended(watched: process.Watched, timeout: float) -> bool:
    poll = select.poll()
    poll.register(watched.pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
