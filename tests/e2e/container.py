"""A container as far as its first process can tell: `entrypoint` is PID 1 of a pid namespace of its own."""

import contextlib
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.eventually import eventually
from tests.support.netns import Argument, Place
from tests.support.product import Output, Product


class Pty:
    """Both ends of a terminal of 24 lines and 80 columns."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self._text = b""
        self.resize(24, 80)

    def resize(self, lines: int, columns: int) -> None:
        """As a person does with the window."""
        termios.tcsetwinsize(self.master, (lines, columns))

    def press(self, keys: str) -> None:
        """Presses keys."""
        os.write(self.master, keys.encode())

    def until(self, text: str, *, within: float = 30.0) -> str:
        """The first whole line that comes now and contains the text."""
        deadline = time.monotonic() + within
        while True:
            *lines, rest = self._text.split(b"\n")
            for number, line in enumerate(lines):
                if text.encode() in line and b"echo" not in line and b"stty" not in line:
                    self._text = b"\n".join([*lines[number + 1 :], rest])
                    return line.decode(errors="replace")
            readable, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{text!r} is not in {self._text!r}"
            self._text += os.read(self.master, 65536)

    def close(self) -> None:
        """Hangs up."""
        os.close(self.master)
        os.close(self.slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Inside(Place):
    """What `docker exec` would reach."""

    is_private = True

    def __init__(self, outside: Place, pid: int) -> None:
        self.outside = outside
        self.pid = pid

    def wrap(self, argv: Sequence[Argument], *, cwd: Argument = "/", uid: int | None = None) -> list[str]:
        """Joins the namespaces of PID 1."""
        inside = super().wrap(argv, cwd=cwd, uid=uid)
        return ["nsenter", f"--target={self.pid}", "--pid", "--mount", "--net", "--", *inside]


class Container:
    """`tazpod-net entrypoint WORDS` as PID 1. While it runs, the product's other commands run inside."""

    def __init__(
        self,
        product: Product,
        *words: str,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        tty: int | None = None,
    ) -> None:
        self.product = product
        self._outside = product.place
        self.errors = product.user / "stderr"
        argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]
        argv += ["setsid", "--ctty"] if tty is not None else []  # as engines do it: PID 1 leads the session
        argv += [product.command, "entrypoint", *words, *(["--", *command] if command else [])]
        with self.errors.open("ab") as stderr:
            self.process = self._outside.popen(
                argv,
                env={**product.env, **(env or {})},
                stdin=subprocess.DEVNULL if tty is None else tty,
                stdout=subprocess.PIPE if tty is None else tty,
                stderr=stderr if tty is None else tty,
                new_session=True,
                text=False,
            )
        self.pid = int(eventually(lambda: _first_in_its_own(self.process.pid)))  # PID 1, as it is called outside
        product.place = Inside(self._outside, self.pid)
        self.output = None if self.process.stdout is None else Output(self.process, self.process.stdout.fileno())

    def ready(self) -> Self:
        """Waits until signals are taken, and CMD runs where there is one."""
        eventually(lambda: self._caught() >> (signal.SIGTERM - 1) & 1)
        return self

    def _caught(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("SigCgt:\t")[2].split()[0], 16)

    def line(self, text: str = "") -> str:
        """The next line of its standard output that contains the text."""
        assert self.output is not None
        return self.output.until(lambda line: text in line)

    def signal(self, number: int) -> None:
        """Sends a signal to PID 1, as `docker kill` does."""
        os.kill(self.pid, number)

    def end(self, *, within: float = 30.0) -> int:
        """The exit code of the container."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"it does not end: {self.said()}\n{self.product.report()}") from e
        self.product.place = self._outside
        return code

    def said(self) -> str:
        """Its standard error so far."""
        return self.errors.read_text(errors="replace")

    def processes(self) -> list[tuple[int, str, str]]:
        """Pid (outside), state and name of everybody inside but PID 1."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == own and int(name) != self.pid:
                    stat = Path(f"/proc/{name}/stat").read_text()
                    found.append(
                        (int(name), stat.rpartition(")")[2].split()[0], stat.rpartition(")")[0].partition("(")[2])
                    )
        return found

    def children(self) -> list[str]:
        """States of PID 1's children: `Z` is one that nobody has reaped."""
        states = []
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        return states

    def close(self) -> None:
        """Ends it as a power cut does. Twice is allowed."""
        self.product.place = self._outside
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        if self.output is not None:
            self.output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _first_in_its_own(pid: int) -> int:
    """The first process below `pid` that lives in another pid namespace; 0 if there is none yet."""
    try:
        while os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid"):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                return 0
            pid = int(children[0])
    except OSError:
        return 0
    return pid
