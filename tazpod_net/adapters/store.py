"""Publishes the status for readers without a supervisor: `state/status.json` and `state/short`."""

import contextlib

from tazpod_net.adapters import files
from tazpod_net.core import render
from tazpod_net.core.status import Status, to_json
from tazpod_net.home import Layout


class StatusStore:
    """Implements ports.Store."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def publish(self, status: Status) -> None:
        """Replaces both files; a full disk leaves the old ones, whose age readers see."""
        line = f"{render.short(status)}\n{status.supervisor.pid or 0} {status.supervisor.start_ticks or 0}\n"
        with contextlib.suppress(OSError):
            files.write_atomic(self.layout.status, to_json(status) + b"\n", 0o644)
            files.write_atomic(self.layout.short, line.encode("utf-8", "replace"), 0o644)
