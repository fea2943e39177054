"""Decides about logging in. Pure: `decide(login, facts) -> (login, action)`.

State first, key second: a backend with a good node key never meets an auth key. A key that was refused is not tried
again. The sentences for a person (`backend.login`, `login_next`, `login_code` of the status object) live here.
"""

from enum import StrEnum

import msgspec

from tazpod_net.core.backend import Backend


class Code(StrEnum):
    """`login_code` of the status object."""

    OK = "ok"
    LOGGING_IN = "logging-in"
    NO_CREDENTIALS = "no-credentials"
    LOGIN_URL = "login-url"
    NEEDS_APPROVAL = "needs-approval"
    KEY_EXPIRED = "key-expired"
    KEY_USED = "key-used"
    KEY_UNKNOWN = "key-unknown"
    TAG_REFUSED = "tag-refused"
    TAILNET_LOCK = "tailnet-lock"
    NODE_KEY_EXPIRED = "node-key-expired"
    NODE_DELETED = "node-deleted"
    RATE_LIMITED = "rate-limited"
    CLOCK_WRONG = "clock-wrong"
    STOPPED = "stopped"
    LOGGED_OUT = "logged-out"


# Nothing goes on by itself: `up` returns at once with exit 1 and the reason, the supervisor stays.
ONLY_A_PERSON = frozenset(
    {
        Code.NO_CREDENTIALS,
        Code.LOGIN_URL,
        Code.NEEDS_APPROVAL,
        Code.KEY_EXPIRED,
        Code.KEY_USED,
        Code.KEY_UNKNOWN,
        Code.TAG_REFUSED,
        Code.TAILNET_LOCK,
        Code.STOPPED,
        Code.LOGGED_OUT,
    }
)
REJECTED = frozenset({Code.KEY_EXPIRED, Code.KEY_USED, Code.KEY_UNKNOWN, Code.TAG_REFUSED, Code.TAILNET_LOCK})


class Action(StrEnum):
    """What the supervisor does next about the login."""

    NOTHING = "nothing"
    LOG_IN = "log in"  # with the present key
    ASK_URL = "ask for a URL"  # interactive
    GIVE_UP = "give up"  # make the daemon stop repeating a refused key


class Login(msgspec.Struct, frozen=True):
    """What was tried. `refused` holds fingerprints of keys, never keys. Times: monotonic seconds."""

    attempt: str | None = None  # fingerprint of the key under way; "url" while a URL is asked for
    deadline: float | None = None
    not_before: float = 0.0
    failures: int = 0
    refused: dict[str, tuple[Code, str]] = {}
    gave_up: bool = False
    trouble: str | None = None  # the last error text that is no verdict on the key


class Facts(msgspec.Struct, frozen=True):
    """Everything that a decision looks at. `key`: fingerprint of the key that is at hand now."""

    at: float
    backend: Backend
    key: str | None = None
    allowed: bool = True  # False: --no-login, or a person logged out
    interactive: bool = False  # a person on a terminal asked for a URL
    error: str | None = None  # an ErrMessage of the bus, once
    timeout: float = 30.0


def refusal(text: str) -> Code | None:
    """The verdict in an error text of the control server, or None if it is none (network trouble, say)."""
    low = text.lower()
    for needles, code in _REFUSALS:
        if any(needle in low for needle in needles):
            return code
    return None


# Texts of the control service as users quote them, and of Tailscale's own test control server ("invalid authkey").
_REFUSALS: tuple[tuple[tuple[str, ...], Code], ...] = (
    (("tailnet lock", "network lock", "node is locked out"), Code.TAILNET_LOCK),
    (("requested tags", "tags are invalid", "not permitted to use tag", "tag not permitted"), Code.TAG_REFUSED),
    (("already used", "has been used", "already been used"), Code.KEY_USED),
    (("key expired", "expired key", "authkey expired", "auth key expired", "key has expired"), Code.KEY_EXPIRED),
    (
        ("invalid key", "invalid authkey", "invalid auth key", "key does not exist", "key not found",
         "authkey not found", "key not valid", "unauthorized"),
        Code.KEY_UNKNOWN,
    ),
)  # fmt: skip


def decide(login: Login, facts: Facts) -> tuple[Login, Action]:
    """The next step. Idempotent: the same facts again ask for nothing more."""
    state = facts.backend.state
    if state in {"Running", "Starting"}:
        return msgspec.structs.replace(
            login, attempt=None, deadline=None, failures=0, trouble=None, gave_up=False
        ), (Action.NOTHING)
    if login.attempt is not None:
        return _under_way(login, facts)
    if state != "NeedsLogin" or not facts.allowed:
        return login, Action.NOTHING
    return _needs_login(login, facts)


def _needs_login(login: Login, facts: Facts) -> tuple[Login, Action]:
    if facts.key is not None and facts.key not in login.refused:
        if facts.at < login.not_before:
            return login, Action.NOTHING
        begun = msgspec.structs.replace(
            login, attempt=facts.key, deadline=facts.at + facts.timeout, gave_up=False, trouble=None
        )
        return begun, Action.LOG_IN
    if facts.interactive and facts.backend.auth_url is None:
        begun = msgspec.structs.replace(login, attempt="url", deadline=facts.at + facts.timeout, gave_up=False)
        return begun, Action.ASK_URL
    return login, Action.NOTHING


def _under_way(login: Login, facts: Facts) -> tuple[Login, Action]:
    code = refusal(facts.error) if facts.error else None
    if code is not None and login.attempt not in {None, "url"}:
        refused = {**login.refused, str(login.attempt): (code, str(facts.error))}
        ended = msgspec.structs.replace(login, attempt=None, deadline=None, refused=refused, gave_up=True)
        return ended, Action.GIVE_UP
    if login.attempt == "url" and facts.backend.auth_url is not None:
        return msgspec.structs.replace(login, attempt=None, deadline=None), Action.NOTHING
    if facts.backend.state in {"NeedsMachineAuth", "Stopped"}:
        return msgspec.structs.replace(login, attempt=None, deadline=None), Action.NOTHING
    noted = msgspec.structs.replace(login, trouble=facts.error) if facts.error else login
    if noted.deadline is not None and facts.at >= noted.deadline:
        return _timed_out(noted, facts)
    return noted, Action.NOTHING


def _timed_out(login: Login, facts: Facts) -> tuple[Login, Action]:
    """The daemon goes on trying by itself with its own back-off; a new attempt only after a while."""
    wait = min(300.0, 15.0 * 2 ** min(login.failures, 5))
    ended = msgspec.structs.replace(
        login, attempt=None, deadline=None, failures=login.failures + 1, not_before=facts.at + wait
    )
    return ended, Action.NOTHING


class Sources(msgspec.Struct, frozen=True):
    """Where credentials were looked for: (name, what was found), such as `("TS_AUTHKEY", "not set")`."""

    looked: tuple[tuple[str, str], ...] = ()
    hint: str | None = None  # login.hint: what a person must do
    server: str = ""


class Said(msgspec.Struct, frozen=True):
    """`login_code`, `login`, `login_next` of the status object."""

    code: Code | None
    text: str | None
    next: str | None = None


_LOGIN_NEXT = "tazpod-net login"

_REJECTED_TEXT = {
    Code.KEY_EXPIRED: "the auth key is expired",
    Code.KEY_USED: "the auth key was for one use and is used up",
    Code.KEY_UNKNOWN: "the control server does not know the auth key",
    Code.TAG_REFUSED: "the tags are invalid or not permitted for this key",
    Code.TAILNET_LOCK: "tailnet lock: this node must be signed first",
}


def say(login: Login, facts: Facts, sources: Sources, *, logged_out: bool = False) -> Said:  # noqa: C901 - one row per case
    """The sentence for the present situation."""
    backend = facts.backend
    match backend.state:
        case "Running":
            return Said(Code.OK, "ok")
        case "Starting":
            return Said(Code.LOGGING_IN, "connecting to the tailnet")
        case "NeedsMachineAuth":
            return Said(
                Code.NEEDS_APPROVAL, "waiting for approval of this machine", "approve it in the admin console"
            )
        case "Stopped":
            return Said(Code.STOPPED, "stopped by 'tailscale down'", "tazpod-net tailscale up")
        case "NeedsLogin":
            return _say_needs_login(login, facts, sources, logged_out=logged_out)
        case _:
            return Said(None, None)


def _say_needs_login(login: Login, facts: Facts, sources: Sources, *, logged_out: bool) -> Said:
    backend = facts.backend
    if backend.auth_url is not None and login.attempt in {None, "url"}:
        return Said(Code.LOGIN_URL, "waiting for a person to log in", f"open {backend.auth_url}")
    if logged_out:
        return Said(Code.LOGGED_OUT, "logged out", _LOGIN_NEXT)
    if login.attempt is not None or (facts.key is not None and facts.key not in login.refused and facts.allowed):
        return _say_trying(login)
    if facts.key is not None and facts.key in login.refused:
        code, text = login.refused[facts.key]
        return Said(code, f"key rejected: {_REJECTED_TEXT[code]} ({_short(text)})", _next_key(sources))
    if backend.expired:
        return Said(Code.NODE_KEY_EXPIRED, "the node key is expired", _next(sources))
    return Said(Code.NO_CREDENTIALS, "waiting for credentials", _next(sources))


def _say_trying(login: Login) -> Said:
    if login.trouble and login.attempt is None:
        return Said(Code.LOGGING_IN, f"login failed, tried again soon: {_short(login.trouble)}")
    if login.failures:
        return Said(Code.LOGGING_IN, "logging in; the control server has not answered yet")
    return Said(Code.LOGGING_IN, "logging in")


def _next(sources: Sources) -> str:
    if sources.hint:
        return f"{sources.hint} (login follows by itself), or: {_LOGIN_NEXT}"
    return f"set TS_AUTHKEY or login.auth_key_file, then: tazpod-net up; or: {_LOGIN_NEXT}"


def _next_key(sources: Sources) -> str:
    if sources.hint:
        return f"{sources.hint}, or give another key: {_LOGIN_NEXT} --auth-key-file F"
    return f"make a new key, then: {_LOGIN_NEXT} --auth-key-file F"


def _short(text: str, limit: int = 120) -> str:
    one = " ".join(text.split())
    return one if len(one) <= limit else one[: limit - 1] + "…"
