"""What `entrypoint`'s helpers do: start the supervisor, wait for a condition, stop in order.

Each runs in a process of its own, forked from `tazpod_net.init`, and ends with the exit code that is returned here.
"""

import contextlib
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tazpod_net import config, control, init
from tazpod_net.adapters import files
from tazpod_net.boot import Keeper, grace_within, read_mark
from tazpod_net.cli import change, client
from tazpod_net.cli import start as starting
from tazpod_net.cli.common import complain, home_of
from tazpod_net.cli.main import guarded
from tazpod_net.core.environment import COMPAT
from tazpod_net.core.protocol import Request
from tazpod_net.core.timefmt import seconds as show
from tazpod_net.errors import EXIT_FAILED, EXIT_OK, TazpodNetError
from tazpod_net.home import Layout
from tazpod_net.init import STOP_WITHIN, Options

if TYPE_CHECKING:
    from argparse import Namespace

_SLICE = 1.0  # seconds between looks at whether waiting has become pointless
_APPEAR_EVERY = 0.05  # seconds between looks for a supervisor that is just starting
_PATIENCE = 30.0


def _arguments(options: Options, **more: object) -> "Namespace":
    given = {**starting.PLAIN, "home": options.home, "config": options.config, "started": 0, **more}
    return cast("Namespace", SimpleNamespace(**given))


def entrypoint(arguments: "Namespace") -> int:
    """A command line that `tazpod_net.init` has left to the parser."""
    options = Options()
    options.home, options.config = arguments.home, arguments.config
    options.required, options.wait, options.timeout = arguments.required, arguments.wait, arguments.timeout
    options.command = arguments.cmd
    return init.run(options)


def start(options: Options, report: int, cwd: str, *, anew: bool, quiet: bool) -> int:
    """Makes sure that a supervisor runs, and says to the socket `report` how that went.

    `anew`: the container has just been started, which undoes what a person stopped in an earlier life of it. `quiet`:
    an attempt of many.
    """
    null = os.open(os.devnull, os.O_RDWR)
    keeper = Keeper(report=report, events=os.dup(2), stdout=os.dup(1))
    os.dup2(null, 0)
    os.dup2(null, 1)
    if quiet:
        os.dup2(null, 2)
    os.close(null)
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    if not keeper.tell("S"):
        return EXIT_OK
    arguments = _arguments(options, no_wait=True, keeper=keeper, stop_within=STOP_WITHIN)
    layout = Layout(home_of(arguments))
    if _stays_stopped(layout, anew=anew):
        complain("the tailnet stays stopped: tazpod-net up")
        keeper.tell("M")
        return EXIT_OK
    was_there = client.supervisor(layout) is not None
    code = guarded(lambda: starting.up(arguments))
    if code != EXIT_OK:
        keeper.tell(f"F{code}")
    elif not arguments.started:
        keeper.tell("A" if was_there else "A1")
    return code


def _stays_stopped(layout: Layout, *, anew: bool) -> bool:
    for mark in (layout.stopped, layout.logged_out):
        if anew or read_mark(mark) is None:
            with contextlib.suppress(OSError):
                files.remove(mark)
    return os.path.exists(layout.stopped)


def supervise(options: Options, *, anew: bool) -> int:
    """The supervisor in the foreground, for PID 1 without CMD."""
    arguments = _arguments(options, stop_within=STOP_WITHIN)
    _stays_stopped(Layout(home_of(arguments)), anew=anew)
    return guarded(lambda: starting.supervise(arguments))


def wait(options: Options) -> int:
    """Returns when the condition holds; after the time-out, or when time cannot help, says why not."""
    layout = Layout(home_of(_arguments(options)))
    condition = options.wait or "ready"
    patience = _patience(options, layout) if options.timeout is None else options.timeout
    deadline = time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        if _asked(layout, condition, max(0.0, min(left, _SLICE))):
            return EXIT_OK
        known = _known(layout)
        if left <= 0 or known["supervisor"]["state"] == "fatal":
            break
    after = f" after {show(patience)}" if left <= 0 else ""
    complain(f"not {condition}{after}, {known['summary']}{_next(known)}")
    return EXIT_FAILED


def _patience(options: Options, layout: Layout) -> float:
    """containerboot's TS_BOOT_TIMEOUT where somebody set it, or asked for its defaults."""
    with contextlib.suppress(TazpodNetError):
        loaded = config.load(home=layout.home, env=os.environ, config_file=options.config)
        if loaded.sources.get("login.timeout_s") in {"environment TS_BOOT_TIMEOUT", f"environment {COMPAT}"}:
            return loaded.config.login.timeout_s
    return _PATIENCE


def _asked(layout: Layout, condition: str, seconds: float) -> bool:
    """Whether it holds within so many seconds; without a supervisor, a look at whether there is one."""
    connection = control.connect(layout.home)
    if connection is None:
        time.sleep(min(seconds, _APPEAR_EVERY))
        return False
    connection.close()
    with _silence(), contextlib.suppress(client.HungError):
        return client.ask(layout, Request(op="wait", conditions=[condition], timeout=seconds), 5.0) == EXIT_OK
    return False


@contextlib.contextmanager
def _silence() -> "Any":
    """What the supervisor would have us print is not for people here."""
    null, kept = os.open(os.devnull, os.O_WRONLY), (os.dup(1), os.dup(2))
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        yield
    finally:
        for number, fd in enumerate(kept, 1):
            os.dup2(fd, number)
            os.close(fd)
        os.close(null)


def _known(layout: Layout) -> dict[str, Any]:
    """The published status."""
    nothing = {"summary": "no supervisor runs", "supervisor": {"state": "down"}, "notes": []}
    found = files.read_json(layout.status) if client.holder(layout) is not None else None
    return found or nothing


def _next(known: dict[str, Any]) -> str:
    return next((f": {note['next']}" for note in known["notes"] if note.get("next")), "")


def stop(options: Options, within: float | None, pid: int | None) -> int:
    """Stops daemon and supervisor in order, if the supervisor is `pid`; None: any of this container.

    `within`: seconds until the container's engine loses its patience; None: nobody waits.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    arguments = _arguments(options, logout=False, sticky=False, timeout=None)
    layout = Layout(home_of(arguments))
    if not _is_ours(layout, pid):
        return EXIT_OK
    if within is not None:
        with contextlib.suppress(TazpodNetError):  # a configuration that is wrong by now: the default
            loaded = config.load(home=layout.home, env=os.environ, config_file=options.config)
            if "stop.timeout_s" not in loaded.sources:
                arguments.timeout = grace_within(within)
    return guarded(lambda: change.down(arguments))


def _is_ours(layout: Layout, pid: int | None) -> bool:
    """Another container may share this home: then its supervisor is in another pid namespace, and has no pid here."""
    connection = control.connect(layout.home)
    if connection is None:
        return True  # nobody's, or left without supervisor
    peer = client.peer_pid(connection)
    connection.close()
    return peer is not None if pid is None else peer == pid
