"""The first code that runs: answers the hot forms of `status` and a repeated `up` before anything is imported.

`status` runs on every prompt and `up` in every shell. Their bytes are rendered by the supervisor; this copies them.
Imports here: sys, os and the C socket module, nothing else. All other forms, and every trouble, go to the full
command line.
"""

import _socket
import os
import sys

from tazpod_net import home as homes

ANSWER_WITHIN = 1.0  # seconds to the first byte: connect() succeeds on a stopped process too
START_WITHIN = 15.0  # the same for `up`: the supervisor may just be starting, on a busy machine
_WORDS = (75, 76)  # core.protocol.AGAIN, NEEDS_CREDENTIALS: the full command line knows what they mean
_HOT = {
    ("status",): (b"status", b"text"),
    ("status", "--json"): (b"status", b"json"),
    ("status", "--short"): (b"status", b"short"),
    ("up",): (b"up", b"text"),
    ("start",): (b"up", b"text"),
}


def main() -> None:
    """The program. Ends the process."""
    try:
        code = _hot(sys.argv[1:])
        if code is None:
            from tazpod_net.cli.main import run  # noqa: PLC0415 - 60 ms that a prompt must not pay

            code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141  # the reader of our output has gone, as `head` does
    except Exception as e:
        if "TAZPOD_NET_DEBUG" in os.environ:
            raise
        what = f"internal error: {type(e).__name__}: {e}".replace("\n", " ")
        sys.stderr.write(f"tazpod-net: {what}: please report it; TAZPOD_NET_DEBUG=1 shows where\n")
        code = 1
    _leave(code)


def _leave(code: int) -> None:
    """Ends at once: the interpreter's own tidying costs 4 ms."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 141
    os._exit(code)


def _hot(argv: list[str]) -> int | None:
    """The exit code, or None: not a hot form, or nobody answered as hoped."""
    option, words = _split_home(argv)
    form = _HOT.get(tuple(words))
    if form is None:
        return None
    home = homes.resolve(option, os.environ, os.geteuid())
    op, kind = form
    connection = connect(home) if op == b"status" else await_starter(home)
    if connection is None:
        return None
    colour = kind == b"text" and os.isatty(1) and "NO_COLOR" not in os.environ
    request = b'{"op":"%b","as":"%b","colour":%b}\n' % (op, kind, b"true" if colour else b"false")
    if op == b"up" and os.isatty(0) and os.isatty(2):
        return None  # a person may have to be asked: the full command line knows how
    return converse(connection, request, START_WITHIN if op == b"up" else ANSWER_WITHIN)


def _split_home(argv: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--home DIR` or `--home=DIR` out, wherever it stands."""
    home: str | None = None
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--home":
            home = next(rest, None)
        elif word.startswith("--home="):
            home = word[7:]
        else:
            words.append(word)
    return home, words


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
    connection: "_socket.socket", request: bytes, patience: float = ANSWER_WITHIN, *, words: bool = False
) -> int | None:
    """Sends a request and copies the frames; the exit code, or None if there was no answer in time.

    `words`: give the codes that are words between supervisor and command line too, instead of None.
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
        code = _copy(connection, data)
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


def _copy(connection: "_socket.socket", data: bytes) -> int | None:
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
        _write(1 if line[:1] == b"O" else 2, rest[:size])
        data = rest[size:]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
