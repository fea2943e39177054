"""What a supervisor says by itself: a line for each change that matters, and the same line never twice in a row."""

import pytest

from tazpod_net.core.announce import announcement
from tazpod_net.core.status import BackendPart, DaemonPart, Note, Status, SupervisorPart


def status(state: str = "up", *, summary: str = "", ready: bool = False, **more: object) -> Status:
    """A status of which only these things matter."""
    supervisor = SupervisorPart(state=state)
    given = {"checked_at": "", "supervisor": supervisor, "summary": summary, "live": True, "ready": ready, **more}
    return Status(**given)  # type: ignore[arg-type]


def test_ready_without_the_age() -> None:
    """Which would make every line a new one."""
    daemon = DaemonPart(mode="userspace", mode_reason="no device")
    one, two = (
        announcement(status(summary=f"ready: on x as y (1), for {age} s", ready=True, online=True, daemon=daemon))
        for age in (1, 2)
    )
    assert one == two
    assert one is not None
    assert one[1] == "ready: on x as y (1): no device"


@pytest.mark.parametrize("state", ["starting", "stopping", "down"])
def test_what_passes_by_is_not_said(state: str) -> None:
    """Nobody can do anything with it."""
    assert announcement(status(state)) is None


def test_what_a_person_must_do_is_said_with_the_way_out() -> None:
    """As `up` says it."""
    backend = BackendPart(state="NeedsLogin", login="waiting", login_code="no-credentials", login_next="tazpod unlock")
    found = announcement(status(summary="waiting: …", backend=backend))
    assert found is not None
    assert found[1] == "waiting: tazpod unlock"


def test_fatal() -> None:
    """What time cannot cure."""
    notes = [Note("because", "no binary"), Note("fatal", "…", "install it")]
    found = announcement(status("fatal", summary="fatal: …", notes=notes))
    assert found is not None
    assert found[1] == "tailnet did not start: no binary: install it"


def test_backoff_is_said_once() -> None:
    """Its summary counts seconds; the state is what makes it new."""
    one, two = (announcement(status("backoff", summary=f"backing off, next start in {n} s")) for n in (3, 2))
    assert one is not None
    assert two is not None
    assert one[0] == two[0]
