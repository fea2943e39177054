"""`entrypoint`: PID 1 of a container, or any parent that must behave like one. Starts CMD at once, and the supervisor.

It stays small, because nothing may end it: no event loop, no parser, no configuration. It takes signals
(`adapters.initcmd`), reaps, and counts on what the kernel tells. Everything else is done by helpers, forked from it:
one that starts the supervisor, one that waits for a condition (`--wait`), one that stops in order at the end.

**Who waits for whom.** Only `_reap` ever waits, for whatever ended; by their pids it knows CMD and at most one helper.
It looks before it takes (WNOWAIT): the pid of CMD, which is also the name of its group, cannot be used again before the
rest of the group got its SIGTERM.

**The supervisor is nobody's child.** The helper that starts it is forked twice, so the supervisor belongs to the
container like any daemon, also one that a person's `up` has started. It holds the other end of a socket; its words and
its end tell us all that we must know, by a signal of our own (F_SETSIG). So the same code serves as PID 1, as a
child of another init and as a job of a shell. Whoever cannot say that it runs, because we have closed, does not run.

**Orphans** come to PID 1 by themselves; otherwise we ask for them (PR_SET_CHILD_SUBREAPER).
"""

import _socket
import os
import select
import signal
import time

from tazpod_net.adapters import environ, initcmd

TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = signal.SIGRTMAX  # "the socket has news"; told from a person's by si_code
STOP_WITHIN = 9.0  # seconds from the first signal to the end: docker gives 10
STOP_AT_LEAST = 2.0  # seconds for the daemon, even if CMD took nearly all
_IN_TIME = 1.5  # seconds after the signal in which CMD's end leaves the supervisor all that it counts with
_GIVE_UP = 60.0  # seconds for an orderly stop that nobody hurries
_STABLE = 30.0  # a supervisor that lived so long is started again at once
_LONGEST_PAUSE = 60.0
_PR_SET_CHILD_SUBREAPER = 36
_SUPERVISOR_SIGNALS = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGHUP,
                       signal.SIGQUIT: signal.SIGTERM, signal.SIGRTMIN + 3: signal.SIGTERM}  # fmt: skip
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGRTMIN + 3})

# What comes by the socket, one word a line.
RUNS = b"R"  # with its pid: a supervisor of ours
ENDED = b"E"  # in order: `down`, or another one has taken over
ELSEWHERE = b"A"  # another supervisor has this home; with a 1: it is there for us, as root's through sudo
MARKED = b"M"  # a person stopped it, and it stays stopped
FAILED = b"F"  # with the exit code
IDLE = b"I"  # it has no daemon, and will start none by itself
BUSY = b"D"  # it has one again


class Options:
    """The command line of `entrypoint`."""

    def __init__(self) -> None:
        self.home: str | None = None
        self.config: str | None = None
        self.required = False
        self.wait: str | None = None
        self.timeout: float | None = None
        self.command: list[str] = []


_GLOBAL = frozenset({"--home", "--config"})
_OWN = frozenset({"--wait", "--timeout"})


def split(argv: list[str]) -> tuple[list[str], list[str]] | None:
    """Our words and CMD's: CMD starts behind `--`, or at the first word that is no option. None: not `entrypoint`."""
    named = False
    words = iter(enumerate(argv))
    for number, word in words:
        if word == "--" and named:
            return argv[:number], argv[number + 1 :]
        if word in _GLOBAL or (named and word in _OWN):
            next(words, None)
        elif not word.startswith("-"):
            if named:
                return argv[:number], argv[number:]
            if word != "entrypoint":
                return None
            named = True
    return (argv, []) if named else None


def plain(argv: list[str]) -> Options | None:
    """The options of a command line without any difficulty; None leaves it to the full parser, and to its errors."""
    found = split(argv)
    if found is None:
        return None
    options = Options()
    words = iter(found[0])
    for word in words:
        name, equals, value = word.partition("=")
        if name in _GLOBAL and (value or not equals):
            setattr(options, name[2:], value or next(words, None))
        elif word == "--required":
            options.required = True
        elif word != "entrypoint":
            return None
    options.command = found[1]
    return options


def run(options: Options) -> int:
    """The whole life; returns the exit code."""
    initcmd.block_all()
    env = dict(os.environ)
    environ.forget(environ.SECRETS)  # /proc/1/environ too; the supervisor gets them from our memory
    if options.command:
        return Init(options, env).run()
    if os.getpid() == 1:
        return Alone(options, env).run()
    _as_a_program(env)
    from tazpod_net.cli import entrypoint  # noqa: PLC0415 - PID 1 never loads it

    return entrypoint.supervise(options, anew=False)


class Children:
    """Everybody that ended is waited for here."""

    def __init__(self) -> None:
        self.wanted: dict[int, Callable[[int], None]] = {}
        self.before: dict[int, Callable[[], None]] = {}

    def reap(self) -> None:
        """Takes all that ended; calls `before` for those that still have their pid, `wanted` with the wait status."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            before = self.before.pop(pid, None)
            if before is not None:
                before()
            _, status = os.waitpid(pid, 0)
            then = self.wanted.pop(pid, None)
            if then is not None:
                then(status)


class Init:
    """CMD and the supervisor."""

    def __init__(self, options: Options, env: dict[str, str]) -> None:
        self.options = options
        self.env = env
        self.cwd = _here()
        self.is_pid_1 = os.getpid() == 1
        self.children = Children()
        self.command: initcmd.Foreground | None = None
        self.code: int | None = None  # CMD's
        self.asked: list[float] = []  # when signals came that may mean the end
        self.report: _socket.socket | None = None
        self.word = b""  # the newest from there
        self.supervisor = 0  # its pid, once it is ours
        self.had_supervisor = False
        self.is_idle = False  # it has nothing to stop
        self.began = 0.0
        self.failures = 0
        self.again_at: float | None = None
        self.is_ending = False
        self.helper = 0
        self.helped: int | None = None  # the helper's exit code

    def run(self) -> int:
        """Returns the exit code."""
        adopt = None if self.is_pid_1 else _subreaper()
        if adopt is not None:
            adopt(0)  # the supervisor is not for us to reap
        self._start_supervisor(first=True)
        os.chdir("/")  # CMD starts where we were; we keep nobody's directory busy
        if adopt is not None:
            adopt(1)
        if self.options.wait is not None or self.options.required:
            self._await()
        if self.code is None:
            self._start_command()
            while self.code is None:
                self._turn()
        self._end()
        if self.command is not None:
            self.command.take_terminal()
        return self.code

    def _start_command(self) -> None:
        env = {name: value for name, value in self.env.items() if name not in environ.SECRETS}
        self.command = initcmd.Foreground(self.options.command, env, cwd=self.cwd)
        self.children.before[self.command.pid] = lambda: self._rest_of_group()
        self.children.wanted[self.command.pid] = lambda status: self._command_ended(status)

    def _rest_of_group(self) -> None:
        if self.command is not None:
            self.command.send(signal.SIGTERM)

    def _command_ended(self, status: int) -> None:
        self.code = initcmd.exit_code(status)

    # --- one loop for all phases ----------------------------------------------------------------------------------

    def _turn(self, until: float | None = None) -> bool:
        """Waits for one signal, at most until a moment; False if that came first."""
        ends = [moment for moment in (until, self.again_at) if moment is not None]
        if ends:
            found = signal.sigtimedwait(initcmd.CATCHABLE, max(0.0, min(ends) - time.monotonic()))
        else:
            found = signal.sigwaitinfo(initcmd.CATCHABLE)
        if found is not None:
            self._take(found)
        if self.again_at is not None and time.monotonic() >= self.again_at:
            self._start_supervisor(first=False)
        return until is None or time.monotonic() < until

    def _take(self, found: "signal.struct_siginfo") -> None:
        number = found.si_signo
        if number == signal.SIGCHLD:
            self.children.reap()
            self._look_for_stop()
        elif number == REPORT and found.si_code > 0:  # the kernel's: nobody sent it
            self._read_report()
        else:
            self._signal(number)

    def _signal(self, number: int) -> None:
        now = time.monotonic()
        if number in _ENDING or number not in {signal.SIGCONT, signal.SIGWINCH, *initcmd.STOPPING}:
            self.asked = [at for at in self.asked if now - at < STOP_WITHIN] + [now]
        if self.command is not None and self.code is None:
            self.command.forward(number)
        elif number in _ENDING and self.code is None:  # still waiting for the condition
            self.code = initcmd.BY_SIGNAL + number

    def _look_for_stop(self) -> None:
        """A job of a shell stops with its CMD."""
        command = self.command
        if command is None or not command.is_job or self.code is not None:
            return
        try:
            if os.waitid(os.P_PID, command.pid, os.WSTOPPED | os.WNOHANG) is not None:
                command.stopped()
        except ChildProcessError:
            return

    # --- the supervisor -------------------------------------------------------------------------------------------

    def _start_supervisor(self, *, first: bool) -> None:
        """By a grandchild, so that nobody but the container is its parent."""
        self.again_at = None
        self.word, self.supervisor, self.began = b"", 0, time.monotonic()
        self.is_idle = False
        self.report, theirs = _socket.socketpair()
        _tell_by_signal(self.report.fileno())

        def start() -> int:
            os.setsid()
            if os.fork() != 0:
                os._exit(0)
            from tazpod_net.cli import entrypoint  # noqa: PLC0415 - 50 ms, and never in PID 1 itself

            return entrypoint.start(
                self.options, theirs.detach(), self.cwd, anew=first and self.is_pid_1, quiet=self.failures > 1
            )

        try:
            between = _fork(start, self.env)
        finally:
            theirs.close()
        os.waitpid(between, 0)

    def _read_report(self) -> None:
        if self.report is None:
            return
        data = b""
        while True:
            try:
                part = self.report.recv(4096)
            except BlockingIOError:
                break
            if not part:
                self.report.close()
                self.report = None
                break
            data += part
        for line in data.split():
            if line in {IDLE, BUSY}:
                self.is_idle = line == IDLE
                continue
            self.word = line
            if line[:1] == RUNS:
                self.supervisor = int(line[1:])
                self.had_supervisor = True
            elif line == ELSEWHERE + b"1":
                self.had_supervisor = True
        if self.report is None and not self.is_ending:
            self._supervisor_gone()

    def _supervisor_gone(self) -> None:
        """Nobody holds the other end any more: it ended in order, never started, or died."""
        kind = self.word[:1]
        if kind in {ENDED, MARKED} or self.word == FAILED + b"2":  # another start would not understand it either
            return
        lived = time.monotonic() - self.began
        if kind == RUNS and lived > _STABLE:
            self.failures = 0
        pause = _LONGEST_PAUSE if kind == ELSEWHERE else _pause(self.failures)
        if kind == FAILED:
            pause = max(pause, 1.0)
        self.failures += 1
        self.again_at = time.monotonic() + pause
        if kind not in {FAILED, ELSEWHERE}:
            say(f"the supervisor died: started again{f' in {pause:g} s' if pause else ''}, tailscaled and CMD go on")

    # --- before and after CMD -------------------------------------------------------------------------------------

    def _await(self) -> None:
        """`--wait`: returns when CMD may start; or sets the exit code."""

        def wait() -> int:
            from tazpod_net.cli import entrypoint  # noqa: PLC0415 - see _start_supervisor

            return entrypoint.wait(self.options)

        self._help(wait)
        while self.helped is None and self.code is None and not self._is_hopeless():
            self._turn()
        self._end_helper()
        if self.code is not None or self.helped == 0:
            return
        if self.options.required:
            self.code = 2 if self.word == FAILED + b"2" else 1
            say("CMD is not started: it is --required that the tailnet is up")
        else:
            say("CMD starts without the tailnet, which may still come: tazpod-net status")

    def _is_hopeless(self) -> bool:
        """The supervisor did not start, and time will not change that."""
        if self.word[:1] == FAILED:
            return self.options.required or self.word == FAILED + b"2"
        return self.word[:1] in {MARKED, ENDED}

    def _end(self) -> None:
        """Stops supervisor and daemon in order."""
        began = time.monotonic()
        self.is_ending = True
        self.again_at = None
        starting = self.report is not None and self.word[:1] != RUNS
        if starting and self.report is not None:
            self.report.shutdown(_socket.SHUT_RD)  # one that has not yet said that it runs will not
            self._read_report()
        late = self._hurry(began)
        if self.report is not None and self.supervisor and not late:
            for number in (signal.SIGTERM, signal.SIGCONT):
                os.kill(self.supervisor, number)  # it lives: it has the other end of our socket
            if self.is_idle:  # nothing will be left undone, whether somebody waits or not
                return
            while self.report is not None and self._turn(began + _GIVE_UP):
                pass
            if self.word[:1] == ENDED:
                return
        if self.had_supervisor or (self.is_pid_1 and not starting):
            self._stop_by_helper(late or None, None if self.is_pid_1 else self.supervisor or None)

    def _hurry(self, now: float) -> float:
        """Seconds that are left where CMD has already taken some of the engine's patience; 0: there is time enough."""
        recent = [at for at in self.asked if now - at < STOP_WITHIN]
        if not recent or now - recent[0] < _IN_TIME:
            return 0.0
        return max(STOP_AT_LEAST, STOP_WITHIN - (now - recent[0]))

    def _stop_by_helper(self, within: float | None, pid: int | None) -> None:
        """What needs more than a signal: less time, a supervisor that hangs or left its daemon alone."""

        def stop() -> int:
            from tazpod_net.cli import entrypoint  # noqa: PLC0415 - see _start_supervisor

            return entrypoint.stop(self.options, within, pid)

        until = time.monotonic() + _GIVE_UP
        self._help(stop)
        while self.helped is None and self._turn(until):
            pass

    def _help(self, work: "Callable[[], int]") -> None:
        """Runs work in a helper, the only one then."""
        self.helped = None
        self.helper = _fork(work, self.env)
        self.children.wanted[self.helper] = lambda status: self._helper_ended(status)

    def _end_helper(self) -> None:
        """One that is not needed any more."""
        if self.helped is None:
            os.kill(self.helper, signal.SIGKILL)  # not reaped yet, so it is still this one
            self.children.wanted.pop(self.helper, None)

    def _helper_ended(self, status: int) -> None:
        self.helped = initcmd.exit_code(status)


class Alone:
    """PID 1 without CMD: the supervisor in the foreground as its child, started again if it dies."""

    def __init__(self, options: Options, env: dict[str, str]) -> None:
        self.options = options
        self.env = env
        self.children = Children()
        self.pid = 0
        self.status: int | None = None

    def run(self) -> int:
        """Returns the supervisor's exit code."""
        failures, first = 0, True
        while True:
            began = time.monotonic()
            self._start(first=first)
            first = False
            asked = self._serve()
            assert self.status is not None
            if os.WIFEXITED(self.status) or asked:
                return initcmd.exit_code(self.status)
            failures = 0 if time.monotonic() - began > _STABLE else failures + 1
            say(f"the supervisor died ({_name(os.WTERMSIG(self.status))}): started again, tailscaled goes on")
            if self._pause(_pause(failures)):
                return initcmd.BY_SIGNAL + signal.SIGTERM

    def _start(self, *, first: bool) -> None:
        def work() -> int:
            os.setpgid(0, 0)  # Ctrl-C on a terminal is for PID 1, which passes it on, once
            from tazpod_net.cli import entrypoint  # noqa: PLC0415 - never in PID 1 itself

            return entrypoint.supervise(self.options, anew=first)

        self.status = None
        self.pid = _fork(work, self.env)
        self.children.wanted[self.pid] = lambda status: setattr(self, "status", status)

    def _serve(self) -> bool:
        """Until it ended; whether somebody asked for that."""
        asked = False
        while self.status is None:
            number = signal.sigwaitinfo(initcmd.CATCHABLE).si_signo
            if number == signal.SIGCHLD:
                self.children.reap()
            elif number in _SUPERVISOR_SIGNALS and self.status is None:
                asked = asked or number != signal.SIGHUP
                os.kill(self.pid, _SUPERVISOR_SIGNALS[number])
        return asked

    def _pause(self, seconds: float) -> bool:
        """Waits, reaping; whether somebody asked for the end meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            found = signal.sigtimedwait(initcmd.CATCHABLE, left)
            if found is not None and found.si_signo == signal.SIGCHLD:
                self.children.reap()
            elif found is not None and _SUPERVISOR_SIGNALS.get(found.si_signo) in {signal.SIGTERM, signal.SIGINT}:
                return True
        return False


def say(text: str) -> None:
    """A line on stderr, if there is room: PID 1 waits for nobody."""
    writable = select.poll()
    writable.register(2, select.POLLOUT)
    if writable.poll(0):
        try:
            os.write(2, f"tazpod-net: {text}\n".encode("utf-8", "replace"))
        except OSError:
            return


def _pause(failures: int) -> float:
    return min(_LONGEST_PAUSE, 0.5 * float(1 << min(failures, 10)) - 0.5)


def _fork(work: "Callable[[], int]", env: dict[str, str]) -> int:
    """A child that runs `work` as an ordinary program of ours and ends with its result; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _as_a_program(env)
        code = work()
    except Exception as e:  # noqa: BLE001 - a bug in a helper is said, and ends the helper only
        say(f"internal error: {type(e).__name__}: {e}: please report it".replace("\n", " "))
    finally:
        os._exit(code)


def _as_a_program(env: dict[str, str]) -> None:
    """Signals and environment as a fresh interpreter has them."""
    initcmd.restore_defaults()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)


def _tell_by_signal(fd: int) -> None:
    """News on `fd`, and the end of all that write to it, come as the signal REPORT (`man 2 fcntl`, F_SETSIG)."""
    import fcntl  # noqa: PLC0415 - a leaf of C; here it is seen what for

    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, REPORT)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)


def _subreaper() -> "Callable[[int], None] | None":
    """Sets whether orphans below us become our children; None where that cannot be had."""
    try:
        import ctypes  # noqa: PLC0415 - 4 ms, which PID 1 does not pay

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def put(value: int) -> None:
        prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)

    return put


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed under us
        return "/"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
