"""Stand-ins for the outside of the supervisor, and ready-made knowledge for the status object.

A fake does what a test planned and raises on everything else, so that a test fails where the surprise is.
"""

import msgspec

from tazpod_net.core.backend import Backend, PeerCounts
from tazpod_net.core.login import Code, Said
from tazpod_net.core.model import Machine, State
from tazpod_net.core.report import Clock, Known
from tazpod_net.core.status import DnsPart, IdentityPart, PathsPart

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
HOME = "/workspace/.tazpod/net"

UP = Machine(state=State.UP, want_up=True, since=0.0, pid=412)
READY = Backend(
    state="Running",
    version="1.102.5-t1a2b3c",
    have_node_key=True,
    ips=("100.64.0.1", "fd7a:115c:a1e0::1"),
    online=True,
    hostname="tazpod",
    dns_name="tazpod.example.ts.net",
    tailnet="example.ts.net",
    tags=("tag:tazpod",),
    key_expiry="2027-03-02T12:30:00Z",
    relay="fra",
    peers=PeerCounts(total=12, online=7, direct=5, relayed=2),
)


def known(**changes: object) -> Known:
    """A supervisor of a ready TUN daemon at noon, 3 h 12 min after it became ready, with `changes`."""
    base = Known(
        clock=Clock(mono=20_000.0, epoch=NOON),
        version="0.1.0",
        pid=398,
        start_ticks=4711,
        since=100.0,
        machine=UP,
        backend=READY,
        live=True,
        said=Said(Code.OK, "ok"),
        ready_since=20_000.0 - 3.2 * 3600,
        daemon_version="1.102.5",
        daemon_since=110.0,
        mode="tun",
        mode_reason="TUN works",
        interface="tailscale0",
        rss_bytes=50_000_000,
        identity=IdentityPart("persist", f"{HOME}/state", "mount"),
        dns=DnsPart("100.100.100.100", guarded=True),
        paths=PathsPart(HOME, f"{HOME}/state/tailscaled.sock", f"{HOME}/logs/tailscaled.log"),
    )
    return msgspec.structs.replace(base, **changes)
