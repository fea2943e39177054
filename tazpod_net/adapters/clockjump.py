"""Tells when the wall clock was set, or the machine was suspended and resumed.

Owns a timer that never ends and is cancelled by either (`man 2 timerfd_create`, TFD_TIMER_CANCEL_ON_SET), and the
comparison of the clocks that says how far. It must not set a clock, and decides nothing. Waits that are told in
monotonic time (the loop's) stand still while the machine is suspended; whoever must act on time asks again after this.
"""

import ctypes
import errno
import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

SMALLEST = 0.1  # seconds; what is less matters to nobody, and a reading that is interrupted may be off by some

_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_NEVER = (1 << (8 * ctypes.sizeof(ctypes.c_long) - 1)) - 1  # seconds since the epoch: the largest time_t
_ATTEMPTS = 10  # at arming, should the clock be set again and again in that instant
_READINGS = 3
_INSTANT = 1_000_000  # nanoseconds


class Offsets(msgspec.Struct, frozen=True):
    """Seconds by which clocks are ahead of CLOCK_MONOTONIC, which stands still in a suspend and is never set.

    `wall` (CLOCK_REALTIME) changes by both; `slept` (CLOCK_BOOTTIME) only grows, by the time spent suspended.
    """

    wall: float
    slept: float


def read_offsets() -> Offsets:
    """The offsets of this moment (`man 2 clock_gettime`), read again if something came between the clocks."""
    for _ in range(_READINGS):
        now = time.monotonic_ns()
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if time.monotonic_ns() - now < _INSTANT:
            break
    return Offsets((wall - now) / 1e9, (boot - now) / 1e9)


def jump(before: Offsets, after: Offsets) -> float:
    """Seconds by which time jumped: those suspended, else those by which the wall clock was set (back: negative).

    A clock set back while the machine slept must not hide the sleep: whichever is farther counts. 0.0 if it is less
    than SMALLEST: slewing (`man 2 adjtimex`) moves both clocks alike and is no jump.
    """
    farthest = max(after.wall - before.wall, after.slept - before.slept, key=abs)
    return farthest if abs(farthest) >= SMALLEST else 0.0


class Timer(Protocol):
    """The timer, so that tests need not set the machine's clock."""

    fd: int

    def arm(self) -> None:
        """Waits for the next discontinuity; `fd` is not readable until then. Raises OSError."""

    def close(self) -> None:
        """Ends it."""


class ClockJump:
    """`fd` is readable when time jumped; `drain` says how far and waits for the next jump.

    `trouble` says why `fd` will never be readable (a sandbox without timerfd); `drain` knows nevertheless.
    """

    def __init__(
        self,
        make: Callable[[], Timer] | None = None,
        read: Callable[[], Offsets] = read_offsets,
    ) -> None:
        """Tests give their own `make` and `read`. Raises OSError (EMFILE) if this process has no descriptor left."""
        self.trouble: str | None = None
        self._read = read
        try:
            self._timer: Timer = (make or CancelTimer)()
        except OSError as e:
            self._timer = _Silent()
            self._untold(e)
        self._arm()
        self._last = read()

    @property
    def fd(self) -> int:
        """For `loop.add_reader`."""
        return self._timer.fd

    def drain(self) -> float:
        """Seconds that time jumped since the last call, 0.0 if it did not; may be called at any time."""
        self._arm()
        before, self._last = self._last, self._read()
        return jump(before, self._last)

    def close(self) -> None:
        """Ends the timer."""
        self._timer.close()

    def _arm(self) -> None:
        """Before the clocks are read: a jump in between is told twice, not never."""
        try:
            self._timer.arm()
        except OSError as e:
            self._untold(e)

    def _untold(self, e: OSError) -> None:
        self.trouble = f"jumps of the clock are not told by the kernel ({(e.strerror or str(e)).lower()})"


class CancelTimer:
    """A timerfd on CLOCK_REALTIME that becomes readable only because the clock was set, or by a resume."""

    def __init__(self) -> None:
        """Raises OSError: the kernel or a sandbox refuses."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        # TFD_CLOEXEC and TFD_NONBLOCK are these numbers by definition.
        self.fd = int(self._libc.timerfd_create(time.CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        if self.fd < 0:
            raise _last_error()

    def arm(self) -> None:
        """Takes a cancellation away and waits for the next one. Raises OSError."""
        # struct itimerspec: no interval, then the end. Arming says ECANCELED if the clock was set since it was told.
        spec = (ctypes.c_long * 4)(0, 0, _NEVER, 0)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        for _ in range(_ATTEMPTS):
            if self._libc.timerfd_settime(self.fd, flags, spec, None) == 0:
                return
            if ctypes.get_errno() != errno.ECANCELED:
                break
        raise _last_error()

    def close(self) -> None:
        """Closes it."""
        os.close(self.fd)


class _Silent:
    """Stands in where no timer is to be had."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0)

    def arm(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Closes it."""
        os.close(self.fd)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
