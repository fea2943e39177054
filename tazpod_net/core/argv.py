"""tailscaled's command line, and the prefs of a login. Pure; no secret ever appears here."""

from collections.abc import Mapping

import msgspec

from tazpod_net.core.backend import Prefs


class DaemonPlan(msgspec.Struct, frozen=True):
    """Everything that the command line depends on. `socks5`, `http`: `host:port`, userspace mode only.

    `in_memory`: no state file; control is told that the node is ephemeral, whatever its key says, and the daemon logs
    itself out at an orderly end (`ipn/store/mem`).
    """

    binary: str
    mode: str
    interface: str
    state_dir: str
    socket: str
    port: int = 0
    socks5: str | None = None
    http: str | None = None
    upload_logs: bool = True
    in_memory: bool = False
    extra_args: tuple[str, ...] = ()


USERSPACE = "userspace-networking"


def daemon_argv(plan: DaemonPlan) -> tuple[str, ...]:
    """The command line. `--port` is always given: its default is the environment's `PORT` (tailscaled.go:105)."""
    argv = [
        plan.binary,
        f"--statedir={plan.state_dir}",
        "--state=mem:" if plan.in_memory else f"--state={plan.state_dir}/tailscaled.state",
        f"--socket={plan.socket}",
        f"--port={plan.port}",
        f"--tun={plan.interface if plan.mode == 'tun' else USERSPACE}",
    ]
    if plan.mode != "tun":
        argv += [f"--socks5-server={plan.socks5}"] if plan.socks5 else []
        argv += [f"--outbound-http-proxy-listen={plan.http}"] if plan.http else []
    argv += [] if plan.upload_logs else ["--no-logs-no-support"]
    return (*argv, *plan.extra_args)


class Seen(msgspec.Struct, frozen=True):
    """What a running daemon's own command line tells: the truth about it, whatever today's configuration says."""

    mode: str
    interface: str | None
    socket: str | None
    state_dir: str | None
    state: str | None
    socks5: str | None
    http: str | None


def read_argv(argv: list[str]) -> Seen:
    """Reads tailscaled's flags back (`-x`, `--x`, `--x=v`, `--x v`: Go `flag` style)."""
    flags: dict[str, str] = {}
    rest = iter(argv[1:])
    for word in rest:
        if not word.startswith("-") or word in {"-", "--"}:  # where Go's flag package stops to look
            break
        name, separator, value = word.lstrip("-").partition("=")
        if not separator and name in _WITH_VALUE:
            value = next(rest, "")
        flags[name] = value
    tun = flags.get("tun", "tailscale0")
    return Seen(
        mode="userspace" if tun == USERSPACE else "tun",
        interface=None if tun == USERSPACE else tun,
        socket=flags.get("socket"),
        state_dir=flags.get("statedir"),
        state=flags.get("state"),
        socks5=flags.get("socks5-server") or None,
        http=flags.get("outbound-http-proxy-listen") or None,
    )


_WITH_VALUE = frozenset(
    {
        "tun",
        "socket",
        "statedir",
        "state",
        "socks5-server",
        "outbound-http-proxy-listen",
        "port",
        "verbose",
        "debug",
        "config",
    }
)


class Wanted(msgspec.Struct, frozen=True):
    """Settings that were configured; None = tailscale's own choice, left alone."""

    accept_routes: bool | None = None
    accept_dns: bool | None = None
    ssh: bool | None = None
    shields_up: bool | None = None
    advertise_routes: tuple[str, ...] | None = None
    operator: str | None = None
    exit_node: str | None = None
    hostname: str | None = None


# Setting -> (name in prefs JSON, attribute of Prefs). `ipn/prefs.go:75-319`. The exit node has three fields of its own.
_PREFS = {
    "accept_routes": ("RouteAll", "route_all"),
    "accept_dns": ("CorpDNS", "corp_dns"),
    "ssh": ("RunSSH", "run_ssh"),
    "shields_up": ("ShieldsUp", "shields_up"),
    "advertise_routes": ("AdvertiseRoutes", "advertise_routes"),
    "operator": ("OperatorUser", "operator_user"),
    "hostname": ("Hostname", "hostname"),
}
_AUTO = "auto:"


def wanted_prefs(wanted: Wanted, exit_nodes: Mapping[str, str] | None = None) -> dict[str, object]:
    """The prefs JSON fields for what was configured.

    `exit_nodes`: addresses and names of the peers that offer themselves -> their ids. An exit node that is given by
    name is left out until it is among them.
    """
    fields: dict[str, object] = {}
    for setting, (name, _) in _PREFS.items():
        value = getattr(wanted, setting)
        if value is not None:
            fields[name] = list(value) if isinstance(value, tuple) else value
    if wanted.exit_node is not None:
        fields.update(_exit_node_fields(wanted.exit_node, exit_nodes or {}))
    return fields


def _exit_node_fields(chosen: str, known: Mapping[str, str]) -> dict[str, object]:
    """All three together: the daemon prefers AutoExitNode to the address and the address to the id."""
    nothing = {"AutoExitNode": "", "ExitNodeIP": "", "ExitNodeID": ""}
    if not chosen:
        return dict(nothing)
    if chosen.startswith(_AUTO):
        return {**nothing, "AutoExitNode": chosen.removeprefix(_AUTO)}
    if _is_address(chosen):
        return {**nothing, "ExitNodeIP": chosen}
    found = known.get(chosen.rstrip(".").lower())
    return {} if found is None else {**nothing, "ExitNodeID": found}


def _is_address(text: str) -> bool:
    """An IP address and no name; whether it is a good one is the daemon's to say."""
    return ":" in text or text.replace(".", "").isdigit()


def masked(fields: dict[str, object]) -> dict[str, object]:
    """`PATCH prefs` wants each field and `<field>Set: true` (`ipn/prefs.go`, MaskedPrefs)."""
    return {**fields, **{f"{name}Set": True for name in fields}}


def drift(
    wanted: Wanted, prefs: Prefs, exit_nodes: Mapping[str, str] | None = None
) -> list[tuple[str, object, object]]:
    """(setting, wanted, actual) for each setting that is not as configured. `exit_nodes`: see `wanted_prefs`."""
    found: list[tuple[str, object, object]] = []
    for setting, (_, attribute) in _PREFS.items():
        value = getattr(wanted, setting)
        if value is None:
            continue
        want = list(value) if isinstance(value, tuple) else value
        actual = getattr(prefs, attribute)
        if setting == "advertise_routes":
            if sorted(want) != sorted(actual or []):
                found.append((setting, want, actual or []))
        elif want != actual:
            found.append((setting, want, actual))
    return found + _exit_node_drift(wanted.exit_node, prefs, exit_nodes or {})


def _exit_node_drift(chosen: str | None, prefs: Prefs, known: Mapping[str, str]) -> list[tuple[str, object, object]]:
    """The daemon turns an address into an id as soon as it knows the peer (`ipnlocal`, resolveExitNodeIPLocked)."""
    if chosen is None:
        return []
    auto = f"{_AUTO}{prefs.auto_exit_node}" if prefs.auto_exit_node else ""
    actual = auto or prefs.exit_node_ip or prefs.exit_node_id
    key = chosen.rstrip(".").lower()
    if actual == chosen or (not auto and known.get(key) is not None and known[key] == prefs.exit_node_id):
        return []
    names = [name for name, ident in known.items() if ident == actual]
    return [("exit_node", chosen, names[0] if names else actual)]
