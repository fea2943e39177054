"""Follows the backend of one daemon: readiness, the bus, snapshots, login, settings. Asks core.login what to do.

Nothing here polls once the daemon is up: the bus wakes it, a log line or a client asks for a refresh, and one timer
of 300 s catches what has no event (control loss, peers' paths).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine

import msgspec

from tazpod_net.core import login as logins
from tazpod_net.core.argv import Wanted, drift, masked, wanted_prefs
from tazpod_net.core.backend import Backend, Notify, fold_notify, fold_snapshot
from tazpod_net.core.login import Action, Candidate, Login, Minted, Said
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import LocalApi

SLOW_REFRESH = 300.0  # seconds
RENEW_BEFORE = 7 * 86400.0  # seconds before the node key's end, if a new key can be minted
SETTLE = 60.0  # seconds after a login before the end of its node key is believed
STALE = 1.0  # seconds after a change of state in which a line of the log may still be about what was before
HUNG_AFTER = 1.0  # seconds without an answer: the daemon does not answer
_ALL_SETTINGS = frozenset(Wanted.__struct_fields__)
_FIRST_TRY, _LAST_TRY = 0.002, 0.05  # seconds between attempts to reach a daemon that is starting


class Plan(msgspec.Struct, frozen=True):
    """What the configuration wants of login and settings. `server` is None for Tailscale's own."""

    server: str | None = None
    settings: Wanted = Wanted()
    timeout: float = 30.0
    hint: str | None = None
    tags: tuple[str, ...] = ()  # of minted keys
    interactive: bool | None = None  # login.interactive; None: whoever asks knows whether there is a person


class Hooks(msgspec.Struct, frozen=True):
    """Who is told what, and who is asked.

    `candidates`: the credentials at hand now. `key`: the value of a candidate that is a key. `mint`: buys one; gives
    the key (or None) and how it went, and never raises.
    """

    on_live: Callable[[int], None]
    on_change: Callable[[], None]
    on_trouble: Callable[[str], None]
    candidates: Callable[[], tuple[Candidate, ...]]
    key: Callable[[Candidate], str | None]
    mint: Callable[[Candidate], Awaitable[tuple[str | None, Minted]]]
    epoch: Callable[[], float]
    now: Callable[[], float]


class Session:
    """The backend of the present daemon. `attach` for each new daemon, `detach` when it has ended."""

    def __init__(self, api: LocalApi, plan: Plan, hooks: Hooks) -> None:
        self.api = api
        self.plan = plan
        self.hooks = hooks
        self.backend = Backend()
        self.live = False
        self.answered_at: float | None = None
        self.login = Login()
        self.allowed = True  # False: --no-login
        self.logged_out = False
        self.interactive = False
        self.ready_since: float | None = None
        self._pid: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._to_correct = _ALL_SETTINGS
        self._minted_key: str | None = None
        self._turn = asyncio.Lock()
        self._life: float | None = None  # seconds that a new node key lives here; known after a login
        self._measure = False
        self._settled_at = 0.0
        self._key_known = False  # `backend.key_ends` is that of the present login
        self._armed = True  # the present attempt's own login has been taken by the daemon
        self._told_ended = False  # the log said that the node key has expired
        self._moved_at = 0.0  # the last change of the backend's state
        self._suspected = False  # the log said that control has forgotten this node

    def attach(self, pid: int) -> None:
        """Follows a new daemon."""
        self.detach()
        self._pid = pid
        self._spawn(self._follow(pid))

    def detach(self) -> None:
        """Forgets a daemon that has ended; what was learned about keys stays."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._refreshing = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pid = None
        self.backend = Backend()
        self.live = False
        self.ready_since = None
        self._to_correct = _ALL_SETTINGS
        self._minted_key = None
        self.login = msgspec.structs.replace(self.login, attempt=None, minting=False, deadline=None, renew=None)

    @property
    def said(self) -> Said:
        """The sentence about the login."""
        sources = logins.Sources(hint=self.plan.hint, tags=self.plan.tags)
        return logins.say(self.login, self._facts(), sources, logged_out=self.logged_out)

    @property
    def has_credentials(self) -> bool:
        """Whether anything is at hand that was not refused."""
        return any(c.fingerprint not in self.login.refused for c in self.hooks.candidates())

    async def refresh(self, within: float) -> bool:
        """Asks the daemon now and waits at most `within` seconds; False if what is known is older."""
        if self._pid is None:
            return False
        task = self._ask()
        done, _ = await asyncio.wait({task}, timeout=within)
        return bool(done)

    def refresh_soon(self) -> None:
        """Something may have changed that has no event."""
        if self._pid is not None:
            self._ask()

    def reconsider(self) -> None:
        """Credentials, permission or plan changed."""
        self._decide()

    @property
    def needs_login(self) -> bool:
        """Whether nothing but a login makes it go on."""
        gone = self.backend.disowned or self.login.renew is logins.Code.NODE_DELETED
        return self.backend.state == "NeedsLogin" or gone

    @property
    def can_mint(self) -> bool:
        """Whether a key can be bought without a person."""
        return any(c.mints for c in self.hooks.candidates())

    def clock_jumped(self) -> None:
        """Waits that are told in monotonic time stood still, or the world has moved on: look now, and try now."""
        self.login = msgspec.structs.replace(self.login, held={})
        self.refresh_soon()

    def node_deleted(self, *, sure: bool = False) -> None:
        """A log line said that control does not know this node any more; it may be an old line, so ask first.

        `sure`: an answer to what the node itself had to tell. A control server may keep the poll of a deleted node open
        (headscale does), so the daemon's own word that it is online is none. What is older than the daemon's last
        change of state is about a node before.
        """
        if not sure:
            self._suspected = True
            self.refresh_soon()
        elif self.live and self.login.attempt is None and self.hooks.now() >= self._moved_at + STALE:
            self._decide(deleted=True)
            self.hooks.on_change()

    def key_ended(self) -> None:
        """A log line said that control answered a login with "key expired": the daemon itself forgets that at once."""
        self._told_ended = True
        self.hooks.on_change()

    def login_refused(self, error: str) -> None:
        """A log line said that control answers a login with an HTTP status: the bus tells only answers in words."""
        if self._armed:
            self._decide(error=error.partition(": {")[0])  # some servers send an object instead of words
            self.hooks.on_change()

    async def log_out(self, timeout: float) -> None:  # noqa: ASYNC109 - the caller's budget
        """Logs this node out at the control server. Raises OSError, TimeoutError or LocalApiError."""
        self.logged_out = True
        self.allowed = False
        await self.api.logout(timeout)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() or AssertionError  # into the loop's handler, which logs it

    async def _follow(self, pid: int) -> None:
        await self._until_ready()
        self.live = True
        self.hooks.on_live(pid)
        pause = 0.1
        while True:
            with contextlib.suppress(OSError, TazpodNetError, msgspec.DecodeError):
                async for notify in self.api.watch():
                    pause = 0.1
                    self._heard(notify)
            await asyncio.sleep(pause)  # the bus ended: the daemon is ending, or we fell behind
            pause = min(pause * 2, 5.0)

    async def _until_ready(self) -> None:
        pause = _FIRST_TRY
        while True:
            with contextlib.suppress(OSError, TimeoutError, TazpodNetError):
                if await self.api.ready():
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_TRY)

    def _heard(self, notify: Notify) -> None:
        self.backend = fold_notify(self.backend, notify)
        if notify.state is not None:
            self._moved_at = self.hooks.now()
        if notify.login_finished is not None:
            self._told_ended = False
        if notify.state is not None or notify.login_finished is not None:
            self._key_known = False  # the key's end of before this login must not renew it once more
        self._note_readiness()
        error = notify.err_message if self._armed else None  # before our own login was taken it is about another one
        self._decide(error=error, finished=notify.login_finished is not None)
        self._ask()
        self.hooks.on_change()

    def _ask(self) -> asyncio.Task[None]:
        """One snapshot at a time; asked for during one, another follows."""
        if self._refreshing is not None and not self._refreshing.done():
            self._again = True
            return self._refreshing
        self._refreshing = self._spawn(self._snapshot())
        return self._refreshing

    async def _snapshot(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            try:
                snapshot = await self.api.snapshot(timeout=HUNG_AFTER)
            except (OSError, TazpodNetError, msgspec.DecodeError):
                self._silent()
                break
            self.live = True
            self.answered_at = self.hooks.now()
            self.backend = fold_snapshot(self.backend, snapshot)
            self._note_readiness()  # another snapshot may follow: whoever waits is woken by others too
            self._key_known = not self._again
        deleted, self._suspected = self._suspected and not self.backend.online, False
        self._decide(deleted=deleted)
        self._correct_settings()
        self._arm()
        self.hooks.on_change()

    def _silent(self) -> None:
        self.live = False
        self._note_readiness()

    def _note_readiness(self) -> None:
        ready = self.live and self.backend.ready
        if ready and self.ready_since is None:
            self.ready_since = self.hooks.now()
        elif not ready:
            self.ready_since = None

    def _arm(self) -> None:
        """The one timer: the next moment of the login, else the slow refresh."""
        if self._timer is not None:
            self._timer.cancel()
        now = self.hooks.now()
        wake = now + (SLOW_REFRESH if self.live else 5.0)
        attempt = logins.next_attempt(self.login, self._facts())
        if attempt is not None:
            wake = min(wake, attempt)
        self._timer = asyncio.get_running_loop().call_later(max(wake - now, 0.01), self.refresh_soon)

    def _facts(
        self,
        *,
        error: str | None = None,
        finished: bool = False,
        minted: Minted | None = None,
        deleted: bool = False,
    ) -> logins.Facts:
        needed = self.needs_login or deleted or self.login.renew is not None or self._expiring()
        return logins.Facts(
            at=self.hooks.now(),
            backend=self.backend if self._armed else msgspec.structs.replace(self.backend, online=False),
            candidates=self.hooks.candidates() if needed else (),
            allowed=self.allowed and not self.logged_out,
            interactive=self.interactive,
            error=error,
            finished=finished,
            minted=minted,
            deleted=deleted,
            expiring=self._expiring(),
            ended=self._key_left() <= 0 or self._told_ended,
            timeout=self.plan.timeout,
        )

    def _expiring(self) -> bool:
        """Whether to renew: a week ahead, or in the last third of a key that lives for less than three.

        Never right after a login: the status may still show the end of the key before.
        """
        if self.hooks.now() < self._settled_at:
            return False
        left = self._key_left()
        if self._measure and left < float("inf"):
            self._life, self._measure = left, False
        return left < (RENEW_BEFORE if self._life is None else min(RENEW_BEFORE, self._life / 3))

    def _key_left(self) -> float:
        """Seconds until the node key ends; without an end, or before a snapshot has told of this login: for ever."""
        ends = self.backend.key_ends
        return ends - self.hooks.epoch() if ends is not None and self._key_known else float("inf")

    def _decide(
        self,
        *,
        error: str | None = None,
        finished: bool = False,
        minted: Minted | None = None,
        deleted: bool = False,
    ) -> None:
        if self._pid is None or not self.live:
            return
        if self.backend.auth_url is not None or self.backend.ready:
            self.interactive = False  # who asked for a URL has one; once it was visited, another would undo the login
        facts = self._facts(error=error, finished=finished and self._armed, minted=minted, deleted=deleted)
        attempt = self.login.attempt
        self.login, action = logins.decide(self.login, facts)
        if attempt is not None and self.login.attempt is None and self.backend.state in {"Running", "Starting"}:
            self._told_ended = False
            self._measure, self._settled_at = True, self.hooks.now() + SETTLE
        match action:
            case Action.MINT:
                self._spawn(self._mint(self.login.attempt))
            case Action.LOG_IN:
                self._armed = False
                self._spawn(self._try(self._log_in(self._take_key(self.login.attempt))))
            case Action.ASK_URL:
                self.interactive = False
                self._spawn(self._try(self._log_in(None)))
            case Action.GIVE_UP:
                self._spawn(self._try(self._give_up()))
            case Action.NOTHING:
                pass
        self._arm()

    def _take_key(self, candidate: Candidate | None) -> str | None:
        if self._minted_key is not None:
            key, self._minted_key = self._minted_key, None
            return key
        return None if candidate is None else self.hooks.key(candidate)

    async def _mint(self, candidate: Candidate | None) -> None:
        assert candidate is not None
        self._minted_key, outcome = await self.hooks.mint(candidate)
        if not outcome.ok:
            self.hooks.on_trouble(f"minting: {outcome.text}")
        self._decide(minted=outcome)
        self._arm()  # a failure has set a time for the next attempt
        self.hooks.on_change()

    async def _try(self, work: Awaitable[None]) -> None:
        try:
            async with self._turn:  # giving up on one key comes before the login with the next
                await work
        except (OSError, TazpodNetError) as e:
            self.hooks.on_trouble(f"login: {str(e) or type(e).__name__}")
            self._decide(error=str(e) or "tailscaled does not answer")

    async def _log_in(self, key: str | None) -> None:
        prefs = await self.api.prefs()
        prefs.update(wanted_prefs(self.plan.settings))
        # With a node key and without LoggedOut, `start` registers at once by itself (`ipnlocal/local.go`, startLocked):
        # together with the next line that would be two registrations with one key, and a one-off key bears only one.
        prefs.update({"WantRunning": True, "LoggedOut": self.backend.have_node_key})
        if self.plan.server is not None:
            prefs["ControlURL"] = self.plan.server
        await self.api.start(prefs, key)
        self.backend = msgspec.structs.replace(self.backend, online=False)  # whatever it was: that was another login
        self._armed = True
        await self.api.login_interactive()

    async def _give_up(self) -> None:
        """`start` without a key ends the daemon's own endless repetition of a refused one."""
        await self.api.start(await self.api.prefs(), None)

    def _correct_settings(self) -> None:
        """Once for each daemon, as soon as it runs; a backend that a person stopped is left alone.

        An exit node that is given by name is waited for until there is such a peer.
        """
        if not self._to_correct or not self.backend.ready or self.backend.prefs is None:
            return
        off = {row[0] for row in drift(self._only(self._to_correct), self.backend.prefs, self.backend.exit_nodes)}
        fields = wanted_prefs(self._only(off), self.backend.exit_nodes)
        self._to_correct = frozenset(off & {"exit_node"}) if "ExitNodeID" not in fields else frozenset()
        if fields:
            self._spawn(self._edit(masked(fields)))

    def _only(self, names: Collection[str]) -> Wanted:
        return Wanted(**{name: getattr(self.plan.settings, name) for name in names})

    async def _edit(self, fields: dict[str, object]) -> None:
        try:
            await self.api.edit_prefs(fields)
        except (OSError, TazpodNetError) as e:
            self.hooks.on_trouble(f"settings: {str(e) or type(e).__name__}")

    def correct_settings_again(self) -> None:
        """After a reload."""
        self._to_correct = _ALL_SETTINGS
        self._correct_settings()
