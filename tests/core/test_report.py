"""The status object: what is known becomes exactly the keys of the contract."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tazpod_net.core.argv import Wanted
from tazpod_net.core.backend import Backend, Prefs
from tazpod_net.core.login import Code, Said
from tazpod_net.core.model import Machine, State
from tazpod_net.core.report import Clock, build
from tazpod_net.core.status import LastEvent, LastExit, Note, ProxyPart, to_json
from tests.support.fakes import NOON, READY, known

# Contract, section 5: every key and the types of its values. `[x]` is a list of x, a set is one of its members.
TIME, STR, INT, BOOL, NULL = "time", str, int, bool, None
CONTRACT: dict[str, Any] = {
    "schema": INT,
    "checked_at": TIME,
    "live": BOOL,
    "ready": BOOL,
    "online": BOOL,
    "wanted": STR,
    "summary": STR,
    "notes": [{"code": STR, "text": STR, "next": (STR, NULL)}],
    "supervisor": {
        "pid": (INT, NULL),
        "start_ticks": (INT, NULL),
        "version": STR,
        "since": (TIME, NULL),
        "state": STR,
        "state_since": (TIME, NULL),
    },
    "last_event": ({"at": TIME, "what": STR, "why": STR}, NULL),
    "daemon": {
        "pid": (INT, NULL),
        "version": (STR, NULL),
        "binary_version": (STR, NULL),
        "since": (TIME, NULL),
        "adopted": BOOL,
        "mode": (STR, NULL),
        "mode_reason": (STR, NULL),
        "interface": (STR, NULL),
        "restarts": INT,
        "next_start": (TIME, NULL),
        "rss_bytes": (INT, NULL),
        "last_exit": (
            {"at": TIME, "code": (INT, NULL), "signal": (STR, NULL), "reason": STR, "log_tail": [STR]},
            NULL,
        ),
    },
    "backend": {
        "state": (STR, NULL),
        "login": (STR, NULL),
        "login_code": (STR, NULL),
        "login_next": (STR, NULL),
        "auth_url": (STR, NULL),
        "tailnet": (STR, NULL),
        "hostname": (STR, NULL),
        "requested_hostname": (STR, NULL),
        "dns_name": (STR, NULL),
        "ips": [STR],
        "tags": [STR],
        "key_expiry": (TIME, NULL),
        "relay": (STR, NULL),
        "health": [{"code": STR, "text": STR}],
        "peers": {"total": INT, "online": INT, "direct": INT, "relayed": INT},
    },
    "identity": {"kind": STR, "path": (STR, NULL), "store": (STR, NULL)},
    "proxy": {"socks5": (STR, NULL), "http": (STR, NULL)},
    "dns": {"resolver": (STR, NULL), "guarded": BOOL, "hosts_block": BOOL},
    "settings_drift": [{"setting": STR, "wanted": object, "actual": object}],
    "paths": {"home": STR, "socket": STR, "log": STR},
}


def mismatch(value: Any, shape: Any, where: str = "status") -> list[str]:
    """Where a JSON value does not have this shape: missing keys, surprising keys, wrong types."""
    if isinstance(shape, tuple):
        found = [mismatch(value, one, where) for one in shape]
        return [] if [] in found else found[0]
    if isinstance(shape, dict):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            return [f"{where}: {value!r} has not the keys {sorted(shape)}"]
        return [bad for key in shape for bad in mismatch(value[key], shape[key], f"{where}.{key}")]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [bad for n, one in enumerate(value) for bad in mismatch(one, shape[0], f"{where}[{n}]")]
    if shape is TIME:
        return [] if isinstance(value, str) and value.endswith("Z") and value[10] == "T" else [f"{where}: {value!r}"]
    fits = value is None if shape is None else isinstance(value, shape) and (shape is not int or value is not True)
    return [] if fits else [f"{where}: {value!r} is no {shape}"]


FULL = known(
    restarts=1,
    last_exit=LastExit("2026-11-23T11:02:07.125Z", None, "SIGKILL", "SIGKILL, likely out of memory", ["a", "b"]),
    last_event=LastEvent("2026-11-23T11:02:08.000Z", "starting -> up", "tailscaled answers"),
    notes=(Note("log", "the log cannot be written", "free some space"), Note("stale", "old")),
    proxy=ProxyPart("127.0.0.1:1055", "127.0.0.1:1055"),
    requested_hostname="tazpod",
    backend=msgspec.structs.replace(READY, prefs=Prefs(run_ssh=True), health=(("no-udp4-bind", "No UDP"),)),
    settings=Wanted(ssh=False, advertise_routes=("10.0.0.0/8",)),
)
KNOWN = {
    "ready": FULL,
    "down": known(machine=Machine(), live=False, backend=Backend()),
    "starting": known(machine=Machine(state=State.STARTING, want_up=True, pid=1, deadline=1.0), live=False),
    "backoff": known(
        machine=Machine(state=State.BACKOFF, want_up=True, deadline=20_001.5, reason="x", died=True, failures=1)
    ),
    "fatal": known(machine=Machine(state=State.FATAL, want_up=True, reason="x", failures=1)),
    "stopping": known(machine=Machine(state=State.STOPPING, pid=1, deadline=1.0)),
    "waiting": known(backend=Backend(state="NeedsLogin"), said=Said(Code.NO_CREDENTIALS, "w", "n"), looked="l"),
}


@pytest.mark.parametrize(
    ("wanted", "is_drift"),
    [("https://other.example", True), ("https://here.example/", False), ("https://here.example", False), (None, False)],
)
def test_a_login_at_another_control_server_is_said(wanted: str | None, is_drift: bool) -> None:
    """The saved login is not where login.server says: nothing but a login changes that, so it is told."""
    prefs = Prefs(control_url="https://here.example")
    status = build(known(server=wanted, settings=Wanted(), backend=msgspec.structs.replace(READY, prefs=prefs)))
    drift = [(d.setting, d.wanted, d.actual) for d in status.settings_drift]
    assert drift == ([("login.server", wanted, "https://here.example")] if is_drift else [])
    assert ("other-server" in [note.code for note in status.notes]) is is_drift


@pytest.mark.parametrize("name", KNOWN)
def test_every_key_is_there_and_no_other(name: str) -> None:
    """In each state the object has the contract's keys, all of them and only them, with the contract's types."""
    assert mismatch(json.loads(to_json(build(KNOWN[name]))), CONTRACT) == []


Spoil = Callable[[dict[str, Any]], object]


def test_the_shape_test_sees_what_is_wrong() -> None:
    """A missing key, a surprise and a wrong type are each found: else the test above proves nothing."""
    good = json.loads(to_json(build(FULL)))
    spoils: list[Spoil] = [
        lambda o: o.pop("dns"),
        lambda o: o["daemon"].update(colour="red"),
        lambda o: o["daemon"].update(restarts=True),
        lambda o: o["backend"].update(ips=None),
        lambda o: o.update(checked_at="today"),
        lambda o: o["notes"][0].pop("next"),
    ]
    for spoil in spoils:
        bad = json.loads(json.dumps(good))
        spoil(bad)
        assert mismatch(bad, CONTRACT) != []


def test_values_of_a_ready_node() -> None:
    """What is known is in its place: times from both clocks, versions, drift, health."""
    status = build(FULL)
    assert (status.schema, status.live, status.ready, status.online) == (1, True, True, True)
    assert status.checked_at == "2026-11-23T12:00:00.000Z"
    assert status.supervisor.since == "2026-11-23T06:28:20.000Z"
    assert (status.daemon.version, status.daemon.binary_version) == ("1.102.5-t1a2b3c", "1.102.5")
    assert [(d.setting, d.wanted, d.actual) for d in status.settings_drift] == [
        ("ssh", False, True),
        ("advertise_routes", ["10.0.0.0/8"], []),
    ]
    assert [(h.code, h.text) for h in status.backend.health] == [("no-udp4-bind", "No UDP")]
    assert (status.backend.login_code, status.backend.login, status.backend.login_next) == ("ok", "ok", None)


def test_online_needs_ready_needs_live() -> None:
    """The three answers about health never contradict each other."""
    for live in (True, False):
        for ips in (READY.ips, ()):
            for online in (True, False):
                status = build(known(live=live, backend=msgspec.structs.replace(READY, ips=ips, online=online)))
                assert (status.live, status.ready, status.online) == (
                    live,
                    live and bool(ips),
                    live and bool(ips) and online,
                )


@pytest.mark.parametrize("state", [State.DOWN, State.STOPPING, State.BACKOFF, State.FATAL])
def test_a_daemon_that_is_ending_is_not_live(state: State) -> None:
    """Whatever the session still believes: a daemon that was told to end, or has ended, is not live."""
    machine = Machine(state=state, want_up=True, reason="x", deadline=1.0)
    status = build(known(machine=machine))
    assert (status.live, status.ready, status.online, status.backend.state) == (False, False, False, None)


def test_nothing_is_said_of_a_daemon_that_is_not_there() -> None:
    """Without a process there is no version, age, memory, interface or proxy; the last mode and exit stay."""
    daemon = build(
        known(machine=Machine(), live=False, proxy=ProxyPart("a", "b"), adopted=True, last_exit=FULL.last_exit)
    )
    assert msgspec.to_builtins(daemon.daemon) | {"last_exit": None} == {
        "pid": None,
        "version": None,
        "binary_version": "1.102.5",
        "since": None,
        "adopted": False,
        "mode": "tun",
        "mode_reason": "TUN works",
        "interface": None,
        "restarts": 0,
        "next_start": None,
        "rss_bytes": None,
        "last_exit": None,
    }
    assert daemon.daemon.last_exit == FULL.last_exit
    assert daemon.proxy == ProxyPart()


def test_the_next_start_is_a_time() -> None:
    """Backoff says when, on the wall clock."""
    assert build(KNOWN["backoff"]).daemon.next_start == "2026-11-23T12:00:01.500Z"
    assert build(KNOWN["ready"]).daemon.next_start is None


def test_where_was_looked_is_told_only_to_those_who_wait_for_it() -> None:
    """The note `looked` comes with `no-credentials` and with nothing else."""
    assert [(n.code, n.text) for n in build(KNOWN["waiting"]).notes] == [("looked", "l")]
    assert build(known(looked="l")).notes == []


def test_a_start_that_could_not_happen_has_nothing_of_an_older_exit() -> None:
    """The reason of an exit of long ago is not the reason why the binary is missing now."""
    machine = Machine(state=State.BACKOFF, want_up=True, deadline=1.0, failures=1, reason="no memory", fix="free some")
    status = build(known(machine=machine, last_exit_because="old", last_exit_next="older"))
    assert [msgspec.to_builtins(n) for n in status.notes] == [
        {"code": "backoff", "text": "no memory", "next": "free some; now: tazpod-net restart"}
    ]


def test_fatal_keeps_why_and_what_to_do() -> None:
    """An exit that time does not cure: its sentence, and the step from the log's cause."""
    machine = Machine(state=State.FATAL, want_up=True, failures=1, died=True, reason="code 2: bad option")
    status = build(known(machine=machine, last_exit_because="bad option (-nope)", last_exit_next="correct it"))
    assert [(n.code, n.next) for n in status.notes] == [("because", None), ("fatal", "correct it")]


def test_fatal_without_a_known_step() -> None:
    """Where nobody knows better, `up` is the next step."""
    assert build(KNOWN["fatal"]).notes[-1].next == "tazpod-net up"


def test_an_unknown_time_is_null() -> None:
    """A monotonic time that is not known is shown as null."""
    assert Clock(0.0, NOON).show(None) is None
