"""Supervisors of any program, as peers: supervisord from PyPI, s6 and runit from Debian. Each keeps a tailscaled.

Owns their configuration, the plainest that restarts the program and keeps its log in files. Must not measure.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks import installed
from benchmarks.contestants import daemon_arguments
from benchmarks.stage import NotHereError, Stage, Started, end
from benchmarks.watching import children
from tests.support.eventually import eventually
from tests.support.progress import SetupError


class Supervisor:
    """A peer that keeps one tailscaled of its own. Raises NotHereError where it is not installed."""

    name = ""
    programs: Sequence[str] = ()

    def __init__(self, stage: Stage, daemon: str | os.PathLike[str] | None = None) -> None:
        """`daemon` stands in for the lab's tailscaled and gets its arguments."""
        for program in self.programs:
            if shutil.which(program) is None:
                raise NotHereError(f"{self.name}: {program} is not installed")
        self.stage = stage
        self.directory = stage.fresh("s")
        self.state = stage.fresh("d")
        self.socket = self.state / "sock"
        self.logs = stage.fresh("l")
        self.output = self.directory / "output"
        self.env = stage.env(self.state)
        self.command = [os.fspath(daemon or stage.lab.tailscaled), *daemon_arguments(self.state, "userspace")]
        self.started: Started | None = None
        self.prepare()

    def prepare(self) -> None:
        """Writes the configuration."""
        raise NotImplementedError

    def argv(self) -> list[str]:
        """Of the topmost process."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts it; returns when the socket of the daemon is there."""
        self.launch()
        eventually(self.socket.exists)

    def launch(self) -> None:
        """Starts the topmost process."""
        self.started = self.stage.launch(self.argv(), self.env, self.output, new_session=True)

    @property
    def top(self) -> int:
        """Pid of the topmost process."""
        assert self.started is not None
        return self.started.process.pid

    def watcher(self) -> int:
        """Pid of the process whose child the daemon is: the one that a test of adoption kills."""
        return self.top

    def watch_again(self) -> None:
        """What brings a killed `watcher` back."""
        self.launch()

    def pids(self) -> list[int]:
        """All processes that are the price of supervising: everything but the daemon."""
        return [self.top]

    def log_in(self) -> None:
        """`tailscale up`."""
        up = ["up", f"--login-server={self.stage.control.url}", f"--auth-key={self.stage.key()}"]
        self.stage.run([self.stage.lab.tailscale, f"--socket={self.socket}", *up], self.env)

    def stop(self) -> None:
        """SIGTERM to the topmost process."""
        assert self.started is not None
        end(self.started.process)


class Supervisord(Supervisor):
    """supervisord, with its control socket as in its sample configuration."""

    name = "supervisord"

    def prepare(self) -> None:
        """One program, its output appended to one file that never rotates."""
        try:
            self.program = installed.supervisord() / "supervisord"
        except SetupError as e:
            raise NotHereError(f"{self.name}: {e}") from e
        (self.directory / "conf").write_text(
            f"[unix_http_server]\nfile={self.directory}/control\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisord]\nnodaemon=true\nlogfile={self.directory}/log\npidfile={self.directory}/pid\n"
            f"[program:tailscaled]\ncommand={' '.join(self.command)}\nredirect_stderr=true\n"
            f"stdout_logfile={self.logs}/current\nstdout_logfile_maxbytes=0\n"
        )

    def argv(self) -> list[str]:
        """In the foreground."""
        return [str(self.program), "-c", str(self.directory / "conf")]


class S6(Supervisor):
    """s6-svscan over one service with a logger."""

    name = "s6"
    programs = ("s6-svscan", "s6-supervise", "s6-log")

    def prepare(self) -> None:
        """Service and logger, 10 MB a file."""
        service = self.directory / "scan" / "daemon"
        _script(service / "run", f"exec {' '.join(self.command)} 2>&1")
        _script(service / "log" / "run", f"exec s6-log -b n20 s10485760 {self.logs}")

    def argv(self) -> list[str]:
        """The scanner."""
        return ["s6-svscan", str(self.directory / "scan")]

    def watcher(self) -> int:
        """The s6-supervise of the daemon, not that of the logger."""
        return next(pid for pid in children(self.top) if _argv(pid)[-1] == "daemon")

    def watch_again(self) -> None:
        """Nothing to do: s6-svscan starts a new s6-supervise."""

    def pids(self) -> list[int]:
        """Scanner, two supervisors, logger."""
        below = [pid for child in children(self.top) for pid in (child, *children(child))]
        return [self.top, *(pid for pid in below if Path(_argv(pid)[0]).name != "tailscaled")]


class Runit(S6):
    """runsvdir over one service with a logger."""

    name = "runit"
    programs = ("runsvdir", "runsv", "svlogd")

    def prepare(self) -> None:
        """Service and logger, 10 MB a file."""
        service = self.directory / "scan" / "daemon"
        _script(service / "run", f"exec {' '.join(self.command)} 2>&1")
        _script(service / "log" / "run", f"exec svlogd {self.logs}")
        (self.logs / "config").write_text("s10485760\nn20\n")

    def argv(self) -> list[str]:
        """The scanner; `-P` gives each service a session of its own."""
        return ["runsvdir", "-P", str(self.directory / "scan")]

    def watcher(self) -> int:
        """The runsv."""
        return children(self.top)[0]

    def stop(self) -> None:
        """SIGHUP: runsvdir sends its runsv SIGTERM and goes (`man 8 runsvdir`)."""
        assert self.started is not None
        watchers = children(self.top)
        self.started.process.send_signal(1)
        self.started.process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in watchers))


ALL: tuple[type[Supervisor], ...] = (Supervisord, S6, Runit)


def _script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _argv(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
