"""What the machine asks for. The supervisor performs them in order."""

import msgspec


class Spawn(msgspec.Struct, frozen=True):
    """Start the daemon. `avoid_tun`: in userspace mode, because TUN failed a moment ago."""

    avoid_tun: bool = False


class Terminate(msgspec.Struct, frozen=True):
    """SIGTERM (once: tailscaled ignores a second one, `cmd/tailscaled/tailscaled.go:573`)."""

    pid: int


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL: the grace is over."""

    pid: int


Effect = Spawn | Terminate | Kill
