"""The delay before the next start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.backoff import delay
from tazpod_net.core.model import Policy

counts = st.integers(0, 10**9)
jitters = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (9, 60.0), (10**6, 60.0)]
)
def test_doubles_up_to_the_longest(failures: int, seconds: float) -> None:
    """Without jitter: the first delay, doubled with each failure, never above the longest."""
    assert delay(Policy(), failures, 0.0) == seconds


@given(counts, jitters)
def test_jitter_takes_off_a_fifth_at_most(failures: int, jitter: float) -> None:
    """Containers that fail together come back apart, and none waits longer than the maximum."""
    full = delay(Policy(), failures, 0.0)
    assert 0.8 * full <= delay(Policy(), failures, jitter) <= full


@given(counts, jitters)
def test_more_failures_never_wait_less(failures: int, jitter: float) -> None:
    """With the same jitter the delay never shrinks."""
    assert delay(Policy(), failures, jitter) <= delay(Policy(), failures + 1, jitter)


def test_the_configured_times_count() -> None:
    """`restart.initial_s` and `restart.max_s` are the ends of the row."""
    policy = Policy(initial=3.0, maximum=10.0)
    assert [delay(policy, n, 0.0) for n in (1, 2, 3)] == [3.0, 6.0, 10.0]
