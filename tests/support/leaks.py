"""What a test left behind: processes, however they were detached, and file descriptors.

Owns the marker by which processes of one test are known: a variable in their environment, which survives a new
session, a change of parent and an exec. Looks and ends; judging is the caller's.
"""

import contextlib
import gc
import os
import signal
from pathlib import Path

from tests.support.eventually import eventually

# Not TAZPOD_NET_*: the program would refuse it as an unknown setting.
MARKER = "TAZPOD_TEST_MARKER"


def marked_processes(value: str) -> dict[int, str]:
    """Pid and command line of all other processes that have the marker with this value in their environment."""
    wanted = f"{MARKER}={value}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry.name)] = command.strip()
    return found


def end_marked(value: str, *, grace: float = 3.0) -> dict[int, str]:
    """Those that still live after `grace` seconds; they are killed."""
    try:
        eventually(lambda: not marked_processes(value), within=grace)
    except AssertionError:
        left = marked_processes(value)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left
    return {}


def descriptors() -> dict[int, str]:
    """Open file descriptors of this process and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in found.items() if not target.endswith("/fd")}


def leaked_descriptors(before: dict[int, str]) -> dict[int, str]:
    """Those that are open now and were not then; garbage is collected before anything is called a leak."""

    def new() -> dict[int, str]:
        return {fd: target for fd, target in descriptors().items() if before.get(fd) != target}

    if new():
        gc.collect()
    return new()
