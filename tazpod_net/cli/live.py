"""`status --watch` on a terminal: the same text, redrawn in place. rich does the drawing and the resizing."""

import contextlib
import socket
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tazpod_net import control
from tazpod_net.core import render
from tazpod_net.core.protocol import Request, encode_request
from tazpod_net.core.status import Status
from tazpod_net.home import Layout
from tazpod_net.linux import local_offset

APPEAR_EVERY = 0.5  # seconds between looks for a supervisor when there is none


def watch(layout: Layout, request: Request, offline: Callable[[], Status]) -> int:
    """Shows until Ctrl-C, also through the end of a supervisor and the start of the next."""
    console = Console()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            _follow(layout, request, live)
            text = render.text(offline(), now=time.time(), colour=request.colour, offset_at=local_offset)
            live.update(Text.from_ansi(text.rstrip("\n")), refresh=True)
            time.sleep(APPEAR_EVERY)
    return 0


def _follow(layout: Layout, request: Request, live: Live) -> None:
    found = control.connect(layout.home)
    if found is None:
        return
    connection = socket.socket(fileno=found.detach())
    with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
        connection.sendall(encode_request(request))
        while True:
            head = stream.readline()
            if not head or head[:1] == b"X":
                return
            body = stream.read(int(head[1:]))
            if head[:1] == b"O" and body:
                live.update(Text.from_ansi(body.decode("utf-8", "replace").rstrip("\n")), refresh=True)
