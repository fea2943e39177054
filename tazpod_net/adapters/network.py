"""What any program of the container sees of the network: names by the system's resolver, and TCP by the kernel.

The resolver is the C library's, files, search domains and all; it can block for half a minute and cannot be
interrupted, so that a child asks it, which can be ended.
"""

import asyncio
import socket

from tazpod_net.adapters import oneshot

# `_socket` alone starts in half the time of `socket`. The first letter says what follows.
_LOOKUP = """
import _socket, sys
try:
    found = _socket.getaddrinfo(sys.stdin.read(), None, 0, _socket.SOCK_STREAM)
except (OSError, UnicodeError) as e:
    print("-" + str(e.args[-1]))
else:
    print("+" + " ".join(row[4][0] for row in found))
"""
_ENV = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}


class Network:
    """ports.Network."""

    async def lookup(self, name: str, timeout: float) -> list[str]:  # noqa: ASYNC109 - the port's
        """Addresses of a name. Raises OSError with the resolver's words, or TimeoutError."""
        said = await oneshot.ask([oneshot.python(), "-I", "-S", "-c", _LOOKUP], _ENV, name.encode(), timeout)
        text = said.decode("utf-8", "replace").strip()
        if not text.startswith("+"):
            raise OSError(text.removeprefix("-") or "the resolver did not answer")
        return text[1:].split()

    async def connect(self, address: str, port: int, timeout: float) -> None:  # noqa: ASYNC109 - the port's
        """Connects to an address and hangs up. Raises OSError or TimeoutError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        async with asyncio.timeout(timeout):
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as trial:
                await asyncio.get_running_loop().sock_connect(trial, (address, port))
