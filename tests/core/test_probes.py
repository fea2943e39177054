"""The answers of the probes, state by state."""

import msgspec
import pytest

from tazpod_net.core import probes
from tazpod_net.core.backend import Backend
from tazpod_net.core.login import Code, Said
from tazpod_net.core.model import Machine, State
from tazpod_net.core.report import build
from tazpod_net.core.status import BackendPart, Note, Status
from tests.support.fakes import READY, known

ASKING = Said(Code.LOGIN_URL, "waiting for a person to log in", "open https://login.example/a/SECRET")
BACKOFF = Machine(
    state=State.BACKOFF,
    want_up=True,
    failures=2,
    died=True,
    reason="code 1 after 0.4 s: the disk is full",
    deadline=20_010.0,
)


def answers(status: Status) -> dict[str, bool]:
    """All three."""
    return {path: probes.answer(path, status)[0] for path in probes.PATHS}


@pytest.mark.parametrize(
    ("status", "yes"),
    [
        (build(known()), {"/livez", "/readyz", "/healthz"}),
        (build(known(backend=msgspec.structs.replace(READY, online=False))), {"/livez", "/readyz", "/healthz"}),
        (build(known(backend=Backend(state="NeedsLogin"), said=ASKING)), {"/livez"}),
        # containerboot's meaning: only the addresses count
        (build(known(backend=msgspec.structs.replace(READY, state="NeedsMachineAuth"))), {"/livez", "/healthz"}),
        (build(known(backend=msgspec.structs.replace(READY, ips=()))), {"/livez"}),
        (build(known(live=False)), set()),
        (build(known(machine=BACKOFF, live=False)), set()),
        (build(known(machine=Machine(state=State.STOPPING, pid=1), live=True)), set()),
        (Status(checked_at=""), set()),
    ],
)
def test_who_says_yes(status: Status, yes: set[str]) -> None:
    """Each probe has its own meaning; a lost control server takes none of them away."""
    assert {path for path, holds in answers(status).items() if holds} == yes


def test_a_yes_is_ok() -> None:
    """Short, and as containerboot says it."""
    assert [probes.answer(path, build(known()))[1] for path in probes.PATHS] == ["ok"] * 3


def test_a_no_has_its_reason() -> None:
    """The first line of `status`, or what is behind a back-off."""
    status = build(known(machine=BACKOFF, live=False))
    assert probes.answer("/readyz", status) == (
        False,
        "not ready: tailscaled exited 2 times (code 1 after 0.4 s)",
    )
    waiting = build(known(backend=Backend(state="NeedsLogin"), said=ASKING))
    assert probes.answer("/readyz", waiting)[1].startswith("not ready: waiting for a person to log in")
    assert probes.answer("/healthz", waiting)[1].startswith("node currently has no tailscale IPs: ")


@pytest.mark.parametrize(
    "said",
    [
        "open https://login.example/a/SECRET now",
        "the file ~/secrets/SECRET is missing",
        "cannot read /home/me/SECRET: permission denied",
        "see ./SECRET, and more",
        "cannot write\n/SECRET\r\nX-Injected: 1",
    ],
)
def test_strangers_learn_no_url_and_no_path(said: str) -> None:
    """Whatever a sentence holds; and it stays one line."""
    status = Status(checked_at="", summary=said, backend=BackendPart(login=said), notes=[Note("because", said)])
    for path in probes.PATHS:
        holds, text = probes.answer(path, status)
        assert not holds
        assert "SECRET" not in text
        assert text.isprintable()


def test_ordinary_words_stay() -> None:
    """A slash inside a word or a number is no path."""
    status = Status(checked_at="", summary="not answering: 5/7 peers and/or relays (DERP)")
    assert probes.answer("/livez", status)[1] == "not live: not answering: 5/7 peers and/or relays (DERP)"
