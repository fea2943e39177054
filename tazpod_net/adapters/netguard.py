"""The guard of TUN per network namespace: an abstract unix socket named after the interface (`man 7 unix`).

It is seen across mount, pid and user namespaces and is free in another network namespace. The daemon holds it as
its stdin for its whole life, so that it outlives a killed supervisor exactly as the daemon does.
"""

import os
import socket


def take(interface: str) -> int | None:
    """Binds the guard; returns its fd (close-on-exec), or None if a TUN daemon of another home has it."""
    guard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        guard.bind(f"\0tazpod-net/tun/{interface}")
    except OSError:
        guard.close()
        return None
    return guard.detach()


def free_port(address: str, tries: int = 100) -> str:
    """`host:port` if it can be listened on, else the next port that can. `address` is checked by the configuration.

    Raises OSError if none of `tries` ports is free.
    """
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    for number in range(int(port), min(int(port) + tries, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bare, number))
                probe.listen(1)
            except OSError:
                continue
            return f"{host}:{probe.getsockname()[1]}"
    raise OSError(98, os.strerror(98), address)
