"""The HTTP side of one home: opens and closes what the configuration says, and keeps trying where it cannot.

Never fatal: an address that is taken or not there is a note in `status`. Loaded only where `http.*` is on or metrics
are asked for.
"""

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Collection

from tazpod_net.adapters import httpserver, selfusage
from tazpod_net.adapters.httpserver import AddressError, Answer, HttpServer
from tazpod_net.adapters.localapi import LocalApi
from tazpod_net.core import metrics, probes
from tazpod_net.core.options import Http
from tazpod_net.core.status import Note
from tazpod_net.exposition import Exposition
from tazpod_net.supervisor import Supervisor

METRICS = "/metrics"
_FIRST_RETRY, _LAST_RETRY = 1.0, 30.0  # seconds between attempts on an address that cannot be had
_WORDS = {
    errno.EADDRINUSE: ("is taken by another program", "end that one, or set {key} to another port"),
    errno.EACCES: ("may not be used: ports below 1024 need root", "set {key} to a port from 1024 on"),
    errno.EADDRNOTAVAIL: (
        "is no address of this machine (yet)",
        "set {key} to one that is: 127.0.0.1, or [::] for all",
    ),
}


class Web:
    """Use `configure` as often as the configuration changes; `close` at the end."""

    def __init__(
        self,
        supervisor: Supervisor,
        api: LocalApi,
        log: Callable[[], metrics.LogCounts],
        say: Callable[[tuple[Note, ...]], None],
    ) -> None:
        self.exposition = Exposition(supervisor, api.user_metrics, log, _usage, self._counts)
        self._own_log = supervisor.own_log
        self._say = say
        self._wanted: dict[str, frozenset[str]] = {}  # address -> paths
        self._keys: dict[str, str] = {}  # address -> the key that names it
        self._servers: dict[str, HttpServer] = {}
        self._notes: dict[str, Note] = {}
        self._said: tuple[Note, ...] = ()
        self._retry: asyncio.TimerHandle | None = None
        self._pause = _FIRST_RETRY
        self._past: Counter[int] = Counter()  # answers of servers that were closed
        self._past_dropped = 0

    def configure(self, http: Http) -> None:
        """Closes what is not wanted any more, opens what is wanted now; the rest goes on undisturbed."""
        wanted, self._keys = _wanted(http)
        for address in [address for address in self._servers if address not in wanted]:
            self._end(address)
        self._wanted = wanted
        self._notes = {address: note for address, note in self._notes.items() if address in wanted}
        self._pause = _FIRST_RETRY
        self._open()

    def close(self) -> None:
        """Ends every listener and connection."""
        self._wanted = {}
        self._cancel_retry()
        for address in list(self._servers):
            self._end(address)

    def news(self) -> None:
        """Something has changed: an address that was not there, such as the tailnet's, may be there now."""
        loop = asyncio.get_running_loop()
        if self._retry is not None and self._retry.when() > loop.time() + _FIRST_RETRY:  # never put off by news
            self._cancel_retry()
            self._pause = _FIRST_RETRY
            self._retry = loop.call_later(_FIRST_RETRY, self._open)

    # --- listening ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._cancel_retry()
        missing = [address for address in self._wanted if address not in self._servers]
        if any([self._try(address) for address in missing]):  # noqa: C419 - all are tried, not only to the first
            self._retry = asyncio.get_running_loop().call_later(self._pause, self._open)
            self._pause = min(self._pause * 2, _LAST_RETRY)
        notes = tuple(self._notes.values())
        if notes != self._said:
            self._said = notes
            self._say(notes)

    def _try(self, address: str) -> bool:
        """True: it cannot be had now, and later perhaps."""
        try:
            listeners = httpserver.sockets_of(address)
        except AddressError as e:
            self._note(address, f"cannot be listened on: {e}", "set {key} to an IP address and a port")
            return False
        except OSError as e:
            problem, fix = _WORDS.get(
                e.errno or 0, (f"cannot be listened on: {(e.strerror or str(e)).lower()}", "set {key}")
            )
            self._note(address, problem, fix)
            return True
        self._notes.pop(address, None)
        self._servers[address] = HttpServer(lambda path: self._answer(address, path), listeners)
        self._own_log.event("http listens", why=address)
        return False

    def _note(self, address: str, problem: str, fix: str) -> None:
        text = f"{address} {problem}"
        note = Note("http", text, fix.format(key=self._keys[address]))
        if self._notes.get(address) != note:
            self._own_log.event("http does not listen", why=text)
        self._notes[address] = note

    def _end(self, address: str) -> None:
        server = self._servers.pop(address)
        server.close()
        self._past += server.answers
        self._past_dropped += server.dropped

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # --- answering ------------------------------------------------------------------------------------------------

    async def _answer(self, address: str, path: str) -> Answer:
        paths = self._wanted.get(address, frozenset())
        if path not in paths:
            known = " ".join(sorted(paths))
            return Answer(404, f"not found, there is: {known}\n".encode())
        if path == METRICS:
            return Answer(200, await self.exposition.scrape(), metrics.CONTENT_TYPE)
        holds, text = await self.exposition.probe(path)
        return Answer(200 if holds else 503, f"{text}\n".encode("utf-8", "replace"))

    def _counts(self) -> metrics.WebCounts | None:
        if not self._wanted:
            return None
        servers = self._servers.values()
        return metrics.WebCounts(
            connections=sum(len(server.connections) for server in servers),
            answers=sum((server.answers for server in servers), self._past),
            dropped=sum(server.dropped for server in servers) + self._past_dropped,
        )


def _wanted(http: Http) -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """Paths by address, and the key that each address comes from."""
    asked: list[tuple[str, str, Collection[str]]] = []
    if http.health:
        key = "http.health_listen" if http.health_listen else "http.listen"
        asked.append((http.health_listen or http.listen, key, probes.PATHS))
    if http.metrics:
        asked.append((http.listen, "http.listen", (METRICS,)))
    wanted: dict[str, frozenset[str]] = {}
    for address, _, paths in asked:
        wanted[address] = wanted.get(address, frozenset()) | frozenset(paths)
    return wanted, {address: key for address, key, _ in asked}


def _usage() -> metrics.Usage:
    return metrics.Usage(
        rss_bytes=selfusage.rss_bytes(),
        pss_bytes=selfusage.pss_bytes(),
        cpu_seconds=selfusage.cpu_seconds(),
        open_fds=selfusage.open_fds(),
    )
