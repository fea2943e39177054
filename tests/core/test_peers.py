"""What the machines of the tailnet are called."""

import pytest

from tazpod_net.core.backend import Peer
from tazpod_net.core.peers import Machine, find, listing, machines

ME = Peer(dns_name="Laptop.example.ts.net.", ips=["100.64.0.1"], online=True)
VAULT = Peer(dns_name="vault.example.ts.net.", ips=["100.64.0.2", "fd7a:115c:a1e0::2"], tags=["tag:server"])
BUILD = Peer(dns_name="build.example.ts.net.", ips=["100.64.0.3"], online=True, tags=["tag:server", "tag:ci"])
SHARED = Peer(dns_name="vault.other.ts.net.", ips=["100.64.0.9"], online=True)
KNOWN = machines(ME, [VAULT, BUILD, SHARED], "example.ts.net")


def test_this_node_comes_first_and_the_others_by_name() -> None:
    """Names in lower case, without the last dot."""
    assert [(m.short, m.full, m.own) for m in KNOWN] == [
        ("laptop", "laptop.example.ts.net", True),
        ("build", "build.example.ts.net", False),
        ("vault", "vault.example.ts.net", False),
        ("", "vault.other.ts.net", False),
    ]


@pytest.mark.parametrize(
    ("what", "addresses"),
    [
        ("vault", ["100.64.0.2"]),
        ("VAULT.example.ts.net.", ["100.64.0.2"]),
        ("fd7a:115c:a1e0::2", ["100.64.0.2"]),
        ("vault.other.ts.net", ["100.64.0.9"]),
        ("tag:server", ["100.64.0.3", "100.64.0.2"]),
        ("tag:none", []),
        ("laptop", ["100.64.0.1"]),
        ("", []),
        (".", []),
        ("other", []),
    ],
)
def test_what_a_name_means(what: str, addresses: list[str]) -> None:
    """Short and full names, addresses and tags; a node of another tailnet has no short name."""
    assert [machine.ips[0] for machine in find(KNOWN, what)] == addresses


def test_without_magic_dns_the_requested_name_serves() -> None:
    """A peer without a DNS name is called what it asked to be called."""
    (only,) = machines(None, [Peer(host_name="NAS", ips=["100.64.0.4"])], "")
    assert only == Machine(short="nas", full="", ips=("100.64.0.4",))
    assert find([only], "nas") == [only]


def test_a_node_without_a_tailnet_has_no_name() -> None:
    """Logged out, this node itself is none of the machines."""
    assert machines(Peer(host_name="x"), [], "") == ()


def test_the_listing_for_completions() -> None:
    """Peers only; a name that would be two words is left out."""
    odd = machines(None, [Peer(host_name="my nas x", ips=["100.64.0.4"]), Peer(host_name="a\nb")], "")
    assert listing([*KNOWN, *odd]) == ("build build.example.ts.net\nvault vault.example.ts.net\nvault.other.ts.net\n")
