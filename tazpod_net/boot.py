"""From nothing to a spawned daemon, without an event loop: asyncio costs 50 ms that the daemon can use to start.

Everything that can be refused is refused here, before anything is started or cleaned.
"""

import _socket  # not `socket`: 4 ms that the daemon would wait for
import contextlib
import os
import pwd
import re
import time
from collections.abc import Callable, Mapping

import msgspec

from tazpod_net import foreign
from tazpod_net.adapters import files, process, sockets
from tazpod_net.adapters.keyfile import read_key
from tazpod_net.adapters.spool import Spool, can_punch
from tazpod_net.config import Loaded
from tazpod_net.core.argv import Wanted
from tazpod_net.core.events import Adopted, WantUp
from tazpod_net.core.identity import choose_hostname
from tazpod_net.core.lines import LineRules
from tazpod_net.core.model import Policy
from tazpod_net.core.options import Config
from tazpod_net.core.status import IdentityPart, PathsPart
from tazpod_net.core.timefmt import rfc3339
from tazpod_net.credentials import Credentials
from tazpod_net.daemon import HomeDaemon
from tazpod_net.engine import Engine
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import Layout, socket_dirs, start_ticks


class Keeper(msgspec.Struct, frozen=True):
    """What an `entrypoint` gives to the supervisor that it started: file descriptors, -1 for none.

    `report`: a socket for words of one line, whose end tells that the supervisor is gone. `events`: where our own
    events are said. `stdout`: for the daemon's log.
    """

    report: int = -1
    events: int = -1
    stdout: int = -1

    def fds(self) -> set[int]:
        """Those to keep open."""
        return {self.report, self.events, self.stdout} - {-1}

    def tell(self, word: str) -> bool:
        """Says a word; False if nobody listens any more: then the container ends, and nothing is to be started."""
        try:
            return self.report < 0 or os.write(self.report, word.encode() + b"\n") > 0
        except OSError:
            return False


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How this supervisor was asked for. `user`: name of who ran `up`, for `operator`.

    `stop_within`: seconds that a stop by signal may take in all, where nobody has configured the daemon's grace.
    """

    env: dict[str, str]
    config_file: str | None = None
    overrides: dict[str, object] = {}
    folder: str = "/"
    user: str = ""
    copy_log: bool = False  # to stdout, in the foreground
    keeper: Keeper = Keeper()
    stop_within: float | None = None
    login: bool = True
    owner: tuple[int, int] | None = None  # of a throw-away home, pid and start ticks: at its end all of this goes too
    service: dict[str, str] = {}  # what a service manager told this process (adapters.sdnotify)
    no_root: tuple[str, str] | None = None  # why this user could not become root, and what helps


class Boot:
    """What is ready before the loop runs. Made under the lock, which it keeps."""

    def __init__(self, layout: Layout, lock: files.Lock, loaded: Loaded, launch: Launch) -> None:
        self.layout = layout
        self.lock = lock
        self.loaded = loaded
        self.launch = launch
        self.began = time.monotonic()
        config = loaded.config
        self.listener, self.socket_dir = sockets.bind_control(layout.home, layout.control_name, launch.env)
        self.daemon_socket = _daemon_socket(layout, config, self.socket_dir)
        self.credentials = Credentials(config, launch.env)
        self.spool = Spool(
            layout.state,
            layout.log,
            max_bytes=config.log.max_bytes,
            files=config.log.files,
            rules=line_rules(config, self.credentials),
            on_read=lambda text: self.log_text(text),
            on_text=self._copy_out if launch.copy_log else None,
            spool_dir=self._spool_dir(),
        )
        self.daemon = HomeDaemon(layout, self.daemon_socket, config, launch.env, self.spool)
        self.daemon.forgetful = launch.owner is not None
        self.daemon.no_root = launch.no_root
        self.engine = Engine(self.policy(), self.daemon)
        self.survivor: int | None = None
        self.log_text: Callable[[bytes], None] = lambda _text: None  # the supervisor's, once it runs

    def _spool_dir(self) -> str | None:
        """None for the home; on a filesystem without holes (9p, NFS) every byte ever written would stay: elsewhere."""
        try:
            if can_punch(self.layout.state):
                return None
        except OSError as e:
            raise files.home_error(self.layout.home, e) from e
        for directory in socket_dirs(self.layout.home, self.launch.env)[1:]:
            try:
                os.makedirs(directory, 0o755, exist_ok=True)
            except OSError:
                continue
            if can_punch(directory):
                return directory
        return None

    def _copy_out(self, text: bytes) -> None:
        out = self.launch.keeper.stdout
        view = memoryview(text)
        with contextlib.suppress(OSError):  # nobody reads it; the log file has it
            while view:
                view = view[os.write(1 if out < 0 else out, view) :]

    def policy(self) -> Policy:
        """The configuration's part for the machine; a container's stop must be over before its engine's patience."""
        configured = policy(self.loaded.config)
        within = self.launch.stop_within
        if within is None or "stop.timeout_s" in self.loaded.sources:
            return configured
        return msgspec.structs.replace(configured, stop_timeout=min(configured.stop_timeout, grace_within(within)))

    def check(self, *, takeover: bool) -> None:
        """Finds a survivor of an earlier supervisor; refuses, or on request stops, a tailscaled started by hand."""
        os.makedirs(self.loaded.config.daemon.state_dir, 0o755, exist_ok=True)
        self.survivor = self.daemon.find_survivor()
        found = foreign.find(self.loaded.config.daemon.state_dir, self.daemon_socket, not_pid=self.survivor)
        if found is not None:
            if not takeover:
                raise TazpodNetError(
                    f"{foreign.describe(found)} uses {found.uses}",
                    "'tazpod-net up --takeover' stops it and keeps the identity",
                )
            foreign.stop(found, self.loaded.config.stop.timeout_s)
        if self.survivor is None:
            self.daemon.precheck()

    def ignite(self) -> None:
        """Adopts the survivor or spawns the daemon."""
        pid = os.getpid()
        self.listener.listen(sockets.BACKLOG)  # again: SO_PEERCRED of the socket is whoever called listen last
        self.lock.sign(pid, own_ticks())
        self.spool.recover()
        if self.survivor is not None:
            try:
                started = self.daemon.adopt(self.survivor)
            except ProcessLookupError:
                self.survivor = None
            else:
                self.engine.feed(Adopted(time.monotonic(), self.survivor, started))
                return
        self.daemon.begin_anew()
        self.engine.feed(WantUp(time.monotonic()))

    def close(self) -> None:
        """Gives up: nothing was started. Releases what `up` took."""
        self.daemon.drop_guard()
        self.listener.close()
        files.remove(os.path.join(self.socket_dir, self.layout.control_name))
        self.lock.release()

    def paths(self) -> PathsPart:
        """For the status object."""
        return PathsPart(home=self.layout.home, socket=self.daemon_socket, log=self.layout.log)

    def identity(self) -> IdentityPart:
        """Where the node's key lies."""
        return identity_of(self.loaded.config, self.layout)

    def hostname(self) -> str:
        """The name to ask for: chosen once, kept in the home."""
        configured = self.loaded.config.login.hostname
        kept = os.path.join(self.layout.state, "hostname")
        if configured == "auto":
            found = read_key(kept).value
            if found:
                return found
        name = choose_hostname(configured, _socket.gethostname(), self.launch.folder, host_network=_host_network())
        if configured == "auto" and name:
            try:
                files.write_atomic(kept, name.encode() + b"\n", 0o644)
            except OSError:
                return name  # a full disk: it is chosen again next time, and comes out the same
        return name

    def wanted(self) -> Wanted:
        """The settings to keep the backend at."""
        return wanted_settings(self.loaded.config, self.launch.user, self.hostname())


def line_rules(config: Config, credentials: Credentials) -> LineRules:
    """The filters, and the secrets that must not reach the log."""
    drops = tuple(re.compile(pattern.encode()) for pattern in config.log.drop)
    return LineRules(drops, credentials.secrets())


def policy(config: Config) -> Policy:
    """The configuration's part for the machine."""
    return Policy(
        initial=config.restart.initial_s,
        maximum=config.restart.max_s,
        stable=config.restart.stable_s,
        give_up_after=config.restart.give_up_after,
        stop_timeout=config.stop.timeout_s,
        auto_mode=config.daemon.mode == "auto",
    )


def grace_within(seconds: float) -> float:
    """The daemon's grace, if all must be over in so many: the logout before it may take half as long again."""
    return max(0.5, (seconds - 1.0) / 1.5)


def wanted_settings(config: Config, user: str, hostname: str) -> Wanted:
    """The settings section as prefs; `operator` is by default the user who ran `up`, if that is not root."""
    settings = config.settings
    operator = settings.operator if settings.operator is not None else (user if user != "root" else None)
    routes = settings.advertise_routes
    return Wanted(
        accept_routes=settings.accept_routes,
        accept_dns=settings.accept_dns,
        ssh=settings.ssh,
        shields_up=settings.shields_up,
        advertise_routes=None if routes is None else tuple(routes),
        operator=operator or None,
        exit_node=settings.exit_node,
        hostname=hostname or None,
    )


def identity_of(config: Config, layout: Layout) -> IdentityPart:
    """Where the identity is kept, and on what kind of storage."""
    kind = files.mount_of(config.daemon.state_dir)
    store: str | None = "tmpfs" if kind[1] in {"tmpfs", "ramfs"} else "mount"
    if kind == files.mount_of("/"):  # nothing of its own is mounted there
        store = "container layer" if kind[1] in {"overlay", "aufs", "fuse-overlayfs"} else None
    where = config.daemon.state_dir
    return IdentityPart(kind=config.daemon.state, path=layout.home if where == layout.state else where, store=store)


def user_name(env: Mapping[str, str]) -> str:
    """Who ran it: also behind sudo. For others than root the variable is of an earlier `sudo -u`, and of no meaning."""
    name = env.get("SUDO_USER")
    if name and os.getuid() == 0:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def own_ticks() -> int:
    """Start ticks of this process."""
    return start_ticks(os.getpid()) or 0


def set_mark(path: str, by: str) -> None:
    """A sticky mark: what a person stopped (or logged out) stays so, until the container is restarted."""
    mark = {
        "by": by,
        "at": rfc3339(time.time()),
        "pid_namespace": process.pid_namespace(),
        "boot_id": process.boot_id(),
        "init": start_ticks(1),
    }
    files.write_json(path, mark, 0o644)


def read_mark(path: str) -> dict[str, object] | None:
    """The mark, if it was made in this life of the container."""
    mark = files.read_json(path)
    if mark is None or mark.get("pid_namespace") != process.pid_namespace():
        return None
    if mark.get("init") not in {None, start_ticks(1)}:  # the kernel gives a namespace's number out again
        return None
    return mark if mark.get("boot_id") == process.boot_id() else None


def _daemon_socket(layout: Layout, config: Config, socket_dir: str) -> str:
    default = os.path.join(layout.state, "tailscaled.sock")
    chosen = config.daemon.socket
    path = os.path.join(socket_dir, "tailscaled.sock") if chosen == default else chosen
    sockets.check_path(path)
    return path


def in_container() -> bool:
    """Whether Docker or podman made this place (their marker files)."""
    return os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")


def _host_network() -> bool:
    """Whether this is a container in its host's network namespace: then gethostname() is the host's name.

    A network card (a `device` in sysfs) is never moved into a container's own namespace by Docker or podman; their
    links are veth or tap, which have none.
    """
    if not in_container():
        return False
    links = (name for _, name in _socket.if_nameindex())  # not /sys's own list: it may be another namespace's
    return any(os.path.exists(f"/sys/class/net/{link}/device") for link in links)
