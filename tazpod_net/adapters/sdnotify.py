"""Tells a service manager what it wants to know: `man 3 sd_notify` as datagrams, without its library.

Silent, and without any timer, where nobody asked (no NOTIFY_SOCKET). The daemon has the same code inside: these
variables never reach it, or its "ready" would be taken for ours.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator, Mapping

_LONGEST_STATUS = 400  # characters; a status is one line of `systemctl status`


class ServiceManager:
    """The one that started us, or nobody: then every method does nothing."""

    def __init__(self, variables: Mapping[str, str], pid: int | None) -> None:
        """`variables`: those of environ.SERVICE. `pid`: ours; None if another process is the service's main."""
        self._pid = pid
        self._address = _address(variables.get("NOTIFY_SOCKET", ""))
        self._beat_every = _beat_every(variables, pid) if self._address else None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status = ""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """We serve. From now on the loop proves twice in each watchdog period that it turns."""
        is_named = self._pid not in {None, 1}  # 1 is a container's own number, and outside the manager's
        self._send("READY=1", *([f"MAINPID={self._pid}"] if is_named else []))
        if self._beat_every is not None:
            self._beat(loop, self._beat_every)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; the same again is not sent."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.split())[:_LONGEST_STATUS])

    def stopping(self, within: float) -> None:
        """An orderly stop has begun and may take `within` seconds, whatever the unit allows."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reload (`Type=notify-reload` waits for both ends)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def close(self) -> None:
        """No beat any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _beat(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._send("WATCHDOG=1")
        self._timer = loop.call_later(every, self._beat, loop, every)

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a manager that is gone or busy must not harm us
                self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _address(text: str) -> str:
    """A path or an abstract name (`@…`); empty for what is neither, such as `vsock:`."""
    return "\0" + text[1:] if text.startswith("@") else text if text.startswith("/") else ""


def _beat_every(variables: Mapping[str, str], pid: int | None) -> float | None:
    """Half of the watchdog's period in seconds, if one is set and it is meant for us (`man 3 sd_watchdog_enabled`)."""
    meant = variables.get("WATCHDOG_PID")
    period = variables.get("WATCHDOG_USEC", "")
    if not (period.isascii() and period.isdigit()) or int(period) == 0 or (meant is not None and meant != str(pid)):
        return None
    return int(period) / 2e6
