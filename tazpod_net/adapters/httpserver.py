"""A small HTTP/1.1 server in the supervisor's own loop: GET and HEAD, short answers, strangers as clients.

h11 parses, non-blocking sockets carry. It knows no path and no policy: a handler answers. Whatever clients do, it costs
a bounded number of descriptors, bytes and seconds:

- A connection has one deadline for each thing that it waits for, never moved by a single byte (slow loris).
- At most `limit` connections. For one more, the longest idle one is closed; if none is idle, the one that has had time
  enough to ask; if there is none of those either, clients wait in the kernel's queue, which costs us nothing.
- While an answer is made, nothing more is read from that client. Garbage is answered with 400 and the end.
- A few answers in each turn of the loop, however many are asked for: whatever else lives in the loop gets its turn.

No connection, no timer: nothing wakes up for an HTTP side that nobody uses.
"""

import asyncio
import contextlib
import errno
import resource
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from enum import Enum
from typing import NamedTuple

import h11

BACKLOG = 1024  # clients that may wait to be accepted
MOST = 512  # connections at once, fewer where descriptors are few
READ_SECONDS = 5.0  # for a whole request
IDLE_SECONDS = 75.0  # between requests of one connection
WRITE_SECONDS = 5.0  # for the client to take the answer
LINGER_SECONDS = 1.0  # for the client to read our last words before the connection is cut
GRACE_SECONDS = 1.0  # that a silent connection is left alone while others wait
MAX_HEAD = 8192  # bytes of request line and headers
_READ_BYTES = 16384
_ACCEPTS, _ANSWERS = 16, 8  # in one turn of the loop, a few milliseconds of work
_BAD_REQUEST, _NOT_ALLOWED, _OUR_FAULT, _VERSION = 400, 405, 500, 505
_PAUSE = 1.0  # seconds without accepting after the kernel had no room
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REASONS = {
    200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    503: b"Service Unavailable", 505: b"HTTP Version Not Supported",
}  # fmt: skip


class Answer(NamedTuple):
    """What a handler says."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class AddressError(Exception):
    """Not an address that can be listened on; `str()` says why."""


Handler = Callable[[str], Awaitable[Answer]]
"""Answers a path, without its query. 404 is its business, too."""


class _Phase(Enum):
    READING = "reading"  # a request, or the first byte of the first one
    IDLE = "idle"  # between requests
    ANSWERING = "answering"  # the handler works
    WRITING = "writing"
    LINGERING = "lingering"  # all is said, the client may still send


_LIMITS = {
    _Phase.READING: READ_SECONDS,
    _Phase.IDLE: IDLE_SECONDS,
    _Phase.WRITING: WRITE_SECONDS,
    _Phase.LINGERING: LINGER_SECONDS,
}


def sockets_of(address: str) -> list[socket.socket]:
    """Listening sockets for `host:port`. Two for localhost; for `[::]` and no host one that takes IPv4 as well.

    Raises:
        AddressError: a name, or nonsense.
        OSError: taken, not allowed, not on this machine.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return list(_both(int(port)))
    if host in {"", "::", "*"}:
        try:
            return [_listen(socket.AF_INET6, ("::", int(port)), both=True)]
        except OSError as e:
            if e.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EINVAL}:
                raise
            return [_listen(socket.AF_INET, ("0.0.0.0", int(port)))]  # noqa: S104 - a kernel without IPv6
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, ValueError) as e:  # ValueError: a NUL, or no IDNA
        raise AddressError(f"{host} is no IP address") from e
    family, _, _, _, place = found[0]
    return [_listen(family, place)]


def _both(port: int) -> Iterator[socket.socket]:
    first = _listen(socket.AF_INET, ("127.0.0.1", port))
    yield first
    try:
        yield _listen(socket.AF_INET6, ("::1", port))
    except OSError as e:
        if e.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            first.close()
            raise


def _listen(family: int, place: tuple[object, ...], *, both: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class HttpServer:
    """Answers on its listeners until `close`. Must be made inside the loop."""

    def __init__(self, handler: Handler, listeners: list[socket.socket], *, limit: int | None = None) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = limit or max(16, min(MOST, soft // 2))
        self.handler = handler
        self.listeners = listeners
        self.loop = asyncio.get_running_loop()
        # In the order in which they began to wait for what they wait for.
        self.connections: dict[_Connection, None] = {}
        self.answers: Counter[int] = Counter()
        self.dropped = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self._queue: deque[Callable[[], Coroutine[object, object, None]]] = deque()
        self._pause: asyncio.TimerHandle | None = None
        self._accepting = False
        self._accept_again()

    def close(self) -> None:
        """Ends everything at once."""
        self._stop_accepting()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for listener in self.listeners:
            listener.close()
        self.listeners = []
        self._queue.clear()
        for task in self.tasks:
            task.cancel()
        for connection in list(self.connections):
            connection.end()

    # --- accepting ------------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if not self._accepting:
            self._accepting = True
            for listener in self.listeners:
                self.loop.add_reader(listener, self._accept, listener)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener in self.listeners:
                self.loop.remove_reader(listener)

    def _wait(self, seconds: float) -> None:
        self._stop_accepting()
        if self._pause is None:
            self._pause = self.loop.call_later(seconds, self._accept_again)

    def _accept(self, listener: socket.socket) -> None:
        for number in range(_ACCEPTS):
            if len(self.connections) >= self.limit and (number or not self._make_room()):
                return  # for the first one there is surely a client; for the others the loop comes back
            try:
                client, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in _NO_ROOM:
                    self._drop_idle()
                    self._wait(_PAUSE)
                    return
                continue  # that client has gone already
            client.settimeout(0.0)
            connection = _Connection(self, client)
            connection.begin()

    def _make_room(self) -> bool:
        """False: nobody may be sent away yet; accepting goes on when somebody may."""
        if self._drop_idle():
            return True
        waiting = next((c for c in self.connections if c.phase is _Phase.READING), None)
        if waiting is None:
            self._wait(_PAUSE)
            return False
        left = waiting.since + GRACE_SECONDS - self.loop.time()
        if left > 0:
            self._wait(left)
            return False
        self.drop(waiting)
        return True

    def _drop_idle(self) -> bool:
        idle = next((c for c in self.connections if c.phase in {_Phase.IDLE, _Phase.LINGERING}), None)
        if idle is not None:
            self.drop(idle)
        return idle is not None

    # --- what connections say -------------------------------------------------------------------------------------

    def drop(self, connection: "_Connection") -> None:
        """Closes one that is too slow, or one too many. The end of an idle one is no loss to anybody."""
        if connection.phase not in {_Phase.IDLE, _Phase.LINGERING}:
            self.dropped += 1
        connection.end()

    def changed(self, connection: "_Connection") -> None:
        """It waits for something else now: it is the youngest of those."""
        self.connections.pop(connection, None)
        self.connections[connection] = None
        if self._pause is not None and connection.phase in {_Phase.IDLE, _Phase.LINGERING}:
            self._accept_again()

    def ended(self, connection: "_Connection") -> None:
        """It is closed."""
        self.connections.pop(connection, None)
        if self._pause is not None and self.listeners:
            self._accept_again()

    def work(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """An answer is to be made, when it is its turn."""
        self._queue.append(work)
        if len(self._queue) == 1:
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        for _ in range(min(_ANSWERS, len(self._queue))):
            task = self.loop.create_task(self._queue.popleft()())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if self._queue:
            self.loop.call_soon(self._turn)


class _Connection:
    """One client. Every method returns at once."""

    def __init__(self, server: HttpServer, sock: socket.socket) -> None:
        self.server = server
        self.loop = server.loop
        self.sock = sock
        self.phase = _Phase.READING
        self.since = 0.0
        self.http: h11.Connection | None = None  # made with the first byte: silent clients cost little
        self.out = b""
        self.then_linger = False
        self.closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._reads = False

    def begin(self) -> None:
        self._enter(_Phase.READING)
        self._read(on=True)

    def end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._read(on=False)
        self.loop.remove_writer(self.sock)
        if self._timer is not None:
            self._timer.cancel()
        self.sock.close()
        self.server.ended(self)

    def _enter(self, phase: _Phase) -> None:
        self.phase, self.since = phase, self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase in _LIMITS:
            self._timer = self.loop.call_later(_LIMITS[phase], self.server.drop, self)
        self.server.changed(self)

    def _read(self, *, on: bool) -> None:
        if on and not self._reads:
            self.loop.add_reader(self.sock, self._readable)
        elif self._reads and not on:
            self.loop.remove_reader(self.sock)
        self._reads = on

    def _readable(self) -> None:
        try:
            data = self.sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.end()
            return
        if self.phase is _Phase.LINGERING:
            if not data:
                self.end()
            return
        if self.http is None:
            self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        if self.phase is _Phase.IDLE and data:
            self._enter(_Phase.READING)
        try:
            self.http.receive_data(data)
        except h11.RemoteProtocolError:  # more after the end
            self.end()
            return
        self._next()

    def _next(self) -> None:
        """Takes the next request out of what was read."""
        assert self.http is not None
        try:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                whole = isinstance(self.http.next_event(), h11.EndOfMessage)
                self._take(event, whole=whole)
            elif event is not h11.NEED_DATA:
                self.end()  # the client has ended, in order
        except h11.RemoteProtocolError as e:
            self._refuse(e.error_status_hint)

    def _refuse(self, status: int) -> None:
        """What came is no HTTP."""
        assert self.http is not None
        if self.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.end()
            return
        known = status if status in _REASONS else _BAD_REQUEST
        text = _REASONS[known].decode().lower()
        self._say(Answer(known, f"{text}\n".encode()), head=False, close=True)

    def _take(self, request: h11.Request, *, whole: bool) -> None:
        self._read(on=False)
        if not request.http_version.startswith(b"1."):
            self._say(Answer(_VERSION, b"only HTTP/1\n"), head=False, close=True)
            return
        if request.method not in {b"GET", b"HEAD"}:
            self._say(Answer(_NOT_ALLOWED, b"only GET and HEAD\n"), head=False, close=True)
            return
        path = _path(request.target)
        self._enter(_Phase.ANSWERING)
        head = request.method == b"HEAD"
        self.server.work(lambda: self._answer(path, head=head, close=not whole))

    async def _answer(self, path: str, *, head: bool, close: bool) -> None:
        if self.closed:  # while it waited for its turn
            return
        try:
            answer = await self.server.handler(path)
        except Exception as e:  # noqa: BLE001 - a bug must cost one answer, not the loop
            self.loop.call_exception_handler({"message": f"no answer for {path!r}", "exception": e})
            answer = Answer(_OUR_FAULT, b"internal error\n")
        if not self.closed:
            self._say(answer, head=head, close=close)

    def _say(self, answer: Answer, *, head: bool, close: bool) -> None:
        assert self.http is not None
        headers = [
            ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *([("Allow", "GET, HEAD")] if answer.status == _NOT_ALLOWED else []),
            *([("Connection", "close")] if close else []),
        ]
        response = h11.Response(status_code=answer.status, headers=headers, reason=_REASONS.get(answer.status, b""))
        events: list[h11.Event] = [response, *([] if head else [h11.Data(data=answer.body)]), h11.EndOfMessage()]
        try:
            self.out += b"".join(self.http.send(event) or b"" for event in events)
        except h11.LocalProtocolError:
            self.end()
            return
        self.server.answers[answer.status] += 1
        # HTTP/1.0, `Connection: close`, an unread body: h11 knows whether the connection lives.
        self.then_linger = close or self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE
        self._read(on=False)
        self._enter(_Phase.WRITING)
        self._writable()

    def _writable(self) -> None:
        try:
            sent = self.sock.send(self.out)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.end()
            return
        self.out = self.out[sent:]
        if self.out:
            self.loop.add_writer(self.sock, self._writable)
            return
        self.loop.remove_writer(self.sock)
        if self.then_linger:
            self._linger()
        else:
            self._next_cycle()

    def _next_cycle(self) -> None:
        assert self.http is not None
        self.http.start_next_cycle()
        waiting, _ = self.http.trailing_data
        self._enter(_Phase.READING if waiting else _Phase.IDLE)
        self._read(on=True)
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The client may have sent its next request with the last one (pipelining), or its end."""
        if not self.closed and self.phase in {_Phase.READING, _Phase.IDLE}:
            self._next()

    def _linger(self) -> None:
        """Our end is said; what the client still sends is read away, or its kernel would throw our answer away."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self._enter(_Phase.LINGERING)
        self._read(on=True)


def _path(target: bytes) -> str:
    """The path of a request target: without query, also of `http://host/path`."""
    text = target.decode("ascii", "replace").partition("?")[0].partition("#")[0]
    if "://" in text and not text.startswith("/"):
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text
