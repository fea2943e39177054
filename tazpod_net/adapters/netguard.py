"""The guard of TUN per network namespace: an abstract unix socket named after the interface (`man 7 unix`).

It is seen across mount, pid and user namespaces and is free in another network namespace. The daemon holds it as
its stdin for its whole life, so that it outlives a killed supervisor exactly as the daemon does.
"""

import _socket  # not `socket`: 4 ms that the daemon would wait for
import os


def take(interface: str) -> int | None:
    """Binds the guard; returns its fd (close-on-exec), or None if a TUN daemon of another home has it."""
    guard = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
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
    family = _socket.AF_INET6 if ":" in bare else _socket.AF_INET
    for number in range(int(port), min(int(port) + tries, 65536)):
        probe = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            probe.bind((bare, number))
            probe.listen(1)
            return f"{host}:{probe.getsockname()[1]}"
        except OSError:
            continue
        finally:
            probe.close()
    raise OSError(98, os.strerror(98), address)
