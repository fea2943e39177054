"""Jumps of time. The machine's clock is never set: the timer is the kernel's own, what cancels it is played."""

import ctypes
import errno
import os
import re
import resource
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.adapters import clockjump
from tazpod_net.adapters.clockjump import SMALLEST, CancelTimer, ClockJump, Offsets, jump, read_offsets

DAYS = st.floats(-1e7, 1e7)


class Machine:
    """Clocks that a test can move, and the timer that the kernel would cancel then."""

    def __init__(self) -> None:
        self.offsets = Offsets(wall=1_795_435_200.0, slept=12.0)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.refuses = False
        self.armed = 0

    def arm(self) -> None:
        """As the timer: what was told is taken away."""
        self.armed += 1
        if self.refuses:
            raise OSError(errno.EPERM, "Operation not permitted")
        if is_readable(self.fd):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """As the timer."""
        os.close(self.fd)

    def move(self, *, wall: float = 0.0, slept: float = 0.0) -> None:
        """Sets the clock, or suspends and resumes; the kernel tells both in the same way."""
        self.offsets = Offsets(self.offsets.wall + wall, self.offsets.slept + slept)
        os.eventfd_write(self.fd, 1)


def is_readable(fd: int) -> bool:
    """Whether a loop would be woken."""
    return bool(select.select([fd], [], [], 0)[0])


@pytest.fixture
def machine() -> Machine:
    """A machine at noon that slept for 12 s since its boot."""
    return Machine()


@pytest.fixture
def watching(machine: Machine) -> Iterator[Callable[[], ClockJump]]:
    """Makes the watch of that machine and closes it."""
    made: list[ClockJump] = []

    def one() -> ClockJump:
        made.append(ClockJump(lambda: machine, lambda: machine.offsets))
        return made[-1]

    yield one
    for watch in made:
        watch.close()


@pytest.mark.parametrize(
    ("wall", "slept", "seconds"),
    [
        (0.0, 0.0, 0.0),
        (3600.0, 0.0, 3600.0),
        (-86400.0, 0.0, -86400.0),
        (600.0, 600.0, 600.0),  # a suspend: the wall clock went on
        (0.0, 600.0, 600.0),  # a suspend, and a clock that stood still
        (-30.0, 600.0, 600.0),
        (-7200.0, 600.0, -7200.0),
        (SMALLEST / 2, 0.0, 0.0),
        (-SMALLEST / 2, SMALLEST / 4, 0.0),
        (2 * SMALLEST, 0.0, 2 * SMALLEST),
    ],
)
def test_jump(wall: float, slept: float, seconds: float) -> None:
    """Set forward or back, or suspended: the farther of the two counts, less than a tenth of a second does not."""
    assert jump(Offsets(0.0, 0.0), Offsets(wall, slept)) == seconds


@given(DAYS, DAYS)
def test_setting_the_clock_back_undoes_setting_it(wall: float, later: float) -> None:
    """There and back is the same distance in the other direction."""
    assert jump(Offsets(wall, 0), Offsets(later, 0)) == -jump(Offsets(later, 0), Offsets(wall, 0))


def test_each_jump_is_told_once(machine: Machine, watching: Callable[[], ClockJump]) -> None:
    """It wakes, says how far, and waits for the next one."""
    watch = watching()
    assert not is_readable(watch.fd)
    for moved, seconds in (({"wall": 3600.0}, 3600.0), ({"wall": -60.0}, -60.0), ({"wall": 9.0, "slept": 9.0}, 9.0)):
        machine.move(**moved)
        assert is_readable(watch.fd)
        assert watch.drain() == pytest.approx(seconds)
        assert not is_readable(watch.fd)
        assert watch.drain() == 0.0
    assert watch.trouble is None


def test_jump_during_a_drain_is_not_lost(
    machine: Machine, watching: Callable[[], ClockJump], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer is armed before the clocks are read: what comes in between wakes again."""
    watch = watching()
    machine.move(wall=10.0)

    def read() -> Offsets:
        machine.move(wall=5.0)
        return machine.offsets

    monkeypatch.setattr(watch, "_read", read)
    assert watch.drain() == pytest.approx(15.0)
    assert is_readable(watch.fd)


def test_without_a_timer_it_knows_when_asked(machine: Machine) -> None:
    """A sandbox that refuses the timer: the descriptor stays silent, `drain` compares nevertheless."""

    def refuse() -> Machine:
        raise OSError(errno.ENOSYS, "Function not implemented")

    watch = ClockJump(refuse, lambda: machine.offsets)
    assert watch.trouble == "jumps of the clock are not told by the kernel (function not implemented)"
    machine.move(wall=60.0)
    assert not is_readable(watch.fd)
    assert watch.drain() == pytest.approx(60.0)
    watch.close()
    machine.close()


def test_timer_that_cannot_be_armed_is_said(machine: Machine, watching: Callable[[], ClockJump]) -> None:
    """The reason is kept; asking goes on."""
    machine.refuses = True
    watch = watching()
    machine.move(wall=60.0)
    assert watch.drain() == pytest.approx(60.0)
    assert watch.trouble == "jumps of the clock are not told by the kernel (operation not permitted)"
    assert machine.armed == 2


def test_kernel_has_the_timer_as_meant() -> None:
    """On the wall clock, at an absolute time, cancelled on a set clock: the kernel's own account of it."""
    watch = ClockJump()
    try:
        for _ in range(2):
            told = Path(f"/proc/self/fdinfo/{watch.fd}").read_text()
            assert re.search(r"^clockid: 0$", told, re.MULTILINE)
            assert re.search(r"^settime flags: 03$", told, re.MULTILINE)
            assert int(re.search(r"^it_value: \((\d+),", told, re.MULTILINE)[1]) > 10 * 365 * 86400  # type: ignore[index]
            assert not is_readable(watch.fd)
            assert watch.drain() == 0.0
        assert not os.get_inheritable(watch.fd)
        assert watch.trouble is None
    finally:
        watch.close()


def test_clock_set_while_arming_is_armed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers ECANCELED then; nothing else is tried twice, and ECANCELED not for ever."""
    timer = CancelTimer()
    answers: list[int] = []
    asked: list[int] = []

    class Libc:
        """Says what was planned."""

        @staticmethod
        def timerfd_settime(fd: int, *_: object) -> int:
            """Notes the call."""
            asked.append(fd)
            ctypes.set_errno(answers.pop(0))
            return -1 if ctypes.get_errno() else 0

    monkeypatch.setattr(timer, "_libc", Libc)
    answers[:] = [errno.ECANCELED, errno.ECANCELED, 0]
    timer.arm()
    assert asked == [timer.fd] * 3
    answers[:] = [errno.EINVAL]
    with pytest.raises(OSError, match="Invalid argument"):
        timer.arm()
    answers[:] = [errno.ECANCELED] * 100
    with pytest.raises(OSError, match="canceled"):
        timer.arm()
    timer.close()


def test_no_descriptor_left_is_an_error() -> None:
    """Not even a silent one can be had then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            ClockJump()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_interrupted_reading_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process runs between the readings of two clocks, they are read again; not for ever."""
    now = time.monotonic_ns()
    interrupted = [now, now + 10**9]
    ticks = iter([*interrupted, now, now + 1000, *interrupted * 3])
    clocks = SimpleNamespace(
        CLOCK_REALTIME=5,
        CLOCK_BOOTTIME=7,
        monotonic_ns=lambda: next(ticks),
        clock_gettime_ns=lambda clock: now + clock * 10**9,
    )
    monkeypatch.setattr(clockjump, "time", clocks)
    expected = Offsets(wall=5.0, slept=7.0)
    assert read_offsets() == expected
    assert read_offsets() == expected
    assert list(ticks) == []


def test_offsets_are_those_of_the_clocks() -> None:
    """The wall clock's is the time of day, the other one is the time that this machine slept."""
    before = time.time() - time.monotonic()
    offsets = read_offsets()
    assert offsets.wall == pytest.approx(before, abs=5.0)
    assert offsets.slept > -SMALLEST
    assert jump(offsets, read_offsets()) == 0.0
