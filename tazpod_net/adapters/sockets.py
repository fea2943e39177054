"""The sockets' place, the link for plain `tailscale`, and the pointer to a root supervisor's home."""

import _socket  # not `socket`: 4 ms that the daemon would wait for
import contextlib
import errno
import os
from collections.abc import Mapping

from tazpod_net.adapters import files
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import MAX_SOCKET_PATH, POINTER, read_pointer, socket_dirs

BACKLOG = 512  # clients that may ask at once while the supervisor starts
LINK = "/var/run/tailscale/tailscaled.sock"
_NO_SOCKETS_HERE = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EROFS, errno.ENXIO}
)


def bind_control(home: str, name: str, env: Mapping[str, str]) -> tuple[_socket.socket, str]:
    """Binds and listens on the control socket; returns it and the directory that sockets can be in.

    Call it under the supervisor's lock: a file that is there is stale. Raises TazpodNetError if there is no place.
    """
    trouble: OSError | None = None
    for directory in socket_dirs(home, env):
        try:
            return _bind(directory, name), directory
        except OSError as e:
            if e.errno not in _NO_SOCKETS_HERE:
                raise files.home_error(home, e) from e
            trouble = e
    why = f" ({(trouble.strerror or '').lower()})" if trouble is not None else ""
    raise TazpodNetError(
        f"no place for sockets: the path of {home} is too long or its filesystem has none{why}",
        "set XDG_RUNTIME_DIR to a writable directory, or choose a shorter home with --home",
    )


def _bind(directory: str, name: str) -> _socket.socket:
    os.makedirs(directory, 0o755, exist_ok=True)
    path = os.path.join(directory, name)
    files.remove(path)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    mask = os.umask(0o111)  # 0666 from birth: rights are checked for each request by SO_PEERCRED
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def check_path(path: str) -> None:
    """Raises TazpodNetError for a socket path that the kernel would cut."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise TazpodNetError(
            f"the socket path {path} has {length} bytes, {MAX_SOCKET_PATH} are possible",
            "set a shorter daemon.socket",
        )


def link(target: str, where: str = LINK) -> bool:
    """Lets plain `tailscale` find our daemon: a link, where nothing or a dangling link is. True if it is ours."""
    with contextlib.suppress(OSError):
        if os.path.realpath(where) == os.path.realpath(target):
            return os.path.islink(where)
        if os.path.islink(where) and not os.path.exists(where):
            os.unlink(where)
        if not os.path.lexists(where):
            os.makedirs(os.path.dirname(where), 0o755, exist_ok=True)
            os.symlink(target, where)
            return True
    return False


def unlink(target: str, where: str = LINK) -> None:
    """Removes the link if it is ours."""
    with contextlib.suppress(OSError):
        if os.path.islink(where) and os.readlink(where) == target:
            os.unlink(where)


def point(home: str, pid: int, ticks: int, pointer: str = POINTER) -> None:
    """Names this home as root's, unless a living root supervisor named another.

    A path with a line break cannot be told in a line, which is all that shells read.
    """
    if "\n" in home:
        return
    if read_pointer(1, pointer) not in {None, home}:  # as uid 1: only a living one counts
        return
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(pointer), 0o755, exist_ok=True)
        files.write_atomic(pointer, os.fsencode(f"{home}\n{pid} {ticks}\n"), 0o644)


def unpoint(pid: int, pointer: str = POINTER) -> None:
    """Removes the pointer if this process wrote it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(pointer, "rb") as f:
            owner = int(f.read().split(b"\n")[1].split()[0])
        if owner == pid:
            os.unlink(pointer)
