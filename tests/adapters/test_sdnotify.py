"""What a service manager hears: a real datagram socket, a virtual clock."""

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tazpod_net.adapters.sdnotify import ServiceManager
from tests.support import jumploop

PID = 412


class Hearing:
    """A manager's socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)

    def heard(self) -> list[str]:
        """Every datagram since the last look."""
        texts = []
        while True:
            try:
                texts.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return texts


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Hearing]:
    """Both kinds of address."""
    name = str(scratch / "notify") if request.param == "path" else f"@tazpod-test-{os.getpid()}-{scratch.name}"
    hearing = Hearing(name)
    yield hearing
    hearing.socket.close()


def test_a_life(manager: Hearing) -> None:
    """Ready with our pid, each status once and in one line, stop with the time it may take."""

    async def main() -> list[str]:
        us = ServiceManager({"NOTIFY_SOCKET": manager.name}, PID)
        us.ready(asyncio.get_running_loop())
        us.status("starting: tailscaled")
        us.status("starting: tailscaled")
        us.status("ready:\non example.ts.net")
        us.stopping(40.0)
        us.close()
        return manager.heard()

    assert jumploop.run(main()) == [
        f"READY=1\nMAINPID={PID}",
        "STATUS=starting: tailscaled",
        "STATUS=ready: on example.ts.net",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000",
    ]


def test_a_reload(manager: Hearing) -> None:
    """Its beginning with the clock that the manager compares, and its end."""
    us = ServiceManager({"NOTIFY_SOCKET": manager.name}, PID)
    with us.reloading():
        [began] = manager.heard()
    us.close()
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[1-9]\d*", began)
    assert manager.heard() == ["READY=1"]


def test_a_reload_that_fails_ends_too(manager: Hearing) -> None:
    """READY=1 follows whatever happens, or the manager would wait for it."""
    us = ServiceManager({"NOTIFY_SOCKET": manager.name}, PID)
    with pytest.raises(ValueError, match="no"), us.reloading():
        raise ValueError("no")
    us.close()
    assert manager.heard()[-1] == "READY=1"


@pytest.mark.parametrize("meant", [None, str(PID)])
def test_the_watchdog_hears_twice_in_its_period(manager: Hearing, meant: str | None) -> None:
    """At half of WATCHDOG_USEC, from the loop, until it is closed."""

    async def main() -> list[str]:
        variables = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000"}
        us = ServiceManager(variables | ({"WATCHDOG_PID": meant} if meant else {}), PID)
        us.ready(asyncio.get_running_loop())
        manager.heard()
        await asyncio.sleep(9.1)
        us.close()
        await asyncio.sleep(9)
        return manager.heard()

    assert jumploop.run(main()) == ["WATCHDOG=1"] * 6


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "²"},
    ],
    ids=str,
)
def test_no_beat_that_is_not_ours(manager: Hearing, variables: dict[str, str]) -> None:
    """A watchdog of another process, or none that can be read, makes no timer."""

    async def main() -> list[str]:
        us = ServiceManager({"NOTIFY_SOCKET": manager.name, **variables}, PID)
        us.ready(asyncio.get_running_loop())
        manager.heard()
        await asyncio.sleep(100)
        us.close()
        return manager.heard()

    assert jumploop.run(main()) == []


@pytest.mark.parametrize("pid", [1, None])
def test_who_is_not_the_main_process_does_not_say_so(manager: Hearing, pid: int | None) -> None:
    """1 is a container's own number and means the manager itself outside; an entrypoint's supervisor is a child."""

    async def main() -> list[str]:
        us = ServiceManager({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "10", "WATCHDOG_PID": "99"}, pid)
        us.ready(asyncio.get_running_loop())
        us.close()
        return manager.heard()

    assert jumploop.run(main()) == ["READY=1"]


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234", "/no/such/directory/notify", "@nobody-here"])
def test_nobody_there(address: str | None) -> None:
    """Without a manager, or with one that cannot be reached, everything is silent and nothing fails."""

    async def main() -> None:
        us = ServiceManager({"NOTIFY_SOCKET": address} if address is not None else {}, PID)
        us.ready(asyncio.get_running_loop())
        us.status("ready")
        with us.reloading():
            pass
        us.stopping(1.0)
        us.close()

    jumploop.run(main())


def test_a_manager_that_does_not_read_never_blocks_us(manager: Hearing) -> None:
    """A full queue loses words, not time."""
    us = ServiceManager({"NOTIFY_SOCKET": manager.name}, PID)
    for number in range(5000):
        us.status(f"status {number}")
    us.close()
    assert manager.heard()[0] == "STATUS=status 0"
