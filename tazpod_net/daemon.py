"""The daemon process of one home, put together from the adapters: find it, start it, remember it, end it.

Everything here happens under the supervisor's lock. Nothing is started or cleaned before `find_survivor` said that no
daemon of this home lives: merely starting a second one damages the first (`tailscaled.md`, section 9).
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping

import msgspec

from tazpod_net.adapters import files, netguard, process, resolver, statefile
from tazpod_net.adapters.quickprobe import quick
from tazpod_net.adapters.spool import Spool
from tazpod_net.core.argv import DaemonPlan, daemon_argv, read_argv
from tazpod_net.core.childenv import scrubbed_environment
from tazpod_net.core.events import Spawned, SpawnFailed
from tazpod_net.core.exits import ExitStatus
from tazpod_net.core.options import Config
from tazpod_net.core.status import LastExit, Note
from tazpod_net.core.timefmt import rfc3339
from tazpod_net.core.tun import Choice, Facts, Full, Verdict, choose_mode, fingerprint, judge, with_full, without_root
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import Layout, start_ticks
from tazpod_net.ports import DaemonFacts

_LOOKS = 20  # a child between fork and exec still shows its parent's command line: look again for 0.1 s
_LOOK_PAUSE = 0.005


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the daemon in `state/daemon.json`: a hint, compared with the process itself."""

    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    pid_namespace: int = 0
    mode_reason: str | None = None
    binary_version: str | None = None
    restarts: int = 0
    last_exit: LastExit | None = None

    def fits(self) -> bool:
        """Whether the process it names is the one that lives now."""
        return (
            self.boot_id == process.boot_id()
            and self.pid_namespace == process.pid_namespace()
            and self.start_ticks == start_ticks(self.pid)
        )


def read_record(path: str) -> Record:
    """The record, or an empty one: absent, cut off and of another version are all "nothing is remembered"."""
    raw = files.read_json(path)
    try:
        return msgspec.convert(raw, Record) if raw is not None else Record()
    except msgspec.ValidationError:
        return Record()


class HomeDaemon:
    """Implements ports.Daemon with real processes."""

    def __init__(self, layout: Layout, socket_path: str, config: Config, env: Mapping[str, str], spool: Spool) -> None:
        self.layout = layout
        self.socket = socket_path
        self.config = config
        self.env = env
        self.spool = spool
        self.facts = DaemonFacts()
        self.forgetful = False  # of a throw-away home: the identity stays in memory
        self.no_root: tuple[str, str] | None = None
        self.on_spawned: Callable[[], None] = lambda: None
        self._watched: process.Watched | None = None
        self._kept_guard: int | None = None
        record = read_record(layout.daemon_record)
        self._record = record
        if record.boot_id == process.boot_id():
            self.facts = DaemonFacts(restarts=record.restarts, last_exit=record.last_exit)

    # --- finding ------------------------------------------------------------------------------------------------

    def find_survivor(self) -> int | None:
        """The pid of a daemon of this home that an earlier supervisor left.

        Raises TazpodNetError if one lives that cannot be seen from here (another container).
        """
        for _ in range(_LOOKS):
            spool = self.spool.locked_spool()
            if spool is None:
                return None
            holders = self.spool.holders(spool)
            found = next((pid for pid in holders if self._is_daemon(pid)), None)
            if found is not None:
                return found
            time.sleep(_LOOK_PAUSE)  # before the loop exists, and only where something is left over
        if holders:
            return None  # only children that a dead daemon left; the next spool is another file
        raise TazpodNetError(
            "a tailscaled of this home lives where it cannot be seen from here (another container or pid namespace)",
            "stop it there, or choose another home with --home",
        )

    def _is_daemon(self, pid: int) -> bool:
        argv = process.argv_of(pid)
        return len(argv) > 1 and argv[1] != "be-child" and read_argv(argv).socket == self.socket

    def adopt(self, pid: int) -> float:
        """Watches a survivor; returns when it started, monotonic seconds. Raises ProcessLookupError if it is gone."""
        self._watched = process.Watched(pid)
        seen = read_argv(process.argv_of(pid))
        record = self._record if self._record.pid == pid and self._record.fits() else Record()
        since = _monotonic_start(pid)
        self.facts = DaemonFacts(
            mode=seen.mode,
            mode_reason=record.mode_reason,
            interface=seen.interface,
            socks5=seen.socks5,
            http=seen.http,
            adopted=True,
            since=since,
            restarts=record.restarts,
            binary_version=record.binary_version,
            last_exit=record.last_exit,
        )
        return since

    def precheck(self) -> None:
        """Raises ModeRefusedError if another daemon owns this network namespace: nothing may be started then."""
        if self.config.daemon.mode == "userspace":
            return
        try:
            choice, _ = self._choose(avoid_tun=False)
            if choice.mode == "tun":
                self._kept_guard = self._take_guard()  # until the spawn: two homes that start at once, one is refused
        except ModeRefusedError as e:
            if e.foreign:
                raise

    def begin_anew(self) -> None:
        """A start by a person: restarts count from here; how the last run ended is still worth knowing."""
        self.facts = msgspec.structs.replace(self.facts, restarts=0)

    # --- starting -----------------------------------------------------------------------------------------------

    def spawn(self, at: float, *, avoid_tun: bool) -> Spawned | SpawnFailed:
        """Starts the daemon in the mode that can be had; implements ports.Processes."""
        guard: int | None = None
        output: int | None = None
        try:
            binary = find_program(self.config.daemon.binary, self.env)
            statefile.check(self._state_file())
            choice, took = self._choose(avoid_tun=avoid_tun)
            if choice.mode == "tun":
                guard = self._take_guard()
            plan, notes = self._plan(binary, choice)
            env = self._environment()
            output = self.spool.open_for_daemon()
            pid = process.spawn(daemon_argv(plan), env, output_fd=output, stdin_fd=guard)
        except TazpodNetError as e:
            return SpawnFailed(at, reason=e.problem, fix=e.fix, permanent=_is_permanent(e))
        except OSError as e:
            return SpawnFailed(at, reason=_spawn_trouble(self.config.daemon.binary, e), permanent=e.errno in _NO_CURE)
        finally:
            for fd in (guard, output):
                if fd is not None:
                    os.close(fd)
        self.drop_guard()  # unused in userspace mode
        self._spawned(pid, plan, choice, notes, took)
        return Spawned(time.monotonic(), pid)

    def _state_file(self) -> str:
        return os.path.join(self.config.daemon.state_dir, "tailscaled.state")

    def _choose(self, *, avoid_tun: bool) -> tuple[Choice, float]:
        began = time.monotonic()
        if self.config.daemon.mode == "userspace":
            return choose_mode("userspace", Verdict(possible=False, cause="", text="")), 0.0
        if avoid_tun:
            because = self.facts.last_exit.reason if self.facts.last_exit is not None else "it ended at once"
            return Choice(
                mode="userspace", reason=f"the TUN start failed ({because}); tried again at the next start"
            ), 0.0
        verdict = self._remembered(quick(self.config.daemon.interface))
        if self.no_root is not None:
            verdict = without_root(verdict, *self.no_root)
        choice = choose_mode(self.config.daemon.mode, verdict)
        if choice.refused is not None:
            raise ModeRefusedError(*choice.refused, foreign=verdict.foreign is not None)
        return choice, (time.monotonic() - began) * 1000

    def _remembered(self, facts: Facts) -> Verdict:
        """The quick verdict, corrected by a full probe's "no" while everything it depends on is the same."""
        verdict = judge(facts)
        known = files.read_json(self.layout.probe) or {}
        if verdict.possible and known.get("possible") is False and known.get("fingerprint") == fingerprint(facts):
            return Verdict(
                possible=False,
                cause=str(known.get("cause")),
                text=str(known.get("text")),
                fix=str(known.get("fix")),
            )
        return verdict

    def kept_fds(self) -> tuple[int, ...]:
        """Descriptors that must survive the way into the background."""
        return () if self._kept_guard is None else (self._kept_guard,)

    def drop_guard(self) -> None:
        """In a process that does not spawn after all: `up` after the fork, or one that gives up."""
        if self._kept_guard is not None:
            os.close(self._kept_guard)
            self._kept_guard = None

    def _take_guard(self) -> int:
        kept, self._kept_guard = self._kept_guard, None
        if kept is not None:
            return kept
        guard = netguard.take(self.config.daemon.interface)
        if guard is None:
            raise ModeRefusedError(
                f"another tazpod-net keeps a TUN daemon on {self.config.daemon.interface} in this network namespace",
                "programs here use it already; '--mode userspace' adds a second node",
                foreign=True,
            )
        return guard

    def _plan(self, binary: str, choice: Choice) -> tuple[DaemonPlan, tuple[Note, ...]]:
        daemon = self.config.daemon
        notes: list[Note] = []
        socks5 = http = None
        if choice.mode != "tun":
            socks5 = self._listen(self.config.proxy.socks5, "SOCKS5", notes)
            same = self.config.proxy.http == self.config.proxy.socks5
            http = socks5 if same else self._listen(self.config.proxy.http, "HTTP", notes)
        plan = DaemonPlan(
            binary=binary,
            mode=choice.mode or "userspace",
            interface=daemon.interface,
            state_dir=daemon.state_dir,
            socket=self.socket,
            port=daemon.port,
            socks5=socks5,
            http=http,
            upload_logs=daemon.upload_logs,
            in_memory=self.forgetful,
            extra_args=tuple(daemon.extra_args),
        )
        return plan, tuple(notes)

    def _listen(self, wanted: str, kind: str, notes: list[Note]) -> str | None:
        if not wanted:
            return None
        try:
            free = netguard.free_port(wanted)
        except OSError as e:
            raise TazpodNetError(
                f"no free port for the {kind} proxy at {wanted} ({e.strerror})", "set proxy.socks5"
            ) from e
        if free != wanted:
            notes.append(Note("proxy-port", f"{wanted} is taken, the {kind} proxy listens on {free}"))
        return free

    def _environment(self) -> dict[str, str]:
        logs_dir = os.path.join(self.layout.state, "upload-buffer")
        os.makedirs(logs_dir, 0o700, exist_ok=True)
        env, problems = scrubbed_environment(self.env, self.config, logs_dir=logs_dir)
        if problems:
            raise ModeRefusedError("; ".join(problems), "", foreign=False)
        return env

    def _spawned(self, pid: int, plan: DaemonPlan, choice: Choice, notes: tuple[Note, ...], probe_ms: float) -> None:
        self._watched = process.Watched(pid)
        fix = f": {choice.fix}" if choice.fix and plan.mode == "userspace" else ""
        self.facts = msgspec.structs.replace(
            self.facts,
            mode=plan.mode,
            mode_reason=choice.reason + fix,
            interface=plan.interface if plan.mode == "tun" else None,
            socks5=plan.socks5,
            http=plan.http,
            adopted=False,
            since=time.monotonic(),
            probe_ms=probe_ms,
            notes=notes,
        )
        self.remember(restarts=self.facts.restarts, last_exit=self.facts.last_exit)
        with contextlib.suppress(OSError):
            self.spool.begin_run(pid, rfc3339(time.time()))
        self.on_spawned()

    # --- watching and ending ------------------------------------------------------------------------------------

    def exit_fd(self) -> int | None:
        """Implements ports.Daemon."""
        return None if self._watched is None else self._watched.pidfd

    def ended(self) -> ExitStatus:
        """Implements ports.Daemon."""
        if self._watched is None:
            return ExitStatus()
        status = self._watched.exit_status()
        self._rescue_dns()
        self._watched.close()
        self._watched = None
        return status

    def _rescue_dns(self) -> None:
        """A daemon that died in TUN mode leaves the container without DNS until the next start; that may be far off."""
        if self.config.dns.guard and self.facts.mode == "tun":
            with contextlib.suppress(OSError):
                resolver.rescue()

    def terminate(self, pid: int) -> None:
        """Implements ports.Processes."""
        if self._watched is not None and self._watched.pid == pid:
            self._watched.terminate()

    def kill(self, pid: int) -> None:
        """Implements ports.Processes."""
        if self._watched is not None and self._watched.pid == pid:
            self._watched.signal(9)

    def is_stopped(self) -> bool:
        """Implements ports.Daemon."""
        return self._watched is not None and process.is_stopped(self._watched.pid)

    def rss_bytes(self) -> int | None:
        """Implements ports.Daemon."""
        return None if self._watched is None else process.rss_bytes(self._watched.pid)

    def remember(self, *, restarts: int, last_exit: LastExit | None) -> None:
        """Implements ports.Daemon. A full disk costs the memory, not the daemon: the spool's lock tells enough."""
        self.facts = msgspec.structs.replace(self.facts, restarts=restarts, last_exit=last_exit)
        pid = 0 if self._watched is None else self._watched.pid
        self._record = Record(
            pid=pid,
            start_ticks=(start_ticks(pid) or 0) if pid else 0,
            boot_id=process.boot_id(),
            pid_namespace=process.pid_namespace(),
            mode_reason=self.facts.mode_reason,
            binary_version=self.facts.binary_version,
            restarts=restarts,
            last_exit=last_exit,
        )
        with contextlib.suppress(OSError):
            files.write_atomic(self.layout.daemon_record, msgspec.json.encode(self._record) + b"\n")

    def learn_version(self, version: str) -> None:
        """The binary's own version, learned off the start path."""
        self.facts = msgspec.structs.replace(self.facts, binary_version=version)
        self.remember(restarts=self.facts.restarts, last_exit=self.facts.last_exit)

    def remember_probe(self, answer: bytes) -> None:
        """Keeps a full probe's facts and verdict for the next start. Raises msgspec.DecodeError on nonsense."""
        seen = quick(self.config.daemon.interface, interface_is_ours=self.facts.mode == "tun")
        facts = with_full(seen, msgspec.json.decode(answer, type=Full))
        verdict = judge(facts)
        if verdict.foreign is not None or verdict.cause == "busy":
            return  # what others do here changes by itself: never remembered
        kept = {"fingerprint": fingerprint(facts), **msgspec.structs.asdict(verdict)}
        with contextlib.suppress(OSError):
            files.write_json(self.layout.probe, kept)

    def cure_signs(self) -> object:
        """Implements ports.Daemon."""
        paths = (self._state_file(), "/dev/net/tun", self.layout.config, "/etc/tazpod-net/config.toml")
        return (_program_sign(self.config.daemon.binary, self.env), *(_sign(path) for path in paths))


class ModeRefusedError(TazpodNetError):
    """The configured mode cannot be had; `foreign`: because another daemon is there, which time may cure."""

    def __init__(self, problem: str, fix: str, *, foreign: bool) -> None:
        super().__init__(problem, fix)
        self.foreign = foreign


def _is_permanent(error: TazpodNetError) -> bool:
    return isinstance(error, ProgramError | statefile.StateError) or (
        isinstance(error, ModeRefusedError) and not error.foreign
    )


class ProgramError(TazpodNetError):
    """A program is missing or cannot be run."""


_NO_CURE = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EPERM})


def _spawn_trouble(binary: str, error: OSError) -> str:
    if error.errno in {errno.ENOEXEC, errno.EACCES}:
        return f"{binary} cannot be run ({(error.strerror or '').lower()}): install tailscaled for this machine"
    return f"tailscaled could not be started ({(error.strerror or str(error)).lower()})"


def find_program(name: str, env: Mapping[str, str]) -> str:
    """The absolute path of a program. Raises ProgramError saying whether it is missing or not executable."""
    if "/" in name:
        return _checked(os.path.abspath(os.path.expanduser(name)), name)
    for directory in [*env.get("PATH", "").split(":"), "/usr/sbin", "/usr/local/sbin", "/sbin"]:
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise ProgramError(f"{name} is not on PATH", f"install it, or set daemon.binary to its path ({name})")


def _checked(path: str, name: str) -> str:
    if not os.path.exists(path):
        raise ProgramError(f"{name} does not exist", "install tailscaled, or correct daemon.binary")
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise ProgramError(f"{name} is not an executable file", f"chmod +x {name}, or correct daemon.binary")
    return path


def _program_sign(name: str, env: Mapping[str, str]) -> object:
    try:
        return _sign(find_program(name, env))
    except ProgramError:
        return _sign(name)


def _sign(path: str) -> object:
    try:
        info = os.stat(path)
    except OSError as e:
        return e.errno
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode, info.st_ctime_ns)


def _monotonic_start(pid: int) -> float:
    """When a process started, on CLOCK_MONOTONIC; its ticks count on CLOCK_BOOTTIME (`man 5 proc`)."""
    boot = process.started_at(pid)
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return time.monotonic() if boot is None else boot - asleep
