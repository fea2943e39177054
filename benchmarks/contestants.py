"""Who is measured: tazpod-net, containerboot, tailscaled started by hand, and the shell script that it replaces.

All ask for the same: a new node, accept-routes and accept-dns on, the same control server. Owns how each is started
and ended; must not measure.
"""

import json
import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import installed
from benchmarks.stage import Stage, Started, end, tail
from benchmarks.watching import Ends, Says, Word, processes_with
from tests.support.lab import Mode

OURS = "tazpod-net"
CONTAINERBOOT = "containerboot"
BY_HAND = "by hand"
SCRIPT = "script with sleep 2"
_TUN = {"userspace": "userspace-networking", "tun": "tailscale0"}


class Run(NamedTuple):
    """A start in progress."""

    began: float
    socket: Path
    word: Word


class Tazpod:
    """One home of tazpod-net, as installed by a user."""

    name = OURS

    def __init__(self, stage: Stage, mode: Mode, **settings: str) -> None:
        """`settings`: more environment, such as `TAZPOD_NET_RESTART_STABLE_S="0.2"`."""
        self.stage = stage
        self.home = stage.fresh("h")
        self.socket = self.home / "state" / "tailscaled.sock"
        self.program = installed.product() / "tazpod-net"
        self.output = stage.fresh("o") / "output"
        given = {
            "TAZPOD_NET_HOME": str(self.home),
            "TAZPOD_NET_LOGIN_SERVER": stage.control.url,
            "TAZPOD_NET_DAEMON_MODE": mode,
        }
        self.env = stage.env(self.home, TS_AUTHKEY=stage.key(), **given, **settings)

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [str(self.program), *words]

    def start(self) -> Run:
        """`up`, waiting for ready."""
        started = self.stage.launch(self.argv("up", "--wait", "ready"), self.env, self.output)
        return Run(started.at, self.socket, Ends(started, self.output))

    def up(self, *options: str) -> None:
        """`up` to its end; raises FailedError."""
        self.stage.run(self.argv("up", *options), self.env)

    def status(self) -> dict[str, Any]:
        """`status --json` as a program reads it: from the file, without waking anybody."""
        found: dict[str, Any] = json.loads((self.home / "state" / "status.json").read_text())
        return found

    @property
    def supervisor(self) -> int:
        """The supervisor's pid."""
        return int(self.status()["supervisor"]["pid"])

    @property
    def daemon(self) -> int:
        """The daemon's pid."""
        return int(self.status()["daemon"]["pid"])

    def stop(self) -> None:
        """`down`."""
        self.stage.run(self.argv("down", "--timeout", "5"), self.env)


class Containerboot:
    """Tailscale's own supervisor for containers."""

    name = CONTAINERBOOT

    def __init__(self, stage: Stage, mode: Mode) -> None:
        self.stage = stage
        self.directory = stage.fresh("c")
        self.socket = self.directory / "sock"
        self.output = self.directory / "output"
        self.env = stage.env(
            self.directory,
            TS_USERSPACE="true" if mode == "userspace" else "false",
            TS_STATE_DIR=str(self.directory),
            TS_SOCKET=str(self.socket),
            TS_AUTHKEY=stage.key(),
            TS_ACCEPT_DNS="true",
            TS_EXTRA_ARGS=f"--login-server={stage.control.url} --accept-routes",
        )
        self.started: Started | None = None

    def start(self) -> Run:
        """Its own word is the line that it prints when all is done."""
        self.started = self.stage.launch([self.stage.lab.containerboot], self.env, self.output)
        return Run(self.started.at, self.socket, Says(self.output, "Startup complete"))

    @property
    def pid(self) -> int:
        """Its own pid, not the daemon's."""
        assert self.started is not None
        return self.started.process.pid

    def stop(self) -> None:
        """SIGTERM, which it passes on; right after its start it sometimes ends without its daemon."""
        assert self.started is not None
        end(self.started.process)
        for pid in processes_with(f"--socket={self.socket}", program="tailscaled"):
            _end_stranger(pid)


# A person at a shell who wastes nothing; the file of the socket appears when it listens.
_BY_HAND = """
tailscaled "$@" &
echo $! >"$STATE/pid"
until [ -S "$STATE/sock" ]; do sleep 0.005; done
exec tailscale --socket="$STATE/sock" up --login-server="$SERVER" --auth-key="$KEY" --accept-routes
"""
# What this program replaces.
_SCRIPT = """
pgrep -F "$STATE/pid" >/dev/null 2>&1 || { tailscaled "$@" & echo $! >"$STATE/pid"; }
sleep 2
exec tailscale --socket="$STATE/sock" up --login-server="$SERVER" --auth-key="$KEY" --accept-routes
"""


class ByHand:
    """tailscaled and `tailscale up`, by a shell."""

    def __init__(self, stage: Stage, mode: Mode, *, name: str = BY_HAND) -> None:
        self.name = name
        self.stage = stage
        self.directory = stage.fresh("b")
        self.socket = self.directory / "sock"
        self.output = self.directory / "output"
        secrets = {"STATE": str(self.directory), "SERVER": stage.control.url, "KEY": stage.key()}
        self.env = stage.env(self.directory, **secrets)
        self.arguments = daemon_arguments(self.directory, mode)
        self.daemon: Started | None = None

    def start(self) -> Run:
        """Its own word is the end of `tailscale up`."""
        text = _SCRIPT if self.name == SCRIPT else _BY_HAND
        started = self.stage.launch(["sh", "-c", text, "sh", *self.arguments], self.env, self.output)
        return Run(started.at, self.socket, Ends(started, self.output))

    def start_daemon(self) -> float:
        """The daemon alone, with the state that is there; returns the moment of its exec."""
        argv = [str(self.stage.lab.tailscaled), *self.arguments]
        self.daemon = self.stage.launch(argv, self.env, self.output)
        return self.daemon.at

    def kill_daemon(self) -> None:
        """SIGKILL; it is gone afterwards."""
        assert self.daemon is not None
        self.daemon.process.kill()
        self.daemon.process.wait()

    def log_in(self) -> None:
        """`tailscale up` on a daemon that runs; raises FailedError."""
        up = ["up", f"--login-server={self.stage.control.url}", f"--auth-key={self.env['KEY']}", "--accept-routes"]
        self.stage.run([self.stage.lab.tailscale, f"--socket={self.socket}", *up], self.env)

    def stop(self) -> None:
        """SIGTERM to the daemon."""
        if self.daemon is not None:
            end(self.daemon.process)
            return
        pid = int((self.directory / "pid").read_text())
        _end_stranger(pid)

    def last_words(self) -> str:
        """The end of all output."""
        return tail(self.output)


def daemon_arguments(directory: Path, mode: Mode) -> Sequence[str]:
    """Options of a tailscaled whose state and socket are in `directory`."""
    return [f"--statedir={directory}", f"--socket={directory}/sock", "--port=0", f"--tun={_TUN[mode]}"]


def _end_stranger(pid: int) -> None:
    """Ends a process that is not our child, and waits."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        if not select.select([fd], [], [], 10)[0]:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)
