"""Root for a user who has it through `sudo -n`: when it is needed, one run of a command as root, or why not.

Never asks for a password and never waits long for sudo, which may ask a directory server. Nothing of the environment
goes where others could read it: sudo logs its arguments, so only the home is among them (see `cli.asroot`, the other
end). `up` and `status` of root never load this module.
"""

import contextlib
import errno
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tazpod_net import config, control
from tazpod_net.adapters import files
from tazpod_net.adapters.quickprobe import quick
from tazpod_net.cli import asroot, client, common
from tazpod_net.core.tun import judge
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import Layout

if TYPE_CHECKING:
    import subprocess
    from argparse import Namespace
    from collections.abc import Iterator

ANSWER_WITHIN = 10.0  # seconds for sudo, and then for the home
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "TERM", "SSH_AUTH_SOCK")  # what sudo and its PAM modules may need
_PLAIN = (str, int, float, list, tuple, dict, type(None))  # descriptors and other things of this process stay here
_NET_ADMIN = 12  # linux/capability.h


class Refusal(NamedTuple):
    """Why there is no root, as the end of a sentence, and what to do about it."""

    why: str
    fix: str


def start(arguments: "Namespace", layout: Layout) -> int | Refusal | None:
    """Runs `up` as root, whichever command needs it. The exit code; or None: no root is needed; or why there is none.

    Raises ConfigError, and TazpodNetError for a home that only root could use.
    """
    if not is_needed(arguments, layout):
        return None
    done = rerun("up", arguments, layout.home)
    if isinstance(done, Refusal):
        _refuse_strange_home(layout, done)
    return done


def become(arguments: "Namespace", layout: Layout) -> Refusal | None:
    """The same for `supervise`, which stays in the foreground: replaces this process, where root can be had."""
    if not is_needed(arguments, layout):
        return None
    tried = rerun("", None, layout.home)
    if isinstance(tried, Refusal):
        _refuse_strange_home(layout, tried)
        return tried
    given = os.memfd_create("message")
    os.write(given, _message("supervise", arguments, ""))
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    argv = [*_argv(layout.home), asroot.QUIET]
    sys.stdout.flush()
    os.execve(argv[0], argv, _environment())
    raise AssertionError  # for the linter: the line above does not return


def change(
    command: str, arguments: "Namespace", layout: Layout, stdin: str = "", *, insist: bool = False
) -> int | None:
    """Runs a command that changes somebody else's supervisor as root; None: we may ourselves, or cannot be root.

    `insist`: we may ask, but that was not enough.
    """
    if not insist and may_change(layout):
        return None
    done = rerun(command, arguments, layout.home, stdin)
    return None if isinstance(done, Refusal) else done


def may_change(layout: Layout) -> bool:
    """Whether this user may: the rule of the supervisor (`service`), or where none lives, the home's files."""
    connection = control.connect(layout.home)
    if connection is None:
        return files.are_ours(layout.state)
    owner = client.peer_uid(connection)
    connection.close()
    with contextlib.suppress(OSError):
        return os.geteuid() in {0, owner, os.stat(layout.home).st_uid}
    return False


def is_ours(layout: Layout) -> bool:
    """Whether this user can be the supervisor of the home: makes it if need be."""
    with contextlib.suppress(TazpodNetError):
        files.make_home(layout.home, layout.state, layout.logs)
    may_write = all(os.access(path, os.W_OK | os.X_OK) for path in (layout.state, layout.logs))
    return may_write and files.are_ours(layout.state)


def look(arguments: "Namespace", layout: Layout, daemon: config.Daemon) -> int | Refusal | None:
    """As `start`, for a command that only looks: whose the home is does not matter."""
    return rerun("probe", arguments, layout.home) if _mode_needs_root(daemon) else None


def is_needed(arguments: "Namespace", layout: Layout) -> bool:
    """Whether a supervisor started now should be root's: for TUN, or because the home is. Makes the home if it can."""
    overrides: dict[str, object] = {} if arguments.mode is None else {"daemon.mode": arguments.mode}
    overrides |= getattr(arguments, "overrides", {})
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config, overrides=overrides)
    return not is_ours(layout) or _mode_needs_root(loaded.config.daemon)


def _mode_needs_root(daemon: config.Daemon) -> bool:
    """Not userspace mode that was asked for; nor where this user may make TUN devices (`podman run --user`)."""
    if daemon.mode == "userspace":
        return False
    return not (judge(quick(daemon.interface)).possible and _passes_on(_NET_ADMIN))


def _passes_on(capability: int) -> bool:
    """Whether a child has it too: for others than root only ambient capabilities survive execve (`man 7`)."""
    return bool(int(_own_status("CapAmb") or "0", 16) >> capability & 1)


def _own_status(name: str) -> str | None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as f:
        return next((line.split()[1] for line in f if line.startswith(f"{name}:")), None)


def _refuse_strange_home(layout: Layout, refusal: Refusal) -> None:
    if is_ours(layout):
        return
    strange = files.strange_in(layout.state)
    denied = files.home_error(layout.home, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    what = denied.problem if strange in {None, layout.state} else f"{strange} is another user's"
    raise TazpodNetError(f"{what}, and {refusal.why}", f"{refusal.fix}; or: {denied.fix}")


def rerun(command: str, arguments: "Namespace | None", home: str, stdin: str = "") -> int | Refusal:
    """Runs a command with parsed arguments as root in this environment, and copies what it prints. "" only tries."""
    if _own_status("NoNewPrivs") == "1":
        return _NO_NEW_PRIVILEGES
    if not sys.executable:
        return Refusal("sudo cannot be used (this Python does not know its own path)", "run it as root")
    argv = _argv(home)
    if not argv[0]:
        return Refusal("there is no sudo", "run it as root")
    with _started(argv) as run:
        if run.line() != asroot.HELLO.decode():
            return run.refusal()
        run.drop_warnings()
        run.tell(_message(command, arguments, stdin))
        verdict = run.line()
        if verdict != asroot.GO.decode():
            what = verdict.strip() or run.refusal().why
            return Refusal(f"root cannot do it ({what})", "choose a home on a local disk with --home")
        return run.copy()


def _argv(home: str) -> list[str]:
    places = [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/local/bin"]
    candidates = (os.path.join(place, "sudo") for place in places if place.startswith("/"))
    program = next((path for path in candidates if os.access(path, os.X_OK)), "")
    script = os.path.abspath(asroot.__file__)
    return [program, "-n", "-u", "root", "--", sys.executable, "-I", script, "--home", home]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {**kept, "LC_ALL": "C"}  # what sudo says is read here


def _message(command: str, arguments: "Namespace | None", stdin: str) -> bytes:
    import json  # noqa: PLC0415 - not for a user in userspace mode; msgspec refuses what is not UTF-8

    env = dict(os.environ)
    if not env.get("HOME"):
        import pwd  # noqa: PLC0415 - rarely needed

        with contextlib.suppress(KeyError):
            env["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    folder = "/"
    with contextlib.suppress(OSError):
        folder = os.getcwd()
    said: dict[str, Any] = {
        "path": [os.path.abspath(path) for path in sys.path],
        "env": env,
        "folder": folder,
        "stdin": stdin,
        "person": common.on_terminal(),
        "command": command,
        "arguments": {} if arguments is None else {k: v for k, v in vars(arguments).items() if isinstance(v, _PLAIN)},
    }
    return json.dumps(said).encode() + b"\n"


class _Run:
    """sudo and what it runs: two lines that are for us, then output that is copied."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.deadline = time.monotonic() + ANSWER_WITHIN
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdin = process.stdin
        self._out, self._err = process.stdout.fileno(), process.stderr.fileno()
        self._data = {self._out: b"", self._err: b""}
        self._open = {self._out, self._err}
        self.in_time = True

    def line(self) -> str:
        """The next line of its output; what there is of it if it ends or the time is over."""
        self.deadline = time.monotonic() + ANSWER_WITHIN
        while b"\n" not in self._data[self._out] and self._out in self._open:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.in_time = False
                break
            self._read(left)
        head, newline, self._data[self._out] = self._data[self._out].partition(b"\n")
        return (head + newline).decode("utf-8", "replace")

    def _read(self, patience: float | None) -> None:
        ready, _, _ = select.select(list(self._open), [], [], patience)
        for fd in ready:
            part = os.read(fd, 1 << 16)
            self._data[fd] += part
            if not part:
                self._open.discard(fd)

    def drop_warnings(self) -> None:
        """Forgets what sudo has said although it works ("unable to resolve host"); what comes now is the command's."""
        while self._err in self._open and select.select([self._err], [], [], 0)[0]:
            self._read(0)
        self._data[self._err] = b""

    def tell(self, message: bytes) -> None:
        """Everything that it must know; it may have ended."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(message)
            self._stdin.flush()

    def copy(self) -> int:
        """Its output to ours until it ends; its exit code."""
        targets = {self._out: 1, self._err: 2}
        while True:
            for fd, target in targets.items():
                while self._data[fd]:
                    self._data[fd] = self._data[fd][os.write(target, self._data[fd]) :]
            if not self._open:
                return self.process.wait()
            self._read(None)

    def refusal(self) -> Refusal:
        """Why sudo has not run anything."""
        if not self.in_time:
            return Refusal(
                f"sudo has not answered within {ANSWER_WITHIN:g} s",
                "see why 'sudo -n true' is slow, or set daemon.mode = \"userspace\"",
            )
        while self._open and (left := self.deadline - time.monotonic()) > 0:
            self._read(left)
        return explain(self._data[self._err].decode("utf-8", "replace"))


@contextlib.contextmanager
def _started(argv: list[str]) -> "Iterator[_Run]":
    import subprocess  # noqa: PLC0415 - 12 ms that a user in userspace mode does not pay

    process = subprocess.Popen(
        argv, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        yield _Run(process)
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process.poll() is None:  # where it is root's already it is left alone: it does nothing without its message
            with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
                process.kill()
                process.wait(1.0)


_NO_NEW_PRIVILEGES = Refusal(
    "sudo may not become root here (no-new-privileges)",
    "start the container without no-new-privileges, or as root",
)
_SENTENCES = (
    ("no new privileges", _NO_NEW_PRIVILEGES),
    ("password", Refusal("sudo asks for a password", "run it as root, or allow this user NOPASSWD in sudoers")),
    ("authentication", Refusal("sudo asks for a password", "run it as root, or allow this user NOPASSWD in sudoers")),
    ("sudoers", Refusal("sudo is not allowed to this user", "run it as root, or allow this user NOPASSWD in sudoers")),
    ("not allowed", Refusal("sudo does not allow this", "run it as root, or allow this user NOPASSWD in sudoers")),
    ("uid 0", Refusal("sudo is not setuid root here", "run it as root")),
)


def explain(said: str) -> Refusal:
    """The reason in what sudo or sudo-rs says (with LC_ALL=C)."""
    for words, refusal in _SENTENCES:
        if words in said.lower():
            return refusal
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1].removeprefix("sudo: ") if lines else "it says nothing"
    return Refusal(f"sudo failed ({last})", "see what 'sudo -n true' says, or run it as root")
