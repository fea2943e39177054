"""serve.config on real daemons: set, seen by `tailscale serve status`, and answering over the tailnet."""

import asyncio
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

OWN_NAME = "server.example.ts.net"


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
        self.restart()

    def restart(self) -> None:
        """A new supervisor: nothing is remembered."""
        self.applier = ServeApplier(self.api, str(self.path), self.said.append)

    def write(self, config: object) -> None:
        """Puts this into the file, text as it is."""
        self.path.write_text(config if isinstance(config, str) else json.dumps(config))

    def apply(self) -> None:
        """As the supervisor does, with the daemon's present certificate domain."""

        async def once() -> None:
            backend = fold_snapshot(Backend(), await self.api.snapshot())
            await self.applier.apply(next(iter(backend.cert_domains), None))

        asyncio.run(once())

    def put(self, config: object) -> None:
        """Both."""
        self.write(config)
        self.apply()

    def present(self) -> dict[str, Any]:
        """What `tailscale` says that is served."""
        shown: dict[str, Any] = json.loads(self.node.cli("serve", "status", "--json"))
        return shown

    def advertised(self) -> object:
        """Services that the daemon advertises."""
        return asyncio.run(self.api.prefs())["AdvertiseServices"]


@pytest.fixture
def node(control: Control, ns: Place, lab: Binaries) -> Iterator[Node]:
    """A node that is logged in."""
    with Node(control, place=ns, programs=lab, hostname="server") as one:
        yield one.up()


@pytest.fixture
def served(node: Node, tmp_path: Path) -> Served:
    """That node with a path to a file that does not exist yet."""
    return Served(node, tmp_path / "serve.json")


@pytest.fixture
def named(control: Control, served: Served) -> Served:
    """The same in a tailnet that gives certificates."""
    control.set(magic_dns=True)
    eventually(lambda: served.node.status()["CertDomains"])
    return served


def web(port: int, name: str = "${TS_CERT_DOMAIN}") -> dict[str, Any]:
    """A web server of this machine on port 80 of the tailnet."""
    handlers = {"/": {"Proxy": f"http://127.0.0.1:{port}"}}
    return {"TCP": {"80": {"HTTP": True}}, "Web": {f"{name}:80": {"Handlers": handlers}}}


def forward(port: int) -> dict[str, Any]:
    """The same as plain TCP."""
    return {"TCP": {"80": {"TCPForward": f"127.0.0.1:{port}"}}}


def test_web_server_is_reached_over_the_tailnet(named: Served, control: Control, ns: Place, lab: Binaries) -> None:
    """The file is applied with the node's own name, and a second node gets the page by it."""
    port = named.node.serve("a page\n")
    named.put(web(port))
    assert named.present() == web(port, OWN_NAME)
    with Node(control, place=ns, programs=lab, hostname="reader") as reader:
        reader.up()
        assert eventually(lambda: reader.fetch(f"http://{OWN_NAME}/")) == "a page\n"
    assert named.said == []


def test_what_is_equal_is_not_set(named: Served) -> None:
    """However often it is asked for, by this supervisor or the next one, and however the file is written."""
    named.put(web(3000))
    named.apply()
    named.restart()
    named.apply()
    named.put(json.dumps(web(3000), indent=4).replace('"HTTP"', '"HTTPS": false, "http"') + "\r\n")
    assert named.api.sets == [web(3000, OWN_NAME)]
    assert named.said == []


def test_change_of_the_file_is_applied(served: Served, control: Control, ns: Place, lab: Binaries) -> None:
    """Also when a port serves something else from now on, which tailscaled refuses to do at one go; `{}` ends all."""
    port = served.node.serve("by TCP\n")
    served.put(web(3000, OWN_NAME))
    served.put(forward(port))
    assert served.present() == forward(port)
    with Node(control, place=ns, programs=lab, hostname="reader") as reader:
        reader.up()
        assert eventually(lambda: reader.fetch(f"http://{served.node.ip}/")) == "by TCP\n"
    served.put(web(port, OWN_NAME))
    assert served.present() == web(port, OWN_NAME)
    served.put("{}")
    assert served.present() == {}
    assert served.said == []


def test_daemon_that_forgot_gets_it_again(served: Served) -> None:
    """A new login is a new profile, without any serve config."""
    served.put(forward(3000))
    served.node.cli("logout")
    served.node.up()
    assert served.present() == {}
    served.apply()
    assert served.present() == forward(3000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"TCP":', "is not JSON"),
        ("", "is empty"),
        ('{"TCP": {"80": null}}', "is no serve config: TCP.80 must be an object"),
        (None, "cannot be read (no such file or directory)"),
    ],
)
def test_bad_file_keeps_the_last_good_one(served: Served, text: str | None, why: str) -> None:
    """It is said once, and goes on being served, also by a daemon that forgot it; a good file takes the words back."""
    served.put(forward(3000))
    if text is None:
        served.path.unlink()
    else:
        served.write(text)
    served.apply()
    served.apply()
    assert served.present() == forward(3000)
    (said,) = served.said
    assert said is not None
    assert said.startswith(f"{served.path} {why}")
    assert said.endswith("; the last good one goes on")
    served.node.cli("serve", "reset")
    served.apply()
    assert served.present() == forward(3000)
    served.put(forward(3001))
    assert served.present() == forward(3001)
    assert served.said == [said, None]


def test_bad_file_from_the_start_changes_nothing(served: Served) -> None:
    """What the daemon serves already stays; nothing is claimed about a good one."""
    served.node.cli("serve", "--bg", "--tcp=80", "tcp://127.0.0.1:3000")
    served.put("{,")
    assert served.present() == forward(3000)
    assert served.api.sets == []
    assert served.said == [f"{served.path} is not JSON (line 1: object keys must be strings)"]


def make_directory(path: Path) -> None:
    """Docker makes one where a file to mount is missing."""
    path.mkdir()


def make_fifo(path: Path) -> None:
    """Nobody writes to it."""
    os.mkfifo(path)


def make_large(path: Path) -> None:
    """Somebody's disk image."""
    path.touch()
    os.truncate(path, LARGEST + 1)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_directory, "it is not a regular file"),
        (make_fifo, "it is not a regular file"),
        (make_large, "it is larger than 1 MiB"),
    ],
)
def test_what_is_no_file_is_said_at_once(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    """Never a wait, and never all of the memory."""
    path = tmp_path / "serve.json"
    make(path)
    said: list[str | None] = []
    asyncio.run(ServeApplier(LocalApi("/nowhere"), str(path), said.append).apply(None))
    assert said == [f"{path} cannot be read ({why})"]


def test_waits_for_the_certificate_domain(served: Served, control: Control) -> None:
    """A tailnet without certificates: it is said, nothing is set; when they are enabled it is applied."""
    served.put(web(3000))
    assert served.api.sets == []
    (said,) = served.said
    assert said == (
        f"{served.path} needs a certificate domain (${{TS_CERT_DOMAIN}} or HTTPS) and this tailnet gives none:"
        " enable HTTPS certificates in its DNS settings"
    )
    control.set(magic_dns=True)
    eventually(lambda: served.node.status()["CertDomains"])
    served.apply()
    assert served.present() == web(3000, OWN_NAME)
    assert served.said[1:] == [None]


def test_refusal_is_told_in_the_daemons_words(served: Served) -> None:
    """Funnel with shields up: what was served stays, the reason is said, and cleared when it is gone."""
    served.put(forward(3000))
    served.node.cli("set", "--shields-up")
    served.put({**web(3000, OWN_NAME), "AllowFunnel": {f"{OWN_NAME}:443": True}})
    assert served.present() == forward(3000)
    assert served.said == [
        f"tailscaled refused {served.path}: updating config: Unable to turn on Funnel while shields-up is enabled"
    ]
    served.put(forward(3000))
    assert served.said[1:] == [None]


def test_misspelt_word_is_found(named: Served) -> None:
    """tailscaled leaves out what it does not know; that is said, and not tried again and again."""
    config = web(3000)
    config["TCP"]["80"]["Htps"] = True
    named.put(config)
    named.apply()
    assert named.present() == web(3000, OWN_NAME)
    assert named.said == [f"{named.path}: this tailscaled does not know TCP.80.Htps"]
    assert len(named.api.sets) == 1
    named.node.cli("serve", "reset")
    named.apply()
    assert named.present() == web(3000, OWN_NAME)


def test_services_are_advertised(named: Served) -> None:
    """As containerboot does: a service that is not advertised reaches nobody. Without one, what is there stays."""
    services = {"svc:b": forward(3000), "svc:a": web(3000, "a.example.ts.net")}
    named.put({"Services": services})
    assert named.present()["Services"] == services
    assert named.advertised() == ["svc:a", "svc:b"]
    named.apply()
    named.put(forward(3000))
    assert not named.advertised()
    named.node.cli("serve", "advertise", "svc:c")
    named.apply()
    assert named.advertised() == ["svc:c"]


def test_terminal_goes_on_showing(served: Served) -> None:
    """What `tailscale serve` shows in somebody's terminal is neither ended nor taken for ours."""
    node = served.node
    argv = [str(node._programs.tailscale), f"--socket={node.socket}", "serve", "--http=8080", "3000"]
    shown = node.place.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: served.present().get("Foreground"))
        served.put(forward(3000))
        served.apply()
        (session,) = served.present()["Foreground"].values()
        assert session["TCP"] == {"8080": {"HTTP": True}}
        assert served.present()["TCP"] == forward(3000)["TCP"]
        assert len(served.api.sets) == 1
        served.put({"TCP": {"8080": {"HTTP": True}}})
        assert served.said == [
            f"tailscaled refused {served.path}: updating config: foreground listener already exists for port 8080"
        ]
        assert shown.poll() is None
    finally:
        shown.kill()
        shown.communicate()


def test_daemon_that_is_not_logged_in_is_said(control: Control, ns: Place, lab: Binaries, tmp_path: Path) -> None:
    """It cannot take a serve config yet; the same call sets it when it can."""
    with Node(control, place=ns, programs=lab) as node:
        eventually(node.socket.exists)
        served = Served(node, tmp_path / "serve.json")
        served.put(forward(3000))
        assert served.said == [f"tailscaled refused {served.path}: updating config: netMap is nil"]
        node.up()
        served.apply()
        assert served.present() == forward(3000)
        assert served.said[1:] == [None]


# --- what a real daemon cannot be made to do at a given moment -------------------------------------------------------


class Scripted(LocalApi):
    """A daemon's serve config; each call may first meet with something planned."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.config: Any = None
        self.version = 0
        self.on_get: list[Callable[[], object]] = []
        self.on_set: list[Callable[[], object]] = []

    async def serve_config(self) -> tuple[bytes, str]:
        """Body and version."""
        if self.on_get:
            self.on_get.pop(0)()
        return msgspec.json.encode(self.config), str(self.version)

    async def set_serve_config(self, body: bytes, etag: str) -> bool:
        """Refuses what is based on an older version."""
        if self.on_set:
            self.on_set.pop(0)()
        if etag != str(self.version):
            return False
        self.change(msgspec.json.decode(body))
        return True

    def change(self, config: object) -> None:
        """By anybody."""
        self.config = config
        self.version += 1


def pass_by() -> None:
    """Nothing planned for this call."""


@pytest.fixture
def scripted() -> Scripted:
    """Such a daemon."""
    return Scripted()


def apply_to(api: LocalApi, tmp_path: Path, config: object, times: int = 1) -> list[str]:
    """What is said when that is to be applied, without the path."""
    path = tmp_path / "serve.json"
    path.write_text(json.dumps(config))
    said: list[str | None] = []

    async def some() -> None:
        applier = ServeApplier(api, str(path), said.append)
        await asyncio.gather(*(applier.apply(None) for _ in range(times)))

    asyncio.run(some())
    return [(text or "").replace(str(path), "FILE") for text in said]


def test_change_by_another_program_in_between(scripted: Scripted, tmp_path: Path) -> None:
    """Nobody's change is overwritten unseen: it is read again, and what a terminal shows by then is kept."""
    scripted.on_set = [lambda: scripted.change({"Foreground": {"s": {}}})]
    assert apply_to(scripted, tmp_path, forward(3000)) == []
    assert scripted.config == {**forward(3000), "Foreground": {"s": {}}}


def test_change_by_another_program_between_the_two_steps(scripted: Scripted, tmp_path: Path) -> None:
    """A port is freed, somebody takes another one, and the whole begins again."""
    scripted.config = web(3000, "a")
    scripted.on_set = [pass_by, lambda: scripted.change({"TCP": {"81": {"HTTP": True}}})]
    assert apply_to(scripted, tmp_path, forward(3000)) == []
    assert scripted.config == forward(3000)
    scripted.config = web(3000, "a")
    scripted.on_set = [lambda: scripted.change(web(3001, "a"))]
    assert apply_to(scripted, tmp_path, forward(3000)) == []
    assert scripted.config == forward(3000)


def test_change_without_end_is_given_up(scripted: Scripted, tmp_path: Path) -> None:
    """Two programs that want different things do not fight for ever."""
    scripted.on_set = [lambda: scripted.change({})] * 10
    said = apply_to(scripted, tmp_path, forward(3000))
    assert said == ["FILE is not applied: another program changes the serve config all the time"]
    assert len(scripted.on_set) == 7


def test_refusal_half_way_brings_the_former_back(scripted: Scripted, tmp_path: Path) -> None:
    """A port was freed and what comes to it is refused: what was served before is served again."""

    def refuse() -> None:
        raise LocalApiError(401, "must be root")

    scripted.config = forward(3000)
    scripted.on_set = [pass_by, refuse]
    assert apply_to(scripted, tmp_path, web(3000, "a")) == ["tailscaled refused FILE: must be root"]
    assert scripted.config == forward(3000)


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "Connection refused"), TimeoutError()])
def test_silent_daemon_is_said(scripted: Scripted, tmp_path: Path, error: OSError) -> None:
    """Whoever calls again when the daemon answers has it applied."""

    def fail() -> None:
        raise error

    scripted.on_get = [fail]
    (said,) = apply_to(scripted, tmp_path, forward(3000))
    assert said == f"FILE is not applied, tailscaled does not answer: {error or 'TimeoutError'}"


def test_strange_answer_is_said(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No JSON, say, of a program that is no tailscaled."""

    async def serve_config() -> tuple[bytes, str]:
        return b"<html>", ""

    monkeypatch.setattr(scripted, "serve_config", serve_config)
    (said,) = apply_to(scripted, tmp_path, forward(3000))
    assert said.startswith("FILE is not applied, tailscaled's answer cannot be read: ")


def test_calls_at_the_same_time_are_one_after_the_other(scripted: Scripted, tmp_path: Path) -> None:
    """File, domain and daemon may change at once: it is set once."""
    assert apply_to(scripted, tmp_path, forward(3000), times=5) == []
    assert (scripted.config, scripted.version) == (forward(3000), 1)
