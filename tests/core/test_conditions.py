"""What one can wait for."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.conditions import CONDITIONS, Condition, parse
from tazpod_net.core.status import Status
from tazpod_net.errors import UsageError


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_state_is_a_question_that_a_status_answers(name: str) -> None:
    """Every state that can be named can be asked of a status."""
    assert (str(parse(name)), parse(name).is_state) == (name, True)
    assert msgspec.convert({"checked_at": "", name: True}, Status).answers(name) is True
    assert Status(checked_at="").answers(name) is False


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("peer:vault", Condition("peer", "vault")),
        ("peer:Vault.Example.ts.net.", Condition("peer", "vault.example.ts.net")),
        ("peer:100.64.0.7", Condition("peer", "100.64.0.7")),
        ("peer:FD7A:115c:a1e0::7", Condition("peer", "fd7a:115c:a1e0::7")),
        ("peer:tag:Server", Condition("peer", "tag:Server")),
        ("tcp:vault:8200", Condition("tcp", "vault", 8200)),
        ("tcp:10.0.0.5:1", Condition("tcp", "10.0.0.5", 1)),
        ("tcp:[fd7a:115c:a1e0::7]:65535", Condition("tcp", "fd7a:115c:a1e0::7", 65535)),
        ("name:db.example.ts.net.", Condition("name", "db.example.ts.net")),
        ("name:_srv.x", Condition("name", "_srv.x")),
    ],
)
def test_what_can_be_named(text: str, condition: Condition) -> None:
    """Names in any case and with a last dot, addresses of both families, tags; and the way back."""
    assert parse(text) == condition
    assert parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a condition: use live, ready, online, peer:NAME, tcp:HOST:PORT or name:FQDN"),
        ("Ready", "is not a condition"),
        ("host:x", "is not a condition"),
        ("peer:", "names no peer"),
        ("peer:a b", "names no peer"),
        ("peer:tag:", "names no peer"),
        ("peer:-a", "names no peer"),
        ("tcp:vault", "has no port from 1 to 65535: write tcp:HOST:PORT, an IPv6 address as tcp:[ADDRESS]:PORT"),
        ("tcp:vault:ssh", "has no port"),
        ("tcp:vault:0", "has no port"),
        ("tcp:vault:65536", "has no port"),
        ("tcp:vault:²", "has no port"),
        ("tcp::80", "is neither a host name nor an address"),
        ("tcp:fd7a::1:80", "'fd7a::1' is neither a host name nor an address: write tcp:HOST:PORT, an IPv6"),
        ("tcp:[vault]:80", "is neither"),
        ("tcp:http://x:80", "is neither"),
        ("name:", "is not a host name"),
        ("name:10.0.0.1", "is an address already"),
        ("name:bücher.example", "is not a host name"),
        ("name:a..b", "is not a host name"),
        ("name:a\r\nHost: b", "is not a host name"),
        ("name:" + "a" * 64, "is not a host name"),
    ],
)
def test_others_are_refused(text: str, said: str) -> None:
    """Wrong usage, with what would be right."""
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


@given(st.text(st.sampled_from("peertcname:.[]0123459af-_ \n"), max_size=40))
def test_whatever_is_accepted_is_safe_and_stable(text: str) -> None:
    """No blank, no control character, nothing that would mean something in a header or a query; read twice the same."""
    try:
        condition = parse(text)
    except UsageError:
        return
    assert set(condition.what) <= set("abcdefghijklmnopqrstuvwxyz0123456789.:_-") | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert parse(str(condition)) == condition
