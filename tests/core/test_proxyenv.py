"""Proxy variables: what is set, what is spared, and the way back to what was there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core import proxyenv
from tazpod_net.core.status import ProxyPart

BOTH = ProxyPart("127.0.0.1:1055", "127.0.0.1:1056")
NONE = ProxyPart()
DOMAIN = "example.ts.net"
CORPORATE = {
    "HTTP_PROXY": "http://corp:3128",
    "https_proxy": "http://user:p%20w@corp:3128",
    "NO_PROXY": "localhost, .corp.example,10.0.0.0/8",
    "PATH": "/bin",
}
names = st.sampled_from([spelt for name in proxyenv.NAMES for spelt in (name, name.lower())] + ["PATH", "LANG"])
values = st.text(st.characters(exclude_characters="\0", codec=None), max_size=12)
environments = st.dictionaries(names, values, max_size=6)
proxies = st.sampled_from([BOTH, NONE, ProxyPart("127.0.0.1:9", None), ProxyPart(None, "[::1]:9")])


def test_both_proxies_in_both_spellings() -> None:
    """SOCKS for everything else, HTTP for what speaks HTTP; names are resolved by the daemon."""
    env = proxyenv.recorded({}, BOTH, DOMAIN)
    assert {name: value for name, value in env.items() if name != proxyenv.RECORD} == {
        **dict.fromkeys(("ALL_PROXY", "all_proxy"), "socks5h://127.0.0.1:1055"),
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1056"),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
    }


@pytest.mark.parametrize(
    ("proxy", "everything", "http"),
    [
        (ProxyPart("127.0.0.1:1", None), "socks5h://127.0.0.1:1", "socks5h://127.0.0.1:1"),
        (ProxyPart(None, "127.0.0.1:2"), "http://127.0.0.1:2", "http://127.0.0.1:2"),
        (ProxyPart("0.0.0.0:1", "[::]:2"), "socks5h://127.0.0.1:1", "http://127.0.0.1:2"),
        (ProxyPart("[::1]:1", ":2"), "socks5h://[::1]:1", "http://127.0.0.1:2"),
    ],
)
def test_one_proxy_and_odd_addresses(proxy: ProxyPart, everything: str, http: str) -> None:
    """One proxy serves all; where one listens everywhere, programs here use loopback."""
    env = proxyenv.recorded({}, proxy, DOMAIN)
    assert (env["ALL_PROXY"], env["http_proxy"], env["HTTPS_PROXY"]) == (everything, http, http)


def test_a_mode_without_proxies_changes_nothing() -> None:
    """TUN: a proxy of the person's own stays."""
    assert proxyenv.recorded(CORPORATE, NONE, DOMAIN) == CORPORATE


def test_another_proxy_is_replaced_and_its_exceptions_stay() -> None:
    """The tailnet is behind ours only; what went without a proxy goes on without."""
    env = proxyenv.recorded(CORPORATE, BOTH, DOMAIN)
    assert env["HTTP_PROXY"] == env["https_proxy"] == "http://127.0.0.1:1056"
    assert env["NO_PROXY"] == env["no_proxy"] == "localhost,127.0.0.1,::1,.corp.example,10.0.0.0/8"
    assert env["PATH"] == "/bin"


@pytest.mark.parametrize(
    "entry",
    [
        *("*", ".ts.net", "*.ts.net", "ts.net", "EXAMPLE.ts.net", "vault.example.ts.net", ".example.ts.net."),
        *("100.64.0.0/10", "100.64.0.1", "100.0.0.0/8", "fd7a:115c:a1e0::/48", "[fd7a:115c:a1e0::1]", "net"),
    ],
)
def test_an_exception_that_would_hide_the_tailnet_goes(entry: str) -> None:
    """Such as the ones that people have for TUN mode."""
    assert proxyenv.recorded({"no_proxy": f"a.example,{entry}"}, BOTH, DOMAIN)["NO_PROXY"].endswith("::1,a.example")


@pytest.mark.parametrize("entry", ["other.ts.net", "example.com", "10.0.0.0/8", "t", "101.0.0.0/8", "fd00::/16"])
def test_other_exceptions_stay(entry: str) -> None:
    """Also those that look alike."""
    assert proxyenv.recorded({"no_proxy": entry}, BOTH, DOMAIN)["NO_PROXY"].endswith(f",{entry}")


@given(environments, proxies, proxies)
def test_what_was_there_comes_back(env: dict[str, str], first: ProxyPart, second: ProxyPart) -> None:
    """However often and in whatever modes it was evaluated."""
    once = proxyenv.recorded(env, first, DOMAIN)
    twice = proxyenv.recorded(once, second, DOMAIN)
    assert proxyenv.restored(once) == proxyenv.restored(twice) == env
    assert proxyenv.recorded(twice, NONE, None) == env
    assert proxyenv.recorded(twice, first, DOMAIN) == proxyenv.recorded(env, first, DOMAIN)


@given(environments, environments)
def test_changes_lead_from_one_to_the_other(before: dict[str, str], after: dict[str, str]) -> None:
    """Nothing else is touched."""
    changes = proxyenv.changes(before, after)
    merged = {**before, **changes}
    assert {name: value for name, value in merged.items() if value is not None} == after
    assert all(before.get(name) != value for name, value in changes.items())


def test_what_a_person_changed_meanwhile_is_kept() -> None:
    """Only our own values are taken back."""
    env = proxyenv.recorded(CORPORATE, BOTH, DOMAIN) | {"HTTP_PROXY": "http://mine:1"}
    del env["no_proxy"]
    back = proxyenv.restored(env)
    assert back["HTTP_PROXY"] == "http://mine:1"
    assert "no_proxy" not in back
    assert back["https_proxy"] == CORPORATE["https_proxy"]


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "1", '{"HTTP_PROXY":1}', '{"HTTP_PROXY":["x"]}', '{"HTTP_PROXY":[1,2]}', "[" * 100_000]
)
def test_a_record_that_is_none_restores_nothing(record: str) -> None:
    """Whatever stands there."""
    env = {proxyenv.RECORD: record, "HTTP_PROXY": "x"}
    assert proxyenv.restored(env) == {"HTTP_PROXY": "x"}


def test_a_record_names_no_other_variables() -> None:
    """It cannot be made to set PATH."""
    env = {proxyenv.RECORD: json.dumps({"PATH": ["/bin", "/evil"]}), "PATH": "/bin"}
    assert proxyenv.restored(env) == {"PATH": "/bin"}
