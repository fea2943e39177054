"""The first code that runs: answers the hot forms of `status` and a repeated `up` before anything is imported.

`status` runs on every prompt and `up` in every shell. Their bytes are rendered by the supervisor; this copies them.
Imports here: sys, os and the C socket module, nothing else. All other forms, and every trouble, go to the full
command line.
"""

import os
import sys

from tazpod_net import control
from tazpod_net import home as homes

TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable

_HOT = {
    ("status",): (b"status", b"text"),
    ("status", "--json"): (b"status", b"json"),
    ("status", "--short"): (b"status", b"short"),
    ("status", "--short", "--for", "ready"): (b"status", b"short"),  # a container's health check, every few seconds
    ("up",): (b"up", b"text"),
    ("start",): (b"up", b"text"),
    ("up", "--wait", "ready"): (b"up", b"text"),  # what a bare one means: 15 ms less for scripts that say it
    ("start", "--wait", "ready"): (b"up", b"text"),
}


def main() -> None:
    """The program. Ends the process."""
    _open_standard_fds()
    end_with(_run)


def _run() -> int:
    code = _hot(sys.argv[1:])
    return _cold(sys.argv[1:]) if code is None else code


def end_with(work: "Callable[[], int]") -> None:
    """Ends the process with the exit code of `work`; no traceback is ever seen."""
    try:
        code = work()
    except KeyboardInterrupt:
        code = 130
        if os.isatty(2):
            os.write(2, b"\n")  # bash would put its prompt behind the ^C
    except BrokenPipeError:
        code = 141  # the reader of our output has gone, as `head` does
    except OSError as e:  # a full disk behind standard output
        sys.stderr.write(f"tazpod-net: {e.filename or 'the output'}: {(e.strerror or str(e)).lower()}\n")
        code = 1
    except Exception as e:
        if "TAZPOD_NET_DEBUG" in os.environ:
            raise
        what = f"internal error: {type(e).__name__}: {e}".replace("\n", " ")
        sys.stderr.write(f"tazpod-net: {what}: please report it; TAZPOD_NET_DEBUG=1 shows where\n")
        code = 1
    _leave(code)


def _open_standard_fds() -> None:
    """Cron and `docker exec -d` may close them: no file of the home may become one of them, and print must work."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def _cold(argv: list[str]) -> int:
    # Modules that are loaded make no garbage: looking for it among them costs a third of all imports (45 of 140 ms of
    # CPU for a supervisor). The supervisor goes back to the usual threshold once it runs (wiring).
    import gc  # noqa: PLC0415 - not for the hot forms

    gc.set_threshold(100_000)
    home, words = _split_home(argv)
    if "entrypoint" in words:
        from tazpod_net import init  # noqa: PLC0415 - PID 1 never loads the rest

        options = init.plain(argv)
        if options is not None:
            return init.run(options)
    from tazpod_net.cli.main import run, run_plain_up  # noqa: PLC0415 - 60 ms that a prompt must not pay

    op, _ = _HOT.get(tuple(words), (b"", b""))
    return run_plain_up(home) if op == b"up" else run(argv)


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
    if op == b"up" and os.isatty(0) and os.isatty(2):
        return None  # a person may have to be asked: the full command line knows how
    connection = control.connect(home) if op == b"status" else control.await_starter(home)
    if connection is None:
        return None
    colour = kind == b"text" and os.isatty(1) and "NO_COLOR" not in os.environ
    request = b'{"op":"%b","as":"%b","colour":%b}\n' % (op, kind, b"true" if colour else b"false")
    patience = control.START_WITHIN if op == b"up" else control.ANSWER_WITHIN
    return control.converse(connection, request, patience)


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
