"""What one can wait for. Pure.

`live`, `ready` and `online` are questions that the status answers. The others name something out there and have to be
tried: `peer:NAME`, `tcp:HOST:PORT`, `name:FQDN`.
"""

import re

import msgspec

from tazpod_net.errors import UsageError

CONDITIONS = ("live", "ready", "online")
KINDS = ("peer", "tcp", "name")
FORMS = "live, ready, online, peer:NAME, tcp:HOST:PORT or name:FQDN"

# Compiled when they are used first, and kept by `re`: no start of the supervisor pays for them.
_NAME = r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
_IPV4 = r"\d{1,3}(\.\d{1,3}){3}"
_IPV6 = r"(?=.*:.*:)[0-9a-f:]+(\.\d+){0,3}"
_TAG = r"tag:[A-Za-z][A-Za-z0-9-]*"
_PORTS = range(1, 65536)


class Condition(msgspec.Struct, frozen=True):
    """`kind` is one of CONDITIONS or of KINDS; `what` is the name or address, `port` that of `tcp`."""

    kind: str
    what: str = ""
    port: int = 0

    @property
    def is_state(self) -> bool:
        """Whether the status answers it."""
        return self.kind in CONDITIONS

    def __str__(self) -> str:
        """As it is written."""
        if self.is_state:
            return self.kind
        if self.kind != "tcp":
            return f"{self.kind}:{self.what}"
        return f"tcp:[{self.what}]:{self.port}" if is_ipv6(self.what) else f"tcp:{self.what}:{self.port}"


def parse(text: str) -> Condition:
    """Reads one condition. Raises UsageError with what is wrong and what would be right."""
    if text in CONDITIONS:
        return Condition(text)
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        raise UsageError(f"{text!r} is not a condition", f"use {FORMS}")
    if kind == "tcp":
        return _tcp(text, rest)
    what = rest if kind == "peer" and rest.startswith("tag:") else rest.removesuffix(".").lower()
    if kind == "peer" and not (re.fullmatch(_TAG, what) or is_address(what) or re.fullmatch(_NAME, what)):
        raise UsageError(f"{text!r} names no peer", "write peer:NAME, peer:ADDRESS or peer:tag:NAME")
    if kind == "name" and (is_address(what) or not re.fullmatch(_NAME, what)):
        why = "is an address already" if is_address(what) else "is not a host name"
        raise UsageError(f"{text!r}: {rest!r} {why}", "write name:FQDN, such as name:vault.example.ts.net")
    return Condition(kind, what)


def _tcp(text: str, rest: str) -> Condition:
    host, colon, port = rest.rpartition(":")
    form = "write tcp:HOST:PORT, an IPv6 address as tcp:[ADDRESS]:PORT"
    if not colon or not port.isascii() or not port.isdigit() or int(port) not in _PORTS:
        raise UsageError(f"{text!r} has no port from 1 to 65535", form)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    what = bare.removesuffix(".").lower()
    if bracketed != is_ipv6(what) or not (is_address(what) or re.fullmatch(_NAME, what)):
        raise UsageError(f"{text!r}: {host!r} is neither a host name nor an address", form)
    return Condition("tcp", what, int(port))


def is_ipv6(text: str) -> bool:
    """Whether it looks like an IPv6 address; the kernel has the last word."""
    return re.fullmatch(_IPV6, text) is not None


def is_address(text: str) -> bool:
    """Whether it looks like an address and not like a name."""
    return re.fullmatch(_IPV4, text) is not None or is_ipv6(text)
