"""Fixtures of all tests: a clean environment, nothing left behind, and the lab.

Must not know any test; what a fixture hands out is defined under tests/support.
"""

import importlib.util
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import leaks
from tests.support.lab import Binaries, Control, Mode, binaries, lab_environment
from tests.support.netns import HERE, Namespace, Place, namespace_refusal, tun_refusal

LAB_FIXTURES = {"lab", "control", "lab_env"}

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Where the installed package is to be tested, the tree must not be found first.

    A runner in the background of a shell ignores SIGINT and SIGQUIT, and so would all that the tests start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    found = importlib.util.find_spec("tazpod_net")
    checkout = Path(__file__).resolve().parents[1]
    is_tree = found is None or Path(found.origin or "").is_relative_to(checkout)
    if os.environ.get("TAZPOD_TEST_INSTALLED") and is_tree:
        pytest.exit(f"the installed tazpod_net is to be tested, not {found and found.origin}", returncode=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses the lab, and skips what needs root where there is none."""
    for item in items:
        if LAB_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("lab")
        if item.get_closest_marker("root") and (refusal := namespace_refusal()):
            item.add_marker(pytest.mark.skip(reason=refusal))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the developer's shell reaches a test; no process or descriptor of a test outlives it."""
    for name in os.environ:
        if name.startswith(("TAZPOD_NET_", "TS_", "XDG_")) or name in {"PORT", "NOTIFY_SOCKET", "NO_COLOR"}:
            monkeypatch.delenv(name)
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    marker = uuid.uuid4().hex
    monkeypatch.setenv(leaks.MARKER, marker)
    before = leaks.descriptors()
    yield
    left = leaks.end_marked(marker)
    assert left == {}, "processes outlived their test and were killed"
    assert leaks.leaked_descriptors(before) == {}, "file descriptors outlived their test"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a short name: unix socket paths end at 107 bytes, and tmp_path is long."""
    directory = Path(tempfile.mkdtemp(prefix="tz-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def lab() -> Binaries:
    """The lab's programs, built if need be."""
    if os.environ.get("TAZPOD_LAB") == "off":
        pytest.skip("TAZPOD_LAB=off")
    return binaries()


@pytest.fixture
def ns() -> Iterator[Place]:
    """A private place for daemons; without root the machine itself, where only userspace mode is possible."""
    if namespace_refusal():
        yield HERE
        return
    with Namespace() as place:
        yield place


@pytest.fixture(params=["userspace", "tun"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Both ways to run a daemon; `tun` is skipped where it cannot be had."""
    if request.param == "tun" and (refusal := tun_refusal()):
        pytest.skip(refusal)
    chosen: Mode = request.param
    return chosen


@pytest.fixture
def control(lab: Binaries, ns: Place) -> Iterator[Control]:
    """A fresh control server inside `ns`."""
    with Control(place=ns, labcontrol=lab.labcontrol) as server:
        yield server


@pytest.fixture
def lab_env(control: Control, scratch: Path) -> dict[str, str]:
    """What a daemon under test needs in its environment beside the test's own."""
    return lab_environment(control.url, scratch)
