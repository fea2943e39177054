"""Looks at others without disturbing them: LocalAPI, the end of a process, its memory, its switches.

Must start and end nothing.
"""

import contextlib
import http.client
import json
import os
import select
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.stage import FailedError, Started, tail
from tests.support.lab import UnixConnection

LOOK_EVERY = 0.002  # seconds; the same for every contestant
_STATUS = "/localapi/v0/status?peers=false"
_HEADERS = {"Host": "local-tailscaled.sock"}  # any other is refused (ipn/localapi/localapi.go)


class LocalApi:
    """Asks a daemon for its state over one kept connection; before there is one, each look tries to connect."""

    def __init__(self, socket_path: Path) -> None:
        self._path = str(socket_path)
        self._connection: UnixConnection | None = None

    def is_running(self) -> bool:
        """Whether the backend is `Running` with an address: what `tailscale status` calls up."""
        status = self._ask()
        return status.get("BackendState") == "Running" and bool(status.get("TailscaleIPs"))

    def _ask(self) -> dict[str, Any]:
        try:
            if self._connection is None:
                self._connection = UnixConnection(self._path)
            self._connection.request("GET", _STATUS, headers=_HEADERS)
            answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            self.close()
            return {}
        return answer

    def close(self) -> None:
        """Drops the connection; the next look makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Word(Protocol):
    """A contestant's own word that it is ready."""

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; True if it has been given."""


class Ends:
    """The word is the end of a command with exit code 0; anything else is a failure."""

    def __init__(self, started: Started, output: Path) -> None:
        self._process = started.process
        self._output = output
        self._pidfd = os.pidfd_open(started.process.pid)

    def wait(self, seconds: float) -> bool:
        """Raises FailedError."""
        if not select.select([self._pidfd], [], [], seconds)[0]:
            return False
        os.close(self._pidfd)
        if self._process.wait() != 0:
            raise FailedError(f"exit {self._process.returncode}: {tail(self._output)}")
        return True


class Says:
    """The word is a phrase in the output."""

    def __init__(self, output: Path, phrase: str) -> None:
        self._output = output
        self._phrase = phrase.encode()

    def wait(self, seconds: float) -> bool:
        """Reads the output again after `seconds`."""
        time.sleep(seconds)
        return self._phrase in self._output.read_bytes()


class Seen(NamedTuple):
    """Seconds since the exec: `running` by LocalAPI, `word` by the contestant's own word."""

    running: float
    word: float


def race(began: float, socket_path: Path, word: Word, *, within: float = 60.0) -> Seen:
    """Looks every LOOK_EVERY seconds until both have come; raises FailedError after `within` seconds."""
    api = LocalApi(socket_path)
    running = said = None
    while running is None or said is None:
        if running is None and api.is_running():
            running = time.monotonic()
        if said is None and word.wait(LOOK_EVERY):
            said = time.monotonic()
        if time.monotonic() - began > within:
            raise FailedError(f"not up within {within:g} s (LocalAPI: {running}, own word: {said})")
    api.close()
    return Seen(running - began, said - began)


def wait_running(socket_path: Path, *, within: float = 60.0) -> float:
    """The moment, CLOCK_MONOTONIC seconds, at which LocalAPI says `Running`; raises FailedError."""
    api = LocalApi(socket_path)
    deadline = time.monotonic() + within
    while not api.is_running():
        if time.monotonic() > deadline:
            raise FailedError(f"{socket_path.name}: not Running within {within:g} s")
        time.sleep(LOOK_EVERY)
    api.close()
    return time.monotonic()


def wait_for_end(pid: int, *, within: float = 10.0) -> None:
    """Returns when the process has ended, be it reaped or not; raises FailedError."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if not select.select([fd], [], [], within)[0]:
                raise FailedError(f"process lives on after {within:g} s")
        finally:
            os.close(fd)


def memory_kib(pids: Iterable[int]) -> dict[str, float]:
    """Pss, Rss and Private (what would be free without them) of some processes together, KiB (`man 5 proc`)."""
    total = {"Pss": 0.0, "Rss": 0.0, "Private": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[0].rstrip(":"), float(line.split()[1])
            if name in {"Pss", "Rss"}:
                total[name] += value
            elif name in {"Private_Clean", "Private_Dirty"}:
                total["Private"] += value
    return total


def switches(pids: Iterable[int]) -> int:
    """Context switches, voluntary or not, of all threads so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the thread has ended
                lines = (task / "status").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


def processes_with(argument: str, *, program: str) -> list[int]:
    """Pids of living processes of `program` (the name of its executable) that have `argument` in their argv."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if argument.encode() in words and Path(words[0].decode()).name == program:
                found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Pids of the children of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += map(int, (task / "children").read_text().split())
    return found
