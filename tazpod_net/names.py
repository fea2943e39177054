"""Keeps the tailnet's names in /etc/hosts: when they are wanted there, follows the daemon, and takes them out.

Moved by the daemon's news alone: it has no timer of its own but after a write (so that a storm of news is one write)
and after trouble. Knows nothing of bytes (core.hostsblock) nor of files (adapters.hostsfile).
"""

import asyncio
import errno
from collections.abc import Callable

from tazpod_net.core import hostsblock
from tazpod_net.core.backend import Backend
from tazpod_net.core.hostsblock import Plan, Refused
from tazpod_net.core.peers import Machine
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import Hosts

BREATH = 1.0  # seconds between two writes
RETRY, RETRY_MOST = 1.0, 320.0  # seconds after trouble that may pass: doubled each time
_OUT = frozenset({"NeedsLogin", "NeedsMachineAuth", "Stopped"})  # not in a tailnet: its names mean nothing


class Names:
    """The block of one home.

    `wanted`: True, False, or None while nobody knows yet. `hostname`: the container's own name. `notify`: something
    that the status shows has changed.
    """

    def __init__(
        self, hosts: Hosts, home: str, *, wanted: Callable[[], bool | None], hostname: Callable[[], str]
    ) -> None:
        self.hosts = hosts
        self.home = home
        self.hostname = hostname
        self.present = False
        self.trouble: str | None = None
        self.may_write = True
        self.refused: tuple[Refused, ...] = ()
        self.said: Callable[[str, str], None] = lambda _what, _why: None
        self.notify: Callable[[], None] = lambda: None
        self.order: bool | None = None  # what a person asked for, until the configuration is read again
        self._wanted = wanted
        self._known: tuple[Machine, ...] = ()
        self._done: object = None  # what the file was brought to: names, and its mark after that
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        self._retry = RETRY

    @property
    def wanted(self) -> bool | None:
        """Whether the block is to be there."""
        return self.order if self.order is not None else self._wanted()

    def start(self) -> None:
        """Finishes what a crash has left half done, and looks what is there."""
        try:
            if self.hosts.repair():
                self.said("names", "a write to /etc/hosts that was cut is finished")
            self.present = hostsblock.has_block(self.hosts.read(), self.home)
        except (OSError, TazpodNetError) as e:
            self.trouble = _sentence(e)
        if self.present and self.wanted is False:
            self.take_out()

    def follow(self, backend: Backend) -> None:
        """News of the daemon: the file follows, now or after a breath. Quiet if nothing changed."""
        wanted = self.wanted
        if wanted is None or not self.may_write:
            return
        if wanted is False or backend.state in _OUT:
            self._known = ()
            if self.present:
                self.take_out()
            return
        if not backend.ready or not backend.machines:
            return
        self._known = tuple(Machine(m.short, m.full, m.ips) for m in backend.machines)
        if self._done != (self._known, self.hosts.mark()):
            self._soon()

    def apply(self, machines: tuple[Machine, ...]) -> None:
        """Writes the block now. Raises OSError or TazpodNetError."""
        self._known = tuple(Machine(m.short, m.full, m.ips) for m in machines)
        self._forget_timer()
        self._write()

    def remove(self) -> bool:
        """Takes the block out now; True if there was one. Raises OSError or TazpodNetError."""
        self._forget_timer()
        self._done = None
        changed = self.hosts.change(lambda data: hostsblock.outside(data, self.home))
        self.present, self.trouble = False, None
        return changed

    def take_out(self) -> None:
        """The same, and trouble is only told."""
        try:
            if self.remove():
                self.said("names", "taken out of /etc/hosts")
        except (OSError, TazpodNetError) as e:
            self._troubled(e)
        self.notify()

    def close(self) -> None:
        """No more writes."""
        self._forget_timer()

    def preview(self, machines: tuple[Machine, ...]) -> Plan:
        """What the block would have. Raises OSError or TazpodNetError if the file cannot be read."""
        return hostsblock.plan(machines, self.hosts.read(), self.home, self.hostname())

    # --- the file -----------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next, loop.time()), self._turn)

    def _turn(self) -> None:
        self._timer = None
        before = (self.present, self.trouble)
        try:
            if self.wanted and self._known:
                self._write()
            elif self.present:
                self.remove()
        except (OSError, TazpodNetError) as e:
            self._troubled(e)
        self._next = asyncio.get_running_loop().time() + BREATH
        if (self.present, self.trouble) != before:
            self.notify()

    def _write(self) -> None:
        found = Plan()

        def edit(data: bytes) -> bytes:
            nonlocal found
            found = hostsblock.plan(self._known, data, self.home, self.hostname())
            if hostsblock.holds(data, self.home, found.lines):
                return data
            return hostsblock.with_block(data, self.home, found.lines)

        if self.hosts.change(edit):
            self.said("names", f"{len(found.lines)} lines in /etc/hosts")
        if found.refused != self.refused:
            self.refused = found.refused
            self.said("names left out", "; ".join(f"{r.name} {r.why}" for r in found.refused[:20]) or "none any more")
        self._done = (self._known, self.hosts.mark())
        self.present, self.trouble, self.may_write = bool(found.lines), None, True
        self._retry = RETRY

    def _troubled(self, error: Exception) -> None:
        """A file that may not be written stays so, until somebody says otherwise; other trouble may pass."""
        sentence = _sentence(error)
        if sentence != self.trouble:
            self.said("names", sentence)
        self.trouble = sentence
        self.may_write = not is_refused(error)
        if self.may_write and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._retry, self._turn)
            self._retry = min(self._retry * 2, RETRY_MOST)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_refused(error: Exception) -> bool:
    """Whether this process may not write the file, which time does not change."""
    return isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"/etc/hosts cannot be written ({(error.strerror or str(error)).lower()})"
    return error.problem if isinstance(error, TazpodNetError) else str(error)
