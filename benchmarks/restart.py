"""The daemon killed after a stable run, until it is `Running` again, beside a tailscaled started again by hand."""

import os
import signal
import time

from benchmarks.contestants import BY_HAND, OURS, ByHand, Tazpod
from benchmarks.figures import Budget, Section, Series, Table
from benchmarks.rounds import calm, rotate
from benchmarks.stage import NotHereError, Stage
from benchmarks.watching import wait_for_end, wait_running
from tests.support.lab import Mode

STABLE_S = 0.2
HOW = (
    "Both have run and are logged in; then `kill -9` of the daemon. tazpod-net: from the kill until the new daemon is "
    f"`Running` by LocalAPI (looked at every 2 ms), `restart.stable_s` set to {STABLE_S} so that each run counts as "
    "stable. By hand: the old process reaped, then from the exec of tailscaled with the same saved state; nobody at a "
    "keyboard is that fast."
)


def run(*, quick: bool) -> Section:
    """Both modes; TUN where it can be had."""
    parts: list[Table] = []
    notes: list[str] = []
    for mode in ("userspace", "tun"):
        try:
            parts.append(_measure(mode, rounds=2 if quick else 20))
        except NotHereError as e:
            notes.append(f"{mode}: {e}")
    return Section("restart", "killed daemon to Running again", HOW, parts, notes)


def _measure(mode: Mode, *, rounds: int) -> Table:
    """Each on a stage of its own: two TUN daemons do not fit into one network namespace."""
    with Stage(mode) as ours, Stage(mode) as other:
        tazpod = Tazpod(ours, mode, TAZPOD_NET_RESTART_STABLE_S=str(STABLE_S))
        tazpod.up()
        by_hand = ByHand(other, mode)
        by_hand.start_daemon()
        by_hand.log_in()
        samples = rotate({OURS: lambda: _ours(tazpod), BY_HAND: lambda: _by_hand(by_hand)}, rounds)
        tazpod.stop()
        by_hand.stop()
    series = [Series(OURS, samples[OURS], Budget(1.25)), Series(BY_HAND, samples[BY_HAND])]
    return Table(f"Running again, {mode}", "ms", series, reference=BY_HAND)


def _ours(tazpod: Tazpod) -> float:
    wait_running(tazpod.socket)
    time.sleep(2 * STABLE_S)  # a stable run, and its last writes done
    daemon = tazpod.daemon
    calm()
    killed = time.monotonic()
    os.kill(daemon, signal.SIGKILL)
    wait_for_end(daemon)
    return (wait_running(tazpod.socket) - killed) * 1000


def _by_hand(by_hand: ByHand) -> float:
    wait_running(by_hand.socket)
    time.sleep(2 * STABLE_S)
    calm()
    by_hand.kill_daemon()
    began = by_hand.start_daemon()
    return (wait_running(by_hand.socket) - began) * 1000
