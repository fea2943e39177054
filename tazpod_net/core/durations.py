"""Lengths of time as people write them: `30`, `30s`, `2m`, `1h`, `500ms`, `1m30s`.

Owns text to seconds, and nothing else: limits and error texts belong to whoever asked for the duration.
"""

FORMS = "30, 30s, 2m, 1h or 500ms"

# Units and spellings of Go's time.ParseDuration, because containerboot and tailscaled read theirs with it.
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,  # the micro sign
    "\u03bcs": 1e-6,  # the Greek letter
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DIGITS = "0123456789."
_LONGEST_S = 9_223_372_036.0  # Go counts nanoseconds in 63 bits: 292 years


def parse_duration(text: str) -> float:
    """Seconds, 0 or more: a plain number of seconds or Go's form.

    Raises:
        ValueError: `text` is neither, negative, or longer than 292 years.
    """
    number = text.strip()
    if number and not number.strip(_DIGITS):
        return _bounded(float(number), text)
    if number[:1] in ("+", "-"):
        raise ValueError(f"{text!r} is not a duration")
    return parse_go_duration(number)


def parse_go_duration(text: str) -> float:
    """Seconds, negative ones too, exactly where Go's time.ParseDuration accepts `text`: a unit is needed.

    Raises:
        ValueError: Go would refuse it.
    """
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    seconds = 0.0
    while True:
        number, unit, rest = _first_part(rest)
        if unit not in _SECONDS or not number.strip("."):
            raise ValueError(f"{text!r} is not a duration")
        seconds += float(number) * _SECONDS[unit]
        if not rest:
            return sign * _bounded(seconds, text)


def _first_part(text: str) -> tuple[str, str, str]:
    """Cut `1m30s` into `1`, `m` and `30s`."""
    tail = text.lstrip(_DIGITS)
    number = text[: len(text) - len(tail)]
    end = next((index for index, letter in enumerate(tail) if letter in _DIGITS), len(tail))
    return number, tail[:end], tail[end:]


def _bounded(seconds: float, text: str) -> float:
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than 292 years")
    return seconds
