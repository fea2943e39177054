"""The daemon outlives its supervisor, and the next supervisor takes it over: never a second one."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Make
from tests.e2e.pidspace import NeverReaping
from tests.support.eventually import eventually
from tests.support.lab import Binaries, Control
from tests.support.netns import Place
from tests.support.product import Product, gone, is_alive, kill, state_of

# Spawns that are cut short, over all parts; a longer campaign sets the variable.
KILLS = int(os.environ.get("TAZPOD_TEST_SPAWN_KILLS", "150"))
PARTS = 5
WINDOW_S = 0.006


class TestSupervisorKilled:
    """`kill -9` of the supervisor."""

    def test_the_daemon_lives_and_is_named(self, moded: Product) -> None:
        """The daemon goes on; `status` exits 3, names its pid and the way to take it over."""
        moded.up()
        before = moded.status()["daemon"]["pid"]
        moded.kill_supervisor()
        seen = moded.status(expect=3)
        assert is_alive(before)
        assert (seen["live"], seen["daemon"]["pid"], seen["supervisor"]["state"]) == (False, before, "down")
        text = moded.run("status", expect=3).out
        assert f"supervisor is gone, tailscaled (pid {before}) still runs: tazpod-net up takes it over" in text
        assert moded.short() == "tailnet: down"

    def test_the_next_up_adopts(self, moded: Product, control: Control) -> None:
        """`up` after it: same daemon pid, `adopted`, ready; nothing was started, logged in or cleaned."""
        moded.up()
        before = moded.status()
        starts = moded.log.read_text().count("Program starting")
        moded.kill_supervisor()
        moded.up()
        after = moded.status(expect=0)
        assert (after["daemon"]["pid"], after["daemon"]["adopted"]) == (before["daemon"]["pid"], True)
        assert after["daemon"]["mode"] == before["daemon"]["mode"]
        assert after["proxy"] == before["proxy"]
        assert after["backend"]["ips"] == before["backend"]["ips"]
        assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
        assert moded.log.read_text().count("Program starting") == starts
        assert "restoring" not in moded.log.read_text()
        assert len(control.logins()) == 1

    def test_fifty_ups_after_it(self, product: Product) -> None:
        """However many try: all exit 0 beside the one old daemon."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        assert {done.code for done in product.at_once([["up"]] * 50)} == {0}
        assert product.daemons() == [pid]

    def test_what_the_daemon_logs_meanwhile_is_kept(self, product: Product) -> None:
        """Lines written while nobody supervises are in the log after the adoption, each once."""
        product.up()
        product.kill_supervisor()
        for number in range(5):
            product.run("tailscale", "set", f"--hostname=while-alone-{number}", expect=0)
        product.up()
        wanted = "while-alone-4"
        eventually(lambda: wanted in product.log.read_text())
        lines = product.log.read_text().splitlines()
        assert len(lines) == len(set(lines)) or lines.count("Program starting") <= 1
        assert not [line for line in lines if line.startswith("tazpod-net")]

    def test_an_adopted_daemon_is_supervised(self, moded: Product) -> None:
        """Killed after its adoption it is back; its own end is told."""
        moded.up()
        moded.kill_supervisor()
        moded.up()
        pid = moded.kill_daemon()
        seen = moded.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        assert (seen["daemon"]["adopted"], seen["daemon"]["restarts"]) == (False, 1)
        assert seen["daemon"]["last_exit"]["signal"] in {"SIGKILL", None}

    def test_down_stops_a_daemon_without_supervisor(self, moded: Product) -> None:
        """`down` needs no supervisor: it stops the daemon that outlived one."""
        moded.up()
        moded.kill_supervisor()
        moded.down()
        assert moded.daemons() == []
        assert moded.status(expect=3)["wanted"] == "stopped"

    def test_with_the_daemon(self, moded: Product) -> None:
        """Both killed at once leave sockets, lock and records behind: none of them blocks the next `up`."""
        moded.up()
        ips = moded.status()["backend"]["ips"]
        moded.crash()
        assert (moded.state / "control.sock").exists()
        assert (moded.state / "tailscaled.sock").exists()
        assert moded.status(expect=3)["daemon"]["pid"] is None
        moded.up(env={"TS_AUTHKEY": None})
        seen = moded.status(expect=0)
        assert (seen["backend"]["ips"], seen["daemon"]["adopted"]) == (ips, False)

    def test_the_daemon_dies_while_nobody_looks(self, product: Product) -> None:
        """Supervisor killed, then the daemon: the next `up` starts a new one."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        kill(pid)
        gone(pid)
        product.up()
        seen = product.status(expect=0)["daemon"]
        assert (seen["pid"] != pid, seen["adopted"]) == (True, False)

    def test_adopts_although_the_configuration_changed(self, product: Product) -> None:
        """Another port in the configuration: the old daemon is adopted all the same, not doubled."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        product.configure("[daemon]\nport = 41999\n")
        product.up()
        assert product.status()["daemon"]["pid"] == pid
        assert product.daemons() == [pid]

    def test_many_times(self, product: Product) -> None:
        """Ten supervisors in a row: always the same daemon."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        for _ in range(10):
            product.kill_supervisor()
            product.up()
            assert product.daemons() == [pid]


class TestKilledAtTheSpawn:
    """The supervisor dies within the first moments of the daemon's life."""

    @pytest.mark.parametrize("part", range(PARTS))
    def test_never_an_unknown_daemon(self, product: Product, part: int) -> None:
        """Killed within 6 ms of the spawn: the next `up` adopts or starts, and exactly one daemon lives."""
        chance = random.Random(part)
        adopted = 0
        for number in range(KILLS // PARTS):
            self._cut_short(product, "up" if part % 2 else "supervise", chance.uniform(0, WINDOW_S))
            alive = product.daemons()
            assert len(alive) <= 1
            seen = json.loads(product.up("--json", "--wait", "live").out)["daemon"]
            assert product.daemons() == [seen["pid"]], f"round {number}"
            assert seen["adopted"] or not alive, f"round {number}: {alive} lived and was not adopted"
            adopted += seen["adopted"]
            product.crash()
        assert adopted, "no round left a living daemon: the kills come too early to prove anything"

    def _cut_short(self, product: Product, command: str, after: float) -> None:
        """Starts a supervisor and kills it `after` seconds from the birth of its first child."""
        process = product.place.popen(
            [product.command, command], env=product.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        supervisor = process.pid if command == "supervise" else first_child(process.pid)
        first_child(supervisor)
        born = time.monotonic()
        eventually(lambda: time.monotonic() >= born + after, every=0.0001)
        kill(supervisor)
        process.kill()
        process.wait()
        gone(supervisor)
        # What was between fork and exec is a daemon in a moment, or gone.
        eventually(lambda: all(left.is_daemon for left in product.processes()))


def first_child(pid: int) -> int:
    """Waits for it, closely."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(eventually(lambda: children.read_text().split(), every=0.0001)[0])


class TestRecords:
    """`state/daemon.json` is a hint: what does not fit is neither adopted nor killed."""

    @pytest.fixture
    def stranger(self, ns: Place) -> Iterator["subprocess.Popen[Any]"]:
        """A process that has nothing to do with anything."""
        process = ns.popen(["sleep", "600"])
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("lie", ["pid", "pid and ticks", "boot", "garbage", "list", "empty", "huge"])
    def test_lies_are_not_believed(self, product: Product, stranger: "subprocess.Popen[Any]", lie: str) -> None:
        """A record of another boot, another start time or another program: a fresh daemon, the other untouched."""
        product.up()
        product.crash()
        path = product.state / "daemon.json"
        record = json.loads(path.read_text())
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        forged: dict[str, str | bytes] = {
            "pid": json.dumps({**record, "pid": stranger.pid}),
            "pid and ticks": json.dumps({**record, "pid": stranger.pid, "start_ticks": ticks}),
            "boot": json.dumps({**record, "pid": stranger.pid, "start_ticks": ticks, "boot_id": "0" * 36}),
            "garbage": "\0\xff{{{",
            "list": "[1, 2]",
            "empty": "",
            "huge": json.dumps({**record, "pid": 2**70, "start_ticks": -1}),
        }
        path.write_bytes(str(forged[lie]).encode())
        assert product.status(expect=3)["daemon"]["pid"] is None
        product.up()
        seen = product.status(expect=0)["daemon"]
        assert (seen["adopted"], seen["pid"] != stranger.pid) == (False, True)
        assert product.daemons() == [seen["pid"]]
        product.down()
        assert stranger.poll() is None

    def test_no_record_at_all(self, product: Product) -> None:
        """The record deleted, the daemon living: it is found and adopted, not doubled."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        (product.state / "daemon.json").unlink()
        product.up()
        assert product.status()["daemon"]["pid"] == pid
        assert product.daemons() == [pid]

    def test_another_program_on_the_recorded_pid(self, product: Product, stranger: "subprocess.Popen[Any]") -> None:
        """The daemon lives under its true pid while the record names another: the true one is adopted."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        path = product.state / "daemon.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": stranger.pid}))
        product.up()
        assert product.status()["daemon"]["pid"] == pid
        assert stranger.poll() is None


class TestStaleFiles:
    """What a crash leaves never blocks."""

    def test_lock_file_of_a_dead_supervisor(self, product: Product) -> None:
        """A lock file that names a pid which somebody else has now is only text."""
        product.up()
        product.crash()
        own = os.getpid()
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        (product.state / "supervisor.lock").write_text(f"{own} {ticks}\n")
        product.up()
        product.down()

    @pytest.mark.parametrize("what", ["file", "dead socket", "directory"])
    @pytest.mark.parametrize("name", ["control.sock", "tailscaled.sock"])
    def test_something_in_the_way_of_a_socket(self, product: Product, name: str, what: str) -> None:
        """A plain file or a dead socket is replaced; a directory is a plain error, and `up` ends."""
        product.state.mkdir(parents=True)
        path = product.state / name
        if what == "file":
            path.write_text("stale")
        elif what == "directory":
            (path / "full").mkdir(parents=True)
        else:
            product.up()
            product.crash()
            assert path.is_socket()
        done = product.run("up", "--timeout", "3")
        if what == "directory":
            assert done.code == 1
            assert done.err.strip().splitlines()[-1].startswith("tazpod-net: ")
        else:
            assert done.code == 0, str(done)

    def test_half_written_leftovers(self, product: Product) -> None:
        """Empty or cut-off private files in `state` do not keep it from starting."""
        product.up()
        product.crash()
        kept = {"tailscaled.state"}
        for path in product.state.iterdir():
            if path.is_file() and path.name not in kept:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        product.up(env={"TS_AUTHKEY": None})
        assert product.status(expect=0)["ready"] is True


class TestContainers:
    """Under a PID 1 that never reaps."""

    @pytest.fixture
    def contained(self, ns: Place, control: Control, lab: Binaries) -> Iterator[Product]:
        """A home whose commands run in a pid namespace with `sleep infinity` as PID 1."""
        with NeverReaping(ns) as place, Product(place, control=control, programs=lab) as product:
            yield product

    @pytest.mark.root
    def test_an_adopted_daemon_that_stays_a_zombie(self, contained: Product) -> None:
        """Supervisor killed, daemon adopted, daemon killed: nobody reaps it, and it is restarted all the same."""
        contained.up()
        inner = contained.status()["supervisor"]["pid"]
        contained.place.run(["kill", "-KILL", str(inner)], check=True)
        eventually(lambda: contained.status()["supervisor"]["pid"] is None)
        contained.up()
        first = contained.daemons()
        before = contained.status()["daemon"]
        assert before["adopted"] is True
        kill(first[0])
        after = contained.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != before["pid"])
        assert after["daemon"]["restarts"] == 1
        assert after["daemon"]["last_exit"]["signal"] == "SIGKILL"
        assert state_of(first[0]) == "Z"
        assert len(contained.daemons()) == 1

    @pytest.mark.root
    def test_a_zombie_is_not_a_daemon(self, contained: Product) -> None:
        """Both killed, both zombies for ever: `status` says that nothing runs, `up` starts a new one, `down` ends."""
        contained.up()
        old = contained.daemons()
        contained.crash()
        assert state_of(old[0]) == "Z"  # and stays so
        assert contained.status(expect=3)["daemon"]["pid"] is None
        contained.up()
        assert contained.status(expect=0)["daemon"]["adopted"] is False
        contained.down(timeout=20)
        assert contained.daemons() == []

    @pytest.mark.root
    def test_down_after_adoption(self, contained: Product) -> None:
        """`down` of an adopted daemon that stays a zombie ends at once, not at the timeout."""
        contained.up()
        contained.place.run(["kill", "-KILL", str(contained.status()["supervisor"]["pid"])], check=True)
        contained.up()
        contained.down(timeout=15)
        assert contained.daemons() == []


class TestOutOfSight:
    """The home's daemon lives in another pid namespace, as with two containers on one volume."""

    @pytest.mark.root
    def test_is_never_doubled(self, ns: Place, make: Make) -> None:
        """From where it cannot be seen: `up` exits 1 and says so; the daemon is untouched."""
        with NeverReaping(ns) as elsewhere, NeverReaping(ns) as here:
            there = make(place=elsewhere)
            there.up()
            kill(next(p.pid for p in there.processes() if not p.is_daemon))
            daemon = there.daemons()
            second = make(place=here, home=there.home)
            done = second.up(expect=1)
            assert "cannot be seen from here" in done.err
            assert second.daemons() == []
            assert there.daemons() == daemon
            os.kill(daemon[0], signal.SIGKILL)
