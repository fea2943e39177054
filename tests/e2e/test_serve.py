"""`serve.config`: what a file says is served, after restarts and changes too."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control, Node
from tests.support.product import Product


def web(text: str, host: str = "${TS_CERT_DOMAIN}") -> dict[str, Any]:
    """A config that answers with a text on port 80."""
    return {"TCP": {"80": {"HTTP": True}}, "Web": {f"{host}:80": {"Handlers": {"/": {"Text": text}}}}}


def forward(port: int) -> dict[str, Any]:
    """A config that forwards a TCP port of the tailnet to 127.0.0.1:9."""
    return {"TCP": {str(port): {"TCPForward": "127.0.0.1:9"}}}


def served(product: Product) -> dict[str, Any]:
    """What the daemon serves."""
    return dict(json.loads(product.run("tailscale", "serve", "status", "--json", expect=0).out))


def ports(product: Product) -> list[str]:
    """Ports of the tailnet that something is served on."""
    return sorted(served(product).get("TCP") or {})


@pytest.fixture
def serving(make: Make) -> Product:
    """A home whose serve config is `~/serve.json`; the file is not there yet."""
    product = make()
    product.env["TS_SERVE_CONFIG"] = str(product.user / "serve.json")
    return product


@pytest.fixture
def file(serving: Product) -> Path:
    """That file, with one port."""
    path = serving.user / "serve.json"
    path.write_text(json.dumps(forward(8080)))
    return path


def complaint(product: Product) -> str:
    """What `status` says about the serve config; empty if nothing."""
    return " ".join(note["text"] for note in product.status()["notes"] if note["code"] == "serve")


class TestApplied:
    """When it is ready, and again."""

    def test_a_peer_gets_what_is_served(self, serving: Product, control: Control, peer: Node) -> None:
        """`${TS_CERT_DOMAIN}` is the node's name; another node reads the text."""
        control.set(magic_dns=True)
        (serving.user / "serve.json").write_text(json.dumps(web("hello by serve")))
        serving.up("--wait", "online")
        name = serving.status()["backend"]["dns_name"].rstrip(".")
        eventually(lambda: f"{name}:80" in served(serving).get("Web", {}))
        eventually(lambda: peer.fetch(f"http://{name}/") == "hello by serve", within=40)

    def test_after_the_death_of_the_daemon(self, serving: Product, file: Path) -> None:
        """A daemon that has forgotten it (its serve config was reset) serves it again after kill -9."""
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        serving.run("tailscale", "serve", "reset", expect=0)
        assert ports(serving) == []
        pid = serving.kill_daemon()
        serving.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        eventually(lambda: ports(serving) == ["8080"])

    def test_by_the_next_supervisor(self, serving: Product, file: Path) -> None:
        """After `down` and `up`, and after everything was killed."""
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        serving.down()
        file.write_text(json.dumps(forward(8081)))
        serving.up()
        eventually(lambda: ports(serving) == ["8081"])
        serving.crash()
        file.write_text(json.dumps(forward(8082)))
        serving.up()
        eventually(lambda: ports(serving) == ["8082"])


class TestChanged:
    """The file changes while it runs."""

    @pytest.mark.parametrize("how", ["written", "renamed", "swapped"])
    def test_is_applied_again(self, serving: Product, file: Path, how: str) -> None:
        """In place, by rename, by another directory behind a link."""
        if how == "swapped":
            for number, port in ((1, 8080), (2, 9090)):
                (serving.user / f"..{number}").mkdir()
                (serving.user / f"..{number}" / "serve.json").write_text(json.dumps(forward(port)))
            (serving.user / "..data").symlink_to("..1")
            file.unlink()
            file.symlink_to("..data/serve.json")
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        if how == "written":
            file.write_text(json.dumps(forward(9090)))
        elif how == "renamed":
            other = serving.user / "serve.new"
            other.write_text(json.dumps(forward(9090)))
            other.replace(file)
        else:
            (serving.user / "..tmp").symlink_to("..2")
            (serving.user / "..tmp").replace(serving.user / "..data")
        eventually(lambda: ports(serving) == ["9090"])

    def test_that_appears_later(self, serving: Product) -> None:
        """Missing at the start: said; written later: applied, and nothing is said any more."""
        serving.up()
        eventually(lambda: "serve.json" in complaint(serving))
        (serving.user / "serve.json").write_text(json.dumps(forward(8080)))
        eventually(lambda: ports(serving) == ["8080"])
        eventually(lambda: complaint(serving) == "")

    def test_an_empty_object_serves_nothing(self, serving: Product, file: Path) -> None:
        """`{}` takes everything away."""
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        file.write_text("{}")
        eventually(lambda: ports(serving) == [])

    @pytest.mark.parametrize("bad", ["", "{", "[]", '{"TCP": {"x": {}}}', '{"Web": null, "TCP": {"80": null}}', "\0"])
    def test_nonsense_keeps_the_last_good_one(self, serving: Product, file: Path, bad: str) -> None:
        """Said in `status`, the old one goes on, also for a new daemon; corrected, it is applied."""
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        file.write_text(bad)
        eventually(lambda: "serve.json" in complaint(serving))
        assert ports(serving) == ["8080"]
        assert "serve.json" in serving.run("status").out
        assert serving.status(expect=0)["ready"] is True
        pid = serving.kill_daemon()
        serving.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        eventually(lambda: ports(serving) == ["8080"])
        file.write_text(json.dumps(forward(9090)))
        eventually(lambda: ports(serving) == ["9090"])
        eventually(lambda: complaint(serving) == "")

    def test_a_bad_file_from_the_start(self, serving: Product, file: Path) -> None:
        """The node is ready all the same; nothing is served and it is said."""
        file.write_text("{")
        serving.up()
        eventually(lambda: "serve.json" in complaint(serving))
        assert ports(serving) == []

    def test_a_removed_file_changes_nothing(self, serving: Product, file: Path) -> None:
        """The last good one goes on."""
        serving.up()
        eventually(lambda: ports(serving) == ["8080"])
        file.unlink()
        eventually(lambda: "serve.json" in complaint(serving))
        assert ports(serving) == ["8080"]

    def test_configured_later(self, product: Product) -> None:
        """`serve.config` comes with a `reload`."""
        product.up()
        path = product.user / "mine.json"
        path.write_text(json.dumps(forward(8080)))
        product.configure(f'[serve]\nconfig = "{path}"\n')
        product.run("reload", expect=0)
        eventually(lambda: ports(product) == ["8080"])


class TestDomain:
    """`${TS_CERT_DOMAIN}` where the tailnet gives none."""

    def test_is_said(self, serving: Product) -> None:
        """Nothing is applied, and it is said what is missing; the node is ready."""
        (serving.user / "serve.json").write_text(json.dumps(web("x")))
        serving.up()
        eventually(lambda: "certificate domain" in complaint(serving))
        assert ports(serving) == []

    def test_is_applied_when_it_comes(self, serving: Product, control: Control) -> None:
        """An administrator enables it later: applied without a command."""
        (serving.user / "serve.json").write_text(json.dumps(web("x")))
        serving.up("--wait", "online")
        control.set(magic_dns=True)
        control.cut()
        eventually(lambda: ports(serving) == ["80"], within=40)
