"""`up` and `supervise`: become the supervisor, or wait for the one that runs.

`up` takes the lock, refuses what must be refused, binds the control socket and forks. The child becomes the
supervisor and spawns the daemon before it loads asyncio; the parent is an ordinary client that waits.
"""

import contextlib
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec

from tazpod_net import control
from tazpod_net.adapters import files
from tazpod_net.cli import client
from tazpod_net.cli.common import complain, home_of, on_terminal
from tazpod_net.core.protocol import NEEDS_CREDENTIALS, Offered, Request
from tazpod_net.errors import EXIT_OK, TazpodNetError
from tazpod_net.home import Layout, start_ticks

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace

_ATTEMPTS = 50  # times that the lock was free for a moment and somebody else took it


# What the parser makes of a bare `up`; tests/cli/test_parser.py compares them.
PLAIN = {
    "command": "up",
    "config": None,
    "wait": "ready",
    "no_wait": False,
    "timeout": 30.0,
    "mode": None,
    "no_login": False,
    "takeover": False,
    "fresh_identity": False,
    "import_state": None,
    "json": False,
}


def plain_up(home: str | None) -> int:
    """`up` without options, without a parser."""
    return up(cast("Namespace", SimpleNamespace(home=home, **PLAIN)))


def up(arguments: "Namespace") -> int:
    """Makes sure that a supervisor runs, and waits for the condition."""
    layout = Layout(home_of(arguments))
    began = time.monotonic()
    deadline = began + client.START_PATIENCE + arguments.timeout
    interactive = on_terminal()
    no_root: tuple[str, str] | None = None
    _refuse_identity_change(arguments, layout)
    for _ in range(_ATTEMPTS):
        request = _request(arguments, interactive=interactive)
        code = client.ask(layout, request, client.START_PATIENCE)
        if code == NEEDS_CREDENTIALS:
            nothing = msgspec.structs.replace(request, offered=Offered())
            if os.geteuid() != 0 and (done := _change_as_root(arguments, layout)) is not None:
                return done
            offering = _with_offer(arguments, layout, request)
            code = client.ask(layout, offering, client.START_PATIENCE, without_secrets=nothing)
        if code is not None:
            return code
        if os.geteuid() != 0 and no_root is None:
            started = _start_as_root(arguments, layout)
            if isinstance(started, int):
                return started
            no_root = started
        lock = _take(layout)
        if lock is not None:
            request = _request(arguments, interactive=interactive, began=began)
            return _start(arguments, layout, lock, request, no_root)
        waiting = control.await_starter(layout.home, max(0.1, deadline - time.monotonic()))
        if waiting is not None:
            waiting.close()
        elif time.monotonic() > deadline:
            break
    raise client.HungError(client.holder(layout))


def _start_as_root(arguments: "Namespace", layout: Layout) -> "int | tuple[str, str] | None":
    from tazpod_net.cli import sudo  # noqa: PLC0415 - 30 ms that root never pays

    return sudo.start(arguments, layout)


def _change_as_root(arguments: "Namespace", layout: Layout) -> int | None:
    from tazpod_net.cli import sudo  # noqa: PLC0415 - see _start_as_root

    return sudo.change("up", arguments, layout)


def _refuse_identity_change(arguments: "Namespace", layout: Layout) -> None:
    """An identity is exchanged only while nothing runs."""
    if not arguments.fresh_identity and arguments.import_state is None:
        return
    running = control.connect(layout.home)
    if running is not None:
        running.close()
        option = "--fresh-identity" if arguments.fresh_identity else "--import-state"
        raise TazpodNetError(f"a supervisor runs: {option} not applied", "tazpod-net down, then again")


def _request(arguments: "Namespace", *, interactive: bool, began: float = 0.0) -> Request:
    return Request(
        op="up",
        wait=None if arguments.no_wait else arguments.wait,
        timeout=arguments.timeout,
        json=arguments.json,
        options={"daemon.mode": arguments.mode} if arguments.mode else {},
        login=not arguments.no_login,
        interactive=interactive,
        fresh=began > 0,
        started=began,
    )


def _with_offer(arguments: "Namespace", layout: Layout, request: Request) -> Request:
    """The request with the credentials that this shell can see; only to a supervisor that may have them."""
    from tazpod_net import config  # noqa: PLC0415 - 25 ms that only this rare case pays
    from tazpod_net.credentials import offer  # noqa: PLC0415

    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config)
    return msgspec.structs.replace(request, offered=offer(loaded.config, os.environ))


def _take(layout: Layout) -> files.Lock | None:
    """The lock, or None if somebody else has it. Raises TazpodNetError for a home that cannot be used."""
    files.make_home(layout.home, layout.state, layout.logs)
    lock = files.Lock(layout.lock)
    try:
        if not lock.take():
            return None
    except OSError as e:
        raise files.home_error(layout.home, e) from e
    lock.sign(os.getpid(), start_ticks(os.getpid()) or 0)
    return lock


def _start(
    arguments: "Namespace", layout: Layout, lock: files.Lock, request: Request, no_root: tuple[str, str] | None
) -> int:
    from tazpod_net.cli import ignition  # noqa: PLC0415 - 50 ms that only the one who starts pays

    boot = ignition.prepare(arguments, layout, lock, foreground=False, no_root=no_root)
    arguments.started = ignition.in_background(boot)
    if boot.launch.keeper.report >= 0:
        return EXIT_OK  # it says itself how it goes
    code = client.ask(layout, request, client.START_PATIENCE)
    if code is not None:
        return code
    if os.path.exists(layout.stopped):
        raise TazpodNetError("stopped by down")
    raise TazpodNetError(f"the supervisor ended at once{_last_words(layout)}", "tazpod-net logs --supervisor")


def _last_words(layout: Layout) -> str:
    with contextlib.suppress(OSError):
        with open(layout.stderr, encoding="utf-8", errors="replace") as f:
            lines = f.read().strip().splitlines()
        if lines:
            return f" ({lines[-1]})"
    return ""


def supervise(arguments: "Namespace") -> int:
    """The supervisor in the foreground."""
    layout = Layout(home_of(arguments))
    no_root: tuple[str, str] | None = None
    if os.geteuid() != 0:
        from tazpod_net.cli import sudo  # noqa: PLC0415 - see _start_as_root

        no_root = sudo.become(arguments, layout)
    lock = _take(layout)
    if lock is None and arguments.takeover:
        _end_other(layout)
        lock = _take(layout)
    if lock is None:
        pid = client.signed_holder(layout)
        raise TazpodNetError(
            f"already running (pid {pid})" if pid else "already running",
            "'tazpod-net supervise --takeover' ends that supervisor and adopts its daemon",
        )
    from tazpod_net.cli import ignition  # noqa: PLC0415 - see _start

    return ignition.in_foreground(ignition.prepare(arguments, layout, lock, foreground=True, no_root=no_root))


def _end_other(layout: Layout) -> None:
    """Asks the running supervisor to hand over; one that does not answer is killed, its daemon is adopted."""
    try:
        client.ask(layout, Request(op="handover"), client.STATUS_PATIENCE)
    except client.HungError as e:
        if e.pid is not None:
            complain(f"supervisor (pid {e.pid}) does not answer: killed")
            client.kill_holder(layout, e.pid)
    client.wait_for_end(layout, 10.0)
