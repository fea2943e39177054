"""`run --rm`: a node for one command, and no trace of it afterwards: not in the tailnet, on disk or among processes."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control, Mode, Node
from tests.support.netns import Place
from tests.support.product import Output, Product, gone, is_alive
from tests.support.terminal import PROMPT, Terminal, give_rc

LOOP = "while :; do sleep 0.05; done"


class Once:
    """A product whose throw-away homes lie in a directory of the test's own."""

    def __init__(self, product: Product, control: Control, directory: Path) -> None:
        self.product = product
        self.control = control
        self.directory = directory
        product.env["TMPDIR"] = str(directory)

    def start(self, script: str) -> Output:
        """A shell script whose first line is `ready`."""
        output = self.product.popen("run", "--rm", "--", "sh", "-c", script, stderr=subprocess.STDOUT)
        output.until(lambda line: line == "ready")
        return output

    def is_gone(self) -> bool:
        """Nothing is left anywhere."""
        return not (self.control.nodes("once") or self.product.processes() or list(self.directory.iterdir()))

    def leaves_nothing(self) -> None:
        """At the moment when it has ended."""
        assert self.control.nodes("once") == []
        assert self.product.processes() == []
        assert list(self.directory.iterdir()) == []
        assert not self.product.home.exists()


@pytest.fixture
def directory() -> Iterator[Path]:
    """TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="tzr-", dir="/tmp") as path:
        Path(path).chmod(0o1777)
        yield Path(path)


@pytest.fixture
def once(make: Make, control: Control, directory: Path) -> Once:
    """In userspace mode, with a key that is not for ephemeral nodes."""
    return Once(make(TAZPOD_NET_LOGIN_HOSTNAME="once"), control, directory)


class TestNode:
    """What it is while the command runs."""

    def test_is_gone_afterwards(self, make: Make, control: Control, directory: Path, mode: Mode, peer: Node) -> None:
        """A node of its own that reaches the peer; ephemeral whatever its key says; afterwards there is nothing."""
        once = Once(make(mode=mode, TAZPOD_NET_LOGIN_HOSTNAME="once"), control, directory)
        control.set(magic_dns=True, dns_resolvers=["127.0.0.1"])  # names, also in TUN mode
        port = peer.serve("from the peer\n")
        script = f"echo ready; curl -sS --max-time 30 http://peer:{port}/; read x; exit 5"
        with once.product.terminal("run", "--rm", "--", "sh", "-c", script) as running:
            running.until(lambda line: line == "from the peer")
            assert [(node["ephemeral"], node["online"]) for node in control.nodes("once")] == [(True, True)]
            os.write(running._fd, b"\n")
            assert running.process.wait(60) == 5
        once.leaves_nothing()
        assert control.logins("once")[-1]["outcome"] == "logout"

    def test_is_private(self, once: Once) -> None:
        """Its directory is for its user alone; no key in it, none in the command's environment or ours."""
        script = (
            'echo ready; stat -c %a "$(dirname "$TAZPOD_NET_HOME")"; ls "$TAZPOD_NET_HOME/state"; '
            "cat /proc/$PPID/environ | tr '\\0' '\\n'; env"
        )
        done = once.product.run("run", "--rm", "--", "sh", "-c", script, expect=0)
        assert done.out.splitlines()[1] == "700"
        assert "tailscaled.state" not in done.out
        assert once.product.env["TS_AUTHKEY"] not in done.out
        assert done.err == ""

    def test_is_beside_the_lasting_one(self, once: Once) -> None:
        """The home of this user and its daemon have no part in it, and root's pointer still names it."""
        once.product.up()
        before = once.product.status()
        script = 'tazpod-net status --json; tazpod-net --home "$OTHER" status --short'
        env = {
            "OTHER": str(once.product.home),
            "PATH": f"{Path(once.product.command).parent}:{once.product.env['PATH']}",
        }
        done = once.product.run("run", "--rm", "--", "sh", "-c", script, env=env, expect=0)
        assert f'"home": "{once.directory}/' in done.out
        assert "tailnet: ready" in done.out.splitlines()[-1]
        after = once.product.status(expect=0)
        assert (after["daemon"]["pid"], after["backend"]["ips"]) == (before["daemon"]["pid"], before["backend"]["ips"])
        assert list(once.directory.iterdir()) == []
        pointed = once.product.run("status", "--json", env={"TAZPOD_NET_HOME": None})
        assert str(once.directory) not in pointed.out

    def test_a_home_of_ones_own_is_refused(self, once: Once) -> None:
        """`--home` and `--rm` contradict each other."""
        assert (
            "--rm makes a home of its own"
            in once.product.run("--home", "/x", "run", "--rm", "--", "true", expect=2).err
        )

    def test_settings_of_elsewhere_cannot_move_it(self, once: Once, scratch: Path) -> None:
        """A state directory and a socket that are configured are the lasting home's."""
        moved = {"TS_STATE_DIR": str(scratch / "state"), "TS_SOCKET": str(scratch / "socket")}
        once.product.run("run", "--rm", "--", "true", env=moved, expect=0)
        assert list(scratch.iterdir()) == []
        once.leaves_nothing()

    def test_a_directory_too_long_for_sockets(self, once: Once) -> None:
        """It goes elsewhere, and is gone from there too."""
        long = once.directory / ("x" * 90)
        long.mkdir()
        script = 'echo "$TAZPOD_NET_HOME"; tazpod-net status --short'
        env = {"TMPDIR": str(long), "PATH": f"{Path(once.product.command).parent}:{once.product.env['PATH']}"}
        done = once.product.run("run", "--rm", "--", "sh", "-c", script, env=env, expect=0)
        home, short = done.out.splitlines()
        assert short.startswith("tailnet: ready")
        assert not Path(home).parent.exists()
        assert list(long.iterdir()) == []


class TestEnd:
    """However it ends."""

    @pytest.mark.parametrize(
        ("argv", "code"), [(["no-such-command"], 127), (["false"], 1), (["sh", "-c", "kill -9 $$"], 137)]
    )
    def test_of_a_command_that_fails(self, once: Once, argv: list[str], code: int) -> None:
        """Its exit code; nothing left."""
        once.product.run("run", "--rm", "--", *argv, expect=code)
        once.leaves_nothing()

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
    @pytest.mark.parametrize("is_caught", [True, False])
    def test_by_a_signal(self, once: Once, name: str, is_caught: bool) -> None:
        """The command gets it; what it makes of it is the exit code."""
        trap = f"trap 'echo caught; exit 9' {name[3:]}; " if is_caught else ""
        running = once.start(f"{trap}echo ready; {LOOP}")
        running.process.send_signal(signal.Signals[name])
        assert running.process.wait(60) == (9 if is_caught else 128 + signal.Signals[name])
        assert ("caught" in running.rest()) == is_caught
        once.leaves_nothing()

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_by_a_signal_before_it_is_ready(self, once: Once, name: str) -> None:
        """No command yet: 128 and its number, nothing left."""
        once.control.stall()
        running = once.product.popen("run", "--rm", "--timeout", "60", "--", "true")
        eventually(lambda: once.product.daemons())
        running.process.send_signal(signal.Signals[name])
        assert running.process.wait(60) == 128 + signal.Signals[name]
        once.control.stall(on=False)
        once.leaves_nothing()

    @pytest.mark.parametrize("auth_key", [None, "tskey-auth-nobody"])
    def test_never_ready(self, make: Make, control: Control, directory: Path, auth_key: str | None) -> None:
        """Exit 1 with the reason; nothing left."""
        once = Once(make(auth_key=auth_key), control, directory)
        done = once.product.run("run", "--rm", "--timeout", "20", "--", "echo", "ran", expect=1)
        assert done.out == ""
        assert len(done.err.splitlines()) == 1
        once.leaves_nothing()

    def test_a_wrong_configuration(self, once: Once) -> None:
        """Exit 2, nothing left."""
        once.product.run("run", "--rm", "--", "true", env={"TAZPOD_NET_DAEMON_MODE": "x"}, expect=2)
        once.leaves_nothing()

    def test_by_kill_9(self, once: Once) -> None:
        """Nobody is there to tidy up: the supervisor notices and does; the command is told to end."""
        running = once.product.popen("run", "--rm", "--", "sh", "-c", f"echo pid $$; {LOOP}")
        command = int(running.until(lambda line: line.startswith("pid ")).removeprefix("pid "))
        running.process.kill()
        eventually(once.is_gone)
        assert not is_alive(command)
        assert once.control.logins("once")[-1]["outcome"] == "logout"

    def test_by_kill_9_before_it_is_ready(self, once: Once) -> None:
        """As well."""
        once.control.stall()
        running = once.product.popen("run", "--rm", "--timeout", "2", "--", "true")
        eventually(lambda: once.product.daemons())
        running.process.kill()
        once.control.stall(on=False)
        eventually(once.is_gone)

    def test_after_its_supervisor_was_killed(self, once: Once, scratch: Path) -> None:
        """The daemon outlives it, the command goes on; at the end the node is gone all the same."""
        running = once.start(f"echo ready; until [ -e {scratch}/go ]; do sleep 0.05; done; exit 3")
        supervisors = [process.pid for process in once.product.processes() if process.argv[-1] == "up"]
        assert len(supervisors) == 1
        os.kill(supervisors[0], signal.SIGKILL)
        gone(supervisors[0])
        (scratch / "go").touch()
        assert running.process.wait(60) == 3
        once.leaves_nothing()

    def test_after_down_inside(self, once: Once) -> None:
        """A command that stops its own tailnet."""
        env = {"PATH": f"{Path(once.product.command).parent}:{once.product.env['PATH']}"}
        done = once.product.run("run", "--rm", "--", "sh", "-c", "tazpod-net down; exit 4", env=env, expect=4)
        assert (done.out, done.err) == ("stopped\n", "")
        once.leaves_nothing()

    def test_without_control(self, once: Once, scratch: Path) -> None:
        """The node cannot be logged out: said in one line; nothing is left here."""
        running = once.start(f"echo ready; until [ -e {scratch}/go ]; do sleep 0.05; done; exit 6")
        once.control.outage()
        (scratch / "go").touch()
        assert running.process.wait(60) == 6
        said = [line for line in running.rest() if line.startswith("tazpod-net: ")]
        assert len(said) == 1
        assert "could not log out" in said[0]
        once.control.outage(on=False)
        assert once.product.processes() == []
        assert list(once.directory.iterdir()) == []

    def test_of_two_at_once(self, once: Once) -> None:
        """Each has its own."""
        ends = once.product.at_once([["run", "--rm", "--", "sh", "-c", "echo $TAZPOD_NET_HOME"]] * 2)
        assert [done.code for done in ends] == [0, 0], ends
        assert ends[0].out != ends[1].out
        once.leaves_nothing()


class TestTerminal:
    """With a person's shell above."""

    def test_control_c_ends_the_command_and_the_node(self, once: Once, scratch: Path, ns: Place) -> None:
        """The shell has its terminal again, after everything is gone."""
        give_rc("bash", scratch, "")
        env = {**once.product.env, "HOME": str(scratch)}
        with Terminal(["bash", "--noprofile", "-i"], env=env, scratch=scratch, place=ns) as terminal:
            terminal.wait()
            script = "trap 'echo; exit 9' INT; echo ready; while :; do sleep 0.05; done"
            terminal.write(f'{once.product.command} run --rm -- sh -c "{script}"')
            terminal.press("Enter")
            eventually(lambda: "ready" in terminal.screen())
            terminal.press("C-c")
            terminal.wait(prompts=2)
            assert terminal.run("echo code $?") == ["code 9"]
            assert once.control.nodes("once") == []
            assert list(once.directory.iterdir()) == []
            assert terminal.screen()[-1].startswith(PROMPT)
