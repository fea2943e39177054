"""`hosts` and `dns.hosts`: the tailnet's names in /etc/hosts, written by the supervisor itself, with real nodes.

In namespaces with an /etc of their own: the machine's file is never touched.
"""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control, Node
from tests.support.netns import Place, tun_refusal
from tests.support.product import Product

pytestmark = pytest.mark.root
USER = 1000
# Not getent: it asks for no IPv4 where there is only the loopback interface (AI_ADDRCONFIG).
LOOKUP = "import _socket, sys; print(_socket.getaddrinfo(sys.argv[1], None, _socket.AF_INET)[0][4][0])"


class Hosts:
    """The file as programs in the place see it."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def read(self) -> str:
        """Its text."""
        return self.place.run(["cat", "/etc/hosts"], check=True).stdout

    def write(self, text: str) -> None:
        """Replaces its bytes in place, as an editor of another container may."""
        self.place.run(["sh", "-c", "cat >/etc/hosts"], stdin=text, check=True)

    def address(self, name: str) -> str:
        """What a program gets for a name; empty if nothing."""
        return self.place.run([sys.executable, "-I", "-S", "-c", LOOKUP, name]).stdout.strip()


@pytest.fixture
def hosts(ns: Place) -> Hosts:
    """A file such as a container has it."""
    assert ns.is_private
    file = Hosts(ns)
    file.write("127.0.0.1\tlocalhost\n172.17.0.2\tbox")
    return file


def test_names_come_and_go_with_the_peers(product: Product, peer: Node, control: Control, hosts: Hosts) -> None:
    """In userspace mode by default: there when ready, followed without anybody asking, gone after `down`."""
    before = hosts.read()
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    assert hosts.address("peer.example.ts.net") == peer.ip
    me = product.status()
    assert me["dns"]["hosts_block"] is True
    assert hosts.address(me["backend"]["dns_name"]) == me["backend"]["ips"][0]
    assert "names in /etc/hosts" in product.run("status").out
    with Node(control, hostname="late", place=product.place) as late:
        late.up()
        eventually(lambda: hosts.address("late") == late.ip)
    control.delete("late")
    eventually(lambda: not hosts.address("late"))
    assert hosts.address("peer") == peer.ip
    product.down()
    assert hosts.read() == before
    assert json.loads((product.state / "status.json").read_text())["dns"]["hosts_block"] is False


def test_a_file_that_is_bound_there(product: Product, peer: Node, hosts: Hosts) -> None:
    """As container engines do it: written in place, and taken out again."""
    before = hosts.read()
    hosts.place.run(["sh", "-c", "cp /etc/hosts /run/bound && mount --bind /run/bound /etc/hosts"], check=True)
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    assert "tazpod-net" in hosts.place.run(["cat", "/run/bound"]).stdout
    product.down()
    assert hosts.read() == before


@pytest.mark.skipif(bool(tun_refusal()), reason=str(tun_refusal()))
@pytest.mark.parametrize("accept", ["true", "false"])
def test_in_tun_mode_only_without_its_dns(make: Make, peer: Node, hosts: Hosts, accept: str) -> None:
    """Where the tailnet's DNS is the container's, the file is left alone; and it follows when that is turned off."""
    before = hosts.read()
    product = make(mode="tun", TAZPOD_NET_SETTINGS_ACCEPT_DNS=accept)
    product.up()
    product.run("wait", "--for", "peer:peer", expect=0)
    if accept == "true":
        assert hosts.read() == before
        product.run("tailscale", "set", "--accept-dns=false", expect=0)
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.run("tailscale", "set", "--accept-dns=true", expect=0)
    eventually(lambda: hosts.read() == before)


def test_never(make: Make, peer: Node, hosts: Hosts) -> None:
    """`dns.hosts = false`; then by hand, and taken out by hand, and it stays out."""
    before = hosts.read()
    product = make(TAZPOD_NET_DNS_HOSTS="false")
    product.up()
    product.run("wait", "--for", "peer:peer", expect=0)
    assert (hosts.read(), product.status()["dns"]["hosts_block"]) == (before, False)
    assert "followed" in product.run("hosts", "--apply", expect=0).out
    assert hosts.address("peer") == peer.ip
    product.run("hosts", "--apply", expect=0)
    assert hosts.read().count("# END tazpod-net") == 1
    assert "taken out" in product.run("hosts", "--remove", expect=0).out
    assert "no names" in product.run("hosts", "--remove", expect=0).out
    product.status()
    assert hosts.read() == before


def test_taken_out_by_hand_it_stays_out(product: Product, peer: Node, hosts: Hosts, control: Control) -> None:
    """A person's word holds until the configuration is read again."""
    before = hosts.read()
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.run("hosts", "--remove", expect=0)
    control.add_fakes(1, prefix="news")
    product.run("wait", "--for", "peer:peer", expect=0)
    product.eventually(lambda status: status["backend"]["peers"]["total"] == 2)
    assert hosts.read() == before
    product.run("reload", expect=0)
    eventually(lambda: hosts.address("news-1"))


def test_a_supervisor_that_was_killed(product: Product, peer: Node, hosts: Hosts) -> None:
    """Its block stays, as its daemon does; the next one goes on with it, or takes it out if it is not wanted."""
    before = hosts.read()
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.kill_supervisor()
    assert hosts.address("peer") == peer.ip
    product.up()
    product.eventually(lambda status: status["dns"]["hosts_block"])
    product.crash()
    assert hosts.read().count("# END tazpod-net") == 1
    product.up(env={"TAZPOD_NET_DNS_HOSTS": "false"})
    eventually(lambda: hosts.read() == before)


def test_a_block_that_was_cut(product: Product, peer: Node, hosts: Hosts) -> None:
    """Half a block of an earlier life is one again, and others' lines are all there."""
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    whole = hosts.read()
    product.crash()
    hosts.write(whole[:-40])
    product.up()
    eventually(lambda: hosts.read() == whole)
    product.down()
    assert hosts.read() == "127.0.0.1\tlocalhost\n172.17.0.2\tbox"


def test_hand_edits(product: Product, peer: Node, hosts: Hosts, control: Control) -> None:
    """Lines that people add around the block and in it are theirs, also after `down`."""
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    head, begin, tail = hosts.read().partition("# BEGIN")
    first, newline, rest = tail.partition("\n")
    hosts.write(f"10.0.0.1 above\n{head}{begin}{first}{newline}10.0.0.2 within\n{rest}10.0.0.3 below\n")
    control.add_fakes(1, prefix="news")
    eventually(lambda: hosts.address("news-1"))
    product.down()
    assert hosts.read() == "10.0.0.1 above\n127.0.0.1\tlocalhost\n172.17.0.2\tbox\n10.0.0.2 within\n10.0.0.3 below\n"


def test_two_homes_in_one_container(make: Make, peer: Node, hosts: Hosts) -> None:
    """A block for each; the end of one leaves the other's."""
    before = hosts.read() + "\n"  # else the first one's newline would stay, for the second one's sake
    hosts.write(before)
    one, two = make(), make()
    for product in (one, two):
        product.up()
    eventually(lambda: hosts.read().count("# END tazpod-net") == 2)
    one.down()
    assert hosts.address("peer") == peer.ip
    assert hosts.read().count("# END tazpod-net") == 1
    two.down()
    assert hosts.read() == before


def test_names_that_would_shadow_others(product: Product, control: Control, hosts: Hosts) -> None:
    """`localhost` and a name that stands in the file keep their addresses; that is said."""
    hosts.write("127.0.0.1\tlocalhost\n10.9.9.9\tdb\n")
    with Node(control, hostname="localhost", place=product.place) as one:
        one.up()
        with Node(control, hostname="db", place=product.place) as two:
            two.up()
            product.up()
            eventually(lambda: hosts.address("db.example.ts.net") == two.ip)
            assert (hosts.address("db"), hosts.address("localhost")) == ("10.9.9.9", "127.0.0.1")
            done = product.run("hosts", expect=0)
            assert "left out: db stands elsewhere in the file" in done.err
            assert "left out: localhost is reserved" in done.err
            assert f"{two.ip}\tdb.example.ts.net\n" in done.out


def test_printed(product: Product, peer: Node, hosts: Hosts) -> None:
    """Just what would be in the file."""
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    printed = product.run("hosts", expect=0).out
    assert hosts.read().replace(" +newline", "").endswith(printed)
    assert f"{peer.ip}\tpeer.example.ts.net peer\n" in printed


def test_logged_out_it_has_no_names(product: Product, peer: Node, hosts: Hosts) -> None:
    """Without a tailnet its names mean nothing; `hosts` says why."""
    before = hosts.read()
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.run("logout", expect=0)
    eventually(lambda: hosts.read() == before)
    assert "not ready" in product.run("hosts", expect=1).err
    assert "not ready" in product.run("hosts", "--apply", expect=1).err


def test_without_a_supervisor(product: Product, peer: Node, hosts: Hosts) -> None:
    """Nothing to print; what an earlier one left can be taken out."""
    before = hosts.read()
    assert product.run("hosts", expect=3).err == "tazpod-net: no supervisor runs for this home: tazpod-net up\n"
    product.run("hosts", "--apply", expect=3)
    assert "no names" in product.run("hosts", "--remove", expect=0).out
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.crash()
    assert "taken out" in product.run("hosts", "--remove", expect=0).out
    assert hosts.read() == before


def test_a_user_without_the_right(make: Make, peer: Node, hosts: Hosts) -> None:
    """By default nothing is written and nothing said; root can write it once, by hand, and take it out."""
    before = hosts.read()
    product = make(uid=USER)
    product.up()
    product.run("wait", "--for", "peer:peer", expect=0)
    status = product.status()
    assert (status["dns"]["hosts_block"], [n for n in status["notes"] if n["code"] == "hosts"]) == (False, [])
    assert product.run("hosts", "--apply", expect=1).err.endswith("you may not write /etc/hosts: run it as root\n")
    assert hosts.read() == before
    product.uid = None
    done = product.run("hosts", "--apply", expect=0)
    assert "written once" in done.err
    assert hosts.address("peer") == peer.ip
    product.run("hosts", "--remove", expect=0)
    assert hosts.read() == before


def test_asked_for_and_not_to_be_had(make: Make, hosts: Hosts) -> None:
    """Who configured it is told in `status`."""
    product = make(uid=USER, TAZPOD_NET_DNS_HOSTS="true")
    product.up()
    status = product.eventually(lambda status: [n for n in status["notes"] if n["code"] == "hosts"])
    (note,) = [n for n in status["notes"] if n["code"] == "hosts"]
    assert note["text"] == "/etc/hosts cannot be written (permission denied)"


def test_a_storm_of_peers(product: Product, control: Control, hosts: Hosts) -> None:
    """Five thousand come, and go."""
    product.up()
    control.add_fakes(5000, online=10)
    eventually(lambda: hosts.address("fake-5000.example.ts.net"), within=60)
    assert product.status()["backend"]["peers"]["total"] == 5000
    product.down()
    assert hosts.read() == "127.0.0.1\tlocalhost\n172.17.0.2\tbox"


def test_the_list_for_completions(product: Product, peer: Node, hosts: Hosts) -> None:
    """A file that shells read without waiting for anybody; it goes with the supervisor."""
    product.up()
    listed = product.state / "peers"
    eventually(lambda: listed.read_text() == "peer peer.example.ts.net\n")
    assert listed.stat().st_mode & 0o777 == 0o644
    script = (
        f'eval "$({product.command} completion bash)"; COMP_WORDS=(tazpod-net wait --for peer : p) COMP_CWORD=5; '
        '_tazpod_net; echo "${COMPREPLY[*]}"'
    )
    assert product.place.run(["bash", "-c", script], env=product.env, check=True).stdout == "peer\n"
    product.down()
    assert not listed.exists()


def test_a_file_that_is_read_only(product: Product, peer: Node, hosts: Hosts) -> None:
    """One line and what to do; nothing else is disturbed by it."""
    bind = "cp /etc/hosts /run/ro && mount --bind /run/ro /etc/hosts && mount -o remount,ro,bind /etc/hosts"
    hosts.place.run(["sh", "-c", bind], check=True)
    product.up()
    said = product.run("hosts", "--apply", expect=1).err.splitlines()[-1]
    assert said == "tazpod-net: /etc/hosts cannot be written (read-only file system): mount it writable"
    assert product.status(expect=0)["dns"]["hosts_block"] is False
    product.down()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_container_that_stops(product: Product, peer: Node, hosts: Hosts, number: signal.Signals) -> None:
    """The supervisor's orderly end takes the names out, whoever asked for it."""
    before = hosts.read()
    product.up()
    eventually(lambda: hosts.address("peer") == peer.ip)
    product.kill_supervisor(number)
    eventually(lambda: hosts.read() == before)
    eventually(lambda: not Path(f"/proc/{product.daemons()}").exists() and not product.daemons())
