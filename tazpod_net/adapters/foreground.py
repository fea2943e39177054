"""A person's command as our child: the terminal, signals and job control as if it ran alone; its end as shells say it.

Three cases, by who else uses the terminal:
- we are in its foreground, with nothing redirected: the command gets a process group of its own and the terminal;
- we are in its foreground, in a pipeline or with a redirection: others of our group may need the terminal
  (`| less`), so the command stays in our group, where the kernel itself tells everybody of Ctrl-C and Ctrl-Z;
- no terminal, or not its foreground (`&`, CI): a group of its own; the terminal follows if `fg` brings it.
A stop of the command stops our group too, so that the shell above sees it; `fg` and `bg` continue both.
"""

import contextlib
import errno
import os
import signal
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

NOT_FOUND = 127
NOT_RUNNABLE = 126
_SIGNALLED = 128
_FAULTS = {signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS, signal.SIGPIPE}
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_OWN = {signal.SIGCHLD, signal.SIGCONT}
_FORWARDED = signal.valid_signals() - _FAULTS - _OWN - {signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU}
_PR_SET_PDEATHSIG = 1


def exit_code(wait_status: int) -> int:
    """A wait status as shells say it: 128+N for a signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return _SIGNALLED - code if code < 0 else code


def refusal_code(error: OSError) -> int:
    """The exit code for a command that could not be run: 127 not found, 126 anything else."""
    return NOT_FOUND if error.errno in {errno.ENOENT, errno.ENOTDIR} else NOT_RUNNABLE


def replace(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """This process becomes the command. Raises OSError if it cannot."""
    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so through exec
    try:
        _execute(argv, env)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(argv: Sequence[str], env: Mapping[str, str], *, dies_with_us: bool = False) -> int:
    """Runs the command to its end; its exit code. Raises OSError if it cannot be started.

    Until then every signal that can be caught goes to the command. `dies_with_us`: it is told to end (SIGTERM) should
    this process be killed.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | _OWN | {signal.SIGTTOU})
    terminal = _Terminal()
    try:
        return _Child(argv, env, mask, terminal, dies_with_us=dies_with_us).wait()
    finally:
        terminal.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Terminal:
    """The controlling terminal, if there is one. SIGTTOU must be blocked: we may be in the background."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.modes: list[int | list[bytes | int]] | None = None
        with contextlib.suppress(OSError):
            self.fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        if self.fd is not None and self.is_ours:
            with contextlib.suppress(termios.error):
                self.modes = termios.tcgetattr(self.fd)

    @property
    def group(self) -> int | None:
        """Whose it is now."""
        if self.fd is None:
            return None
        try:
            return os.tcgetpgrp(self.fd)
        except OSError:  # hung up
            return None

    @property
    def is_ours(self) -> bool:
        return self.group == os.getpgrp()

    @property
    def is_shared(self) -> bool:
        """Whether others of our group may use it: then it stays with the group."""
        return self.is_ours and not all(os.isatty(fd) for fd in (0, 1, 2))

    def give(self, group: int) -> None:
        """Hands it over, if it is there."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self.fd, group)

    def repair(self) -> None:
        """The modes of before: a command that was killed could not."""
        if self.fd is not None and self.modes is not None and self.is_ours:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.fd, termios.TCSADRAIN, self.modes)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


class _Child:
    """The running command."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        mask: set[signal.Signals | int],
        terminal: _Terminal,
        *,
        dies_with_us: bool,
    ) -> None:
        self.terminal = terminal
        self.has_own_group = not terminal.is_shared
        self.gets_terminal = self.has_own_group and terminal.is_ours
        self.waited = _FORWARDED | _OWN
        if not self.has_own_group:  # the kernel stops us together, and the shell continues us together
            self.waited = self.waited - {signal.SIGTSTP, signal.SIGCONT}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP, signal.SIGCONT})
        prctl = _prctl() if dies_with_us else None
        told, tell = os.pipe()
        us = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._enter_group(os.getpid())
                if prctl is not None:
                    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                    if os.getppid() != us:
                        os.kill(os.getpid(), signal.SIGTERM)
                _become(argv, env, mask)
            except OSError as e:
                os.write(tell, str(e.errno or errno.ENOEXEC).encode())
            finally:
                os._exit(NOT_RUNNABLE)
        os.close(tell)
        self._enter_group(self.pid)
        try:
            problem = os.read(told, 16)  # end of file: exec has closed it
        finally:
            os.close(told)
        if problem:
            os.waitpid(self.pid, 0)
            self._take_terminal_back()
            raise OSError(int(problem), os.strerror(int(problem)), argv[0])

    def _enter_group(self, pid: int) -> None:
        """Said by both, whoever comes first (`man 2 setpgid`)."""
        if not self.has_own_group:
            return
        with contextlib.suppress(OSError):  # EACCES: it has done so, and runs its program already
            os.setpgid(pid, pid)
        if self.gets_terminal:
            self.terminal.give(pid)

    def wait(self) -> int:
        """Its exit code."""
        while True:
            seen = signal.sigwaitinfo(self.waited)
            if seen.si_signo == signal.SIGCHLD:
                code = self._news()
                if code is not None:
                    return code
            elif seen.si_signo == signal.SIGCONT:
                self._resume()
            elif self.has_own_group or seen.si_code <= 0:  # above 0: the kernel's own, from the terminal; it has it
                self._send(seen.si_signo)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self.has_own_group else os.kill)(self.pid, number)

    def _news(self) -> int | None:
        options = os.WNOHANG | (os.WUNTRACED if self.has_own_group else 0)
        while True:
            pid, status = os.waitpid(self.pid, options)
            if pid == 0:
                return None
            if os.WIFSTOPPED(status):
                self._stop_with_it(os.WSTOPSIG(status))
                continue
            self._take_terminal_back()
            if os.WIFSIGNALED(status):
                self.terminal.repair()
            return exit_code(status)

    def _take_terminal_back(self) -> None:
        if self.has_own_group and self.terminal.group == self.pid:
            self.terminal.give(os.getpgrp())

    def _stop_with_it(self, number: int) -> None:
        """Our group stops too, and the shell above has the terminal again. SIGCONT then comes as a signal like others.

        Without a shell that could continue us (an orphaned group) the kernel discards our stop: then Ctrl-Z does
        nothing, and a command that wants the terminal which it cannot have is hung up on, as the kernel does it.
        """
        self._take_terminal_back()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.killpg(os.getpgrp(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        if signal.SIGCONT in signal.sigpending() or number not in _STOPS:
            return
        if number != signal.SIGTSTP and not self.terminal.is_ours:
            self._send(signal.SIGHUP)
        self._resume()

    def _resume(self) -> None:
        if self.has_own_group and self.terminal.is_ours:
            self.terminal.give(self.pid)
        self._send(signal.SIGCONT)


def _become(argv: Sequence[str], env: Mapping[str, str], mask: set[signal.Signals | int]) -> NoReturn:
    """In the child: Python's own dispositions undone, what the caller ignored stays ignored."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    for number in _FORWARDED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _execute(argv, env)


def _execute(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """As execvp(3): along PATH, and a script without `#!` is sh's. Raises OSError."""
    path = _find(argv[0], env)
    try:
        os.execve(path, list(argv), dict(env))
    except OSError as e:
        if e.errno != errno.ENOEXEC:
            raise
    os.execve("/bin/sh", ["sh", path, *argv[1:]], dict(env))


def _find(name: str, env: Mapping[str, str]) -> str:
    """Where the command lies. Raises FileNotFoundError, or PermissionError for one that may not be run."""
    if "/" in name:
        return name
    refused: str | None = None
    for directory in env.get("PATH", os.defpath).split(":") if name else ():
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            refused = refused or path
    if refused is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), refused)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _prctl() -> Callable[[int, int], int]:
    """prctl(2), which the standard library has not."""
    import ctypes  # noqa: PLC0415 - 10 ms that only `run --rm` pays

    found: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    return found
