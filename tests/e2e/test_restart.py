"""A daemon that dies, hangs or never starts: what the supervisor does, and what `status` says of it."""

import json
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.product import Product, gone, is_alive, kill, state_of

# Long enough that nothing is restarted while a test looks.
DEAF = 'import signal; signal.signal(15, signal.SIG_IGN); print("deaf", flush=True); signal.pause()'
SLOW = "[restart]\ninitial_s = 60\nmax_s = 60\n"


def age(seen: dict[str, Any]) -> float:
    """Seconds that the daemon has run."""
    now, since = (datetime.fromisoformat(t) for t in (seen["checked_at"], seen["daemon"]["since"]))
    return (now - since).total_seconds()


def script(product: Product, text: str) -> Path:
    """A program in place of tailscaled; `$REAL` is the true one."""
    product.user.joinpath("bin").mkdir(exist_ok=True)
    path = product.user / "bin" / "tailscaled"
    fresh = path.with_name("tailscaled.new")
    fresh.write_text(f"#!/bin/sh\nREAL={product.programs.tailscaled}\n{text}\n")
    fresh.chmod(0o755)
    fresh.rename(path)
    product.env["TAZPOD_NET_DAEMON_BINARY"] = str(path)
    return path


class TestKilled:
    """`kill -9` of the daemon."""

    def test_after_a_stable_run_it_is_back_at_once(self, moded: Product) -> None:
        """No back-off: the stream goes from ready to starting to ready, with the same address."""
        moded.configure("[restart]\nstable_s = 0.5\ninitial_s = 60\n")
        moded.up()
        before = moded.eventually(lambda s: age(s) > 1.5)
        with moded.popen("status", "--watch", "--json") as watch:
            watch.until(lambda _: True)
            kill(before["daemon"]["pid"])
            watch.until(lambda line: not json.loads(line)["ready"])
            after = json.loads(watch.until(lambda line: json.loads(line)["ready"]))
            assert "backoff" not in {json.loads(line)["supervisor"]["state"] for line in watch.lines}
        assert after["backend"]["ips"] == before["backend"]["ips"]
        assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
        daemon = after["daemon"]
        assert (daemon["restarts"], daemon["adopted"], daemon["mode"]) == (1, False, before["daemon"]["mode"])
        assert len(moded.daemons()) == 1

    def test_after_a_short_run_it_backs_off(self, product: Product) -> None:
        """State `backoff`, the time of the next start, and the exit: all in `status`."""
        product.configure(SLOW)
        product.up()
        product.kill_daemon()
        seen = product.eventually(lambda s: s["supervisor"]["state"] == "backoff")
        assert product.status(expect=1)["live"] is False
        wait = datetime.fromisoformat(seen["daemon"]["next_start"]) - datetime.fromisoformat(seen["checked_at"])
        assert 10 < wait.total_seconds() <= 61
        assert seen["daemon"]["pid"] is None
        assert product.short() == "tailnet: backoff"
        assert product.run("status", expect=1).out.startswith("backing off: ")
        assert product.daemons() == []

    def test_restart_ends_a_back_off(self, product: Product) -> None:
        """`restart` starts at once what would start in a minute."""
        product.configure(SLOW)
        product.up()
        product.kill_daemon()
        product.eventually(lambda s: s["supervisor"]["state"] == "backoff")
        product.run("restart", expect=0)
        assert product.status(expect=0)["ready"] is True

    def test_down_during_a_back_off(self, product: Product) -> None:
        """`down` does not wait for the next start."""
        product.configure(SLOW)
        product.up()
        product.kill_daemon()
        product.eventually(lambda s: s["supervisor"]["state"] == "backoff")
        product.down(timeout=15)
        assert product.processes() == []

    def test_its_end_is_described(self, product: Product) -> None:
        """`last_exit` has time, signal, reason and the last lines of the log; `status` has it as text."""
        product.up()
        product.kill_daemon()
        seen = product.eventually(lambda s: s["daemon"]["last_exit"] and s["ready"])
        exit_ = seen["daemon"]["last_exit"]
        assert (exit_["code"], exit_["signal"]) == (None, "SIGKILL")
        assert "SIGKILL" in exit_["reason"]
        assert datetime.fromisoformat(exit_["at"]).tzinfo is not None
        assert exit_["log_tail"]
        assert set(exit_["log_tail"]) <= set(product.log.read_text().splitlines())
        text = product.run("status", expect=0).out
        assert "1 restart" in text
        assert "logs --previous" in text

    def test_an_end_by_itself_is_restarted_too(self, product: Product) -> None:
        """Exit code 0 that nobody asked for is no reason to stay away."""
        product.up()
        pid = product.kill_daemon(signal.SIGTERM)
        seen = product.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        assert seen["daemon"]["restarts"] == 1
        assert (seen["daemon"]["last_exit"]["code"], seen["daemon"]["last_exit"]["signal"]) == (0, None)

    def test_a_panic_is_kept(self, product: Product) -> None:
        """A Go crash is exit code 2, and its dump is in the log."""
        product.up()
        pid = product.kill_daemon(signal.SIGABRT)
        seen = product.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        assert seen["daemon"]["last_exit"]["code"] == 2
        eventually(lambda: "goroutine 1 " in product.logs_text())

    def test_previous_log_is_that_run(self, product: Product) -> None:
        """`logs --previous` prints the run before the last exit and nothing of the present one."""
        product.up()
        product.run("tailscale", "set", "--hostname=first-run", expect=0)
        eventually(lambda: "first-run" in product.log.read_text())
        pid = product.kill_daemon()
        product.eventually(lambda s: s["ready"] and s["daemon"]["pid"] != pid)
        product.run("tailscale", "set", "--hostname=second-run", expect=0)
        eventually(lambda: "second-run" in product.log.read_text())
        previous = product.run("logs", "--previous", "-n", "all", expect=0).out
        assert previous.count("Program starting") == 1
        assert "first-run" in previous
        assert "second-run" not in previous

    def test_many_deaths_are_counted(self, product: Product) -> None:
        """Every restart counts, and a new `up` after `down` begins at 0."""
        product.configure("[restart]\ninitial_s = 0.01\nmax_s = 0.02\n")
        product.up()
        for number in range(1, 6):
            pid = product.kill_daemon()
            seen = product.eventually(lambda s, old=pid: s["ready"] and s["daemon"]["pid"] != old)  # type: ignore[misc]
            assert seen["daemon"]["restarts"] == number
            assert len(product.daemons()) == 1
        product.down()
        product.up()
        assert product.status()["daemon"]["restarts"] == 0


class TestNeverStarts:
    """A program that ends at once."""

    def test_is_tried_with_growing_pauses(self, product: Product) -> None:
        """Exit code, output and count are in `status`; `up` says why it is not ready."""
        script(product, "echo 'the moon is in the wrong phase' >&2; exit 3")
        product.configure("[restart]\ninitial_s = 0.05\nmax_s = 0.4\n")
        done = product.up("--timeout", "3", expect=1)
        assert done.err.startswith("tazpod-net: ")
        seen = product.eventually(lambda s: s["daemon"]["restarts"] >= 3)
        assert seen["daemon"]["last_exit"]["code"] == 3
        assert "the moon is in the wrong phase" in seen["daemon"]["last_exit"]["log_tail"][-1]

    def test_gives_up_when_told_to(self, product: Product) -> None:
        """With `restart.give_up_after` it ends in `fatal`; a better program cures that by itself."""
        script(product, "exit 3")
        product.configure("[restart]\ninitial_s = 0.05\nmax_s = 0.1\ngive_up_after = 3\n")
        product.up("--timeout", "10", expect=1)
        product.eventually(lambda s: s["supervisor"]["state"] == "fatal")
        assert product.short() == "tailnet: fatal"
        script(product, 'exec $REAL "$@"')
        product.eventually(lambda s: s["ready"])


class TestHungDaemon:
    """SIGSTOP."""

    def test_is_not_live(self, moded: Product) -> None:
        """A stopped daemon is not live and not ready, and is live again when it goes on."""
        moded.up()
        pid = moded.kill_daemon(signal.SIGSTOP)
        seen = moded.eventually(lambda s: not s["live"])
        assert (seen["ready"], seen["online"], seen["daemon"]["pid"]) == (False, False, pid)
        assert moded.run("status", timeout=10).code == 1
        kill(pid, signal.SIGCONT)
        moded.eventually(lambda s: s["ready"])
        assert moded.daemons() == [pid]

    def test_down_stops_it(self, moded: Product) -> None:
        """`down` ends a stopped daemon in order, well before SIGKILL."""
        moded.up()
        moded.kill_daemon(signal.SIGSTOP)
        moded.eventually(lambda s: not s["live"])
        moded.down(timeout=20)
        assert moded.processes() == []
        assert "tailscaled got signal terminated" in moded.log.read_text()

    def test_restart_replaces_it(self, product: Product) -> None:
        """`restart` of a stopped daemon ends with another one that is ready."""
        product.up()
        pid = product.kill_daemon(signal.SIGSTOP)
        product.run("restart", expect=0)
        assert product.status(expect=0)["daemon"]["pid"] != pid

    def test_that_ignores_sigterm_is_killed(self, product: Product) -> None:
        """After the grace of `down --timeout` comes SIGKILL, and that is said."""
        script(product, f"exec {sys.executable} -c '{DEAF}'")
        product.up("--no-wait")
        pid = product.eventually(lambda s: s["daemon"]["pid"])["daemon"]["pid"]
        eventually(lambda: "deaf" in product.log.read_text())
        product.down("--timeout", "1", timeout=20)
        assert not is_alive(pid)
        assert product.processes() == []


class TestHungSupervisor:
    """SIGSTOP to the supervisor: connect() succeeds, nobody answers."""

    def test_is_not_running(self, product: Product) -> None:
        """`status` in every form ends, does not say that it runs, and says what to do."""
        product.up()
        product.kill_supervisor(signal.SIGSTOP)
        for form in ([], ["--json"], ["--short"]):
            done = product.run("status", *form, timeout=10)
            assert done.code == 3
            assert "ready" not in done.out.split("\n")[0].split()[:2]
        assert product.status()["live"] is False
        assert "does not answer" in product.run("status").out

    def test_up_says_so(self, product: Product) -> None:
        """`up` ends with exit 1 and one line naming the pid; the daemon is not doubled."""
        product.up()
        daemons = product.daemons()
        pid = product.kill_supervisor(signal.SIGSTOP)
        done = product.up(expect=1, timeout=30)
        assert f"(pid {pid})" in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert product.daemons() == daemons

    def test_wait_says_so(self, product: Product) -> None:
        """`wait` ends at its timeout."""
        product.up()
        product.kill_supervisor(signal.SIGSTOP)
        assert product.run("wait", "--timeout", "1", timeout=20).code in {1, 3}

    def test_down_ends_both(self, product: Product) -> None:
        """`down` ends the hung supervisor and stops its daemon in order."""
        product.up()
        product.kill_supervisor(signal.SIGSTOP)
        product.down(timeout=30)
        assert product.processes() == []
        assert "tailscaled got signal terminated" in product.log.read_text()

    def test_that_goes_on_is_well(self, product: Product) -> None:
        """Continued, it answers as if nothing had been."""
        product.up()
        before = product.status()
        pid = product.kill_supervisor(signal.SIGSTOP)
        eventually(lambda: state_of(pid) == "T")
        kill(pid, signal.SIGCONT)
        seen = product.eventually(lambda s: s["ready"])
        assert seen["daemon"]["pid"] == before["daemon"]["pid"]

    def test_takeover_replaces_it(self, product: Product) -> None:
        """`supervise --takeover` ends the hung one and adopts its daemon."""
        product.up()
        daemons = product.daemons()
        old = product.kill_supervisor(signal.SIGSTOP)
        with product.popen("supervise", "--takeover"):
            product.eventually(lambda s: s["ready"] and s["daemon"]["adopted"])
            gone(old)
            assert product.daemons() == daemons


class TestRestart:
    """The command."""

    def test_replaces_the_daemon_only(self, moded: Product) -> None:
        """`restart`: another daemon, the same supervisor, mode and address; it counts from 0."""
        moded.up()
        before = moded.status()
        moded.run("restart", expect=0)
        after = moded.status(expect=0)
        assert after["daemon"]["pid"] != before["daemon"]["pid"]
        assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
        assert (after["daemon"]["mode"], after["backend"]["ips"]) == (
            before["daemon"]["mode"],
            before["backend"]["ips"],
        )
        assert moded.daemons() == [after["daemon"]["pid"]]

    def test_without_a_supervisor_is_3(self, product: Product) -> None:
        """`restart` and `reload` of nothing: exit 3."""
        for command in ("restart", "reload", "logout"):
            done = product.run(command, expect=3)
            assert done.err == "tazpod-net: not running: tazpod-net up\n"
