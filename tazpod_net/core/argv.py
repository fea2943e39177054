"""tailscaled's command line, and the prefs of a login. Pure; no secret ever appears here."""

import msgspec

from tazpod_net.core.backend import Prefs


class DaemonPlan(msgspec.Struct, frozen=True):
    """Everything that the command line depends on. `socks5`, `http`: `host:port`, userspace mode only."""

    binary: str
    mode: str
    interface: str
    state_dir: str
    socket: str
    port: int = 0
    socks5: str | None = None
    http: str | None = None
    upload_logs: bool = True
    extra_args: tuple[str, ...] = ()


USERSPACE = "userspace-networking"


def daemon_argv(plan: DaemonPlan) -> tuple[str, ...]:
    """The command line. `--port` is always given: its default is the environment's `PORT` (tailscaled.go:105)."""
    argv = [
        plan.binary,
        f"--statedir={plan.state_dir}",
        f"--state={plan.state_dir}/tailscaled.state",
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
        if not word.startswith("-"):
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


# Setting -> (name in prefs JSON, attribute of Prefs). `ipn/prefs.go:75-319`.
_PREFS = {
    "accept_routes": ("RouteAll", "route_all"),
    "accept_dns": ("CorpDNS", "corp_dns"),
    "ssh": ("RunSSH", "run_ssh"),
    "shields_up": ("ShieldsUp", "shields_up"),
    "advertise_routes": ("AdvertiseRoutes", "advertise_routes"),
    "operator": ("OperatorUser", "operator_user"),
    "exit_node": ("ExitNodeIP", "exit_node_ip"),
    "hostname": ("Hostname", "hostname"),
}


def wanted_prefs(wanted: Wanted) -> dict[str, object]:
    """The prefs JSON fields for what was configured."""
    fields: dict[str, object] = {}
    for setting, (name, _) in _PREFS.items():
        value = getattr(wanted, setting)
        if value is not None:
            fields[name] = list(value) if isinstance(value, tuple) else value
    return fields


def masked(fields: dict[str, object]) -> dict[str, object]:
    """`PATCH prefs` wants each field and `<field>Set: true` (`ipn/prefs.go`, MaskedPrefs)."""
    return {**fields, **{f"{name}Set": True for name in fields}}


def drift(wanted: Wanted, prefs: Prefs) -> list[tuple[str, object, object]]:
    """(setting, wanted, actual) for each setting that is not as configured."""
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
    return found
