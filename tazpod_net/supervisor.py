"""The loop: outside events in, one engine, published status out. No policy: that is core's.

Events come from file descriptors (exit by pidfd, log by inotify, clients, LocalAPI), from signals, and from one timer
for the machine's deadline.
"""

import asyncio
import signal
import time
from collections.abc import Callable

import msgspec

from tazpod_net.core import events, exits, render
from tazpod_net.core.argv import Wanted
from tazpod_net.core.backend import Backend
from tazpod_net.core.events import AnyEvent
from tazpod_net.core.model import ALIVE, Machine, State
from tazpod_net.core.report import Clock, Known, build
from tazpod_net.core.status import (
    DnsPart,
    IdentityPart,
    LastEvent,
    LastExit,
    Note,
    PathsPart,
    ProxyPart,
    Status,
    steady,
)
from tazpod_net.core.tally import End, Tally
from tazpod_net.core.timefmt import rfc3339
from tazpod_net.engine import Engine
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import Daemon, Log, OwnLog, Store
from tazpod_net.session import Session

TROUBLE_LINE = b"Received error:"  # control or login trouble (`ipn/ipnlocal/local.go:1839`): the bus says nothing
UPDATE_LINE = b"lite map update error"  # the node's own news were refused (`controlclient/auto.go:91`)
FORGOTTEN = b"404: node not found"
REFUSAL = b"register request: http 4"  # an answer by HTTP status is told by no event (`controlclient/direct.go:866`)
KEY_ENDED = b"control: server reports new node key"  # … has expired (`controlclient/direct.go:894`)
CURE_EVERY = 2.0  # seconds between looks at what could end a fatal state
LOGOUT_BUDGET = 5.0  # seconds for the logout of an ephemeral node, at most half of the stop's
LOG_RETRY = 2.0  # seconds between attempts to write an unwritable log


class Self(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about this supervisor that do not change. `since`: monotonic seconds."""

    version: str
    pid: int
    start_ticks: int
    since: float
    paths: PathsPart
    identity: IdentityPart
    requested_hostname: str | None = None


class Supervisor:
    """Owns the loop of one home. `run` returns when the daemon is down and nobody wants it up."""

    def __init__(
        self,
        me: Self,
        engine: Engine,
        daemon: Daemon,
        session: Session,
        log: Log,
        store: Store,
        own_log: OwnLog,
        *,
        random: Callable[[], float],
        now: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self.me = me
        self.engine = engine
        self.daemon = daemon
        self.session = session
        self.log = log
        self.store = store
        self.own_log = own_log
        self.now = now
        self.epoch = epoch
        self.wanted = "up"
        self.looked: Callable[[], str | None] = lambda: None
        self.dns: Callable[[], DnsPart] = DnsPart
        self.notes: tuple[Note, ...] = ()
        self.offset_at: Callable[[float], int] | None = None  # seconds east of UTC, for times that a person reads
        self.ephemeral = False  # an orderly stop logs out
        self.stopped_by: str | None = None
        self.handed_over = False
        self.tally = Tally()
        self.reload: Callable[[], None] = lambda: None
        self.announce: Callable[[Status], None] = lambda _status: None
        self._random = random
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._last_event: LastEvent | None = None
        self._because: tuple[str | None, str | None] = (None, None)
        self._exit_fd: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cure_signs: object = None
        self._asked_to_stop: set[int] = set()
        self._published: Status | None = None
        self._publish_due = False
        self._farewell: asyncio.Task[None] | None = None
        self._log_retry: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        engine.on_step = self._on_step

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves until the daemon is down and unwanted, or handed over to another supervisor."""
        self._loop = asyncio.get_running_loop()
        for number, handler in self._signals().items():
            self._loop.add_signal_handler(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals())
        self._loop.add_reader(self.log.watch_fd(), self._log_news)
        self._watch_exit()
        self._arm()
        self.changed()
        self._log_news()
        if self.machine.state is State.DOWN and not self.machine.want_up:
            self._ended.set()
        await self._ended.wait()
        self._close()

    def _signals(self) -> dict[int, Callable[[], None]]:
        return {
            signal.SIGTERM: lambda: self.stop("SIGTERM"),
            signal.SIGINT: lambda: self.stop("SIGINT"),
            signal.SIGHUP: lambda: self.reload(),
        }

    def _close(self) -> None:
        assert self._loop is not None
        for number in self._signals():
            self._loop.remove_signal_handler(number)
        self._loop.remove_reader(self.log.watch_fd())
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
        for handle in (self._timer, self._log_retry):
            if handle is not None:
                handle.cancel()
        self.session.detach()
        while self.log.pump():
            pass
        if not self.handed_over:
            self._publish()

    @property
    def machine(self) -> Machine:
        """The present machine."""
        return self.engine.machine

    # --- what others ask ------------------------------------------------------------------------------------------

    def feed(self, make: Callable[[float], AnyEvent]) -> None:
        """An event of now."""
        self.engine.feed(make(self.now()))
        self._settle()

    def stop(self, by: str, *, timeout: float | None = None, sticky: bool = False) -> None:
        """Stops daemon and supervisor in order. `timeout`: seconds of grace instead of the configured ones."""
        self.stopped_by = by
        if sticky:
            self.wanted = "stopped"
        if timeout is not None:
            self.engine.policy = msgspec.structs.replace(self.engine.policy, stop_timeout=timeout)
        self._event("stopping", by)
        if self._must_log_out():
            assert self._loop is not None
            self.feed(events.Unwanted)
            self._farewell = self._loop.create_task(self._log_out_then_stop())
            return
        self.feed(events.WantDown)
        if self.machine.state is State.DOWN:
            self._ended.set()

    def _must_log_out(self) -> bool:
        """An ephemeral node leaves its tailnet on an orderly stop; a second request to stop does not wait for that."""
        known = self.session.backend.have_node_key and not self.session.logged_out
        return self.ephemeral and self._farewell is None and self.session.live and known

    async def _log_out_then_stop(self) -> None:
        budget = min(LOGOUT_BUDGET, self.engine.policy.stop_timeout / 2)
        try:
            await self.session.log_out(budget)
            self._event("logged out", "ephemeral node, orderly stop")
        except (OSError, TazpodNetError) as e:
            self._event("could not log out", str(e) or "no answer in time")
        self.feed(events.WantDown)
        if self.machine.state is State.DOWN:
            self._ended.set()

    def hand_over(self) -> None:
        """Ends this supervisor and leaves the daemon to the next one."""
        self.handed_over = True
        self._ended.set()

    async def fresh_status(self, within: float) -> Status:
        """The status after asking the daemon, or after `within` seconds what was known, with its age."""
        fresh = True
        if self.machine.state in {State.UP, State.STARTING} and not self.daemon.is_stopped():
            fresh = await self.session.refresh(within) if self.session.live else True
        return self.status(stale=not fresh)

    async def change(self) -> None:
        """Waits for the next change of anything that status shows."""
        await self._changed.wait()

    def changed(self) -> None:
        """Something that status shows may have changed."""
        self._changed.set()
        self._changed = asyncio.Event()
        if not self._publish_due and self._loop is not None:
            self._publish_due = True
            self._loop.call_soon(self._publish)

    def status(self, *, stale: bool = False) -> Status:
        """The status object of this moment."""
        return build(self._known(stale=stale))

    # --- events ---------------------------------------------------------------------------------------------------

    def _on_step(self, before: Machine, after: Machine, event: AnyEvent) -> None:
        if after.state is not before.state:
            why = after.reason or _WORDS.get(type(event), type(event).__name__)
            self._event(f"{before.state} -> {after.state}", why, pid=after.pid)
        if after.restarts != before.restarts:
            self.daemon.remember(restarts=self.daemon.facts.restarts + 1, last_exit=self.daemon.facts.last_exit)

    def _event(self, what: str, why: str, **fields: object) -> None:
        self._last_event = LastEvent(rfc3339(self.epoch()), what, why)
        self.own_log.event(what, why=why, **fields)

    def _settle(self) -> None:
        """After events: the watches follow the machine."""
        if self._loop is None:
            return
        if self.machine.pid is None:
            self.session.detach()
        self._watch_exit()
        self._arm()
        self.changed()
        if self.machine.state is State.DOWN and not self.machine.want_up:
            self._ended.set()

    def _watch_exit(self) -> None:
        assert self._loop is not None
        fd = self.daemon.exit_fd()
        if fd == self._exit_fd:
            return
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
        self._exit_fd = fd
        if fd is not None:
            self._loop.add_reader(fd, self._daemon_ended)
            if self.machine.pid is not None:
                self.session.attach(self.machine.pid)

    def _daemon_ended(self) -> None:
        assert self._loop is not None
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
            self._exit_fd = None
        pid = self.machine.pid
        asked = self.machine.state is State.STOPPING
        live = self.machine.state is State.UP
        ran = self.now() - (self.daemon.facts.since or self.now())
        mode = self.daemon.facts.mode or "userspace"
        status = self.daemon.ended()
        while self.log.pump():
            pass
        lines = self.log.tail(exits.LOOK_LINES)
        tail = lines[-exits.TAIL_LINES :]
        cause = exits.explain(status, lines, mode=mode, live=live, asked=asked, ran=ran)
        self._because = (cause.because, cause.next)
        last = LastExit(
            at=rfc3339(self.epoch()),
            code=status.code,
            signal=None if status.signal is None else exits.signal_name(status.signal),
            reason=cause.reason,
            log_tail=tail,
        )
        self.daemon.remember(restarts=self.daemon.facts.restarts, last_exit=last)
        self._event("tailscaled ended", cause.reason, pid=pid)
        self.tally.ended(_end_of(last, cause))
        self.session.detach()
        self.feed(
            lambda at: events.Exited(
                at=at,
                pid=pid or 0,
                reason=cause.reason,
                fix=cause.next or "",
                tun_failed=cause.tun_failed,
                permanent=cause.permanent,
                jitter=self._random(),
            )
        )

    def on_live(self, pid: int) -> None:
        """The session's news: LocalAPI answers."""
        self.feed(lambda at: events.BecameLive(at=at, pid=pid))

    def _arm(self) -> None:
        """The machine's one deadline; in fatal, a look at what could cure it."""
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.machine.deadline
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - self.now()) + 0.001, self._tick)
        elif self.machine.state is State.FATAL:
            self._timer = self._loop.call_later(CURE_EVERY, self._look_for_cure)
            if self._cure_signs is None:
                self._cure_signs = self.daemon.cure_signs()
        if self.machine.state is not State.FATAL:
            self._cure_signs = None

    def _tick(self) -> None:
        self.feed(events.Tick)

    def _look_for_cure(self) -> None:
        signs = self.daemon.cure_signs()
        if signs != self._cure_signs:
            self._cure_signs = None
            self._event("cured", "binary, device or configuration changed")
            self.reload()
            self.feed(events.Cured)
        else:
            self._arm()

    def _log_news(self) -> None:
        assert self._loop is not None
        self.log.drain_watch()
        if self.log.pump():
            self._loop.call_soon(self._log_news)
        elif (self.log.trouble is not None or self.log.blind) and self._log_retry is None:
            self._log_retry = self._loop.call_later(LOG_RETRY, self._retry_log)
            self.changed()

    def _retry_log(self) -> None:
        self._log_retry = None
        self._log_news()
        self.changed()

    def on_log(self, text: bytes) -> None:
        """New text of the daemon's log: some lines tell what no event does."""
        if KEY_ENDED in text:
            self.session.key_ended()
        if TROUBLE_LINE not in text and UPDATE_LINE not in text:
            return
        for line in text.splitlines():
            _, _, said = line.partition(TROUBLE_LINE)
            if FORGOTTEN in said:
                self.session.node_deleted()
            elif FORGOTTEN in line and UPDATE_LINE in line:
                self.session.node_deleted(sure=True)
            elif REFUSAL in said:
                self.session.login_refused(said.decode(errors="replace").strip())
        self.session.refresh_soon()

    # --- status ---------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._publish_due = False
        status = self.status()
        self.tally.entered(render.short_state(status), self.now())
        if self._published is None or steady(status) != steady(self._published):
            self._published = status
            self.store.publish(status)
            self.announce(status)

    def _known(self, *, stale: bool) -> Known:
        facts, session = self.daemon.facts, self.session
        stopped = self.machine.state in ALIVE and self.daemon.is_stopped()
        notes = list(facts.notes + self.notes)
        if stale and session.answered_at is not None:
            age = render.span(self.now() - session.answered_at)
            notes.append(Note("stale", f"tailscaled has not answered in time; this is from {age} ago"))
        if self.store.is_full():
            text = f"the disk of {self.me.paths.home} is full: tailscaled cannot save what it learns, nor write its log"
            notes.append(Note("disk-full", text, "free some space there"))
        if self.log.trouble is not None:
            notes.append(Note("log", self.log.trouble, "free some space or make logs/ writable; nothing is lost"))
        return Known(
            clock=Clock(self.now(), self.epoch()),
            version=self.me.version,
            pid=self.me.pid,
            start_ticks=self.me.start_ticks,
            since=self.me.since,
            machine=self.machine,
            backend=session.backend if self.machine.pid is not None else Backend(),
            live=session.live and not stopped,
            said=session.said,
            wanted=self.wanted,
            ready_since=session.ready_since,
            not_live_because="is stopped (SIGSTOP): kill -CONT it, or: tazpod-net restart" if stopped else "",
            daemon_version=facts.binary_version,
            daemon_since=facts.since,
            adopted=facts.adopted,
            mode=facts.mode,
            mode_reason=facts.mode_reason,
            interface=facts.interface,
            rss_bytes=self.daemon.rss_bytes(),
            last_exit=facts.last_exit,
            last_exit_because=self._because[0],
            last_exit_next=self._because[1],
            last_event=self._last_event,
            requested_hostname=self.me.requested_hostname,
            settings=session.plan.settings if session.plan else Wanted(),
            server=session.plan.server if session.plan else None,
            identity=self.me.identity,
            proxy=ProxyPart(facts.socks5, facts.http),
            dns=self.dns(),
            paths=self.me.paths,
            notes=tuple(notes),
            looked=self.looked(),
            restarts=facts.restarts,
            renews=session.backend.key_ends is not None and session.can_mint,
        )


def _end_of(last: LastExit, cause: exits.Cause) -> End:
    """For counting: without what is different each time."""
    how, _, why = cause.reason.partition(": ")
    asked = "as asked" if how.endswith("as asked") else ""
    return End("" if last.code is None else str(last.code), last.signal or "", why or asked)


_WORDS: dict[type[AnyEvent], str] = {
    events.WantUp: "wanted",
    events.WantDown: "not wanted any more",
    events.Unwanted: "not wanted any more",
    events.WantRestart: "restart asked for",
    events.Cured: "what made it fatal has changed",
    events.Spawned: "tailscaled was started",
    events.SpawnFailed: "tailscaled could not be started",
    events.Adopted: "found alive, left by an earlier supervisor",
    events.BecameLive: "tailscaled answers",
    events.Exited: "tailscaled ended",
    events.Tick: "time is up",
}
