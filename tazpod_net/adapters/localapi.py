"""tailscaled's LocalAPI: HTTP/1.1 over its unix socket. httptools parses, asyncio carries; no TLS, proxies or policy.

Traps that this module knows (`tailscaled.md`, sections 3.2, 11, 12, 13): requests under /localapi/ block until the
backend exists, only `/server-status` answers at once; Host must be `local-tailscaled.sock`; no Origin or Referer;
`/server-status?wait=true` keeps status 503 on success, so the body is the judge.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import httptools
import msgspec

from tazpod_net.core.backend import Notify, Snapshot
from tazpod_net.errors import TazpodNetError

WATCH_MASK = 2 | 4 | 128  # initial state, prefs, health; 128 alone sends nothing (`ipn/ipnlocal/local.go:3761`)
_PREFIX = "/localapi/v0/"
_CHANGED_MEANWHILE = 412  # Precondition Failed: `If-Match` names an older state
_HEADERS = (("Host", "local-tailscaled.sock"), ("Accept", "*/*"))


class LocalApiError(TazpodNetError):
    """The daemon answered with an error; `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text or f"LocalAPI answered {status}")
        self.status = status


class _Answer(NamedTuple):
    """What came back; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Ping(msgspec.Struct):
    """`ipnstate.PingResult`."""

    err: str = msgspec.field(name="Err", default="")
    is_local: bool = msgspec.field(name="IsLocalIP", default=False)


class _Dns(msgspec.Struct):
    """`apitype.DNSQueryResponse`: a DNS message."""

    data: bytes = msgspec.field(name="Bytes", default=b"")


class _Connection:
    """One request and its answer on one connection; the methods `on_…` are called by the parser."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0  # before the head of the answer is here
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.is_complete = False

    @classmethod
    async def open(cls, path: str) -> "_Connection":
        reader, writer = await asyncio.open_unix_connection(path)
        return cls(reader, writer)

    def send(self, method: str, target: str, body: bytes, extra: Sequence[tuple[str, str]] = ()) -> None:
        headers = [*_HEADERS, *extra]
        if body or method != "GET":
            headers.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1") + body)

    async def read(self) -> bool:
        """Takes what comes next to the parser; False at the end of the stream. Raises ConnectionResetError."""
        data = await self.reader.read(65536)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_complete = True  # what follows is no HTTP
        except httptools.HttpParserError as e:
            raise ConnectionResetError("tailscaled answered with something else than HTTP") from e
        return bool(data)

    async def answer(self) -> _Answer:
        """The whole answer. Raises ConnectionResetError if it is cut off."""
        while not self.is_complete:
            if not await self.read():
                raise ConnectionResetError("tailscaled closed the connection")
        return _Answer(self.status, self.headers, self.take())

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        body = b"".join(self.parts)
        self.parts.clear()
        return body

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True

    def close(self) -> None:
        self.writer.close()


class LocalApi:
    """The requests that the supervisor makes. Every one raises OSError if nobody listens, TimeoutError on silence,
    LocalApiError if the daemon refuses."""  # noqa: D205, D209 - one sentence

    def __init__(self, socket_path: str, redact: Callable[[bytes], bytes] = lambda text: text) -> None:
        """`redact` masks secrets in what the daemon says: error texts quote keys, and anyone may read the status."""
        self.path = socket_path
        self.redact = redact

    async def ready(self) -> bool:
        """Blocks until the backend exists. False: this build has no `/server-status` or it said no; ask again."""
        status, body = await self._request("GET", "/server-status?wait=true", timeout=30.0)
        if status == 404:  # noqa: PLR2004 - built without the debug feature: any LocalAPI answer will do
            await self.snapshot(peers=False)
            return True
        return b"error" not in body

    async def snapshot(self, *, peers: bool = True, timeout: float = 10.0) -> Snapshot:  # noqa: ASYNC109 - one budget
        """`GET status`."""
        target = _PREFIX + ("status" if peers else "status?peers=false")
        return msgspec.json.decode(self.redact(await self._ok("GET", target, timeout=timeout)), type=Snapshot)

    async def prefs(self) -> dict[str, object]:
        """`GET prefs`, whole: `start` replaces them all, so what is not sent back is lost."""
        return msgspec.json.decode(await self._ok("GET", _PREFIX + "prefs"), type=dict[str, object])

    async def edit_prefs(self, masked: dict[str, object]) -> None:
        """`PATCH prefs` with masked fields."""
        await self._ok("PATCH", _PREFIX + "prefs", masked)

    async def start(self, prefs: dict[str, object], auth_key: str | None) -> None:
        """`POST start`: new prefs and, if given, an auth key for the next registration."""
        options: dict[str, object] = {"UpdatePrefs": prefs}
        if auth_key is not None:
            options["AuthKey"] = auth_key
        await self._ok("POST", _PREFIX + "start", options)

    async def login_interactive(self) -> None:
        """`POST login-interactive`: without it the backend stays at NeedsLogin for ever."""
        await self._ok("POST", _PREFIX + "login-interactive")

    async def logout(self, timeout: float = 15.0) -> None:  # noqa: ASYNC109 - the stop budget's share
        """`POST logout`: synchronous with the control server; deletes the profile."""
        await self._ok("POST", _PREFIX + "logout", timeout=timeout)

    async def serve_config(self) -> tuple[bytes, str]:
        """`GET serve-config`: the JSON of `ipn.ServeConfig` (`null`: never set), and the ETag of this state of it."""
        answer = await self._exchange("GET", _PREFIX + "serve-config")
        if answer.status >= 400:  # noqa: PLR2004
            raise LocalApiError(answer.status, _error_text(self.redact(answer.body)))
        return answer.body, answer.headers.get("etag", "")

    async def set_serve_config(self, body: bytes, etag: str) -> bool:
        """`POST serve-config`, all of it anew. False: somebody changed it after `etag` was read; read it again."""
        extra = [("If-Match", etag)]
        answer = await self._exchange("POST", _PREFIX + "serve-config", msgspec.Raw(body), extra=extra)
        if answer.status >= 400 and answer.status != _CHANGED_MEANWHILE:  # noqa: PLR2004
            raise LocalApiError(answer.status, _error_text(self.redact(answer.body)))
        return answer.status != _CHANGED_MEANWHILE

    async def user_metrics(self, timeout: float) -> bytes:  # noqa: ASYNC109 - a scrape's share
        """`GET usermetrics`: Prometheus text of `tailscaled_*`."""
        return self.redact(await self._ok("GET", _PREFIX + "usermetrics", timeout=timeout))

    async def ping(self, ip: str, timeout: float) -> str | None:  # noqa: ASYNC109 - the daemon has none of its own
        """`POST ping` inside WireGuard (TSMP), which no access rule of the tailnet stops: why not, or None if answered.

        TimeoutError: no answer.
        """
        body = await self._ok("POST", f"{_PREFIX}ping?ip={ip}&type=TSMP", timeout=timeout)
        found = msgspec.json.decode(self.redact(body), type=_Ping)
        return None if found.is_local else found.err or None

    async def dial(self, host: str, port: int, timeout: float) -> str | None:  # noqa: ASYNC109 - one budget
        """`POST dial`: connects by the daemon, as its proxies do, and hangs up again.

        Returns None then, else the address that lies outside the tailnet and is to be dialled without the daemon.
        Raises LocalApiError with the reason if there is no connection.
        """
        extra = [("Connection", "upgrade"), ("Upgrade", "ts-dial"), ("Dial-Host", host), ("Dial-Port", str(port))]
        async with asyncio.timeout(timeout):
            connection = await _Connection.open(self.path)
            try:
                connection.send("POST", _PREFIX + "dial", b"", extra)
                answer = await connection.answer()
            finally:
                connection.close()
        if answer.status == 101:  # noqa: PLR2004 - Switching Protocols: it is connected
            return None
        if answer.status == 200 and answer.headers.get("dial-self") == "true":  # noqa: PLR2004
            return answer.headers.get("dial-addr", "")
        raise LocalApiError(answer.status, _error_text(self.redact(answer.body)))

    async def resolves(self, name: str, timeout: float) -> bool:  # noqa: ASYNC109 - one budget
        """`GET dns-query`: whether the daemon's own resolver has an address for a name. Needs its user or root."""
        for kind in ("A", "AAAA"):
            body = await self._ok("GET", f"{_PREFIX}dns-query?name={name}&type={kind}", timeout=timeout)
            answer = msgspec.json.decode(body, type=_Dns).data
            # RFC 1035, 4.1.1: the code is the low half of the fourth byte, the count of answers stands in 6 and 7.
            if len(answer) >= 12 and answer[3] & 0xF == 0 and answer[6:8] != b"\0\0":  # noqa: PLR2004
                return True
        return False

    async def watch(self) -> AsyncIterator[Notify]:
        """The bus: one Notify a line, for ever. Ends with EOF (daemon gone, or this reader fell behind)."""
        connection = await _Connection.open(self.path)
        try:
            connection.send("GET", f"{_PREFIX}watch-ipn-bus?mask={WATCH_MASK}", b"")
            rest = b""
            while not connection.is_complete and await connection.read():
                if connection.status not in {0, 200}:
                    raise LocalApiError(connection.status, "the bus cannot be watched")
                *lines, rest = (rest + connection.take()).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield msgspec.json.decode(self.redact(line), type=Notify)
        except ConnectionResetError:
            return
        finally:
            connection.close()

    async def _ok(
        self,
        method: str,
        target: str,
        body: object = None,
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> bytes:
        status, answer = await self._request(method, target, body, timeout)
        if status >= 400:  # noqa: PLR2004
            raise LocalApiError(status, _error_text(self.redact(answer)))
        return answer

    async def _request(
        self,
        method: str,
        target: str,
        body: object = None,
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> tuple[int, bytes]:
        answer = await self._exchange(method, target, body, timeout)
        return answer.status, answer.body

    async def _exchange(
        self,
        method: str,
        target: str,
        body: object = None,
        timeout: float = 10.0,  # noqa: ASYNC109
        extra: Sequence[tuple[str, str]] = (),
    ) -> _Answer:
        data = b"" if body is None else msgspec.json.encode(body)
        async with asyncio.timeout(timeout):
            connection = await _Connection.open(self.path)
            try:
                connection.send(method, target, data, extra)
                return await connection.answer()
            finally:
                connection.close()


def _error_text(body: bytes) -> str:
    """LocalAPI's errors are text, `{"Error": …}` or `{"error": …}` (`ipn/localapi/localapi.go:1026-1083`)."""
    text = body.decode("utf-8", "replace").strip()
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return text
    if isinstance(value, dict):
        return str(value.get("Error") or value.get("error") or text)
    return text
