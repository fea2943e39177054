"""`up` and `supervise`: become the supervisor, or wait for the one that runs.

`up` takes the lock, refuses what must be refused, binds the control socket and forks. The child becomes the
supervisor and spawns the daemon before it loads asyncio; the parent is an ordinary client that waits.
"""

import argparse
import contextlib
import os
import signal
import sys
import time

from tazpod_net import config
from tazpod_net.adapters import environ, files
from tazpod_net.boot import Boot, Launch, user_name
from tazpod_net.cli import client
from tazpod_net.cli.main import complain, home_of
from tazpod_net.core.protocol import Request
from tazpod_net.errors import EXIT_FAILED, TazpodNetError
from tazpod_net.home import Layout

SECRETS = ("TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TAZPOD_NET_LOGIN_AUTH_KEY")
_ATTEMPTS = 50  # times that the lock was free for a moment and somebody else took it


def up(arguments: argparse.Namespace) -> int:
    """Makes sure that a supervisor runs, and waits for the condition."""
    layout = Layout(home_of(arguments))
    began = time.monotonic()
    deadline = began + client.START_PATIENCE + arguments.timeout
    interactive = _interactive()
    for _ in range(_ATTEMPTS):
        code = client.ask(layout, _request(arguments, interactive=interactive), client.START_PATIENCE)
        if code is not None:
            return code
        boot = _prepare(arguments, layout, copy_log=False)
        if boot is not None:
            return _start(boot, arguments, began, interactive=interactive)
        if not client.wait_for_answer(layout, max(0.1, min(client.START_PATIENCE, deadline - time.monotonic()))):
            break
    raise client.HungError(client.holder(layout))


def _interactive() -> bool:
    return os.isatty(0) and os.isatty(2)


def _request(arguments: argparse.Namespace, *, interactive: bool, began: float = 0.0) -> Request:
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


def _prepare(arguments: argparse.Namespace, layout: Layout, *, copy_log: bool) -> Boot | None:
    """Everything up to the start, under the lock; None if somebody else has it. Raises TazpodNetError."""
    overrides: dict[str, object] = {"daemon.mode": arguments.mode}
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config, overrides=overrides)
    files.make_home(layout.home, layout.state, layout.logs)
    files.refuse_network_filesystem(layout.home)
    lock = files.Lock(layout.lock)
    try:
        if not lock.take():
            return None
    except OSError as e:
        raise files.home_error(layout.home, e) from e
    launch = Launch(
        env=dict(os.environ),
        config_file=arguments.config,
        overrides={key: value for key, value in overrides.items() if value is not None},
        folder=os.getcwd() if _cwd_exists() else "/",
        user=user_name(os.environ),
        copy_log=copy_log,
        login=not getattr(arguments, "no_login", False),
    )
    try:
        boot = Boot(layout, lock, loaded, launch)
    except TazpodNetError:
        lock.release()
        raise
    try:
        boot.check(takeover=arguments.takeover)
    except (TazpodNetError, OSError):
        boot.close()
        raise
    return boot


def _cwd_exists() -> bool:
    with contextlib.suppress(OSError):
        os.getcwd()
        return True
    return False


def _start(boot: Boot, arguments: argparse.Namespace, began: float, *, interactive: bool) -> int:
    """Forks the supervisor and asks it, as any client."""
    layout = boot.layout
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        files.remove(layout.stopped)
        files.remove(layout.logged_out)
    if os.fork() == 0:
        _become_supervisor(boot)
    boot.lock.release()
    boot.listener.close()
    code = client.ask(layout, _request(arguments, interactive=interactive, began=began), client.START_PATIENCE)
    if code is not None:
        return code
    raise TazpodNetError(f"the supervisor ended at once{_last_words(layout)}", "tazpod-net logs --supervisor")


def _last_words(layout: Layout) -> str:
    with contextlib.suppress(OSError):
        with open(layout.stderr, encoding="utf-8", errors="replace") as f:
            lines = f.read().strip().splitlines()
        if lines:
            return f" ({lines[-1]})"
    return ""


def _become_supervisor(boot: Boot) -> None:
    """In the child: own session, cwd `/`, no inherited fds, then the supervisor's whole life. Never returns."""
    code = EXIT_FAILED
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        _own_fds(boot)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop has its handler
        code = run_supervisor(boot)
    except BaseException:  # noqa: BLE001 - the last line of defence: the reason goes to supervisor.err
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _own_fds(boot: Boot) -> None:
    """Keeps the lock and the control socket; stdin from nowhere, what Python itself says into supervisor.err."""
    keep = {boot.lock.fd, boot.listener.fileno()}
    null = os.open(os.devnull, os.O_RDWR)
    try:
        said = os.open(boot.layout.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    except OSError:
        said = null
    os.dup2(null, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:  # noqa: PLR2004 - stderr
            with contextlib.suppress(OSError):
                os.close(fd)


def run_supervisor(boot: Boot) -> int:
    """The daemon first, then the heavy imports, then the loop."""
    environ.forget(SECRETS)
    boot.ignite()
    from tazpod_net.wiring import serve  # noqa: PLC0415 - asyncio costs 50 ms that the daemon uses to start

    return serve(boot)


def supervise(arguments: argparse.Namespace) -> int:
    """The supervisor in the foreground."""
    layout = Layout(home_of(arguments))
    copy_log = _copies_log(arguments, layout)
    boot = _prepare(arguments, layout, copy_log=copy_log)
    if boot is None and arguments.takeover:
        _end_other(layout)
        boot = _prepare(arguments, layout, copy_log=copy_log)
    if boot is None:
        pid = client.holder(layout)
        raise TazpodNetError(
            f"already running (pid {pid})" if pid else "already running",
            "'tazpod-net supervise --takeover' ends that supervisor and adopts its daemon",
        )
    with contextlib.suppress(OSError):
        files.remove(layout.stopped)
    os.umask(0o022)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:  # noqa: PLR2004 - stderr
                os.set_inheritable(int(name), False)  # noqa: FBT003 - the library's own signature
    return run_supervisor(boot)


def _copies_log(arguments: argparse.Namespace, layout: Layout) -> bool:
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config)
    return loaded.config.log.stdout in {True, "auto"}


def _end_other(layout: Layout) -> None:
    """Asks the running supervisor to hand over; one that does not answer is killed, its daemon is adopted."""
    try:
        client.ask(layout, Request(op="handover"), client.STATUS_PATIENCE)
    except client.HungError as e:
        if e.pid is not None:
            complain(f"supervisor (pid {e.pid}) does not answer: killed")
            client.kill_holder(layout, e.pid)
    client.wait_for_end(layout, 10.0)
