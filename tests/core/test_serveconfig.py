"""serve.config files as people write them, and what must be set to come from one config to another."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.serveconfig import (
    Config,
    ServeConfigError,
    fill,
    is_same,
    missing,
    parse,
    read_present,
    replacement,
    service_names,
    stepping_stone,
)

DOMAIN = "tazpod.example.ts.net"
PROXY = {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}
# The example of the documentation of containerboot: everybody's first file.
USUAL = """{
  "TCP": {"443": {"HTTPS": true}},
  "Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}},
  "AllowFunnel": {"${TS_CERT_DOMAIN}:443": false}
}
"""
HTTP = {"TCP": {"80": {"HTTP": True}}}
FORWARD = {"TCP": {"80": {"TCPForward": "127.0.0.1:3000"}}}
MIXED = {"80": {"HTTP": True}, "81": {"HTTPS": True}}


def config_of(value: object, domain: str | None = DOMAIN) -> Config | None:
    """What a file with this JSON wants."""
    return fill(parse(json.dumps(value).encode()), domain)


def complaint(raw: bytes) -> str:
    """What is wrong with a file."""
    with pytest.raises(ServeConfigError) as caught:
        parse(raw)
    return str(caught.value)


def test_usual_file() -> None:
    """The domain stands wherever the placeholder was; everything else is as written."""
    file = parse(USUAL.encode())
    assert file.needs_domain
    assert fill(file, DOMAIN) == {
        "TCP": {"443": {"HTTPS": True}},
        "Web": {f"{DOMAIN}:443": PROXY},
        "AllowFunnel": {f"{DOMAIN}:443": False},
    }
    assert fill(file, None) is None
    assert fill(file, "") is None


@pytest.mark.parametrize(
    ("value", "needs"),
    [
        (HTTP, False),
        (FORWARD, False),
        ({"TCP": {"443": {"HTTPS": True}}}, True),
        ({"TCP": {"443": {"HTTPS": False, "HTTP": True}}}, False),
        ({"TCP": {"443": {"TCPForward": "localhost:5432", "TerminateTLS": "db.example.ts.net"}}}, True),
        ({"Services": {"svc:web": {"TCP": {"443": {"HTTPS": True}}}}}, True),
        ({"Services": {"svc:web": {"Tun": True}}}, False),
        ({"Web": {"${TS_CERT_DOMAIN}:80": PROXY}}, True),
        ({}, False),
    ],
)
def test_what_needs_a_certificate_domain(value: Config, needs: bool) -> None:
    """The placeholder does, and whatever is served by TLS; without a domain such a file cannot be applied."""
    assert parse(json.dumps(value).encode()).needs_domain is needs
    assert (config_of(value, None) is None) is needs


@pytest.mark.parametrize(
    "raw",
    [
        b'{"TCP":{"80":{"HTTP":true}}}',
        b'\xef\xbb\xbf{"TCP":{"80":{"HTTP":true}}}\r\n',
        b'{"tcp":{"080":{"http":true}}}',
    ],
)
def test_files_as_people_and_go_write_them(raw: bytes) -> None:
    """A byte order mark, CRLF, the case of names and zeros before a port make no difference, as for Go."""
    assert fill(parse(raw), None) == HTTP


def test_what_says_nothing_is_left_out() -> None:
    """Nulls and empty values of known names are what Go leaves out; entries of maps stay, empty or not."""
    value = {
        "TCP": {"80": {"HTTP": True, "HTTPS": False, "TCPForward": "", "ProxyProtocol": 0}, "81": {}},
        "Web": None,
        "Services": {},
        "AllowFunnel": {"a:443": False},
    }
    wanted = {"TCP": {"80": {"HTTP": True}, "81": {}}, "AllowFunnel": {"a:443": False}}
    assert config_of(value) == wanted


def test_what_is_not_known_is_handed_on() -> None:
    """A newer tailscaled may know it."""
    caps = {"/": {"Text": "hello", "AcceptAppCaps": ["example.com/cap/a"], "New": {}}}
    value = {"TCP": {"80": {"HTTP": True, "Quic": None}}, "Web": {"a:80": {"Handlers": caps}}, "Later": [1]}
    assert config_of(value) == value


def test_foreground_of_a_copied_output_is_ignored() -> None:
    """It belongs to a command that runs, not to a file."""
    assert config_of({**HTTP, "Foreground": {"a1b2": FORWARD}}) == HTTP


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is empty: write {} to serve nothing"),
        (b" \r\n", "is empty: write {} to serve nothing"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{\n "TCP": {\n  "80" {}}}', "is not JSON (line 3: "),
        (b"{", "is not JSON ("),
        (b"{} {}", "is not JSON (line 1: "),
        (b"[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        (b'{"Later": "\\ud800"}', "is not JSON ("),
        (b"null", "does not hold an object"),
        (b"[]", "does not hold an object"),
    ],
)
def test_what_is_no_file(raw: bytes, said: str) -> None:
    """Each way to be wrong has its sentence, with the line where there is one, and the decoder's own words."""
    assert complaint(raw).startswith(said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"TCP": []}, "TCP must be an object"),
        ({"TCP": {"http": {}}}, "TCP: 'http' is not a port"),
        ({"TCP": {"0": {}}}, "TCP: '0' is not a port"),
        ({"TCP": {"65536": {}}}, "TCP: '65536' is not a port"),
        ({"TCP": {"1234567": {}}}, "TCP: '1234567' is not a port"),
        ({"TCP": {"\u0661": {}}}, "TCP: '\u0661' is not a port"),
        ({"TCP": {"80": None}}, "TCP.80 must be an object"),
        ({"TCP": {"80": {"HTTP": "yes"}}}, "TCP.80.HTTP must be true or false"),
        ({"TCP": {"80": {"HTTP": 1}}}, "TCP.80.HTTP must be true or false"),
        ({"TCP": {"80": {"TCPForward": 3000}}}, "TCP.80.TCPForward must be a text"),
        ({"TCP": {"80": {"ProxyProtocol": True}}}, "TCP.80.ProxyProtocol must be a whole number"),
        ({"Web": {"a": {}}}, "Web: 'a' is not NAME:PORT"),
        ({"Web": {":80": {}}}, "Web: ':80' is not NAME:PORT"),
        ({"Web": {"a:http": {}}}, "Web: 'a:http' is not NAME:PORT"),
        ({"Web": {"a:80": None}}, "Web.a:80 must be an object"),
        ({"Web": {"a:80": {"Handlers": {"/": None}}}}, "Web.a:80.Handlers./ must be an object"),
        ({"Web": {"a:80": {"Handlers": {"x": {}}}}}, "Web.a:80.Handlers: 'x' is not a path from / on"),
        (
            {"Web": {"a:80": {"Handlers": {"/": {"AcceptAppCaps": ["a", 1]}}}}},
            "Web.a:80.Handlers./.AcceptAppCaps must be a list of texts",
        ),
        (
            {"Web": {"a:80": {"Handlers": {"/": {"AcceptAppCaps": "a"}}}}},
            "Web.a:80.Handlers./.AcceptAppCaps must be a list of texts",
        ),
        ({"Services": {"web": {}}}, "Services: 'web' is not svc:NAME"),
        ({"Services": {"svc:": {}}}, "Services: 'svc:' is not svc:NAME"),
        ({"Services": {"svc:a": {"Tun": 1}}}, "Services.svc:a.Tun must be true or false"),
        ({"AllowFunnel": {"a:443": None}}, "AllowFunnel.a:443 must be true or false"),
        ({"TCP": 1, "Web": 2}, "TCP must be an object; Web must be an object"),
        (
            {"TCP": {"a": {}, "b": {}, "c": {}, "d": {}}},
            "TCP: 'a' is not a port; TCP: 'b' is not a port; TCP: 'c' is not a port …",
        ),
    ],
)
def test_wrong_shape(value: Config, said: str) -> None:
    """The place is named; `null` where an object belongs would make tailscaled panic."""
    assert complaint(json.dumps(value).encode()) == f"is no serve config: {said}"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_any_json_is_a_config_or_a_complaint(value: Any) -> None:
    """Nothing that parses as JSON gets past the checks by an exception of another kind."""
    raw = json.dumps({"TCP": value, "Web": value, "x": value}).encode()
    with contextlib.suppress(ServeConfigError):
        assert fill(parse(raw), DOMAIN) is not None


@pytest.mark.parametrize("body", [b"null", b"{}"])
def test_daemon_without_a_config(body: bytes) -> None:
    """Never set and set to nothing are the same."""
    assert read_present(body) == {}
    assert is_same(read_present(body), config_of({}) or {})


def test_same_however_it_is_written() -> None:
    """Order, case and what says nothing do not matter; what a terminal shows is not ours."""
    present = read_present(b'{"Web":{"a:80":{"Handlers":null}},"TCP":{"80":{"HTTP":true}},"Foreground":{"s":{}}}')
    assert is_same(present, config_of({"tcp": {"80": {"HTTP": True}}, "Web": {"a:80": {}}}) or {})
    assert not is_same(present, HTTP)
    assert not is_same(read_present(b'{"TCP":{"80":{}}}'), {})


def test_terminals_keep_what_they_show() -> None:
    """A config that is set without them would end them."""
    foreground = {"a1b2": {"TCP": {"8080": {"HTTP": True}}}}
    assert replacement({"Foreground": foreground}, HTTP) == {**HTTP, "Foreground": foreground}
    assert replacement(FORWARD, HTTP) == HTTP


@pytest.mark.parametrize(
    ("present", "wanted", "step"),
    [
        ({}, HTTP, None),
        (HTTP, {}, None),
        (HTTP, {"TCP": {"80": {"HTTP": True}}, "Web": {"a:80": PROXY}}, None),
        (FORWARD, {"TCP": {"80": {"TCPForward": "127.0.0.1:9"}}}, None),
        (FORWARD, HTTP, {"TCP": {}, "Services": {}}),
        ({"TCP": {"80": {}}}, HTTP, {"TCP": {}, "Services": {}}),
        (
            {"TCP": {**MIXED, "82": {"HTTP": True}}},
            {"TCP": {"80": {"HTTP": True}, "81": {"TCPForward": "x:1", "TerminateTLS": "a"}}, "Web": {"a:80": PROXY}},
            {"TCP": {"80": {"HTTP": True}}, "Web": {"a:80": PROXY}, "Services": {}},
        ),
        (
            {"Services": {"svc:a": HTTP, "svc:b": HTTP, "svc:c": {"Tun": True}, "svc:d": HTTP}},
            {"Services": {"svc:a": FORWARD, "svc:b": HTTP, "svc:c": HTTP, "svc:e": HTTP}},
            {"TCP": {}, "Services": {"svc:b": HTTP, "svc:e": HTTP}},
        ),
    ],
)
def test_port_that_changes_what_it_serves_is_freed_first(present: Config, wanted: Config, step: Config | None) -> None:
    """tailscaled refuses the change at one go; only what clashes is taken away in between."""
    assert stepping_stone(present, wanted) == step


@pytest.mark.parametrize(
    ("wanted", "present", "places"),
    [
        (HTTP, HTTP, []),
        (HTTP, {**HTTP, "Foreground": {}}, []),
        (HTTP, {}, ["TCP"]),
        ({"TCP": {"80": {"HTTP": True, "Quic": 1}}, "Later": {}}, HTTP, ["TCP.80.Quic", "Later"]),
        ({"a": {"b": 1}}, {"a": 2}, ["a"]),
    ],
)
def test_what_the_daemon_left_out(wanted: Config, present: Config, places: list[str]) -> None:
    """The places are named, so that a misspelt word is found."""
    assert missing(wanted, present) == places


def test_services_by_name() -> None:
    """They are advertised in a fixed order."""
    assert service_names({"Services": {"svc:b": {}, "svc:a": {}}}) == ["svc:a", "svc:b"]
    assert service_names(HTTP) == []
