"""`run --rm`: a node of its own for one command, and no trace of it afterwards.

The supervisor of the throw-away home watches this process by pidfd: when we are gone, even by SIGKILL, it logs the node
out, stops the daemon and removes the home. The daemon keeps its state in memory: control
takes such a node for ephemeral, whatever the key says, and forgets it by itself should everything be killed at once.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

from tazpod_net.adapters import environ, foreground, process, throwaway
from tazpod_net.cli import bringup, change, client
from tazpod_net.cli.bringup import Unready
from tazpod_net.cli.common import complain
from tazpod_net.cli.run import SECRETS, environment, refused
from tazpod_net.core.protocol import Request
from tazpod_net.errors import EXIT_OK, TazpodNetError, UsageError
from tazpod_net.home import Layout, socket_dirs, start_ticks

if TYPE_CHECKING:
    from argparse import Namespace

_STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_END = 10.0  # seconds between the end of the daemon and that of its supervisor
_LOGGED_IN = {"Running", "Starting", "Stopped", "NeedsMachineAuth"}


class Interrupted(BaseException):
    """A signal ended this before or after the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def run(arguments: "Namespace") -> int:
    """The command's exit code; 128+N if a signal came before it ran."""
    if arguments.home is not None:
        raise UsageError("--rm makes a home of its own", "leave --home or --rm out")
    try:
        with _interruptible():
            owned = _Throwaway(arguments)
            code = _guarded(owned)
            owned.end()
            return code
    except Interrupted as e:  # once more, while it was ended
        complain("interrupted: the node is logged out in the background")
        return e.code


def _guarded(owned: "_Throwaway") -> int:
    try:
        return owned.work()
    except Unready as e:
        return e.code
    except Interrupted as e:
        return e.code
    except BaseException:
        owned.end()
        raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Signals that would end us raise Interrupted; those that the caller ignores (nohup) stay ignored."""
    before = {number: signal.getsignal(number) for number in _STOPPERS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


class _Throwaway:
    """The home, and what runs in it."""

    def __init__(self, arguments: "Namespace") -> None:
        self.arguments = arguments
        self.layout = Layout(throwaway.make())
        self.is_ended = False

    def work(self) -> int:
        """Up, and the command."""
        state = self.layout.state
        private: dict[str, object] = {
            "daemon.state": "ephemeral",
            "daemon.state_dir": state,
            "daemon.socket": os.path.join(state, "tailscaled.sock"),
        }
        status = bringup.bring_up(
            self.arguments, self.layout, overrides=private, owner=(os.getpid(), start_ticks(os.getpid()))
        )
        environ.forget(SECRETS)  # /proc/PID/environ of a process that lives as long as the command
        env = environment(status, self.layout, self.arguments.config)
        try:
            return foreground.run(self.arguments.cmd, env, dies_with_us=True)
        except OSError as e:
            return refused(self.arguments.cmd[0], e)

    def end(self) -> None:
        """Logged out, stopped and removed, in this order, as far as each can be had. Twice is allowed."""
        if self.is_ended:
            return
        self.is_ended = True
        supervisor = self._supervisor()
        elsewhere: list[str | None] = [None, *socket_dirs(self.layout.home, os.environ)[1:]]  # named after its inode
        _, said = bringup.quietly(self._down, detached=True)
        bringup.tell(said)
        if supervisor is not None:
            select.select([supervisor.pidfd], [], [], _END)
            supervisor.close()
        for directory in elsewhere:
            throwaway.remove(self.layout.home, directory)

    def _supervisor(self) -> process.Watched | None:
        pid = client.holder(self.layout)
        if pid is None or pid == os.getpid():
            return None
        try:
            return process.Watched(pid)
        except ProcessLookupError:
            return None

    def _down(self) -> int:
        """By the supervisor, which then removes the home; a daemon that has outlived it is stopped here."""
        logout = True  # if it cannot say what it is
        with contextlib.suppress(client.HungError):
            status = client.fetch_status(self.layout)
            logout = status is not None and status.live and status.backend.state in _LOGGED_IN
        with contextlib.suppress(client.HungError):
            code = client.ask(self.layout, Request(op="down", timeout=0.0, logout=logout), client.START_PATIENCE)
            if code is not None:
                return code
        given = SimpleNamespace(home=self.layout.home, config=self.arguments.config, timeout=None, logout=False)
        try:
            return change.down(cast("Namespace", given))
        except TazpodNetError:
            if os.path.isdir(self.layout.home):
                raise
            return EXIT_OK  # a supervisor that was ending has removed it under us
