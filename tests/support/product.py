"""The installed program as its users run it: one home, one environment, and nothing left behind.

Owns the processes that come from its commands, however they detach, and ends them. Knows the public contract only:
commands, exit codes, the status object and the files of a home that are promised; it must not import tazpod_net.
"""

import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from tests.support import leaks
from tests.support.eventually import eventually
from tests.support.lab import HTTP_CLIENT, Binaries, Control, binaries, lab_environment
from tests.support.netns import HERE, Place

# Known by this in their environment, the daemon's included: two homes of one test are two tags.
TAG = "TAZPOD_TEST_PRODUCT"
FRESH = "a key of its own"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE_S = 60.0


class Done(NamedTuple):
    """A command that ended."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything that it printed."""
        return self.out + self.err

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}: exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Process(NamedTuple):
    """A living process (zombies are not)."""

    pid: int
    argv: tuple[str, ...]

    @property
    def is_daemon(self) -> bool:
        """A tailscaled that serves, not one that only prints its version."""
        return os.path.basename(self.argv[0]) == "tailscaled" and any(a.startswith("--s") for a in self.argv[1:])


def find_command() -> str:
    """The program beside this interpreter, else on PATH; AssertionError if it is not installed."""
    beside = Path(sys.executable).parent / "tazpod-net"
    found = str(beside) if beside.exists() else shutil.which("tazpod-net")
    assert found, "tazpod-net is not installed: pip install -e ."
    return found


def state_of(pid: int) -> str:
    """State letter of a process (`man 5 proc_pid_stat`); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    return state_of(pid) not in {"", "Z", "X"}


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process that must exist."""
    assert pid
    os.kill(pid, number)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, outside the range that the kernel hands out by itself."""
    while True:
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", random.SystemRandom().randrange(15000, 32000)))
            return int(trial.getsockname()[1])


def gone(pid: int) -> None:
    """Waits until a process has ended; a zombie has."""
    eventually(lambda: not is_alive(pid))


class Output:
    """What a running command prints, line by line, each wait bounded."""

    def __init__(self, process: "subprocess.Popen[Any]", fd: int) -> None:
        self.process = process
        self.lines: list[str] = []
        self._fd = fd
        self._rest = b""
        self._is_closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def until(self, fits: Callable[[str], object], *, within: float = 30.0) -> str:
        """The next line that fits, partial last lines included; the ones before it are in `lines`."""
        deadline = time.monotonic() + within
        seen = len(self.lines)
        while True:
            for line in self.lines[seen:]:
                seen += 1
                if fits(line):
                    return line
            if self._rest and fits(self._rest.decode(errors="replace")):
                return self._rest.decode(errors="replace")
            left = deadline - time.monotonic()
            if left <= 0 or not self._more(left):
                raise AssertionError("no such line in:\n" + "\n".join(self.lines) + self._rest.decode())

    def rest(self, *, within: float = 30.0) -> list[str]:
        """All lines, to the end of the command."""
        deadline = time.monotonic() + within
        while self._more(max(0.0, deadline - time.monotonic())):
            pass
        return self.lines

    def _more(self, within: float) -> bool:
        if not self._selector.select(within):
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody holds the other side of the terminal any more
            data = b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
        return bool(data)

    def close(self) -> None:
        """Ends the command if it still runs. Twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._selector.close()
        self.process.kill()
        self.process.wait()
        if self.process.stdout is None:
            os.close(self._fd)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Product:
    """One home and the commands that are run on it. Use as a context manager, or call `close`."""

    def __init__(
        self,
        place: Place = HERE,
        *,
        control: Control | None = None,
        programs: Binaries | None = None,
        mode: str | None = "userspace",
        auth_key: str | None = FRESH,
        home: Path | None = None,
        uid: int | None = None,
        **settings: str,
    ) -> None:
        """Makes a user's directory with a home path inside that does not exist yet; starts nothing.

        `mode` None leaves it to the program's default. `auth_key` None: none in the environment. `settings` are more
        variables of the environment. `uid`: the user who runs the commands.
        """
        self.place = place
        self.control = control
        self.programs = programs or binaries()
        self.uid = uid
        self.tag = uuid.uuid4().hex
        self.user = Path(tempfile.mkdtemp(prefix="tzu-"))
        self.home = home or self.user / "net"
        if uid is not None:
            os.chown(self.user, uid, uid)
        self.command = find_command()
        self.env = {
            "PATH": f"{self.programs.directory}:{SYSTEM_PATH}",
            "HOME": str(self.user),
            "LANG": "C.UTF-8",
            "TAZPOD_NET_HOME": str(self.home),
            TAG: self.tag,
        }
        self.env |= {name: os.environ[name] for name in (leaks.MARKER,) if name in os.environ}
        if mode is not None:
            self.env["TAZPOD_NET_DAEMON_MODE"] = mode
        if not place.is_private:  # the machine's own files stay as they are
            self.env["TAZPOD_NET_DNS_HOSTS"] = "false"
        if not place.is_private:  # many tests at once beside each other: none may take another's port
            self.env["TAZPOD_NET_PROXY_SOCKS5"] = self.env["TAZPOD_NET_PROXY_HTTP"] = f"127.0.0.1:{free_port()}"
        if control is not None:
            self.env |= lab_environment(control.url, "/nowhere", loopback_only=True)
            del self.env["TS_LOGS_DIR"]  # the program's own duty
            self.env["TAZPOD_NET_LOGIN_SERVER"] = control.url
            if auth_key == FRESH:
                auth_key = control.add_key(reusable=True)
        if auth_key is not None:
            self.env["TS_AUTHKEY"] = auth_key
        self.env |= settings
        self._outputs: list[Output] = []

    # --- files ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Path:
        """`HOME/state`."""
        return self.home / "state"

    @property
    def log(self) -> Path:
        """`HOME/logs/tailscaled.log`."""
        return self.home / "logs" / "tailscaled.log"

    def configure(self, text: str) -> None:
        """Writes `HOME/config.toml`."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "config.toml").write_text(text)
        if self.uid is not None:
            os.chown(self.home, self.uid, self.uid)

    def give(self, name: str, content: str | bytes) -> Path:
        """Writes `~/secrets/NAME`, as an unlock does; returns its path."""
        path = self.user / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.touch(0o600)
        if self.uid is not None:
            for each in (path.parent, path):
                os.chown(each, self.uid, self.uid)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def give_oauth(self, client_id: str, secret: str) -> None:
        """Writes the two files of an OAuth client, the secret last."""
        self.give("tailscale-oauth-client-id", client_id + "\n")
        self.give("tailscale-oauth-client-secret", secret + "\n")

    def use_copies(self) -> Path:
        """Puts copies of tailscaled and tailscale into a directory of this user's own, first on PATH; returns it."""
        directory = self.user / "bin"
        directory.mkdir()
        for program in (self.programs.tailscaled, self.programs.tailscale):
            shutil.copy2(program, directory)
        self.env["PATH"] = f"{directory}:{SYSTEM_PATH}"
        return directory

    def logs_text(self) -> str:
        """Every byte in `HOME/logs`, rotated files and the supervisor's own included."""
        logs = self.home / "logs"
        found = sorted(logs.iterdir()) if logs.is_dir() else []
        return "".join(path.read_text(errors="replace") for path in found if path.is_file())

    # --- commands -------------------------------------------------------------------------------------------------

    def run(
        self,
        *arguments: str,
        expect: int | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: str | None = None,
        timeout: float = PATIENCE_S,
        prefix: Sequence[str] = (),
        uid: int | None = None,
    ) -> Done:
        """Runs `tazpod-net ARGUMENTS` to its end; a hang, a traceback or another exit code is an AssertionError.

        `env`: changes to the environment, None removes. `prefix`: a command that runs the program (such as `sh -c`).
        """
        argv = [*prefix, self.command, *arguments]
        try:
            done = self.place.run(
                argv, env=self._environment(env), stdin=stdin, timeout=timeout, uid=self.uid if uid is None else uid
            )
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"{' '.join(arguments)} hangs, or something holds its output: {e.stderr!r}") from e
        seen = Done(arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in seen.said, str(seen)
        assert expect is None or seen.code == expect, f"wanted exit {expect}: {seen}\n{self.report()}"
        return seen

    def popen(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, stderr: int | None = subprocess.DEVNULL
    ) -> Output:
        """Starts `tazpod-net ARGUMENTS`, its standard output a pipe. Ended by `close` at the latest."""
        process = self.place.popen(
            [self.command, *arguments],
            env=self._environment(env),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=False,
            uid=self.uid,
        )
        assert process.stdout is not None
        return self._keep(Output(process, process.stdout.fileno()))

    def terminal(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> Output:
        """Starts `tazpod-net ARGUMENTS` on a terminal of its own."""
        master, slave = os.openpty()
        try:
            process = self.place.popen(
                [self.command, *arguments],
                env=self._environment({"TERM": "xterm", **(env or {})}),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                uid=self.uid,
            )
        finally:
            os.close(slave)
        return self._keep(Output(process, master))

    def at_once(self, commands: Sequence[Sequence[str]], *, timeout: float = 90.0) -> list[Done]:
        """Starts all commands before it waits for any."""
        running = [
            self.place.popen(
                [self.command, *arguments],
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                uid=self.uid,
            )
            for arguments in commands
        ]
        deadline = time.monotonic() + timeout
        try:
            ends = [process.communicate(timeout=max(0.1, deadline - time.monotonic())) for process in running]
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"a command hangs: {e}\n{self.report()}") from e
        finally:
            for process in running:
                process.kill()
                process.communicate()
        return [
            Done(tuple(arguments), process.returncode, out, err)
            for arguments, process, (out, err) in zip(commands, running, ends, strict=True)
        ]

    def up(self, *options: str, expect: int = 0, **more: Any) -> Done:
        """`tazpod-net up`."""
        return self.run("up", *options, expect=expect, **more)

    def down(self, *options: str, expect: int = 0, **more: Any) -> Done:
        """`tazpod-net down`."""
        return self.run("down", *options, expect=expect, **more)

    def status(self, *, expect: int | None = None) -> dict[str, Any]:
        """The object of `status --json`."""
        done = self.run("status", "--json", expect=expect)
        try:
            return cast("dict[str, Any]", json.loads(done.out))
        except ValueError as e:
            raise AssertionError(f"not JSON: {done}") from e

    def short(self) -> str:
        """The line of `status --short`."""
        return self.run("status", "--short").out.strip()

    def eventually(
        self, fits: Callable[[dict[str, Any]], object], *, within: float = 30.0, every: float = 0.05
    ) -> dict[str, Any]:
        """The first status object that fits."""
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = self.status()
            return bool(fits(last))

        try:
            eventually(look, within=within, every=every)
        except AssertionError as e:
            raise AssertionError(f"{e}: {json.dumps(last, indent=1)}\n{self.report()}") from e
        return last

    def fetch(self, url: str) -> str:
        """A URL of the tailnet as programs beside the daemon get it: by TUN, or through the HTTP proxy."""
        proxy = self.status()["proxy"]["http"]
        argv = [sys.executable, "-c", HTTP_CLIENT, url, "20", f"http://{proxy}" if proxy else ""]
        return self.place.run(argv, check=True).stdout

    # --- processes ------------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Everything alive that came from this home's commands."""
        wanted = f"{TAG}={self.tag}".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0") and is_alive(int(name)):
                        argv = Path(f"/proc/{name}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
                        found.append(Process(int(name), tuple(argv)))
        return found

    def daemons(self) -> list[int]:
        """Pids of this home's living daemons: never more than one, says the contract."""
        return [process.pid for process in self.processes() if process.is_daemon]

    def kill_supervisor(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals it and, after SIGKILL, waits for its end; its pid."""
        pid = cast("int", self.status()["supervisor"]["pid"])
        kill(pid, number)
        if number == signal.SIGKILL:
            gone(pid)
        return pid

    def kill_daemon(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals it; its pid."""
        pid = cast("int", self.status()["daemon"]["pid"])
        kill(pid, number)
        return pid

    def crash(self) -> None:
        """Everything dies at once, as when a container is killed."""
        killed = set()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody may restart what dies
            for process in self.processes():
                killed.add(process.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        eventually(lambda: not any(map(is_alive, killed)) and not self.processes())

    def report(self) -> str:
        """What a failed assertion should show."""
        own = self.home / "logs" / "tazpod-net.log"
        parts = [f"processes: {self.processes()}"]
        for path in (own, self.log):
            with contextlib.suppress(OSError):
                parts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}")
        return "\n".join(parts)

    def close(self) -> None:
        """Stops in order what can be stopped so, kills the rest, removes the files."""
        for output in self._outputs:
            output.close()
        if self.processes():
            with contextlib.suppress(AssertionError):
                self.run("down", "--timeout", "5", timeout=15)
        self.crash()
        shutil.rmtree(self.user, ignore_errors=True)

    def _keep(self, output: Output) -> Output:
        self._outputs.append(output)
        return output

    def _environment(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        merged: dict[str, str | None] = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
