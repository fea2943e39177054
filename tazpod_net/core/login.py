"""Decides about logging in. Pure: `decide(login, facts) -> (login, action)`.

State first, key second: a backend with a good node key never meets an auth key. A key that was refused is not tried
again; minting is tried again with back-off. The sentences for a person (`backend.login`, `login_next`, `login_code` of
the status object) live here.
"""

import re
from enum import StrEnum

import msgspec

from tazpod_net.core.backend import Backend


class Code(StrEnum):
    """`login_code` of the status object."""

    OK = "ok"
    LOGGING_IN = "logging-in"
    MINTING = "minting"
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


REJECTED = frozenset({Code.KEY_EXPIRED, Code.KEY_USED, Code.KEY_UNKNOWN, Code.TAG_REFUSED, Code.TAILNET_LOCK})

# Nothing goes on by itself: `up` returns at once with exit 1 and the reason, the supervisor stays.
ONLY_A_PERSON = REJECTED | {
    Code.NO_CREDENTIALS,
    Code.LOGIN_URL,
    Code.NEEDS_APPROVAL,
    Code.NODE_KEY_EXPIRED,
    Code.NODE_DELETED,
    Code.STOPPED,
    Code.LOGGED_OUT,
}


class Action(StrEnum):
    """What the supervisor does next about the login. MINT and LOG_IN are about `login.attempt`."""

    NOTHING = "nothing"
    MINT = "mint"  # ask the API for a key
    LOG_IN = "log in"  # with the key, or with the one that was minted
    ASK_URL = "ask for a URL"  # interactive
    GIVE_UP = "give up"  # make the daemon stop repeating a refused key


class Candidate(msgspec.Struct, frozen=True):
    """A credential that is at hand. `fingerprint` names its value without being it; `mints`: it buys a key."""

    fingerprint: str
    mints: bool = False


URL = Candidate("url")  # the attempt that has no key: a person was asked for


# Control has taken the login, and its network map is late: the key again would be a second use of it, and a one-off key
# is then refused and the node that it made is lost. So many times the patience of a login without an answer.
ACCEPTED = 10.0

ECHO = 1.0  # seconds after the start of an attempt in which the last refusal may still be heard


class Login(msgspec.Struct, frozen=True):
    """What was tried. Holds fingerprints of credentials, never values. Times: monotonic seconds."""

    attempt: Candidate | None = None
    minting: bool = False  # the attempt is still buying its key
    deadline: float | None = None  # of the attempt
    last: Candidate | None = None  # an attempt that timed out: the daemon goes on trying it by itself
    held: dict[str, float] = {}  # fingerprint -> not before
    failures: dict[str, int] = {}  # fingerprint -> in a row
    refused: dict[str, tuple[Code, str]] = {}  # keys: never again
    began: float = 0.0  # of the attempt's login
    echo: str | None = None  # the text of the last refusal
    trouble: tuple[Code, str, str] | None = None  # the last failure that is no verdict on a key of ours, and what to do
    renew: Code | None = None  # why a node that runs must log in again


class Minted(msgspec.Struct, frozen=True):
    """How the minting ended. `ok`: a key is there. `wait`: seconds that the API asked for."""

    ok: bool
    code: Code = Code.MINTING
    text: str = ""
    next: str = ""
    wait: float | None = None


class Facts(msgspec.Struct, frozen=True):
    """Everything that a decision looks at. `error`, `finished`, `minted`, `deleted` are news: given once."""

    at: float
    backend: Backend
    candidates: tuple[Candidate, ...] = ()  # in the order of preference
    allowed: bool = True  # False: --no-login, or a person logged out
    interactive: bool = False  # a person on a terminal asked for a URL
    error: str | None = None  # an ErrMessage of the bus, or what LocalAPI answered
    finished: bool = False  # LoginFinished of the bus
    minted: Minted | None = None
    deleted: bool = False  # control said that it does not know this node
    expiring: bool = False  # the node key ends soon
    ended: bool = False  # it has ended
    timeout: float = 30.0


# Texts of the control service as users quote them (`tailscaled.md`, 19.3), and of Tailscale's own test control server
# ("invalid authkey"). The first row that fits counts: "invalid key" comes with all kinds of reasons.
_TEXTS: tuple[tuple[tuple[str, ...], Code | None], ...] = (
    (("not yet valid", "certificate has expired"), Code.CLOCK_WRONG),
    (("x509:", "tls:"), None),  # a certificate that is "not valid" is no verdict on a key
    (("tailnet lock", "network lock", "locked out"), Code.TAILNET_LOCK),
    (("requested tags", "tags are invalid", "not permitted to use tag", "tag not permitted"), Code.TAG_REFUSED),
    (("already used", "has been used", "already been used", "not valid"), Code.KEY_USED),  # "API key k… not valid"
    (("key expired", "expired key", "key has expired", "key is expired"), Code.KEY_EXPIRED),
    (("429", "rate limit", "too many requests"), Code.RATE_LIMITED),
    (("node not found",), Code.NODE_DELETED),
    (("invalid key", "key does not exist"), Code.KEY_UNKNOWN),
)  # fmt: skip

# What other control servers write ("invalid pre auth key", "AuthKey not found"): an auth key however spelt, and a word.
_AUTH_KEY = re.compile(r"\b(?:pre[-_ ]?)?auth[-_ ]?key\b(?![.-])")
_OF_A_KEY: tuple[tuple[tuple[str, ...], Code], ...] = (
    (("expired",), Code.KEY_EXPIRED),
    (("used",), Code.KEY_USED),
    (("invalid", "unknown", "not found", "does not exist", "revoked", "deleted", "disabled"), Code.KEY_UNKNOWN),
)
# An HTTP status instead of an answer; 403 may come from any proxy on the way.
_UNAUTHORIZED = "register request: http 401"


def classify(text: str) -> Code | None:
    """What an error text of the control server means, or None (network trouble, say)."""
    low = text.lower()
    for needles, code in _TEXTS:
        if any(needle in low for needle in needles):
            return code
    if _AUTH_KEY.search(low):
        for needles, word in _OF_A_KEY:
            if any(needle in low for needle in needles):
                return word
    return Code.KEY_UNKNOWN if _UNAUTHORIZED in low else None


def decide(login: Login, facts: Facts) -> tuple[Login, Action]:
    """The next step. Idempotent: the same facts again, without news, ask for nothing more."""
    facts = _without_echo(login, facts)
    login = _note_renewal(login, facts)
    connected = facts.backend.state in {"Running", "Starting"}
    if connected and not facts.backend.disowned and (login.renew is None or _renewed(login, facts)):
        return Login(refused=login.refused), Action.NOTHING
    verdict = _verdict(login, facts)
    if verdict is not None:
        return verdict
    login = _note_trouble(login, facts)
    if facts.finished and login.attempt is not None and not login.minting:
        login = msgspec.structs.replace(login, deadline=facts.at + ACCEPTED * facts.timeout)
    if login.attempt is not None:
        login, action = _under_way(login, login.attempt, facts)
        if login.attempt is not None:
            return login, action
    if not facts.allowed or not (connected or facts.backend.state == "NeedsLogin"):
        return login, Action.NOTHING
    return _begin(login, facts, connected=connected)


def _without_echo(login: Login, facts: Facts) -> Facts:
    """The daemon repeats a refused login a few ms later, when the next credential is under way already.

    An error while a key is being bought, or the same text again right after the next attempt began, is about the last
    one. A new key that is refused with the same words is refused again, and later.
    """
    early = facts.error == login.echo and facts.at < login.began + ECHO
    return msgspec.structs.replace(facts, error=None) if facts.error and (login.minting or early) else facts


def _renewed(login: Login, facts: Facts) -> bool:
    """Whether the new login of a running node has come through. The bus does not always send LoginFinished for it."""
    if facts.finished and not facts.deleted and not login.minting:
        return True  # by us, or by a person beside us
    if login.attempt is None or login.minting or facts.deleted:
        return False
    return facts.backend.online if login.renew is Code.NODE_DELETED else not facts.expiring


def _note_renewal(login: Login, facts: Facts) -> Login:
    """Deletion by news; a key that ends soon only while something can mint a new one."""
    if facts.deleted or (facts.backend.disowned and login.attempt is None):
        return msgspec.structs.replace(login, renew=Code.NODE_DELETED)
    can_mint = any(c.mints for c in facts.candidates)
    if facts.expiring and can_mint and login.renew is None and facts.backend.state == "Running":
        return msgspec.structs.replace(login, renew=Code.NODE_KEY_EXPIRED)
    return login


def _verdict(login: Login, facts: Facts) -> tuple[Login, Action] | None:
    """The control server's "no" to a key. A key of ours is never tried again; a minted one makes minting wait."""
    code = classify(facts.error) if facts.error else None
    blamed = login.attempt or login.last
    if code not in REJECTED or blamed is None or blamed == URL or login.minting:
        return None
    text = str(facts.error)
    if blamed.mints:
        noted = msgspec.structs.replace(login, trouble=(code, text, ""), echo=text)
        return _hold(noted, blamed, facts, None), Action.GIVE_UP
    ended = msgspec.structs.replace(_ended(login), echo=text)
    return msgspec.structs.replace(ended, refused={**login.refused, blamed.fingerprint: (code, text)}), Action.GIVE_UP


def _note_trouble(login: Login, facts: Facts) -> Login:
    if not facts.error or (login.attempt is None and login.last is None):
        return login
    return msgspec.structs.replace(login, trouble=(classify(facts.error) or Code.LOGGING_IN, facts.error, ""))


def _under_way(login: Login, attempt: Candidate, facts: Facts) -> tuple[Login, Action]:
    """An attempt ends with its URL, with an answer that only a person can go on from, or with its time."""
    if login.minting:
        return _minting(login, attempt, facts)
    if (attempt == URL and facts.backend.auth_url) or facts.backend.state in {"NeedsMachineAuth", "Stopped"}:
        return _ended(login), Action.NOTHING
    if login.deadline is not None and facts.at >= login.deadline:
        return msgspec.structs.replace(_hold(login, attempt, facts, None), last=attempt), Action.NOTHING
    return login, Action.NOTHING


def _minting(login: Login, attempt: Candidate, facts: Facts) -> tuple[Login, Action]:
    if facts.minted is None:
        return login, Action.NOTHING  # the child has its own time limit and always answers
    if facts.minted.ok:
        bought = msgspec.structs.replace(
            login, minting=False, deadline=facts.at + facts.timeout, began=facts.at, trouble=None
        )
        return bought, Action.LOG_IN
    failed = msgspec.structs.replace(login, trouble=(facts.minted.code, facts.minted.text, facts.minted.next))
    return _hold(failed, attempt, facts, facts.minted.wait), Action.NOTHING


def _begin(login: Login, facts: Facts, *, connected: bool) -> tuple[Login, Action]:
    usable = [c for c in facts.candidates if c.fingerprint not in login.refused]
    if connected and login.renew is Code.NODE_KEY_EXPIRED:
        usable = [c for c in usable if c.mints]  # a static key is kept for when it is needed
    chosen = next((c for c in usable if login.held.get(c.fingerprint, 0.0) <= facts.at), None)
    if chosen is not None:
        begun = msgspec.structs.replace(
            login,
            attempt=chosen,
            minting=chosen.mints,
            deadline=facts.at + facts.timeout,
            began=facts.at,
            last=None,
            trouble=login.trouble if chosen.mints else None,  # said until this attempt has an outcome of its own
        )
        return begun, Action.MINT if chosen.mints else Action.LOG_IN
    if facts.interactive and facts.backend.auth_url is None and not usable:
        begun = msgspec.structs.replace(login, attempt=URL, deadline=facts.at + facts.timeout, last=None)
        return begun, Action.ASK_URL
    return login, Action.NOTHING


def _ended(login: Login) -> Login:
    return msgspec.structs.replace(login, attempt=None, minting=False, deadline=None, last=None)


def _hold(login: Login, attempt: Candidate, facts: Facts, wait: float | None) -> Login:
    """This credential again only after a while: 5 s, doubled, 5 min at most, or what the API asked for."""
    name = attempt.fingerprint
    count = login.failures.get(name, 0)
    pause = max(wait or 0.0, min(300.0, 5.0 * 2 ** min(count, 6)))
    return msgspec.structs.replace(
        _ended(login), held={**login.held, name: facts.at + pause}, failures={**login.failures, name: count + 1}
    )


def next_attempt(login: Login, facts: Facts) -> float | None:
    """When to decide again although nothing happens: a deadline, or the end of a wait. Monotonic seconds."""
    if login.attempt is not None:
        return None if login.minting else login.deadline
    waits = [login.held[c.fingerprint] for c in facts.candidates if c.fingerprint in login.held]
    needed = facts.backend.state == "NeedsLogin" or login.renew is not None
    return min(waits) if waits and needed and facts.allowed else None


class Sources(msgspec.Struct, frozen=True):
    """For the sentences: what a person must do to provide credentials, and the tags of minted keys."""

    hint: str | None = None  # login.hint
    tags: tuple[str, ...] = ()


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
_TROUBLE_TEXT = {
    Code.RATE_LIMITED: "rate limited",
    Code.CLOCK_WRONG: "the clock is wrong",
    Code.MINTING: "no key could be minted",
    Code.TAG_REFUSED: "no key could be minted",
    Code.KEY_UNKNOWN: "no key could be minted",
}


def say(login: Login, facts: Facts, sources: Sources, *, logged_out: bool = False) -> Said:
    """The sentence for the present situation."""
    match facts.backend.state:
        case "Running" | "Starting" if login.renew is Code.NODE_DELETED or facts.backend.disowned:
            return _say_needs_login(login, facts, sources, logged_out=logged_out)
        case "Running":
            return Said(Code.OK, "ok")
        case "Starting":
            return Said(Code.LOGGING_IN, "connecting to the tailnet")
        case "NeedsMachineAuth":
            text = "waiting for approval of this machine"
            return Said(Code.NEEDS_APPROVAL, text, "approve it in the admin console")
        case "Stopped":
            return Said(Code.STOPPED, "stopped by 'tailscale down'", "tazpod-net tailscale up")
        case "NeedsLogin":
            return _say_needs_login(login, facts, sources, logged_out=logged_out)
        case _:
            return Said(None, None)


def _say_needs_login(login: Login, facts: Facts, sources: Sources, *, logged_out: bool) -> Said:
    backend = facts.backend
    if logged_out:
        return Said(Code.LOGGED_OUT, "logged out", _LOGIN_NEXT)
    asked = backend.state == "NeedsLogin" or not facts.candidates
    if backend.auth_url is not None and asked and login.attempt in {None, URL}:
        code, text = _why_a_person(login, facts)
        return Said(code, text, f"open {backend.auth_url}")
    usable = [c for c in facts.candidates if c.fingerprint not in login.refused]
    if login.attempt is not None or (usable and facts.allowed):
        return _say_trying(login, sources)
    if usable:
        return Said(Code.NO_CREDENTIALS, "waiting for a login, as told by --no-login", _LOGIN_NEXT)
    if facts.candidates:  # every one of them was refused
        code, text = login.refused[facts.candidates[0].fingerprint]
        return Said(code, f"key rejected: {_REJECTED_TEXT[code]} ({_short(text)})", _next_key(sources))
    code, text = _why_a_person(login, facts)
    if code is Code.LOGIN_URL:
        return Said(Code.NO_CREDENTIALS, "waiting for credentials", _next(sources))
    return Said(code, text, _next(sources))


def _why_a_person(login: Login, facts: Facts) -> tuple[Code, str]:
    """What happened to a node that was logged in; else that somebody must log it in."""
    if facts.backend.expired or facts.ended:
        return Code.NODE_KEY_EXPIRED, "the node key is expired"
    unasked = facts.backend.have_node_key and facts.backend.auth_url is not None
    if login.renew is Code.NODE_DELETED or unasked:
        return Code.NODE_DELETED, "this node was removed from the tailnet"
    return Code.LOGIN_URL, "waiting for a person to log in"


def _say_trying(login: Login, sources: Sources) -> Said:
    if login.attempt is not None and login.minting:
        tags = f" ({', '.join(sources.tags)})" if sources.tags else ""
        before = f"; the last attempt: {_short(login.trouble[1])}" if login.trouble is not None else ""
        return Said(Code.MINTING, f"minting an auth key{tags}{before}")
    if login.trouble is not None:
        code, text, fix = login.trouble
        again = "" if login.attempt is not None else "; tried again by itself"
        said = f"{_TROUBLE_TEXT.get(code, 'login failed')} ({_short(text)}){again}"
        return Said(code, said, fix or (_next_key(sources) if code in REJECTED else None))
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
