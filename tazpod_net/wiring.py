"""Builds the running supervisor from what `boot` prepared. Imported only after the daemon was spawned.

What the long-lived process may load is decided here and nowhere else: no ssl (asyncio works without: 4 MB), no rich
(structlog would load it: 9 MB), no pyroute2, no HTTP client library. `tests/test_architecture.py` checks the list.
"""

import sys
from typing import TYPE_CHECKING

FORBIDDEN = ("ssl", "rich", "pyroute2", "http.client", "urllib.request")
for _name in ("ssl", "rich"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]  # None makes `import` fail, as intended

import asyncio  # noqa: E402 - after the line above, on purpose
import contextlib  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import select  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from collections.abc import Coroutine  # noqa: E402

import msgspec  # noqa: E402

from tazpod_net import __version__, config  # noqa: E402
from tazpod_net.adapters import files, oneshot, process, resolver, sockets, throwaway  # noqa: E402
from tazpod_net.adapters.clockjump import ClockJump  # noqa: E402
from tazpod_net.adapters.localapi import LocalApi  # noqa: E402
from tazpod_net.adapters.mintclient import mint  # noqa: E402
from tazpod_net.adapters.ownlog import OwnLog  # noqa: E402
from tazpod_net.adapters.pathwatch import PathWatch  # noqa: E402
from tazpod_net.adapters.sdnotify import ServiceManager  # noqa: E402
from tazpod_net.adapters.store import StatusStore  # noqa: E402
from tazpod_net.boot import Boot, in_container, line_rules, own_ticks, read_mark, set_mark  # noqa: E402
from tazpod_net.core.announce import announcement  # noqa: E402
from tazpod_net.core.childenv import scrubbed_environment  # noqa: E402
from tazpod_net.core.containerboot import advertises_services  # noqa: E402
from tazpod_net.core.identity import identity_risk  # noqa: E402
from tazpod_net.core.login import Candidate, Code, Minted  # noqa: E402
from tazpod_net.core.minting import Minted as MintedKey  # noqa: E402
from tazpod_net.core.minting import Request as MintRequest  # noqa: E402
from tazpod_net.core.peers import Machine, listing  # noqa: E402
from tazpod_net.core.protocol import Offered  # noqa: E402
from tazpod_net.core.render import headline  # noqa: E402
from tazpod_net.core.status import DnsPart, Note, Status  # noqa: E402
from tazpod_net.daemon import find_program  # noqa: E402
from tazpod_net.errors import ConfigError, TazpodNetError  # noqa: E402
from tazpod_net.home import start_ticks  # noqa: E402
from tazpod_net.linux import local_offset  # noqa: E402
from tazpod_net.serveapply import ServeApplier  # noqa: E402
from tazpod_net.service import Actions, Service  # noqa: E402
from tazpod_net.session import Hooks, Plan, Session  # noqa: E402
from tazpod_net.supervisor import Self, Supervisor  # noqa: E402

if TYPE_CHECKING:
    from tazpod_net.core.metrics import LogCounts
    from tazpod_net.names import Names
    from tazpod_net.targets import Targets
    from tazpod_net.web import Web

MINT_PATIENCE = 30.0  # seconds for the child that mints a key
_LATER = 1.5  # seconds after the start for what nobody waits for: own log, binary version, full probe, garbage
_BREATH = 0.1  # seconds after it is ready for what an `up` should not wait for
_GC_THRESHOLD = 700  # Python's own; the launcher raised it for the imports
_STOP_MARGIN = 15.0  # seconds beside the daemon's grace: a logout, the log's last lines, clients that wait
_LIVE_KEYS = ("login.", "settings.", "restart.", "stop.", "log.", "dns.", "doctor.", "http.", "serve.")


def serve(boot: Boot) -> int:
    """Runs the supervisor to its end; returns its exit code."""
    running = Running(boot)
    try:
        asyncio.run(running.main())
    finally:
        running.own_log.open()
        running.clean_up()
    return 0


class Running:
    """The supervisor with its surroundings."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.layout = boot.layout
        self.loaded = boot.loaded
        log = self.loaded.config.log
        self.own_log = OwnLog(self.layout.own_log, max_bytes=log.max_bytes, files=log.files)
        self.mode_override: str | None = None
        self.linked = False
        self.watch: PathWatch | None = None
        self.poll: asyncio.TimerHandle | None = None
        self.applier: ServeApplier | None = None
        self.serve_note: str | None = None
        self.web: Web | None = None
        self.web_notes: tuple[Note, ...] = ()
        self.serve_turn = 0  # counts changes of files
        self.served: object = None
        self.serving = False
        self.clock = ClockJump()
        self.manager = ServiceManager(boot.launch.service, os.getpid() if boot.launch.keeper.report < 0 else None)
        self.said_stopping = False
        self.background: set[asyncio.Task[None]] = set()
        self.rules = line_rules(boot.loaded.config, boot.credentials)
        self.api = LocalApi(boot.daemon_socket, lambda text: self.rules.redact(text))
        self.session = Session(self.api, self._plan(), self._hooks())
        self.session.allowed = boot.launch.login
        self.session.logged_out = read_mark(self.layout.logged_out) is not None
        self.supervisor = Supervisor(
            Self(
                version=__version__,
                pid=os.getpid(),
                start_ticks=own_ticks(),
                since=boot.began,
                paths=boot.paths(),
                identity=boot.identity(),
                requested_hostname=boot.hostname() or None,
            ),
            boot.engine,
            boot.daemon,
            self.session,
            boot.spool,
            StatusStore(self.layout),
            self.own_log,
            random=random.random,
        )
        self.names: Names | None = None  # made a moment after it is ready, or when somebody asks: see _get_names
        self.names_due = False
        self.listed: tuple[tuple[Machine, ...], str] = ((), "")
        self.supervisor.looked = boot.credentials.looked
        self.supervisor.notes = self._notes()
        self.supervisor.dns = self._dns
        self.supervisor.offset_at = local_offset
        self.supervisor.ephemeral = self.loaded.config.daemon.state == "ephemeral"
        self.supervisor.reload = self._reload_quietly
        self.announced = ""
        self.idle = False
        self.supervisor.announce = self._announce
        boot.log_text = self.supervisor.on_log
        actions = Actions(
            give_key=self._give_key,
            take_offer=self._take_offer,
            mark_stopped=self._mark_stopped,
            clear_stopped=self._clear_stopped,
            mark_logged_out=self._mark_logged_out,
            set_mode=self._set_mode,
            reload=self._reload,
            metrics=self._metrics,
        )
        self.service = Service(self.supervisor, actions, os.stat(self.layout.home).st_uid)
        self.service.get_names = self._get_names
        self.service.make_targets = self._make_targets

    def _hooks(self) -> Hooks:
        return Hooks(
            on_live=lambda pid: self.supervisor.on_live(pid),
            on_change=lambda: self._on_change(),
            on_trouble=lambda text: self.own_log.event("trouble", why=text),
            candidates=self.boot.credentials.candidates,
            key=self.boot.credentials.key,
            mint=self._mint,
            epoch=time.time,
            now=time.monotonic,
        )

    def _notes(self) -> tuple[Note, ...]:
        """What a person should know of the configuration and of where the identity lies."""
        notes = [Note("configuration", text) for text in self.loaded.notes]
        if self.serve_note is not None:
            notes.append(Note("serve", self.serve_note, "correct it: it is applied when the file changes"))
        notes += self.web_notes
        notes += self._names_notes()
        risk = identity_risk(self.boot.identity(), in_container=in_container())
        return (*notes, *([risk] if risk is not None else []))

    def _announce(self, status: Status) -> None:
        """Others read files; a service manager and an `entrypoint` are told."""
        self._tell_manager(status)
        if self.boot.launch.keeper.report >= 0:
            self._tell_keeper(status)

    def _tell_manager(self, status: Status) -> None:
        if self.supervisor.stopped_by is not None and not self.said_stopping:
            self.said_stopping = True
            self.manager.stopping(self.boot.engine.policy.stop_timeout + _STOP_MARGIN)
        self.manager.status(headline(status.summary))

    def _tell_keeper(self, status: Status) -> None:
        """Our own events on the standard error of an `entrypoint`; it is shared with CMD, and nobody waits for it."""
        keeper = self.boot.launch.keeper
        idle = status.supervisor.state == "fatal" and status.daemon.pid is None
        if idle != self.idle:
            self.idle = idle
            keeper.tell("I" if idle else "D")
        found = announcement(status)
        events = keeper.events
        if events < 0 or found is None or found[0] == self.announced:
            return
        self.announced = found[0]
        writable = select.poll()
        writable.register(events, select.POLLOUT)
        if writable.poll(0):
            with contextlib.suppress(OSError):
                os.write(events, f"tazpod-net: {found[1]}\n".encode("utf-8", "replace"))

    def _names_notes(self) -> list[Note]:
        """Trouble with /etc/hosts; that it may not be written only for whoever has asked for it."""
        names = self.names
        if (
            names is None
            or names.trouble is None
            or (not names.may_write and self.loaded.config.dns.hosts == "auto" and not names.order)
        ):
            return []
        return [Note("hosts", names.trouble, "names of the tailnet may be missing there; dns.hosts = false: never")]

    def _names_wanted(self) -> bool | None:
        """`dns.hosts`: auto = where the tailnet's DNS is not the container's. None: not known yet."""
        choice = self.loaded.config.dns.hosts
        if choice != "auto":
            return bool(choice)
        mode, prefs = self.boot.daemon.facts.mode, self.session.backend.prefs
        if mode == "userspace":
            return True
        return None if mode is None or prefs is None else not prefs.corp_dns

    def _get_names(self) -> "Names":
        """The keeper of the block. Loaded late: its patterns take 5 ms, for which no `up` should wait."""
        if self.names is None:
            from tazpod_net.adapters.hostsfile import HostsFile  # noqa: PLC0415 - see above
            from tazpod_net.names import Names  # noqa: PLC0415

            self.names = Names(
                HostsFile(self.layout.hosts_journal),
                os.path.realpath(self.layout.home),
                wanted=self._names_wanted,
                hostname=lambda: os.uname().nodename,
            )
            self.names.said = lambda what, why: self.own_log.event(what, why=why)
            self.names.notify = self._notes_changed
            self.names.start()
        return self.names

    def _follow_names(self) -> None:
        names = self._get_names()
        names.follow(self.session.backend)
        if names.present or names.trouble is not None:
            self._notes_changed()

    def _make_targets(self) -> "Targets":
        from tazpod_net.adapters.network import Network  # noqa: PLC0415 - as rarely as somebody waits for a peer
        from tazpod_net.targets import Targets  # noqa: PLC0415

        return Targets(
            self.api,
            Network(),
            mode=lambda: self.boot.daemon.facts.mode,
            known=lambda: self.session.backend.machines,
        )

    def _notes_changed(self) -> None:
        self.supervisor.notes = self._notes()
        self.supervisor.changed()

    def _list_peers(self) -> None:
        """For completions, which must not wait for anybody: a file, written when the names change."""
        known = self.session.backend.machines
        if known == self.listed[0]:
            return
        text = listing(known)
        if text != self.listed[1]:
            with contextlib.suppress(OSError):
                files.write_atomic(self.layout.peers, text.encode(), 0o644)
        self.listed = (known, text)

    async def _names_out(self) -> None:
        """The orderly end: no names of a tailnet that nobody can reach any more."""
        names = self._get_names()
        names.close()
        with contextlib.suppress(OSError):
            files.remove(self.layout.peers)
        for _ in range(5):
            if not names.present:
                return
            names.take_out()
            names.close()
            await asyncio.sleep(0.1 if names.present else 0)

    def _dns(self) -> DnsPart:
        guarded = self.loaded.config.dns.guard and self.boot.daemon.facts.mode == "tun"
        return DnsPart(
            resolver=resolver.nameservers(), guarded=guarded, hosts_block=self.names is not None and self.names.present
        )

    def _plan(self) -> Plan:
        login = self.loaded.config.login
        return Plan(
            server=login.server or None,
            settings=self.boot.wanted(),
            timeout=login.timeout_s,
            hint=login.hint or None,
            interactive=None if login.interactive == "auto" else login.interactive,
            tags=tuple(login.tags),
        )

    async def main(self) -> None:
        """Serves; then lets waiting clients hear the end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        server = await self.service.serve(socket.socket(fileno=self.boot.listener.detach()))
        loop.call_later(_LATER, self._later)
        self._watch_files(loop)
        loop.add_reader(self.clock.fd, self._clock_jumped)
        self._link()
        self._serve_http()
        if self.boot.launch.owner is not None:
            self._watch_owner(*self.boot.launch.owner)
        elif os.geteuid() == 0:
            sockets.point(self.layout.home, os.getpid(), own_ticks())
        self.manager.ready(loop)
        try:
            await self.supervisor.run()
        finally:
            server.close()
            if not self.supervisor.handed_over:
                await self._names_out()
            loop.remove_reader(self.clock.fd)
            self._end_watch(loop)
            if self.web is not None:
                self.web.close()
            await self.service.finish()
            for task in self.background:
                task.cancel()
            self.manager.close()

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A bug: told in our own log, never on a person's screen; the daemon goes on."""
        error = context.get("exception")
        self.own_log.event("internal error", why=str(context.get("message")), exc_info=error)
        self.own_log.open()

    def _later(self) -> None:
        self.own_log.open()
        self._follow_names()
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it
        gc.set_threshold(_GC_THRESHOLD)
        for work in (self._learn_version(), self._full_probe()):
            self._in_background(work)

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _learn_version(self) -> None:
        with contextlib.suppress(OSError, TimeoutError, TazpodNetError):
            binary = find_program(self.loaded.config.daemon.binary, self.boot.launch.env)
            said = await oneshot.ask([binary, "--version"], {}, b"", 10.0)
            self.boot.daemon.learn_version(said.decode("utf-8", "replace").split("\n", 1)[0].strip())
            self.supervisor.changed()

    async def _full_probe(self) -> None:
        """The diagnosis through netlink after a "no"; what it says is remembered for the next start.

        Not after a "yes": the daemon in TUN mode is the proof, and a scratch device that comes and goes beside it is a
        change of links, for which every tailscaled of this network namespace drops its control connection.
        """
        facts = self.boot.daemon.facts
        if facts.adopted or facts.mode == "tun" or self.loaded.config.daemon.mode == "userspace":
            return
        argv = [oneshot.python(), "-P", "-m", "tazpod_net.adapters.fullprobe"]
        question = msgspec.json.encode({"interface": self.loaded.config.daemon.interface})
        with contextlib.suppress(OSError, TimeoutError, msgspec.DecodeError):
            answer = await oneshot.ask(argv, self.boot.launch.env, question, 15.0)
            self.boot.daemon.remember_probe(answer)

    def _link(self) -> None:
        choice = self.loaded.config.daemon.link_socket
        if choice is True or (choice == "auto" and os.geteuid() == 0):
            self.linked = sockets.link(self.boot.daemon_socket)

    def clean_up(self) -> None:
        """The last acts: nothing of ours is left that others would take for a running supervisor."""
        self.boot.spool.close()
        if not self.supervisor.handed_over and self.linked:
            sockets.unlink(self.boot.daemon_socket)
        sockets.unpoint(os.getpid())
        files.remove(os.path.join(self.boot.socket_dir, self.layout.control_name))
        if self.boot.launch.owner is not None and not self.supervisor.handed_over:
            throwaway.remove(self.layout.home, self.boot.socket_dir)

    def _watch_owner(self, pid: int, ticks: int) -> None:
        """Until whoever has this throw-away home is gone, however it ends; a pidfd needs no rights (`man 2`)."""
        loop = asyncio.get_running_loop()
        try:
            owner = process.Watched(pid)
        except ProcessLookupError:
            loop.call_soon(self._owner_gone)
            return
        if start_ticks(pid) == ticks:
            loop.add_reader(owner.pidfd, self._owner_gone, owner)
        else:
            owner.close()
            loop.call_soon(self._owner_gone)

    def _owner_gone(self, owner: process.Watched | None = None) -> None:
        """The node leaves its tailnet, unless it is about to."""
        if owner is not None:
            asyncio.get_running_loop().remove_reader(owner.pidfd)
            owner.close()
        if self.supervisor.stopped_by is None:
            self.supervisor.stop("its owner is gone")

    # --- what requests do -----------------------------------------------------------------------------------------

    def _give_key(self, key: str) -> None:
        self.boot.credentials.given = key
        self._apply_log()

    def _take_offer(self, offered: Offered) -> None:
        """Credentials that a later `up` can see: an entrypoint does not see what the platform injects into shells."""
        self.boot.credentials.offered = offered
        self._apply_log()
        self.session.reconsider()

    def _watch_files(self, loop: asyncio.AbstractEventLoop) -> None:
        """Secrets may appear later, by a file or by a mount: the login follows at once."""
        self.watch = PathWatch(self._watched_paths())
        loop.add_reader(self.watch.fd, self._files_changed)
        self._files_changed()

    def _watched_paths(self) -> list[str]:
        serve = self.loaded.config.serve.config
        return [*self.boot.credentials.paths(), *([serve] if serve else [])]

    def _files_changed(self) -> None:
        assert self.watch is not None
        changed = self.watch.drain()
        if changed:
            self.serve_turn += 1
            self._serve_soon()
            self._apply_log()
            self.session.reconsider()
            self.supervisor.changed()
        if self.poll is not None:
            self.poll.cancel()
            self.poll = None
        if self.watch.poll_every is not None:  # the kernel cannot tell everything
            self.poll = asyncio.get_running_loop().call_later(self.watch.poll_every, self._files_changed)

    def _end_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.poll is not None:
            self.poll.cancel()
        if self.watch is not None:
            loop.remove_reader(self.watch.fd)
            self.watch.close()
        self.clock.close()

    def _clock_jumped(self) -> None:
        """A resume from suspend, or a clock that was set: what waits for a time looks again."""
        seconds = self.clock.drain()
        if seconds:
            self.own_log.event("clock jumped", why=f"{seconds:.1f} s")
            self.session.clock_jumped()

    def _serve_soon(self) -> None:
        """When ready, again for each new daemon, for another certificate domain and when the file changes."""
        path = self.loaded.config.serve.config
        if not path:
            self.applier, self.serve_note = None, None
            return
        if self.applier is None or self.applier.path != path:
            self.applier = ServeApplier(
                self.api, path, self._serve_said, advertise=advertises_services(self.boot.launch.env)
            )
            self.served = None
        backend = self.session.backend
        domain = backend.cert_domains[0] if backend.cert_domains else None
        key = (self.boot.engine.machine.pid, domain, self.serve_turn)
        if not (backend.ready and self.session.live):
            self.served = None  # a new profile has no serve config
        elif not self.serving and (key != self.served or self.serve_note is not None):
            self.served, self.serving = key, True
            self._in_background(self._serve(self.applier, domain))

    async def _serve(self, applier: ServeApplier, domain: str | None) -> None:
        try:
            await applier.apply(domain)
        finally:
            self.serving = False

    def _serve_said(self, text: str | None) -> None:
        self.serve_note = text
        self._notes_changed()

    def _serve_http(self) -> None:
        """Health and metrics over HTTP as configured; where they are off, nothing of it is loaded."""
        http = self.loaded.config.http
        if self.web is not None or http.health or http.metrics:
            self._web().configure(http)

    def _web(self) -> "Web":
        if self.web is None:
            from tazpod_net.web import Web  # noqa: PLC0415 - 0.4 MB and 12 ms for those who ask

            self.web = Web(self.supervisor, self.api, self._log_counts, self._web_said)
        return self.web

    def _web_said(self, notes: tuple[Note, ...]) -> None:
        self.web_notes = notes
        self._notes_changed()

    def _log_counts(self) -> "LogCounts":
        from tazpod_net.core.metrics import LogCounts  # noqa: PLC0415 - loaded by then, see _web

        counts = self.boot.spool.counts
        return LogCounts(counts.lines, counts.bytes, counts.filtered, counts.lost)

    async def _metrics(self) -> bytes:
        return await self._web().exposition.metrics()

    def _on_change(self) -> None:
        self._serve_soon()
        if self.web is not None:
            self.web.news()
        self._list_peers()
        if self.names is not None:
            self.names.follow(self.session.backend)
        elif self.session.backend.ready and not self.names_due:
            self.names_due = True
            asyncio.get_running_loop().call_later(_BREATH, self._follow_names)
        self.supervisor.changed()

    async def _mint(self, candidate: Candidate) -> tuple[str | None, Minted]:
        """One key from the API, by a short-lived child: TLS never enters this process."""
        minter = self.boot.credentials.minter(candidate)
        if minter is None:
            return None, Minted(ok=False, text="the credentials are gone")
        login = self.loaded.config.login
        question = MintRequest(
            api_url=login.api_url,
            client_id=minter.client_id,
            client_secret=minter.client_secret,
            api_key=minter.api_key,
            tailnet=minter.tailnet,
            tags=tuple(login.tags),
            expiry_s=login.key_expiry_s,
            ephemeral=minter.wishes.get("ephemeral", self._mints_ephemeral()),
            preauthorized=minter.wishes.get("preauthorized", login.preauthorized),
            reusable=login.reusable,
            description=f"tazpod-net {self.boot.hostname()}",
        )
        env, _ = scrubbed_environment(self.boot.launch.env, self.loaded.config, logs_dir="")  # not through ourselves
        answer = await mint(question, env, MINT_PATIENCE)
        if isinstance(answer, MintedKey):
            self.own_log.event("minted an auth key", why="a login is needed")
            return answer.key, Minted(ok=True)
        return None, Minted(
            ok=False, code=Code(answer.code), text=answer.text, next=answer.next, wait=answer.retry_after_s
        )

    def _mints_ephemeral(self) -> bool:
        """`login.ephemeral`: auto = the node goes when its identity goes."""
        configured = self.loaded.config.login.ephemeral
        if configured != "auto":
            return bool(configured)
        identity = self.boot.identity()
        return identity.kind == "ephemeral" or identity.store in {"tmpfs", "container layer"}

    def _clear_stopped(self) -> None:
        for path in (self.layout.stopped, self.layout.logged_out):
            with contextlib.suppress(OSError):
                files.remove(path)
        self.supervisor.wanted = "up"

    def _mark_stopped(self, by: str) -> None:
        """On a full disk it stops all the same, and a new shell may start it again."""
        try:
            set_mark(self.layout.stopped, by)
        except OSError as e:
            self.own_log.event("trouble", why=f"the mark of {by!r} cannot be written: {e.strerror}")

    def _mark_logged_out(self) -> None:
        with contextlib.suppress(OSError):
            set_mark(self.layout.logged_out, "tazpod-net logout")

    def _set_mode(self, mode: str) -> None:
        self.mode_override = mode
        self._use(self._load())

    def _load(self) -> config.Loaded:
        launch = self.boot.launch
        overrides = dict(launch.overrides)
        if self.mode_override is not None:
            overrides["daemon.mode"] = self.mode_override
        return config.load(home=self.layout.home, env=launch.env, config_file=launch.config_file, overrides=overrides)

    def _reload(self) -> tuple[list[str], list[str]]:
        """Re-reads the configuration; returns what was applied and what needs `restart`. Raises ConfigError."""
        with self.manager.reloading():
            return self._apply_reload()

    def _apply_reload(self) -> tuple[list[str], list[str]]:
        before, after = self.loaded.config, self._load()
        changed = _changed_keys(before, after.config)
        self._use(after)
        if self.names is not None:
            self.names.order, self.names.may_write = None, True
            self.names.follow(self.session.backend)
        self.session.correct_settings_again()
        self.session.reconsider()
        self.own_log.event("reloaded", why="changed: " + (", ".join(changed) or "nothing"))
        applied = [key for key in changed if key.startswith(_LIVE_KEYS)]
        return applied, [key for key in changed if key not in applied]

    def _reload_quietly(self) -> None:
        try:
            self._reload()
        except ConfigError as e:
            self.own_log.event("reload refused", why=str(e))
            self.supervisor.notes = tuple(
                Note("configuration", f"not reloaded: {problem}", "correct it, then: tazpod-net reload")
                for problem in e.problems
            )
            self.supervisor.changed()

    def _use(self, loaded: config.Loaded) -> None:
        self.loaded = loaded
        self.boot.loaded = loaded
        self.boot.credentials.config = loaded.config
        self.boot.daemon.config = loaded.config
        self.boot.engine.policy = self.boot.policy()
        self.session.plan = self._plan()
        if self.watch is not None:
            self.watch.set_paths(self._watched_paths())
            self._serve_soon()
            self._serve_http()
        self.supervisor.notes = self._notes()
        self.supervisor.ephemeral = loaded.config.daemon.state == "ephemeral"
        self._apply_log()
        self.supervisor.changed()

    def _apply_log(self) -> None:
        log = self.loaded.config.log
        self.rules = line_rules(self.loaded.config, self.boot.credentials)
        self.boot.spool.reconfigure(log.max_bytes, log.files, self.rules)
        self.own_log.file.max_bytes, self.own_log.file.files = log.max_bytes, log.files


def _changed_keys(before: config.Config, after: config.Config) -> list[str]:
    changed: list[str] = []
    for section in before.__struct_fields__:
        old, new = getattr(before, section), getattr(after, section)
        changed += [f"{section}.{name}" for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return changed
