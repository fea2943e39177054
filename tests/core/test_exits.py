"""From an exit status and last lines to one reason. The lines are tailscaled's own, v1.102.5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.exits import Cause, ExitStatus, explain, from_wait_status, how_of, signal_name

FAILED = ExitStatus(code=1)
STARTED = (
    '2026/11/23 18:34:55 Program starting: v1.102.5-tlab, Go 1.26.8: []string{"/usr/sbin/tailscaled", '
    '"--statedir=/h/state", "--tun=tailscale0"}'
)
BUSY = [
    STARTED,
    "2026/11/23 18:47:16 ... and then kill those PID(s)",
    (
        '2026/11/23 18:47:16 wgengine.NewUserspaceEngine(tun "tailscale0") error: tstun.New("tailscale0"): '
        "device or resource busy"
    ),
    "2026/11/23 18:47:16 flushing log.",
    "2026/11/23 18:47:16 logger closing down",
    '2026/11/23 18:47:16 getLocalBackend error: createEngine: tstun.New("tailscale0"): device or resource busy',
]
USAGE = [
    "Usage of /usr/sbin/tailscaled:",
    *(f"  -option{n}" for n in range(30)),
    "  -statedir string",
    "    \tIf empty and --statedir is provided, the default is <statedir>/tailscaled.state.",
    "  -version",
    "    \tprint version information and exit",
]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (0, ExitStatus(code=0)),
        (0x0100, ExitStatus(code=1)),
        (0xFF00, ExitStatus(code=255)),
        (9, ExitStatus(signal=9)),
        (0x8B, ExitStatus(signal=11)),
    ],
)
def test_wait_status(raw: int, status: ExitStatus) -> None:
    """A wait status is a code or a signal, with or without a core dump."""
    assert from_wait_status(raw) == status


@given(st.integers(0, 0xFFFF))
def test_every_wait_status_is_one_of_both(raw: int) -> None:
    """No wait status gives both or neither."""
    status = from_wait_status(raw)
    assert (status.code is None) != (status.signal is None)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (99, "signal 99")])
def test_signal_names(number: int, name: str) -> None:
    """Signals are said by name where they have one."""
    assert signal_name(number) == name


@pytest.mark.parametrize(
    ("status", "ran", "how"),
    [
        (ExitStatus(code=1), 0.42, "code 1 after 0.4 s"),
        (ExitStatus(code=1), 10.0, "code 1"),
        (ExitStatus(code=0), 0.0, "code 0"),
        (ExitStatus(signal=9), 3.0, "SIGKILL, likely out of memory"),
        (ExitStatus(signal=11), 3.0, "SIGSEGV"),
        (ExitStatus(), 3.0, "ended, exit status unknown"),
    ],
)
def test_how_it_ended(status: ExitStatus, ran: float, how: str) -> None:
    """Code or signal; how soon, if it was soon; what SIGKILL mostly means; the truth if nobody knows."""
    assert explain(status, [], mode="tun", live=True, ran=ran) == Cause(how)


def test_an_end_that_was_asked_for_is_said_so() -> None:
    """What we told it to do is no mystery, whatever its log says."""
    assert explain(FAILED, BUSY, mode="tun", live=False, asked=True) == Cause("code 1, as asked")


def test_busy_device() -> None:
    """The contract's own example: who holds the interface, in whose words, and what to do."""
    assert explain(FAILED, BUSY, mode="tun", live=False, ran=0.4) == Cause(
        reason="code 1 after 0.4 s: another program holds tailscale0",
        because="another program holds tailscale0 (device or resource busy)",
        next='set daemon.mode = "userspace" or stop the other one',
        tun_failed=True,
    )


PERMANENT: list[tuple[str, str]] = [
    (
        '2026/11/23 18:47:16 invalid boolean environment variable TS_DEBUG_DISCO value "maybe"',
        (
            "tailscaled does not accept an environment variable (invalid boolean environment variable TS_DEBUG_DISCO "
            'value "maybe")'
        ),
    ),
    (
        "2026/11/23 18:47:16 invalid unsigned integer environment variable TS_DEBUG_MTU: abc",
        (
            "tailscaled does not accept an environment variable (invalid unsigned integer environment variable "
            "TS_DEBUG_MTU: abc)"
        ),
    ),
    (
        "flag provided but not defined: -nope",
        "tailscaled does not accept an option (flag provided but not defined: -nope)",
    ),
    ("flag needs an argument: -port", "tailscaled does not accept an option (flag needs an argument: -port)"),
    (
        'invalid value "abc" for flag -port: not a valid number',
        'tailscaled does not accept an option (invalid value "abc" for flag -port: not a valid number)',
    ),
    (
        'invalid boolean value "7" for -no-logs-no-support: parse error',
        'tailscaled does not accept an option (invalid boolean value "7" for -no-logs-no-support: parse error)',
    ),
    (
        '2026/11/23 18:47:16 tailscaled does not take non-flag arguments: ["foo"]',
        'tailscaled does not accept an argument (tailscaled does not take non-flag arguments: ["foo"])',
    ),
    (
        "2026/11/23 18:47:16 error reading config file: no config present: open /nonexist: no such file or directory",
        (
            "its --config file is bad (error reading config file: no config present: open /nonexist: no such file or "
            "directory)"
        ),
    ),
    (
        "2026/11/23 18:47:16 --statedir (or at least --state) is required",
        "it has no state directory (--statedir (or at least --state) is required)",
    ),
]


@pytest.mark.parametrize(("line", "because"), PERMANENT)
def test_what_time_does_not_cure(line: str, because: str) -> None:
    """Errors of configuration are permanent, never a reason to fall back to userspace, and name the culprit."""
    cause = explain(FAILED, [STARTED, line], mode="tun", live=False)
    assert (cause.because, cause.permanent, cause.tun_failed) == (because, True, False)


@pytest.mark.parametrize(
    ("line", "because"),
    [
        (
            '2026/11/23 18:47:23 getLocalBackend error: createEngine: tstun.New("tailscale0"): operation not permitted',
            "the TUN device could not be made (operation not permitted)",
        ),
        (
            (
                '2026/11/23 18:47:23 getLocalBackend error: createEngine: tstun.New("tailscale0"): '
                'CreateTUN("tailscale0") failed; /dev/net/tun does not exist'
            ),
            'there is no /dev/net/tun (CreateTUN("tailscale0") failed; /dev/net/tun does not exist)',
        ),
        (
            (
                "2026/11/23 18:47:23 getLocalBackend error: createEngine: router.Up: adding IP rules: "
                "operation not permitted"
            ),
            "routing rules could not be set (operation not permitted)",
        ),
        (
            "2026/11/23 18:47:23 tailscaled requires root; use sudo tailscaled",
            "TUN needs root (tailscaled requires root; use sudo tailscaled)",
        ),
        ("panic: router.Router is already set", "the TUN start failed half way (router.Router is already set)"),
    ],
)
def test_tun_trouble(line: str, because: str) -> None:
    """TUN trouble is told by the kernel's words; it is one only in TUN mode."""
    for mode in ("tun", "userspace"):
        cause = explain(FAILED, [STARTED, line], mode=mode, live=False)
        assert (cause.because, cause.tun_failed, cause.permanent) == (because, mode == "tun", False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "2026/11/23 18:47:16 SOCKS5 listener: listen tcp 127.0.0.1:1055: bind: address already in use",
            "code 1: a proxy port is taken",
        ),
        (
            "2026/11/23 18:47:16 safesocket.Listen: /h/tailscaled.sock: address already in use",
            "code 1: its socket is taken by another tailscaled",
        ),
        ("2026/11/23 18:47:16 write /h/x: no space left on device", "code 1: the disk is full"),
        ("panic: ipnlocal: watchdog timeout", "code 1: its own watchdog found a deadlock"),
        ("panic: runtime error: index out of range", "code 1: it panicked"),
        ("fatal error: runtime: out of memory", "code 1: the Go runtime gave up"),
        (
            "2026/11/23 18:47:16 wgengine has been closed; shutting down",
            "code 1: its engine closed: was the interface deleted?",
        ),
    ],
)
def test_trouble_that_may_pass(line: str, reason: str) -> None:
    """Neither permanent nor TUN: it is tried again as it is."""
    cause = explain(FAILED, [STARTED, line], mode="tun", live=False)
    assert (cause.reason, cause.permanent, cause.tun_failed) == (reason, False, False)


def test_the_start_line_accuses_nobody() -> None:
    """tailscaled repeats its command line, `--statedir` and all, in its first line: that is no cause."""
    cause = explain(FAILED, [STARTED], mode="tun", live=False)
    assert (cause.reason, cause.permanent, cause.tun_failed) == ("code 1", False, False)


def test_the_usage_text_does_not_hide_a_wrong_option() -> None:
    """A wrong option is followed by the whole usage: found above it, and known by it if it was pushed away."""
    status = ExitStatus(code=2)
    whole = explain(status, ["flag provided but not defined: -nope", *USAGE], mode="tun", live=False)
    assert whole.because == "tailscaled does not accept an option (flag provided but not defined: -nope)"
    cut = explain(status, USAGE[-20:], mode="tun", live=False)
    assert (cut.because, cut.permanent) == ("tailscaled does not accept an option", True)


@pytest.mark.parametrize("line", [row[0] for row in PERMANENT] + BUSY[2:3] + ["x listener: y"])
def test_words_in_the_log_of_a_daemon_that_was_up_accuse_nobody(line: str) -> None:
    """A daemon that had answered did start: what looks like a failed start in its log is something else."""
    cause = explain(FAILED, [line, "2026/11/23 18:47:16 something else"], mode="tun", live=True)
    assert cause == Cause("code 1", because="something else")


def test_a_panic_is_found_above_its_goroutines() -> None:
    """The last line that says something counts, not the last line."""
    trace = ["goroutine 1 [running]:", "main.createEngine(0xc000)", "\ttailscaled.go:758 +0x1"]
    cause = explain(ExitStatus(code=2), ["panic: boom", "", *trace], mode="tun", live=False)
    assert (cause.reason, cause.because) == ("code 2: it panicked", "it panicked (panic: boom)")


def test_last_words_where_nothing_is_known() -> None:
    """An unknown end quotes the last line that is more than farewell, without its time stamp and not too long."""
    tail = ["2026/11/23 18:47:16 " + "x" * 200, "2026/11/23 18:47:22 flushing log.", "logger closing down"]
    cause = explain(FAILED, tail, mode="tun", live=False)
    assert cause.because == "x" * 159 + "…"


def test_a_name_nobody_quotes_is_the_device() -> None:
    """Without an interface in the line the sentence still is one."""
    cause = explain(FAILED, ["device or resource busy"], mode="tun", live=False)
    assert cause.because == "another program holds the TUN device (device or resource busy)"


@pytest.mark.parametrize("reason", ["code 1 after 0.4 s: another program holds tailscale0", "code 1 after 0.4 s"])
def test_how_of_a_reason(reason: str) -> None:
    """The first half of a reason says how it ended."""
    assert how_of(reason) == "code 1 after 0.4 s"


@given(st.lists(st.text()), st.booleans(), st.sampled_from(["tun", "userspace"]))
def test_any_log_gives_one_line(tail: list[str], live: bool, mode: str) -> None:
    """Whatever the log holds, the verdict is a short sentence and no exception."""
    cause = explain(FAILED, tail, mode=mode, live=live)
    assert cause.reason.startswith("code 1")
    assert len(cause.because or "") < 300
