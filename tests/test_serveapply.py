"""serve.config on real daemons: set, seen by `tailscale serve status`, and answering over the tailnet."""

import asyncio
import http
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tazpod_net.adapters.localapi import LocalApi, LocalApiError
from tazpod_net.core.backend import Backend, fold_snapshot
from tazpod_net.serveapply import LARGEST, ServeApplier
from tests.support.eventually import eventually
from tests.support.lab import Binaries, Control, Node
from tests.support.netns import Place

NULL = b"null"


class CountingApi(LocalApi):
    """The real one; remembers what was set."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.sets: list[Any] = []

    async def set_serve_config(self, body: bytes, etag: str) -> bool:
        """As the real one."""
        self.sets.append(msgspec.json.decode(body))
        return await super().set_serve_config(body, etag)


class Served:
    """A node with a file of its own, and what was said about it."""

    def __init__(self, node: Node, path: Path) -> None:
        self.node = node
        self.path = path
        self.api = CountingApi(str(node.socket))
        self.said: list[str | None] = []
        self.applier = self.restart()

    def restart(self) -> ServeApplier:
        """A new supervisor: nothing is remembered."""
        self.applier = ServeApplier(self.api, str(self.path), self.said.append)
        return self.applier

    def write(self, config: object) -> None:
        """Puts this into the file, text as it is."""
        self.path.write_text(config if isinstance(config, str) else json.dumps(config))

    def apply(self) -> None:
        """As the supervisor does, with the daemon's present certificate domain."""

        async def once() -> None:
            backend = fold_snapshot(Backend(), await self.api.snapshot())
            await self.applier.apply(next(iter(backend.cert_domains), None))

        asyncio.run(once())

    def present(self) -> dict[str, Any]:
        """What `tailscale` says that is served."""
        shown: dict[str, Any] = json.loads(self.node.cli("serve", "status", "--json"))
        return shown

    def pref(self, name: str) -> object:
        """One of the daemon's prefs."""
        return asyncio.run(self.api.prefs())[name]


@pytest.fixture
def node(control: Control, ns: Place, lab: Binaries) -> Iterator[Node]:
    """A node that is logged in."""
    with Node(control, place=ns, programs=lab, hostname="server") as one:
        yield one.up()


@pytest.fixture
def served(node: Node, tmp_path: Path) -> Served:
    """That node with a path to a file that does not exist yet."""
    return Served(node, tmp_path / "serve.json")


def web(port: int, name: str = "${TS_CERT_DOMAIN}") -> dict[str, Any]:
    """A web server of this machine on port 80 of the tailnet."""
    handlers = {"/": {"Proxy": f"http://127.0.0.1:{port}"}}
    return {"TCP": {"80": {"HTTP": True}}, "Web": {f"{name}:80": {"Handlers": handlers}}}


def forward(port: int) -> dict[str, Any]:
    """The same as plain TCP."""
    return {"TCP": {"80": {"TCPForward": f"127.0.0.1:{port}"}}}


def test_web_server_is_reached_over_the_tailnet(
    control: Control, served: Served, ns: Place, lab: Binaries
) -> None:
    """The file is applied with the node's own name, and a second node gets the page; equal is not set again."""
    control.set(magic_dns=True)
    eventually(lambda: served.node.status()["CertDomains"])
    served.write(web(served.node.serve("a page\n")))
    served.apply()
    handlers = served.present()["Web"]["server.example.ts.net:80"]["Handlers"]
    assert handlers == {"/": {"Proxy": web(0)["Web"]["${TS_CERT_DOMAIN}:80"]["Handlers"]["/"]["Proxy"][:-1] + _port(handlers)}}
    with Node(control, place=ns, programs=lab, hostname="reader") as reader:
        reader.up()
        assert eventually(lambda: reader.fetch("http://server.example.ts.net/")) == "a page\n"
    served.apply()
    served.restart()
    served.apply()
    assert len(served.api.sets) == 1
    assert served.said == []
