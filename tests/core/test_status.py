"""The status object as bytes: other versions read it, and we read theirs."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.report import Clock, build
from tazpod_net.core.status import SCHEMA, Status, from_json, steady, to_json, to_pretty_json
from tests.support.fakes import NOON, known

DEEP = b'{"checked_at":"","settings_drift":[{"setting":"x","actual":0,"wanted":' + b"[" * 99_999


def test_round_trip() -> None:
    """What was written is read back the same."""
    status = build(known(restarts=2))
    assert from_json(to_json(status)) == status


def test_one_line() -> None:
    """`--watch --json` prints one object a line: there is no newline inside."""
    assert b"\n" not in to_json(build(known()))


def test_pretty_is_the_same_object() -> None:
    """What a person reads is the same object, indented, with a newline at its end."""
    status = build(known())
    pretty = to_pretty_json(status)
    assert json.loads(pretty) == json.loads(to_json(status))
    assert (pretty[:4], pretty[-3:]) == (b"{\n  ", b"\n}\n")


def test_a_newer_version_may_say_more() -> None:
    """Keys that this version does not know are passed over, at every level."""
    status = build(known())
    newer = json.loads(to_json(status)) | {"novelty": [1, 2]}
    newer["daemon"]["colour"] = "blue"
    newer["notes"] = [{"code": "x", "text": "y", "next": None, "since": 1}]
    read = from_json(json.dumps(newer).encode())
    assert (read.daemon, read.notes[0].code, read.schema) == (status.daemon, "x", SCHEMA)


def test_an_older_version_may_say_less() -> None:
    """Keys that an older version did not write are what they are when unknown."""
    assert from_json(b'{"checked_at": "2026-11-23T12:00:00Z"}') == Status(checked_at="2026-11-23T12:00:00Z")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"checked_at": 1}', b"\xff", DEEP], ids=len)
def test_garbage_is_one_kind_of_error(data: bytes) -> None:
    """A file that was cut off is an error that readers expect."""
    with pytest.raises(msgspec.DecodeError):
        from_json(data)


def test_what_changes_by_itself_is_no_change() -> None:
    """Time, ages and memory alone are no news; anything else is."""
    status = build(known())
    minute_later = build(known(rss_bytes=1, clock=Clock(20_060.0, NOON + 60)))
    assert minute_later != status
    assert steady(minute_later) == steady(status)
    assert steady(build(known(restarts=1))) != steady(status)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes of a status file lead to another exception."""
    try:
        status = from_json(data)
    except msgspec.DecodeError:
        return
    assert isinstance(status, Status)
