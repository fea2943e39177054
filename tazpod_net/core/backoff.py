"""How long to wait before the next start. Pure arithmetic, seconds."""

from tazpod_net.core.model import Policy


def delay(policy: Policy, failures: int, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1 = the first); `jitter` in [0, 1) spreads it.

    Doubles from `policy.initial` to `policy.maximum`; the jitter takes off up to a fifth, so that containers that
    fail together do not come back together, and the maximum stays the maximum.
    """
    exponent = min(max(failures - 1, 0), 30)  # 2**30 s is past any maximum, and no float overflows
    full = min(policy.maximum, policy.initial * float(2**exponent))
    return full * (1.0 - 0.2 * jitter)
