"""Where a benchmark plays: a private place, a control server in it, scratch space, and everything that was started.

Whatever happens, also on Ctrl-C, leaving a stage ends all that was started on it, however it detached itself. Must
not know what is measured.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support import leaks
from tests.support.lab import Binaries, Control, Mode, binaries, lab_environment
from tests.support.netns import HERE, Namespace, Place, namespace_refusal, tun_refusal

Argument = str | os.PathLike[str]
_LIBC = ctypes.CDLL(None, use_errno=True)


class NotHereError(Exception):
    """This machine or user cannot run it; the text says why, for the report."""


class FailedError(Exception):
    """Something that was measured did not do its job; the text shows its last words."""


class Started(NamedTuple):
    """A process and the moment of its exec, CLOCK_MONOTONIC seconds."""

    process: "subprocess.Popen[bytes]"
    at: float


class Stage:
    """Use as a context manager. Raises NotHereError where `mode` cannot be had."""

    def __init__(self, mode: Mode = "userspace") -> None:
        refusal = tun_refusal() if mode == "tun" else _root_refusal()
        if refusal is not None:
            raise NotHereError(refusal)
        self.mode: Mode = mode
        self.lab: Binaries = binaries()
        self._numbers = 0
        self._started: list[subprocess.Popen[bytes]] = []
        self._ends = contextlib.ExitStack()
        with contextlib.ExitStack() as ends:
            self.scratch = Path(tempfile.mkdtemp(prefix="tzb-"))
            ends.callback(shutil.rmtree, self.scratch, ignore_errors=True)
            self.place: Place = ends.enter_context(HERE if os.geteuid() else Namespace())
            self._joins = ends.enter_context(_Joins(self.place))
            self.control = ends.enter_context(Control(place=self.place, labcontrol=self.lab.labcontrol))
            ends.callback(self._end_all)
            self._ends = ends.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def fresh(self, prefix: str) -> Path:
        """A new directory with a short name: unix socket paths end at 107 bytes."""
        self._numbers += 1
        directory = self.scratch / f"{prefix}{self._numbers}"
        directory.mkdir()
        return directory

    def key(self) -> str:
        """An auth key that works once, as the one of a container."""
        return self.control.add_key()

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of everything here: nothing of the caller's but PATH, and talk to the lab only."""
        path = f"{self.lab.directory}:{os.environ.get('PATH', os.defpath)}"
        basis = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}
        basis |= {name: os.environ[name] for name in (leaks.MARKER,) if name in os.environ}
        return {**basis, **lab_environment(self.control.url, home), **more}

    def launch(
        self, argv: Sequence[Argument], env: Mapping[str, str], output: Path, *, new_session: bool = False
    ) -> Started:
        """Starts a process in this place, its output in the file `output`.

        No nsenter in front: its 3 ms would count for every contestant and flatten the ratios.
        """
        reader, writer = os.pipe()
        with output.open("ab") as sink:
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=None,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=new_session,
                preexec_fn=self._joins.then(lambda: os.write(writer, struct.pack("d", time.monotonic()))),  # noqa: PLW1509 - one thread
            )
        self._started.append(process)
        os.close(writer)
        with os.fdopen(reader, "rb") as stamps:
            return Started(process, struct.unpack("d", stamps.read(8))[0])

    def run(
        self, argv: Sequence[Argument], env: Mapping[str, str], *, within: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command in this place to its end. Nothing is timed; raises FailedError if it fails."""
        done = self.place.run(argv, env=env, timeout=within)
        if done.returncode != 0:
            raise FailedError(f"{Path(argv[0]).name}: exit {done.returncode}: {done.stdout}{done.stderr}".strip())
        return done

    def forget_nodes(self) -> None:
        """Nodes of ended rounds leave the tailnet: each start sees an empty one."""
        if self.control.nodes():
            self.control.delete("all")

    def _end_all(self) -> None:
        """Ours by their HOME, which survives a new session, a change of parent and an exec."""
        for process in self._started:
            end(process, within=0)
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours to look at
                if entry.name.isdigit() and f"\0HOME={self.scratch}/".encode() in b"\0" + _environ(entry):
                    os.kill(int(entry.name), signal.SIGKILL)


class _Joins:
    """Puts a forked child into a place's namespaces, before its exec."""

    def __init__(self, place: Place) -> None:
        self._fds: list[int] = []
        if isinstance(place, Namespace):
            self._fds = [os.open(f"/proc/{place.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "mnt")]

    def then(self, last: Callable[[], object]) -> Callable[[], None]:
        """What the child does; `last` comes right before the exec."""

        def act() -> None:
            for fd in self._fds:
                if _LIBC.setns(fd, 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            os.chdir("/")
            last()

        return act

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def end(process: "subprocess.Popen[bytes]", *, within: float = 10.0) -> None:
    """SIGTERM, then SIGKILL after `within` seconds; reaped."""
    if process.poll() is None and within:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within)
    if process.poll() is None:
        process.kill()
    process.wait()


def _root_refusal() -> str | None:
    """Root without a namespace of its own would leave links in /run of the machine: rather nothing."""
    return namespace_refusal() if os.geteuid() == 0 else None


def _environ(process: Path) -> bytes:
    return (process / "environ").read_bytes()


def tail(path: Path, size: int = 1500) -> str:
    """The end of a file of output, for an error."""
    with contextlib.suppress(OSError):
        return re.sub(r"tskey-\S+", "tskey-…", path.read_bytes()[-size:].decode(errors="replace"))
    return ""
