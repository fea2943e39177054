"""serve.config: containerboot's TS_SERVE_CONFIG, a JSON file of `ipn.ServeConfig` (`ipn/serve.go:49-89`). Pure.

Owns the reading of such a file as Go reads it, and the comparison with what the daemon has. What is not known here is
handed on as it is, for daemons that are newer than this. It is checked before the daemon sees it, because tailscaled
1.102.5 takes much that cannot work, and panics on a `null` where an object belongs (`ipn/serve.go:237`).
"""

from collections.abc import Callable
from typing import Any

import msgspec

CERT_DOMAIN = "${TS_CERT_DOMAIN}"

Config = dict[str, Any]
# Takes a value, where it stands, and the list of complaints; gives the value as Go would write it.
_Check = Callable[[Any, str, list[str]], Any]


class ServeConfigError(Exception):
    """The file is not a serve config; `str()` says why, to follow its path."""


class ServeFile(msgspec.Struct, frozen=True):
    """A file that was read without complaint. `needs_domain`: it cannot be had without a certificate domain."""

    text: str
    needs_domain: bool


def parse(raw: bytes) -> ServeFile:
    """Checks a file. Raises ServeConfigError."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ServeConfigError("is not UTF-8 text") from e
    if not text.strip():
        raise ServeConfigError("is empty: write {} to serve nothing")
    config = _decode(text)
    return ServeFile(text, CERT_DOMAIN in text or _wants_tls(config))


def fill(file: ServeFile, cert_domain: str | None) -> Config | None:
    """The config with the node's certificate domain in place; None if it needs one and there is none."""
    if file.needs_domain and not cert_domain:
        return None
    return _decode(file.text.replace(CERT_DOMAIN, cert_domain or ""))


def read_present(body: bytes) -> Config:
    """What the daemon has, `null` if nothing was ever set. Raises msgspec.DecodeError."""
    value = msgspec.json.decode(body)
    found: Config = _config(value, "", []) if isinstance(value, dict) else {}
    return found


def is_same(present: Config, wanted: Config) -> bool:
    """Whether nothing is to be done. What `tailscale serve` shows in somebody's terminal is not compared."""
    return {**present, "Foreground": {}} == {**wanted, "Foreground": {}}


def replacement(present: Config, wanted: Config) -> Config:
    """What to set: wanted, with what `tailscale serve` shows in terminals, which would end otherwise."""
    foreground = present.get("Foreground")
    return {**wanted, "Foreground": foreground} if foreground else wanted


def stepping_stone(present: Config, wanted: Config) -> Config | None:
    """What must be set before wanted can be; None if nothing.

    A port cannot change what it serves (`ipn/ipnlocal/serve.go:1777-1790`): it is taken away first.
    """
    ports = _clashes(present, wanted)
    services = _clashing_services(present.get("Services", {}), wanted.get("Services", {}))
    if not ports and not services:
        return None
    return {
        **wanted,
        "TCP": {port: handler for port, handler in wanted.get("TCP", {}).items() if port not in ports},
        "Services": {name: one for name, one in wanted.get("Services", {}).items() if name not in services},
    }


def missing(wanted: Any, present: Any, where: str = "") -> list[str]:
    """Places in wanted that the daemon left out: it does not know them, or they are misspelt."""
    if not isinstance(wanted, dict) or not isinstance(present, dict):
        return [] if wanted == present else [where]
    return [
        place
        for key, value in wanted.items()
        for place in ([_at(where, key)] if key not in present else missing(value, present[key], _at(where, key)))
    ]


def service_names(config: Config) -> list[str]:
    """Services of which this node is a host."""
    return sorted(config.get("Services", {}))


def _decode(text: str) -> Config:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as e:
        raise ServeConfigError(f"is not JSON ({_place_of(str(e), text)})") from e
    if not isinstance(value, dict):
        raise ServeConfigError("does not hold an object")
    bad: list[str] = []
    config: Config = _config(value, "", bad)
    config.pop("Foreground", None)  # belongs to commands that run; a copy of `tailscale serve status --json` has it
    if bad:
        raise ServeConfigError("is no serve config: " + "; ".join(bad[:3]) + (" …" if bad[3:] else ""))
    return config


def _place_of(complaint: str, text: str) -> str:
    """msgspec counts bytes, people count lines."""
    what, _, offset = complaint.removesuffix(")").rpartition(" (byte ")
    if not offset.isdecimal():
        return complaint
    line = text.encode()[: int(offset)].count(b"\n") + 1
    return f"line {line}: {what.removeprefix('JSON is malformed: ')}"


def _wants_tls(config: Config) -> bool:
    parts = [config, *config.get("Services", {}).values()]
    handlers = [handler for part in parts for handler in part.get("TCP", {}).values()]
    return any(handler.get("HTTPS") or handler.get("TerminateTLS") for handler in handlers)


def _serves(handler: Config) -> str:
    """`serveTypeFromPortHandler` (`ipn/ipnlocal/serve.go:1862`)."""
    return next((kind for kind in ("HTTP", "HTTPS", "TerminateTLS", "TCPForward") if handler.get(kind)), "")


def _clashes(present: Config, wanted: Config) -> set[str]:
    """Ports that would have to serve something else than now."""
    old, new = present.get("TCP", {}), wanted.get("TCP", {})
    return {port for port in old if port in new and _serves(old[port]) != _serves(new[port])}


def _clashing_services(old: Config, new: Config) -> set[str]:
    """Services that change so, or between ports and TUN (`ipn/ipnlocal/serve.go:1793-1830`)."""
    return {
        name
        for name in old
        if name in new and (_clashes(old[name], new[name]) or bool(old[name].get("Tun")) != bool(new[name].get("Tun")))
    }


# --- the shape of it ----------------------------------------------------------------------------------------------


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _value(kind: type, words: str) -> _Check:
    def check(value: Any, where: str, bad: list[str]) -> Any:
        if type(value) is not kind:
            bad.append(f"{where} must be {words}")
        return value

    return check


def _struct(**fields: _Check) -> _Check:
    """An object with known fields. As in Go case does not matter, and null and nothing are left out."""
    spelt = {name.lower(): name for name in fields}

    def check(value: Any, where: str, bad: list[str]) -> Config:
        if not isinstance(value, dict):
            bad.append(f"{where} must be an object")
            return {}
        result: Config = {}
        for key, given in value.items():
            name = spelt.get(key.lower()) or key
            found = given if given is None or name not in fields else fields[name](given, _at(where, name), bad)
            if found or name not in fields:
                result[name] = found
        return result

    return check


def _map(key_of: Callable[[str], str | None], words: str, item: _Check) -> _Check:
    """An object whose keys are data; `key_of` gives a key as Go writes it, or None if it is not `words`."""

    def check(value: Any, where: str, bad: list[str]) -> Config:
        if not isinstance(value, dict):
            bad.append(f"{where} must be an object")
            return {}
        result: Config = {}
        for key, given in value.items():
            name = key_of(key)
            if name is None:
                bad.append(f"{where}: {key!r} is not {words}")
            else:
                result[name] = item(given, _at(where, key), bad)
        return result

    return check


def _port(key: str) -> str | None:
    number = int(key) if key.isascii() and key.isdecimal() and len(key) < 6 else 0  # noqa: PLR2004 - 65535
    return str(number) if 0 < number <= 0xFFFF else None  # noqa: PLR2004


def _host_port(key: str) -> str | None:
    host, _, port = key.rpartition(":")
    return key if host and _port(port) else None


def _mount(key: str) -> str | None:
    return key if key.startswith("/") else None


def _service(key: str) -> str | None:
    return key if key.removeprefix("svc:") not in {key, ""} else None


def _texts(value: Any, where: str, bad: list[str]) -> Any:
    if not isinstance(value, list) or any(not isinstance(one, str) for one in value):
        bad.append(f"{where} must be a list of texts")
    return value


_text = _value(str, "a text")
_flag = _value(bool, "true or false")

_HANDLER = _struct(Path=_text, Proxy=_text, Text=_text, AcceptAppCaps=_texts, Redirect=_text)
_PORT = _struct(
    HTTPS=_flag, HTTP=_flag, TCPForward=_text, TerminateTLS=_text, ProxyProtocol=_value(int, "a whole number")
)
_WEB = _struct(Handlers=_map(_mount, "a path from / on", _HANDLER))
_PARTS: dict[str, _Check] = {
    "TCP": _map(_port, "a port", _PORT),
    "Web": _map(_host_port, "NAME:PORT", _WEB),
}
_SERVICE = _struct(**_PARTS, Tun=_flag)
_FUNNEL = _map(_host_port, "NAME:PORT", _flag)


def _session(value: Any, _where: str, _bad: list[str]) -> Any:
    """The daemon's own, never a file's: handed back as it came."""
    return value


_config = _struct(**_PARTS, Services=_map(_service, "svc:NAME", _SERVICE), AllowFunnel=_FUNNEL, Foreground=_session)
