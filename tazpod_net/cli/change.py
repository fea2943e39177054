"""`down`, `restart`, `reload`, `login`, `logout` and `tailscale`."""

import argparse
import contextlib
import os
import sys
import time

from tazpod_net import config, control, foreign
from tazpod_net.adapters import files, resolver, sockets
from tazpod_net.adapters.keyfile import clean, read_key
from tazpod_net.boot import Boot, Launch, set_mark
from tazpod_net.cli import client
from tazpod_net.cli.common import complain, home_of
from tazpod_net.core.protocol import Request
from tazpod_net.daemon import find_program
from tazpod_net.errors import EXIT_OK, NotRunningError, TazpodNetError
from tazpod_net.home import Layout, socket_dirs

_LONGEST = 60.0  # seconds: the stop's own grace is 25, a supervisor that is just starting 15
_HUNG_AFTER = 3.0  # seconds that `down` gives a supervisor to answer before it ends it


def down(arguments: argparse.Namespace) -> int:
    """Stops in order; clears what a crash left; nothing running is fine."""
    layout = Layout(home_of(arguments))
    if not os.path.isdir(layout.state):
        print("not running")
        return EXIT_OK
    request = Request(op="down", timeout=arguments.timeout or 0.0, logout=arguments.logout)
    deadline = time.monotonic() + _LONGEST
    while True:
        asked = client.holder(layout)
        code = _ask_down(layout, request)
        if code is not None and code != EXIT_OK:
            return code
        if code == EXIT_OK:
            client.wait_for_end(layout, max(1.0, deadline - time.monotonic()), asked)
        lock = _take(layout)
        if lock is not None:
            return _clear(layout, lock, arguments, said=code == EXIT_OK)
        if code == EXIT_OK:
            return EXIT_OK  # it ended, and somebody has started it again meanwhile
        if time.monotonic() > deadline:
            raise TazpodNetError("the supervisor has not ended", "tazpod-net status")
        starting = control.await_starter(layout.home, 1.0)  # somebody holds the home and does not listen yet, or ends
        if starting is not None:
            starting.close()


def _ask_down(layout: Layout, request: Request) -> int | None:
    try:
        return client.ask(layout, request, _HUNG_AFTER)
    except client.HungError as e:
        complain(f"{e.problem}: ended")
        if e.pid is not None:
            client.kill_holder(layout, e.pid)
        return None


def _take(layout: Layout) -> files.Lock | None:
    lock = files.Lock(layout.lock)
    try:
        return lock if lock.take() else None
    except PermissionError as e:
        raise TazpodNetError(f"the home {layout.home} belongs to another user", "run it as its owner or as root") from e
    except OSError as e:
        raise files.home_error(layout.home, e) from e


def _clear(layout: Layout, lock: files.Lock, arguments: argparse.Namespace, *, said: bool) -> int:
    """Under the lock: a daemon that outlived its supervisor is stopped, what it logged is kept, the mark is set."""
    stopped = _stop_survivor(layout, lock, arguments)
    try:
        set_mark(layout.stopped, "tazpod-net down")
    except OSError as e:  # a full disk: what was asked for is done, but for the note of it
        said_why = (e.strerror or str(e)).lower()
        complain(f"'stopped' cannot be noted ({said_why}): a new shell may start it: free some space, then down again")
    lock.release()
    if not said:
        print(f"stopped tailscaled (pid {stopped}), which had no supervisor" if stopped else "not running")
    return EXIT_OK


def _stop_survivor(layout: Layout, lock: files.Lock, arguments: argparse.Namespace) -> int | None:
    try:
        loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config)
    except TazpodNetError:
        loaded = config.Loaded(config.load(home=layout.home, env={}, config_file=os.devnull).config, {}, (), ())
    boot = Boot(layout, lock, loaded, Launch(env=dict(os.environ)))
    try:
        pid = boot.daemon.find_survivor()
        if pid is not None:
            foreign.stop(foreign.Foreigner(pid, ""), arguments.timeout or loaded.config.stop.timeout_s)
        boot.spool.recover()
        while boot.spool.pump():
            pass
        boot.spool.close()
        with contextlib.suppress(OSError):
            resolver.rescue()
        sockets.unlink(boot.daemon_socket)
        files.remove(boot.daemon_socket)
    finally:
        boot.listener.close()
        files.remove(os.path.join(boot.socket_dir, layout.control_name))
    return pid


def restart(arguments: argparse.Namespace) -> int:
    """Stops and starts the daemon."""
    return _asked(arguments, Request(op="restart", mode=arguments.mode, timeout=arguments.timeout))


def reload(arguments: argparse.Namespace) -> int:
    """Reads the configuration again."""
    return _asked(arguments, Request(op="reload"))


def logout(arguments: argparse.Namespace) -> int:
    """Logs out of the tailnet."""
    return _asked(arguments, Request(op="logout"))


def login(arguments: argparse.Namespace) -> int:
    """Logs in with a key, or interactively on a terminal."""
    key = _key(arguments.auth_key_file)
    interactive = key is None and os.isatty(0) and os.isatty(2)
    return _asked(
        arguments,
        Request(op="login", auth_key=key, interactive=interactive, timeout=arguments.timeout),
        patience=client.START_PATIENCE,
    )


def _key(path: str | None) -> str | None:
    if path is None:
        return None
    if path == "-":
        key = clean(sys.stdin.buffer.read(65536))
        if not key:
            raise TazpodNetError("standard input has no key", "echo KEY | tazpod-net login --auth-key-file -")
        return key
    found = read_key(path)
    if found.value is None:
        raise TazpodNetError(f"{path}: {found.state}", "give a file that holds an auth key")
    return found.value


def _asked(arguments: argparse.Namespace, request: Request, patience: float = client.START_PATIENCE) -> int:
    layout = Layout(home_of(arguments))
    code = client.ask(layout, request, patience)
    if code is None:
        raise NotRunningError("not running", "tazpod-net up")
    return code


def tailscale(arguments: argparse.Namespace) -> int:
    """Replaces this process by the tailscale command on this home's socket."""
    layout = Layout(home_of(arguments))
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config)
    program = find_program(loaded.config.daemon.cli, os.environ)
    sys.stdout.flush()
    os.execv(program, ["tailscale", f"--socket={_socket(layout, loaded.config)}", *arguments.args])


def _socket(layout: Layout, loaded: config.Config) -> str:
    default = os.path.join(layout.state, "tailscaled.sock")
    if loaded.daemon.socket != default:
        return loaded.daemon.socket
    places = [os.path.join(d, "tailscaled.sock") for d in socket_dirs(layout.home, os.environ)]
    return next((path for path in places if os.path.exists(path)), places[0])
