"""What the machines of the tailnet are called: names and addresses, from the daemon's snapshot. Pure.

A short name is only what MagicDNS would answer to: the first label of a node of this very tailnet. A node that another
tailnet shares in has its full name alone, because the same short one may be a node of ours.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

TAG = "tag:"


class Seen(Protocol):
    """A peer as the daemon shows it: `core.backend.Peer`."""

    @property
    def host_name(self) -> str:
        """What it asked to be called."""

    @property
    def dns_name(self) -> str:
        """Its full name, with a dot at the end; empty before control has given one."""

    @property
    def ips(self) -> list[str] | None:
        """Its addresses, IPv4 first."""

    @property
    def online(self) -> bool:
        """Whether control says so."""

    @property
    def tags(self) -> list[str] | None:
        """`tag:…`."""


class Machine(msgspec.Struct, frozen=True):
    """One machine, names in lower case and without the last dot; an empty name is none."""

    short: str
    full: str
    ips: tuple[str, ...] = ()
    online: bool = False
    tags: tuple[str, ...] = ()
    own: bool = False  # this node itself

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.short or self.full or next(iter(self.ips), "?")


def machines(me: Seen | None, peers: Iterable[Seen], suffix: str) -> tuple[Machine, ...]:
    """This node first, then its peers by name. `suffix`: the tailnet's domain, such as `example.ts.net`."""
    own = [] if me is None or not (me.dns_name and me.ips) else [_machine(me, suffix, own=True)]
    others = sorted((_machine(peer, suffix) for peer in peers), key=lambda m: (m.full or m.short, m.ips))
    return (*own, *others)


def _machine(seen: Seen, suffix: str, *, own: bool = False) -> Machine:
    full = seen.dns_name.rstrip(".").lower()
    return Machine(
        short=_short(full, seen.host_name, suffix.rstrip(".").lower()),
        full=full,
        ips=tuple(seen.ips or ()),
        online=seen.online,
        tags=tuple(seen.tags or ()),
        own=own,
    )


def _short(full: str, host_name: str, suffix: str) -> str:
    if not full:
        return host_name.lower()
    label, dot, rest = full.partition(".")
    return label if not dot or rest == suffix else ""


def find(known: Iterable[Machine], what: str) -> list[Machine]:
    """Those that `what` means: a short or full name, an address, or every one with a `tag:…`."""
    if what.startswith(TAG):
        return [machine for machine in known if what in machine.tags]
    wanted = what.rstrip(".").lower()
    return [machine for machine in known if wanted and wanted in {machine.short, machine.full, *machine.ips}]


def listing(known: Iterable[Machine]) -> str:
    """For completions: a line for each peer with its name, and its full name if that is another one."""
    lines = [f"{m.label} {m.full}" if m.full not in {"", m.label} else m.label for m in known if not m.own]
    return "".join(f"{line}\n" for line in lines if line.isprintable() and len(line.split()) <= 2)  # noqa: PLR2004
