"""Publishes the status for readers without a supervisor: `state/status.json` and `state/short`."""

import contextlib
import os

from tazpod_net.adapters import files
from tazpod_net.core import render
from tazpod_net.core.status import Status, to_json
from tazpod_net.home import Layout

ROOM = 64 * 1024  # bytes: less is as good as nothing


class StatusStore:
    """Implements ports.Store."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def is_full(self) -> bool:
        """Whether the disk of the home has no room: the daemon then loses its log, and what it learns."""
        try:
            disk = os.statvfs(self.layout.home)
        except OSError:
            return False
        free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
        return disk.f_blocks > 0 and free * disk.f_frsize < ROOM

    def publish(self, status: Status) -> None:
        """Replaces both files; a full disk leaves the old ones, whose age readers see."""
        line = f"{render.short(status)}\n{status.supervisor.pid or 0} {status.supervisor.start_ticks or 0}\n"
        with contextlib.suppress(OSError):
            files.write_atomic(self.layout.status, to_json(status) + b"\n", 0o644)
            files.write_atomic(self.layout.short, line.encode("utf-8", "replace"), 0o644)
