"""Values that fit their type and still cannot be right: alone, or together with others.

Owns these rules and their texts. Pure: it does not look at the machine, so a path that is missing or a port
that is taken is found out elsewhere.
"""

import re  # msgspec has loaded it already
from collections.abc import Callable
from typing import Any

from tazpod_net.core.layers import Layer, shown
from tazpod_net.core.options import Config

Check = Callable[[Any, Config], str]  # (value, whole configuration) -> "" or "is wrong: do this"

_LONGEST_INTERFACE = 15  # IFNAMSIZ less its NUL, linux/if.h
_LONGEST_SOCKET = 107  # sun_path less its NUL, `man 7 unix`
_LONGEST_NAME = 253  # RFC 1035, without the dot at the end
_LONGEST_LABEL = 63
_HIGHEST_PORT = 65535


def check(config: Config, given: Layer) -> list[str]:
    """One line for each of the `given` values (merged, converted) that cannot be right in `config`."""
    problems = []
    for key, source in given.items():
        complaint = _CHECKS[key](source.value, config) if key in _CHECKS else ""
        if complaint:
            problems.append(f"{source.where}: {key} = {shown(key, source.value)} {complaint}")
    return problems + _restart_problems(config, given)


def _restart_problems(config: Config, given: Layer) -> list[str]:
    first, longest = config.restart.initial_s, config.restart.max_s
    source = given.get("restart.max_s") or given.get("restart.initial_s")
    if source is None or first <= longest:
        return []
    wrong = f"restart.initial_s = {first:g} is above restart.max_s = {longest:g}"
    return [f"{source.where}: {wrong}: lower the first or raise the second"]


def _interface(name: str, _: Config) -> str:
    """What the kernel refuses (dev_valid_name), and what tailscaled takes for a list (tailscaled.go:752-809)."""
    if len(name.encode()) > _LONGEST_INTERFACE:
        return f'is longer than {_LONGEST_INTERFACE} bytes: write "tailscale0" for example'
    if name in {".", ".."} or any(letter in "/:," or letter.isspace() for letter in name):
        return 'is not a name for an interface: write "tailscale0" for example'
    return ""


# Options of tailscaled that are set by us -> what to use instead.
_OUR_OPTIONS = {
    "tun": "daemon.mode and daemon.interface",
    "socket": "daemon.socket",
    "state": "daemon.state_dir",
    "statedir": "daemon.state_dir",
    "port": "daemon.port",
    "socks5-server": "proxy.socks5",
    "outbound-http-proxy-listen": "proxy.http",
    "no-logs-no-support": "daemon.upload_logs",
    "cleanup": "'tazpod-net down'",
}


def _extra_args(words: tuple[str, ...], _: Config) -> str:
    for word in words:
        if not word:
            return "has an empty word, with which tailscaled would not start: remove it"
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in _OUR_OPTIONS:
            return f"repeats --{name}: remove it and use {_OUR_OPTIONS[name]}"
    return ""


def _socket(path: str, _: Config) -> str:
    if len(path.encode()) > _LONGEST_SOCKET:
        return f"is longer than {_LONGEST_SOCKET} bytes, the most for a socket: name a shorter path"
    return ""


def _url(url: str, _: Config) -> str:
    if not url:
        return ""
    scheme, _slashes, rest = url.partition("://")
    host = rest.partition("/")[0]
    if scheme not in {"http", "https"} or not host or any(letter.isspace() for letter in url):
        return 'is not a URL: write "https://" and the name of the server'
    return ""


def _is_label(text: str) -> bool:
    """One part of a DNS name (util/dnsname/dnsname.go, ValidLabel)."""
    plain = text.isascii() and text.replace("-", "").isalnum()
    return plain and len(text) <= _LONGEST_LABEL and not text.startswith("-") and not text.endswith("-")


def _hostname(name: str, _: Config) -> str:
    if name and (len(name) > _LONGEST_NAME or not all(_is_label(part) for part in name.split("."))):
        return "is not a host name: write letters, digits and hyphens, 63 at most"
    return ""


def _tags(tags: tuple[str, ...], _: Config) -> str:
    """The control server's rule (tailcfg/tailcfg.go, CheckTag)."""
    for tag in tags:
        name = tag.removeprefix("tag:")
        plain = name.isascii() and name[:1].isalpha() and name.replace("-", "").isalnum()
        if name == tag or not plain:
            return f'has {shown("", tag)}: write "tag:", a letter, then letters, digits and hyphens'
    return ""


def _routes(routes: tuple[str, ...], _: Config) -> str:
    # 7 ms at the first call: only a subnet router pays for it.
    import ipaddress  # noqa: PLC0415

    for route in routes:
        try:
            ipaddress.ip_network(route)
        except ValueError as error:
            return f'has no network in {shown("", route)} ({error}): write "192.168.0.0/24" for example'
        if "/" not in route:
            return f"has no network in {shown('', route)}: write {shown('', route + _host_bits(route))}"
    return ""


def _host_bits(address: str) -> str:
    return "/128" if ":" in address else "/32"


def _split_address(address: str) -> tuple[str, int] | None:
    """Host and port of `host:port`, `[v6]:port` or `:port`; None if it is none of them."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= _HIGHEST_PORT:
        return None
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    return None if any(letter in ":[]/@" or letter.isspace() for letter in host) else (host, int(port))


def _is_loopback(host: str) -> bool:
    numbers = host.split(".")
    v4 = len(numbers) == 4 and all(part.isascii() and part.isdecimal() for part in numbers)  # noqa: PLR2004
    return host in {"localhost", "::1"} or (v4 and numbers[0] == "127")


def _proxy(address: str, config: Config) -> str:
    if not address:
        return ""
    parts = _split_address(address)
    if parts is None:
        return 'is not host:port: write "127.0.0.1:1055" for example'
    if not config.proxy.allow_remote and not _is_loopback(parts[0]):
        return (
            f'would be open to other machines, without a password: write "127.0.0.1:{parts[1]}", '
            "or set proxy.allow_remote = true"
        )
    return ""


def _listen(address: str, _: Config) -> str:
    return "" if not address or _split_address(address) else 'is not host:port: write "127.0.0.1:9002" for example'


def _drop(patterns: tuple[str, ...], _: Config) -> str:
    """They meet the log as bytes, where Python allows less than in text (no `(?u)` for example)."""
    for pattern in patterns:
        try:
            re.compile(pattern.encode())
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            return f"has {shown('', pattern)}, which is no regular expression ({error}): correct it"
    return ""


_CHECKS: dict[str, Check] = {
    "daemon.interface": _interface,
    "daemon.extra_args": _extra_args,
    "daemon.socket": _socket,
    "login.server": _url,
    "login.api_url": _url,
    "login.tags": _tags,
    "login.hostname": _hostname,
    "settings.advertise_routes": _routes,
    "proxy.socks5": _proxy,
    "proxy.http": _proxy,
    "http.listen": _listen,
    "http.health_listen": _listen,
    "log.drop": _drop,
}
