"""What is said about minting: the question, the answer, and what every way to fail means for a person. Pure.

The short-lived child (`adapters.minting`) speaks HTTPS and turns what it met into a `Reply` or a `Failure`; this module
makes a key or a sentence of it. The supervisor imports it for the question and the answer, so it loads msgspec only.

No sentence may hold a secret. They are made of our own words, of what the configuration says (host, tags, the path of a
certificate file) and of numbers. Foreign text gets in through `quote` alone, which lets plain words pass and no six
characters in a row of any secret.
"""

import os
import re
import time
from enum import StrEnum
from typing import Literal

import msgspec

Code = Literal["key-unknown", "tag-refused", "rate-limited", "clock-wrong", "minting"]
Step = Literal["token", "keys"]

CLOCK_TOLERANCE_S = 300.0  # what Kerberos and TOTP servers bear: less is no reason for a refusal
SHORT_WAIT_S = 5.0  # a Retry-After up to this is waited for by the child; a longer one is the supervisor's to wait
LARGEST_REPLY = 65536  # bytes; a key with all its particulars has less than two thousand
_GRAM = 6


class _Quiet(msgspec.Struct, frozen=True):
    """Holds secrets: no `repr`, log line or traceback that renders locals shows the fields."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Nothing for rich either, which asks here and not by `repr`."""
        return []


class Request(_Quiet, frozen=True):
    """One key is wanted. OAuth: `client_id` and `client_secret`; else `api_key`, and `tailnet` (empty = the key's own).

    `api_url` is the base without `/api/v2`. `timeout_s` is the whole budget, from the first look-up to the last byte.
    """

    api_url: str
    client_id: str = ""
    client_secret: str = ""
    api_key: str = ""
    tailnet: str = ""
    tags: tuple[str, ...] = ()
    expiry_s: int = 3600
    ephemeral: bool = False
    preauthorized: bool = True
    reusable: bool = False
    description: str = ""
    timeout_s: float = 25.0

    @property
    def is_oauth(self) -> bool:
        """By OAuth client; the other way is an API key."""
        return bool(self.client_secret)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show. The id of a client is no secret to the API, but nobody else's business either."""
        return tuple(filter(None, (self.client_secret, self.api_key, self.client_id)))


class Minted(_Quiet, frozen=True, tag="minted"):
    """The key. `clock_off_s`: how far the API's clock is ahead of ours, if it said."""

    key: str
    clock_off_s: float | None = None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No key. `text` says why, `next` what to do: `text: next` is one sentence.

    `permanent`: the same request cannot succeed until a person has changed something. `retry_after_s`: the API's wish.
    """

    code: Code
    text: str
    next: str
    retry_after_s: float | None = None
    permanent: bool = False


Answer = Minted | Refused


class Trouble(msgspec.Struct, frozen=True):
    """A call that failed. `again`: another try within this budget may help."""

    refused: Refused
    again: bool = False


class Reply(_Quiet, frozen=True):
    """An HTTP answer. `body` is cut at `LARGEST_REPLY + 1`; the clock is the API's minus ours, seconds."""

    status: int
    body: bytes
    content_type: str = ""
    retry_after_s: float | None = None
    clock_off_s: float | None = None


class Kind(StrEnum):
    """How a call can end without an answer."""

    NAME_UNKNOWN = "name unknown"
    NAME_LATER = "name cannot be looked up now"
    CONNECT = "cannot connect"  # with an errno
    CONNECT_SLOW = "connects too slowly"
    SLOW = "answers too slowly"
    CUT = "cut"
    NOT_HTTP = "does not speak HTTP"
    CERT_UNKNOWN_CA = "certificate of an unknown authority"
    CERT_EARLY = "certificate not valid yet"
    CERT_LATE = "certificate expired"
    CERT_NAME = "certificate of somebody else"
    CERT = "certificate not accepted"  # with OpenSSL's code
    TLS = "no TLS"
    PROXY_STATUS = "proxy says no"  # with an HTTP status


class Failure(msgspec.Struct, frozen=True):
    """No answer. `number` is an errno, or the proxy's HTTP status; `at_proxy`: it happened on the way to the proxy."""

    kind: Kind
    number: int = 0
    at_proxy: bool = False


class Call(_Quiet, frozen=True):
    """One call, as far as the words about it need it.

    `host` and `proxy` are `name` or `name:port`, never with a user or password. `secrets`: also those of the answers.
    """

    request: Request
    step: Step
    host: str
    secrets: tuple[str, ...] = ()
    proxy: str | None = None
    cert_file: str | None = None
    has_authorities: bool = True  # False: this machine trusts nobody at all
    at: float = 0.0  # our clock, seconds since the epoch


# --- what is asked


def key_body(request: Request) -> bytes:
    """The JSON of `POST /api/v2/tailnet/{tailnet}/keys` (tailscale-client-go-v2 keys.go:17-34)."""
    create = {
        "reusable": request.reusable,
        "ephemeral": request.ephemeral,
        "preauthorized": request.preauthorized,
        "tags": request.tags,
    }
    body: dict[str, object] = {"capabilities": {"devices": {"create": create}}}
    if request.expiry_s > 0:  # 0 is left out, as Tailscale's own client does (client/tailscale/keys.go:93)
        body["expirySeconds"] = request.expiry_s
    # Plain and short: it is documented as alphanumeric (terraform-provider-tailscale, tailnet_key).
    description = re.sub(r"[^A-Za-z0-9 _-]+", "-", request.description)[:50].strip()
    if description:
        body["description"] = description
    return msgspec.json.encode(body)


# --- what came back


def read_token(reply: Reply, call: Call) -> str | Trouble:
    """The access token in the answer of `/oauth/token`."""
    return _read(reply, call, "access_token", "a token")


def read_key(reply: Reply, call: Call) -> Minted | Trouble:
    """The key in the answer of `/keys`."""
    key = _read(reply, call, "key", "a key")
    return Minted(key, reply.clock_off_s) if isinstance(key, str) else key


def _read(reply: Reply, call: Call, field: str, what: str) -> str | Trouble:
    if len(reply.body) > LARGEST_REPLY:
        return _trouble(f"{call.host} answered with more than {LARGEST_REPLY // 1024} KiB", _CHECK_URL)
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP
        return judge(reply, call)
    answer = _object(reply.body)
    if answer is None:
        return _not_json(reply, call)
    value = answer.get(field)
    # It becomes a header or a line of a file: nothing but visible ASCII.
    if isinstance(value, str) and re.fullmatch(r"[!-~]+", value):
        return value
    return _trouble(f"{call.host} answered without {what}", _CHECK_URL)


def judge(reply: Reply, call: Call) -> Trouble:
    """What a status other than 2xx means. A web page is nobody's verdict on a credential."""
    answer = _object(reply.body)
    match reply.status:
        case 429:
            return _rate_limited(reply)
        case 408 | 500 | 502 | 503 | 504:
            return _unwell(reply, call)
        case _ if answer is None and _is_page(reply):
            return _not_json(reply, call)
        case status if status in _VERDICTS:
            return _verdict(reply, call, answer)
        case 404:
            return _not_found(call, is_api=answer is not None)
        case status if status >= _SERVER_ERROR:
            return _unwell(reply, call)
        case _:
            return _odd(reply, call, answer)


def _verdict(reply: Reply, call: Call, answer: dict[str, object] | None) -> Trouble:
    """400, 401 and 403: what of the request is wrong."""
    if reply.status != _UNAUTHORIZED and call.step == "keys" and _TAGS.search(_message(answer)):
        return _tag_refused(call.request)
    if abs(reply.clock_off_s or 0.0) > CLOCK_TOLERANCE_S:
        return _clocks_differ(reply, call)
    if reply.status == _UNAUTHORIZED or (call.step == "token" and _oauth_error(answer) in _UNKNOWN_CLIENT):
        return _unknown(call)
    if reply.status == _FORBIDDEN:
        return _forbidden(call, is_api=answer is not None)
    return _odd(reply, call, answer)


def _odd(reply: Reply, call: Call, answer: dict[str, object] | None) -> Trouble:
    """Nothing that is known: in the API's own words, if they may be shown."""
    said = quote(_message(answer), call.secrets)
    text = f"{call.host} refused the request ({reply.status}{': ' if said else ''}{said})"
    return _trouble(text, "check login.tags, login.key_expiry_s and login.api_url")


_VERDICTS = {400, 401, 403}
_UNAUTHORIZED, _FORBIDDEN, _SERVER_ERROR = 401, 403, 500
_TAGS = re.compile(r"\btags?\b", re.IGNORECASE)
_UNKNOWN_CLIENT = {"invalid_client", "unauthorized_client", "invalid_grant"}  # RFC 6749, 5.2
_BY_ITSELF = "it is tried again by itself"
_CHECK_URL = "check login.api_url, and that no proxy stands in between"


def _trouble(
    text: str,
    next_step: str,
    *,
    code: Code = "minting",
    again: bool = False,
    permanent: bool = False,
    wait: float | None = None,
) -> Trouble:
    return Trouble(Refused(code, text, next_step, wait, permanent), again)


def _rate_limited(reply: Reply) -> Trouble:
    wait = reply.retry_after_s
    asked = f", it asks to wait {wait:.0f} s" if wait is not None else ""
    again = wait is not None and wait <= SHORT_WAIT_S
    return _trouble(
        f"too many requests for the API (429){asked}", _BY_ITSELF, code="rate-limited", again=again, wait=wait
    )


def _unwell(reply: Reply, call: Call) -> Trouble:
    wait = reply.retry_after_s
    again = wait is None or wait <= SHORT_WAIT_S
    return _trouble(f"{call.host} has trouble of its own ({reply.status})", _BY_ITSELF, again=again, wait=wait)


def _not_json(reply: Reply, call: Call) -> Trouble:
    if _is_page(reply):
        return _trouble(
            f"{call.host} answered with a web page ({reply.status})",
            "a captive portal or a proxy stands in between: log in there, or check HTTPS_PROXY and login.api_url",
        )
    return _trouble(f"{call.host} answered with something that is not JSON ({reply.status})", _CHECK_URL)


def _tag_refused(request: Request) -> Trouble:
    if not request.tags:
        text, step = "the API makes no keys without tags for this OAuth client", "set login.tags"
    else:
        text = f"the API does not let this {_credential(request)} give away {', '.join(request.tags)}"
        step = "give it the tags in the admin console (they need a tagOwner in the policy file), or change login.tags"
    return _trouble(text, step, code="tag-refused", permanent=True)


def _clocks_differ(reply: Reply, call: Call) -> Trouble:
    off = reply.clock_off_s or 0.0
    text = (
        f"{call.host} refused the credentials ({reply.status}), and this clock is {_length(off)} {_side(off)} its clock"
    )
    return _trouble(text, f"set the clock (NTP): {_BY_ITSELF}", code="clock-wrong")


def _side(off: float) -> str:
    return "behind" if off > 0 else "ahead of"


def _length(off: float) -> str:
    """A length of time in the unit that a person would use."""
    value, unit = abs(off), "s"
    for size, larger in ((60, "min"), (60, "h"), (24, "days")):
        if value < 2 * size:
            break
        value, unit = value / size, larger
    return f"{value:.0f} {unit}"


def _unknown(call: Call) -> Trouble:
    request = call.request
    if request.is_oauth and call.step == "keys":  # it gave the token away a moment ago
        return _trouble("the API refused the token that it gave to this OAuth client", _BY_ITSELF, code="key-unknown")
    if request.is_oauth:
        text = "the API does not know this OAuth client"
        step = "put a valid one into the files of login.oauth_client_id_file and login.oauth_client_secret_file"
    else:
        text = "the API does not know this API key, or it is expired"
        step = "put a valid one into the file of login.api_key_file"
    return _trouble(text, step, code="key-unknown", permanent=True)


def _forbidden(call: Call, *, is_api: bool) -> Trouble:
    if call.request.is_oauth:
        step = "give it the scope auth_keys (write) in the admin console"
    else:
        step = "take an API key of a user who may make auth keys, or an OAuth client"
    return _trouble(f"this {_credential(call.request)} may not make auth keys (403)", step, permanent=is_api)


def _not_found(call: Call, *, is_api: bool) -> Trouble:
    if call.step == "keys" and is_api and not call.request.is_oauth:
        return _trouble(
            "the API does not know this tailnet (404)", "check the file of login.tailnet_file", permanent=True
        )
    return _trouble(f"{call.host} has no such API (404)", "check login.api_url", permanent=is_api)


def _credential(request: Request) -> str:
    return "OAuth client" if request.is_oauth else "API key"


def _object(body: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _message(answer: dict[str, object] | None) -> str:
    """The words for people: Tailscale's `message`, else OAuth's."""
    for field in ("message", "error_description", "error"):
        value = (answer or {}).get(field)
        if isinstance(value, str) and value:
            return value
    return ""


def _oauth_error(answer: dict[str, object] | None) -> object:
    return (answer or {}).get("error")


def _is_page(reply: Reply) -> bool:
    return "html" in reply.content_type.lower() or reply.body.lstrip()[:1] == b"<"


# --- what did not come back


def explain(failure: Failure, call: Call) -> Trouble:
    """What a failure means: the network's, the proxy's or the certificate's."""
    if failure.kind is Kind.PROXY_STATUS:
        return _proxy_refused(failure, call)
    if failure.kind in _CERTIFICATE:
        return _certificate(failure, call)
    check = _CHECK_NETWORK if call.proxy is None else _CHECK_PROXY
    text = _network(failure, _who(failure, call), f"{call.request.timeout_s:g} s")
    return _trouble(text, f"{check}; {_BY_ITSELF}", again=_may_help(failure, call))


_CHECK_NETWORK = "check the network, DNS and login.api_url"
_CHECK_PROXY = "check HTTPS_PROXY and NO_PROXY"
_CERTIFICATE = {Kind.CERT_UNKNOWN_CA, Kind.CERT_EARLY, Kind.CERT_LATE, Kind.CERT_NAME, Kind.CERT, Kind.TLS}


def _who(failure: Failure, call: Call) -> str:
    """Who failed. Behind a proxy that took the connection nobody can tell the two apart."""
    if call.proxy is None:
        return call.host
    return f"the proxy {call.proxy}" if failure.at_proxy else f"{call.host} (through the proxy {call.proxy})"


def _may_help(failure: Failure, call: Call) -> bool:
    """Where nothing can have been made yet, another try is free; a request for a key may have been heard."""
    if failure.kind in {Kind.NAME_LATER, Kind.CONNECT, Kind.CONNECT_SLOW}:
        return True
    return failure.kind is Kind.CUT and (call.step == "token" or failure.at_proxy)


def _network(failure: Failure, who: str, budget: str) -> str:
    match failure.kind:
        case Kind.NAME_UNKNOWN:
            return f"the name of {who} does not exist in DNS"
        case Kind.NAME_LATER:
            return f"the name of {who} cannot be looked up: DNS does not answer"
        case Kind.CONNECT:
            return f"no connection to {who}: {_reason(failure.number) or 'it failed'}"
        case Kind.CONNECT_SLOW:
            return f"no connection to {who}: it does not answer"
        case Kind.CUT:
            return f"{who} cut the connection before the answer was complete"
        case Kind.NOT_HTTP:
            return f"{who} does not speak HTTP"
        case _:
            return f"{who} did not answer completely within {budget}"


def _reason(number: int) -> str:
    """The words for an errno, as part of a sentence."""
    words = os.strerror(number) if number else ""
    return words[:1].lower() + words[1:]


def _proxy_refused(failure: Failure, call: Call) -> Trouble:
    if failure.number == 407:  # noqa: PLR2004 - RFC 9110
        return _trouble(f"the proxy {call.proxy} wants a user and password (407)", "put them into HTTPS_PROXY")
    return _trouble(
        f"the proxy {call.proxy} does not connect to {call.host} ({failure.number})",
        f"{_CHECK_PROXY}; {_BY_ITSELF}",
        again=failure.number >= 500,  # noqa: PLR2004
    )


def _certificate(failure: Failure, call: Call) -> Trouble:
    # The way to an https:// proxy has a certificate too.
    host = call.proxy if failure.at_proxy and call.proxy is not None else call.host
    match failure.kind:
        case Kind.CERT_EARLY:
            return _clock(f"the certificate of {host} is not valid yet", call)
        case Kind.CERT_LATE:
            return _clock(f"the certificate of {host} has expired", call)
        case Kind.CERT:
            return _trouble(f"the certificate of {host} is not accepted (OpenSSL says {failure.number})", _CHECK_URL)
        case Kind.CERT_NAME:
            step = f"log in to the captive portal if there is one; {_CHECK_URL}"
            return _trouble(f"the certificate of {host} is for another name", step)
        case Kind.CERT_UNKNOWN_CA if not call.has_authorities:
            return _trouble(
                "this machine trusts no certificate authority", "install ca-certificates, or set SSL_CERT_FILE"
            )
        case Kind.CERT_UNKNOWN_CA:
            where = f" (it is {call.cert_file} now)" if call.cert_file else ""
            return _trouble(
                f"the certificate of {host} is from an authority that this machine does not trust",
                f"set SSL_CERT_FILE to a file with that authority's certificate{where}, then: tazpod-net down, up",
            )
        case _:
            return _trouble(f"no TLS with {host}: it speaks another protocol or version", _CHECK_URL)


def _clock(text: str, call: Call) -> Trouble:
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(call.at))
    return _trouble(
        f"{text} by this machine's clock, {now}",
        f"set the clock if it is wrong (NTP), else the server must renew: {_BY_ITSELF}",
        code="clock-wrong",
    )


# --- what the child says without a call


def led_elsewhere(call: Call, target: str | None) -> Trouble:
    """A redirect that credentials do not follow: to `target`, another host, or in circles."""
    if target is None:
        return _trouble(f"{call.host} leads in circles", _CHECK_URL)
    said = quote_host(target, call.secrets)
    return _trouble(
        f"{call.host} leads to another address{f' ({said})' if said else ''}; the credentials were not sent there",
        "log in to the captive portal if there is one, or set login.api_url to the right address",
    )


def bad_address(name: str = "login.api_url", example: str = "https://api.tailscale.com") -> Refused:
    """A setting that is no address; its value is not shown, a password may be in it."""
    return Refused("minting", f"{name} is not a usable address", f"write it like {example}", permanent=True)


def in_clear() -> Refused:
    """http:// beyond this machine."""
    return Refused(
        "minting",
        "login.api_url is http://, which would send the credentials in clear",
        "write https:// (http:// is for 127.0.0.1 and localhost only)",
        permanent=True,
    )


def socks_proxy(name: str, host: str) -> Refused:
    """A kind of proxy that minting cannot use; `name` is the variable."""
    return Refused(
        "minting",
        f"{name} is a SOCKS proxy, which minting cannot use",
        f"set it to an HTTP proxy, or NO_PROXY to {host}, then: tazpod-net down, up",
    )


def bad_cert_file(path: str, number: int) -> Refused:
    """SSL_CERT_FILE cannot be used; `number` is the errno, 0 if there is no certificate in it."""
    why = _reason(number) or "no certificate in it"
    return Refused("minting", f"SSL_CERT_FILE is {path}: {why}", "correct it or unset it, then: tazpod-net down, up")


def no_credentials() -> Refused:
    """The request has neither kind."""
    return Refused(
        "minting", "there are no credentials to mint with", "give an OAuth client or an API key", permanent=True
    )


def broken(why: str) -> Refused:
    """The child itself failed; `why` is our own word, such as the name of an exception."""
    return Refused("minting", f"the program that mints failed ({why})", f"{_BY_ITSELF}; tazpod-net logs --supervisor")


# --- foreign words


_PLAIN = re.compile(r"[(\"'\[]?(?:[A-Za-z]{1,20}(?:[-/'][A-Za-z]{1,20})?|[0-9]{1,5})[)\"'\],.;:!?]*")


def quote(words: str, secrets: tuple[str, ...], limit: int = 100) -> str:
    """`words` if they are safe to show, else nothing. Plain words and short numbers only, on one line."""
    parts = words[:2000].split()
    if not parts or not all(_PLAIN.fullmatch(part) for part in parts) or _shares(words, secrets):
        return ""
    one = " ".join(parts)
    return one if len(one) <= limit else one[: limit - 1] + "…"


def quote_host(host: str, secrets: tuple[str, ...]) -> str:
    """A host that a server named, if it looks like one and holds nothing of a secret."""
    fits = re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,80}", host) is not None
    return host if fits and not _shares(host, secrets) else ""


def reveals(text: str, secrets: tuple[str, ...]) -> bool:
    """Whether a whole secret stands in the text: the last look before it is said."""
    return any(secret in text for secret in secrets if len(secret) >= _GRAM)


def _shares(text: str, secrets: tuple[str, ...]) -> bool:
    """Whether six characters in a row are the same, blanks and case apart."""
    seen = _squeeze(text)
    return any(gram in seen for secret in secrets for gram in _grams(_squeeze(secret)))


def _squeeze(text: str) -> str:
    return "".join(text.split()).casefold()


def _grams(secret: str) -> set[str]:
    return {secret[i : i + _GRAM] for i in range(max(1, len(secret) - _GRAM + 1))} - {""}
