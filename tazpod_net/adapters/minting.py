"""Buys one auth key over HTTPS: a short-lived program, because TLS stays out of the supervisor.

    python -m tazpod_net.adapters.minting <<< '{"api_url": "https://api.tailscale.com", "client_id": …}'

reads one `core.minting.Request` as JSON from stdin and prints one `core.minting.Answer` as JSON. Exit code 0: answered,
also with a refusal; 2: the request is wrong. It answers within the request's `timeout_s`, whatever the network does.

Owns the HTTP calls, what an exception of the HTTP library means, and that nothing of the secrets leaves this process by
another way: no traceback, no core, no log of TLS keys. Must not judge nor word: that is `core.minting`.

Why urllib3 and not httpx: with its clients made, 77 ms against 133 (sync) and 174 (async) of import before each login, one
distribution against six, and it trusts what the system trusts. The redirects, the attempts and the proxies of urllib3
are not used: credentials must not follow a redirect.
"""

import base64
import contextlib
import ctypes
import email.utils
import ipaddress
import os
import random
import re
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import NoReturn
from urllib.parse import quote, quote_plus, unquote, urlencode, urljoin

import msgspec
import tenacity
import urllib3
from urllib3 import exceptions as http_errors

from tazpod_net import __version__
from tazpod_net.core import minting as words
from tazpod_net.core.minting import (
    LARGEST_REPLY,
    SHORT_WAIT_S,
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
_CONNECT_S = 5.0  # for each address of a name: one that swallows packets must not eat the budget of the next
_READ_STDIN_S = 10
_LONGEST_REDIRECT = 3
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_RETRY_AFTER_MAX_S = 86400.0


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
    mouth.say(answer)


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
    """One key, or why not. Raises nothing that is expected; a hanging look-up of a name only the watchdog ends."""
    if not request.is_oauth and not request.api_key:
        return words.no_credentials()
    base = _base(request.api_url)
    if isinstance(base, Refused):
        return base
    trust = _trust(env)
    if isinstance(trust, Refused):
        return trust
    route = _route(base, env)
    if isinstance(route, Refused):
        return route
    with route.open(trust) as pool:
        return Minting(request, base, pool, route, budget or Budget(request.timeout_s)).run()


# --- the two calls


class Minting:
    """The calls of one key, with their attempts."""

    def __init__(
        self, request: Request, base: urllib3.util.Url, pool: urllib3.PoolManager, route: "Route", budget: Budget
    ) -> None:
        self._request = request
        self._base = base
        self._pool = pool
        self._route = route
        self._budget = budget
        self._secrets = (*request.secrets, *route.secrets)

    def run(self) -> Answer:
        """By OAuth a token first; then the key."""
        authorization = _basic(self._request.api_key, "")
        if self._request.is_oauth:
            token = self._attempts(self._token)
            if isinstance(token, Trouble):
                return token.refused
            self._secrets += (token,)
            authorization = f"Bearer {token}"
        key = self._attempts(lambda: self._key(authorization))
        return key.refused if isinstance(key, Trouble) else key

    def _token(self) -> str | Trouble:
        """Client id and secret in the form, as Tailscale documents it; by HTTP Basic for servers that want that.

        Tailscale's Go client tries the two in the other order (golang.org/x/oauth2, internal/token.go).
        """
        client, secret = self._request.client_id, self._request.client_secret
        form = {"grant_type": "client_credentials"}
        call, reply = self._post("token", _TOKEN, {**form, "client_id": client, "client_secret": secret}, {})
        if isinstance(reply, Reply) and reply.status == 401:  # noqa: PLR2004 - the one status that can mean "not so"
            basic = {"Authorization": _basic(quote_plus(client), quote_plus(secret))}  # RFC 6749, 2.3.1
            call, reply = self._post("token", _TOKEN, form, basic)
        return reply if isinstance(reply, Trouble) else words.read_token(reply, call)

    def _key(self, authorization: str) -> Minted | Trouble:
        tailnet = "-" if self._request.is_oauth else quote(self._request.tailnet, safe="") or "-"
        call, reply = self._post("keys", f"/api/v2/tailnet/{tailnet}/keys", None, {"Authorization": authorization})
        return reply if isinstance(reply, Trouble) else words.read_key(reply, call)

    def _post(
        self, step: Step, path: str, form: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> tuple[Call, Reply | Trouble]:
        """One request, and those that it is led to on the same host."""
        call = self._describe(step)
        kind = "application/json" if form is None else "application/x-www-form-urlencoded"
        body = words.key_body(self._request) if form is None else urlencode(form).encode()
        given = {"Content-Type": kind, "Accept": "application/json", "User-Agent": f"tazpod-net/{__version__}", **headers}
        url = f"{self._base.url.rstrip('/')}{path}"
        for _ in range(_LONGEST_REDIRECT + 1):
            try:
                reply, target = self._exchange(url, body, given)
            except (http_errors.HTTPError, HTTPException, OSError) as e:
                return call, words.explain(_failure(e), call)
            if target is None:
                return call, reply
            url = urljoin(url, target)
            if not self._is_same_host(url):
                return call, words.led_elsewhere(call, _host(url))
        return call, words.led_elsewhere(call, None)

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[Reply, str | None]:
        """The answer and, if it is a redirect, where to."""
        left = self._budget.left
        response = self._pool.request(
            "POST",
            url,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT_S, left), read=left),
        )
        try:
            if response.status in {301, 302, 303, 307, 308} and "Location" in response.headers:
                response.drain_conn()
                return Reply(response.status, b""), response.headers["Location"]
            return _reply(response), None
        finally:
            response.close()

    def _is_same_host(self, url: str) -> bool:
        """Https on the host whose name was verified, on any port; plain http stays at the very port."""
        try:
            target = urllib3.util.parse_url(url)
        except http_errors.LocationParseError:
            return False
        if target.auth is not None or target.host != self._base.host:
            return False
        return target.scheme == "https" or (target.scheme, target.port) == (self._base.scheme, self._base.port)

    def _describe(self, step: Step) -> Call:
        call = Call(
            self._request,
            step,
            host=_shown(self._base),
            secrets=self._secrets,
            proxy=self._route.label,
            cert_file=os.environ.get("SSL_CERT_FILE"),
            has_authorities=_has_authorities(),
            at=time.time(),
        )
        self._budget.call = call
        return call

    def _attempts[T](self, once: Callable[[], T | Trouble]) -> T | Trouble: ...


_TOKEN = "/api/v2/oauth/token"  # noqa: S105 - a path
