"""Who a node is: what a stop and a crash leave of it, its name, and states that cannot be used."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.netns import Place
from tests.support.product import Done, Product, gone, kill

USER = 64323


def outcomes(control: Control) -> list[str]:
    """What became of every register request, in order."""
    return [login["outcome"] for login in control.logins()]


def ips(product: Product) -> list[str]:
    """The node's addresses; it must be ready."""
    return list(product.status(expect=0)["backend"]["ips"])


def end_supervisor(product: Product) -> None:
    """SIGTERM, as a container engine does, and the end of everything."""
    pids = [product.kill_supervisor(signal.SIGTERM), *product.daemons()]
    for pid in pids:
        gone(pid)


class TestPersist:
    """The default: the node stays itself."""

    @pytest.mark.parametrize("end", ["down", "SIGTERM", "crash", "restart"])
    def test_is_the_same_node_afterwards(self, product: Product, control: Control, end: str) -> None:
        """However it ends: no logout, and the next start is the same node without a login by key."""
        product.up()
        before = ips(product)
        if end == "down":
            product.down()
        elif end == "SIGTERM":
            end_supervisor(product)
        elif end == "crash":
            product.crash()
        else:
            product.run("restart", expect=0)
        product.up()
        assert ips(product) == before
        assert "logout" not in outcomes(control)
        assert len(control.nodes()) == 1
        assert [login["auth_key"] != "" for login in control.logins()].count(True) == 1

    def test_is_said(self, product: Product) -> None:
        """`identity` of the status object."""
        product.up()
        identity = product.status()["identity"]
        assert identity["kind"] == "persist"
        assert identity["path"] == str(product.home)


@pytest.fixture
def passing(make: Make, control: Control) -> Product:
    """A home whose node is to be gone after a stop, with a reusable key for ephemeral nodes."""
    key = control.add_key(reusable=True, ephemeral=True)
    return make(auth_key=key, TAZPOD_NET_DAEMON_STATE="ephemeral")


class TestEphemeral:
    """`daemon.state = "ephemeral"`."""

    @pytest.mark.parametrize("end", ["down", "SIGTERM"])
    def test_logs_out_when_it_is_stopped(self, passing: Product, control: Control, end: str) -> None:
        """The tailnet has no such node any more; the next start is a new one."""
        passing.up()
        assert passing.status()["identity"]["kind"] == "ephemeral"
        if end == "down":
            passing.down()
        else:
            end_supervisor(passing)
        assert outcomes(control)[-1] == "logout"
        assert control.nodes() == []
        passing.up()
        assert len(control.nodes()) == 1

    @pytest.mark.parametrize("end", ["daemon", "everything", "restart"])
    def test_keeps_its_state_through_a_crash(self, passing: Product, control: Control, end: str) -> None:
        """`kill -9` and `restart` are no stop: the same node, without a second login."""
        passing.up()
        before = ips(passing)
        if end == "daemon":
            pid = passing.kill_daemon()
            passing.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        elif end == "everything":
            passing.crash()
            passing.up()
        else:
            passing.run("restart", expect=0)
        assert ips(passing) == before
        assert "logout" not in outcomes(control)

    @pytest.mark.parametrize("trouble", ["outage", "stall"])
    def test_stops_in_time_without_a_control_server(self, passing: Product, control: Control, trouble: str) -> None:
        """Nobody hears the logout: it stops within its budget all the same, and leaves no process."""
        passing.up()
        (control.outage if trouble == "outage" else control.stall)()
        passing.down("--timeout", "6", timeout=20)
        assert passing.processes() == []

    def test_a_second_stop_does_not_wait(self, passing: Product, control: Control) -> None:
        """SIGTERM twice while the control server does not answer: it ends."""
        passing.up()
        control.stall()
        pid = passing.kill_supervisor(signal.SIGTERM)
        passing.eventually(lambda s: s["supervisor"]["state"] in {"stopping", "up"})
        kill(pid, signal.SIGTERM)
        gone(pid)
        assert passing.daemons() == []


HOSTNAME = """
import os, socket, sys
socket.sethostname(sys.argv[1])
os.chdir(sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


def up_as(product: Product, hostname: str, folder: Path | None = None, **more: Any) -> Done:
    """`up` in a UTS namespace with this host name, started in `folder`."""
    program = ["unshare", "--uts", "--", sys.executable, "-S", "-c", HOSTNAME]
    return product.up(prefix=[*program, hostname, str(folder or product.user)], **more)


def put_cards(product: Product, ns: Place, *, real: bool) -> None:
    """Makes `product`'s place a container whose network cards are real ones, its host's, or its own."""
    card = product.user / "cards" / "lo"
    (card / "device" if real else card).mkdir(parents=True)
    ns.run(["touch", "/run/.containerenv"], check=True)
    ns.run(["mount", "--bind", card.parent, "/sys/class/net"], check=True)


@pytest.mark.root
class TestName:
    """`login.hostname = auto`."""

    @pytest.mark.parametrize(
        ("hostname", "asked"),
        [
            ("devbox", "devbox"),
            ("devbox.corp.example", "devbox"),
            ("Dev_Box", "dev-box"),
            ("0123456789ab", "tazpod-my-project"),
            ("localhost", "tazpod-my-project"),
        ],
    )
    def test_is_chosen_from_host_and_folder(
        self, product: Product, control: Control, ns: Place, hostname: str, asked: str
    ) -> None:
        """A host name that says something is taken; a container's id is not."""
        put_cards(product, ns, real=False)
        folder = product.user / "My Project"
        folder.mkdir()
        up_as(product, hostname, folder)
        assert control.node(asked)["online"] is True
        assert product.status()["backend"]["requested_hostname"] == asked

    def test_is_kept(self, product: Product, control: Control) -> None:
        """The next container has another id and another folder: the name stays."""
        folder = product.user / "first"
        folder.mkdir()
        up_as(product, "0123456789ab", folder)
        product.down()
        up_as(product, "ba9876543210")
        assert [node["hostname"] for node in control.nodes()] == ["tazpod-first"]

    def test_that_is_configured_wins_over_the_kept_one(self, product: Product, control: Control) -> None:
        """The same node under its new name."""
        up_as(product, "devbox")
        product.down()
        up_as(product, "devbox", env={"TS_HOSTNAME": "chosen"})
        eventually(lambda: [node["hostname"] for node in control.nodes()] == ["chosen"])

    @pytest.mark.parametrize("is_host", [True, False], ids=["the host's network", "its own network"])
    def test_of_the_host_is_not_taken(self, product: Product, control: Control, ns: Place, is_host: bool) -> None:
        """In a container on its host's network (there is a real card) the host's name is not ours."""
        put_cards(product, ns, real=is_host)
        folder = product.user / "app"
        folder.mkdir()
        up_as(product, "bigserver", folder)
        assert control.nodes()[0]["hostname"] == ("tazpod-app" if is_host else "bigserver")


class TestTakenName:
    """Another node has the name."""

    def test_is_said(self, make: Make) -> None:
        """The second one is `box-1`: in the status object, and to a person with both names."""
        make(TS_HOSTNAME="box").up()
        second = make(TS_HOSTNAME="box", TAZPOD_NET_PROXY_SOCKS5="127.0.0.1:1066", TAZPOD_NET_PROXY_HTTP="")
        second.up()
        backend = second.status()["backend"]
        assert (backend["requested_hostname"], backend["hostname"]) == ("box", "box-1")
        notes = [note for note in second.status()["notes"] if "box-1" in note["text"]]
        assert len(notes) == 1
        assert notes[0]["next"]
        assert "box-1" in second.run("status").out

    def test_is_not_said_of_the_only_one(self, make: Make) -> None:
        """A name that was granted needs no word."""
        product = make(TS_HOSTNAME="box")
        product.up()
        assert [note for note in product.status()["notes"] if "box" in note["text"]] == []


class TestImport:
    """`up --import-state FILE`."""

    @pytest.fixture
    def state(self, make: Make) -> tuple[Path, list[str]]:
        """The state of a node that was stopped, and its addresses."""
        product = make()
        product.up()
        addresses = ips(product)
        product.down()
        return product.state / "tailscaled.state", addresses

    def test_goes_on_as_that_node(self, make: Make, control: Control, state: tuple[Path, list[str]]) -> None:
        """The same addresses without a key; the copy is private, the original stays."""
        path, addresses = state
        original = path.read_bytes()
        product = make(auth_key=None)
        product.up("--import-state", str(path))
        assert ips(product) == addresses
        assert (product.state / "tailscaled.state").stat().st_mode & 0o777 == 0o600
        assert path.read_bytes() == original
        assert len(control.nodes()) == 1

    def test_never_over_an_identity(self, product: Product, state: tuple[Path, list[str]]) -> None:
        """A home that has one keeps it: exit 1, the file as it was."""
        product.up()
        product.down()
        own = (product.state / "tailscaled.state").read_bytes()
        done = product.up("--import-state", str(state[0]), expect=1)
        assert "identity already" in done.err
        assert (product.state / "tailscaled.state").read_bytes() == own

    def test_never_while_it_runs(self, product: Product, state: tuple[Path, list[str]]) -> None:
        """A running home: exit 1, it stays ready."""
        product.up()
        product.up("--import-state", str(state[0]), expect=1)
        assert product.status(expect=0)["ready"] is True

    @pytest.mark.parametrize("content", [None, b"", b"nonsense", b"[]", b'{"key": "", "nonce": "", "data": ""}'])
    def test_of_what_is_no_state(self, product: Product, content: bytes | None) -> None:
        """Missing, empty, nonsense or sealed: exit 1 and one line that names the file; nothing is started."""
        path = product.user / "foreign.state"
        if content is not None:
            path.write_bytes(content)
        done = product.up("--import-state", str(path), expect=1)
        assert str(path) in done.err
        assert product.processes() == []
        assert not (product.state / "tailscaled.state").exists()


SEALED = b'{"key": "a2V5", "nonce": "bm9uY2U=", "data": "ZGF0YQ=="}'


class TestBadState:
    """A state that tailscaled could not use."""

    @pytest.fixture(params=[b"", b"\0\1nonsense", b'{"_machinekey": "cHJpdm', b"[]", SEALED])
    def broken(self, product: Product, request: pytest.FixtureRequest) -> Product:
        """A home that was in use, with a state that was spoiled since."""
        if request.param == SEALED and any(os.path.exists(tpm) for tpm in ("/dev/tpm0", "/dev/tpmrm0")):
            pytest.skip("this machine has a TPM")
        product.up()
        product.down()
        (product.state / "tailscaled.state").write_bytes(request.param)
        return product

    def test_is_said_and_left_alone(self, broken: Product, control: Control) -> None:
        """`up` ends with exit 1 and names the file and the way out; no loop, no login, not a byte changed."""
        content = (broken.state / "tailscaled.state").read_bytes()
        count = len(control.logins())
        done = broken.up(expect=1, timeout=25)
        assert "tailscaled.state" in done.err
        assert "--fresh-identity" in done.err
        seen = broken.status(expect=1)
        assert (seen["supervisor"]["state"], seen["daemon"]["restarts"]) == ("fatal", 0)
        assert broken.short() == "tailnet: fatal"
        assert broken.daemons() == []
        assert (broken.state / "tailscaled.state").read_bytes() == content
        assert len(control.logins()) == count

    def test_is_moved_aside_on_request(self, broken: Product, control: Control) -> None:
        """`up --fresh-identity`: a new node; the old bytes are still there under another name."""
        content = (broken.state / "tailscaled.state").read_bytes()
        before = {path.name for path in broken.state.iterdir()}
        broken.up("--fresh-identity")
        assert len(control.nodes()) == 2
        kept = [
            path
            for path in broken.state.iterdir()
            if path.name.startswith("tailscaled.state") and path.name not in before and path.is_file()
        ]
        assert [path.read_bytes() for path in kept] == [content]

    def test_that_is_good_again(self, product: Product) -> None:
        """The good file is put back: `restart` goes on as the same node."""
        product.up()
        addresses = ips(product)
        product.down()
        path = product.state / "tailscaled.state"
        good = path.read_bytes()
        path.write_bytes(b"nonsense")
        product.up(expect=1)
        path.write_bytes(good)
        product.run("restart", expect=0)
        assert ips(product) == addresses

    def test_is_not_replaced_while_it_is_in_use(self, product: Product) -> None:
        """`up --fresh-identity` of a running home: exit 1, the same node."""
        product.up()
        addresses = ips(product)
        product.up("--fresh-identity", expect=1)
        assert ips(product) == addresses

    @pytest.mark.root
    def test_that_this_user_must_not_read(self, make: Make) -> None:
        """Another user's state: said, not replaced."""
        product = make(uid=USER)
        product.use_copies()
        product.up()
        product.down()
        path = product.state / "tailscaled.state"
        os.chown(path, 0, 0)
        content = path.read_bytes()
        done = product.up(expect=1, timeout=25)
        assert "tailscaled.state" in done.err
        assert path.read_bytes() == content


@pytest.mark.root
class TestRisk:
    """An identity that is to last, in a place that does not."""

    def test_is_said_with_the_way_out(self, product: Product, ns: Place) -> None:
        """The home is on tmpfs: a note names the path to mount a volume at; the node works."""
        product.home.mkdir()
        ns.run(["mount", "-t", "tmpfs", "tmpfs", product.home], check=True)
        product.up()
        notes = product.status(expect=0)["notes"]
        assert [str(product.home) in f"{note['text']} {note['next']}" for note in notes].count(True) == 1
        assert "volume" in product.run("status").out

    def test_is_none_when_it_is_not_to_last(self, passing: Product, ns: Place) -> None:
        """`ephemeral` on tmpfs is as it should be."""
        passing.home.mkdir()
        ns.run(["mount", "-t", "tmpfs", "tmpfs", passing.home], check=True)
        passing.up()
        assert [note["code"] for note in passing.status()["notes"] if "identity" in note["code"]] == []
