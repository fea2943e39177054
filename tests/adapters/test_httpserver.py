"""The small HTTP server: real sockets, with clients of every kind. Deadlines are shortened, never slept through."""

import asyncio
import contextlib
import errno
import os
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tazpod_net.adapters import httpserver
from tazpod_net.adapters.httpserver import AddressError, Answer, HttpServer, sockets_of

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PATIENCE = 20.0


async def echo(path: str) -> Answer:
    """The handler of most tests: `/missing` is 404, `/bug` a bug, `/big` does not fit into a socket."""
    if path == "/bug":
        raise ZeroDivisionError("a bug")
    if path == "/big":
        return Answer(200, b"x" * 30_000_000)
    return Answer(404 if path == "/missing" else 200, f"you asked for {path}\n".encode())


class Served:
    """A server on a free port of 127.0.0.1."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)

    async def talk(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """All that comes back on one connection, to its end."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if half_close:
                writer.write_eof()
            return await reader.read()
        finally:
            await shut(writer)

    async def works(self) -> None:
        """AssertionError if it does not answer an honest client."""
        assert b"you asked for /ok" in await self.talk(CLOSE % b"ok")

    async def empty(self) -> None:
        """Waits until every connection is gone."""
        await until(lambda: not self.server.connections)


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what the server does."""
    while not holds():  # noqa: ASYNC110 - the server has no event for tests
        await asyncio.sleep(0.005)


async def shut(writer: asyncio.StreamWriter) -> None:
    """Closes a client's end, whatever has become of it."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def served(handler: Callable[[str], Awaitable[Answer]] = echo, limit: int | None = None) -> AsyncIterator[Served]:
    """A running server."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(httpserver.BACKLOG)
    listener.setblocking(False)
    server = HttpServer(handler, [listener], limit=limit)
    try:
        yield Served(server, listener.getsockname()[1])
    finally:
        server.close()
        assert not server.connections


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs it, bounded; whatever goes wrong in a callback is an error of the test."""
    troubles: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: troubles.append(context))
        async with asyncio.timeout(60):
            await main

    asyncio.run(watched())
    assert troubles == []


def read(data: bytes, method: bytes = b"GET") -> list[tuple[int, bytes, dict[str, str]]]:
    """Status, body and headers of each answer in `data`, as an independent parser has them."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    client.receive_data(b"")
    found = []
    while True:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        body, answer = b"", None
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                pytest.fail(f"{event} in {data[:300]!r}")
        assert answer is not None
        found.append((answer.status_code, body, {k.decode(): v.decode() for k, v in answer.headers}))
        rest, _ = client.trailing_data
        if not rest:
            return found
        client.start_next_cycle()


class TestAnswers:
    """What honest clients get."""

    def test_an_answer_is_whole(self) -> None:
        """Status, type, length, date; nothing that a cache would keep."""

        async def main() -> None:
            async with served() as web:
                ((status, body, headers),) = read(await web.talk(CLOSE % b"a?verbose=1"))
                assert (status, body) == (200, b"you asked for /a\n")
                assert headers["content-type"] == "text/plain; charset=utf-8"
                assert (headers["content-length"], headers["cache-control"]) == ("17", "no-store")
                assert headers["date"].endswith(" GMT")

        run(main())

    def test_head_has_no_body(self) -> None:
        """The same headers, nothing behind them, and the connection goes on."""

        async def main() -> None:
            async with served() as web:
                data = await web.talk(
                    b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"HEAD /missing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                )
                assert [(s, b, h["content-length"]) for s, b, h in read(data, b"HEAD")] == [
                    (200, b"", "17"),
                    (404, b"", "23"),
                ]

        run(main())

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X"])
    def test_other_methods_are_refused(self, method: str) -> None:
        """405 with what is allowed; a body that comes along does not cost the client its answer."""

        async def main() -> None:
            async with served() as web:
                head = f"{method} /a HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n".encode()
                ((status, _, headers),) = read(await web.talk(head, b"y" * 200_000))
                assert (status, headers["allow"], headers["connection"]) == (405, "GET, HEAD", "close")

        run(main())

    @pytest.mark.parametrize(
        ("target", "path"),
        [
            (b"/", "/"),
            (b"/a/", "/a/"),
            (b"/%61", "/%61"),
            (b"//a", "//a"),
            (b"http://other/a?b", "/a"),
            (b"http://other", "/"),
            (b"*", "*"),
            (b"/a#b", "/a"),
            (b"?a", ""),
        ],
    )
    def test_the_path_is_what_the_handler_gets(self, target: bytes, path: str) -> None:
        """Without query, nothing decoded, the absolute form as well."""

        async def main() -> None:
            async with served() as web:
                data = await web.talk(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert [body for _, body, _ in read(data)] == [f"you asked for {path}\n".encode()]

        run(main())

    def test_many_requests_on_one_connection(self) -> None:
        """One after the other, and all at once (pipelining): answered in order."""

        async def main() -> None:
            async with served() as web:
                data = await web.talk(b"".join(GET % str(n).encode() for n in range(300)) + CLOSE % b"end")
                bodies = [body for _, body, _ in read(data)]
                assert bodies == [f"you asked for /{n}\n".encode() for n in [*range(300), "end"]]

        run(main())

    def test_byte_by_byte(self) -> None:
        """A request may come in as many pieces as it has bytes."""

        async def main() -> None:
            async with served() as web:
                assert b"you asked for /slow" in await web.talk(*[bytes([b]) for b in CLOSE % b"slow"])

        run(main())

    @pytest.mark.parametrize(
        "request_",
        [
            b"GET /a HTTP/1.0\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        ],
        ids=["1.0", "close", "length", "chunked", "expect"],
    )
    def test_where_the_connection_cannot_go_on_it_is_closed(self, request_: bytes) -> None:
        """HTTP/1.0, a wish to close, a body that nobody reads: one answer, then the end."""

        async def main() -> None:
            async with served() as web:
                assert [status for status, _, _ in read(await web.talk(request_))] == [200]

        run(main())

    def test_a_client_that_has_shut_its_side(self) -> None:
        """Half-closed after the request (`nc -N`): it gets its answer."""

        async def main() -> None:
            async with served() as web:
                assert b"you asked for /a" in await web.talk(GET % b"a", half_close=True)
                await web.empty()

        run(main())

    def test_a_bug_costs_one_answer(self) -> None:
        """500, told to the loop's handler; the next client is served."""
        told: list[str] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["message"]))
            async with served() as web:
                ((status, body, _),) = read(await web.talk(CLOSE % b"bug"))
                assert (status, body) == (500, b"internal error\n")
                await web.works()

        run(main())
        assert told == ["no answer for '/bug'"]

    def test_an_answer_that_does_not_fit_at_once(self) -> None:
        """30 MB go through a socket that takes less."""

        async def main() -> None:
            async with served() as web:
                ((_, body, _),) = read(await web.talk(CLOSE % b"big"))
                assert len(body) == 30_000_000

        run(main())


class TestHostile:
    """Whatever clients do, the next honest one is answered."""

    @pytest.mark.parametrize(
        ("garbage", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
            (b"\r\n\r\n\r\n", 400),
            (b"GET /\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 505),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
            (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
            (b"GET /" + b"a" * 20_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000, 431),
        ],
    )
    def test_garbage_is_refused(self, garbage: bytes, status: int) -> None:
        """One answer that says so, then the end."""

        async def main() -> None:
            async with served() as web:
                data = await web.talk(garbage, half_close=True)
                assert [answer[0] for answer in read(data)] == [status]
                await web.works()
                assert web.server.answers[status] >= 1

        run(main())

    @given(
        pieces=st.lists(
            st.binary(max_size=60)
            | st.sampled_from(
                [
                    *(
                        b"GET ",
                        b"POST ",
                        b"/a ",
                        b"HTTP/1.1\r\n",
                        b"HTTP/1.0\r\n",
                        b"Host: x\r\n",
                        b"\r\n",
                        b"0\r\n\r\n",
                    ),
                    *(
                        b"Content-Length: 5\r\n",
                        b"Transfer-Encoding: chunked\r\n",
                        b"Connection: close\r\n",
                        GET % b"a",
                    ),
                    *(
                        b"Expect: 100-continue\r\n",
                        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
                        CLOSE % b"z",
                        b"5\r\nhello\r\n",
                    ),
                ]
            ),
            max_size=12,
        )
    )
    @settings(deadline=None, max_examples=150)
    def test_any_bytes_end_in_answers_and_the_end(self, pieces: list[bytes]) -> None:
        """Whatever comes, in whatever pieces: only HTTP goes back, the connection ends, nothing is left of it."""

        async def main() -> None:
            async with served() as web:
                data = await web.talk(*pieces, half_close=True)
                assert data == b"" or data.startswith(b"HTTP/1.1 ")
                await web.works()
                await web.empty()

        run(main())

    def test_resets_and_half_open_connections(self) -> None:
        """RST before, in and after a request; clients that vanish while their answer is made."""

        async def main() -> None:
            gate = asyncio.Event()

            async def slow(path: str) -> Answer:
                if path == "/gate":
                    await gate.wait()
                return await echo(path)

            async with served(slow) as web:
                for sent in (b"", b"GET /a HT", GET % b"a", GET % b"gate", GET % b"big"):
                    reader, writer = await web.connect()
                    writer.write(sent)
                    await writer.drain()
                    if sent == GET % b"big":
                        await reader.read(10)
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                await web.works()
                gate.set()
                await web.empty()

        run(main())


class TestDeadlines:
    """Each wait has its own, and a byte now and then does not move it."""

    def test_a_silent_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is closed, and counted."""
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.READING, 0.1)

        async def main() -> None:
            async with served() as web:
                assert await web.talk() == b""
                assert web.server.dropped == 1

        run(main())

    def test_slow_loris(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A byte at a time for as long as it is let: closed all the same, also in a later request."""
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.READING, 0.3)

        async def main() -> None:
            async with served() as web:
                for first in (b"", GET % b"a"):
                    reader, writer = await web.connect()
                    writer.write(first + b"GET / HTTP/1.1\r\nHost: x\r\n")
                    with contextlib.suppress(OSError):
                        while not reader.at_eof():
                            writer.write(b"X: y\r\n")
                            await writer.drain()
                            with contextlib.suppress(TimeoutError):
                                await asyncio.wait_for(reader.read(4096), 0.02)
                    await shut(writer)
                assert web.server.dropped == 2

        run(main())

    def test_a_client_that_does_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its answer is thrown away at the end of its time; others are served meanwhile."""
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.WRITING, 0.2)

        async def main() -> None:
            async with served() as web:
                sock = socket.create_connection(("127.0.0.1", web.port))
                sock.sendall(GET % b"big")
                await web.works()
                await web.empty()
                sock.close()
                assert web.server.dropped == 1

        run(main())

    def test_an_idle_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Kept for the next request, closed in the end, which is no loss and not counted."""
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.IDLE, 0.2)

        async def main() -> None:
            async with served() as web:
                assert b"you asked for /a" in await web.talk(GET % b"a")
                assert web.server.dropped == 0

        run(main())

    def test_a_client_that_sends_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After our last words it may send for a moment, then it is cut off."""
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.LINGERING, 0.2)

        async def main() -> None:
            async with served() as web:
                _, writer = await web.connect()
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
                with contextlib.suppress(OSError):
                    while web.server.connections or not web.server.answers:
                        writer.write(b"y" * 65536)
                        await writer.drain()
                        await asyncio.sleep(0.01)
                await shut(writer)
                await web.empty()

        run(main())

    def test_no_connection_no_timer(self) -> None:
        """A server that nobody uses has nothing planned in the loop."""

        async def main() -> None:
            async with served() as web:
                await web.works()
                await web.empty()
                loop: Any = asyncio.get_running_loop()
                live = [handle for handle in loop._scheduled if not handle.cancelled()]
                assert len(live) == 1  # the test's own time-out

        run(main())


class TestCrowd:
    """More connections than there is room for."""

    def test_a_thousand_at_once_are_all_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Far over the limit: each gets its answer, also on a slow machine; descriptors stay within it."""
        monkeypatch.setattr(httpserver, "GRACE_SECONDS", 60.0)
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.READING, 60.0)

        async def main() -> None:
            async with served(limit=100) as web:
                most = 0

                async def ask(number: int, go: asyncio.Event) -> bytes:
                    nonlocal most
                    reader, writer = await web.connect()
                    try:
                        await go.wait()
                        writer.write(CLOSE % str(number).encode())
                        data = await reader.read()
                        most = max(most, len(web.server.connections))
                        return data
                    finally:
                        await shut(writer)

                go = asyncio.Event()
                asked = [asyncio.ensure_future(ask(number, go)) for number in range(1000)]
                await asyncio.sleep(0)
                go.set()
                for number, answer in enumerate(await asyncio.gather(*asked)):
                    assert answer.endswith(f"you asked for /{number}\n".encode())
                assert most <= 100
                assert web.server.dropped == 0

        with descriptors(4000):
            run(main())

    def test_idle_ones_make_room(self) -> None:
        """Kept connections over the limit: the one that has been idle longest goes, new clients never wait."""

        async def main() -> None:
            async with served(limit=10) as web:
                kept = []
                for number in range(30):
                    reader, writer = await web.connect()
                    kept.append((reader, writer))
                    writer.write(GET % str(number).encode())
                    await reader.readuntil(f"you asked for /{number}\n".encode())
                assert len(web.server.connections) == 10
                for reader, _ in kept[:20]:
                    assert await reader.read() == b""
                for _, writer in kept:
                    await shut(writer)
                assert web.server.dropped == 0

        run(main())

    def test_silent_ones_do_not_keep_others_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """1,000 clients that never say anything: an honest one is answered long before they run into their deadline."""
        monkeypatch.setattr(httpserver, "GRACE_SECONDS", 0.05)
        monkeypatch.setitem(httpserver._LIMITS, httpserver._Phase.READING, 3600.0)

        async def main() -> None:
            async with served(limit=100) as web:
                crowd = []
                for _ in range(1000):
                    sock = socket.socket()
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(("127.0.0.1", web.port))
                    crowd.append(sock)
                await web.works()
                assert len(web.server.connections) <= 100
                for sock in crowd:
                    sock.close()
                await web.empty()

        with descriptors(4000):
            run(main())

    def test_a_flood_leaves_the_loop_to_others(self) -> None:
        """20 clients with 100 requests each, all there: others get their turn after every few answers."""

        async def main() -> None:
            answered, most = 0, 0

            async def count(path: str) -> Answer:
                nonlocal answered
                answered += 1
                return await echo(path)

            async with served(count) as web:
                flood = GET % b"a" * 99 + CLOSE % b"end"
                clients = [asyncio.ensure_future(web.talk(flood)) for _ in range(20)]
                while not all(client.done() for client in clients):
                    before = answered
                    await asyncio.sleep(0)
                    most = max(most, answered - before)
                assert answered == 2000
                assert 0 < most <= httpserver._ANSWERS

        run(main())

    def test_when_descriptors_run_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another part of the process has used them up: clients wait, nothing spins or breaks, then they are served."""
        monkeypatch.setattr(httpserver, "_PAUSE", 0.05)

        async def main() -> None:
            async with served() as web:
                client = socket.socket()
                client.setblocking(False)
                used: list[int] = []
                with contextlib.suppress(OSError):
                    while True:
                        used.append(os.dup(0))
                assert len(used) < 4000
                with contextlib.suppress(BlockingIOError):
                    client.connect(("127.0.0.1", web.port))
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, CLOSE % b"late")
                await until(lambda: web.server._pause is not None)
                for fd in used:
                    os.close(fd)
                assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200")
                client.close()

        with descriptors(4000):
            run(main())

    def test_the_limit_follows_the_descriptors(self) -> None:
        """At most half of what the process may have, so that the rest of it always gets one."""

        async def main() -> None:
            async with served() as web:
                assert web.server.limit == 128

        with descriptors(256):
            run(main())


@contextlib.contextmanager
def descriptors(soft: int) -> Any:
    """This process may have so many for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft > before[1] > 0:
        pytest.skip(f"only {before[1]} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- addresses --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """One that nobody listens on, by IPv4 and IPv6."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with contextlib.suppress(OSError):
            for listener in sockets_of(f":{port}"):
                listener.close()
            return port


has_ipv6 = pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this kernel has no IPv6")


class TestAddresses:
    """What can be listened on."""

    @has_ipv6
    @pytest.mark.parametrize(
        ("address", "reached"),
        [
            ("127.0.0.1:{}", {"127.0.0.1"}),
            ("[::1]:{}", {"::1"}),
            ("localhost:{}", {"127.0.0.1", "::1"}),
            ("[::]:{}", {"127.0.0.1", "::1"}),
            (":{}", {"127.0.0.1", "::1"}),
            ("0.0.0.0:{}", {"127.0.0.1"}),
        ],
    )
    def test_who_reaches_it(self, address: str, reached: set[str]) -> None:
        """By which of the two protocols, and that one listener takes both where it should."""
        port = free_port()
        listeners = sockets_of(address.format(port))
        found = set()
        for host in ("127.0.0.1", "::1"):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port), PATIENCE):
                found.add(host)
        for listener in listeners:
            listener.close()
        assert found == reached

    def test_a_taken_one(self) -> None:
        """The kernel's word for it, and no descriptor is left open."""
        port = free_port()
        (first,) = sockets_of(f"127.0.0.1:{port}")
        for address in (f"127.0.0.1:{port}", f"localhost:{port}", f":{port}"):
            with pytest.raises(OSError) as caught:
                sockets_of(address)
            assert caught.value.errno == errno.EADDRINUSE
        first.close()

    def test_at_once_again(self) -> None:
        """A closed listener whose connections linger in the kernel does not keep the next one out."""
        port = free_port()
        (first,) = sockets_of(f"127.0.0.1:{port}")
        client = socket.create_connection(("127.0.0.1", port), PATIENCE)
        server, _ = first.accept()
        server.close()
        first.close()
        client.close()
        (second,) = sockets_of(f"127.0.0.1:{port}")
        second.close()

    @pytest.mark.parametrize("address", ["example.com:80", "a b:80", "1.2.3.4.5:80", "\0:80", "é" * 70 + ":80"])
    def test_a_name_or_nonsense(self, address: str) -> None:
        """Said in words; nothing is looked up, which could take for ever."""
        with pytest.raises(AddressError, match="is no IP address"):
            sockets_of(address)

    def test_one_of_another_machine(self) -> None:
        """The kernel's word."""
        with pytest.raises(OSError) as caught:
            sockets_of("192.0.2.1:9002")
        assert caught.value.errno == errno.EADDRNOTAVAIL
