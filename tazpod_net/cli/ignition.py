"""Becoming the supervisor: prepare under the lock, fork, detach, spawn the daemon, then load the loop.

Loaded only by the one that holds the lock: the imports below cost 50 ms.
"""

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from tazpod_net import config
from tazpod_net.adapters import environ, files, statefile
from tazpod_net.boot import Boot, Launch, user_name
from tazpod_net.core.childenv import scrubbed_environment
from tazpod_net.errors import EXIT_FAILED, ConfigError, TazpodNetError
from tazpod_net.home import Layout

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace

SECRETS = ("TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TAZPOD_NET_LOGIN_AUTH_KEY")


def prepare(arguments: "Namespace", layout: Layout, lock: files.Lock, *, foreground: bool) -> Boot:
    """Everything up to the start, under the lock, which is released on any error. Raises TazpodNetError."""
    try:
        return _prepare(arguments, layout, lock, foreground=foreground)
    except BaseException:
        lock.release()
        raise


def _prepare(arguments: "Namespace", layout: Layout, lock: files.Lock, *, foreground: bool) -> Boot:
    overrides: dict[str, object] = {} if arguments.mode is None else {"daemon.mode": arguments.mode}
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config, overrides=overrides)
    files.refuse_network_filesystem(layout.home)
    launch = Launch(
        env=dict(os.environ),
        config_file=arguments.config,
        overrides=overrides,
        folder=_folder(),
        user=user_name(os.environ),
        copy_log=foreground and loaded.config.log.stdout in {True, "auto"},
        login=not getattr(arguments, "no_login", False),
    )
    boot = Boot(layout, lock, loaded, launch)
    try:
        boot.check(takeover=arguments.takeover)
        if boot.survivor is None:
            _refuse_deadly_variables(loaded)
        _prepare_identity(arguments, boot)
    except (TazpodNetError, OSError):
        boot.close()
        raise
    return boot


def _refuse_deadly_variables(loaded: config.Loaded) -> None:
    """Here and not only by the supervisor, whose environment never changes: corrected, the next `up` must work."""
    _, problems = scrubbed_environment(os.environ, loaded.config, logs_dir="")
    if problems:
        raise ConfigError(problems)


def _prepare_identity(arguments: "Namespace", boot: Boot) -> None:
    """`--fresh-identity` and `--import-state`, while no daemon lives."""
    fresh, source = getattr(arguments, "fresh_identity", False), getattr(arguments, "import_state", None)
    if not fresh and source is None:
        return
    if boot.survivor is not None:
        raise TazpodNetError(f"tailscaled (pid {boot.survivor}) uses this identity now", "tazpod-net down, then again")
    path = os.path.join(boot.loaded.config.daemon.state_dir, "tailscaled.state")
    if fresh:
        kept = statefile.move_aside(path)
        if kept is not None:
            print(f"the old identity is kept in {kept}", file=sys.stderr)
    if source is not None:
        statefile.bring_in(source, path)


def _folder() -> str:
    with contextlib.suppress(OSError):  # it may have been removed under us
        return os.getcwd()
    return "/"


def in_background(boot: Boot) -> None:
    """Forks the supervisor; returns in the parent, which keeps nothing of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        files.remove(boot.layout.stopped)
        files.remove(boot.layout.logged_out)
    environ.forget(SECRETS)  # before the fork: the supervisor's environment never has them
    if os.fork() == 0:
        _become_supervisor(boot)
    boot.lock.release()
    boot.listener.close()
    boot.daemon.drop_guard()


def in_foreground(boot: Boot) -> int:
    """This process becomes the supervisor."""
    with contextlib.suppress(OSError):
        files.remove(boot.layout.stopped)
    os.umask(0o022)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:  # noqa: PLR2004 - stderr
                os.set_inheritable(int(name), False)  # noqa: FBT003 - the library's own signature
    return _run(boot)


def _become_supervisor(boot: Boot) -> None:
    """In the child: own session, cwd `/`, no inherited fds, then the supervisor's whole life. Never returns."""
    code = EXIT_FAILED
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        _own_fds(boot)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop has its handler
        code = _run(boot)
    except BaseException:  # noqa: BLE001 - the last line of defence: the reason goes to supervisor.err
        import traceback  # noqa: PLC0415 - 5 ms, and almost never needed

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _own_fds(boot: Boot) -> None:
    """Keeps the lock and the control socket; stdin from nowhere, what Python itself says into supervisor.err."""
    keep = {boot.lock.fd, boot.listener.fileno(), *boot.daemon.kept_fds()}
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


def _run(boot: Boot) -> int:
    """The daemon first, then the heavy imports, then the loop."""
    environ.forget(SECRETS)
    boot.ignite()
    from tazpod_net.wiring import serve  # noqa: PLC0415 - asyncio costs 50 ms that the daemon uses to start

    return serve(boot)
