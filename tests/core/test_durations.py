"""Durations: what people and Go write, and what neither may."""

import pytest

from tazpod_net.core.durations import FORMS, parse_duration, parse_go_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("2.5", 2.5),
        (" 30s ", 30.0),
        ("30s", 30.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1h1.5m", 3690.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("250us", 0.00025),
        ("250\u00b5s", 0.00025),
        ("250\u03bcs", 0.00025),
        ("5ns", 5e-9),
        ("9223372036s", 9223372036.0),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    """Numbers are seconds, units may be combined, blanks around do not matter."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", ".", ".s", "1.2.3", "1.2.3s", "-1", "-1s", "+1s", "+1", "1x", "1d", "1 s", "1s x", "30s5",
     "\u0663s", "\u0663", "1e3", "inf", "nan", "9223372037", "9223372037s", "2562048h"],
)  # fmt: skip
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    """No sign, no unknown unit, no exponent, no endless time."""
    with pytest.raises(ValueError, match=r"duration|292 years|convert"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("-0", 0.0), ("-1.5s", -1.5), ("+2m", 120.0), ("60s", 60.0)])
def test_go_accepts_signs_and_needs_units(text: str, seconds: float) -> None:
    """The strict form is Go's own."""
    assert parse_go_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "60", "--1s", " 1s", "1s ", "+", "-"])
def test_go_refuses_plain_numbers_and_blanks(text: str) -> None:
    """What Go's time.ParseDuration refuses is refused, because a process that got it would exit."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_go_duration(text)


def test_the_forms_named_in_error_texts_are_accepted() -> None:
    """An error must not recommend what is refused."""
    for form in FORMS.replace(" or ", ", ").split(", "):
        assert parse_duration(form) > 0
