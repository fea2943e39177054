"""A bounded wait for something that another process does: the one place in the tests that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within: float = 20.0, every: float = 0.02) -> T:
    """Calls `probe` until it returns something true, and returns that.

    An AssertionError or OSError of `probe` counts as "not yet"; the last one is shown when `within` seconds are over.
    """
    deadline = time.monotonic() + within
    while True:
        last: Exception | None = None
        try:
            value = probe()
        except (AssertionError, OSError) as e:
            last = e
        else:
            if value:
                return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {last or 'the probe stayed false'}") from last
        time.sleep(every)
