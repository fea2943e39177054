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
from tazpod_net.cli.common import complain, home_of, on_terminal
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
    if getattr(arguments, "orphan", False):
        return _stop_orphan(layout, arguments)
    sticky = getattr(arguments, "sticky", True)
    request = Request(op="down", timeout=arguments.timeout or 0.0, logout=arguments.logout, sticky=sticky)
    if os.geteuid() != 0 and not files.are_ours(layout.state):
        return _down_for_root(arguments, layout, request)
    return _stop(layout, arguments, request)


def _stop(layout: Layout, arguments: argparse.Namespace, request: Request) -> int:
    """Asks whoever supervises until nobody does, then clears up."""
    deadline = time.monotonic() + _LONGEST
    while True:
        asked = client.holder(layout)
        code = _ask_down(layout, request)
        if code is not None and code != EXIT_OK:
            return code
        if code == EXIT_OK:
            client.wait_for_end(layout, max(1.0, deadline - time.monotonic()), asked)
        if not os.path.isdir(layout.state):
            return EXIT_OK  # a throw-away home, removed by its supervisor
        # The home's owner may stop another user's supervisor, not take its lock: that one has cleared up itself.
        lock = _take(layout) if code is None or os.access(layout.lock, os.W_OK) else None
        if lock is not None:
            return _clear(layout, lock, arguments, said=code == EXIT_OK)
        if code == EXIT_OK:
            return EXIT_OK  # it ended, and somebody has started it again meanwhile
        if time.monotonic() > deadline:
            raise TazpodNetError("the supervisor has not ended", "tazpod-net status")
        starting = control.await_starter(layout.home, 1.0)  # somebody holds the home and does not listen yet, or ends
        if starting is not None:
            starting.close()


def _stop_orphan(layout: Layout, arguments: argparse.Namespace) -> int:
    """What a service manager does after a stop: no mark, and a supervisor that runs by now is not concerned."""
    lock = _take(layout)
    if lock is None:
        print("a supervisor runs: left alone")
        return EXIT_OK
    stopped = _stop_survivor(layout, lock, arguments)
    lock.release()
    _say_stopped(stopped)
    return EXIT_OK


def _say_stopped(pid: int | None) -> None:
    print(f"stopped tailscaled (pid {pid}), which had no supervisor" if pid else "not running")


def _ask_down(layout: Layout, request: Request) -> int | None:
    try:
        return client.ask(layout, request, _HUNG_AFTER)
    except client.HungError as e:
        complain(f"{e.problem}: ended")
        if e.pid is not None:
            client.kill_holder(layout, e.pid)
        return None


def _down_for_root(arguments: argparse.Namespace, layout: Layout, request: Request) -> int:
    """The files are root's: as root where we can be, else what the owner of the home may ask for."""
    done = _as_root("down", arguments, layout)
    if done is not None:
        return done
    asked = client.supervisor(layout)
    try:
        code = client.ask(layout, request, _HUNG_AFTER)
    except client.HungError as e:
        done = _as_root("down", arguments, layout, insist=True)
        if done is None:
            raise TazpodNetError(e.problem, "'tazpod-net down' as root ends it") from e
        return done
    if code is None:
        return _leave_to_root(layout)
    if code == EXIT_OK:
        client.wait_for_end(layout, _LONGEST, asked)
    return code


def _as_root(
    command: str, arguments: argparse.Namespace, layout: Layout, stdin: str = "", *, insist: bool = False
) -> int | None:
    """Through sudo, where only root may and this user can; else None."""
    if os.geteuid() == 0:
        return None
    from tazpod_net.cli import sudo  # noqa: PLC0415 - 30 ms that root never pays

    return sudo.change(command, arguments, layout, stdin, insist=insist)


def _leave_to_root(layout: Layout) -> int:
    """No supervisor answers, and the lock is root's: nothing to do, or nothing that we may do."""
    from tazpod_net.cli.look import survivor  # noqa: PLC0415 - rarely needed

    pid = survivor(layout)
    if pid is not None:
        raise TazpodNetError(f"tailscaled (pid {pid}) has no supervisor and is root's", "'tazpod-net down' as root")
    with contextlib.suppress(OSError):
        set_mark(layout.stopped, "tazpod-net down")
    print("not running")
    return EXIT_OK


def _take(layout: Layout) -> files.Lock | None:
    lock = files.Lock(layout.lock)
    try:
        return lock if lock.take() else None
    except FileNotFoundError:
        return None  # see above: just removed
    except PermissionError as e:
        raise TazpodNetError(f"the home {layout.home} belongs to another user", "run it as its owner or as root") from e
    except OSError as e:
        raise files.home_error(layout.home, e) from e


def _clear(layout: Layout, lock: files.Lock, arguments: argparse.Namespace, *, said: bool) -> int:
    """Under the lock: a daemon that outlived its supervisor is stopped, what it logged is kept, the mark is set."""
    stopped = _stop_survivor(layout, lock, arguments)
    if getattr(arguments, "sticky", True):
        try:
            set_mark(layout.stopped, "tazpod-net down")
        except OSError as e:  # a full disk: what was asked for is done, but for the note of it
            why = (e.strerror or str(e)).lower()
            complain(f"'stopped' cannot be noted ({why}): a new shell may start it: free some space, then down again")
    lock.release()
    if not said:
        _say_stopped(stopped)
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
    interactive = key is None and on_terminal()
    return _asked(
        arguments,
        Request(op="login", auth_key=key, interactive=interactive, timeout=arguments.timeout),
        stdin=key or "",
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


def _asked(arguments: argparse.Namespace, request: Request, stdin: str = "") -> int:
    layout = Layout(home_of(arguments))
    code = _as_root(request.op, arguments, layout, stdin)
    if code is None:
        code = client.ask(layout, request, client.START_PATIENCE)
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
