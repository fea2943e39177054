"""Buys one auth key over HTTPS: a short-lived program, because TLS stays out of the supervisor.

    python -m tazpod_net.adapters.minting <<< '{"api_url": "https://api.tailscale.com", "client_id": …}'

reads one `core.minting.Request` as JSON from stdin and prints one `core.minting.Answer` as JSON. Exit code 0: answered,
also with a refusal; 2: the request is wrong. It answers within the request's `timeout_s`, whatever the network does.

Owns the HTTP calls, what an exception of the HTTP library means, and that nothing of the secrets leaves this process by
another way: no traceback, no core, no log of TLS keys. Must not judge nor word: that is `core.minting`.

Why urllib3 and not httpx: 46 ms of import before each login against 69 (sync) and 96 (async), no other package against
five, and it trusts what the system trusts instead of a list of its own. Its redirects and attempts are not used:
credentials must not follow a redirect to another host.
"""

import contextlib
import ctypes
import datetime as dt
import email.utils
import os
import random
import re
import resource
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import NoReturn, TypeVar
from urllib.parse import quote, quote_plus, urlencode

import msgspec
import tenacity
import urllib3
from urllib3 import exceptions as http_errors

from tazpod_net import __version__
from tazpod_net.adapters import https
from tazpod_net.core import minting as words
from tazpod_net.core.minting import (
    LARGEST_REPLY,
    Answer,
    Call,
    Failure,
    Kind,
    Minted,
    Refused,
    Reply,
    Request,
    Step,
    Trouble,
)

_ATTEMPTS = 3
_PAUSE_S = 0.5
_CONNECT_S = 5.0  # for each address of a name: one that swallows packets must not eat the budget of the next
_READ_STDIN_S = 10
_CLEARANCE_S = 0.5
_MOST_REDIRECTS = 3
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_TOKEN_PATH = "/api/v2/oauth/token"  # noqa: S105 - no password
_UNAUTHORIZED = 401
T = TypeVar("T")


def main() -> int:
    """Reads the request, buys the key, prints the answer; returns the exit code if there is no answer."""
    harden()
    signal.alarm(_READ_STDIN_S)  # default action: a parent that never writes does not keep us
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError):
        print("minting: the request is not one JSON object of core.minting.Request", file=sys.stderr)  # noqa: T201 - a program of its own
        return 2
    signal.alarm(0)
    mouth = Mouth(request)
    budget = Budget(request.timeout_s)
    watchdog = threading.Timer(request.timeout_s, lambda: mouth.say(budget.spent(request)))
    watchdog.daemon = True
    watchdog.start()
    try:
        answer = mint(request, os.environ, budget)
    except Exception as e:  # noqa: BLE001 - a bug must end in a sentence: its traceback would show locals
        answer = words.broken(type(e).__name__)
    return mouth.say(answer)


def harden() -> None:
    """No core dump, no ptrace by the same user, no traceback, no TLS key log."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core that is piped to a program ignores the limit; this does not (man 5 core, man 2 prctl).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.environ.pop("SSLKEYLOGFILE", None)
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda *_: None


class Mouth:
    """Says one answer and ends the process: the main thread's or the watchdog's, whichever is first."""

    def __init__(self, request: Request) -> None:
        self._secrets = request.secrets
        self._taken = threading.Lock()

    def say(self, answer: Answer) -> NoReturn:
        """Prints it. Does not tidy up: a name server that does not answer would hold the exit."""
        self._taken.acquire()  # for ever: who comes second waits for the end
        if isinstance(answer, Refused) and words.reveals(f"{answer.text} {answer.next}", self._secrets):
            answer = words.broken("its message would have shown a secret")
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(1, msgspec.json.encode(answer) + b"\n")
        os._exit(0)


class Budget:
    """The time that is left, and what is said if it runs out. Read by the watchdog's thread."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.call: Call | None = None
        self.last: Trouble | None = None

    @property
    def left(self) -> float:
        """Seconds, never less than a moment: a socket time-out of 0 means something else."""
        return max(0.01, self._end - time.monotonic())

    def spent(self, request: Request) -> Refused:
        """The last failure says more than that time ran out."""
        call = self.call or Call(request, "keys", "the API")
        return (self.last or words.explain(Failure(Kind.SLOW), call)).refused


def mint(request: Request, env: Mapping[str, str], budget: Budget | None = None) -> Answer:
    """One key, or why not. Expected failures are answers; a look-up of a name that hangs is ended by the watchdog only.

    `env`: for the proxies and SSL_CERT_FILE (OpenSSL reads that and SSL_CERT_DIR from the process's own as well).
    """
    if not request.is_oauth and not request.api_key:
        return words.no_credentials()
    way = find_way(request.api_url, env)
    if isinstance(way, Refused):
        return way
    with way.open() as pool:
        return Minting(request, way, pool, budget or Budget(request.timeout_s)).run()


# --- the two calls


class Minting:
    """The calls for one key, with their attempts."""

    def __init__(self, request: Request, way: "Way", pool: urllib3.PoolManager, budget: Budget) -> None:
        self._request = request
        self._way = way
        self._pool = pool
        self._budget = budget
        self._jitter = random.uniform(0.8, 1.2)  # noqa: S311 - so that containers that fail together do not return together
        self._secrets = (*request.secrets, *way.secrets, https.basic(request.client_id, request.client_secret))

    def run(self) -> Answer:
        """By OAuth a token first; then the key."""
        authorization = f"Basic {https.basic(self._request.api_key, '')}"
        if self._request.is_oauth:
            token = self._attempts(self._token)
            if isinstance(token, Trouble):
                return token.refused
            self._secrets += (token,)
            authorization = f"Bearer {token}"
        key = self._attempts(lambda: self._key(authorization))
        return key.refused if isinstance(key, Trouble) else key

    def _attempts(self, once: Callable[[], T | Trouble]) -> T | Trouble:
        """Up to three, as long as the wait before the next one fits into the budget."""

        def tried() -> T | Trouble:
            result = once()
            self._budget.last = result if isinstance(result, Trouble) else None
            return result

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda result: isinstance(result, Trouble) and result.again),
            wait=self._pause,
            stop=lambda state: state.attempt_number >= _ATTEMPTS or self._pause(state) >= self._budget.left,
            retry_error_callback=_last_result,
        )
        result: T | Trouble = retrying(tried)
        return result

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next attempt: the API's wish, else half a second and then a whole one."""
        result = _last_result(state)
        wish = result.refused.retry_after_s if isinstance(result, Trouble) else None
        return wish if wish is not None else _PAUSE_S * state.attempt_number * self._jitter

    def _token(self) -> str | Trouble:
        """Client id and secret in the form, as Tailscale documents it; by HTTP Basic for servers that want it so.

        Tailscale's Go client tries the two in the other order (golang.org/x/oauth2, internal/token.go).
        """
        client, secret = self._request.client_id, self._request.client_secret
        form = {"grant_type": "client_credentials"}
        full_form = urlencode({**form, "client_id": client, "client_secret": secret}).encode()
        call, reply = self._post("token", _TOKEN_PATH, full_form, {})
        if isinstance(reply, Reply) and reply.status == _UNAUTHORIZED:
            pair = https.basic(quote_plus(client), quote_plus(secret))  # encoded, RFC 6749, 2.3.1
            call, reply = self._post("token", _TOKEN_PATH, urlencode(form).encode(), {"Authorization": f"Basic {pair}"})
        return reply if isinstance(reply, Trouble) else words.read_token(reply, call)

    def _key(self, authorization: str) -> Minted | Trouble:
        tailnet = "-" if self._request.is_oauth else quote(self._request.tailnet, safe="") or "-"
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        call, reply = self._post("keys", f"/api/v2/tailnet/{tailnet}/keys", words.key_body(self._request), headers)
        return reply if isinstance(reply, Trouble) else words.read_key(reply, call)

    def _post(self, step: Step, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[Call, Reply | Trouble]:
        """One request, repeated where a redirect of the same host leads it."""
        call = self._way.describe(self._request, step, self._secrets)
        self._budget.call = call
        url = f"{self._way.base.url.rstrip('/')}{path}"
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                reply, target = self._exchange(url, body, headers)
            except (http_errors.HTTPError, HTTPException, OSError) as e:
                return call, words.explain(https.failure_of(e), call)
            if target is None:
                return call, reply
            url = https.join(url, target)
            if not self._way.allows(url):
                return call, words.led_elsewhere(call, https.shown(url))
        return call, words.led_elsewhere(call, None)

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[Reply, str | None]:
        """The answer and, if it is a redirect, where to."""
        left = self._budget.left
        response = self._pool.request(
            "POST",
            url,
            body=body,
            headers={**_HEADERS, **headers},
            retries=False,
            redirect=False,
            preload_content=False,
            # A connection fails before the end of the budget, which knows why; silence is the watchdog's to end.
            timeout=urllib3.Timeout(connect=min(_CONNECT_S, max(_CLEARANCE_S, left - _CLEARANCE_S)), read=left + 1.0),
        )
        try:
            target = response.headers.get("Location") if response.status in https.REDIRECTS else None
            return _reply(response), target
        finally:
            response.close()


_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # nothing small that becomes large
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": f"tazpod-net/{__version__}",
}


def _last_result(state: tenacity.RetryCallState) -> object:
    return state.outcome.result() if state.outcome else None


# --- what comes back


def _reply(response: urllib3.BaseHTTPResponse) -> Reply:
    return Reply(
        response.status,
        _body(response),
        content_type=response.headers.get("Content-Type", ""),
        retry_after_s=_retry_after(response.headers),
        clock_off_s=_clock_off(response.headers),
    )


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    """To the end or a byte past the limit. Only when nothing more comes does urllib3 see that something is missing."""
    parts: list[bytes] = []
    left = LARGEST_REPLY + 1
    while left > 0:
        part = response.read(left, decode_content=False)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _clock_off(headers: Mapping[str, str]) -> float | None:
    date = _date(headers.get("Date", ""))
    return None if date is None else date - time.time()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date is taken by the server's own clock if it shows that (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    date = _date(value)
    if date is None:
        return None
    return max(0.0, date - (_date(headers.get("Date", "")) or time.time()))


def _date(value: str) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    try:
        return email.utils.parsedate_to_datetime(value).replace(tzinfo=dt.UTC).timestamp()
    except (ValueError, OverflowError):
        return None


# --- the way there


class Way(msgspec.Struct, frozen=True):
    """How the API is reached: its address, whom we trust, by which proxy."""

    base: urllib3.util.Url
    trust: ssl.SSLContext
    proxy: urllib3.util.Url | None = None
    cert_file: str | None = None

    def open(self) -> urllib3.PoolManager:
        """The pool of connections; nothing is connected yet."""
        return https.open_pool(self.trust, self.proxy)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The proxy's user and password, in every form that is sent."""
        if self.proxy is None or not self.proxy.auth:
            return ()
        login = https.proxy_login(self.proxy)
        return (*filter(None, login), https.basic(*login))

    def allows(self, url: str) -> bool:
        """Whether credentials may follow a redirect: https to the same host name, whose certificate proves it.

        Plain http stays at the very port: another one of this machine is another program.
        """
        target = https.parse(url)
        if target is None or target.auth is not None or target.host != self.base.host:
            return False
        return target.scheme == "https" or (target.scheme, target.port) == (self.base.scheme, self.base.port)

    def describe(self, request: Request, step: Step, secrets: tuple[str, ...]) -> Call:
        """What the words need to know of a call."""
        return Call(
            request,
            step,
            https.shown(self.base.url),
            secrets,
            proxy=https.shown(self.proxy.url) if self.proxy else None,
            cert_file=self.cert_file,
            has_authorities=https.has_authorities(self.trust),
            at=time.time(),
        )


def find_way(api_url: str, env: Mapping[str, str]) -> Way | Refused:
    """The way to the API, or what of the settings makes it impossible."""
    base = https.parse(api_url)
    if base is None or base.auth is not None or base.query is not None or base.fragment is not None:
        return words.bad_address()
    if base.scheme == "http" and not https.is_loopback(base):
        return words.in_clear()
    cert_file = env.get("SSL_CERT_FILE") or None
    try:
        return Way(base, https.make_trust(cert_file), https.find_proxy(base, env), cert_file)
    except https.WayError as e:
        return _unusable(e, base.host or "")


def _unusable(e: https.WayError, host: str) -> Refused:
    match e.kind:
        case "socks":
            return words.socks_proxy(e.name, host)
        case "proxy":
            return words.bad_address(e.name, "http://proxy.example:3128")
        case _:
            return words.bad_cert_file(e.value, e.number)


if __name__ == "__main__":
    sys.exit(main())
