"""The supervisor, its session and its service on a virtual clock: histories of hours with exact times.

Only the loop's descriptors and, for clients, the control socket are real. `World` is in tests/support/fakes.py.
"""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Self

import msgspec
import pytest

from tazpod_net.core import events, protocol
from tazpod_net.core.argv import Wanted
from tazpod_net.core.exits import ExitStatus
from tazpod_net.core.login import Code, Minted
from tazpod_net.core.model import Policy, State
from tazpod_net.core.protocol import Request, encode_request
from tazpod_net.core.status import Status, from_json
from tazpod_net.errors import ConfigError
from tazpod_net.service import Actions, Service
from tazpod_net.session import Plan
from tests.support import jumploop
from tests.support.fakes import Life, World, fails
from tests.support.jumploop import JumpLoop, NothingHappensError

CRASHES = Life(ends_after=0.5, says=("2026/11/23 18:47:16 panic: boom",))
SILENT = Life(answers_after=None)
STUBBORN = Life(obeys_after=None)
SIGKILL = ExitStatus(signal=9)


def codes(status: Status) -> list[str]:
    """The codes of a status's notes."""
    return [note.code for note in status.notes]


class TestClock:
    """The virtual clock itself."""

    def test_an_hour_takes_no_time_and_is_exact(self) -> None:
        """Sleeping moves the clock, by what was asked for."""

        async def main() -> float:
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(3600.25)
            return asyncio.get_running_loop().time() - began

        assert jumploop.run(main()) == 3600.25

    def test_waiting_for_ever_is_an_error(self) -> None:
        """A test that would hang fails at once."""

        async def main() -> None:
            await asyncio.Event().wait()

        with pytest.raises(NothingHappensError):
            jumploop.run(main())

    def test_an_error_in_a_callback_is_an_error_of_the_test(self) -> None:
        """Nothing that goes wrong beside the test's own task is lost."""

        async def main() -> None:
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(1)

        with pytest.raises(AssertionError, match="in a callback"):
            jumploop.run(main())


class TestLife:
    """From nothing to ready, and to the end."""

    def test_start_and_orderly_stop(self) -> None:
        """Spawned once, ready when the backend runs, SIGTERM once, ended when the daemon has ended."""

        async def main() -> None:
            async with World(Life()) as world:
                status = await world.up()
                assert (status.supervisor.state, status.daemon.pid, world.at) == ("up", 412, 0.05)
                await asyncio.sleep(10)
                world.supervisor.stop("down")
                assert world.running is not None
                await world.running
                assert world.daemon.told() == [(0.0, "spawn"), (10.05, "terminate 412")]
                assert world.at == 10.25
                assert world.store.published[-1].supervisor.state == "down"

        jumploop.run(main())

    def test_a_daemon_that_ignores_sigterm_is_killed_after_the_grace(self) -> None:
        """SIGTERM, 25 s, SIGKILL; then it is down."""

        async def main() -> None:
            async with World(STUBBORN) as world:
                await world.up()
                world.supervisor.stop("down")
                assert world.running is not None
                await world.running
                assert world.daemon.told()[1:] == [(0.05, "terminate 412"), (25.051, "kill 412")]

        jumploop.run(main())

    def test_a_shorter_grace_for_one_stop(self) -> None:
        """`down --timeout 2` counts from now, also during a stop that has begun with the long grace."""

        async def main() -> None:
            async with World(STUBBORN) as world:
                await world.up()
                world.supervisor.feed(events.WantRestart)
                await asyncio.sleep(5)
                world.supervisor.stop("down", timeout=2.0)
                assert world.running is not None
                await world.running
                assert world.daemon.told()[1:] == [(0.05, "terminate 412"), (7.051, "kill 412")]

        jumploop.run(main())

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stop_by_signal(self, number: signal.Signals) -> None:
        """SIGTERM and SIGINT stop daemon and supervisor in order; the stop does not stick."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                os.kill(os.getpid(), number)
                assert world.running is not None
                await world.running
                assert world.daemon.told("terminate") == [(0.05, "terminate 412")]
                assert (world.supervisor.stopped_by, world.store.published[-1].wanted) == (number.name, "up")

        jumploop.run(main())

    def test_sighup_reloads(self) -> None:
        """SIGHUP is `reload`."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                reloaded = asyncio.Event()
                world.supervisor.reload = reloaded.set
                os.kill(os.getpid(), signal.SIGHUP)
                async with asyncio.timeout(5):
                    await reloaded.wait()

        jumploop.run(main())

    def test_stop_before_it_answers(self) -> None:
        """A daemon that is still starting is stopped as well."""

        async def main() -> None:
            async with World(SILENT) as world:
                world.begin()
                await asyncio.sleep(1)
                world.supervisor.stop("down")
                assert world.running is not None
                await world.running
                assert world.daemon.told()[1:] == [(1.0, "terminate 412")]

        jumploop.run(main())

    def test_stop_while_backing_off(self) -> None:
        """There is nothing to end: it is down at once, and no start follows."""

        async def main() -> None:
            async with World(CRASHES) as world:
                world.begin()
                await world.until(lambda status: status.supervisor.state == "backoff")
                world.supervisor.stop("down", sticky=True)
                assert world.running is not None
                await world.running
                assert (world.at, world.store.published[-1].wanted) == (0.5, "stopped")

        jumploop.run(main())

    def test_hand_over_leaves_the_daemon(self) -> None:
        """The next supervisor gets a living daemon and what is published: this one writes nothing more."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(0)
                published = len(world.store.published)
                world.supervisor.hand_over()
                assert world.running is not None
                await world.running
                assert (world.daemon.pid, world.daemon.told("terminate", "kill")) == (412, [])
                assert len(world.store.published) == published

        jumploop.run(main())


class TestRestart:
    """A daemon that ends by itself."""

    def test_crash_loop(self) -> None:
        """Ends 0.5 s after each start: 0.5, 1, 2, 4, … s of delay, at most a minute, for ever."""

        async def main() -> None:
            async with World(*[CRASHES] * 10) as world:
                world.begin()
                await world.until(lambda status: status.daemon.restarts == 9)
                times = [at for at, _ in world.daemon.told("spawn")]
                gaps = [round(later - earlier - 0.5, 2) for earlier, later in pairwise(times)]
                assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]

        jumploop.run(main())

    def test_what_status_says_in_a_crash_loop(self) -> None:
        """How often, how, why, when next, and what to do; the exit with its last lines."""

        async def main() -> None:
            async with World(CRASHES, CRASHES) as world:
                world.begin()
                status = await world.until(lambda s: s.supervisor.state == "backoff" and s.daemon.restarts == 1)
                assert (
                    status.summary == "backing off: tailscaled exited 2 times (code 1 after 0.5 s), next start in 1.0 s"
                )
                assert [(n.code, n.text) for n in status.notes] == [
                    ("because", "it panicked (panic: boom)"),
                    ("backoff", "code 1 after 0.5 s: it panicked"),
                ]
                last = status.daemon.last_exit
                assert last is not None
                assert (last.code, last.signal, last.log_tail) == (1, None, list(CRASHES.says))
                assert status.daemon.next_start == "2026-11-23T12:00:02.501Z"

        jumploop.run(main())

    def test_after_a_stable_run_it_is_back_at_once(self) -> None:
        """Killed after half a minute of being up: the next one is spawned in the same moment, and counted."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                await world.up()
                await asyncio.sleep(30)
                world.daemon.die(SIGKILL)
                status = await world.until(lambda status: status.ready and status.daemon.pid == 413)
                assert world.daemon.told() == [(0.0, "spawn"), (30.05, "spawn")]
                assert (status.daemon.restarts, world.at) == (1, 30.1)
                assert status.daemon.last_exit is not None
                assert status.daemon.last_exit.reason == "SIGKILL, likely out of memory"

        jumploop.run(main())

    def test_a_long_life_without_an_answer_is_not_stable(self) -> None:
        """A daemon that died after 40 silent seconds is not restarted in a tight loop."""

        async def main() -> None:
            async with World(Life(answers_after=None, ends_after=40.0), Life()) as world:
                await world.up()
                assert world.daemon.told("spawn") == [(0.0, "spawn"), (40.501, "spawn")]

        jumploop.run(main())

    def test_never_answers(self) -> None:
        """After a minute without an answer it is stopped, and started again after a delay."""

        async def main() -> None:
            async with World(SILENT, Life()) as world:
                await world.up()
                assert world.daemon.told() == [(0.0, "spawn"), (60.001, "terminate 412"), (60.702, "spawn")]

        jumploop.run(main())

    def test_tun_that_fails_at_the_start_goes_to_userspace_once(self) -> None:
        """At once and without a restart; the start after that tries TUN again."""
        busy = 'getLocalBackend error: createEngine: tstun.New("tailscale0"): operation not permitted'
        no_tun = Life(answers_after=None, ends_after=0.3, says=(busy,))

        async def main() -> None:
            async with World(no_tun, Life(), Life()) as world:
                status = await world.up()
                assert world.daemon.told() == [(0.0, "spawn"), (0.3, "spawn userspace")]
                assert (status.daemon.mode, status.daemon.restarts) == ("userspace", 0)
                await asyncio.sleep(60)
                world.daemon.die(SIGKILL)
                await world.until(lambda status: status.daemon.pid == 414)
                assert world.daemon.told("spawn")[-1][1] == "spawn"

        jumploop.run(main())

    def test_wanted_again_while_stopping(self) -> None:
        """Down, then up before the end: it starts as soon as the old one has ended, and the supervisor goes on."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                await world.up()
                world.supervisor.feed(events.WantDown)
                await asyncio.sleep(0.1)
                world.supervisor.feed(events.WantUp)
                await world.until(lambda status: status.ready and status.daemon.pid == 413)
                assert world.daemon.told()[1:] == [(0.05, "terminate 412"), (0.25, "spawn")]
                assert world.running is not None
                assert not world.running.done()

        jumploop.run(main())

    def test_a_restart_that_was_asked_for(self) -> None:
        """Stopped in order and started at once; it is no restart of ours in the count."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                await world.up()
                world.supervisor.feed(events.WantRestart)
                status = await world.until(lambda status: status.ready and status.daemon.pid == 413)
                assert (status.daemon.restarts, world.at) == (0, 0.3)

        jumploop.run(main())

    def test_the_count_goes_on_from_what_is_remembered(self) -> None:
        """Restarts of an earlier supervisor are part of the count, and are kept for the next."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                world.daemon.facts = msgspec.structs.replace(world.daemon.facts, restarts=6)
                await world.up()
                await asyncio.sleep(40)
                world.daemon.die(SIGKILL)
                await world.until(lambda status: status.ready and status.daemon.pid == 413)
                assert world.daemon.remembered[-1][0] == 7

        jumploop.run(main())


class TestAdoption:
    """A daemon that an earlier supervisor left."""

    def test_nothing_is_spawned(self) -> None:
        """It is watched, followed and called adopted; its pid stays."""

        async def main() -> None:
            async with World() as world:
                world.begin(world.daemon.adopt(jumploop.START, Life(), age=500.0))
                status = await world.up()
                assert (status.daemon.pid, status.daemon.adopted, world.daemon.told()) == (412, True, [])

        jumploop.run(main())

    def test_its_end_is_noticed_and_its_age_counts(self) -> None:
        """An adopted daemon that ran for long is replaced at once; what replaces it is not adopted."""

        async def main() -> None:
            async with World(Life()) as world:
                world.begin(world.daemon.adopt(jumploop.START, Life(), age=500.0))
                await world.up()
                await asyncio.sleep(1)
                world.daemon.die(ExitStatus())
                status = await world.until(lambda status: status.ready and status.daemon.pid == 413)
                assert world.daemon.told() == [(1.0, "spawn")]
                assert (status.daemon.adopted, status.daemon.restarts) == (False, 1)
                assert status.daemon.last_exit is not None
                assert status.daemon.last_exit.reason == "ended, exit status unknown"

        jumploop.run(main())


class TestFatal:
    """What time does not cure."""

    def test_waits_for_a_change_and_goes_on(self) -> None:
        """No start by itself for an hour; the changed binary leads to a reload and a start within two seconds."""

        async def main() -> None:
            async with World(fails("no binary", permanent=True, fix="install it"), Life()) as world:
                reloads: list[float] = []
                world.supervisor.reload = lambda: reloads.append(world.at)
                world.begin()
                status = await world.until(lambda status: status.supervisor.state == "fatal")
                assert (status.summary, status.notes[-1].next) == ("fatal: no binary", "install it")
                await asyncio.sleep(3600)
                assert world.daemon.told() == [(0.0, "spawn")]
                world.daemon.signs = "another binary"
                await world.up()
                assert reloads == [3602.0]
                assert world.daemon.told()[-1] == (3602.0, "spawn")

        jumploop.run(main())

    def test_a_person_may_try_at_once(self) -> None:
        """`up` out of fatal starts without any change."""

        async def main() -> None:
            async with World(fails(permanent=True), Life()) as world:
                world.begin()
                await world.until(lambda status: status.supervisor.state == "fatal")
                world.supervisor.feed(events.WantUp)
                await world.up()

        jumploop.run(main())

    def test_an_older_cause_is_not_the_cause(self) -> None:
        """The daemon crashed, then its binary went away: fatal speaks of the binary, not of the crash."""

        async def main() -> None:
            async with World(CRASHES, fails("no binary", permanent=True)) as world:
                world.begin()
                status = await world.until(lambda status: status.supervisor.state == "fatal")
                assert (status.summary, codes(status)) == ("fatal: no binary", ["fatal"])

        jumploop.run(main())


class TestStatus:
    """What is published and told."""

    def test_published_only_when_something_changed(self) -> None:
        """An idle hour publishes nothing, whatever memory and ages do; a new peer is published."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(400)
                before = len(world.store.published)
                await asyncio.sleep(3600)
                assert len(world.store.published) == before
                world.control.peers = 3
                await asyncio.sleep(301)
                assert [status.backend.peers.total for status in world.store.published[before:]] == [3]

        jumploop.run(main())

    def test_idle_has_one_timer(self) -> None:
        """Ready and quiet: the loop is woken by nothing but the refresh every 300 s."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(1000)
                loop = asyncio.get_running_loop()
                assert isinstance(loop, JumpLoop)
                assert [delay <= 300.0 for delay in loop.timers()] == [True]
                woken, asked = loop.jumps, len(world.api.told("snapshot"))
                await asyncio.sleep(3000)
                assert loop.jumps - woken <= 11
                assert len(world.api.told("snapshot")) - asked == 10

        jumploop.run(main())

    def test_waiting_for_credentials_has_one_timer_too(self) -> None:
        """Without a key nothing is polled."""

        async def main() -> None:
            async with World(Life(), logged_in=False) as world:
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                await asyncio.sleep(1000)
                loop = asyncio.get_running_loop()
                assert isinstance(loop, JumpLoop)
                woken = loop.jumps
                await asyncio.sleep(3000)
                assert loop.jumps - woken <= 11

        jumploop.run(main())

    def test_a_daemon_that_is_slow_to_answer(self) -> None:
        """After 0.3 s the client gets what is known, with its age."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(100)
                world.api.hang = True
                began = world.at
                status = await world.supervisor.fresh_status(0.3)
                assert round(world.at - began, 3) == 0.3
                assert (status.live, codes(status)) == (True, ["stale"])
                assert status.notes[0].text == "tailscaled has not answered in time; this is from 1 min ago"

        jumploop.run(main())

    def test_a_daemon_that_is_quick_to_answer(self) -> None:
        """A fresh answer has no note and takes no time."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.control.peers = 2
                status = await world.supervisor.fresh_status(0.3)
                assert (status.backend.peers.total, status.notes) == (2, [])

        jumploop.run(main())

    def test_a_hung_daemon_is_not_live(self) -> None:
        """No answer for a second: not live; looked at every 5 s until it answers; never restarted for it."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.api.hang = True
                world.supervisor.session.refresh_soon()
                status = await world.until(lambda status: not status.live)
                assert (world.at, status.summary) == (1.05, "not answering: tailscaled (pid 412) does not answer")
                await asyncio.sleep(600)
                world.api.hang = False
                await world.until(lambda status: status.ready)
                assert world.at < 660
                assert world.daemon.told() == [(0.0, "spawn")]

        jumploop.run(main())

    def test_a_stopped_daemon_is_named(self) -> None:
        """SIGSTOP: not live, with what to do; no question is sent into the void."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.daemon.stopped = True
                asked = len(world.api.told("snapshot"))
                status = await world.supervisor.fresh_status(0.3)
                assert status.summary.startswith("not answering: tailscaled (pid 412) is stopped (SIGSTOP)")
                assert len(world.api.told("snapshot")) == asked

        jumploop.run(main())

    def test_losing_control_takes_online_only(self) -> None:
        """A trouble line in the log leads to one question; offline is published; nothing is restarted."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.control.online = False
                world.supervisor.on_log(b"2026/11/23 12:00:00 Received error: PollNetMap: EOF\nsomething else\n")
                status = await world.until(lambda status: not status.online, within=1.0)
                assert (status.ready, world.daemon.told()) == (True, [(0.0, "spawn")])

        jumploop.run(main())

    def test_ordinary_lines_ask_nothing(self) -> None:
        """The log may be as loud as it likes."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(1)
                asked = len(world.api.told("snapshot"))
                world.supervisor.on_log(b"2026/11/23 12:00:00 magicsock: disco\n" * 1000)
                await asyncio.sleep(1)
                assert len(world.api.told("snapshot")) == asked

        jumploop.run(main())

    def test_an_unwritable_log_is_told_and_tried_again(self) -> None:
        """The note comes with the trouble, goes with it, and the log is tried every two seconds meanwhile."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.log.trouble = "the log cannot be written (no space left on device)"
                os.eventfd_write(world.log.fd, 1)
                await asyncio.sleep(0.1)
                status = world.store.published[-1]
                assert status.notes[-1].next == "free some space or make logs/ writable; nothing is lost"
                pumped = world.log.pumped
                await asyncio.sleep(10)
                assert world.log.pumped - pumped == 5
                world.log.trouble = None
                await asyncio.sleep(2.5)
                assert codes(world.store.published[-1]) == []
                pumped = world.log.pumped
                await asyncio.sleep(100)
                assert world.log.pumped == pumped

        jumploop.run(main())

    def test_a_blind_log_is_looked_at_by_a_timer(self) -> None:
        """Where inotify has run out the log is moved every two seconds."""

        async def main() -> None:
            async with World(Life()) as world:
                world.log.blind = True
                await world.up()
                pumped = world.log.pumped
                await asyncio.sleep(10)
                assert world.log.pumped - pumped == 5

        jumploop.run(main())

    def test_a_full_disk_is_told(self) -> None:
        """The note names the home."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                world.store.full = True
                assert codes(world.supervisor.status()) == ["disk-full"]

        jumploop.run(main())

    def test_the_last_event_is_the_last_change(self) -> None:
        """What happened last, when and why."""

        async def main() -> None:
            async with World(Life()) as world:
                status = await world.up()
                assert status.last_event is not None
                assert (status.last_event.what, status.last_event.why) == ("starting -> up", "tailscaled answers")
                assert status.last_event.at == "2026-11-23T12:00:00.050Z"

        jumploop.run(main())


class TestLogin:
    """The session and a control server."""

    def test_with_a_key(self) -> None:
        """One `start` with the key, one `login-interactive`, ready."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",), logged_in=False) as world:
                await world.up()
                assert world.api.told() == [(0.05, "start good-key"), (0.05, "login")]
                assert world.at == 0.15

        jumploop.run(main())

    def test_saved_state_needs_no_key(self) -> None:
        """A node that is logged in never meets a key, good or bad."""

        async def main() -> None:
            async with World(Life(), keys=("bad-key",)) as world:
                await world.up()
                await asyncio.sleep(1000)
                assert world.api.told() == []

        jumploop.run(main())

    def test_a_refused_key_is_one_line_and_no_loop(self) -> None:
        """Tried once, then the daemon is told to stop repeating it, once; an hour later nothing more happened."""

        async def main() -> None:
            async with World(Life(), keys=("bad-key",), logged_in=False) as world:
                world.begin()
                status = await world.until(lambda status: status.backend.login_code == "key-unknown")
                assert status.summary.startswith("key rejected: the control server does not know the auth key")
                await asyncio.sleep(3600)
                assert world.api.told() == [(0.05, "start bad-key"), (0.05, "login"), (0.15, "start None")]

        jumploop.run(main())

    def test_another_key_gets_in(self) -> None:
        """After a refused key a new one is tried as soon as it is there."""

        async def main() -> None:
            async with World(Life(), keys=("bad-key",), logged_in=False) as world:
                world.begin()
                await world.until(lambda status: status.backend.login_code == "key-unknown")
                world.keys.append("good-key")
                world.session.reconsider()
                await world.up()
                assert world.api.told("start")[-1] == (0.15, "start good-key")

        jumploop.run(main())

    def test_a_refused_key_is_not_tried_by_the_next_daemon(self) -> None:
        """What was learned about keys outlives the daemon."""

        async def main() -> None:
            async with World(Life(), Life(), keys=("bad-key",), logged_in=False) as world:
                world.begin()
                await world.until(lambda status: status.backend.login_code == "key-unknown")
                await asyncio.sleep(60)
                world.daemon.die(SIGKILL)
                await world.until(lambda status: status.daemon.pid == 413 and status.backend.login_code is not None)
                await asyncio.sleep(60)
                assert world.api.told("start") == [(0.05, "start bad-key"), (0.15, "start None")]

        jumploop.run(main())

    def test_a_silent_control_server_backs_off(self) -> None:
        """Attempts of 30 s, with 5, 10, 20 s between them; when control is back the node gets in."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",), logged_in=False) as world:
                world.control.answers_after = None
                world.begin()
                await asyncio.sleep(130)
                assert [at for at, _ in world.api.told("start")] == [0.05, 35.05, 75.05, 125.05]
                world.control.answers_after = 0.1
                await world.up()

        jumploop.run(main())

    def test_without_permission_nothing_is_tried(self) -> None:
        """`--no-login` leaves the node logged out, with a key at hand."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",), logged_in=False) as world:
                world.session.allowed = False
                world.begin()
                await asyncio.sleep(100)
                assert world.api.told() == []

        jumploop.run(main())

    def test_a_person_gets_a_url(self) -> None:
        """On a terminal without a key the URL is asked for once and shown."""

        async def main() -> None:
            async with World(Life(), logged_in=False) as world:
                world.session.interactive = True
                world.begin()
                status = await world.until(lambda status: status.backend.auth_url is not None)
                assert (status.backend.login_code, status.backend.login_next) == (
                    "login-url",
                    "open https://control.example/a/1",
                )
                await asyncio.sleep(1000)
                assert world.api.told() == [(0.05, "start None"), (0.05, "login")]

        jumploop.run(main())

    def test_who_asks_for_a_url_that_is_there_asks_for_no_other(self) -> None:
        """Visited, and the network map comes late: a second login would undo the first."""

        async def main() -> None:
            async with World(Life(), logged_in=False) as world:
                world.session.interactive = True
                world.begin()
                await world.until(lambda status: status.backend.auth_url is not None)
                world.session.interactive = True  # `tazpod-net login`
                world.session.reconsider()
                world.api.auth_url, world.api.have_key = "", True
                world.api.tell(login_finished={})
                await asyncio.sleep(2)
                world.api.become(6)
                await world.up()
                assert world.api.told() == [(0.05, "start None"), (0.05, "login")]

        jumploop.run(main())

    def test_a_key_is_minted_and_used(self) -> None:
        """An OAuth client at hand: its key is bought once and used once."""

        async def main() -> None:
            async with World(Life(), keys=("mint-client",), logged_in=False) as world:
                world.minted = [("good-key", Minted(ok=True))]
                world.begin()
                status = await world.until(lambda status: status.backend.login_code == "minting")
                assert status.summary == "minting an auth key: tailscaled runs"
                await world.up()
                assert world.api.told() == [(1.05, "start good-key"), (1.05, "login")]

        jumploop.run(main())

    def test_minting_that_fails_waits_and_tries_again(self) -> None:
        """The API says no: told, in our own log too, and tried again after 5 s."""

        async def main() -> None:
            async with World(Life(), keys=("mint-client",), logged_in=False) as world:
                no = Minted(ok=False, code=Code.KEY_UNKNOWN, text="the client is unknown", next="make another")
                world.minted = [(None, no), ("good-key", Minted(ok=True))]
                world.begin()
                status = await world.until(lambda status: status.backend.login_code == "key-unknown")
                assert status.backend.login_next == "make another"
                assert "trouble: minting: the client is unknown" in world.own_log.lines
                await world.up()
                assert world.api.told("start") == [(7.05, "start good-key")]

        jumploop.run(main())

    def test_a_clock_jump_ends_all_waits(self) -> None:
        """After a suspend nobody sits out a back-off of minutes."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",), logged_in=False) as world:
                world.control.answers_after = None
                world.begin()
                await asyncio.sleep(160)
                tried = len(world.api.told("start"))
                world.control.answers_after = 0.1
                world.session.clock_jumped()
                await world.up()
                assert (len(world.api.told("start")), world.at) == (tried + 1, 160.1)

        jumploop.run(main())

    @pytest.mark.parametrize(("online", "starts"), [(False, ["start good-key"]), (True, [])])
    def test_a_deleted_node_logs_in_anew(self, online: bool, starts: list[str]) -> None:
        """The log says that control has forgotten the node: if it is offline a key makes a new one, else it is old."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",)) as world:
                await world.up()
                world.control.online = online
                world.supervisor.on_log(b"Received error: PollNetMap: initial fetch failed 404: node not found\n")
                await asyncio.sleep(0.15)
                world.control.online = True
                world.api.tell(state=6)
                await asyncio.sleep(1000)
                assert [call for _, call in world.api.told("start")] == starts
                assert world.supervisor.status().backend.login_code == "ok"

        jumploop.run(main())

    def test_trouble_with_localapi_during_a_login_is_told(self) -> None:
        """The daemon refuses `start`: in our own log and in status; tried again after the attempt's time."""

        async def main() -> None:
            async with World(Life(), keys=("good-key",), logged_in=False) as world:
                world.api.refuses = {"start": "no such profile"}
                world.begin()
                await asyncio.sleep(31)
                status = world.supervisor.status()
                assert status.backend.login == "login failed (no such profile); tried again by itself"
                assert "trouble: login: no such profile" in world.own_log.lines
                world.api.refuses = {}
                await world.up()
                assert world.at == 35.15

        jumploop.run(main())

    def test_a_silent_localapi_has_a_name_in_the_log(self) -> None:
        """An error without words is called by its kind, not by nothing."""

        async def main() -> None:
            async with World(Life(), plan=Plan(settings=Wanted(ssh=True))) as world:
                world.api.refuses = {"edit": ""}
                await world.up()
                await asyncio.sleep(1)
                assert "trouble: settings: TazpodNetError" in world.own_log.lines

        jumploop.run(main())

    def test_an_exit_node_by_name_is_waited_for(self) -> None:
        """A name is shown as drift until there is such a peer, then it is set, once."""

        async def main() -> None:
            async with World(Life(), plan=Plan(settings=Wanted(exit_node="gate", ssh=True))) as world:
                await world.up()
                status = await world.until(lambda status: [d.setting for d in status.settings_drift] == ["exit_node"])
                assert status.settings_drift[0].wanted == "gate"
                await asyncio.sleep(1000)
                world.control.exits = ["gate"]
                await world.until(lambda status: status.settings_drift == [])
                assert [call for _, call in world.api.told("edit")] == [
                    "edit {'RunSSH': True}",
                    "edit {'AutoExitNode': '', 'ExitNodeIP': '', 'ExitNodeID': 'id-gate'}",
                ]

        jumploop.run(main())

    def test_an_error_while_it_is_still_coming_up_is_no_error(self) -> None:
        """LocalAPI that refuses connections at first is asked again, quickly."""

        async def main() -> None:
            async with World(Life()) as world:
                world.api.refuses = {"watch": "not yet", "snapshot": "not yet"}
                world.begin()
                await asyncio.sleep(3)
                world.api.refuses = {}
                await world.up()
                assert world.at < 6

        jumploop.run(main())

    def test_a_lost_bus_is_opened_again(self) -> None:
        """The bus ends as for a reader that fell behind: it is opened anew and news arrive again."""

        async def main() -> None:
            async with World(Life()) as world:
                await world.up()
                await asyncio.sleep(1)
                world.api.cut_bus()
                await asyncio.sleep(1)
                world.api.become(4)
                status = await world.until(lambda status: status.backend.state == "Stopped", within=1.0)
                assert status.backend.login_code == Code.STOPPED
                assert [call for _, call in world.api.told("watch")] == ["watch"] * 2

        jumploop.run(main())

    def test_stopped_by_a_person_stays_stopped(self) -> None:
        """`tailscale down` is respected: nothing is started or corrected."""

        async def main() -> None:
            wanted = Plan(settings=Wanted(ssh=True))
            async with World(Life(), keys=("good-key",), plan=wanted) as world:
                world.api.state = 4
                world.begin()
                await world.until(lambda status: status.backend.login_code == "stopped")
                await asyncio.sleep(1000)
                assert world.api.told() == []

        jumploop.run(main())

    def test_settings_are_corrected_once_for_each_daemon(self) -> None:
        """What is not as configured is edited when it is ready; what a person changes later is shown, not undone."""

        async def main() -> None:
            wanted = Plan(settings=Wanted(ssh=True, accept_routes=True))
            async with World(Life(), plan=wanted) as world:
                await world.up()
                await world.until(lambda status: status.settings_drift == [])
                assert [call for _, call in world.api.told("edit")] == ["edit {'RunSSH': True}"]
                await world.api.edit_prefs({"RunSSH": False, "RunSSHSet": True})
                status = await world.until(lambda status: status.settings_drift != [])
                await asyncio.sleep(1000)
                assert [drift.setting for drift in status.settings_drift] == ["ssh"]
                assert len(world.api.told("edit")) == 2
                world.session.correct_settings_again()
                await world.until(lambda status: status.settings_drift == [])

        jumploop.run(main())

    @pytest.mark.parametrize(("answers", "ended"), [(0.1, 0.25), (None, 5.25)])
    def test_an_ephemeral_node_logs_out_on_an_orderly_stop(self, answers: float | None, ended: float) -> None:
        """It leaves its tailnet before it is stopped; a silent control server delays that by 5 s and no more."""

        async def main() -> None:
            async with World(Life()) as world:
                world.supervisor.ephemeral = True
                await world.up()
                world.control.answers_after = answers
                world.supervisor.stop("down")
                assert world.running is not None
                await world.running
                assert world.api.told("logout") == [(0.05, "logout")]
                assert world.at == ended

        jumploop.run(main())

    def test_a_daemon_that_dies_during_its_farewell_is_not_started_again(self) -> None:
        """What is being stopped stays stopped, also if it ends before it is told to."""

        async def main() -> None:
            async with World(Life(), Life()) as world:
                world.supervisor.ephemeral = True
                await world.up()
                await asyncio.sleep(40)
                world.control.answers_after = None
                world.supervisor.stop("down")
                await asyncio.sleep(1)
                world.daemon.die(SIGKILL)
                assert world.running is not None
                await world.running
                assert world.daemon.told("spawn") == [(0.0, "spawn")]

        jumploop.run(main())


# --- clients ----------------------------------------------------------------------------------------------------------


async def _no_metrics() -> bytes:
    return b"tazpod_net_live 1\n"


class Clients:
    """A service on a real socket, and clients of it in the same loop."""

    def __init__(self, world: World, directory: Path, *, reload: Callable[[], tuple[list[str], list[str]]]) -> None:
        self.world = world
        self.path = str(directory / "control.sock")
        self.done: list[str] = []
        self.asked: list[asyncio.Task[Answer]] = []
        actions = Actions(
            give_key=lambda key: world.keys.insert(0, key),
            take_offer=self._take_offer,
            mark_stopped=lambda by: self.done.append(f"stopped by {by}"),
            clear_stopped=lambda: self.done.append("clear"),
            mark_logged_out=lambda: self.done.append("logged out"),
            set_mode=lambda mode: self.done.append(f"mode {mode}"),
            reload=reload,
            metrics=_no_metrics,
        )
        self.service = Service(world.supervisor, actions, home_owner=0)
        self.server: asyncio.Server | None = None

    def _take_offer(self, offered: protocol.Offered) -> None:
        self.world.keys.append(offered.auth_key)
        self.world.session.reconsider()

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        self.server = await self.service.serve(listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        await self.service.finish()

    def ask(self, op: str, **fields: object) -> "asyncio.Task[Answer]":
        """One request; its answer when the supervisor has ended it."""
        line = encode_request(Request(op=op, **fields))  # type: ignore[arg-type]
        task = asyncio.get_running_loop().create_task(self._ask(line))
        self.asked.append(task)  # the loop alone would not keep it alive
        return task

    async def _ask(self, line: bytes) -> "Answer":
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(line)
        answer = Answer()
        try:
            while answer.code is None:
                head = (await reader.readline()).decode()
                if not head:
                    return answer
                if head[0] == "X":
                    answer.code = int(head[1:])
                else:
                    data = (await reader.readexactly(int(head[1:]))).decode()
                    answer.out += data if head[0] == "O" else ""
                    answer.err += data if head[0] == "E" else ""
        finally:
            writer.close()
        return answer


class Answer:
    """What a client saw."""

    def __init__(self) -> None:
        self.out = ""
        self.err = ""
        self.code: int | None = None


def nothing_to_reload() -> tuple[list[str], list[str]]:
    """A configuration that has not changed."""
    return [], []


class TestClients:
    """Requests over the control socket."""

    def test_status_in_its_forms(self, scratch: Path) -> None:
        """Text, short and JSON of one moment; exit 0 if the condition holds, else 1."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                text = await clients.ask("status")
                assert (text.code, text.out.splitlines()[0][:30]) == (0, "ready: on example.ts.net as ta")
                assert (await clients.ask("status", as_="short")).out == "tailnet: ready tun 100.64.0.1 tazpod\n"
                world.control.online = False
                seen = await clients.ask("status", as_="json", condition="online")
                assert (seen.code, from_json(seen.out.encode()).online) == (1, False)

        jumploop.run(main())

    def test_waits_until_it_is_so(self, scratch: Path) -> None:
        """`wait` returns in the moment when the condition holds."""

        async def main() -> None:
            async with (
                World(Life(answers_after=3.0)) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                done = await clients.ask("wait", conditions=["live", "ready"], timeout=30.0)
                assert (done.code, world.at) == (0, 3.0)
                assert done.out.startswith("ready: on ")

        jumploop.run(main())

    def test_waits_no_longer_than_told(self, scratch: Path) -> None:
        """At the time-out: exit 1, the conditions, the seconds and the reason on one line."""

        async def main() -> None:
            async with World(SILENT) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                world.begin()
                done = await clients.ask("wait", conditions=["ready"], timeout=2.5)
                assert (done.code, world.at, done.out) == (1, 2.5, "")
                assert done.err == (
                    "tazpod-net: not ready after 2.5 s, starting: tailscaled (pid 412), waiting for its answer: "
                    "tazpod-net status\n"
                )

        jumploop.run(main())

    def test_wait_for_online_asks_because_nothing_tells(self, scratch: Path) -> None:
        """Control comes back without any event: whoever waits for `online` hears of it within half a second."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                world.control.online = False
                await world.up()
                waiting = clients.ask("wait", conditions=["online"], timeout=60.0)
                await asyncio.sleep(10)
                world.control.online = True
                back = world.at
                assert (await waiting).code == 0
                assert world.at - back <= 1.0

        jumploop.run(main())

    def test_wait_for_online_asks_before_it_says_yes(self, scratch: Path) -> None:
        """Nothing tells of the loss of control: `online` that was true minutes ago is asked for again."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                await asyncio.sleep(100)
                world.control.online = False
                assert (await clients.ask("wait", conditions=["online"], timeout=2.0)).code == 1

        jumploop.run(main())

    def test_up_beside_a_running_one(self, scratch: Path) -> None:
        """Exit 0, the supervisor's pid and how it is; a mode that differs is named, not applied."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                done = await clients.ask("up", options={"daemon.mode": "userspace"})
                assert (done.code, done.out[:50]) == (0, "already running (pid 398): ready: on example.ts.ne")
                assert done.err == (
                    "already running (pid 398) by TUN: --mode userspace not applied: "
                    "'tazpod-net restart --mode userspace'\n"
                )
                assert world.daemon.told() == [(0.0, "spawn")]

        jumploop.run(main())

    def test_up_that_started_it(self, scratch: Path) -> None:
        """The one that started it is told what was done and how long it took."""

        async def main() -> None:
            async with (
                World(Life(), keys=("good-key",), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                done = await clients.ask("up", fresh=True, started=jumploop.START - 0.1)
                assert done.code == 0
                assert done.err == "probe 0 ms: TUN · tailscaled 1.102.5 pid 412, 50 ms · login 100 ms\n"
                assert done.out == "ready: on example.ts.net as tazpod (100.64.0.1) by TUN, 0.2 s\n"

        jumploop.run(main())

    def test_up_with_a_refused_key_returns_at_once(self, scratch: Path) -> None:
        """Exit 1 and one plain line as soon as control has said no; the supervisor stays."""

        async def main() -> None:
            async with (
                World(Life(), keys=("bad-key",), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                done = await clients.ask("up", fresh=True, timeout=30.0)
                assert (done.code, done.out, world.at) == (1, "", 0.15)
                assert re.fullmatch(r"tazpod-net: key rejected: .+: make a new key, then: .+\n", done.err)
                assert world.running is not None
                assert not world.running.done()

        jumploop.run(main())

    def test_up_against_a_silent_control_server(self, scratch: Path) -> None:
        """At its time: what is awaited, and that it goes on."""

        async def main() -> None:
            async with (
                World(Life(), keys=("good-key",), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.control.answers_after = None
                world.begin()
                done = await clients.ask("up", fresh=True, timeout=5.0)
                assert (done.code, world.at) == (1, 5.0)
                assert done.err == "tazpod-net: not ready after 5 s, logging in: it goes on trying\n"

        jumploop.run(main())

    def test_up_without_waiting(self, scratch: Path) -> None:
        """`--no-wait` returns in the same moment."""

        async def main() -> None:
            async with World(SILENT) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                world.begin()
                done = await clients.ask("up", wait=None)
                assert (done.code, world.at) == (0, 0.0)
                assert done.out == (
                    "already running (pid 398): starting: tailscaled (pid 412), waiting for its answer\n"
                )

        jumploop.run(main())

    def test_whoever_waits_hears_of_down(self, scratch: Path) -> None:
        """`down` during another's `up`: that one ends with exit 1 and `stopped by down`; `down` when it is down."""

        async def main() -> None:
            async with (
                World(Life(), keys=("good-key",), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.control.answers_after = None
                world.begin()
                waiting = clients.ask("up", fresh=True, timeout=30.0)
                await asyncio.sleep(3)
                down = clients.ask("down", timeout=0.0)
                stopped = await waiting
                assert (stopped.code, stopped.err) == (1, "tazpod-net: stopped by down\n")
                ended = await down
                assert (ended.code, ended.out, world.at) == (0, "stopped\n", 3.2)
                assert clients.done[-1] == "stopped by tazpod-net down"

        jumploop.run(main())

    def test_restart_does_not_undo_down(self, scratch: Path) -> None:
        """A `restart` during `down` is refused or comes again: `down` ends, and nothing is started."""

        async def main() -> None:
            async with (
                World(STUBBORN, Life()) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                await world.up()
                down = clients.ask("down", timeout=5.0)
                await asyncio.sleep(1)
                clients.ask("restart", timeout=20.0)
                await asyncio.sleep(60)
                assert world.daemon.told("spawn") == [(0.0, "spawn")]
                assert down.done()

        jumploop.run(main())

    def test_login_does_not_undo_down(self, scratch: Path) -> None:
        """A `login` during `down` does not take back that it sticks."""

        async def main() -> None:
            async with World(STUBBORN) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                clients.ask("down", timeout=5.0)
                await asyncio.sleep(1)
                clients.ask("login", auth_key="good-key", timeout=1.0)
                await asyncio.sleep(60)
                assert "clear" not in clients.done

        jumploop.run(main())

    def test_up_while_stopping_is_told_to_come_again(self, scratch: Path) -> None:
        """The command line waits for the end of this supervisor and starts the next."""

        async def main() -> None:
            async with World(STUBBORN) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                clients.ask("down", timeout=5.0)
                await asyncio.sleep(1)
                assert (await clients.ask("up")).code == protocol.AGAIN

        jumploop.run(main())

    def test_up_offers_credentials_that_the_supervisor_cannot_see(self, scratch: Path) -> None:
        """Asked for, handed over, and it gets in."""

        async def main() -> None:
            async with (
                World(Life(), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                assert (await clients.ask("up")).code == protocol.NEEDS_CREDENTIALS
                again = await clients.ask("up", offered=protocol.Offered(auth_key="good-key"))
                assert (again.code, world.at) == (0, 0.15)

        jumploop.run(main())

    def test_restart(self, scratch: Path) -> None:
        """Answers when the new daemon is ready."""

        async def main() -> None:
            async with World(Life(), Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                done = await clients.ask("restart", mode="userspace")
                assert (done.code, done.out[:9], world.daemon.pid) == (0, "ready: on", 413)
                assert clients.done == ["mode userspace"]

        jumploop.run(main())

    def test_restart_that_does_not_get_ready(self, scratch: Path) -> None:
        """Exit 1 at the time, with what is awaited."""

        async def main() -> None:
            async with World(Life(), SILENT) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                done = await clients.ask("restart", timeout=3.0)
                assert done.code == 1
                assert done.err.startswith("tazpod-net: restarted, not ready after 3 s, starting: tailscaled (pid 413)")

        jumploop.run(main())

    def test_login_by_url(self, scratch: Path) -> None:
        """The address is shown at once; the command ends when the person has opened it."""

        async def main() -> None:
            async with (
                World(Life(), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                login = clients.ask("login", interactive=True, timeout=30.0)
                await asyncio.sleep(300)
                assert not login.done()
                world.api.have_key = True
                world.api.become(6)
                done = await login
                assert (done.code, done.err) == (0, "To log in, open: https://control.example/a/1\n")

        jumploop.run(main())

    def test_login_with_a_bad_key(self, scratch: Path) -> None:
        """Exit 1 and the verdict, at once."""

        async def main() -> None:
            async with (
                World(Life(), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                done = await clients.ask("login", auth_key="bad-key", timeout=30.0)
                assert (done.code, world.at) == (1, 0.15)
                assert done.err.startswith("tazpod-net: key rejected: ")

        jumploop.run(main())

    def test_login_against_a_silent_control_server(self, scratch: Path) -> None:
        """Exit 1 at the time; it goes on trying."""

        async def main() -> None:
            async with (
                World(Life(), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.control.answers_after = None
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                done = await clients.ask("login", auth_key="good-key", timeout=4.0)
                assert (done.code, done.err) == (
                    1,
                    "tazpod-net: not logged in after 4 s, logging in: it goes on trying\n",
                )

        jumploop.run(main())

    def test_json_answers_are_the_object_alone(self, scratch: Path) -> None:
        """`up --json` and `wait --json`: one object on stdout and nothing else, whatever the exit code."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                for op, code in (("up", 0), ("wait", 0)):
                    done = await clients.ask(op, json=True)
                    assert (done.code, done.err, from_json(done.out.encode()).ready) == (code, "", True)
                world.api.become(4)
                await world.until(lambda status: not status.ready)
                done = await clients.ask("wait", json=True, timeout=1.0)
                assert (done.code, done.err, from_json(done.out.encode()).ready) == (1, "", False)

        jumploop.run(main())

    def test_hand_over_to_another_supervisor(self, scratch: Path) -> None:
        """The answer comes before the end; the daemon stays."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                done = await clients.ask("handover")
                assert (done.code, done.out) == (0, "supervisor (pid 398) hands over\n")
                assert world.running is not None
                await world.running
                assert world.daemon.pid == 412

        jumploop.run(main())

    def test_watching_for_a_person_redraws(self, scratch: Path) -> None:
        """Ages go on: without a change a frame comes every five seconds."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                watching = clients.ask("status", watch=True)
                await asyncio.sleep(21)
                world.supervisor.hand_over()
                await clients.service.finish()
                assert 5 <= (await watching).out.count("ready: on") <= 7

        jumploop.run(main())

    @pytest.mark.parametrize("sent", [b"", b"no newline"])
    def test_a_client_that_says_nothing_is_dropped(self, sent: bytes, scratch: Path) -> None:
        """Ten seconds are enough for one line; whoever closes without a word is no trouble either."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                reader, writer = await asyncio.open_unix_connection(clients.path)
                writer.write(sent)
                if not sent:
                    writer.write_eof()
                began = world.at
                assert await reader.read() == b""
                assert round(world.at - began, 3) == (10.0 if sent else 0.0)
                writer.close()

        jumploop.run(main())

    def test_restart_into_a_fatal_state(self, scratch: Path) -> None:
        """Exit 1 at once, with what is wrong and what to do."""

        async def main() -> None:
            async with (
                World(Life(), fails("no binary", permanent=True, fix="install it")) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                await world.up()
                done = await clients.ask("restart", timeout=30.0)
                assert (done.code, done.err) == (1, "tazpod-net: tailnet did not start: no binary: install it\n")

        jumploop.run(main())

    def test_login_with_a_key(self, scratch: Path) -> None:
        """A key given by hand is tried first, and clears what a person had stopped."""

        async def main() -> None:
            async with (
                World(Life(), logged_in=False) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                world.begin()
                await world.until(lambda status: status.backend.login_code == "no-credentials")
                done = await clients.ask("login", auth_key="good-key")
                assert (done.code, done.out[:9], clients.done) == (0, "ready: on", ["clear"])
                assert (await clients.ask("login")).out.startswith("already logged in: ready")

        jumploop.run(main())

    def test_logout_sticks(self, scratch: Path) -> None:
        """Logged out at control, marked, and no key at hand brings it back by itself."""

        async def main() -> None:
            async with (
                World(Life(), keys=("good-key",)) as world,
                Clients(world, scratch, reload=nothing_to_reload) as clients,
            ):
                await world.up()
                done = await clients.ask("logout")
                assert (done.code, clients.done) == (0, ["logged out"])
                await asyncio.sleep(1000)
                status = world.supervisor.status()
                assert (status.backend.login_code, world.api.told("start")) == ("logged-out", [])

        jumploop.run(main())

    def test_logout_that_control_does_not_hear(self, scratch: Path) -> None:
        """Exit 1 after 10 s and that the node stays in the tailnet."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                world.control.answers_after = None
                began = world.at
                done = await clients.ask("logout")
                assert (done.code, round(world.at - began, 3)) == (1, 10.0)
                assert done.err.endswith(": the node stays in the tailnet\n")

        jumploop.run(main())

    def test_reload(self, scratch: Path) -> None:
        """What was applied and what needs a restart; every problem of a bad configuration, with exit 2."""
        answers = iter([(["login.hint"], ["daemon.port"]), ([], [])])

        def reload() -> tuple[list[str], list[str]]:
            found = next(answers, None)
            if found is None:
                raise ConfigError(["first", "second"])
            return found

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=reload) as clients:
                await world.up()
                first = await clients.ask("reload")
                assert first.out == "reloaded: login.hint\nneeds 'tazpod-net restart': daemon.port\n"
                second = await clients.ask("reload")
                assert second.out == "reloaded: nothing changed that can be applied live\n"
                third = await clients.ask("reload")
                assert (third.code, third.err) == (2, "tazpod-net: first\ntazpod-net: second\n")

        jumploop.run(main())

    def test_watch_prints_an_object_for_each_change(self, scratch: Path) -> None:
        """`status --watch --json`: the first at once, one for each change, the last when it is down."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                watching = clients.ask("status", as_="json", watch=True)
                await asyncio.sleep(700)
                world.control.peers = 4
                await asyncio.sleep(400)
                world.supervisor.stop("down")
                assert world.running is not None
                await world.running
                await clients.service.finish()
                seen = [from_json(line.encode()) for line in (await watching).out.splitlines()]
                assert [key for key, _ in groupby((s.supervisor.state, s.backend.peers.total) for s in seen)] == [
                    ("up", 0),
                    ("up", 4),
                    ("stopping", 0),
                    ("down", 0),
                ]

        jumploop.run(main())

    def test_watch_is_quiet_while_nothing_changes(self, scratch: Path) -> None:
        """`status --watch --json` prints nothing for an idle hour, whatever memory does."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                watching = clients.ask("status", as_="json", watch=True)
                await asyncio.sleep(3600)
                world.supervisor.hand_over()
                await clients.service.finish()
                assert len((await watching).out.splitlines()) <= 2

        jumploop.run(main())

    def test_a_client_that_leaves_is_no_trouble(self, scratch: Path) -> None:
        """Whoever hangs up while waiting is forgotten; others are served."""

        async def main() -> None:
            async with World(SILENT) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                world.begin()
                _, writer = await asyncio.open_unix_connection(clients.path)
                writer.write(encode_request(Request(op="wait", timeout=50.0)))
                await writer.drain()
                await asyncio.sleep(1)
                writer.close()
                await asyncio.sleep(1)
                assert clients.service._tasks == set()
                assert (await clients.ask("status", as_="short")).out == "tailnet: starting\n"

        jumploop.run(main())

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (b"nonsense\n", "does not understand the request"),
            (b'{"op": "dance"}\n', "does not know 'dance'"),
            (b'{"op":"status","options":{"a":' + b"[" * 60_000 + b"\n", "does not understand the request"),
        ],
        ids=["nonsense", "unknown", "endless"],
    )
    def test_nonsense_is_answered_with_a_sentence(self, line: bytes, said: str, scratch: Path) -> None:
        """Exit 1 and one line; the supervisor stays."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                done = await clients._ask(line)
                assert done.code == 1
                assert said in done.err
                assert done.err.count("\n") == 1
                assert (await clients.ask("status", as_="short")).code == 0

        jumploop.run(main())

    def test_whoever_may_not_change_may_ask(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Reading is for anyone; changing for root, the supervisor's user and the home's owner."""

        async def main() -> None:
            async with World(Life()) as world, Clients(world, scratch, reload=nothing_to_reload) as clients:
                await world.up()
                monkeypatch.setattr(clients.service, "_may_change", lambda _client: False)
                assert (await clients.ask("status")).code == 0
                refused = await clients.ask("down")
                assert (refused.code, world.daemon.told("terminate")) == (1, [])
                assert "may not change this supervisor" in refused.err

        jumploop.run(main())


def test_a_policy_for_the_tests_is_the_products() -> None:
    """The times above are those of the default configuration."""
    policy = Policy()
    assert (policy.initial, policy.maximum, policy.stable, policy.stop_timeout) == (0.5, 60.0, 30.0, 25.0)
    assert State.UP.value == "up"
