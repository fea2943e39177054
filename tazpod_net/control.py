"""The client's end of the control socket: connect, ask, copy the frames. No policy.

Imports nothing but sys, os and the C socket module: the launcher runs it on every prompt.
"""

import _socket
import os
import sys

from tazpod_net import home as homes

TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_WITHIN = 1.0  # seconds to the first byte: connect() succeeds on a stopped process too
START_WITHIN = 15.0  # the same for `up`: the supervisor may just be starting, on a busy machine
_WORDS = (75, 76)  # core.protocol.AGAIN, NEEDS_CREDENTIALS: the full command line knows what they mean

Socket = _socket.socket


def connect(home: str) -> "_socket.socket | None":
    """A connection to the home's supervisor, or None: no socket, or a dead one."""
    for directory in homes.socket_dirs(home, os.environ):
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            connection.connect(os.path.join(directory, "control.sock"))
        except OSError:
            connection.close()
        else:
            return connection
    return None


def await_starter(home: str, seconds: float = START_WITHIN) -> "_socket.socket | None":
    """A connection; while somebody holds the lock and does not listen yet, waits for it. None: nobody does.

    200 shells that start at once on 2 cores are the case: one of them works, and the others must not cost.
    """
    import fcntl  # noqa: PLC0415 - only `up` needs them; both are small
    import time  # noqa: PLC0415

    deadline = time.monotonic() + seconds
    pause = 0.01
    while True:
        connection = connect(home)
        if connection is not None:
            return connection
        try:
            fd = os.open(os.path.join(home, "state", "supervisor.lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass
        else:
            return None
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def converse(
    connection: "_socket.socket",
    request: bytes,
    patience: float = ANSWER_WITHIN,
    *,
    words: bool = False,
    write: "Callable[[int, bytes], None] | None" = None,
) -> int | None:
    """Sends a request and copies the frames; the exit code, or None if there was no answer in time.

    `words`: give the codes that are words between supervisor and command line too, instead of None. `write`: where the
    bytes for descriptors 1 and 2 go instead.
    """
    connection.settimeout(ANSWER_WITHIN)
    try:
        connection.sendall(request)
        data = _first_bytes(connection, patience)
    except OSError:
        connection.close()
        return None
    connection.settimeout(None)
    try:
        code = _copy(connection, data, write or _write)
        return None if code in _WORDS and not words else code
    finally:
        connection.close()


def _first_bytes(connection: "_socket.socket", patience: float) -> bytes:
    """What comes first. Raises TimeoutError after `patience` seconds, sooner for a stopped supervisor (SIGSTOP)."""
    waited = 0.0
    while True:
        try:
            return connection.recv(65536)
        except TimeoutError:
            waited += ANSWER_WITHIN
            if waited >= patience or _is_stopped(connection):
                raise


def _is_stopped(connection: "_socket.socket") -> bool:
    raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    stat = homes.process_stat(int.from_bytes(raw[:4], sys.byteorder))
    return stat is not None and stat[0] in {"T", "t"}


def _copy(connection: "_socket.socket", data: bytes, write: "Callable[[int, bytes], None]") -> int | None:
    """Frames: `O<n>`, `E<n>` and n bytes, `X<code>`. Returns None if the other side ends before `X`."""
    while True:
        line, newline, rest = data.partition(b"\n")
        if not newline:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
            continue
        if line[:1] == b"X":
            return int(line[1:])
        size = int(line[1:])
        while len(rest) < size:
            more = connection.recv(65536)
            if not more:
                return None
            rest += more
        write(1 if line[:1] == b"O" else 2, rest[:size])
        data = rest[size:]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
