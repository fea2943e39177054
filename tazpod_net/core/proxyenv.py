"""The proxy variables of userspace mode: what a program needs to reach the tailnet, and the way back. Pure.

`env` leaves a record beside the variables, so that a later `env` of the same shell (or of a shell that came from it)
takes back exactly what was set and puts there what was there before. A variable that a person has changed meanwhile is
the person's. The record also keeps our own supervisor from being started with a way through itself.
"""

from collections.abc import Mapping

from tazpod_net.core.status import ProxyPart

RECORD = "TAZPOD_NET_ENV"
HOME = "TAZPOD_NET_HOME"
NAMES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")  # and in lower case: curl reads http_proxy only so
LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = {"", "0.0.0.0", "[::]"}  # noqa: S104 - proxy.allow_remote: compared, never bound
_TAILNET_RANGES = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")

Changes = dict[str, str | None]


def restored(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what an earlier `env` set."""
    kept = {name: value for name, value in env.items() if name != RECORD}
    for name, (ours, before) in _record(env).items():
        if kept.get(name) != ours:
            continue
        del kept[name]
        if before is not None:
            kept[name] = before
    return kept


def recorded(env: Mapping[str, str], proxy: ProxyPart, domain: str | None) -> dict[str, str]:
    """The environment with this mode's proxies and the record; without proxies only what an earlier `env` set goes.

    `domain`: the tailnet's, such as `example.ts.net`.
    """
    base = restored(env)
    ours = _variables(base, proxy, domain)
    if not ours:
        return base
    import json  # noqa: PLC0415 - see _record

    record = {name: [value, base.get(name)] for name, value in ours.items()}
    return {**base, **ours, RECORD: json.dumps(record, separators=(",", ":"))}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Changes:
    """What leads from one to the other; None: to be removed."""
    found: Changes = {name: value for name, value in after.items() if before.get(name) != value}
    found.update((name, None) for name in before if name not in after)
    return found


def _record(env: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """What an earlier `env` wrote; anything else in that variable is nobody's."""
    if RECORD not in env:
        return {}
    import json  # noqa: PLC0415 - 2 ms that a daemon would wait for; msgspec refuses text that is not UTF-8

    try:
        found = json.loads(env[RECORD])
    except (ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: (pair[0], pair[1]) for name, pair in pairs if name.upper() in NAMES and _is_pair(pair)}


def _is_pair(found: object) -> bool:
    """Ours, and what was before or null."""
    if not isinstance(found, list) or len(found) != 2:  # noqa: PLR2004 - a pair
        return False
    return isinstance(found[0], str) and (found[1] is None or isinstance(found[1], str))


def _variables(base: Mapping[str, str], proxy: ProxyPart, domain: str | None) -> dict[str, str]:
    socks = f"socks5h://{_reachable(proxy.socks5)}" if proxy.socks5 else None  # h: names are resolved over there
    http = f"http://{_reachable(proxy.http)}" if proxy.http else None
    if socks is None and http is None:
        return {}
    values = {
        "ALL_PROXY": socks or http,
        "HTTP_PROXY": http or socks,
        "HTTPS_PROXY": http or socks,
        "NO_PROXY": ",".join(_direct(base, domain)),
    }
    return {spelt: value for name, value in values.items() if value for spelt in (name, name.lower())}


def _reachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in _EVERYWHERE else address


def _direct(base: Mapping[str, str], domain: str | None) -> list[str]:
    """What goes without a proxy: this machine, and what was exempt before, but for the tailnet itself."""
    given = ",".join(base.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    exempt = [entry for entry in given.replace(",", " ").split() if not _hides_tailnet(entry, domain)]
    return list(dict.fromkeys([*LOCAL, *exempt]))


def _hides_tailnet(entry: str, domain: str | None) -> bool:
    """Whether an entry keeps names or addresses of the tailnet from the proxy, their only way in userspace mode."""
    name = entry.lower().lstrip("*").strip(".")
    suffix = (domain or "").lower()
    if not name or (suffix and (f".{suffix}".endswith(f".{name}") or name.endswith(f".{suffix}"))):
        return True
    import ipaddress  # noqa: PLC0415 - 1 ms that a start of the supervisor does not pay

    try:
        network = ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        return False
    ranges = map(ipaddress.ip_network, _TAILNET_RANGES)
    return any(network.version == known.version and network.overlaps(known) for known in ranges)
