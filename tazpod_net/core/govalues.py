"""Booleans and whole numbers as Go's strconv reads them, because containerboot and tailscaled do.

Owns text to value only; see `durations` for lengths of time.
"""

_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_INT64 = 1 << 63


def go_bool(text: str) -> bool:
    """The value where Go's strconv.ParseBool accepts `text`.

    Raises:
        ValueError: Go would refuse it.
    """
    if text not in _BOOLEANS:
        raise ValueError(f"{text!r} is not true or false")
    return _BOOLEANS[text]


def go_int(text: str) -> int:
    """The value where Go's strconv.Atoi accepts `text`: a sign at most, decimal digits, 64 bits.

    Raises:
        ValueError: Go would refuse it.
    """
    digits = text[1:] if text[:1] in ("+", "-") else text
    # isdecimal alone takes other alphabets' digits, int() underscores and blanks as well.
    if not (digits.isascii() and digits.isdecimal()) or not -_INT64 <= int(text) < _INT64:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)
