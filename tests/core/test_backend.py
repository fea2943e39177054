"""What the backend says, folded from the bus and from snapshots."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.backend import (
    STATES,
    Backend,
    Notify,
    PeerCounts,
    Prefs,
    Snapshot,
    fold_notify,
    fold_snapshot,
)

LINE = b"""{"Version": "1.102.5-t1a2b3c", "SessionID": "x", "ErrMessage": null, "LoginFinished": null, "State": 2,
"Prefs": {"ControlURL": "http://c", "RouteAll": true, "WantRunning": true, "AdvertiseRoutes": null, "Config": null},
"NetMap": null, "Engine": null, "BrowseToURL": null,
"Health": {"Warnings": {"b": {"WarnableCode": "b", "Severity": "low", "Title": "B", "Text": "", "BrokenSince": null},
"a": {"Text": "A said", "Title": "A"}}}}"""

SNAPSHOT = b"""{"Version": "1.102.5", "TUN": true, "BackendState": "Running", "HaveNodeKey": true, "AuthURL": "",
"TailscaleIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
"Self": {"ID": "n1", "HostName": "Laptop", "DNSName": "laptop-1.example.ts.net.", "Online": true, "Relay": "fra",
  "KeyExpiry": "2027-03-02T12:30:00Z", "Tags": ["tag:tazpod"], "CapMap": {"x": null}},
"Health": null, "MagicDNSSuffix": "example.ts.net",
"CurrentTailnet": {"Name": "me@example.com", "MagicDNSSuffix": "example.ts.net", "MagicDNSEnabled": true},
"Peer": {
  "nodekey:a": {"ID": "a", "DNSName": "a.example.ts.net.", "TailscaleIPs": ["100.64.0.2"], "Online": true,
    "Active": true, "CurAddr": "192.0.2.1:41641", "Relay": "fra"},
  "nodekey:b": {"ID": "b", "DNSName": "b.example.ts.net.", "Online": true, "Active": true, "CurAddr": "",
    "Relay": "nyc"},
  "nodekey:c": {"ID": "c", "DNSName": "c.example.ts.net.", "Online": true, "Active": false, "Relay": "nyc"},
  "nodekey:d": {"ID": "d", "DNSName": "Exit.example.ts.net.", "TailscaleIPs": ["100.64.0.9"], "Online": false,
    "CurAddr": "192.0.2.2:1", "ExitNodeOption": true}},
"User": {"1": {}}}"""


def notify(line: bytes) -> Notify:
    """One line of the bus, as it is read."""
    return msgspec.json.decode(line, type=Notify)


def snapshot(data: bytes = SNAPSHOT) -> Snapshot:
    """One answer of `status`, as it is read."""
    return msgspec.json.decode(data, type=Snapshot)


def test_a_line_of_the_bus() -> None:
    """State by its number, prefs, version, and warnings sorted by code, with the title where there is no text."""
    backend = fold_notify(Backend(), notify(LINE))
    assert (backend.state, backend.version) == ("NeedsLogin", "1.102.5-t1a2b3c")
    assert backend.prefs == Prefs(want_running=True, control_url="http://c", route_all=True)
    assert backend.health == (("a", "A said"), ("b", "B"))


def test_what_is_absent_or_null_says_nothing() -> None:
    """A line with one news changes that and nothing else."""
    before = fold_snapshot(fold_notify(Backend(), notify(LINE)), snapshot())
    for line in (b"{}", b'{"State": null, "Prefs": null, "Health": null, "BrowseToURL": null, "Version": ""}'):
        assert fold_notify(before, notify(line)) == before


@pytest.mark.parametrize("warnings", [b'{"Warnings": null}', b'{"Warnings": {}}', b"{}"])
def test_all_warnings_are_over(warnings: bytes) -> None:
    """No warnings, in any spelling, end those that there were."""
    before = fold_notify(Backend(), notify(LINE))
    assert fold_notify(before, notify(b'{"Health": ' + warnings + b"}")).health == ()


@pytest.mark.parametrize(("number", "state"), list(enumerate(STATES)))
def test_states_by_number(number: int, state: str) -> None:
    """The bus counts states; their order is tailscaled's (`ipn/backend.go:27`)."""
    assert fold_notify(Backend(), Notify(state=number)).state == state


@pytest.mark.parametrize("number", [-1, 7, 10**9])
def test_a_state_of_a_later_version_says_nothing(number: int) -> None:
    """A number without a name leaves the last state."""
    assert fold_notify(Backend(state="Running"), Notify(state=number)).state == "Running"


@pytest.mark.parametrize("state", [None, "NoState", "NeedsLogin", "Starting", "Running"])
def test_the_url_lives_until_the_backend_goes_on(state: str | None) -> None:
    """Also while it runs from its cached network map; other news do not end it."""
    backend = Backend(state=state, auth_url="https://c/a/1")
    assert fold_notify(backend, Notify(version="1.0")).auth_url == "https://c/a/1"


@pytest.mark.parametrize(
    ("changes", "disowned"),
    [({}, True), ({"online": True}, False), ({"auth_url": None}, False), ({"state": "Starting"}, False)],
)
def test_a_node_that_control_asks_to_log_in_is_disowned(changes: dict[str, object], disowned: bool) -> None:
    """It has an address from its cache, and no tailnet."""
    bare = Backend(state="Running", ips=("100.64.0.1",), auth_url="https://c/a/1")
    assert msgspec.structs.replace(bare, **changes).disowned is disowned


def test_the_url_goes_with_the_change_of_state() -> None:
    """The line that says `Running` ends the URL of an earlier line."""
    waiting = Backend(state="NeedsLogin", auth_url="https://c/a/1")
    assert fold_notify(waiting, Notify(state=6)).auth_url is None


def test_a_snapshot() -> None:
    """Names, addresses, tags, expiry and peers; the granted name, not the one that was asked for."""
    backend = fold_snapshot(Backend(health=(("a", "b"),), prefs=Prefs()), snapshot())
    assert (backend.state, backend.have_node_key, backend.online, backend.ready) == ("Running", True, True, True)
    assert (backend.hostname, backend.dns_name) == ("laptop-1", "laptop-1.example.ts.net")
    assert (backend.tailnet, backend.relay, backend.tags) == ("example.ts.net", "fra", ("tag:tazpod",))
    assert (backend.key_expiry, backend.key_ends) == ("2027-03-02T12:30:00Z", 1_803_990_600.0)
    assert (backend.auth_url, backend.version) == (None, "1.102.5")
    assert (backend.health, backend.prefs) == ((("a", "b"),), Prefs())


def test_peers_are_counted_by_the_way_that_traffic_takes() -> None:
    """Direct: an address; relayed: active through a relay; idle or offline: neither."""
    assert fold_snapshot(Backend(), snapshot()).peers == PeerCounts(total=4, online=3, direct=1, relayed=1)


def test_exit_nodes_are_known_by_all_their_names() -> None:
    """Peers that offer themselves, by full name and first label, in lower case; all peers by address."""
    assert fold_snapshot(Backend(), snapshot()).exit_nodes == {
        "100.64.0.2": "a",
        "100.64.0.9": "d",
        "exit.example.ts.net": "d",
        "exit": "d",
    }


def test_an_exit_node_without_a_name_has_none() -> None:
    """An empty name would stand for "no exit node"."""
    data = b'{"Peer": {"nodekey:d": {"ID": "d", "ExitNodeOption": true, "TailscaleIPs": ["100.64.0.9"]}}}'
    assert fold_snapshot(Backend(), snapshot(data)).exit_nodes == {"100.64.0.9": "d"}


EMPTY = (b"{}", b'{"Self": null, "Peer": null, "TailscaleIPs": null, "CurrentTailnet": null, "Health": null}')


@pytest.mark.parametrize("data", EMPTY)
def test_an_empty_snapshot(data: bytes) -> None:
    """Before there is a netmap nothing is known; the version of the bus stays."""
    backend = fold_snapshot(Backend(version="1.102.5", ips=("100.64.0.1",)), snapshot(data))
    assert backend == Backend(state="NoState", version="1.102.5")
    assert not backend.ready


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"MagicDNSSuffix": "old.ts.net"}', "old.ts.net"),
        (b'{"CurrentTailnet": {"Name": "me@example.com", "MagicDNSSuffix": ""}}', "me@example.com"),
        (b'{"CurrentTailnet": {"Name": "", "MagicDNSSuffix": ""}}', None),
    ],
)
def test_name_of_the_tailnet(data: bytes, name: str | None) -> None:
    """Its DNS suffix; its name where MagicDNS is off."""
    assert fold_snapshot(Backend(), snapshot(data)).tailnet == name


def test_host_without_a_dns_name() -> None:
    """Before the name is granted the host's own is all there is."""
    assert fold_snapshot(Backend(), snapshot(b'{"Self": {"HostName": "box"}}')).hostname == "box"


@pytest.mark.parametrize(
    ("state", "ips", "ready"),
    [("Running", ("100.64.0.1",), True), ("Running", (), False), ("Starting", ("100.64.0.1",), False)],
)
def test_ready(state: str, ips: tuple[str, ...], ready: bool) -> None:
    """`Running` with an address, and nothing less."""
    assert Backend(state=state, ips=ips).ready is ready


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = ["Version", "State", "ErrMessage", "BrowseToURL", "Prefs", "Health", "Self", "Peer", "BackendState", "New"]


@given(st.dictionaries(st.sampled_from(KEYS), json_values))
def test_other_versions_are_read_or_refused(value: dict[str, object]) -> None:
    """Objects of other versions are folded, or refused with the one error that the session expects."""
    data = msgspec.json.encode(value)
    with contextlib.suppress(msgspec.DecodeError):
        assert isinstance(fold_notify(Backend(), notify(data)), Backend)
    with contextlib.suppress(msgspec.DecodeError):
        assert isinstance(fold_snapshot(Backend(), snapshot(data)), Backend)
