"""Which name a node asks for, and whether its identity will last."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.identity import choose_hostname, dns_label, identity_risk, looks_like_container_id
from tazpod_net.core.status import IdentityPart


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("0123456789ab", True),
        ("deadbeefcafe", True),
        ("0123456789a", False),
        ("0123456789abc", False),
        ("0123456789aB", False),
        ("workstation1", False),
    ],
)
def test_container_ids(name: str, is_one: bool) -> None:
    """Twelve lower-case hexadecimal digits are a container's id and say nothing."""
    assert looks_like_container_id(name) is is_one


@pytest.mark.parametrize(
    ("configured", "hostname", "folder", "host_network", "name"),
    [
        ("build-1", "0123456789ab", "/workspace", True, "build-1"),
        ("", "laptop", "/workspace", False, ""),
        ("auto", "devbox", "/workspace", False, "devbox"),
        ("auto", "devbox.example.com", "/workspace", False, "devbox"),
        ("auto", "0123456789ab", "/workspace/my_app", False, "tazpod-my-app"),
        ("auto", "laptop", "/home/me/My App/", True, "tazpod-my-app"),
        ("auto", "localhost", "/", False, "tazpod-dev"),
        ("auto", "", "/srv/x", False, "tazpod-x"),
    ],
)
def test_chosen_name(configured: str, hostname: str, folder: str, host_network: bool, name: str) -> None:
    """The configured name; else the machine's own, unless it is an id, nothing, or the host's."""
    assert choose_hostname(configured, hostname, folder, host_network=host_network) == name


@pytest.mark.parametrize(
    ("text", "label"),
    [("Ein Büro__1", "ein-b-ro-1"), ("---", "tazpod"), ("x" * 80, "x" * 63), ("a" * 62 + "-b", "a" * 62)],
)
def test_labels(text: str, label: str) -> None:
    """What is no letter, digit or hyphen becomes one hyphen; nothing begins or ends with one."""
    assert dns_label(text) == label


@given(st.text())
def test_every_label_is_valid(text: str) -> None:
    """Whatever a folder is called, control accepts the name (RFC 1123)."""
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", dns_label(text))


@pytest.mark.parametrize(
    ("identity", "in_container", "word"),
    [
        (IdentityPart("persist", "/h/state", "tmpfs"), True, "in memory"),
        (IdentityPart("persist", "/h/state", "tmpfs"), False, "in memory"),
        (IdentityPart("persist", "/h/state", "container layer"), True, "container's own layer"),
        (IdentityPart("persist", "/h/state", "container layer"), False, None),
        (IdentityPart("persist", "/h/state", "mount"), True, None),
        (IdentityPart("persist", "/h/state", None), True, None),
        (IdentityPart("ephemeral", "/h/state", "tmpfs"), True, None),
    ],
)
def test_risk(identity: IdentityPart, in_container: bool, word: str | None) -> None:
    """An identity that is meant to last and will not is told, with what to do; nothing else is."""
    note = identity_risk(identity, in_container=in_container)
    if word is None:
        assert note is None
    else:
        assert note is not None
        assert word in note.text
        assert note.next == 'mount a volume at /h/state, or set daemon.state = "ephemeral"'
