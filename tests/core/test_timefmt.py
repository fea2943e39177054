"""Times as text."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.timefmt import local_time, parse_rfc3339, rfc3339, seconds

epochs = st.floats(0.0, 4e9)


@pytest.mark.parametrize(
    ("epoch", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_435_200.0, "2026-11-23T12:00:00.000Z"),
        (1_795_435_200.25, "2026-11-23T12:00:00.250Z"),
        (1_795_435_199.9999, "2026-11-23T11:59:59.999Z"),
    ],
)
def test_rfc3339(epoch: float, text: str) -> None:
    """Seconds since the epoch as UTC with milliseconds, cut, so that no time is in the future."""
    assert rfc3339(epoch) == text


@given(epochs)
def test_what_was_written_can_be_read(epoch: float) -> None:
    """Reading a written time gives it back to the millisecond."""
    read = parse_rfc3339(rfc3339(epoch))
    assert read is not None
    assert abs(epoch - read) < 0.0011


@given(epochs)
def test_always_of_one_form(epoch: float) -> None:
    """Readers may rely on the form, and sort times as text."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rfc3339(epoch))
    assert rfc3339(epoch) <= rfc3339(epoch + 1.0)


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("2026-11-23T12:00:00Z", 1_795_435_200.0),
        ("2026-11-23T12:00:00.125000000Z", 1_795_435_200.125),
        ("2026-11-23T13:00:00+01:00", 1_795_435_200.0),
        ("2026-11-23T13:00:00.5+01:00", 1_795_435_200.5),
        ("2026-11-23T12:00:00", None),
        ("2026-11-23T12:00:00.5", None),
        ("2026-11-23T12:00:00.Z", 1_795_435_200.0),
        ("0001-01-01T00:00:00Z", -62_135_596_800.0),
        ("", None),
        ("tomorrow", None),
        ("2026-13-41T00:00:00Z", None),
    ],
)
def test_reads_what_go_prints(text: str, epoch: float | None) -> None:
    """Any number of decimals, any offset, Go's zero time; what is no time, or has no zone, is None."""
    assert parse_rfc3339(text) == epoch


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """Whatever a daemon sends as a time, reading it is safe."""
    assert parse_rfc3339(text) is None or any(c.isdigit() for c in text)


@given(epochs, st.integers(-14 * 3600, 14 * 3600))
def test_local_time_is_the_shifted_utc(epoch: float, east: int) -> None:
    """Day and minute of a place are those of UTC that many seconds later."""
    there = datetime.fromtimestamp(int(epoch), UTC) + timedelta(seconds=east)
    assert local_time(int(epoch) + east) == (there.strftime("%Y-%m-%d"), there.strftime("%H:%M"))


@pytest.mark.parametrize(("value", "text"), [(30.0, "30 s"), (0.5, "0.5 s"), (120, "120 s")])
def test_seconds(value: float, text: str) -> None:
    """A length of time as it was asked for."""
    assert seconds(value) == text
