"""Golden renderings of `status`: the contract's own examples, and every state that can be shown."""

import msgspec
import pytest

from tazpod_net.core.backend import Backend, PeerCounts
from tazpod_net.core.login import REJECTED, Code, Said
from tazpod_net.core.model import Machine, State
from tazpod_net.core.render import clock, short, span, summary, text
from tazpod_net.core.report import Known, build
from tazpod_net.core.status import (
    BackendPart,
    DaemonPart,
    Drift,
    HealthNote,
    IdentityPart,
    LastExit,
    Note,
    PathsPart,
    ProxyPart,
    Status,
    SupervisorPart,
)
from tests.support.fakes import NOON, READY, known


def rendered(what: Known | Status, *, east_h: float = 0.0) -> str:
    """The text of a status at noon UTC, in a time zone so many hours east."""
    status = build(what) if isinstance(what, Known) else what
    return text(status, now=NOON, offset_at=lambda _: int(east_h * 3600))


def last_exit(at: str = "2026-11-23T11:02:07.125Z", reason: str = "SIGKILL, likely out of memory") -> LastExit:
    """An end of the daemon, an hour before noon."""
    return LastExit(at=at, code=None, signal="SIGKILL", reason=reason, log_tail=[])


# --- the contract's examples ------------------------------------------------------------------------------------------


def test_ready_by_tun() -> None:
    """Contract, section 5, first example, letter by letter."""
    shown = rendered(known(restarts=1, last_exit=last_exit(at="2026-11-23T11:02:07.125Z")), east_h=3)
    assert shown == (
        "ready: on example.ts.net as tazpod (100.64.0.1) by TUN, for 3 h 12 min\n"
        "  daemon    tailscaled 1.102.5, pid 412, tailscale0; 1 restart: SIGKILL, likely out of memory, 14:02 "
        "(logs --previous)\n"
        "  login     ok, tag:tazpod, node key ends 2027-03-02 (99 days)\n"
        "  identity  kept in /workspace/.tazpod/net (bind mount)\n"
        "  peers     7 of 12 online: 5 direct, 2 relayed (fra)\n"
        "  dns       100.100.100.100, guarded\n"
    )


def test_ready_in_userspace_mode() -> None:
    """Second example: why not TUN, and how to use it; `run` and `env` are not named before they exist."""
    shown = rendered(
        known(
            ready_since=20_000.0 - 250,
            mode="userspace",
            mode_reason="/dev/net/tun may not be opened (device cgroup): start the container with --device "
            "/dev/net/tun",
            proxy=ProxyPart("127.0.0.1:1055", "127.0.0.1:1055"),
        )
    )
    lines = shown.splitlines()
    assert lines[0] == "ready: on example.ts.net as tazpod (100.64.0.1), userspace (proxy only), for 4 min"
    assert (
        lines[1]
        == "  why       /dev/net/tun may not be opened (device cgroup): start the container with --device /dev/net/tun"
    )
    assert lines[2] == "  daemon    tailscaled 1.102.5, pid 412"
    assert '  use       tazpod-net run -- CMD, or eval "$(tazpod-net env)"; SOCKS5 and HTTP on 127.0.0.1:1055' in lines


def test_waiting_for_credentials() -> None:
    """Third example, letter by letter."""
    logged_out = Backend(
        state="NeedsLogin", health=(("login-state", "You are logged out."), ("warming-up", "Please wait"))
    )
    looked = "TS_AUTHKEY: not set · ~/secrets/tailscale-oauth-client-id: missing · ~/secrets/tailscale-api-key: missing"
    said = Said(
        Code.NO_CREDENTIALS,
        "waiting for credentials",
        "tazpod unlock (login follows by itself), or: tazpod-net login",
    )
    assert rendered(known(backend=logged_out, said=said, looked=looked, ready_since=None)) == (
        "waiting for credentials: tailscaled runs, this container is not logged in\n"
        f"  looked    {looked}\n"
        "  next      tazpod unlock (login follows by itself), or: tazpod-net login\n"
    )


def test_backing_off() -> None:
    """Fourth example, letter by letter."""
    machine = Machine(
        state=State.BACKOFF,
        want_up=True,
        failures=5,
        died=True,
        deadline=20_014.0,
        reason="code 1 after 0.4 s: another program holds tailscale0",
    )
    shown = rendered(
        known(
            machine=machine,
            live=False,
            last_exit=last_exit(reason=machine.reason),
            last_exit_because="another program holds tailscale0 (device or resource busy)",
            last_exit_next='set daemon.mode = "userspace" or stop the other one',
        )
    )
    assert shown == (
        "backing off: tailscaled exited 5 times (code 1 after 0.4 s), next start in 14 s\n"
        "  because   another program holds tailscale0 (device or resource busy)\n"
        '  next      set daemon.mode = "userspace" or stop the other one; now: tazpod-net restart; '
        "log: tazpod-net logs --previous\n"
    )


def test_stopped_by_a_person() -> None:
    """Fifth example, letter by letter: the note is there for programs, a person only needs the next step."""
    status = Status(
        checked_at="2026-11-23T12:00:00.000Z",
        wanted="stopped",
        summary="not running: stopped by 'tazpod-net down' at 14:02, new shells leave it so",
        notes=[Note("start", "nothing runs for this home", "tazpod-net up")],
    )
    assert rendered(status) == (
        "not running: stopped by 'tazpod-net down' at 14:02, new shells leave it so\n  next      tazpod-net up\n"
    )


# --- other states -----------------------------------------------------------------------------------------------------


def first_line(**changes: object) -> str:
    """The summary of a state."""
    return build(known(**changes)).summary


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"backend": msgspec.structs.replace(READY, online=False), "ready_since": 19_996.0},
            (
                "offline: on example.ts.net as tazpod (100.64.0.1) by TUN, for 4.0 s; "
                "the control server does not see this node"
            ),
        ),
        (
            {"backend": msgspec.structs.replace(READY, tailnet=None), "ready_since": None},
            "ready: as tazpod (100.64.0.1) by TUN",
        ),
        ({"live": False}, "not answering: tailscaled (pid 412) does not answer"),
        (
            {"live": False, "not_live_because": "is stopped (SIGSTOP)"},
            "not answering: tailscaled (pid 412) is stopped (SIGSTOP)",
        ),
        (
            {"machine": Machine(state=State.STARTING, want_up=True, pid=412, deadline=1.0), "live": False},
            "starting: tailscaled (pid 412), waiting for its answer",
        ),
        (
            {"machine": Machine(state=State.STARTING, want_up=True, deadline=1.0), "live": False},
            "starting: tailscaled, waiting for its answer",
        ),
        (
            {"machine": Machine(state=State.STOPPING, pid=412, deadline=1.0)},
            "stopping: tailscaled (pid 412) was told to end",
        ),
        ({"machine": Machine(state=State.STOPPING, deadline=1.0)}, "stopping: tailscaled was told to end"),
        ({"machine": Machine()}, "not running"),
        (
            {
                "machine": Machine(
                    state=State.BACKOFF, want_up=True, failures=1, died=True, deadline=20_000.4, reason="SIGSEGV"
                )
            },
            "backing off: tailscaled exited once (SIGSEGV), next start in 0.4 s",
        ),
        (
            {
                "machine": Machine(
                    state=State.BACKOFF, want_up=True, failures=1, died=True, reason="LocalAPI never answered"
                )
            },
            "backing off: tailscaled exited once (LocalAPI never answered)",
        ),
        (
            {"machine": Machine(state=State.BACKOFF, want_up=True, failures=2, deadline=19_999.0, reason="no memory")},
            "backing off: no memory, next start in 0.0 s",
        ),
        (
            {"machine": Machine(state=State.FATAL, want_up=True, failures=1, reason="tailscaled is not on PATH")},
            "fatal: tailscaled is not on PATH",
        ),
        (
            {
                "machine": Machine(
                    state=State.FATAL, want_up=True, failures=1, died=True, reason="code 2: it knows no -nope"
                )
            },
            "fatal: tailscaled exited (code 2): it knows no -nope",
        ),
        (
            {"machine": Machine(state=State.FATAL, want_up=True, failures=1, died=True, reason="code 2")},
            "fatal: tailscaled exited (code 2)",
        ),
        (
            {
                "machine": Machine(
                    state=State.FATAL, want_up=True, died=True, reason="gave up after 3 failures in a row: code 1"
                )
            },
            "fatal: gave up after 3 failures in a row: code 1",
        ),
    ],
)
def test_first_lines(changes: dict[str, object], line: str) -> None:
    """Each state has a first line that says what is the matter."""
    assert first_line(**changes) == line


@pytest.mark.parametrize(
    ("state", "said", "line"),
    [
        (
            "NeedsLogin",
            Said(Code.NO_CREDENTIALS, "waiting for credentials"),
            "waiting for credentials: tailscaled runs, this container is not logged in",
        ),
        (
            "NeedsLogin",
            Said(Code.LOGGING_IN, "logging in"),
            "logging in: tailscaled runs, waiting for the control server",
        ),
        (
            "NeedsLogin",
            Said(Code.LOGGING_IN, "logging in; the control server has not answered yet"),
            "logging in: tailscaled runs, the control server has not answered yet",
        ),
        (
            "Starting",
            Said(Code.LOGGING_IN, "connecting to the tailnet"),
            "logging in: tailscaled runs, connecting to the tailnet",
        ),
        (
            "NeedsLogin",
            Said(Code.KEY_EXPIRED, "key rejected: the auth key is expired (invalid key)"),
            "key rejected: the auth key is expired (invalid key)",
        ),
        (
            "NeedsMachineAuth",
            Said(Code.NEEDS_APPROVAL, "waiting for approval of this machine"),
            "waiting for approval of this machine: tailscaled runs",
        ),
        ("NoState", Said(None, None), "starting: tailscaled runs, its backend is NoState"),
        (None, Said(None, None), "starting: tailscaled runs, its backend is not decided"),
    ],
)
def test_first_lines_before_it_is_ready(state: str | None, said: Said, line: str) -> None:
    """What the login waits for is the first line."""
    assert first_line(backend=Backend(state=state), said=said, ready_since=None) == line


def test_a_login_that_waits_names_what_the_daemon_finds_wrong() -> None:
    """tailscaled knows what is the matter with the way to control: the first line says it in plain words."""
    error = 'fetch control key: Get "https://c/key?v=145": dial tcp: lookup c on 127.0.0.11:53: no such host'
    health = (("login-state", f"You are logged out. The last login error was: {error}"),)
    backend = Backend(state="NeedsLogin", health=health)
    line = first_line(backend=backend, said=Said(Code.LOGGING_IN, "logging in"), ready_since=None)
    assert line == "logging in: tailscaled runs, control server's name does not resolve"
    saved = msgspec.structs.replace(backend, state="NoState")  # a good state, and no control server to start with
    line = first_line(backend=saved, said=Said(None, None), ready_since=None)
    assert line == "starting: tailscaled runs, control server's name does not resolve"


def test_an_adopted_daemon_is_called_so() -> None:
    """`status` says `adopted`, also before the node is ready."""
    ready = rendered(known(adopted=True))
    waiting = rendered(
        known(adopted=True, backend=Backend(state="NeedsLogin"), said=Said(Code.LOGGING_IN, "logging in"))
    )
    line = "  daemon    tailscaled 1.102.5, pid 412, tailscale0, adopted from an earlier supervisor\n"
    assert line in ready
    assert line in waiting


def test_an_end_without_a_restart() -> None:
    """How the last run ended is told also when a person started the next one."""
    shown = rendered(known(last_exit=last_exit(at="2026-11-20T08:30:00Z"), daemon_version=None))
    assert "tailscale0; last exit: SIGKILL, likely out of memory, 2026-11-20 08:30 (logs --previous)\n" in shown
    assert "; 2 restarts\n" in rendered(known(restarts=2))


def test_unknown_version() -> None:
    """A daemon whose version nobody knows yet is not called 1.0."""
    shown = rendered(known(daemon_version=None, backend=msgspec.structs.replace(READY, version=None)))
    assert "tailscaled (version unknown), pid 412" in shown


@pytest.mark.parametrize(
    ("expiry", "said"),
    [
        ("2026-11-24T12:00:01Z", "node key ends 2026-11-24 (1 day)"),
        ("2026-11-24T11:59:59Z", "node key ends 2026-11-24 (0 days)"),
        ("2026-11-22T12:00:00Z", "node key ends 2026-11-22 (over)"),
        ("2027-03-02T12:30:00.123456789Z", "node key ends 2027-03-02 (99 days)"),
        ("whenever it likes", "node key ends whenever i"),
    ],
)
def test_days_of_the_node_key(expiry: str, said: str) -> None:
    """Whole days are left, or none any more."""
    assert f"tag:tazpod, {said}\n" in rendered(known(backend=msgspec.structs.replace(READY, key_expiry=expiry)))


@pytest.mark.parametrize(
    ("identity", "line"),
    [
        (IdentityPart("persist", "/srv/ts", None), "kept in /srv/ts"),
        (IdentityPart("persist", "/srv/ts", "tmpfs"), "kept in /srv/ts (tmpfs)"),
        (IdentityPart("ephemeral", "/h/state", "container layer"), "ephemeral, in /h (container layer)"),
    ],
)
def test_identity(identity: IdentityPart, line: str) -> None:
    """Where the identity lies, and on what; the home's own state directory is called by the home."""
    assert f"  identity  {line}\n" in rendered(known(identity=identity, paths=PathsPart("/h", "", "")))


def test_what_has_nothing_to_say_has_no_line() -> None:
    """Without peers, proxies, resolver and identity there is no line for them."""
    bare = msgspec.structs.replace(READY, peers=PeerCounts(), tags=(), key_expiry=None)
    status = build(known(backend=bare, identity=IdentityPart(), dns=build(known()).dns.__class__()))
    assert rendered(status).splitlines()[1:] == [
        "  daemon    tailscaled 1.102.5, pid 412, tailscale0",
        "  login     ok",
    ]


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (PeerCounts(3, 0, 0, 0), "0 of 3 online"),
        (PeerCounts(3, 2, 0, 0), "2 of 3 online"),
        (PeerCounts(3, 2, 1, 0), "2 of 3 online: 1 direct"),
        (PeerCounts(3, 2, 0, 1), "2 of 3 online: 1 relayed (fra)"),
    ],
)
def test_peers(counts: PeerCounts, line: str) -> None:
    """Paths are counted where there are any."""
    assert f"  peers     {line}\n" in rendered(known(backend=msgspec.structs.replace(READY, peers=counts)))


def test_relayed_by_nobody_knows_whom() -> None:
    """Without a home relay its name is left out."""
    backend = msgspec.structs.replace(READY, relay=None, peers=PeerCounts(2, 1, 0, 1))
    assert "  peers     1 of 2 online: 1 relayed\n" in rendered(known(backend=backend))


@pytest.mark.parametrize(
    ("proxy", "line"),
    [
        (ProxyPart("127.0.0.1:1055", "127.0.0.1:1056"), "SOCKS5 on 127.0.0.1:1055, HTTP on 127.0.0.1:1056"),
        (ProxyPart(None, "127.0.0.1:1056"), "HTTP on 127.0.0.1:1056"),
        (ProxyPart("127.0.0.1:1055", None), "SOCKS5 on 127.0.0.1:1055"),
    ],
)
def test_proxies(proxy: ProxyPart, line: str) -> None:
    """Each proxy is named with its address."""
    ways = 'tazpod-net run -- CMD, or eval "$(tazpod-net env)"'
    assert f"  use       {ways}; {line}\n" in rendered(known(proxy=proxy, mode="userspace"))


def test_resolver_without_guard() -> None:
    """A resolver that nobody guards is only named."""
    dns = msgspec.structs.replace(build(known()).dns, guarded=False)
    assert "  dns       100.100.100.100\n" in rendered(known(dns=dns))


def test_health_and_drift_have_their_lines() -> None:
    """tailscaled's warnings and settings that are not as configured are told, lists and nothing readably."""
    status = msgspec.structs.replace(
        build(known()),
        backend=msgspec.structs.replace(build(known()).backend, health=[HealthNote("no-udp4-bind", "No UDP")]),
        settings_drift=[
            Drift("ssh", True, False),
            Drift("advertise_routes", ["10.0.0.0/8", "10.1.0.0/16"], []),
            Drift("operator", "me", ""),
        ],
    )
    assert rendered(status).splitlines()[-4:] == [
        "  health    No UDP (no-udp4-bind)",
        "  drift     ssh: wanted true, is false",
        "  drift     advertise_routes: wanted 10.0.0.0/8,10.1.0.0/16, is none",
        "  drift     operator: wanted me, is none",
    ]


def test_notes_of_all_kinds() -> None:
    """Notes have a line each, next steps follow, none twice; the login's own next step comes first."""
    notes = (Note("log", "the log cannot be written", "free some space"), Note("stale", "old news", "free some space"))
    said = Said(Code.STOPPED, "stopped by 'tailscale down'", "tazpod-net tailscale up")
    shown = rendered(known(notes=notes, said=said, backend=Backend(state="Stopped"), ready_since=None))
    assert shown.splitlines() == [
        "stopped by 'tailscale down': tailscaled runs",
        "  note      the log cannot be written",
        "  note      old news",
        "  next      tazpod-net tailscale up",
        "  next      free some space",
    ]


def test_fatal_says_what_to_do_once() -> None:
    """Fatal: the problem, and the step that cures it; that it then goes on by itself is for programs to read."""
    machine = Machine(state=State.FATAL, want_up=True, failures=1, reason="tailscaled is not on PATH", fix="install it")
    assert rendered(known(machine=machine, live=False)) == "fatal: tailscaled is not on PATH\n  next      install it\n"


# --- colour, short, clock, span ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "\x1b[32mready\x1b[0m: on "),
        ({"backend": msgspec.structs.replace(READY, online=False)}, "\x1b[33moffline\x1b[0m: on "),
        (
            {"machine": Machine(state=State.FATAL, want_up=True, reason="x", failures=1)},
            "\x1b[31mfatal\x1b[0m: x",
        ),
        ({"machine": Machine()}, "\x1b[31mnot running\x1b[0m\n"),
        (
            {"backend": Backend(state="NeedsLogin"), "said": Said(Code.KEY_USED, "key rejected: used")},
            "\x1b[31mkey rejected\x1b[0m: used",
        ),
    ],
)
def test_colours(changes: dict[str, object], start: str) -> None:
    """The words before the colon are green when all is well, red when nothing goes on, else yellow."""
    assert text(build(known(**changes)), now=NOON, colour=True).startswith(start)


SHORT: list[tuple[dict[str, object], str]] = [
    ({}, "ready tun 100.64.0.1 tazpod"),
    ({"mode": "userspace"}, "ready userspace 100.64.0.1 tazpod"),
    ({"mode": None, "backend": msgspec.structs.replace(READY, hostname=None)}, "ready - 100.64.0.1 -"),
    ({"backend": msgspec.structs.replace(READY, online=False)}, "offline tun 100.64.0.1 tazpod"),
    ({"machine": Machine(state=State.STARTING, want_up=True, pid=1, deadline=1.0), "live": False}, "starting"),
    ({"live": False}, "starting"),
    ({"machine": Machine(state=State.STOPPING, pid=1, deadline=1.0)}, "stopping"),
    ({"machine": Machine(state=State.BACKOFF, want_up=True, deadline=1.0, reason="x")}, "backoff"),
    ({"machine": Machine(state=State.FATAL, want_up=True, reason="x")}, "fatal"),
    ({"machine": Machine()}, "down"),
    ({"machine": Machine(), "wanted": "stopped"}, "stopped"),
]
WORDS = {
    Code.LOGGING_IN: "starting",
    Code.MINTING: "starting",
    Code.RATE_LIMITED: "starting",
    Code.CLOCK_WRONG: "starting",
    Code.NO_CREDENTIALS: "waiting-credentials",
    Code.LOGGED_OUT: "waiting-credentials",
    Code.NODE_DELETED: "waiting-credentials",
    Code.LOGIN_URL: "waiting-login",
    Code.NEEDS_APPROVAL: "waiting-approval",
    Code.TAILNET_LOCK: "waiting-approval",
    Code.NODE_KEY_EXPIRED: "key-expired",
    Code.STOPPED: "stopped",
    **dict.fromkeys(REJECTED - {Code.TAILNET_LOCK}, "key-rejected"),
}


@pytest.mark.parametrize(("changes", "words"), SHORT)
def test_short(changes: dict[str, object], words: str) -> None:
    """`--short` has the contract's words for each state of daemon and node."""
    assert short(build(known(**changes))) == f"tailnet: {words}"


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_short_while_logging_in(code: Code) -> None:
    """Each login code that is not `ok` has its word."""
    backend = Backend(state="NeedsLogin")
    assert short(build(known(backend=backend, said=Said(code, "x")))) == f"tailnet: {WORDS[code]}"


def test_a_hostname_that_only_control_knows() -> None:
    """Parts that are not known are a dash, so that the words keep their places."""
    status = Status(
        checked_at="",
        live=True,
        ready=True,
        online=True,
        supervisor=SupervisorPart(state="up"),
        daemon=DaemonPart(pid=1),
        backend=BackendPart(state="Running"),
    )
    assert short(status) == "tailnet: ready - - -"


@pytest.mark.parametrize(
    ("at", "east_h", "said"),
    [
        ("2026-11-23T11:02:07.125Z", 0, "11:02"),
        ("2026-11-23T11:02:07Z", 3, "14:02"),
        ("2026-11-23T11:02:07Z", -5.5, "05:32"),
        ("2026-11-22T23:30:00Z", 1, "00:30"),
        ("2026-11-22T23:30:00Z", 0, "2026-11-22 23:30"),
        ("2026-11-23T22:30:00Z", 2, "2026-11-24 00:30"),
        ("long ago", 0, "long ago"),
    ],
)
def test_clock(at: str, east_h: float, said: str) -> None:
    """The hour where the reader lives; the day too, if it is not today there."""
    assert clock(at, NOON, lambda _: int(east_h * 3600)) == said


def test_clock_without_a_time_zone() -> None:
    """Where nobody knows the zone, UTC is called UTC."""
    assert clock("2026-11-23T11:02:07Z", NOON) == "11:02 UTC"


def test_clock_asks_for_the_offset_of_each_moment() -> None:
    """A time before the change to summer time is said in the time of then."""
    summer = NOON - 86_400
    assert clock("2026-11-21T11:02:00Z", NOON, lambda at: 3600 if at < summer else 7200) == "2026-11-21 12:02"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (0.9, "0.9 s"),
        (9.96, "10.0 s"),
        (14.0, "14 s"),
        (59.9, "59 s"),
        (60.0, "1 min"),
        (3599.0, "59 min"),
        (3600.0, "1 h"),
        (11_520.0, "3 h 12 min"),
        (172_799.0, "47 h 59 min"),
        (432_000.0, "5 days"),
    ],
)
def test_span(seconds: float, said: str) -> None:
    """Lengths of time have one or two units."""
    assert span(seconds) == said


def test_up_without_ready_since_has_no_age() -> None:
    """A node that became ready at an unknown time does not say for how long."""
    assert summary(build(known())) == "ready: on example.ts.net as tazpod (100.64.0.1) by TUN"
