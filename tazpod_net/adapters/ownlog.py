"""The supervisor's own log: JSON lines by structlog, rotated like the daemon's. The only place that configures it.

structlog is imported when the log is opened, after the daemon has been spawned (40 ms); what happens before is written
in the same form by hand, so that a supervisor that is killed at once leaves its lines too. It is told that rich does
not exist (`wiring`): its console renderer would load it (9 MB) and is never used here.
"""

import contextlib
import json
import os
import time
from typing import Any

from tazpod_net.core.timefmt import rfc3339


class _File:
    """An append-only file that rotates itself by size; trouble with the disk loses a line, never the supervisor."""

    def __init__(self, path: str, max_bytes: int, files: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.files = files
        self.fd = -1

    def msg(self, line: str) -> None:
        """structlog's logger method: one event."""
        data = line.encode("utf-8", "replace") + b"\n"
        with contextlib.suppress(OSError):
            self._open()
            os.write(self.fd, data)

    info = warning = error = msg

    def _open(self) -> None:
        if self.fd >= 0 and os.fstat(self.fd).st_nlink and os.fstat(self.fd).st_size < self.max_bytes:
            return
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if os.path.exists(self.path) and os.path.getsize(self.path) >= self.max_bytes:
            self._rotate()
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _rotate(self) -> None:
        for number in range(self.files, 0, -1):
            older = f"{self.path}.{number}"
            newer = self.path if number == 1 else f"{self.path}.{number - 1}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        if self.files == 0:
            os.unlink(self.path)


class OwnLog:
    """Implements ports.OwnLog."""

    def __init__(self, path: str, *, max_bytes: int, files: int) -> None:
        self.file = _File(path, max_bytes, files)
        self._logger: Any = None

    def event(self, what: str, **fields: object) -> None:
        """One line."""
        line = {"at": rfc3339(time.time()), "supervisor": os.getpid(), **fields}
        if self._logger is None:
            self.file.msg(json.dumps({**line, "event": what}, default=str))
        else:
            self._logger.info(what, **line)

    def open(self) -> None:
        """Loads structlog."""
        if self._logger is not None:
            return
        import structlog  # noqa: PLC0415 - see the module's docstring

        self._logger = structlog.wrap_logger(
            self.file,
            processors=[
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(sort_keys=False, default=str),
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        )
