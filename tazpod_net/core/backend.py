"""What tailscaled's backend says, folded from LocalAPI objects into one value. Pure.

Two sources: `watch-ipn-bus` (events; `State` is an integer, `ipn/backend.go:27-48`) and `status` (a snapshot;
`BackendState` is a string). Unknown fields are ignored, so that other versions of the daemon can be read.
"""

from typing import Any

import msgspec

from tazpod_net.core.peers import Machine, machines
from tazpod_net.core.timefmt import parse_rfc3339

STATES = ("NoState", "InUseOtherUser", "NeedsLogin", "NeedsMachineAuth", "Stopped", "Starting", "Running")


class HealthWarning(msgspec.Struct, frozen=True, rename="pascal"):
    """One health warning of the bus (`health/state.go:22-55`)."""

    title: str = ""
    text: str = ""
    severity: str = ""


class Health(msgspec.Struct, frozen=True, rename="pascal"):
    """Structured health; `None` where the daemon sends `null`."""

    warnings: dict[str, HealthWarning] | None = None


class Prefs(msgspec.Struct, frozen=True):
    """The prefs that a setting of ours maps to (`ipn/prefs.go:75-319`)."""

    want_running: bool = msgspec.field(name="WantRunning", default=False)
    logged_out: bool = msgspec.field(name="LoggedOut", default=False)
    control_url: str = msgspec.field(name="ControlURL", default="")
    hostname: str = msgspec.field(name="Hostname", default="")
    route_all: bool = msgspec.field(name="RouteAll", default=False)
    corp_dns: bool = msgspec.field(name="CorpDNS", default=False)
    run_ssh: bool = msgspec.field(name="RunSSH", default=False)
    shields_up: bool = msgspec.field(name="ShieldsUp", default=False)
    operator_user: str = msgspec.field(name="OperatorUser", default="")
    exit_node_ip: str = msgspec.field(name="ExitNodeIP", default="")
    exit_node_id: str = msgspec.field(name="ExitNodeID", default="")
    auto_exit_node: str = msgspec.field(name="AutoExitNode", default="")
    advertise_routes: list[str] | None = msgspec.field(name="AdvertiseRoutes", default=None)


class Notify(msgspec.Struct, frozen=True):
    """One line of the bus; a field that is absent or `null` says nothing."""

    version: str | None = msgspec.field(name="Version", default=None)
    state: int | None = msgspec.field(name="State", default=None)
    err_message: str | None = msgspec.field(name="ErrMessage", default=None)
    login_finished: dict[str, object] | None = msgspec.field(name="LoginFinished", default=None)
    prefs: Prefs | None = msgspec.field(name="Prefs", default=None)
    health: Health | None = msgspec.field(name="Health", default=None)


class Peer(msgspec.Struct, frozen=True):
    """A peer or this node itself (`ipn/ipnstate/ipnstate.go`)."""

    id: str = msgspec.field(name="ID", default="")
    host_name: str = msgspec.field(name="HostName", default="")
    dns_name: str = msgspec.field(name="DNSName", default="")
    online: bool = msgspec.field(name="Online", default=False)
    active: bool = msgspec.field(name="Active", default=False)
    cur_addr: str = msgspec.field(name="CurAddr", default="")
    relay: str = msgspec.field(name="Relay", default="")
    expired: bool = msgspec.field(name="Expired", default=False)
    key_expiry: str | None = msgspec.field(name="KeyExpiry", default=None)
    tags: list[str] | None = msgspec.field(name="Tags", default=None)
    ips: list[str] | None = msgspec.field(name="TailscaleIPs", default=None)
    offers_exit: bool = msgspec.field(name="ExitNodeOption", default=False)


class Tailnet(msgspec.Struct, frozen=True):
    """`CurrentTailnet`, null until there is a netmap."""

    name: str = msgspec.field(name="Name", default="")
    suffix: str = msgspec.field(name="MagicDNSSuffix", default="")


class Snapshot(msgspec.Struct, frozen=True):
    """`GET status` (`ipn/ipnstate/ipnstate.go:32-91`)."""

    version: str = msgspec.field(name="Version", default="")
    backend_state: str = msgspec.field(name="BackendState", default="NoState")
    tun: bool = msgspec.field(name="TUN", default=False)
    have_node_key: bool = msgspec.field(name="HaveNodeKey", default=False)
    auth_url: str = msgspec.field(name="AuthURL", default="")
    ips: list[str] | None = msgspec.field(name="TailscaleIPs", default=None)
    self_: Peer | None = msgspec.field(name="Self", default=None)
    health: list[str] | None = msgspec.field(name="Health", default=None)
    magic_suffix: str = msgspec.field(name="MagicDNSSuffix", default="")
    tailnet: Tailnet | None = msgspec.field(name="CurrentTailnet", default=None)
    peer: dict[str, Peer] | None = msgspec.field(name="Peer", default=None)
    cert_domains: list[str] | None = msgspec.field(name="CertDomains", default=None)


class PeerCounts(msgspec.Struct, frozen=True):
    """Peers of this node; `direct` and `relayed` count those with traffic now."""

    total: int = 0
    online: int = 0
    direct: int = 0
    relayed: int = 0


class Backend(msgspec.Struct, frozen=True):
    """The present knowledge of the backend. `state` is None before the first answer."""

    state: str | None = None
    version: str | None = None
    have_node_key: bool = False
    auth_url: str | None = None
    ips: tuple[str, ...] = ()
    online: bool = False
    expired: bool = False
    hostname: str | None = None
    dns_name: str | None = None
    tailnet: str | None = None
    tags: tuple[str, ...] = ()
    cert_domains: tuple[str, ...] = ()  # names that control gives certificates for; the first one is this node's
    key_expiry: str | None = None
    key_ends: float | None = None  # `key_expiry` as seconds since the epoch
    relay: str | None = None
    peers: PeerCounts = PeerCounts()
    machines: tuple[Machine, ...] = ()  # this node and its peers, by name
    health: tuple[tuple[str, str], ...] = ()
    prefs: Prefs | None = None
    exit_nodes: dict[str, str] = {}  # address or name (lower case) of a peer that offers itself -> its stable id

    @property
    def ready(self) -> bool:
        """`Running` with at least one tailnet address (contract, section 1)."""
        return self.state == "Running" and bool(self.ips)

    @property
    def disowned(self) -> bool:
        """It runs from its cached network map, and control answered that somebody must log in: node or key are gone."""
        return self.state == "Running" and not self.online and self.auth_url is not None


def fold_notify(backend: Backend, notify: Notify) -> Backend:
    """What is known after one line of the bus. A login URL is left to the snapshot, which tells whose login it is."""
    changes: dict[str, Any] = {}
    if notify.version:
        changes["version"] = notify.version
    if notify.state is not None and 0 <= notify.state < len(STATES):
        changes["state"] = STATES[notify.state]
    if notify.prefs is not None:
        changes["prefs"] = notify.prefs
    if notify.health is not None:
        warnings = notify.health.warnings or {}
        changes["health"] = tuple((code, w.text or w.title) for code, w in sorted(warnings.items()))
    if changes.get("state", "NeedsLogin") not in {"NeedsLogin", "NoState"}:
        changes["auth_url"] = None
    return msgspec.structs.replace(backend, **changes)


def fold_snapshot(backend: Backend, snapshot: Snapshot) -> Backend:
    """What is known after one `status` answer. Health stays the bus's: it has codes, this has only sentences."""
    me = snapshot.self_ or Peer()
    tailnet = snapshot.tailnet
    suffix = tailnet.suffix if tailnet is not None else snapshot.magic_suffix
    return msgspec.structs.replace(
        backend,
        state=snapshot.backend_state,
        version=snapshot.version or backend.version,
        have_node_key=snapshot.have_node_key,
        auth_url=snapshot.auth_url or None,
        ips=tuple(snapshot.ips or ()),
        online=me.online,
        expired=me.expired,
        hostname=_granted_name(me) or None,
        dns_name=me.dns_name.rstrip(".") or None,
        tailnet=(suffix or (tailnet.name if tailnet is not None else "")) or None,
        tags=tuple(me.tags or ()),
        cert_domains=tuple(snapshot.cert_domains or ()),
        key_expiry=me.key_expiry,
        key_ends=None if me.key_expiry is None else parse_rfc3339(me.key_expiry),
        relay=me.relay or None,
        peers=_count(snapshot.peer or {}),
        machines=machines(snapshot.self_, (snapshot.peer or {}).values(), suffix),
        exit_nodes=_exit_nodes(snapshot.peer or {}),
    )


def _granted_name(me: Peer) -> str:
    """The name that control granted is the first label of the DNS name; `HostName` is what was asked for."""
    return me.dns_name.split(".", 1)[0] if me.dns_name else me.host_name


def _count(peers: dict[str, Peer]) -> PeerCounts:
    online = [p for p in peers.values() if p.online]
    return PeerCounts(
        total=len(peers),
        online=len(online),
        direct=sum(1 for p in online if p.cur_addr),
        relayed=sum(1 for p in online if p.active and not p.cur_addr and p.relay),
    )


def _exit_nodes(peers: dict[str, Peer]) -> dict[str, str]:
    """By what an exit node may be called: addresses, full name, first label (`ipn/prefs.go`, exitNodeIPOfArg)."""
    found: dict[str, str] = {}
    for peer in peers.values():
        found.update(dict.fromkeys(peer.ips or (), peer.id))  # in use by address, it may not offer itself (any more)
        if peer.offers_exit:
            name = peer.dns_name.rstrip(".").lower()
            found.update(dict.fromkeys(filter(None, [name, name.split(".", 1)[0]]), peer.id))
    return found
