"""Notes that follow from what the backend says."""

import msgspec
import pytest

from tazpod_net.core.backend import Backend, Prefs
from tazpod_net.core.notes import DAY, key_expiry, other_name
from tazpod_net.core.status import Note

NOW = 1_000_000.0


def backend(days: float | None = None, **fields: object) -> Backend:
    """A backend whose node key ends in so many days."""
    ends = None if days is None else NOW + days * DAY
    return msgspec.structs.replace(Backend(state="Running", ips=("100.64.0.1",), key_ends=ends), **fields)


@pytest.mark.parametrize(
    ("days", "code", "said"),
    [
        (None, None, ""),
        (30.0, None, ""),
        (29.9, "key-expires-soon", "ends in 30 days"),
        (7.0, "key-expires-soon", "ends in 7 days"),
        (6.9, "key-expires-very-soon", "ends in 7 days"),
        (1.0, "key-expires-very-soon", "ends in 1 day"),
        (0.5, "key-expires-very-soon", "ends within a day"),
        (0.0, None, ""),
        (-3.0, None, ""),
    ],
)
def test_the_end_of_the_node_key_is_said_ahead(days: float | None, code: str | None, said: str) -> None:
    """30 and 7 days ahead; what has ended is said by the login."""
    note = key_expiry(backend(days), NOW, renews=False)
    assert (None if note is None else note.code) == code
    assert said in ("" if note is None else note.text)


def test_a_key_that_renews_itself_asks_nobody() -> None:
    """With something that mints there is no next step."""
    note = key_expiry(backend(3.0), NOW, renews=True)
    assert note is not None
    assert (note.text, note.next) == ("the node key ends in 3 days; it is renewed by itself", None)


def test_a_name_that_another_node_has_is_said() -> None:
    """`-1` is not what was asked for."""
    note = other_name(backend(hostname="dev-1"), "dev")
    assert note is not None
    assert note.text == "asked for the name dev, the tailnet gave dev-1: another node has it"


@pytest.mark.parametrize(("requested", "granted"), [("Dev_Box", "dev-box"), ("a b", "ab"), ("dev", "zz")])
def test_a_name_that_was_only_changed_is_said_as_that(requested: str, granted: str) -> None:
    """Control makes a name fit for DNS: nobody else has it."""
    note = other_name(backend(hostname=granted), requested)
    assert note == Note("name-changed", f"asked for the name {requested}, the tailnet gave {granted}")


def test_a_taken_name_may_have_been_changed_too() -> None:
    """Compared as DNS compares."""
    note = other_name(backend(hostname="dev-box-1"), "Dev_Box")
    assert note is not None
    assert note.code == "name-taken"


@pytest.mark.parametrize(
    ("granted", "requested", "prefs"),
    [
        ("dev", "dev", None),
        ("dev", "Dev", None),
        ("dev-1", None, None),
        (None, "dev", None),
        ("x", "dev", Prefs(hostname="x")),
    ],
)
def test_no_other_name_no_note(granted: str | None, requested: str | None, prefs: Prefs | None) -> None:
    """The name asked for, none asked for, none given yet, or another one that a person asked for since."""
    assert other_name(backend(hostname=granted, prefs=prefs), requested) is None
