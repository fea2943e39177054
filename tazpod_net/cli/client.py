"""Talks to the supervisor of a home. The launcher's hot path does the same without imports."""

import _socket
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from tazpod_net import control
from tazpod_net.adapters import files, process
from tazpod_net.core.protocol import AGAIN, Offered, Request, encode_request
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import Layout, start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    import tenacity

    from tazpod_net.core.status import Status

START_PATIENCE = 15.0  # seconds for a supervisor that somebody else is just starting
STATUS_PATIENCE = 1.0


class HungError(TazpodNetError):
    """A supervisor holds the home and does not answer."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        who = f"the supervisor (pid {pid})" if pid else "the supervisor"
        if pid is not None and process.is_stopped(pid):
            super().__init__(
                f"{who} is stopped (SIGSTOP) and does not answer", f"kill -CONT {pid}, or: tazpod-net down"
            )
        else:
            super().__init__(
                f"{who} does not answer", "tazpod-net down ends it; 'tazpod-net up' then adopts its daemon"
            )


def holder(layout: Layout) -> int | None:
    """The pid that signed the lock, if that process lives."""
    signed = files.read_holder(layout.lock)
    if signed is None or start_ticks(signed[0]) != signed[1]:
        return None
    return signed[0]


def signed_holder(layout: Layout) -> int | None:
    """As `holder`, but gives one that has just taken the lock a moment to sign it."""
    with contextlib.suppress(NotYet):
        for attempt in again(1.0):
            with attempt:
                pid = holder(layout)
                if pid is None:
                    raise NotYet
                return pid
    return None


def ask(
    layout: Layout,
    request: Request,
    patience: float,
    *,
    without_secrets: Request | None = None,
    write: "Callable[[int, bytes], None] | None" = None,
) -> int | None:
    """The exit code, None if there is no supervisor or it is just ending. Raises HungError.

    A request with secrets goes only to root's or our own supervisor, told by this very connection; another one gets
    `without_secrets`, or nothing. Raises TazpodNetError then. `write`: see `control.converse`.
    """
    connection = control.connect(layout.home)
    if connection is None:
        return None
    if has_secrets(request) and peer_uid(connection) not in {0, os.geteuid()}:
        if without_secrets is None:
            uid = peer_uid(connection)
            connection.close()
            raise TazpodNetError(
                f"the supervisor of {layout.home} runs as another user (uid {uid})", "run this as that user"
            )
        request = without_secrets
    pid = holder(layout) or peer_pid(connection)
    if pid is not None and process.is_stopped(pid):
        connection.close()
        raise HungError(pid)
    code = control.converse(connection, encode_request(request), patience, words=True, write=write)
    if code == AGAIN:
        return None
    if code is None and is_hung(layout):
        raise HungError(supervisor(layout))
    return code


def collect(layout: Layout, request: Request, patience: float) -> tuple[int, bytes, bytes] | None:
    """Exit code, stdout and stderr of a request that is not for a person's eyes; None as `ask`. Raises HungError."""
    texts: dict[int, list[bytes]] = {1: [], 2: []}
    code = ask(layout, request, patience, write=lambda fd, data: texts[fd].append(data))
    return None if code is None else (code, b"".join(texts[1]), b"".join(texts[2]))


def fetch_status(layout: Layout) -> "Status | None":
    """The status object of the running supervisor; None if there is none. Raises HungError."""
    import msgspec  # noqa: PLC0415 - an `up` has no use for any of it

    from tazpod_net.core.status import from_json  # noqa: PLC0415

    found = collect(layout, Request(op="status", as_="json"), STATUS_PATIENCE)
    if found is None:
        return None
    try:
        return from_json(found[1])
    except msgspec.DecodeError as e:
        raise TazpodNetError(
            f"the supervisor's answer cannot be read ({e})", "tazpod-net down, then: tazpod-net up"
        ) from e


def is_hung(layout: Layout) -> bool:
    """Whether somebody still listens and holds the home: no answer then means hung, not gone."""
    return supervisor(layout) is not None


def supervisor(layout: Layout) -> int | None:
    """The pid of the process that listens; the one that signed the lock counts, where that can be read."""
    connection = control.connect(layout.home)
    if connection is None:
        return None
    pid = peer_pid(connection)
    connection.close()
    return holder(layout) if os.access(layout.lock, os.R_OK) else pid


def again(seconds: float, every: float = 0.02) -> "tenacity.Retrying":
    """Attempts until one does not raise NotYet, for `seconds`; then the last NotYet is raised."""
    import tenacity  # noqa: PLC0415 - 40 ms that only those who wait pay

    return tenacity.Retrying(
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(every),
        retry=tenacity.retry_if_exception_type(NotYet),
        reraise=True,
    )


class NotYet(Exception):  # noqa: N818 - not an error: the answer "try again"
    """What is waited for has not happened yet."""


def wait_for_end(layout: Layout, seconds: float, pid: int | None = None) -> bool:
    """Waits until nobody holds the lock, or somebody else than `pid` does; False if neither happens in time."""
    ticks = None if pid is None else start_ticks(pid)
    try:
        for attempt in again(seconds):
            with attempt:
                if pid is None or holder(layout) in {None, pid}:
                    try:
                        _lock_is_free(layout)
                    except PermissionError:  # root's: only the process itself can be asked
                        if pid is not None and ticks is not None and start_ticks(pid) == ticks:
                            raise NotYet from None
    except NotYet:
        return False
    return True


def _lock_is_free(layout: Layout) -> None:
    lock = files.Lock(layout.lock)
    try:
        free = lock.take()
    except PermissionError:
        raise
    except OSError:
        return  # no such home
    if not free:
        raise NotYet
    lock.release()


def kill_holder(layout: Layout, pid: int) -> None:
    """SIGKILL to the supervisor that signed the lock; its daemon lives on."""
    if holder(layout) != pid:
        return
    with contextlib.suppress(ProcessLookupError):
        watched = process.Watched(pid)
        watched.signal(9)
        watched.close()


def has_secrets(request: Request) -> bool:
    """Whether it holds a key or a credential."""
    return request.auth_key is not None or request.offered not in {None, Offered()}


def peer_uid(connection: "control.Socket") -> int:
    """Whose process listens at the other end (`SO_PEERCRED`, man 7 unix)."""
    return int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


def peer_pid(connection: "control.Socket") -> int | None:
    """The process that listens at the other end; None if it is in a pid namespace that we cannot see."""
    return int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[:4], sys.byteorder) or None
