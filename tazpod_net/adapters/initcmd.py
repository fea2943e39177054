"""One command of a person's in front: its own process group, the terminal, signals passed on, its end as an exit code.

For `entrypoint` and whoever else runs a CMD and stays around it. Imports only C modules and `os`: the process that
uses it may be PID 1 of a container.

Two ways to give CMD a group of its own:
- *session*: CMD leads a new session and, where we had a terminal, gets that as its controlling one. So `docker run -it`
  with an interactive bash has job control. For PID 1, for session leaders and where there is no terminal.
- *job*: we are one job of a person's shell, whose terminal it is. CMD gets a group in the same session, and the
  foreground; when it stops (Ctrl-Z), so do we, and take it along again at `fg`.

Signals wait blocked and are taken by `sigwaitinfo`: no handler ever runs Python in between, none is lost, and even
those of a fault are passed on when somebody sends them. They have handlers all the same, which never run: exec makes
handled signals default, and a PID 1 without a handler looks deaf to others (`SigCgt`).
"""

import errno
import os
import signal
from collections.abc import Mapping, Sequence

NOT_FOUND = 127  # as shells say it
NOT_EXECUTABLE = 126
BY_SIGNAL = 128
_UNCATCHABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})
# A session of its own is an orphaned process group for the kernel, in which the default action of these is nothing
# (`man 2 setpgid`, POSIX 2.4.3): SIGSTOP instead.
STOPPING = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
CATCHABLE = tuple(sorted(set(signal.valid_signals()) - _UNCATCHABLE))


def block_all() -> None:
    """From here on every signal waits until it is taken; nothing inherited is ignored any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
    for number in CATCHABLE:
        signal.signal(number, _never)


def _never(_number: int, _frame: object) -> None:
    return


def restore_defaults() -> None:
    """In a child: as a program is started by a shell. A signal that came meanwhile acts now, so that none is lost."""
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def exit_code(status: int) -> int:
    """What shells make of a wait status: 0-255, 128+N if signal N ended it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else BY_SIGNAL - code


class Foreground:
    """CMD, from its start to its end. Every signal must be blocked (`block_all`) before it is made."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, cwd: str | None = None) -> None:
        """Starts it in `cwd`, else here. That it cannot be run is seen as its end, by 126 or 127."""
        self.tty = _terminal()
        self.is_job = self.tty is not None and os.getsid(0) != os.getpid() and _has_front(self.tty)
        if self.tty is not None and not self.is_job:
            _let_go(self.tty)
        self.pid = os.fork()
        if self.pid == 0:
            self._become(argv, env, cwd)
        if self.is_job:  # both sides do it: whoever comes first, the group is there
            _try(lambda: os.setpgid(self.pid, self.pid))
            self.give_terminal()

    def _become(self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
        """In the child. Never returns."""
        try:
            if self.is_job:
                _try(lambda: os.setpgid(0, 0))
                self.give_terminal()
            else:
                os.setsid()
                if self.tty is not None:
                    _take(self.tty)
            if cwd is not None:
                _try(lambda: os.chdir(cwd))
            restore_defaults()
            _exec(argv, env)
        except BaseException as e:  # noqa: BLE001 - a child that went on would be a second parent
            _say(f"cannot start {argv[0]!r} ({type(e).__name__}: {e})")
        finally:
            os._exit(NOT_EXECUTABLE)

    def give_terminal(self) -> None:
        """Job: CMD's group in front."""
        tty = self.tty
        if self.is_job and tty is not None:
            _try(lambda: os.tcsetpgrp(tty, self.pid or os.getpid()))

    def take_terminal(self) -> None:
        """Job: our group in front again."""
        tty = self.tty
        if self.is_job and tty is not None:
            _try(lambda: os.tcsetpgrp(tty, os.getpgrp()))

    def forward(self, number: int) -> None:
        """Passes a signal that came to us on to CMD's group; one that would stop it stops us as well."""
        self.send(signal.SIGSTOP if number in STOPPING else number)
        if number in STOPPING:
            self._stop_ourselves()
        elif number == signal.SIGCONT and self.is_job:
            self._continue()

    def send(self, number: int) -> None:
        """A signal for CMD's group; nobody there is no error."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # just forked, and not yet in a group of its own
            _try(lambda: os.kill(self.pid, number))
        except PermissionError:  # all of them have become somebody else (sudo): they are told by the terminal
            return

    def stopped(self) -> None:
        """CMD was stopped by somebody else: as a job of a shell we stop with it."""
        if self.is_job:
            self._stop_ourselves()
            self._continue()

    def _stop_ourselves(self) -> None:
        self.take_terminal()
        if self.is_job:
            os.killpg(0, signal.SIGSTOP)  # as Ctrl-Z would have done with everybody of this job
        else:
            os.kill(os.getpid(), signal.SIGSTOP)  # nothing happens to a PID 1

    def _continue(self) -> None:
        if self.tty is not None and _has_front(self.tty):
            self.give_terminal()
        self.send(signal.SIGCONT)


def _terminal() -> int | None:
    """The descriptor of ours that is a terminal."""
    return next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)


def _has_front(tty: int) -> bool:
    """Whether it is our controlling terminal and we are in front on it."""
    try:
        return os.tcgetpgrp(tty) == os.getpgrp()
    except OSError:  # not ours
        return False


def _let_go(tty: int) -> None:
    """Gives up the controlling terminal, for CMD's session to take.

    A session leader that does so gets SIGHUP and SIGCONT itself (`man 4 tty_ioctl`, TIOCNOTTY): they are not for CMD.
    """
    import fcntl  # noqa: PLC0415 - only where there is a terminal
    import termios  # noqa: PLC0415

    try:
        fcntl.ioctl(tty, termios.TIOCNOTTY)
    except OSError:
        return
    if os.getsid(0) == os.getpid():
        for number in (signal.SIGHUP, signal.SIGCONT):
            signal.sigtimedwait({number}, 0)


def _take(tty: int) -> None:
    import fcntl  # noqa: PLC0415 - see _let_go
    import termios  # noqa: PLC0415

    _try(lambda: fcntl.ioctl(tty, termios.TIOCSCTTY, 0))


def _try(act: "Callable[[], object]") -> None:
    try:
        act()
    except OSError:
        return


def _exec(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Becomes CMD, or says why not and ends: what shells do, a script without `#!` included."""
    trouble: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(argv[0], env):
        try:
            os.execve(path, list(argv), dict(env))
        except OSError as e:
            if e.errno == errno.ENOEXEC:
                os.execve("/bin/sh", ["sh", path, *argv[1:]], dict(env))
            if e.errno not in {errno.ENOENT, errno.ENOTDIR} or os.path.exists(path):
                trouble = e
    code, text = _explain(argv[0], trouble)
    _say(text)
    os._exit(code)


def _candidates(name: str, env: Mapping[str, str]) -> list[str]:
    if "/" in name:
        return [name]
    if not name:
        return []
    return [os.path.join(directory or ".", name) for directory in env.get("PATH", os.defpath).split(":")]


def _explain(name: str, error: OSError) -> tuple[int, str]:
    """Exit code and sentence."""
    missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
    if missing and os.path.exists(name):
        return NOT_EXECUTABLE, f"{name}: its interpreter is missing: look at its first line"
    if missing:
        where = "check the path" if "/" in name else "check its name and PATH"
        return NOT_FOUND, f"{name or 'an empty name'}: no such program: {where}"
    return NOT_EXECUTABLE, f"{name}: cannot be run ({(error.strerror or '').lower()}): chmod +x it, or name a program"


def _say(text: str) -> None:
    _try(lambda: os.write(2, f"tazpod-net: {text}\n".encode("utf-8", "replace")))


TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable
