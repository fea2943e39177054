"""From nothing to a tailnet and back: `up`, `status`, `wait`, `logs`, `down`, their texts and exit codes."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control, Mode, Node
from tests.support.product import Product, gone, is_alive, kill

UNPRIVILEGED = 12345
SOCKS_CLIENT = """
import socket, sys
proxy, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
at, _, on = proxy.rpartition(":")
s = socket.create_connection((at, int(on)), timeout=20)
s.sendall(b"\\5\\1\\0")
assert s.recv(2) == b"\\5\\0"
s.sendall(b"\\5\\1\\0\\3" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big"))
assert s.recv(10)[:2] == b"\\5\\0"
s.sendall(b"GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n")
print(s.makefile("rb").read().decode().partition("\\r\\n\\r\\n")[2], end="")
"""

KEYS = {
    "": "schema checked_at live ready online wanted summary notes supervisor last_event daemon backend identity proxy "
    "dns settings_drift paths",
    "supervisor": "pid start_ticks version since state state_since",
    "daemon": "pid version binary_version since adopted mode mode_reason interface restarts next_start rss_bytes "
    "last_exit",
    "backend": "state login login_code login_next auth_url tailnet hostname requested_hostname dns_name ips tags "
    "key_expiry relay health peers",
    "identity": "kind path store",
    "proxy": "socks5 http",
    "dns": "resolver guarded hosts_block",
    "paths": "home socket log",
}


class TestUp:
    """`up` from nothing, and again."""

    def test_brings_a_new_home_onto_the_tailnet(self, moded: Product, mode: Mode) -> None:
        """One command on an empty home ends with exit 0, a daemon in the wanted mode and a tailnet address."""
        done = moded.up()
        assert done.out.startswith("ready: on example.ts.net as ")
        assert ("by TUN" if mode == "tun" else "userspace (proxy only)") in done.out
        seen = moded.status(expect=0)
        daemon = seen["daemon"]
        assert (seen["live"], seen["ready"], daemon["mode"], daemon["adopted"]) == (True, True, mode, False)
        assert daemon["interface"] == ("tailscale0" if mode == "tun" else None)
        assert seen["backend"]["ips"][0].startswith("100.64.0.")
        assert moded.daemons() == [daemon["pid"]]

    def test_again_says_that_it_runs(self, moded: Product) -> None:
        """A second `up` exits 0, names the supervisor and changes nothing."""
        moded.up()
        before = moded.status()
        again = moded.up()
        assert again.said.startswith(f"already running (pid {before['supervisor']['pid']})")
        assert moded.status()["daemon"]["pid"] == before["daemon"]["pid"]

    def test_start_and_stop_are_other_names(self, product: Product) -> None:
        """`start` is `up` and `stop` is `down`."""
        product.run("start", expect=0)
        assert product.status(expect=0)["ready"] is True
        product.run("stop", expect=0)
        assert product.status(expect=3)["live"] is False

    def test_json_is_the_status_object_alone(self, product: Product) -> None:
        """`up --json` prints one object of schema 1 on standard output, the first time and again."""
        for _ in range(2):
            seen = json.loads(product.up("--json").out)
            assert (seen["schema"], seen["ready"]) == (1, True)

    def test_options_that_differ_are_named_not_applied(self, product: Product) -> None:
        """`up --mode tun` beside a running userspace daemon says what would apply it and leaves the mode alone."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        again = product.up("--mode", "tun")
        assert "--mode tun not applied: 'tazpod-net restart --mode tun'" in again.said
        seen = product.status()["daemon"]
        assert (seen["pid"], seen["mode"]) == (pid, "userspace")

    def test_without_login_it_is_live_and_logged_out(self, product: Product, control: Control) -> None:
        """`up --no-login` starts the daemon and presents no key."""
        product.up("--no-login", "--wait", "live")
        seen = product.status(expect=1)
        assert (seen["live"], seen["ready"]) == (True, False)
        assert control.logins() == []

    @pytest.mark.parametrize("condition", ["live", "ready", "online"])
    def test_waits_for_what_is_asked(self, product: Product, condition: str) -> None:
        """`up --wait COND` returns when `status --for COND` says yes."""
        product.up("--wait", condition)
        assert product.run("status", "--for", condition).code == 0

    def test_does_not_wait_when_told(self, product: Product, control: Control) -> None:
        """`up --no-wait` exits 0 although control never answers; the daemon comes up behind it."""
        control.set(register_never_ends=True)
        product.up("--no-wait")
        product.eventually(lambda s: s["live"])
        assert product.status(expect=1)["ready"] is False

    def test_home_may_be_named_by_option(self, make: Make) -> None:
        """`--home` before or after the command wins over the environment."""
        product = make()
        other = product.user / "other"
        product.up("--home", str(other))
        assert product.run("--home", str(other), "status").code == 0
        assert product.run("status", "--home", str(other), "--json").code == 0
        assert product.run("status").code == 3
        product.down("--home", str(other))

    def test_home_has_the_promised_files(self, product: Product) -> None:
        """Layout, modes and contents of a new home are those of the contract."""
        product.up()
        modes = {name: (product.home / name).stat().st_mode & 0o7777 for name in ("state", "state/status.json")}
        assert modes == {"state": 0o755, "state/status.json": 0o644}
        assert (product.state / "tailscaled.state").stat().st_mode & 0o7777 == 0o600
        assert (product.home / ".gitignore").read_text().split() == ["*"]
        assert (product.state / "tailscaled.sock").is_socket()
        assert (product.state / "control.sock").is_socket()
        own = product.home / "logs/tazpod-net.log"
        assert all(json.loads(line) for line in eventually(own.read_text).splitlines())

    def test_plain_tailscale_works_on_its_socket(self, product: Product) -> None:
        """`tazpod-net tailscale` and `tailscale --socket` see the running node."""
        product.up()
        assert "100.64.0." in product.run("tailscale", "ip", "-4", expect=0).out
        cli = str(product.programs.tailscale)
        done = product.place.run([cli, f"--socket={product.state}/tailscaled.sock", "ip", "-4"])
        assert "100.64.0." in done.stdout


class TestTailnet:
    """What it is all for."""

    def test_a_request_reaches_another_node(self, moded: Product, peer: Node) -> None:
        """HTTP to a second node: by TUN as any program would, in userspace mode through the HTTP proxy."""
        moded.up()
        port = peer.serve("from the peer")
        assert moded.fetch(f"http://{peer.ip}:{port}/") == "from the peer"

    def test_socks_reaches_another_node_by_name(self, product: Product, peer: Node) -> None:
        """The SOCKS5 proxy of userspace mode resolves tailnet names and connects."""
        product.up()
        port = peer.serve("by name")
        proxy = product.status()["proxy"]["socks5"]
        argv = [sys.executable, "-c", SOCKS_CLIENT, proxy, "peer", str(port)]
        assert eventually(lambda: product.place.run(argv, check=True).stdout) == "by name"

    def test_the_peer_is_counted(self, product: Product, peer: Node) -> None:
        """`status` counts peers and those online."""
        product.up()
        seen = product.eventually(lambda s: s["backend"]["peers"]["online"])
        assert (seen["backend"]["peers"]["total"], seen["backend"]["peers"]["online"]) == (1, 1)


class TestTimeouts:
    """A control server that is dead, and comes back."""

    def test_up_gives_up_waiting_and_goes_on_trying(self, moded: Product, control: Control) -> None:
        """With control dead `up` ends at its timeout with one line and exit 1; when control appears it is ready."""
        control.outage()
        done = moded.up("--timeout", "2", expect=1)
        last = done.err.strip().splitlines()[-1]
        assert re.match(r"tazpod-net: not ready after 2 s, .+: it goes on trying", last)
        seen = moded.status(expect=1)
        assert (seen["live"], seen["ready"]) == (True, False)
        control.outage(on=False)
        moded.run("wait", "--timeout", "60", expect=0, timeout=70)
        assert moded.status(expect=0)["daemon"]["restarts"] == 0

    def test_an_interrupted_up_leaves_it_running(self, product: Product, control: Control) -> None:
        """Ctrl-C ends the command with 130, not what it started."""
        control.outage()
        with product.popen("up") as up:
            product.eventually(lambda s: s["live"])
            kill(up.process.pid, signal.SIGINT)
            assert up.process.wait(timeout=30) == 130
        control.outage(on=False)
        product.run("wait", "--timeout", "60", expect=0, timeout=70)

    def test_up_json_at_the_timeout(self, product: Product, control: Control) -> None:
        """`up --json` that is not ready in time still prints the status object, with exit 1."""
        control.outage()
        seen = json.loads(product.up("--json", "--timeout", "1", expect=1).out)
        assert (seen["schema"], seen["ready"]) == (1, False)

    def test_live_needs_no_control_server(self, product: Product, control: Control) -> None:
        """`up --wait live` succeeds while control is dead."""
        control.outage()
        product.up("--wait", "live")
        product.run("wait", "--for", "live", "--timeout", "5", expect=0)
        product.run("wait", "--for", "ready", "--timeout", "1", expect=1)

    def test_losing_control_takes_online_and_nothing_else(self, product: Product, control: Control) -> None:
        """An outage makes a ready node offline, restarts nothing, and ends with the outage."""
        product.up("--wait", "online")
        pid = product.status()["daemon"]["pid"]
        control.outage()
        seen = product.eventually(lambda s: not s["online"])
        assert (seen["ready"], seen["daemon"]["pid"]) == (True, pid)
        assert product.short().startswith("tailnet: offline userspace 100.64.")
        assert product.run("status").code == 0
        assert product.run("status", "--for", "online").code == 1
        control.outage(on=False)
        product.run("wait", "--for", "online", "--timeout", "60", expect=0, timeout=70)
        assert product.status()["daemon"]["pid"] == pid


class TestWait:
    """`wait` from another shell."""

    def test_waits_for_a_supervisor_to_appear(self, product: Product) -> None:
        """`wait` started before `up` returns 0 when the node is ready."""
        with product.popen("wait", "--for", "online", "--timeout", "60") as waiting:
            product.up()
            waiting.rest()
            assert waiting.process.wait(timeout=30) == 0

    def test_without_a_supervisor_it_is_3(self, product: Product) -> None:
        """Nothing appears until the timeout: exit 3."""
        product.run("wait", "--timeout", "1", expect=3)

    def test_says_all_conditions(self, product: Product) -> None:
        """Several `--for` are all waited for, and `--json` ends with the object."""
        product.up()
        done = product.run("wait", "--for", "live", "--for", "ready", "--for", "online", "--json", expect=0)
        assert json.loads(done.out)["online"] is True


class TestStatus:
    """What it shows and what it returns."""

    def test_nothing_runs(self, product: Product) -> None:
        """A home that does not exist: exit 3 in every form, nothing is created."""
        for form in ([], ["--json"], ["--short"]):
            assert product.run("status", *form).code == 3
        assert product.short() == "tailnet: down"
        assert not product.home.exists()

    @pytest.mark.parametrize("phase", ["down", "ready", "stopped"])
    def test_every_key_is_there(self, product: Product, phase: str) -> None:
        """The object has every key of schema 1 in every phase."""
        if phase != "down":
            product.up()
        if phase == "stopped":
            product.down()
        seen = product.status()
        wanted = {name: set(keys.split()) for name, keys in KEYS.items()}
        missing = {name: keys - set(seen[name] if name else seen) for name, keys in wanted.items()}
        assert {name: keys for name, keys in missing.items() if keys} == {}

    def test_the_file_is_the_same_object(self, product: Product) -> None:
        """`state/status.json` says what `status --json` says."""
        product.up("--wait", "online")

        def both() -> bool:
            from_file = json.loads((product.state / "status.json").read_text())
            asked = product.status()
            for varying in ("checked_at", "summary"):
                del from_file[varying], asked[varying]
            for seen in (from_file, asked):
                seen["daemon"]["rss_bytes"] = None
            assert from_file == asked
            return True

        assert eventually(both)

    def test_short_names_mode_address_and_host(self, product: Product) -> None:
        """`--short` is `tailnet: ready MODE IP NAME`, and the file `short` begins with the same line."""
        product.up()
        backend = product.status()["backend"]
        wanted = f"tailnet: ready userspace {backend['ips'][0]} {backend['hostname']}"
        assert product.short() == wanted
        supervisor = product.status()["supervisor"]
        line, _, rest = (product.state / "short").read_text().partition("\n")
        assert (line, [int(n) for n in rest.split()]) == (wanted, [supervisor["pid"], supervisor["start_ticks"]])

    def test_first_line_is_the_summary(self, product: Product) -> None:
        """The text form begins with the object's `summary`, but for the running time in it."""
        product.up()
        text, summary = product.run("status", expect=0).out.splitlines()[0], product.status()["summary"]
        assert text.partition(", for ")[0] == summary.partition(", for ")[0]

    def test_no_colour_in_a_pipe(self, product: Product) -> None:
        """Escape sequences only on a terminal, and there not with NO_COLOR."""
        product.up()
        assert "\x1b" not in product.run("status").out
        with product.terminal("status") as on_terminal:
            assert "\x1b[" in "".join(on_terminal.rest())
        with product.terminal("status", env={"NO_COLOR": "1"}) as plain:
            assert "\x1b[" not in "".join(plain.rest())

    def test_watch_is_an_event_stream(self, product: Product) -> None:
        """`status --watch --json` prints one object per change, from nothing through a kill to `down`."""
        with product.popen("status", "--watch", "--json") as watch:
            first = json.loads(watch.until(lambda _: True))
            assert (first["supervisor"]["state"], first["live"]) == ("down", False)
            product.up()
            ready = json.loads(watch.until(lambda line: json.loads(line)["ready"]))
            pid = product.kill_daemon()
            watch.until(lambda line: not json.loads(line)["live"])
            again = json.loads(watch.until(lambda line: json.loads(line)["ready"]))
            assert (ready["daemon"]["pid"], again["daemon"]["restarts"]) == (pid, 1)
            assert again["daemon"]["pid"] != pid
            product.down()
            last = json.loads(watch.until(lambda line: json.loads(line)["supervisor"]["state"] == "down"))
            assert (last["wanted"], last["live"]) == ("stopped", False)


class TestLogs:
    """The daemon's log as people read it."""

    def test_shows_the_last_lines(self, product: Product) -> None:
        """By default 100 lines at most, `-n N` so many, `-n all` every line of the file."""
        product.up()
        assert len(product.run("logs", expect=0).out.splitlines()) <= 100
        assert len(product.run("logs", "-n", "3", expect=0).out.splitlines()) == 3
        whole = product.run("logs", "-n", "all", expect=0).out
        assert "Program starting" in whole
        assert product.log.read_text().startswith(whole[:500])

    def test_follows(self, product: Product) -> None:
        """`logs -f` prints what is written later, through the end of one daemon and the start of the next."""
        product.up()
        with product.popen("logs", "-f", "-n", "1") as following:
            following.until(lambda _: True)
            product.kill_daemon()
            following.until(lambda line: "Program starting" in line)

    def test_supervisors_own_log(self, product: Product) -> None:
        """`logs --supervisor` prints JSON lines."""
        product.up()
        lines = product.run("logs", "--supervisor", "-n", "all", expect=0).out.splitlines()
        assert [json.loads(line) for line in lines]


class TestPipes:
    """Where output goes."""

    @pytest.mark.parametrize(
        "arguments", [["logs", "-n", "all"], ["status"], ["status", "--watch", "--json"]], ids=" ".join
    )
    def test_a_reader_that_leaves(self, product: Product, arguments: list[str]) -> None:
        """`... | head -1` is quiet and ends."""
        product.up()
        if "--watch" in arguments:
            product.kill_daemon()  # so that there is more to write
        done = product.run(*arguments, prefix=["sh", "-c", '"$@" | head -1', "sh"], timeout=20)
        assert len(done.out.splitlines()) == 1
        assert done.err == ""

    def test_closed_descriptors(self, product: Product) -> None:
        """Started with 0, 1 and 2 closed: no file of the home becomes somebody's standard output."""
        closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
        product.run("up", prefix=closed, expect=0)
        product.run("status", prefix=closed, expect=0)
        product.run("logs", prefix=closed)
        assert product.status(expect=0)["ready"] is True
        assert product.short().startswith("tailnet: ready")
        log = product.run("logs", "-n", "all", expect=0).out
        assert "Program starting" in log
        assert "ready: " not in log
        product.run("down", prefix=closed, expect=0)
        assert product.daemons() == []
        assert "stopped" not in product.log.read_text().splitlines()


class TestDown:
    """Stopping, and that it sticks."""

    def test_ends_both_processes(self, moded: Product) -> None:
        """`down` exits 0 when supervisor and daemon are gone and the sockets with them."""
        moded.up()
        seen = moded.status()
        done = moded.down()
        assert done.out == "stopped\n"
        assert moded.daemons() == []
        gone(seen["supervisor"]["pid"])
        assert not is_alive(seen["daemon"]["pid"])
        assert not (moded.state / "tailscaled.sock").exists()
        after = moded.status(expect=3)
        assert (after["wanted"], after["daemon"]["pid"]) == ("stopped", None)
        assert moded.short() == "tailnet: stopped"

    def test_nothing_to_stop(self, product: Product) -> None:
        """`down` on a home that does not exist exits 0."""
        assert product.down().out == "not running\n"

    def test_was_orderly(self, product: Product) -> None:
        """The daemon was asked by SIGTERM and ended by itself, and the log has all of it."""
        product.up()
        product.down()
        log = product.log.read_text()
        assert "tailscaled got signal terminated" in log
        assert "logger closing down" in log

    def test_identity_is_kept(self, moded: Product, control: Control) -> None:
        """`down` and `up` again: the same node with the same address, without a key."""
        moded.up()
        before = moded.status()["backend"]["ips"]
        moded.down()
        moded.up(env={"TS_AUTHKEY": None})
        assert moded.status()["backend"]["ips"] == before
        assert len(control.nodes()) == 1

    def test_with_logout_the_node_is_gone(self, product: Product, control: Control) -> None:
        """`down --logout` logs the node out before it stops."""
        product.up()
        product.down("--logout")
        assert [login["outcome"] for login in control.logins()][-1] == "logout"
        assert product.daemons() == []

    def test_by_signal(self, product: Product) -> None:
        """SIGTERM to the supervisor is an orderly stop that does not stick."""
        product.up()
        pid = product.status()["supervisor"]["pid"]
        product.place.run(["kill", str(pid)], check=True)
        gone(pid)
        assert product.daemons() == []
        assert product.status(expect=3)["wanted"] == "up"


class TestSupervise:
    """The foreground form."""

    def test_runs_until_it_is_stopped(self, product: Product) -> None:
        """`supervise` is the supervisor itself, copies the daemon's log, and ends with exit 0 after `down`."""
        with product.popen("supervise") as foreground:
            product.run("wait", expect=0)
            supervisor = product.status()["supervisor"]["pid"]
            assert supervisor == foreground.process.pid
            product.down()
            lines = foreground.rest()
            assert foreground.process.wait(timeout=30) == 0
        assert any("Program starting" in line for line in lines)


class TestProbe:
    """Which mode, and why."""

    @pytest.mark.root
    def test_says_yes_with_exit_0(self, make: Make, mode: Mode) -> None:
        """Where the configured mode can be had: exit 0, text and JSON, and nothing is created."""
        product = make(mode=mode)
        product.run("probe", expect=0)
        json.loads(product.run("probe", "--json", expect=0).out)
        assert not product.home.exists()


class TestOtherUsers:
    """Rights by who asks."""

    @pytest.mark.root
    def test_anyone_may_ask_only_some_may_change(self, product: Product) -> None:
        """Another user reads the status; their `down` fails with one line and stops nothing."""
        Path(product.user).chmod(0o755)
        product.up()
        assert product.run("status", uid=UNPRIVILEGED).code == 0
        refused = product.run("down", uid=UNPRIVILEGED)
        assert refused.code == 1
        assert refused.err.startswith("tazpod-net: ")
        assert product.status(expect=0)["ready"] is True

    @pytest.mark.root
    def test_a_plain_user_has_userspace_mode(self, make: Make) -> None:
        """Without root everything works in userspace mode."""
        product = make(uid=UNPRIVILEGED)
        product.use_copies()
        if product.place.run([product.command, "--version"], uid=UNPRIVILEGED).returncode != 0:
            pytest.skip("the program is installed where another user cannot read it")
        product.up()
        assert product.status(expect=0)["daemon"]["mode"] == "userspace"
        product.down()
        assert product.daemons() == []
