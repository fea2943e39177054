"""TUN or userspace: what is chosen, why, what happens when it cannot be had, and DNS in between."""

import json

import pytest

from tests.e2e.conftest import Make
from tests.e2e.test_restart import script
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.netns import Place, tun_refusal
from tests.support.product import Product, kill

pytestmark = pytest.mark.root

# What tailscaled 1.102.5 says when the interface is taken (wgengine.NewUserspaceEngine, tstun.New), then exit 1.
TUN_ERROR = """
case " $* " in *--tun=tailscale0*)
  if [ -e "$0.refuse" ]; then
    echo 'wgengine.NewUserspaceEngine(tun "tailscale0") error: tstun.New("tailscale0"): device or resource busy' >&2
    echo 'flushing log.' >&2
    echo 'logger closing down' >&2
    echo 'getLocalBackend error: createEngine: tstun.New("tailscale0"): device or resource busy' >&2
    exit 1
  fi;;
esac
exec "$REAL" "$@"
"""
RESOLVER = "nameserver 100.100.100.100"


@pytest.fixture(autouse=True)
def _tun() -> None:
    """All of these need a machine that can do TUN."""
    if refusal := tun_refusal():
        pytest.skip(refusal)


@pytest.fixture
def no_device(ns: Place) -> Place:
    """The place without /dev/net/tun."""
    ns.run(["rm", "/dev/net/tun"], check=True)
    return ns


def put_back(place: Place) -> None:
    """The device as it was."""
    place.run(["mknod", "-m", "0666", "/dev/net/tun", "c", "10", "200"], check=True)


class TestWithoutDevice:
    """No /dev/net/tun."""

    def test_auto_goes_to_userspace_and_says_why(self, make: Make, no_device: Place) -> None:
        """`auto` is ready in userspace mode; `status` gives the reason and the flag that fixes it."""
        product = make(mode=None)
        done = product.up()
        assert "userspace (proxy only)" in done.out
        seen = product.status(expect=0)
        assert seen["daemon"]["mode"] == "userspace"
        assert "/dev/net/tun" in seen["daemon"]["mode_reason"]
        assert "--device" in seen["daemon"]["mode_reason"]
        why = [line for line in product.run("status").out.splitlines() if line.strip().startswith("why")]
        assert "/dev/net/tun" in why[0]

    def test_tun_is_fatal_until_the_device_appears(self, make: Make, no_device: Place) -> None:
        """`tun` never falls back: exit 1 with the reason, state `fatal`; the device cures it by itself."""
        product = make(mode="tun")
        done = product.up(expect=1)
        assert "/dev/net/tun" in done.err
        seen = product.status(expect=1)
        assert (seen["supervisor"]["state"], seen["daemon"]["pid"]) == ("fatal", None)
        assert product.short() == "tailnet: fatal"
        assert "/dev/net/tun" in product.run("status").out
        put_back(no_device)
        assert product.eventually(lambda s: s["ready"])["daemon"]["mode"] == "tun"

    def test_probe_says_no(self, make: Make, no_device: Place) -> None:
        """`probe` exits 1 for `tun` and 0 for `auto`, and names device and fix in both."""
        for mode, code in (("tun", 1), ("auto", 0)):
            product = make(mode=mode)
            done = product.run("probe", expect=code)
            assert "/dev/net/tun" in done.said
            assert "--device" in done.said
            assert json.loads(product.run("probe", "--json", expect=code).out)

    def test_down_works_while_fatal(self, make: Make, no_device: Place) -> None:
        """A supervisor without a daemon is stopped as any other."""
        product = make(mode="tun")
        product.up(expect=1)
        product.down(timeout=15)
        assert product.processes() == []


class TestWithDevice:
    """TUN works."""

    def test_auto_chooses_tun(self, make: Make) -> None:
        """`auto` takes TUN where it can be had."""
        product = make(mode=None)
        product.up()
        assert product.status()["daemon"]["mode"] == "tun"

    def test_forbidden_device_is_told_apart(self, make: Make, ns: Place) -> None:
        """A node that may not be opened is another reason than one that is missing."""
        ns.run(["sh", "-c", "rm /dev/net/tun; mknod -m 0666 /dev/net/tun c 10 199"], check=True)
        product = make(mode=None)
        product.up()
        reason = product.status()["daemon"]["mode_reason"]
        assert "/dev/net/tun" in reason
        assert product.status()["daemon"]["mode"] == "userspace"

    def test_restart_changes_the_mode(self, make: Make) -> None:
        """`restart --mode` goes from TUN to userspace and back: same supervisor, same address."""
        product = make(mode="tun")
        product.up()
        before = product.status()
        for mode in ("userspace", "tun"):
            product.run("restart", "--mode", mode, expect=0)
            seen = product.status(expect=0)
            assert seen["daemon"]["mode"] == mode
            assert seen["supervisor"]["pid"] == before["supervisor"]["pid"]
            assert seen["backend"]["ips"] == before["backend"]["ips"]
            assert (seen["proxy"]["http"] is None) == (mode == "tun")

    def test_another_interface_name(self, make: Make) -> None:
        """`daemon.interface` names the device."""
        product = make(mode="tun", TAZPOD_NET_DAEMON_INTERFACE="tznet0")
        product.up()
        assert product.status()["daemon"]["interface"] == "tznet0"
        product.place.run(["test", "-e", "/proc/sys/net/ipv4/conf/tznet0"], check=True)


class TestTunStartFails:
    """The probe said yes, tailscaled says no."""

    @pytest.fixture
    def refusing(self, make: Make) -> Product:
        """A tailscaled that fails in TUN mode as long as a file is there."""
        product = make(mode=None)
        path = script(product, TUN_ERROR)
        path.with_name("tailscaled.refuse").touch()
        return product

    def test_goes_to_userspace_once_and_says_so(self, refusing: Product) -> None:
        """`auto`: ready in userspace mode, the reason in `status`; the next start tries TUN again."""
        refusing.up()
        seen = refusing.status(expect=0)["daemon"]
        assert seen["mode"] == "userspace"
        assert "another program holds tailscale0" in seen["mode_reason"]
        assert "another program holds tailscale0" in refusing.run("status").out
        (refusing.user / "bin" / "tailscaled.refuse").unlink()
        refusing.run("restart", expect=0)
        assert refusing.status()["daemon"]["mode"] == "tun"

    def test_a_start_in_userspace_mode_is_not_a_restart_loop(self, refusing: Product) -> None:
        """One failed start, one that lives."""
        refusing.up()
        assert refusing.log.read_text().count("createEngine: tstun.New") == 1
        assert len(refusing.daemons()) == 1

    def test_with_mode_tun_it_fails_clearly(self, refusing: Product) -> None:
        """`tun`: no fallback; `up` is exit 1 with the cause."""
        done = refusing.up("--mode", "tun", "--timeout", "5", expect=1)
        assert "another program holds tailscale0" in done.err
        assert refusing.status(expect=1)["daemon"]["mode"] in {"tun", None}
        assert refusing.daemons() == []


class TestDns:
    """The container's resolver (TUN mode with MagicDNS)."""

    @pytest.fixture
    def resolving(self, make: Make, control: Control) -> Product:
        """A TUN home on a tailnet that wants to resolve names."""
        control.set(magic_dns=True, dns_resolvers=["127.0.0.1"])
        return make(mode="tun")

    def _resolv_conf(self, product: Product) -> str:
        return product.place.run(["cat", "/etc/resolv.conf"], check=True).stdout

    def test_down_restores_it(self, resolving: Product) -> None:
        """While up the resolver is tailscale's, after `down` what it was."""
        before = self._resolv_conf(resolving)
        resolving.up()
        eventually(lambda: RESOLVER in self._resolv_conf(resolving))
        seen = resolving.eventually(lambda s: "100.100.100.100" in s["dns"]["resolver"])
        assert seen["dns"]["guarded"] is True
        resolving.down()
        assert self._resolv_conf(resolving) == before

    def test_a_dead_daemon_does_not_take_dns_along(self, resolving: Product) -> None:
        """Killed, and not restarted soon: the old resolver is back while the supervisor runs."""
        before = self._resolv_conf(resolving)
        resolving.configure("[restart]\ninitial_s = 60\nmax_s = 60\n")
        resolving.up()
        eventually(lambda: RESOLVER in self._resolv_conf(resolving))
        resolving.kill_daemon()
        eventually(lambda: self._resolv_conf(resolving) == before, within=5)

    def test_a_crash_of_both_is_repaired_at_the_next_start(self, resolving: Product) -> None:
        """Supervisor and daemon killed: the next `up` brings a working resolver, its `down` the old one."""
        before = self._resolv_conf(resolving)
        resolving.up()
        eventually(lambda: RESOLVER in self._resolv_conf(resolving))
        resolving.crash()
        assert RESOLVER in self._resolv_conf(resolving)
        resolving.up()
        resolving.down()
        assert self._resolv_conf(resolving) == before

    def test_down_after_a_crash_repairs_it(self, resolving: Product) -> None:
        """`down` clears what a crash left, the resolver included."""
        before = self._resolv_conf(resolving)
        resolving.up()
        eventually(lambda: RESOLVER in self._resolv_conf(resolving))
        resolving.crash()
        resolving.down()
        assert self._resolv_conf(resolving) == before

    def test_supervisor_killed_then_daemon(self, resolving: Product) -> None:
        """Nobody guards, the daemon dies: the next `up` in userspace mode repairs the resolver too."""
        before = self._resolv_conf(resolving)
        resolving.up()
        eventually(lambda: RESOLVER in self._resolv_conf(resolving))
        daemon = resolving.daemons()[0]
        resolving.kill_supervisor()
        kill(daemon)
        eventually(lambda: not resolving.daemons())
        resolving.up("--mode", "userspace")
        assert eventually(lambda: self._resolv_conf(resolving) == before)
