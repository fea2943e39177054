"""`wait --for peer:`, `tcp:` and `name:`, through the data path of each mode, with real nodes."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.lab import Control, Node
from tests.support.product import Product, free_port, gone

PEER = "peer.example.ts.net"


def test_a_peer_that_answers(moded: Product, peer: Node) -> None:
    """By its short name, its full name, its addresses; one line says that it is so."""
    moded.up()
    addresses = peer.status()["TailscaleIPs"]
    for name in ["peer", PEER, f"{PEER.upper()}.", *addresses]:
        done = moded.run("wait", "--for", f"peer:{name}", "--timeout", "20s", expect=0)
        assert done.out.startswith("ready: on example.ts.net")


def test_this_node_itself_is_there(product: Product) -> None:
    """A node does not ping itself: it is there when it is ready."""
    product.up()
    me = product.status()["backend"]["hostname"]
    product.run("wait", "--for", f"peer:{me}", "--timeout", "5s", expect=0)


def test_a_peer_that_comes_later(product: Product, control: Control, lab: object) -> None:
    """The wait began before the peer existed."""
    product.up()
    with product.popen("wait", "--for", "peer:late", "--for", "online", "--timeout", "60s") as waiting:
        with Node(control, hostname="late", place=product.place) as node:
            node.up()
            waiting.until(lambda line: line.startswith("ready"))
        assert waiting.process.wait(10) == 0


def test_a_tag_stands_for_any_of_its_nodes(product: Product, control: Control) -> None:
    """One that answers is enough, however many are offline; a tag that nobody has is said."""
    control.add_fakes(3, tag="tag:server")
    with Node(control, place=product.place) as node:
        node.up(auth_key=control.add_key(tags=["tag:server"]))
        product.up()
        product.run("wait", "--for", "peer:tag:server", "--timeout", "20s", expect=0)
    done = product.run("wait", "--for", "peer:tag:none", "--timeout", "0.5s", expect=1)
    assert "not peer:tag:none after 0.5 s, no node has this tag" in done.err


def test_peers_that_do_not_hold(product: Product, control: Control, peer: Node) -> None:
    """Offline, silent and unknown are three reasons; several are told in one line, each with its condition."""
    control.add_fakes(2, online=1)  # nobody runs the first, though control says so
    product.up()
    control.show_offline("peer")
    product.eventually(lambda status: status["backend"]["peers"]["online"] == 1)
    conditions = ["peer:peer", "peer:fake-1", "peer:fake-2", "peer:nobody"]
    options = [word for condition in conditions for word in ("--for", condition)]
    done = product.run("wait", *options, "--timeout", "2s", expect=1)
    assert done.err == (
        "tazpod-net: not peer:peer and peer:fake-1 and peer:fake-2 and peer:nobody after 2 s, "
        "peer:peer: is offline; peer:fake-1: is online and does not answer a ping; peer:fake-2: is offline; "
        "peer:nobody: no such peer in the tailnet: tazpod-net status\n"
    )


def test_a_port_of_a_peer(moded: Product, peer: Node, control: Control) -> None:
    """By name and address: an open one holds; a closed one is refused, and the rest of them is not blamed."""
    control.set(magic_dns=True)
    moded.up()
    port = peer.serve()
    for host in ["peer", PEER, peer.ip]:
        moded.run("wait", "--for", f"tcp:{host}:{port}", "--timeout", "20s", expect=0)
    closed = free_port()
    conditions = ["--for", f"tcp:peer:{port}", "--for", f"tcp:{PEER}:{closed}"]
    done = moded.run("wait", *conditions, "--timeout", "3s", expect=1)
    assert f"not tcp:{PEER}:{closed} after 3 s, " in done.err
    assert "refused" in done.err


def test_a_port_of_an_ipv6_address(product: Product) -> None:
    """Written in brackets; outside the tailnet the connection is made without the daemon."""
    product.up()
    done = product.run("wait", "--for", f"tcp:[::1]:{free_port()}", "--timeout", "1s", expect=1)
    assert "connection refused" in done.err


def test_a_port_of_the_machine_itself(moded: Product, peer: Node) -> None:
    """What is not in the tailnet is reached as ever, in both modes."""
    moded.up()
    moded.run("wait", "--for", f"tcp:127.0.0.1:{peer.serve()}", "--timeout", "10s", expect=0)
    moded.run("wait", "--for", f"tcp:localhost:{peer.serve()}", "--timeout", "10s", expect=0)


def test_a_name(moded: Product, peer: Node, control: Control) -> None:
    """Names of the tailnet and of /etc/hosts resolve; another does not, and the resolver's words say so."""
    control.set(magic_dns=True)
    moded.up()
    for name in [PEER, "peer", "localhost"]:
        moded.run("wait", "--for", f"name:{name}", "--timeout", "20s", expect=0)
    done = moded.run("wait", "--for", "name:nobody.example.ts.net", "--timeout", "1s", expect=1)
    assert "not name:nobody.example.ts.net after 1 s, " in done.err
    assert "resol" in done.err


def test_nothing_is_tried_before_the_node_is_ready(product: Product, peer: Node) -> None:
    """Without a login the reason is that of `ready`, also for a port that would be open."""
    product.up("--no-login", "--no-wait")
    product.run("wait", "--for", "live", expect=0)
    port = peer.serve()
    done = product.run("wait", "--for", f"tcp:127.0.0.1:{port}", "--timeout", "1s", expect=1)
    assert f"not tcp:127.0.0.1:{port} after 1 s, waiting for a login" in done.err


def test_json_ends_with_the_status_and_the_reason(product: Product) -> None:
    """The object says how it is, standard error what did not hold."""
    product.up()
    done = product.run("wait", "--for", "peer:nobody", "--timeout", "0.5s", "--json", expect=1)
    assert json.loads(done.out)["ready"] is True
    assert "no such peer" in done.err


def test_a_wait_ends_with_its_supervisor(product: Product) -> None:
    """`down` does not wait for it; the waiting command goes on until its time is over, as without a supervisor."""
    product.up()
    with product.popen("wait", "--for", "peer:nobody", "--timeout", "4s") as waiting:
        product.down()
        assert waiting.process.wait(20) == 3


def test_a_wait_goes_on_with_the_next_supervisor(product: Product, peer: Node) -> None:
    """Stopped and started again meanwhile: what was waited for comes true in its second life."""
    product.up()
    control = product.control
    assert control is not None
    control.show_offline("peer")
    product.eventually(lambda status: status["backend"]["peers"]["online"] == 0)
    with product.popen("wait", "--for", "peer:peer", "--timeout", "60s") as waiting:
        product.down()
        product.up()
        control.show_offline("peer", offline=False)
        waiting.until(lambda line: line.startswith("ready"))
        assert waiting.process.wait(10) == 0


def test_a_hung_resolver_holds_nobody_up(moded: Product, scratch: Path) -> None:
    """A nameserver that never answers: the reason in time, and a stop at once."""
    if not moded.place.is_private:
        pytest.skip("needs a namespace of its own")
    moded.up()
    moded.place.run(["sh", "-c", "echo 'nameserver 192.0.2.1' >/etc/resolv.conf"], check=True)
    done = moded.run("wait", "--for", "name:nobody.example.com", "--timeout", "1s", expect=1)
    assert "not name:nobody.example.com after 1 s, " in done.err
    with moded.popen("wait", "--for", "name:nobody.example.com", "--timeout", "30s"):
        supervisor = moded.status()["supervisor"]["pid"]
        moded.down()
        gone(supervisor)


@pytest.mark.parametrize("text", ["peer", "tcp:vault", "name:10.0.0.1", "redy"])
def test_a_mistyped_condition(product: Product, text: str) -> None:
    """Exit 2, one line, with what would be right."""
    done = product.run("wait", "--for", text, expect=2)
    assert done.err.count("\n") == 1
    assert text in done.err


def test_a_request_of_another_version(product: Product) -> None:
    """What this supervisor cannot wait for is an answer, not the end of it."""
    product.up()
    request = json.dumps({"op": "wait", "conditions": ["moon:full"], "timeout": 1})
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()"
        "+b'\\n'); print(s.makefile().read())"
    )
    socket = str(product.state / "control.sock")
    said = product.place.run(["python3", "-c", script, socket, request], check=True).stdout
    assert "'moon:full' is not a condition" in said
    assert "X2" in said
    product.run("status", expect=0)


def has_socket(pid: int) -> bool:
    """Whether a process has a connection open."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                return True
    return False


def test_a_client_that_leaves(product: Product) -> None:
    """Ctrl-C ends the wait, and the supervisor serves on."""
    product.up()
    with product.popen("wait", "--for", "peer:nobody", "--timeout", "60s") as waiting:
        eventually(
            lambda: has_socket(waiting.process.pid)
        )  # it asks: before that, the interpreter may just be starting
        waiting.process.send_signal(signal.SIGINT)
        assert waiting.process.wait(10) == 130
    product.run("wait", "--timeout", "10s", expect=0)
