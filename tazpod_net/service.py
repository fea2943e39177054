"""The supervisor's side of the control protocol: one handler for each request. Rights are checked here, by request.

Anyone may ask; only root, the supervisor's uid and the home's owner may change (`SO_PEERCRED`, `man 7 unix`).
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from tazpod_net.core import events, outcome, protocol, render
from tazpod_net.core.conditions import CONDITIONS, Condition, parse
from tazpod_net.core.model import State
from tazpod_net.core.protocol import Request
from tazpod_net.core.status import Status, steady, to_json, to_pretty_json
from tazpod_net.core.timefmt import seconds as show
from tazpod_net.errors import EXIT_FAILED, EXIT_OK, ConfigError, TazpodNetError, UsageError
from tazpod_net.supervisor import Supervisor

if TYPE_CHECKING:
    from tazpod_net.names import Names
    from tazpod_net.targets import Targets

STATUS_WAIT = 0.3  # seconds that `status` waits for the daemon
ONLINE_EVERY = 0.5  # seconds between questions while somebody waits for `online`, which has no event
TRY_FIRST, TRY_LAST = 0.2, 2.0  # seconds between tries of what is out there, while somebody waits for it
TRY_LEAST = 0.5  # seconds for the last try
CONTROL_SPEAKS = 1.0  # seconds that `up` gives the control server to see a node that is ready
REDRAW_EVERY = 5.0  # seconds between frames of `status --watch` without a change: ages go on
_UCRED = struct.Struct("iII")  # pid, uid, gid


class Actions(msgspec.Struct, frozen=True):
    """What the wiring does for requests that touch more than the supervisor."""

    give_key: Callable[[str], None]
    take_offer: Callable[[protocol.Offered], None]
    mark_stopped: Callable[[str], None]
    clear_stopped: Callable[[], None]
    mark_logged_out: Callable[[], None]
    set_mode: Callable[[str], None]
    reload: Callable[[], tuple[list[str], list[str]]]
    metrics: Callable[[], Awaitable[bytes]]


class Client:
    """One connection: frames out, and whose it is."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        peer: socket.socket = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, _ = _UCRED.unpack(raw)

    def out(self, text: str) -> None:
        """A line on the client's stdout."""
        self.writer.write(protocol.out(text.encode("utf-8", "replace") + b"\n"))

    def raw(self, data: bytes) -> None:
        """Bytes on the client's stdout."""
        self.writer.write(protocol.out(data))

    def err(self, text: str) -> None:
        """A line on the client's stderr."""
        self.writer.write(protocol.err(text.encode("utf-8", "replace") + b"\n"))

    def fail(self, problem: str, fix: str = "", code: int = EXIT_FAILED) -> int:
        """The one-line error."""
        self.err(f"tazpod-net: {problem}: {fix}" if fix else f"tazpod-net: {problem}")
        return code


Handler = Callable[[Request, Client], Awaitable[int]]


class Service:
    """Answers clients until the supervisor ends."""

    def __init__(self, supervisor: Supervisor, actions: Actions, home_owner: int) -> None:
        self.supervisor = supervisor
        self.actions = actions
        self.home_owner = home_owner
        self.make_targets: Callable[[], Targets] | None = None
        self.get_names: Callable[[], Names] | None = None
        self.closing = False
        self._trials: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads: dict[str, Handler] = {
            "status": self._status,
            "wait": self._wait,
            "metrics": self._metrics,
            "hosts": self._hosts,
        }
        self._changes: dict[str, Handler] = {
            "up": self._up,
            "down": self._down,
            "restart": self._restart,
            "reload": self._reload,
            "login": self._login,
            "logout": self._logout,
            "handover": self._handover,
            "hosts-apply": self._hosts,
            "hosts-remove": self._hosts,
        }

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Starts to accept on a bound socket."""
        return await asyncio.start_unix_server(self._connected, sock=listener, limit=protocol.MAX_REQUEST)

    async def finish(self) -> None:
        """Lets the clients that wait hear how it ended."""
        self.closing = True
        self.supervisor.changed()
        for trial in self._trials:
            trial.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.CancelledError):
            return  # the client is gone
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        try:
            async with asyncio.timeout(10):
                line = await reader.readline()
        except (TimeoutError, ValueError):
            return
        if not line:
            return
        writer.write(protocol.out(b""))  # at once: whoever asked now knows that somebody lives here
        work = asyncio.ensure_future(self._answer(line, client))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return
            writer.write(protocol.end(work.result()))
            await writer.drain()
        finally:
            for future in (work, gone):
                future.cancel()

    async def _answer(self, line: bytes, client: Client) -> int:
        try:
            request = protocol.decode_request(line)
        except ValueError as e:
            return client.fail(str(e), "use the same version of tazpod-net")
        handler = self._reads.get(request.op)
        if handler is None:
            handler = self._changes.get(request.op)
            if handler is not None and not self._may_change(client):
                if request.op == "up":
                    return await self._join(request, client)
                return client.fail(
                    f"{request.op}: uid {client.uid} may not change this supervisor (uid {os.geteuid()})",
                    "run it as root or as the owner of the home",
                )
        if handler is None:
            return client.fail(
                f"this supervisor (another version) does not know {request.op!r}",
                "tazpod-net down, then: tazpod-net up",
            )
        return await handler(request, client)

    def _may_change(self, client: Client) -> bool:
        return client.uid in {0, os.geteuid(), self.home_owner}

    # --- reading ----------------------------------------------------------------------------------------------

    async def _status(self, request: Request, client: Client) -> int:
        status = await self.supervisor.fresh_status(STATUS_WAIT)
        client.raw(self._render(request, status))
        while request.watch and not self.closing:
            await client.writer.drain()
            status = await self._next_status(status, request)
            client.raw(self._render(request, status))
        return EXIT_OK if status.answers(request.condition) else EXIT_FAILED

    async def _next_status(self, last: Status, request: Request) -> Status:
        """The next status that differs; for a person also without a change, every few seconds."""
        pause = None if request.as_ == "json" else REDRAW_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.supervisor.change()
            status = self.supervisor.status()
            if request.as_ != "json" or steady(status) != steady(last) or self.closing:
                return status

    def _render(self, request: Request, status: Status) -> bytes:
        if request.as_ == "json":
            return to_json(status) + b"\n" if request.watch else to_pretty_json(status)
        if request.as_ == "short":
            return render.short(status).encode() + b"\n"
        text = render.text(
            status, now=self.supervisor.epoch(), colour=request.colour, offset_at=self.supervisor.offset_at
        )
        return text.encode("utf-8", "replace")

    async def _metrics(self, _request: Request, client: Client) -> int:
        client.raw(await self.actions.metrics())
        return EXIT_OK

    async def _wait(self, request: Request, client: Client) -> int:
        try:
            wanted = [parse(text) for text in request.conditions or ["ready"]]
        except UsageError as e:
            return client.fail(e.problem, e.fix, e.exit_code)
        states = [condition.kind for condition in wanted if condition.is_state]
        far = [condition for condition in wanted if not condition.is_state]
        began = self.supervisor.now()
        status = await self._until([*states, "ready"] if far else states, request.timeout, give_up=False)
        misses = _missing(status, states, far)
        if far and not misses:
            left = request.timeout - (self.supervisor.now() - began)
            status, misses = await self._until_reached(states, far, left)
        if misses and self.closing:
            return protocol.AGAIN  # for the next supervisor, or the end of the client's patience
        if request.json:
            client.raw(to_json(status) + b"\n")
        elif not misses:
            client.out(status.summary)
        if misses and (far or not request.json):
            self._say_misses(misses, request, client)
        return EXIT_FAILED if misses else EXIT_OK

    def _say_misses(self, misses: dict[str, str], request: Request, client: Client) -> None:
        """`not A and B after 30 s, why`: of several reasons, each with its condition."""
        reasons = list(dict.fromkeys(misses.values()))
        why = reasons[0] if len(reasons) == 1 else "; ".join(f"{what}: {why}" for what, why in misses.items())
        after = show(request.asked or request.timeout)
        client.fail(f"not {' and '.join(misses)} after {after}, {why}", "tazpod-net status")

    async def _until_reached(
        self, states: list[str], far: list[Condition], seconds: float
    ) -> tuple[Status, dict[str, str]]:
        """Tries until all hold at once, with pauses that grow: the status, and what did not hold at last, with why."""
        misses: dict[str, str] = {}
        trial = asyncio.ensure_future(self._try(states, far, misses, self.supervisor.now() + seconds))
        self._trials.add(trial)  # the end of the supervisor ends it
        try:
            await asyncio.wait({trial})
        finally:
            self._trials.discard(trial)
            trial.cancel()
        if not trial.cancelled():
            trial.result()
        else:
            misses = misses or {str(condition): "stopping" for condition in far}
        return self.supervisor.status(), misses

    async def _try(self, states: list[str], far: list[Condition], misses: dict[str, str], end: float) -> None:
        """Once at least. `misses` has what did not hold at last."""
        assert self.make_targets is not None
        targets = self.make_targets()
        pause = TRY_FIRST
        while True:
            if "online" in states or any(condition.kind == "peer" for condition in far):
                await self.supervisor.session.refresh(ONLINE_EVERY)
            status = self.supervisor.status()
            targets.patience = max(TRY_LEAST, min(targets.patience, end - self.supervisor.now()))
            found = _missing(status, states, far) or await targets.misses(far)
            misses.clear()
            misses.update(found)
            left = end - self.supervisor.now()
            if not misses or left <= 0:
                return
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, TRY_LAST)

    async def _until(self, conditions: list[str], seconds: float, *, give_up: bool) -> Status:
        """The status when all hold, at the time-out, or (give_up) when only a person can help."""
        if "online" in conditions:  # no event tells of it: what is known may be 5 minutes old
            await self.supervisor.session.refresh(min(ONLINE_EVERY, seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._over(conditions, give_up=give_up):
                    await self._news(conditions)
        return self.supervisor.status()

    def _over(self, conditions: list[str], *, give_up: bool) -> bool:
        status = self.supervisor.status()
        if _holds(status, conditions) or self.closing:
            return True
        if give_up and self.supervisor.stopped_by is not None:
            return True
        return give_up and outcome.blocked(status) is not None

    async def _news(self, conditions: list[str]) -> None:
        if "online" not in conditions:
            await self.supervisor.change()
            return
        try:
            async with asyncio.timeout(ONLINE_EVERY):
                await self.supervisor.change()
        except TimeoutError:
            await self.supervisor.session.refresh(ONLINE_EVERY)

    async def _hosts(self, request: Request, client: Client) -> int:
        assert self.get_names is not None
        from tazpod_net import hostrequests  # noqa: PLC0415 - 5 ms of patterns that no start pays for

        return await hostrequests.answer(request.op, self.supervisor, self.get_names(), client)

    # --- changing ---------------------------------------------------------------------------------------------

    async def _up(self, request: Request, client: Client) -> int:
        supervisor = self.supervisor
        if supervisor.stopped_by is not None and request.fresh:
            return client.fail(f"stopped by {supervisor.stopped_by}")
        if supervisor.stopped_by is not None:
            client.err("tazpod-net: stopping, then starting again")
            return protocol.AGAIN
        self.actions.clear_stopped()
        self._allow_login(request)
        if request.offered is not None:
            self.actions.take_offer(request.offered)
        elif request.login and not request.fresh and await self._lacks_credentials():
            return protocol.NEEDS_CREDENTIALS
        if not request.fresh:
            supervisor.feed(events.WantUp)
        return await self._wait_up(request, client)

    async def _wait_up(self, request: Request, client: Client) -> int:
        if not request.fresh:
            self._name_differences(request, client)
        if request.wait is None:
            client.out(self._running_word(request, self.supervisor.status()))
            return EXIT_OK
        began = request.started if request.fresh and request.started else self.supervisor.now()
        status = await self._until([request.wait], request.timeout, give_up=True)
        if request.wait == "ready" and status.ready and not status.online:
            # From a saved map it is ready before the control server has said anything: not yet a loss of it.
            status = await self._until(["online"], CONTROL_SPEAKS, give_up=True)
        return self._up_ends(request, client, status, began)

    async def _join(self, request: Request, client: Client) -> int:
        """`up` of somebody who may not change anything: it runs already, and the wait is the same."""
        if self.supervisor.stopped_by is not None:
            return client.fail(f"stopping ({self.supervisor.stopped_by})", "tazpod-net up, when it has ended")
        if request.offered is None and request.login and await self._lacks_credentials():
            return protocol.NEEDS_CREDENTIALS  # they cannot be taken from here; whoever asks may be able to be root
        return await self._wait_up(request, client)

    async def _lacks_credentials(self) -> bool:
        await self.supervisor.fresh_status(STATUS_WAIT)
        session = self.supervisor.session
        stuck = not session.has_credentials or session.login.trouble is not None
        return session.live and session.needs_login and stuck

    def _allow_login(self, request: Request) -> None:
        session = self.supervisor.session
        session.allowed = request.login
        session.logged_out = False
        session.interactive = session.interactive or self._interactive(request)
        session.reconsider()

    def _interactive(self, request: Request) -> bool:
        """Whether to ask for a URL: as configured, else if there is a person on a terminal."""
        configured = self.supervisor.session.plan.interactive
        return request.interactive if configured is None else configured

    def _name_differences(self, request: Request, client: Client) -> None:
        facts = self.supervisor.daemon.facts
        mode = request.options.get("daemon.mode")
        if mode not in {None, "auto", facts.mode} and facts.mode is not None:
            by = "by TUN" if facts.mode == "tun" else "in userspace mode"
            client.err(
                f"already running (pid {self.supervisor.me.pid}) {by}: --mode {mode} not applied: "
                f"'tazpod-net restart --mode {mode}'"
            )

    def _running_word(self, request: Request, status: Status) -> str:
        if request.fresh:
            return status.summary
        return f"already running (pid {self.supervisor.me.pid}): {status.summary}"

    def _up_ends(self, request: Request, client: Client, status: Status, began: float) -> int:
        assert request.wait is not None
        if request.json:
            client.raw(to_json(status) + b"\n")
        if self.supervisor.stopped_by is not None and not status.answers(request.wait):
            return client.fail(f"stopped by {self.supervisor.stopped_by}")
        if status.answers(request.wait):
            self._say_up(request, client, status, began)
            return EXIT_OK
        person = outcome.blocked(status)
        if person is not None:
            problem, fix = person
            if not request.fresh and status.supervisor.state == "fatal":
                fix += "; corrected in the environment: tazpod-net down, then up"  # ours is that of our own start
            return client.fail(problem, fix)
        why = outcome.why_not(status)
        return client.fail(f"not {request.wait} after {show(request.timeout)}, {why}", "it goes on trying")

    def _say_up(self, request: Request, client: Client, status: Status, began: float) -> None:
        if request.json:
            return
        if not request.fresh:
            client.out(self._running_word(request, status))
            return
        session, machine = self.supervisor.session, self.supervisor.machine
        live_ms = (machine.since - machine.started) * 1000 if machine.state is State.UP else None
        login_ms = None
        if session.ready_since is not None and machine.state is State.UP:
            login_ms = max(0.0, session.ready_since - machine.since) * 1000
        facts = self.supervisor.daemon.facts
        if facts.adopted:
            client.err(f"adopted tailscaled pid {machine.pid} of an earlier supervisor")
        else:
            client.err(outcome.started_line(status, probe_ms=facts.probe_ms, live_ms=live_ms, login_ms=login_ms))
            if facts.mode == "userspace" and self.supervisor.engine.policy.auto_mode:
                client.err(f"no TUN: {facts.mode_reason}")
        took = render.span(self.supervisor.now() - began)
        client.out(f"{render.headline(status.summary)}, {took}")

    async def _down(self, request: Request, client: Client) -> int:
        supervisor = self.supervisor
        if request.logout:
            await self._say_logout(client)
        if request.sticky:
            try:
                self.actions.mark_stopped("tazpod-net down")
            except OSError as e:
                why = (e.strerror or str(e)).lower()
                client.err(f"tazpod-net: cannot note that it stays stopped ({why}): new shells will start it again")
        by = "down" if request.sticky else "the end of its command"
        supervisor.stop(by, timeout=request.timeout if request.timeout > 0 else None, sticky=request.sticky)
        while supervisor.machine.state is not State.DOWN:
            await supervisor.change()
        client.out("stopped")
        return EXIT_OK

    async def _say_logout(self, client: Client) -> bool:
        try:
            await self.supervisor.session.log_out(10.0)
        except (OSError, TazpodNetError) as e:
            client.err(f"tazpod-net: could not log out ({str(e) or 'no answer'}): the node stays in the tailnet")
            return False
        self.actions.mark_logged_out()
        return True

    async def _restart(self, request: Request, client: Client) -> int:
        supervisor = self.supervisor
        if supervisor.stopped_by is not None:
            return client.fail(f"stopping ({supervisor.stopped_by})", "tazpod-net up")
        if request.mode is not None:
            self.actions.set_mode(request.mode)
        old = supervisor.machine.pid
        supervisor.feed(events.WantRestart)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.timeout):
                while supervisor.machine.pid == old or supervisor.machine.pid is None:
                    if outcome.blocked(supervisor.status()) or self.closing:
                        break
                    await supervisor.change()
        status = await self._until(["ready"], request.timeout, give_up=True)
        if status.ready:
            client.out(status.summary)
            return EXIT_OK
        person = outcome.blocked(status)
        if person is not None:
            return client.fail(*person)
        return client.fail(f"restarted, not ready after {show(request.timeout)}, {outcome.why_not(status)}",
                           "it goes on trying")  # fmt: skip

    async def _reload(self, _request: Request, client: Client) -> int:
        try:
            applied, later = self.actions.reload()
        except ConfigError as e:
            for problem in e.problems:
                client.fail(problem)
            return e.exit_code
        client.out("reloaded: " + (", ".join(applied) if applied else "nothing changed that can be applied live"))
        if later:
            client.out("needs 'tazpod-net restart': " + ", ".join(later))
        return EXIT_OK

    async def _login(self, request: Request, client: Client) -> int:
        session = self.supervisor.session
        if self.supervisor.stopped_by is not None:
            return client.fail(f"stopping ({self.supervisor.stopped_by})", "tazpod-net up")
        status = await self.supervisor.fresh_status(STATUS_WAIT)
        if status.ready and request.auth_key is None:
            client.out(f"already logged in: {status.summary}")
            return EXIT_OK
        if request.auth_key is not None:
            self.actions.give_key(request.auth_key)
        session.allowed, session.logged_out = True, False
        session.interactive = self._interactive(request)
        self.actions.clear_stopped()
        session.reconsider()
        return await self._login_ends(request, client)

    async def _login_ends(self, request: Request, client: Client) -> int:
        status = await self._until(["ready"], request.timeout, give_up=True)
        if request.interactive and status.backend.auth_url is not None:
            client.err(f"To log in, open: {status.backend.auth_url}")
            status = await self._until(["ready"], max(request.timeout, 600.0), give_up=False)
        if status.ready:
            client.out(status.summary)
            return EXIT_OK
        person = outcome.blocked(status)
        if person is not None:
            return client.fail(*person)
        return client.fail(f"not logged in after {show(request.timeout)}, {outcome.why_not(status)}",
                           "it goes on trying")  # fmt: skip

    async def _logout(self, _request: Request, client: Client) -> int:
        if not await self._say_logout(client):
            return EXIT_FAILED
        client.out("logged out; 'tazpod-net login' or 'tazpod-net up' logs in again")
        self.supervisor.changed()
        return EXIT_OK

    async def _handover(self, _request: Request, client: Client) -> int:
        client.out(f"supervisor (pid {self.supervisor.me.pid}) hands over")
        self.supervisor.hand_over()
        return EXIT_OK


def _missing(status: Status, states: list[str], far: list[Condition]) -> dict[str, str]:
    """The states that do not hold, with why; while the node is not ready, neither does anything out there."""
    wanted = [*states, *(() if status.ready else map(str, far))]
    return {text: outcome.why_not(status) for text in wanted if text not in CONDITIONS or not status.answers(text)}


def _holds(status: Status, conditions: list[str]) -> bool:
    return all(status.answers(condition) for condition in conditions)
