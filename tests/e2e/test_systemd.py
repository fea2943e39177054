"""The units under a real systemd: start, watchdog, adoption, stop, reload, order at boot. Each test boots a machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.e2e.conftest import Boot
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.machine import UNITS, Machine, drop_in
from tests.support.product import Product, is_alive

UNIT = "tazpod-net.service"
MAX_EXPOSURE = 40  # tenths of systemd-analyze's points; a plain service has 96
QUICK_WATCHDOG = "[Service]\nWatchdogSec=2s\n"

# The first test of a session may have to make the base system.
pytestmark = pytest.mark.timeout(600)


def status(machine: Machine) -> dict[str, Any]:
    """The status object inside."""
    return cast("dict[str, Any]", json.loads(machine.run("tazpod-net", "status", "--json", expect=None).stdout))


def ready(machine: Machine) -> dict[str, Any]:
    """The same, once it is ready."""

    def look() -> dict[str, Any] | None:
        now = status(machine)
        return now if now["ready"] else None

    return cast("dict[str, Any]", eventually(look, within=60, every=0.1))


def daemons(machine: Machine) -> list[int]:
    """Pids of living tailscaled processes inside."""
    found = machine.run("pgrep", "--exact", "tailscaled", expect=None).stdout.split()
    return [int(pid) for pid in found]


def main_pid(machine: Machine, *, other_than: int = 0) -> int:
    """The supervisor's pid as systemd knows it, once the unit is active with another one than `other_than`."""

    def look() -> int:
        pid = int(machine.show(UNIT, "MainPID"))
        is_active = machine.systemctl("is-active", UNIT, expect=None) == "active"
        return pid if is_active and pid not in {0, other_than} else 0

    return eventually(look, within=60, every=0.1)


def kill(machine: Machine, number: signal.Signals, pid: int) -> None:
    """A signal to a process inside."""
    machine.run("kill", f"-{number.value}", str(pid))


class TestFiles:
    """What systemd says of the units themselves."""

    def test_verify_is_clean(self, boot: Boot) -> None:
        """No unknown key, no absent program, no cycle; the user's unit too."""
        machine = boot()
        units = [path.name for path in [*UNITS.glob("*.service"), *UNITS.glob("*.target")]]
        assert len(units) == 3
        assert machine.run("systemd-analyze", "verify", *units).stderr == ""
        user = machine.run(
            "systemd-analyze",
            "--user",
            "verify",
            "/etc/systemd/user/tazpod-net.service",
            env={"XDG_RUNTIME_DIR": "/run"},
        )
        assert user.stderr == ""

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
    def test_exposure(self) -> None:
        """`systemd-analyze security` stays below the bound."""
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(UNITS / UNIT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-200:]


class TestLife:
    """Start, trouble, end."""

    def test_start(self, boot: Boot) -> None:
        """`start` returns when it serves; systemd shows the summary; the daemon has TUN and nothing of systemd's."""
        machine = boot()
        machine.systemctl("start", UNIT)
        now = ready(machine)
        assert now["daemon"]["mode"] == "tun", now
        assert now["supervisor"]["pid"] == main_pid(machine)
        eventually(lambda: machine.show(UNIT, "StatusText") == now["summary"].partition(", for ")[0])
        environ = machine.run("cat", f"/proc/{now['daemon']['pid']}/environ").stdout.split("\0")
        names = {entry.partition("=")[0] for entry in environ}
        assert names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "TS_AUTHKEY"} == set()
        assert machine.run("stat", "-c", "%a", "/var/lib/tazpod-net/state/status.json").stdout.strip() == "644"

    def test_limits_are_in_force(self, boot: Boot) -> None:
        """The daemon has the capabilities that TUN needs and no others, no new privileges, and a filter."""
        machine = boot()
        machine.systemctl("start", UNIT)
        pid = ready(machine)["daemon"]["pid"]
        fields = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").stdout.splitlines())
        net_bind_service, net_admin, net_raw, sys_ptrace = 10, 12, 13, 19
        wanted = sum(1 << bit for bit in (net_bind_service, net_admin, net_raw, sys_ptrace))
        assert int(fields["CapEff"], 16) & ~wanted == 0
        assert int(fields["CapEff"], 16) & 1 << net_admin
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")

    def test_a_killed_supervisor_comes_back_and_adopts(self, boot: Boot) -> None:
        """kill -9: systemd starts it again, the daemon has the same pid and was never alone for long."""
        machine = boot()
        machine.systemctl("start", UNIT)
        before = ready(machine)
        kill(machine, signal.SIGKILL, before["supervisor"]["pid"])
        main_pid(machine, other_than=before["supervisor"]["pid"])
        after = ready(machine)
        assert after["daemon"]["pid"] == before["daemon"]["pid"]
        assert after["daemon"]["adopted"]
        assert daemons(machine) == [before["daemon"]["pid"]]
        assert machine.show(UNIT, "NRestarts") == "1"

    def test_a_hung_supervisor_is_killed_by_the_watchdog(self, boot: Boot) -> None:
        """A stopped loop sends no sign of life: killed, started again, the same daemon adopted."""
        machine = boot(lambda root: drop_in(root, UNIT, QUICK_WATCHDOG))
        machine.systemctl("start", UNIT)
        before = ready(machine)
        kill(machine, signal.SIGSTOP, before["supervisor"]["pid"])
        main_pid(machine, other_than=before["supervisor"]["pid"])
        after = ready(machine)
        assert (after["daemon"]["pid"], after["daemon"]["adopted"]) == (before["daemon"]["pid"], True)
        assert "Watchdog timeout" in machine.journal(UNIT)

    def test_a_loop_that_turns_is_not_killed(self, boot: Boot) -> None:
        """With a period of a second it lives longer than many of them."""
        machine = boot(lambda root: drop_in(root, UNIT, "[Service]\nWatchdogSec=1s\n"))
        machine.systemctl("start", UNIT)
        pid = main_pid(machine)
        machine.run("tazpod-net", "wait", "--for", "live")
        before = machine.show(UNIT, "WatchdogTimestampMonotonic")
        beats = set[str]()

        def look() -> bool:
            beats.add(machine.show(UNIT, "WatchdogTimestampMonotonic"))
            return len(beats - {before}) >= 5

        eventually(look, within=60)
        assert main_pid(machine) == pid
        assert machine.show(UNIT, "NRestarts") == "0"

    def test_stop_and_start_again(self, boot: Boot) -> None:
        """`stop` ends the daemon too; it does not stick."""
        machine = boot()
        machine.systemctl("start", UNIT)
        first = ready(machine)
        machine.systemctl("stop", UNIT)
        assert daemons(machine) == []
        assert machine.show(UNIT, "Result") == "success"
        assert machine.run("ip", "-brief", "link", "show", "tailscale0", expect=1).stdout == ""
        machine.systemctl("start", UNIT)
        second = ready(machine)
        assert second["backend"]["ips"] == first["backend"]["ips"]
        assert second["wanted"] == "up"

    def test_down_sticks(self, boot: Boot) -> None:
        """`tazpod-net down` of a person is not undone by Restart=; `systemctl start` undoes it."""
        machine = boot()
        machine.systemctl("start", UNIT)
        ready(machine)
        machine.run("tazpod-net", "down")
        eventually(lambda: machine.systemctl("is-active", UNIT, expect=None) == "inactive")
        assert (machine.show(UNIT, "NRestarts"), machine.show(UNIT, "Result")) == ("0", "success")
        assert daemons(machine) == []
        assert status(machine)["wanted"] == "stopped"
        machine.systemctl("start", UNIT)
        ready(machine)

    def test_a_stop_ends_the_daemon_of_a_hung_supervisor(self, boot: Boot) -> None:
        """The supervisor does not hear the signal: when systemd has killed it, ExecStopPost stops the daemon."""
        deaf = "[Service]\nKillSignal=SIGURG\nTimeoutStopSec=2s\n"  # SIGTERM comes with a SIGCONT, and would be heard
        machine = boot(lambda root: drop_in(root, UNIT, deaf))
        machine.systemctl("start", UNIT)
        ready(machine)
        machine.systemctl("stop", UNIT)
        assert daemons(machine) == []
        assert machine.show(UNIT, "Result") == "timeout"
        assert status(machine)["wanted"] == "up"

    def test_it_takes_over_what_a_shell_started(self, boot: Boot) -> None:
        """A supervisor that `up` left in the background hands its daemon to the unit."""
        machine = boot()
        machine.run("sh", "-c", "set -a; . /etc/default/tazpod-net; tazpod-net up")
        before = ready(machine)
        machine.systemctl("start", UNIT)
        main = main_pid(machine)
        after = ready(machine)
        assert after["daemon"]["pid"] == before["daemon"]["pid"]
        assert after["supervisor"]["pid"] == main != before["supervisor"]["pid"]

    def test_a_wrong_configuration_is_not_tried_for_ever(self, boot: Boot) -> None:
        """Exit 2 fails the unit, with the sentence in the log."""
        machine = boot(TAZPOD_NET_DAEMON_MODE="tunnel")
        machine.systemctl("start", UNIT, expect=1)
        assert machine.systemctl("is-failed", UNIT) == "failed"
        assert machine.show(UNIT, "ExecMainStatus") == "2"
        assert "TAZPOD_NET_DAEMON_MODE" in machine.journal(UNIT)


class TestReload:
    """`systemctl reload`."""

    def test_it_applies_and_refuses(self, boot: Boot) -> None:
        """It returns when the new configuration is in force; a wrong one is an error, and the old one stays."""
        machine = boot()
        machine.systemctl("start", UNIT)
        ready(machine)
        home = machine.root / "var/lib/tazpod-net"
        (home / "config.toml").write_text("[settings]\nshields_up = true\n")
        machine.systemctl("reload", UNIT)
        socket_option = "--socket=/var/lib/tazpod-net/state/tailscaled.sock"

        def shields() -> bool:
            prefs = json.loads(machine.run("tailscale", socket_option, "debug", "prefs").stdout)
            return bool(prefs["ShieldsUp"])

        eventually(shields)
        (home / "config.toml").write_text("[settings]\nshields_up = 3\n")
        machine.systemctl("reload", UNIT, expect=1)
        assert machine.systemctl("is-active", UNIT) == "active"
        assert shields()


CONSUMER = """
[Unit]
{need}=tailnet-online.target
After=tailnet-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'tazpod-net status --short >/run/{name}.saw 2>&1; exit 0'
[Install]
WantedBy=multi-user.target
"""


def add_consumers(root: Path) -> None:
    """Two units that need the tailnet, one of them only if it can be had; all enabled."""
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for name, need in (("strict", "Requires"), ("relaxed", "Wants")):
        (units / f"{name}.service").write_text(CONSUMER.format(need=need, name=name))
    for unit in (UNIT, "strict.service", "relaxed.service"):
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")


class TestOrder:
    """Units that need the tailnet, at boot."""

    def test_they_start_when_the_tailnet_is_ready(self, boot: Boot) -> None:
        """Both see a ready tailnet; and a crash of the supervisor does not touch them."""
        machine = boot(add_consumers)
        for name in ("strict", "relaxed"):
            assert machine.systemctl("is-active", name) == "active"
            assert machine.run("cat", f"/run/{name}.saw").stdout.startswith("tailnet: ready tun 100.64.")
        since = machine.show("strict", "ActiveEnterTimestampMonotonic")
        before = main_pid(machine)
        kill(machine, signal.SIGKILL, before)
        main_pid(machine, other_than=before)
        ready(machine)
        assert machine.systemctl("is-active", "tailnet-online.target", "strict", "relaxed").split() == ["active"] * 3
        assert machine.show("strict", "ActiveEnterTimestampMonotonic") == since

    def test_without_a_tailnet(self, boot: Boot, control: Control) -> None:
        """After the wait's own time the strict one has failed, the relaxed one runs, and the daemon goes on trying."""

        def prepare(root: Path) -> None:
            add_consumers(root)
            drop_in(root, "tazpod-net-wait.service", "[Service]\nEnvironment=TAZPOD_NET_WAIT=1s\n")

        control.set(register_error="not today")
        machine = boot(prepare)
        assert machine.systemctl("is-active", "strict", expect=3) == "inactive"
        assert machine.systemctl("is-active", "relaxed") == "active"
        assert "ready" not in machine.run("cat", "/run/relaxed.saw").stdout
        assert machine.systemctl("is-active", UNIT) == "active"


class TestUser:
    """The unit of a user."""

    def test_a_node_of_ones_own(self, boot: Boot) -> None:
        """Userspace mode without root, beside nothing else; a crash is adopted there too."""

        def prepare(root: Path) -> None:
            config = root / "home/tazpod/.config/tazpod-net"
            config.mkdir(parents=True)
            (config / "environment").write_text((root / "etc/default/tazpod-net").read_text())

        machine = boot(prepare)
        machine.run("chown", "-R", "tazpod:", "/home/tazpod")
        machine.systemctl("start", "user@1000.service")
        env = {"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/tazpod"}

        def user(*argv: str, expect: int | None = 0) -> str:
            command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--", *argv]
            return machine.run(*command, env=env, expect=expect).stdout.strip()

        user("systemctl", "--user", "start", UNIT)

        def now() -> dict[str, Any]:
            found = json.loads(user("tazpod-net", "status", "--json", expect=None))
            assert found["ready"], found["summary"]
            return cast("dict[str, Any]", found)

        before = eventually(now, within=60, every=0.1)
        assert before["daemon"]["mode"] == "userspace"
        user("kill", "-9", str(before["supervisor"]["pid"]))
        after = eventually(lambda: (s := now())["supervisor"]["pid"] != before["supervisor"]["pid"] and s, within=60)
        assert after["daemon"]["pid"] == before["daemon"]["pid"]
        user("systemctl", "--user", "stop", UNIT)
        assert daemons(machine) == []


# --- without systemd --------------------------------------------------------------------------------------------------


class Manager:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.heard: list[str] = []

    def has(self, *lines: str) -> bool:
        """Whether each of these began a line so far."""
        while True:
            try:
                self.heard += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                break
        return all(any(heard.startswith(line) for heard in self.heard) for line in lines)


@pytest.fixture
def manager(scratch: Path) -> Iterator[Manager]:
    """One that listens."""
    one = Manager(scratch / "notify")
    yield one
    one.socket.close()


class TestNotify:
    """What the supervisor tells whoever started it."""

    def test_the_foreground_form_tells(self, product: Product, manager: Manager) -> None:
        """Ready, the summary as it changes, both ends of a reload, stopping; the daemon knows nothing of it."""
        with product.popen("supervise", env={"NOTIFY_SOCKET": str(manager.path)}) as foreground:
            eventually(lambda: manager.has("READY=1", f"MAINPID={foreground.process.pid}", "STATUS=ready: on"))
            pid = product.status()["daemon"]["pid"]
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            manager.heard.clear()
            os.kill(foreground.process.pid, signal.SIGHUP)
            eventually(lambda: manager.has("RELOADING=1", "MONOTONIC_USEC=", "READY=1"))
            foreground.process.terminate()
            eventually(lambda: manager.has("STOPPING=1", "EXTEND_TIMEOUT_USEC=40000000"))
            assert foreground.process.wait(30) == 0

    def test_the_background_form_does_not(self, product: Product, manager: Manager) -> None:
        """`up` is not the service in whose unit it was called."""
        product.up(env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"})
        product.down()
        assert not manager.has("")


class TestOrphan:
    """`down --orphan`, which the unit calls after a stop."""

    def test_it_stops_a_daemon_without_supervisor(self, product: Product) -> None:
        """It ends and does not stay stopped."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        assert f"stopped tailscaled (pid {pid})" in product.down("--orphan").out
        assert not is_alive(pid)
        assert product.status()["wanted"] == "up"
        assert product.down("--orphan").out == "not running\n"

    def test_it_leaves_a_supervised_one_alone(self, product: Product) -> None:
        """Whoever took over meanwhile keeps its daemon."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        assert "left alone" in product.down("--orphan").out
        assert product.status()["daemon"]["pid"] == pid
        assert product.status(expect=0)["ready"]
