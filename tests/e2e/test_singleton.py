"""One home, one daemon: however many commands start at once, in whatever order, and beside whom."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Binaries, Control, Mode, Node
from tests.support.netns import Place
from tests.support.product import Product, free_port, gone, is_alive

ROUNDS = 30


class TestAtOnce:
    """Simultaneous commands on one home."""

    def test_fifty_ups(self, moded: Product) -> None:
        """50 simultaneous `up` on an empty home: one daemon, 50 exit codes 0, one login."""
        done = moded.at_once([["up", "--timeout", "60"]] * 50)
        assert [d for d in done if d.code != 0] == []
        assert len(moded.daemons()) == 1
        assert moded.control is not None
        assert len(moded.control.nodes()) == 1

    def test_fifty_ups_beside_a_running_one(self, product: Product) -> None:
        """50 more change nothing."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        assert {d.code for d in product.at_once([["up"]] * 50)} == {0}
        assert product.daemons() == [pid]

    def test_statuses_during_ups(self, product: Product) -> None:
        """`status` in between never starts, breaks or hangs anything."""
        done = product.at_once([["up"], ["status", "--json"], ["status", "--short"], ["wait"]] * 5)
        assert {d.code for d in done if d.argv[0] in {"up", "wait"}} == {0}
        assert {d.code for d in done} <= {0, 1, 3}
        assert len(product.daemons()) == 1

    @pytest.mark.parametrize("seed", range(3))
    def test_up_against_down(self, product: Product, seed: int) -> None:
        """`up` and `down` in random interleavings: each ends as documented, never two daemons, never a hang."""
        chance = random.Random(seed)
        for _ in range(ROUNDS // 3):
            self._race(product, chance)
        product.down()
        assert product.daemons() == []
        product.up()
        assert len(product.daemons()) == 1

    def _race(self, product: Product, chance: random.Random) -> None:
        """One `up` and one `down`, the second a moment later: from nothing, or from a running daemon."""
        pair = [["up", "--timeout", "30"], ["down"]]
        chance.shuffle(pair)
        delay = f"import time; time.sleep({chance.uniform(0, 0.35)})"
        slow = ["sh", "-c", f'python3 -c "{delay}"; exec "$@"', "sh", product.command, *pair[1]]
        late = product.place.popen(slow, env=product.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            first = product.run(*pair[0], timeout=30)
            out, _ = late.communicate(timeout=30)
        finally:
            late.kill()
            late.communicate()
        codes = {pair[0][0]: first.code, pair[1][0]: late.returncode}
        texts = {pair[0][0]: first.said, pair[1][0]: out}
        assert codes["down"] == 0, texts
        assert codes["up"] == 0 or (codes["up"] == 1 and "stopped by down" in texts["up"]), texts
        assert len(product.daemons()) <= 1
        seen = product.status()
        is_up = seen["supervisor"]["state"] != "down"
        assert is_up or seen["daemon"]["pid"] is None, seen
        assert is_up == bool(product.daemons())


class TestSupervise:
    """The foreground form knows the same lock."""

    def test_one_of_five_lives(self, product: Product) -> None:
        """Five simultaneous `supervise`: one supervises, four exit 1 naming its pid."""
        running = [product.popen("supervise", stderr=subprocess.PIPE) for _ in range(5)]
        product.run("wait", expect=0)
        winner = product.status()["supervisor"]["pid"]
        losers = [r.process for r in running if r.process.pid != winner]
        assert len(losers) == 4
        for process in losers:
            _, err = process.communicate(timeout=30)
            assert process.returncode == 1
            assert f"pid {winner}" in err.decode()
        assert len(product.daemons()) == 1

    def test_beside_up(self, product: Product) -> None:
        """`supervise` beside a supervisor in the background exits 1 naming it."""
        product.up()
        done = product.run("supervise", expect=1)
        assert f"pid {product.status()['supervisor']['pid']}" in done.err

    def test_takeover_keeps_the_daemon(self, moded: Product) -> None:
        """`supervise --takeover` ends the other supervisor, not the daemon: same pid, adopted."""
        moded.up()
        before = moded.status()
        with moded.popen("supervise", "--takeover") as foreground:
            after = moded.eventually(lambda s: s["supervisor"]["pid"] == foreground.process.pid and s["ready"])
            assert (after["daemon"]["pid"], after["daemon"]["adopted"]) == (before["daemon"]["pid"], True)
            gone(before["supervisor"]["pid"])
            assert moded.daemons() == [before["daemon"]["pid"]]
            moded.down()

    def test_takeover_of_nothing(self, product: Product) -> None:
        """`supervise --takeover` where nobody supervises simply starts."""
        with product.popen("supervise", "--takeover"):
            product.run("wait", expect=0)


class TestTwoHomes:
    """Two homes in one network namespace."""

    @pytest.mark.root
    def test_a_second_tun_daemon_is_refused(self, make: Make) -> None:
        """Only one TUN daemon: the second home's `up` exits 1, names the other's address, and disturbs nothing."""
        one, two = make(mode="tun"), make(mode="tun")
        one.up()
        before = one.status()
        done = two.up(expect=1)
        assert "another tailscaled owns this network namespace" in done.err
        assert before["backend"]["ips"][0] in done.err
        assert "--mode userspace" in done.err
        assert two.daemons() == []
        after = one.status(expect=0)
        assert after["daemon"]["pid"] == before["daemon"]["pid"]
        assert "restoring" not in one.log.read_text()  # its rules were not touched (router_linux.go:345)

    @pytest.mark.root
    def test_two_tun_starts_at_once(self, make: Make) -> None:
        """Two homes that start in TUN mode at the same moment: one gets it, the other is refused."""
        for _ in range(5):
            homes = [make(mode="tun") for _ in range(2)]
            running = [home.popen("up", "--wait", "live", stderr=subprocess.STDOUT) for home in homes]
            codes = {output.process.wait(timeout=20): output for output in running}
            assert set(codes) == {0, 1}
            assert "--mode userspace" in codes[1].rest()[-1]
            # A moment after a start a child asks the daemon for its version.
            eventually(lambda homes=homes: sorted(len(home.processes()) for home in homes) == [0, 2])  # type: ignore[misc]
            for home in homes:
                home.down()

    @pytest.mark.root
    def test_auto_mode_does_not_start_a_second_node_by_itself(self, make: Make) -> None:
        """`auto` beside a TUN daemon is refused too: programs here use that one already."""
        one, two = make(mode="tun"), make(mode="auto")
        one.up()
        done = two.up(expect=1)
        assert "--mode userspace" in done.err
        assert two.daemons() == []

    @pytest.mark.root
    def test_userspace_works_beside_tun(self, make: Make, peer: Node) -> None:
        """A userspace home beside a TUN one is a node of its own; both reach a third."""
        one, two = make(mode="tun"), make()
        one.up()
        two.up()
        port = peer.serve("both")
        assert [home.fetch(f"http://{peer.ip}:{port}/") for home in (one, two)] == ["both", "both"]
        assert one.status()["backend"]["ips"] != two.status()["backend"]["ips"]

    def test_proxies_take_the_next_free_port(self, make: Make, peer: Node) -> None:
        """The second userspace home listens on another port, says so, and works."""
        given = {f"TAZPOD_NET_PROXY_{kind}": f"127.0.0.1:{free_port()}" for kind in ("SOCKS5", "HTTP")}
        one, two = make(**given), make(**given)
        one.up()
        two.up()
        ports = [home.status()["proxy"] for home in (one, two)]
        assert ports[0]["http"] == given["TAZPOD_NET_PROXY_HTTP"]
        assert ports[0]["socks5"] == given["TAZPOD_NET_PROXY_SOCKS5"]
        assert len({*ports[0].values(), *ports[1].values()}) == 4
        assert all(port in two.run("status").out for port in ports[1].values())
        url = f"http://{peer.ip}:{peer.serve('next door')}/"
        assert [home.fetch(url) for home in (one, two)] == ["next door", "next door"]


class TestForeign:
    """A tailscaled that this program did not start."""

    @pytest.fixture(autouse=True)
    def _by_hands(self) -> Iterator[None]:
        self.started: list[subprocess.Popen[Any]] = []
        yield
        for process in self.started:
            process.kill()
            process.wait()

    def _by_hand(self, product: Product, state: Path, socket: Path, tun: str = "userspace-networking") -> int:
        """Starts tailscaled as a person would; its pid."""
        state.mkdir(parents=True, exist_ok=True)
        argv = [str(product.programs.tailscaled), f"--statedir={state}", f"--socket={socket}", "--port=0"]
        env = {**product.env, "TS_LOGS_DIR": str(state)}
        env.pop("TS_AUTHKEY", None)
        process = product.place.popen(
            [*argv, f"--tun={tun}"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            new_session=True,
        )
        self.started.append(process)
        eventually(socket.is_socket)
        return process.pid

    def test_on_our_state_is_refused_and_taken_over(self, make: Make, control: Control, mode: Mode) -> None:
        """One on HOME/state: `up` exits 1 naming pid and option; `--takeover` stops it and keeps the identity."""
        product = make(mode=mode)
        product.up()
        identity = product.status()["backend"]["ips"], control.nodes()[0]["node_key"]
        product.down()
        socket = product.user / "by-hand.sock"
        pid = self._by_hand(product, product.state, socket, "tailscale0" if mode == "tun" else "userspace-networking")
        refused = product.up(expect=1)
        assert f"(pid {pid}" in refused.err
        assert "tazpod-net up --takeover" in refused.err
        assert is_alive(pid)
        seen = product.status(expect=3)
        assert "up takes it over" not in seen["summary"]  # it does not without the option
        product.up("--takeover")
        assert not is_alive(pid)
        seen = product.status(expect=0)
        assert (seen["backend"]["ips"], control.node(seen["backend"]["ips"][0])["node_key"]) == identity
        assert len(product.daemons()) == 1

    def test_on_our_socket_is_refused(self, product: Product) -> None:
        """One that serves HOME's socket from another state is named as well."""
        product.state.mkdir(parents=True)
        socket = product.state / "tailscaled.sock"
        pid = self._by_hand(product, product.user / "other", socket)
        assert f"(pid {pid}" in product.up(expect=1).err
        assert is_alive(pid)
        done = product.run("status", expect=3)
        assert done.out.startswith(f"not running: a tailscaled started by hand (pid {pid}) uses this home")
        assert "up --takeover" in done.out

    def test_of_another_state_is_left_alone(self, product: Product) -> None:
        """One with its own state and socket lives on beside ours, `--takeover` or not."""
        other = product.user / "other"
        pid = self._by_hand(product, other, other / "sock")
        product.up("--takeover")
        assert is_alive(pid)
        product.down()
        assert is_alive(pid)

    @pytest.mark.root
    def test_that_owns_the_interface_is_left_alone(
        self, make: Make, control: Control, ns: Place, lab: Binaries
    ) -> None:
        """A TUN tailscaled of somebody else: refused, with or without `--takeover`, and undisturbed."""
        product = make(mode="tun")
        with Node(control, hostname="theirs", place=ns, mode="tun", programs=lab) as theirs:
            theirs.up()
            for options in ([], ["--takeover"]):
                done = product.up(*options, expect=1)
                assert "another tailscaled owns this network namespace" in done.err
                assert theirs.ip in done.err
            assert is_alive(theirs.pid)
            assert "restoring" not in theirs.log.read_text()  # its rules were not touched (router_linux.go:345)
