"""The daemon's environment: what passes, what does not, and what tailscaled would die of."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core import knobs
from tazpod_net.core.childenv import scrubbed_environment
from tazpod_net.core.environment import CONTAINERBOOT
from tazpod_net.core.options import Config, Proxy
from tests.support.lab import Binaries

LAB = Path(__file__).parent.parent / "lab"
OUTSIDE = dict(os.environ)  # Go finds its module cache by HOME, which every test replaces


def scrub(**env: str) -> tuple[dict[str, str], list[str]]:
    """What is left of `env`, without the variable that is always there, and the problems."""
    kept, problems = scrubbed_environment(env, Config(), logs_dir="/home/logs")
    assert kept.pop("TS_LOGS_DIR") == "/home/logs"
    return kept, problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/usr/bin"),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("EMPTY", ""),
        ("TS_DEBUG_FIREWALL_MODE", "nftables"),
        ("TS_NO_LOGS_NO_SUPPORT", "true"),
        ("TS_PERMIT_CERT_UID", "1000"),
        ("TS_INTERNAL_APP", "app-connector"),
        ("TS_LOG_VERBOSITY", "-1"),
        ("TS_DEBUG_MTU", "1280"),
        ("TS_DISCO_PONG_IPV4_DELAY", "5ms"),
        ("TS_DEBUG_NETLINK", ""),
        ("HTTPS_PROXY", "http://proxy.example:3128"),
        ("https_proxy", "http://me:word@proxy.example:3128/"),
        ("ALL_PROXY", "socks5h://10.0.0.1:1055"),
        ("NO_PROXY", "127.0.0.1:1055"),
        ("no_proxy", "localhost"),
    ],
)
def test_what_concerns_nobody_else_passes(name: str, value: str) -> None:
    """Ordinary variables, tailscaled's own good ones and proxies reach the daemon unchanged."""
    assert scrub(**{name: value}) == ({name: value}, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "true") for name in [*CONTAINERBOOT, "TS_EXTRA_ARGS"]],
        ("TAZPOD_NET_HOME", "/x"),
        ("TAZPOD_NET_LOGIN_AUTH_KEY", "x"),
        ("TAZPOD_NET_UNKNOWN", "x"),
        ("TS_CLIENT_SECRET", "x"),
        ("TS_ID_TOKEN", "x"),
        ("TS_API_KEY", "x"),
        ("TAILSCALE_AUTHKEY", "x"),
        ("ANYTHING", "tskey-auth-x"),
        ("PORT", "8080"),
        ("NOTIFY_SOCKET", "/run/systemd/notify"),
        ("WATCHDOG_PID", "1"),
        ("WATCHDOG_USEC", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_FDNAMES", "x"),
        ("TS_LOGS_DIR", "/elsewhere"),
        ("TS_BE_CLI", "true"),
        ("TS_PARENT_DEATH_FD", "9"),
        ("TS_PLEASE_PANIC", "1"),
        ("HTTP_PROXY", "http://127.0.0.1:1055"),
        ("http_proxy", "127.0.0.1:1055"),
        ("ALL_PROXY", "socks5h://localhost:1055/"),
        ("ftp_proxy", "socks5://me:word@127.0.0.1:1055"),
    ],
)
def test_what_would_harm_is_left_out(name: str, value: str) -> None:
    """Secrets, what we consume ourselves, systemd's words to us, and proxies that are the daemon itself."""
    assert scrub(**{name: value}) == ({}, [])


def test_only_the_configured_proxies_are_its_own() -> None:
    """With other proxy addresses, or none, port 1055 is somebody else's."""
    env = {"HTTP_PROXY": "http://127.0.0.1:1055", "ALL_PROXY": "socks5://127.0.0.1:9"}
    config = Config(proxy=Proxy(socks5="127.0.0.1:9", http=""))
    kept, _ = scrubbed_environment(env, config, logs_dir="/l")
    assert kept == {"HTTP_PROXY": "http://127.0.0.1:1055", "TS_LOGS_DIR": "/l"}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "TS_DEBUG_NETLINK",
            "yes",
            '"yes" is not a boolean, tailscaled would exit: write true or false, or unset it',
        ),
        (
            "TS_NO_LOGS_NO_SUPPORT",
            "on",
            '"on" is not a boolean, tailscaled would exit: write true or false, or unset it',
        ),
        (
            "TS_USE_CACHED_NETMAP",
            " true",
            '" true" is not a boolean, tailscaled would exit: write true or false, or unset it',
        ),
        (
            "TS_LOG_VERBOSITY",
            "high",
            '"high" is not a whole number, tailscaled would exit: write digits only, or unset it',
        ),
        (
            "TS_DEBUG_MAP",
            "1_0",
            '"1_0" is not a whole number, tailscaled would exit: write digits only, or unset it',
        ),
        (
            "TS_DEBUG_MAP",
            "9223372036854775808",
            '"9223372036854775808" is not a whole number, tailscaled would exit: write digits only, or unset it',
        ),
        *[
            (
                "TS_DEBUG_MTU",
                value,
                f'"{value}" is not a size in bytes, tailscaled would exit: write 1280 for example, or unset it',
            )
            for value in ("+1280", "-1", "4294967296", "x")
        ],
        (
            "TS_NETSTACK_KEEPALIVE_IDLE",
            "30",
            '"30" is not a duration, tailscaled would exit: write 30s for example, or unset it',
        ),
        (
            "TS_DEBUG_LOGTAIL_FLUSHDELAY",
            "\x1b[1m",
            '"\\u001b[1m" is not a duration, tailscaled would exit: write 30s for example, or unset it',
        ),
    ],
)
def test_a_knob_that_tailscaled_would_die_of_is_named(name: str, value: str, problem: str) -> None:
    """A value that Go cannot read ends the daemon: it is left out, and named with what to write."""
    assert scrub(**{name: value}) == ({}, [f"environment {name}: {problem}"])


def test_every_fatal_knob_is_named_at_once() -> None:
    """A person corrects all of them in one go."""
    kept, problems = scrub(A="1", TS_DEBUG_DISCO="x", TS_LOG_VERBOSITY="x", B="2")
    assert kept == {"A": "1", "B": "2"}
    assert [problem.partition(": ")[0] for problem in problems] == [
        "environment TS_DEBUG_DISCO",
        "environment TS_LOG_VERBOSITY",
    ]


@given(
    env=st.dictionaries(
        st.sampled_from(sorted(knobs.BOOLEANS | knobs.INTEGERS | knobs.UNSIGNED | knobs.DURATIONS)) | st.text(),
        st.text(),
        max_size=5,
    )
)
def test_any_environment_is_scrubbed_without_a_traceback(env: dict[str, str]) -> None:
    """Whatever the environment holds, each variable passes, is dropped, or is one printable line."""
    kept, problems = scrub(**env)
    assert kept.items() <= env.items()
    assert all(problem.isprintable() for problem in problems if "TS_" in problem)


_READS = re.compile(
    r"\b(Register\w+|Bool|BoolDefaultTrue|OptBool|LookupBool|LookupInt|LookupIntSized|LookupUintSized)"
    r'\("([A-Z0-9_]+)"'
)
_KINDS = {
    "RegisterInt": knobs.INTEGERS,
    "LookupInt": knobs.INTEGERS,
    "LookupUintSized": knobs.UNSIGNED,
    "RegisterDuration": knobs.DURATIONS,
}


def _daemon_sources() -> Iterator[Path]:
    """The Go files of tailscale.com that are linked into tailscaled; nothing is downloaded."""
    go = shutil.which("go")
    if go is None or not (LAB / "go.mod").exists():
        pytest.skip("no Go toolchain on PATH")
    files = "{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}} {{end}}"
    form = f'{{{{if .Module}}}}{{{{if eq .Module.Path "tailscale.com"}}}}{files}{{{{end}}}}{{{{end}}}}'
    listed = subprocess.run(
        [go, "list", "-deps", "-f", form, "tailscale.com/cmd/tailscaled"],
        cwd=LAB,
        env={**OUTSIDE, "GOFLAGS": "-mod=readonly", "GOPROXY": "off", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("tailscale's source is not in the module cache")
    yield from map(Path, listed.stdout.split())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TS_DEBUG_NETLINK", "true"),
        ("TS_DEBUG_NETLINK", "t"),
        ("TS_DEBUG_NETLINK", "yes"),
        ("TS_DEBUG_NETLINK", "TrUe"),
        ("TS_DEBUG_NETLINK", " 1"),
        ("TS_LOG_VERBOSITY", "+1"),
        ("TS_LOG_VERBOSITY", "-1"),
        ("TS_LOG_VERBOSITY", "0x1"),
        ("TS_LOG_VERBOSITY", "1_0"),
        ("TS_LOG_VERBOSITY", "9223372036854775807"),
        ("TS_LOG_VERBOSITY", "9223372036854775808"),
        ("TS_LOG_VERBOSITY", "\u0661"),
        ("TS_DISCO_PONG_IPV4_DELAY", "-1.5s"),
        ("TS_DISCO_PONG_IPV4_DELAY", "1h2m3.s"),
        ("TS_DISCO_PONG_IPV4_DELAY", ".5\u00b5s"),
        ("TS_DISCO_PONG_IPV4_DELAY", "0"),
        ("TS_DISCO_PONG_IPV4_DELAY", "5"),
        ("TS_DISCO_PONG_IPV4_DELAY", ".s"),
        ("TS_DISCO_PONG_IPV4_DELAY", "1d"),
        ("TS_DISCO_PONG_IPV4_DELAY", "2562047h"),
        ("TS_DISCO_PONG_IPV4_DELAY", "2562048h"),
    ],
)
def test_the_real_daemon_dies_of_what_is_named_and_of_nothing_else(lab: Binaries, name: str, value: str) -> None:
    """Our reading of booleans, numbers and durations is that of the real tailscaled."""
    ended = subprocess.run(
        [lab.tailscaled, "--version"], env={name: value}, capture_output=True, timeout=30, check=False
    )
    assert (ended.returncode != 0) == bool(scrub(**{name: value})[1])


@pytest.mark.lab
def test_the_knobs_are_those_of_tailscales_source() -> None:
    """Each knob that tailscaled reads as a boolean, number or duration is in our table, and no other."""
    found = {
        (name, kind)
        for path in _daemon_sources()
        for kind, name in _READS.findall(path.read_text(encoding="utf-8"))
        if kind != "RegisterString"
    }
    assert {name for name, kind in found if name not in _KINDS.get(kind, knobs.BOOLEANS)} == set()
    by_hand = {"TS_DEBUG_LOGTAIL_FLUSHDELAY"}
    ours = knobs.BOOLEANS | knobs.INTEGERS | knobs.UNSIGNED | knobs.DURATIONS
    assert ours - by_hand == {name for name, _ in found}
