"""The one line that `up`, `wait` and `login` end with."""

import msgspec
import pytest

from tazpod_net.core.backend import Backend
from tazpod_net.core.login import ONLY_A_PERSON, Code, Said
from tazpod_net.core.model import Machine, State
from tazpod_net.core.outcome import blocked, plain, started_line, why_not
from tazpod_net.core.report import build
from tazpod_net.core.status import Status
from tests.support.fakes import READY, known


def waiting(code: Code | None, text: str | None = "said", step: str | None = "do it", **changes: object) -> Status:
    """A node that is not logged in."""
    backend = Backend(state="NeedsLogin")
    return build(known(**{"backend": backend, "said": Said(code, text, step), "ready_since": None, **changes}))


FATAL = Machine(state=State.FATAL, want_up=True, failures=1, reason="tailscaled is not on PATH", fix="install it")


@pytest.mark.parametrize("code", Code)
def test_who_can_make_it_go_on(code: Code) -> None:
    """`up` returns at once exactly for what only a person can change."""
    found = blocked(waiting(code))
    assert (found is not None) == (code in ONLY_A_PERSON)
    assert found in (None, ("said", "do it"))


def test_without_credentials_it_says_where_it_looked() -> None:
    """The reason names every place, the next step follows."""
    status = waiting(Code.NO_CREDENTIALS, "waiting for credentials", "tazpod unlock", looked="TS_AUTHKEY: not set")
    assert blocked(status) == ("waiting for credentials (looked: TS_AUTHKEY: not set)", "tazpod unlock")


def test_no_next_step_is_no_step() -> None:
    """A reason without a next step has none."""
    assert blocked(waiting(Code.STOPPED, None, None)) == ("stopped", "")


def test_fatal_is_the_reason_and_its_cure() -> None:
    """A start that time does not cure is said like in the contract, the cure after it."""
    assert blocked(build(known(machine=FATAL))) == ("tailnet did not start: tailscaled is not on PATH", "install it")


def test_fatal_after_an_exit_is_said_once() -> None:
    """The cause in the log's own words, not the summary and the cause."""
    machine = Machine(state=State.FATAL, want_up=True, failures=1, died=True, reason="code 2: bad option")
    status = build(known(machine=machine, last_exit_because="bad option (-nope)"))
    assert blocked(status) == ("tailnet did not start: bad option (-nope)", "tazpod-net up")


def test_fatal_without_any_step() -> None:
    """A foreign status without notes still names something to do."""
    status = msgspec.structs.replace(build(known(machine=FATAL)), notes=[])
    assert blocked(status) == ("tailnet did not start: tailscaled is not on PATH", "tazpod-net status")


def test_a_state_that_cannot_be_used_needs_a_person() -> None:
    """tailscaled lives on without its state file; waiting would not help."""
    backend = Backend(state="NoState", health=(("state-store-health", "Error: corrupt"),))
    assert blocked(build(known(backend=backend, said=Said(None, None)))) == (
        "the node's state cannot be used (Error: corrupt)",
        "tazpod-net logs",
    )


def test_a_daemon_that_does_not_answer_waits_for_nobody() -> None:
    """What an old login said is no reason while the daemon is silent."""
    assert blocked(waiting(Code.NO_CREDENTIALS, live=False)) is None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (waiting(Code.KEY_USED, "key rejected: used up"), "key rejected: used up"),
        (waiting(Code.LOGGING_IN, "logging in"), "logging in"),
        (waiting(None, None), "the backend is NeedsLogin"),
        (waiting(Code.LOGGING_IN, live=False), "not answering: tailscaled (pid 412) does not answer"),
        (
            build(known(backend=msgspec.structs.replace(READY, online=False))),
            "the control server does not see this node",
        ),
    ],
)
def test_why_not(status: Status, said: str) -> None:
    """A few words for what is awaited."""
    assert why_not(status) == said


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (("login-state", "You are logged out."), "logging in"),
        (
            (
                "login-state",
                (
                    "You are logged out. The last login error was: fetch control key: "
                    'Get "https://c.example/key?v=145": '
                    "dial tcp: lookup c.example on 127.0.0.11:53: no such host"
                ),
            ),
            "control server's name does not resolve",
        ),
        (("network-status", "Tailscale cannot connect because the network is down."), "the network is down"),
        (("no-derp-home", "Tailscale could not connect to any relay server."), "no relay (DERP) is reached"),
        (("not-in-map-poll", "Unable to connect to the coordination server."), "control server is not reached"),
        (("no-udp4-bind", "No UDP."), "logging in"),
    ],
)
def test_why_not_from_the_daemons_health(health: tuple[str, str], said: str) -> None:
    """tailscaled's own verdict on network and control server, in plain words."""
    backend = Backend(state="NeedsLogin", health=(health,))
    assert why_not(waiting(Code.LOGGING_IN, "logging in", backend=backend)) == said


def test_why_not_while_backing_off() -> None:
    """How it ends and why; not when it is tried again, for that has passed when it is read."""
    machine = Machine(
        state=State.BACKOFF, want_up=True, failures=2, died=True, deadline=20_009.0, reason="code 1: busy"
    )
    status = build(known(machine=machine, last_exit_because="another program holds tailscale0"))
    assert why_not(status) == "tailscaled exited 2 times (code 1): another program holds tailscale0"


def test_why_not_while_it_cannot_be_started() -> None:
    """A daemon that cannot be started at all: the reason as it is."""
    machine = Machine(state=State.BACKOFF, want_up=True, failures=1, reason="no memory")
    assert why_not(build(known(machine=machine))) == "no memory"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            'Get "http://127.0.0.1:1/key": dial tcp 127.0.0.1:1: connect: connection refused',
            "control server refuses connections",
        ),
        (
            'register request: Post "https://c/machine/register": context deadline exceeded',
            "control server does not answer",
        ),
        ("node registration rate limited; will retry after 5s", "control server allows no more logins for now"),
        (
            "tls: x509: certificate has expired or is not yet valid",
            "control server's certificate is not valid at this clock's time",
        ),
        ("tls: x509: certificate signed by unknown authority", "control server's certificate is not trusted"),
        ("dial tcp 192.0.2.1:443: connect: network is unreachable", "control server cannot be reached from here"),
        ("register request: http 502: bad gateway", "control server has trouble of its own"),
        ("EOF", "control server closes the connection"),
        ("something\nnew", "something new"),
        ("x" * 200, "x" * 119 + "…"),
    ],
)
def test_plain_words(error: str, said: str) -> None:
    """Errors of Go's network code become one clause; unknown ones stay, on one short line."""
    assert plain(error) == said


@pytest.mark.parametrize(
    ("mode", "live_ms", "login_ms", "line"),
    [
        ("tun", 48.4, 610.2, "probe 12 ms: TUN · tailscaled 1.102.5 pid 412, 48 ms · login 610 ms"),
        ("userspace", None, None, "probe 12 ms: userspace · tailscaled 1.102.5 pid 412"),
    ],
)
def test_started_line(mode: str, live_ms: float | None, login_ms: float | None, line: str) -> None:
    """What a start did and how long each part took, as far as it got."""
    assert started_line(build(known(mode=mode)), probe_ms=12.3, live_ms=live_ms, login_ms=login_ms) == line


def test_started_line_of_a_start_that_failed() -> None:
    """Without a process only the probe is told; without a version the pid stands alone."""
    nothing = build(known(machine=Machine()))
    assert started_line(nothing, probe_ms=0.0, live_ms=None, login_ms=None) == "probe 0 ms: TUN"
    nameless = build(known(daemon_version=None, backend=Backend()))
    assert started_line(nameless, probe_ms=0.0, live_ms=None, login_ms=None) == "probe 0 ms: TUN · tailscaled pid 412"
