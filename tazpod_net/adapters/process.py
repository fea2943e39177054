"""One daemon process: start it, watch it by pidfd, read how it ended, signal it. Holds no policy.

The daemon gets fds 0, 1, 2 and nothing else, its own session, umask 022 (which the supervisor itself has) and a
clean signal table. Exit is seen by pidfd, which is readable also while the process stays a zombie under a PID 1
that never waits (`sleep infinity`); `kill(pid, 0)` would call that one alive.
"""

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Mapping, Sequence

from tazpod_net.core.exits import ExitStatus, from_wait_status
from tazpod_net.home import process_stat

# include/uapi/linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), first published size 64 bytes.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=QQ" + "I" * 11 + "i")  # mask, cgroupid, pid … fsgid, exit_code


def spawn(argv: Sequence[str], env: Mapping[str, str], *, output_fd: int, stdin_fd: int | None = None) -> int:
    """Starts a program in its own session; returns its pid. Raises OSError as execve does (ENOENT, EACCES …).

    `output_fd` becomes stdout and stderr; `stdin_fd` stdin, else /dev/null.
    """
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
    if stdin_fd is None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdin_fd, 0))
    actions += [(os.POSIX_SPAWN_DUP2, output_fd, 1), (os.POSIX_SPAWN_DUP2, output_fd, 2)]
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=[s for s in signal.Signals if s not in {signal.SIGKILL, signal.SIGSTOP}],
    )


class Watched:
    """A process under watch by pidfd, our child or adopted."""

    def __init__(self, pid: int) -> None:
        """Opens the pidfd. Raises ProcessLookupError if there is no such process."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        """Sends a signal to exactly this process; one that has ended is no error."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def terminate(self) -> None:
        """SIGTERM, and SIGCONT so that a stopped process can act on it."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def exit_status(self) -> ExitStatus:
        """How it ended; call it when the pidfd is readable. Reaps our own child; asks the kernel about another's."""
        try:
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return _foreign_exit(self.pid, self.pidfd)
        if info is None:
            return ExitStatus()
        if info.si_code == os.CLD_EXITED:
            return ExitStatus(code=info.si_status)
        return ExitStatus(signal=info.si_status)

    def close(self) -> None:
        """Closes the pidfd."""
        os.close(self.pidfd)


def _foreign_exit(pid: int, pidfd: int) -> ExitStatus:
    """An adopted process: PIDFD_GET_INFO (Linux 6.15), else field 52 of its stat while it is a zombie."""
    buffer = bytearray(_INFO.size)
    _INFO.pack_into(buffer, 0, _PIDFD_INFO_EXIT, *([0] * 12), 0)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
        fields = _INFO.unpack(bytes(buffer))
        if fields[0] & _PIDFD_INFO_EXIT:
            return from_wait_status(fields[-1])
    except OSError as e:
        if e.errno not in {errno.ENOTTY, errno.EINVAL, errno.ESRCH, errno.EBADF, errno.EOPNOTSUPP}:
            raise
    stat = process_stat(pid)
    if stat is not None and stat[0] in {"Z", "X"} and len(stat) > 49:  # noqa: PLR2004 - field 52 counted from 3
        return from_wait_status(int(stat[49]))
    return ExitStatus()


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped (SIGSTOP, a debugger): it lives, and answers nothing."""
    stat = process_stat(pid)
    return stat is not None and stat[0] in {"T", "t"}


def rss_bytes(pid: int) -> int | None:
    """Resident memory, from /proc/PID/statm."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def argv_of(pid: int) -> list[str]:
    """The command line of a process; empty if there is none to read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as f:  # unbuffered: a scan reads hundreds
            raw = f.read()
    except OSError:
        return []
    return [os.fsdecode(word) for word in raw.split(b"\0")[:-1]]


def started_at(pid: int) -> float | None:
    """When the process started, seconds since boot (CLOCK_BOOTTIME)."""
    stat = process_stat(pid)
    return None if stat is None else int(stat[19]) / os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Names this boot of the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Inode of our pid namespace (`man 7 pid_namespaces`); it changes when a container is restarted."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
