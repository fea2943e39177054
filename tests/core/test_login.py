"""Logging in: what is tried when, what is never tried, and what a person is told."""

import random
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tazpod_net.core.backend import STATES, Backend
from tazpod_net.core.login import (
    REJECTED,
    URL,
    Action,
    Candidate,
    Code,
    Facts,
    Login,
    Minted,
    Said,
    Sources,
    classify,
    decide,
    next_attempt,
    say,
)

KEY, OTHER, MINT = Candidate("key-1"), Candidate("key-2"), Candidate("mint-1", mints=True)
NEEDS = Backend(state="NeedsLogin")
REFUSED = "invalid key: API key does not exist"


def facts(at: float = 0.0, **changes: object) -> Facts:
    """A backend that needs a login, with one key at hand."""
    return msgspec.structs.replace(Facts(at=at, backend=NEEDS, candidates=(KEY,)), **changes)


def play(*news: Facts) -> tuple[Login, list[Action]]:
    """The end and every action of a history."""
    login, actions = Login(), []
    for one in news:
        login, action = decide(login, one)
        actions.append(action)
    return login, actions


# --- what an error text means -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("invalid key: API key does not exist", Code.KEY_UNKNOWN),
        ("invalid key: unable to validate API key", Code.KEY_UNKNOWN),
        ("invalid authkey", Code.KEY_UNKNOWN),
        ("invalid key: API key kAbCdEf12345CNTRL not valid", Code.KEY_USED),
        ("invalid key: key already used", Code.KEY_USED),
        ("invalid key: key expired", Code.KEY_EXPIRED),
        ("invalid pre auth key", Code.KEY_UNKNOWN),
        ("AuthKey not found", Code.KEY_UNKNOWN),
        ("pre-auth key does not exist", Code.KEY_UNKNOWN),
        ("the preauthkey was revoked", Code.KEY_UNKNOWN),
        ("register request: http 401:", Code.KEY_UNKNOWN),
        ("register request: http 401: AuthKey not found", Code.KEY_UNKNOWN),
        ("register request: http 401: authkey expired", Code.KEY_EXPIRED),
        ("authkey expired", Code.KEY_EXPIRED),
        ("pre auth key is already used", Code.KEY_USED),
        ("requested tags [tag:x] are invalid or not permitted", Code.TAG_REFUSED),
        ("tailnet lock is enabled: node key must be signed", Code.TAILNET_LOCK),
        ("node registration rate limited; will retry after 5s", Code.RATE_LIMITED),
        ("register request: http 429: too many registrations", Code.RATE_LIMITED),
        ("tls: failed to verify certificate: x509: certificate has expired or is not yet valid", Code.CLOCK_WRONG),
        ("PollNetMap: initial fetch failed 404: node not found", Code.NODE_DELETED),
    ],
)
def test_texts_of_the_control_server(text: str, code: Code) -> None:
    """Each text that users quote has its code, in any case of letters."""
    assert classify(text) is code
    assert classify(text.upper()) is code


@pytest.mark.parametrize(
    "text",
    [
        "",
        'fetch control key: Get "http://127.0.0.1:1/key?v=145": dial tcp 127.0.0.1:1: connect: connection refused',
        "lookup control.example on 127.0.0.11:53: no such host",
        "lookup auth-key.example on 127.0.0.11:53: no such host",
        'fetch control key: Get "http://c/key?v=145": 404 not found',
        "register request: http 403: <html>blocked by the proxy</html>",
        "handling register with auth key: writing node to database: database is locked",
        'register request: Post "https://c/machine/register": context deadline exceeded',
        "x509: certificate is not valid for any names, but wanted to match control.example",
        "x509: certificate signed by unknown authority",
        "register request: http 500: boom",
        "IPN bus consumer fell behind",
        "EOF",
    ],
)
def test_trouble_is_no_verdict_on_a_key(text: str) -> None:
    """What the network or a certificate did says nothing about the key: it must not be thrown away for that."""
    assert classify(text) not in REJECTED


# --- with a key -------------------------------------------------------------------------------------------------------


def test_a_key_is_tried_once() -> None:
    """NeedsLogin and a key: one login, and nothing more while it is under way."""
    login, actions = play(facts(0.0), facts(0.1), facts(1.0))
    assert actions == [Action.LOG_IN, Action.NOTHING, Action.NOTHING]
    assert (login.attempt, login.deadline) == (KEY, 30.0)


def test_success_forgets_the_attempt() -> None:
    """As soon as the backend goes on there is nothing left of it."""
    for state in ("Starting", "Running"):
        login, actions = play(facts(0.0), facts(0.5, backend=Backend(state=state)))
        assert (login, actions[-1]) == (Login(), Action.NOTHING)


@pytest.mark.parametrize("state", [s for s in STATES if s != "NeedsLogin"] + [None])
def test_saved_state_never_meets_a_key(state: str | None) -> None:
    """Only `NeedsLogin` meets a key: a good node is not logged out by an expired one."""
    assert play(facts(backend=Backend(state=state, have_node_key=True), candidates=(KEY, MINT))) == (
        Login(),
        [Action.NOTHING],
    )


def test_nothing_without_permission() -> None:
    """`--no-login` and `logout`: keys at hand are not tried, nobody is asked."""
    assert play(facts(allowed=False, interactive=True))[1] == [Action.NOTHING]


def test_a_refused_key_is_given_up_once_and_never_tried_again() -> None:
    """The daemon is told to stop repeating it, once; more refusals, restarts of it and time change nothing."""
    later = [facts(at, error=REFUSED) for at in (1.1, 5.0)] + [facts(1e6)]
    login, actions = play(facts(0.0), facts(1.0, error=REFUSED), *later)
    assert actions == [Action.LOG_IN, Action.GIVE_UP, Action.NOTHING, Action.NOTHING, Action.NOTHING]
    assert login.refused == {"key-1": (Code.KEY_UNKNOWN, REFUSED)}


def test_another_key_is_tried_at_once() -> None:
    """A new key after a refused one needs no restart and no waiting."""
    both = facts(1.2, candidates=(KEY, OTHER))
    login, actions = play(facts(0.0), facts(1.0, error=REFUSED), both)
    assert (actions[-1], login.attempt) == (Action.LOG_IN, OTHER)


def test_what_was_refused_is_remembered_over_a_success() -> None:
    """A key that was refused stays refused after another one worked and the node was logged out."""
    login, actions = play(
        facts(0.0),
        facts(1.0, error=REFUSED),
        facts(2.0, candidates=(KEY, OTHER)),
        facts(3.0, backend=Backend(state="Running")),
        facts(4.0),
    )
    assert actions[-1] is Action.NOTHING
    assert "key-1" in login.refused


def test_no_answer_backs_off_and_tries_again() -> None:
    """A silent control server ends an attempt at its time; the next come after 5, 10, 20 s, never above 5 minutes."""
    login, at, begun = Login(), 0.0, []
    for _ in range(20_000):
        login, action = decide(login, facts(at))
        begun += [at] if action is Action.LOG_IN else []
        wake = next_attempt(login, facts(at))
        assert wake is not None
        at = max(at, wake)
        if len(begun) == 9:
            break
    waits = [later - earlier - 30.0 for earlier, later in pairwise(begun)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_an_accepted_key_is_not_used_again_while_the_network_map_is_late() -> None:
    """A slow control server: the login is not begun anew after its time, which would spend a one-off key twice."""
    login, actions = play(facts(0), facts(1, finished=True), facts(31), facts(200))
    assert (actions, login.attempt) == ([Action.LOG_IN, *[Action.NOTHING] * 3], KEY)
    assert decide(login, facts(400))[0].attempt is None


def test_another_key_does_not_wait_for_the_first_ones_back_off() -> None:
    """The wait belongs to the credential, not to the login."""
    login, actions = play(facts(0.0), facts(30.0), facts(31.0, candidates=(KEY, OTHER)))
    assert (actions, login.attempt) == ([Action.LOG_IN, Action.NOTHING, Action.LOG_IN], OTHER)


@pytest.mark.parametrize("end", [facts(30.0, candidates=(KEY, OTHER)), facts(30.0, candidates=(OTHER, KEY))])
def test_the_next_credential_follows_in_the_same_moment(end: Facts) -> None:
    """When one attempt is over the next one begins, before the first one's wait is over and it is tried again."""
    login, actions = play(facts(0.0), end)
    assert (actions[-1], login.attempt) == (Action.LOG_IN, OTHER)


def test_the_next_client_follows_when_minting_fails() -> None:
    """An OAuth client that is broken does not keep the API key from being used."""
    second = Candidate("mint-2", mints=True)
    both = facts(1.0, candidates=(MINT, second), minted=Minted(ok=False, text="no"))
    login, actions = play(mint_facts(0.0), both)
    assert (actions[-1], login.attempt) == (Action.MINT, second)


def test_a_refusal_after_the_time_is_up_still_counts() -> None:
    """The daemon goes on with the key by itself; when control is back and says no, that is a verdict on that key."""
    login, actions = play(facts(0.0), facts(30.0), facts(32.0, error=REFUSED), facts(100.0))
    assert actions == [Action.LOG_IN, Action.NOTHING, Action.GIVE_UP, Action.NOTHING]
    assert "key-1" in login.refused


def test_an_error_that_belongs_to_nobody_blames_nobody() -> None:
    """A refusal that comes while nothing was tried, such as a person's own `tailscale up`, refuses no key of ours."""
    login, actions = play(facts(0.0, error=REFUSED))
    assert (actions, login.refused) == ([Action.LOG_IN], {})


def test_trouble_does_not_end_an_attempt() -> None:
    """Rate limits and network errors are noted; the daemon tries on until the time is up."""
    login, actions = play(facts(0.0), facts(1.0, error="node registration rate limited; will retry after 5s"))
    assert (actions[-1], login.attempt) == (Action.NOTHING, KEY)
    assert login.trouble == (Code.RATE_LIMITED, "node registration rate limited; will retry after 5s", "")


@pytest.mark.parametrize("state", ["NeedsMachineAuth", "Stopped"])
def test_an_answer_that_only_a_person_goes_on_from_ends_the_attempt(state: str) -> None:
    """Approval and a stop by hand are waited for without a deadline, and respected."""
    login, actions = play(
        facts(0.0), facts(1.0, backend=Backend(state=state)), facts(99.0, backend=Backend(state=state))
    )
    assert (login.attempt, login.deadline, actions[1:]) == (None, None, [Action.NOTHING] * 2)


# --- by URL -----------------------------------------------------------------------------------------------------------


def test_a_person_is_asked_for_a_url() -> None:
    """Without a key on a terminal: the URL is asked for once, its arrival ends the attempt."""
    asked = facts(0.0, candidates=(), interactive=True)
    shown = facts(1.0, candidates=(), backend=Backend(state="NeedsLogin", auth_url="https://c/a/1"))
    login, actions = play(asked, msgspec.structs.replace(asked, at=0.5), shown)
    assert actions == [Action.ASK_URL, Action.NOTHING, Action.NOTHING]
    assert login.attempt is None


def test_a_key_comes_before_a_person() -> None:
    """With a key at hand nobody is asked."""
    assert play(facts(interactive=True))[1] == [Action.LOG_IN]


def test_a_url_that_is_there_is_not_asked_for_again() -> None:
    """A second `up` on a terminal shows the URL that waits already."""
    backend = Backend(state="NeedsLogin", auth_url="https://c/a/1")
    assert play(facts(candidates=(), interactive=True, backend=backend))[1] == [Action.NOTHING]


def test_a_url_that_never_comes_ends_at_its_time() -> None:
    """Control is silent: the attempt is over, and an error after it refuses nothing."""
    asked = facts(0.0, candidates=(), interactive=True)
    login, actions = play(asked, facts(30.0, candidates=()), facts(31.0, candidates=(), error=REFUSED))
    assert (login.attempt, login.refused, actions[1:]) == (None, {}, [Action.NOTHING] * 2)


def test_after_a_refused_key_a_person_can_be_asked() -> None:
    """A dead key in the configuration does not keep a person on a terminal from logging in."""
    login, actions = play(facts(0.0), facts(1.0, error=REFUSED), facts(2.0, interactive=True))
    assert (actions[-1], login.attempt) == (Action.ASK_URL, URL)


# --- by minting -------------------------------------------------------------------------------------------------------


def mint_facts(at: float = 0.0, **changes: object) -> Facts:
    """A backend that needs a login, with an OAuth client at hand."""
    return facts(at, candidates=(MINT,), **changes)


def test_a_key_is_minted_and_used() -> None:
    """First the API, then the login; the time of the login begins with the key."""
    login, actions = play(mint_facts(0.0), mint_facts(0.5), mint_facts(20.0, minted=Minted(ok=True)))
    assert actions == [Action.MINT, Action.NOTHING, Action.LOG_IN]
    assert (login.attempt, login.minting, login.deadline) == (MINT, False, 50.0)


def test_an_own_key_comes_before_a_minted_one() -> None:
    """Candidates are tried in their order; after a refusal the next one."""
    several = facts(0.0, candidates=(KEY, MINT))
    login, actions = play(
        several, msgspec.structs.replace(several, at=1.0, error=REFUSED), msgspec.structs.replace(several, at=2.0)
    )
    assert (actions, login.attempt) == ([Action.LOG_IN, Action.GIVE_UP, Action.MINT], MINT)


def test_minting_that_fails_is_tried_again_later() -> None:
    """After 5 s, or when the API wants; and the reason is kept for a person."""
    failed = Minted(ok=False, code=Code.RATE_LIMITED, text="slow down", wait=60.0)
    login, actions = play(mint_facts(0.0), mint_facts(1.0, minted=failed), mint_facts(60.9), mint_facts(61.0))
    assert actions == [Action.MINT, Action.NOTHING, Action.NOTHING, Action.MINT]
    login, _ = play(mint_facts(0.0), mint_facts(1.0, minted=failed))
    assert (login.trouble, next_attempt(login, mint_facts(2.0))) == ((Code.RATE_LIMITED, "slow down", ""), 61.0)


def test_a_minted_key_that_is_refused_makes_minting_wait() -> None:
    """The client is not thrown away for one bad key; the daemon is told to stop repeating it."""
    login, actions = play(
        mint_facts(0.0),
        mint_facts(1.0, minted=Minted(ok=True)),
        mint_facts(2.0, error="requested tags [tag:x] are invalid or not permitted"),
        mint_facts(2.1),
        mint_facts(7.1),
    )
    assert actions == [Action.MINT, Action.LOG_IN, Action.GIVE_UP, Action.NOTHING, Action.MINT]
    assert login.refused == {}


def test_an_error_while_the_key_is_being_bought_blames_nobody() -> None:
    """The daemon has no key of ours yet: what the bus says is about something else."""
    login, actions = play(mint_facts(0.0), mint_facts(0.5, error=REFUSED))
    assert (actions[-1], login.minting, login.held) == (Action.NOTHING, True, {})


def test_what_the_api_says_to_do_is_said() -> None:
    """A minting that failed tells the API's reason, and the step that it knows."""
    failed = Minted(ok=False, code=Code.KEY_UNKNOWN, text="the client is unknown", next="make another client")
    said = told(mint_facts(0.0), mint_facts(1.0, minted=failed), now=mint_facts(2.0))
    assert said == Said(
        Code.KEY_UNKNOWN,
        "no key could be minted (the client is unknown); tried again by itself",
        "make another client",
    )


def test_the_echo_of_a_refusal_is_not_the_verdict_on_the_next_key() -> None:
    """The daemon repeats a refused login when the next key is under way already; the same words later count."""
    begun = [facts(0.0), facts(1.0, error=REFUSED), facts(1.1, candidates=(KEY, OTHER))]
    login, actions = play(*begun, facts(1.2, candidates=(KEY, OTHER), error=REFUSED))
    assert (actions[-1], login.attempt) == (Action.NOTHING, OTHER)
    login, actions = play(*begun, facts(3.0, candidates=(KEY, OTHER), error=REFUSED))
    assert (actions[-1], set(login.refused)) == (Action.GIVE_UP, {"key-1", "key-2"})


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ({"expiring": True}, {"expiring": False}),
        ({"deleted": True}, {"backend": Backend(state="Running", ips=("100.64.0.1",), online=True)}),
    ],
)
def test_a_renewal_ends_also_without_the_daemons_word(start: dict[str, object], end: dict[str, object]) -> None:
    """The bus may lose `LoginFinished`: a new expiry, or being online again, says the same."""
    running = mint_facts(0.0, backend=Backend(state="Running", ips=("100.64.0.1",)))
    replace = msgspec.structs.replace
    minted = replace(running, at=1.0, minted=Minted(ok=True), expiring=bool(start.get("expiring")))
    login, actions = play(replace(running, **start), minted, replace(running, at=2.0, **end))
    assert actions == [Action.MINT, Action.LOG_IN, Action.NOTHING]
    assert login == Login()


def test_an_expiring_node_key_is_renewed_while_a_key_can_be_minted() -> None:
    """Before the node key ends the node logs in again by itself, with a minted key only; it runs meanwhile."""
    running = Backend(state="Running", ips=("100.64.0.1",))
    renewing = facts(0.0, backend=running, candidates=(KEY, MINT), expiring=True)
    login, actions = play(renewing)
    assert (actions, login.attempt, login.renew) == ([Action.MINT], MINT, Code.NODE_KEY_EXPIRED)
    static = msgspec.structs.replace(renewing, candidates=(KEY,))
    assert play(static)[1] == [Action.NOTHING]


def test_a_renewal_ends_with_the_daemons_word() -> None:
    """`LoginFinished` ends it; until then `Running` says nothing, because it ran all the time."""
    running = Backend(state="Running", ips=("100.64.0.1",))
    renewing = facts(0.0, backend=running, candidates=(MINT,), expiring=True)
    minted = msgspec.structs.replace(renewing, at=1.0, minted=Minted(ok=True))
    finished = msgspec.structs.replace(renewing, at=2.0, finished=True, expiring=False)
    login, actions = play(renewing, minted, msgspec.structs.replace(renewing, at=1.5), finished)
    assert actions == [Action.MINT, Action.LOG_IN, Action.NOTHING, Action.NOTHING]
    assert login == Login()


def test_a_deleted_node_logs_in_anew() -> None:
    """Control does not know the node any more, the backend still says `Running`: a key makes a new node."""
    running = Backend(state="Running", ips=("100.64.0.1",))
    login, actions = play(facts(0.0, backend=running, deleted=True))
    assert (actions, login.attempt, login.renew) == ([Action.LOG_IN], KEY, Code.NODE_DELETED)


# --- when to look again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "now", "wake"),
    [
        ([], facts(0.0), None),
        ([facts(0.0)], facts(1.0), 30.0),
        ([mint_facts(0.0)], mint_facts(1.0), None),
        ([facts(0.0), facts(30.0)], facts(31.0), 35.0),
        ([facts(0.0), facts(30.0)], facts(31.0, allowed=False), None),
        ([facts(0.0), facts(30.0)], facts(31.0, candidates=()), None),
        ([facts(0.0), facts(30.0)], facts(31.0, backend=Backend(state="Stopped")), None),
    ],
)
def test_when_to_decide_again(history: list[Facts], now: Facts, wake: float | None) -> None:
    """A deadline or the end of a wait; nothing where only news can change something."""
    assert next_attempt(play(*history)[0], now) == wake


# --- random histories -------------------------------------------------------------------------------------------------

ERRORS = [None, REFUSED, "requested tags are invalid", "connection refused", "node registration rate limited"]
any_facts = st.builds(
    Facts,
    at=st.just(0.0),
    backend=st.builds(
        Backend, state=st.sampled_from([*STATES, None]), auth_url=st.sampled_from([None, None, "https://c/a/1"])
    ),
    candidates=st.sampled_from([(), (KEY,), (KEY, OTHER), (MINT,), (KEY, MINT)]),
    allowed=st.booleans(),
    interactive=st.booleans(),
    error=st.sampled_from(ERRORS),
    finished=st.booleans(),
    minted=st.sampled_from([None, None, Minted(ok=True), Minted(ok=False, text="no")]),
    deleted=st.sampled_from([False, False, False, True]),
    expiring=st.booleans(),
)
histories = st.lists(st.tuples(any_facts, st.floats(0.0, 100.0)), max_size=30)


def check_step(before: Login, now: Facts, after: Login, action: Action) -> None:
    """The rules of one decision."""
    state = now.backend.state
    begun = action in {Action.LOG_IN, Action.MINT, Action.ASK_URL} and not before.minting
    if begun:
        renewing = after.renew is not None and state in {"Running", "Starting"}
        assert now.allowed, "begun without permission"
        assert state == "NeedsLogin" or renewing, "a good node met a key"
        over = before.attempt in {None, URL} or str(before.attempt and before.attempt.fingerprint) in after.held
        assert over, "two at once"
    if action is Action.LOG_IN:
        assert after.attempt is not None
        assert after.attempt.fingerprint not in before.refused, "a refused key again"
        assert not after.attempt.mints or (before.minting and now.minted == Minted(ok=True)), "a key nobody bought"
    if action is Action.MINT:
        assert after.attempt is not None
        assert after.attempt.mints, "minting without a client"
        assert after.minting
    if action is Action.GIVE_UP:
        assert classify(now.error or "") in REJECTED, "given up for nothing"
        assert before.attempt or before.last, "given up what was not begun"
        assert (after.attempt, after.last) == (None, None), "given up and still there"
    assert before.refused.items() <= after.refused.items(), "a refusal was forgotten"
    assert not any(name.startswith("mint") for name in after.refused), "a client was thrown away"


@settings(max_examples=300, deadline=None)
@given(histories)
def test_what_must_never_happen(history: list[tuple[Facts, float]]) -> None:
    """No history has a refused key twice, a login of a good node, two attempts at once, or a refusal forgotten."""
    login, at = Login(), 0.0
    for one, pause in history:
        at += pause
        now = msgspec.structs.replace(one, at=at)
        after, action = decide(login, now)
        check_step(login, now, after, action)
        login = after


@settings(max_examples=300, deadline=None)
@given(histories, any_facts)
def test_the_same_facts_again_ask_for_nothing(history: list[tuple[Facts, float]], last: Facts) -> None:
    """Without news a second look changes nothing: the session may look as often as it likes."""
    login, at = Login(), 0.0
    for one, pause in history:
        at += pause
        login, _ = decide(login, msgspec.structs.replace(one, at=at))
    quiet = msgspec.structs.replace(
        last, at=at, error=None, finished=False, minted=None, deleted=False, interactive=False
    )
    once, _ = decide(login, quiet)
    settled, _ = decide(once, quiet)
    assert decide(settled, quiet) == (settled, Action.NOTHING)


@settings(max_examples=200, deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_what_must_happen_in_the_end(history: list[tuple[Facts, float]], luck: random.Random) -> None:
    """From any point, with a good key that nobody refused and a control server that answers, the node gets in."""
    login, at = Login(), 0.0
    for one, pause in history:
        at += pause
        login, _ = decide(login, msgspec.structs.replace(one, at=at))
    good = Candidate("good", mints=luck.random() < 0.5)
    quiet = Facts(at=at, backend=NEEDS, candidates=(good,))
    end = at + 400.0
    news: dict[str, object] = {"minted": Minted(ok=False, text="late")} if login.minting else {}
    while at <= end:
        login, action = decide(login, msgspec.structs.replace(quiet, at=at, **news))
        news = {}
        if action is Action.LOG_IN and login.attempt == good:
            return
        if action is Action.MINT:
            news = {"minted": Minted(ok=True)}
            at += 0.5
        else:
            wake = next_attempt(login, msgspec.structs.replace(quiet, at=at))
            assert wake is not None or action is not Action.NOTHING, f"nothing will ever happen again: {login}"
            at = max(at, wake or at)
    raise AssertionError(f"not logged in within 400 s: {login}")


# --- what a person is told --------------------------------------------------------------------------------------------

NO_HINT, TAZPOD = Sources(), Sources(hint="tazpod unlock", tags=("tag:tazpod",))


def told(*history: Facts, now: Facts, sources: Sources = NO_HINT, logged_out: bool = False) -> Said:
    """The sentence after a history."""
    return say(play(*history)[0], now, sources, logged_out=logged_out)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("Running", Said(Code.OK, "ok")),
        ("Starting", Said(Code.LOGGING_IN, "connecting to the tailnet")),
        (
            "NeedsMachineAuth",
            Said(Code.NEEDS_APPROVAL, "waiting for approval of this machine", "approve it in the admin console"),
        ),
        ("Stopped", Said(Code.STOPPED, "stopped by 'tailscale down'", "tazpod-net tailscale up")),
        ("NoState", Said(None, None)),
        ("InUseOtherUser", Said(None, None)),
        (None, Said(None, None)),
    ],
)
def test_sentences_of_the_states(state: str | None, said: Said) -> None:
    """Each state of the backend has its sentence, whatever keys there are."""
    assert told(now=facts(backend=Backend(state=state))) == said


def test_no_credentials() -> None:
    """Who must do what: the configured hint if there is one, else our own words."""
    empty = facts(candidates=())
    assert told(now=empty, sources=TAZPOD) == Said(
        Code.NO_CREDENTIALS,
        "waiting for credentials",
        "tazpod unlock (login follows by itself), or: tazpod-net login",
    )
    assert told(now=empty) == Said(
        Code.NO_CREDENTIALS,
        "waiting for credentials",
        "set TS_AUTHKEY or login.auth_key_file, then: tazpod-net up; or: tazpod-net login",
    )


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        ("invalid key: key expired", Code.KEY_EXPIRED, "the auth key is expired"),
        ("invalid key: key already used", Code.KEY_USED, "the auth key was for one use and is used up"),
        (REFUSED, Code.KEY_UNKNOWN, "the control server does not know the auth key"),
        (
            "requested tags [tag:x] are invalid or not permitted",
            Code.TAG_REFUSED,
            "the tags are invalid or not permitted for this key",
        ),
        ("tailnet lock: sign it", Code.TAILNET_LOCK, "tailnet lock: this node must be signed first"),
    ],
)
def test_a_rejected_key_is_one_plain_sentence(error: str, code: Code, text: str) -> None:
    """The verdict in our words, control's own in brackets, and the next step."""
    history = (facts(0.0), facts(1.0, error=error))
    said = told(*history, now=facts(2.0))
    assert said == Said(
        code,
        f"key rejected: {text} ({error})",
        "make a new key, then: tazpod-net login --auth-key-file F",
    )
    hinted = told(*history, now=facts(2.0), sources=TAZPOD)
    assert hinted.next == "tazpod unlock, or give another key: tazpod-net login --auth-key-file F"


def test_a_long_rejection_is_cut() -> None:
    """Whatever control says, the sentence stays one short line."""
    said = told(facts(0.0), facts(1.0, error="invalid key:\n" + "x" * 500), now=facts(2.0))
    assert said.text is not None
    assert len(said.text) < 200
    assert "\n" not in said.text


RUNNING = Backend(state="Running")
OTHER_CODES: dict[Code, list[Facts]] = {
    Code.LOGGING_IN: [facts(0.0), facts(1.0)],
    Code.MINTING: [mint_facts(0.0), mint_facts(1.0)],
    Code.NODE_KEY_EXPIRED: [facts(candidates=(), backend=Backend(state="NeedsLogin", expired=True))],
    Code.LOGIN_URL: [facts(candidates=(), backend=Backend(state="NeedsLogin", auth_url="https://c/a/1"))],
    Code.RATE_LIMITED: [facts(0.0), facts(1.0, error="http 429: too many requests"), facts(2.0)],
    Code.CLOCK_WRONG: [facts(0.0), facts(1.0, error="x509: certificate has expired"), facts(2.0)],
    Code.NODE_DELETED: [
        facts(0.0, deleted=True, candidates=(), backend=RUNNING),
        facts(1.0, candidates=(), backend=RUNNING),
    ],
}


@pytest.mark.parametrize("code", OTHER_CODES)
def test_every_other_code(code: Code) -> None:
    """Each code of the contract is said when it is so, in words."""
    *history, now = OTHER_CODES[code]
    said = told(*history, now=now)
    assert said.code is code
    assert said.text


def test_every_code_is_said_somewhere() -> None:
    """No code of the contract's list is only a name: the tests above say each of them."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [code.name for code in Code if f"Code.{code.name}" not in source] == []


def test_no_login_is_told_as_such() -> None:
    """With a key at hand and no permission nobody is sent to look for credentials."""
    said = told(now=facts(allowed=False))
    assert said == Said(Code.NO_CREDENTIALS, "waiting for a login, as told by --no-login", "tazpod-net login")


def test_of_several_refused_keys_the_first_is_told() -> None:
    """The one that the configuration prefers is the one to put right."""
    both = facts(2.0, candidates=(KEY, OTHER))
    tags = msgspec.structs.replace(both, at=9.0, error="requested tags [tag:x] are invalid or not permitted")
    said = told(facts(0.0), facts(1.0, error=REFUSED), both, tags, now=msgspec.structs.replace(both, at=10.0))
    assert said.code is Code.KEY_UNKNOWN


def test_logged_out_sticks() -> None:
    """After `logout` a key at hand changes nothing, and the sentence says how to come back."""
    now = facts(1.0, allowed=False)
    assert play(now)[1] == [Action.NOTHING]
    assert told(now=now, logged_out=True) == Said(Code.LOGGED_OUT, "logged out", "tazpod-net login")
    waiting = facts(1.0, allowed=False, backend=Backend(state="NeedsLogin", auth_url="https://c/a/1"), candidates=())
    assert told(now=waiting, logged_out=True).code is Code.LOGGED_OUT


def test_the_url_is_shown() -> None:
    """The address to open is the next step, also when a person began it with `tailscale up`."""
    backend = Backend(state="NeedsLogin", auth_url="https://c/a/1")
    assert told(now=facts(candidates=(), backend=backend)).next == "open https://c/a/1"


def test_minting_names_the_tags() -> None:
    """What is being bought is said."""
    assert told(mint_facts(0.0), now=mint_facts(1.0), sources=TAZPOD).text == "minting an auth key (tag:tazpod)"


def test_trouble_is_told_and_that_it_goes_on() -> None:
    """After an attempt that failed: what control said last, and that nobody has to do anything."""
    error = "node registration rate limited; will retry after 5s"
    said = told(facts(0.0), facts(1.0, error=error), facts(30.0), now=facts(31.0))
    assert said == Said(Code.RATE_LIMITED, f"rate limited ({error}); tried again by itself")


def test_a_silent_control_server_is_told() -> None:
    """After a time-out without any word the sentence says who is silent."""
    said = told(facts(0.0), facts(30.0), now=facts(31.0))
    assert said == Said(Code.LOGGING_IN, "logging in; the control server has not answered yet")
