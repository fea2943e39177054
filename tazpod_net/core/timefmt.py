"""Times as text. Pure: the clock is read elsewhere."""

import time
from datetime import datetime  # msgspec has loaded it already


def rfc3339(epoch: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds, `2026-11-23T14:02:11.250Z`."""
    whole, milliseconds = divmod(int(epoch * 1000 + 0.001), 1000)  # a float's .050 may be .0499999
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def seconds(value: float) -> str:
    """A length of time as it was asked for: `30 s`, `0.5 s`."""
    return f"{round(value, 1):g} s"


def parse_rfc3339(text: str) -> float | None:
    """Seconds since the epoch, or None if it is no RFC 3339 time (Go prints up to nine digits of a second)."""
    head, _, rest = text.partition(".")
    zone = rest.lstrip("0123456789")
    decimals = rest.removesuffix(zone) if zone else rest
    try:
        read = datetime.fromisoformat(head + zone)
        return None if read.tzinfo is None else read.timestamp() + float(f"0.{decimals or 0}")
    except ValueError:
        return None


def local_time(shifted: float) -> tuple[str, str]:
    """(`2026-11-23`, `14:02`) for seconds since the epoch that the offset from UTC has been added to."""
    day, _, minute = time.strftime("%Y-%m-%d %H:%M", time.gmtime(shifted)).partition(" ")
    return day, minute
