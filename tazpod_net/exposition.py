"""What others may read of this supervisor without its own protocol: probes and metrics.

Questions are cheap for the daemon however many come: one look at it a second, shared by all who ask meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tazpod_net.core import metrics, probes
from tazpod_net.core.render import short_state
from tazpod_net.core.status import Status
from tazpod_net.errors import TazpodNetError
from tazpod_net.supervisor import Supervisor

FRESH_WAIT = 0.3  # seconds for the daemon to say how it is, as for `status`
DAEMON_WAIT = 1.0  # seconds for the daemon to tell its own metrics
LOOK_EVERY = 1.0  # seconds: what is younger is told again


class Exposition:
    """`user_metrics` asks the daemon (adapters.localapi); the others are facts of this process."""

    def __init__(
        self,
        supervisor: Supervisor,
        user_metrics: Callable[[float], Awaitable[bytes]],
        log: Callable[[], metrics.LogCounts],
        usage: Callable[[], metrics.Usage],
        web: Callable[[], metrics.WebCounts | None],
    ) -> None:
        self.supervisor = supervisor
        self.user_metrics = user_metrics
        self.log = log
        self.usage = usage
        self.web = web
        self._looked_at = float("-inf")
        self._look: asyncio.Task[Status] | None = None
        self._told_at = float("-inf")
        self._tell: asyncio.Task[bytes | None] | None = None
        self._told: bytes | None = None
        self._scraped_at = float("-inf")
        self._scraping: asyncio.Task[bytes] | None = None
        self._scraped = b""

    async def probe(self, path: str) -> tuple[bool, str]:
        """The answer of `/livez`, `/readyz` or `/healthz`."""
        return probes.answer(path, await self._status())

    async def scrape(self) -> bytes:
        """The text of `/metrics`: made once a second, however many ask."""
        if self._scraping is None and self.supervisor.now() - self._scraped_at < LOOK_EVERY:
            return self._scraped
        if self._scraping is None:
            self._scraped_at = self.supervisor.now()
            self._scraping = asyncio.ensure_future(self.metrics())
            self._scraping.add_done_callback(self._has_scraped)
        return await asyncio.shield(self._scraping)

    def _has_scraped(self, task: asyncio.Task[bytes]) -> None:
        self._scraping = None
        if task.cancelled() or task.exception() is not None:
            self._scraped_at = float("-inf")
        else:
            self._scraped = task.result()

    async def metrics(self) -> bytes:
        """The text of this moment."""
        status, told = await asyncio.gather(self._status(), self._daemon_text())
        supervisor = self.supervisor
        at = supervisor.now()
        supervisor.tally.entered(short_state(status), at)
        return metrics.render(
            metrics.Facts(
                status=status,
                now=supervisor.epoch(),
                mono=at,
                tally=supervisor.tally,
                log=self.log(),
                usage=self.usage(),
                web=self.web(),
                daemon_text=told,
            )
        )

    async def _status(self) -> Status:
        now = self.supervisor.now()
        if self._look is None and now - self._looked_at < LOOK_EVERY:
            return self.supervisor.status()
        if self._look is None:
            self._looked_at = now
            self._look = asyncio.ensure_future(self.supervisor.fresh_status(FRESH_WAIT))
            self._look.add_done_callback(self._looked)
        await asyncio.wait({self._look})
        return self.supervisor.status()

    def _looked(self, _task: asyncio.Task[Status]) -> None:
        self._look = None

    async def _daemon_text(self) -> bytes | None:
        """What the daemon says of itself; None if it does not, which is harmless."""
        now = self.supervisor.now()
        if self._tell is None and now - self._told_at < LOOK_EVERY:
            return self._told
        if self._tell is None:
            self._told_at = now
            self._tell = asyncio.ensure_future(self._ask_daemon())
            self._tell.add_done_callback(self._has_told)
        await asyncio.wait({self._tell})
        return self._told

    async def _ask_daemon(self) -> bytes | None:
        if not self.supervisor.session.live or self.supervisor.daemon.is_stopped():
            return None
        try:
            return await self.user_metrics(DAEMON_WAIT)
        except (OSError, TazpodNetError):
            return None

    def _has_told(self, task: asyncio.Task[bytes | None]) -> None:
        self._tell = None
        self._told = None if task.cancelled() or task.exception() is not None else task.result()
