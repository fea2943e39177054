"""What this process uses: memory, processor time, descriptors. Looks only when it is asked."""

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def rss_bytes() -> int | None:
    """Resident memory (`man 5 proc_pid_statm`)."""
    text = _read("/proc/self/statm").split()
    return int(text[1]) * _PAGE if len(text) > 1 else None


def pss_bytes() -> int | None:
    """The proportional share; None where the kernel has no smaps_rollup (gVisor, before 4.14)."""
    for line in _read("/proc/self/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def cpu_seconds() -> float:
    """User and system time of this process."""
    times = os.times()
    return times.user + times.system


def open_fds() -> int | None:
    """Open descriptors, the one that counts them not included."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
