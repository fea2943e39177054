"""Brings the tailnet up for a command that only needs it: silent when all is well, the reason when not.

The work is done in a child: the supervisor is then nobody's child, and whatever `up` says or changes in its process
stays out of the caller's.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from tazpod_net import control
from tazpod_net.adapters import environ
from tazpod_net.cli import client, main, start
from tazpod_net.cli.common import complain
from tazpod_net.core import outcome
from tazpod_net.core.conditions import CONDITIONS
from tazpod_net.core.status import Status
from tazpod_net.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tazpod_net.home import Layout

if TYPE_CHECKING:
    from argparse import Namespace

SLOW = 3.0  # seconds after which a person wants to know what is waited for
_STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Unready(Exception):  # noqa: N818 - an answer, not an error: everything has been said already
    """The tailnet cannot be had; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def bring_up(arguments: "Namespace", layout: Layout, **more: object) -> Status:
    """The status once all conditions hold. Raises Unready after the reason was said.

    `more`: further arguments of `up`. A supervisor that this user may not change is only waited for.
    """
    wanted: list[str] = arguments.conditions or ["ready"]
    deadline = time.monotonic() + arguments.timeout
    simple = [name for name in wanted if name in CONDITIONS]
    level = max(simple, key=CONDITIONS.index) if simple else "ready"
    status = _status(layout)
    if (status is None or not status.answers(level)) and _may_change(layout):
        given = start.PLAIN | {"home": layout.home, "config": arguments.config, "mode": arguments.mode}
        given |= {"wait": level, "timeout": arguments.timeout, **more}
        _do(lambda: start.up(_namespace(given)), layout)
        status = _status(layout)
    if status is None or not all(name in CONDITIONS and status.answers(name) for name in wanted):
        given = {"home": layout.home, "config": arguments.config, "conditions": wanted, "json": False}
        given["timeout"] = max(0.0, deadline - time.monotonic())
        _do(lambda: _wait(given), layout)
        status = _status(layout)
    if status is None:
        complain(f"the supervisor of {layout.home} ended: tazpod-net logs --supervisor")
        raise Unready(EXIT_FAILED)
    return status


def _namespace(given: dict[str, object]) -> "Namespace":
    return cast("Namespace", SimpleNamespace(**given))


def _status(layout: Layout) -> Status | None:
    try:
        return client.fetch_status(layout)
    except client.HungError:
        return None  # `up` says more about it


def _may_change(layout: Layout) -> bool:
    """Whether the supervisor that runs, if any, listens to this user (contract, section 3: `control.sock`)."""
    connection = control.connect(layout.home)
    if connection is None:
        return True
    with contextlib.closing(connection):
        return os.geteuid() in {0, client.peer_uid(connection), os.stat(layout.home).st_uid}


def _wait(given: dict[str, object]) -> int:
    from tazpod_net.cli import look  # noqa: PLC0415 - only where more than `up` knows is waited for

    return look.wait(_namespace(given))


def _do(work: Callable[[], int], layout: Layout) -> None:
    code, said = quietly(work, lambda: _say_slow(layout))
    if code != EXIT_OK:
        tell(said)
        raise Unready(EXIT_USAGE if code == EXIT_USAGE else EXIT_FAILED)


def _say_slow(layout: Layout) -> None:
    status = _status(layout)
    complain(f"waiting for the tailnet: {outcome.why_not(status) if status is not None else 'it is starting'}")


def tell(said: bytes) -> None:
    """Hands on what a child said on stderr."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
        os.write(2, said)


def quietly(
    work: Callable[[], int],
    slow: Callable[[], None] | None = None,
    *,
    detached: bool = False,
) -> tuple[int, bytes]:
    """The exit code of `work`, done in a child, and what it said on stderr; its stdout is dropped.

    `slow` is called once if it takes long. `detached`: signals for us, also those from the terminal, do
    not reach it. Any exception here ends the child, unless it is detached.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPERS)  # no exception may lead the child into our own work
    pid = os.fork()
    if pid == 0:
        _in_child(work, theirs, mask, detached=detached)
    os.close(theirs)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        said = _read(ours, slow)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
    except BaseException:
        if not detached:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        raise
    finally:
        os.close(ours)


def _in_child(work: Callable[[], int], stderr: int, mask: set[int | signal.Signals], *, detached: bool) -> None:
    """Never returns."""
    code = EXIT_FAILED
    try:
        if detached:
            os.setsid()
        for number in _STOPPERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_IGN if detached else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        environ.retitle(["up"])
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(stderr, 2)
        os.close(null)
        code = main.guarded(work)
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception as e:  # noqa: BLE001 - a bug is one line too
        os.write(2, f"tazpod-net: internal error: {type(e).__name__}: {e}\n".encode())
    finally:
        os._exit(code)


def _read(fd: int, slow: Callable[[], None] | None) -> bytes:
    parts: list[bytes] = []
    if slow is not None and not select.select([fd], [], [], SLOW)[0]:
        slow()
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)
