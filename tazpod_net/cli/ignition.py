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
from tazpod_net.boot import Boot, Keeper, Launch, user_name
from tazpod_net.core.childenv import scrubbed_environment
from tazpod_net.core.proxyenv import restored
from tazpod_net.errors import EXIT_FAILED, EXIT_OK, ConfigError, TazpodNetError
from tazpod_net.home import Layout

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace


def prepare(
    arguments: "Namespace",
    layout: Layout,
    lock: files.Lock,
    *,
    foreground: bool,
    no_root: tuple[str, str] | None = None,
) -> Boot:
    """Everything up to the start, under the lock, which is released on any error. Raises TazpodNetError.

    `no_root`: why this is not done as root although that would be better, and what helps.
    """
    try:
        return _prepare(arguments, layout, lock, foreground=foreground, no_root=no_root)
    except BaseException:
        lock.release()
        raise


def _prepare(
    arguments: "Namespace", layout: Layout, lock: files.Lock, *, foreground: bool, no_root: tuple[str, str] | None
) -> Boot:
    overrides: dict[str, object] = {} if arguments.mode is None else {"daemon.mode": arguments.mode}
    overrides |= getattr(arguments, "overrides", {})
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config, overrides=overrides)
    files.refuse_network_filesystem(layout.home)
    owner = getattr(arguments, "owner", None)
    service = {name: os.environ.pop(name) for name in environ.SERVICE if name in os.environ}  # no child's business
    keeper = getattr(arguments, "keeper", Keeper())
    stdout = loaded.config.log.stdout
    launch = Launch(
        env=restored(os.environ),  # a shell with our own proxies in it must not send the daemon through itself
        config_file=arguments.config,
        overrides=overrides,
        folder=_folder(),
        user=user_name(os.environ),
        copy_log=(foreground and stdout == "auto") or (stdout is True and (foreground or keeper.stdout >= 0)),
        keeper=keeper if stdout is not False else Keeper(report=keeper.report),
        stop_within=getattr(arguments, "stop_within", None),
        login=not getattr(arguments, "no_login", False),
        owner=None if owner is None else (owner[0], owner[1]),
        service=service if foreground or keeper.report >= 0 else {},  # `up` is not the service that was started
        no_root=no_root,
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


def in_background(boot: Boot) -> int:
    """Forks the supervisor; returns its pid in the parent, which keeps nothing of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    if boot.launch.keeper.report < 0:  # a person's `up`; an entrypoint has its own rules
        with contextlib.suppress(OSError):
            files.remove(boot.layout.stopped)
            files.remove(boot.layout.logged_out)
    environ.forget(environ.SECRETS)  # before the fork: the supervisor's environment never has them
    pid = os.fork()
    if pid == 0:
        _become_supervisor(boot)
    boot.lock.release()
    boot.listener.close()
    boot.daemon.drop_guard()
    return pid


def in_foreground(boot: Boot) -> int:
    """This process becomes the supervisor."""
    with contextlib.suppress(OSError):
        files.remove(boot.layout.stopped)
    os.umask(0o022)
    _hold_signals()
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
        _hold_signals()
        if not boot.launch.keeper.tell(f"R{os.getpid()}"):
            boot.close()
            os._exit(EXIT_OK)
        code = _run(boot)
        boot.launch.keeper.tell("E")
    except BaseException:  # noqa: BLE001 - the last line of defence: the reason goes to supervisor.err
        import traceback  # noqa: PLC0415 - 5 ms, and almost never needed

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _hold_signals() -> None:
    """Who asks us to end waits until the loop can stop the daemon: one without supervisor would be left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def _own_fds(boot: Boot) -> None:
    """Keeps the lock and the control socket; stdin from nowhere, what Python itself says into supervisor.err."""
    keep = {boot.lock.fd, boot.listener.fileno(), *boot.daemon.kept_fds(), *boot.launch.keeper.fds()}
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
    environ.forget(environ.SECRETS)
    boot.ignite()
    from tazpod_net.wiring import serve  # noqa: PLC0415 - asyncio costs 50 ms that the daemon uses to start

    return serve(boot)
