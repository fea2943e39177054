"""`status --watch` on a terminal: the same text, redrawn in place. rich does the drawing and the resizing."""

import contextlib
import os
import socket

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tazpod_net import launcher
from tazpod_net.core.protocol import Request, encode_request
from tazpod_net.home import Layout


def watch(layout: Layout, request: Request) -> int | None:
    """Shows until Ctrl-C or the supervisor's end; None if nobody answers."""
    found = launcher.connect(layout.home)
    if found is None:
        return None
    connection = socket.socket(fileno=found.detach())
    connection.sendall(encode_request(request))
    stream = connection.makefile("rb")
    console = Console()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            head = stream.readline()
            if not head or head[:1] == b"X":
                return int(head[1:]) if head else None
            body = stream.read(int(head[1:]))
            if head[:1] == b"O" and body:
                live.update(Text.from_ansi(body.decode("utf-8", "replace").rstrip("\n")), refresh=True)
    os.write(1, b"")
    return 0
