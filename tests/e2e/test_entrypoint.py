"""`entrypoint`: as PID 1 of a container and not, CMD beside the supervisor, signals, orphans, the end.

The table of signals and exit codes is the one that dumb-init's own tests ask for, in words of our own.
"""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Make
from tests.e2e.container import Container, Pty
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.product import Product, gone, is_alive, kill, state_of
from tests.support.terminal import PROMPT, Terminal

PYTHON = (sys.executable, "-S", "-c")
# Prints each signal that comes, and `ready PID` first.
LISTENER = """
import os, signal
numbers = [n for n in signal.valid_signals() if n not in {9, 17, 19}]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", os.getpid(), flush=True)
while True:
    print(int(signal.sigwaitinfo(numbers).si_signo), flush=True)
"""
# The state that a program inherits: masks as hex, open files, working directory.
INHERITED = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def is_open(fd):
    try:
        return os.fstat(fd) is not None
    except OSError:
        return False
print(json.dumps({
    "masks": {name: int(status[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn")},  # 32 and 33 are libc's
    "files": [fd for fd in range(1000) if is_open(fd)],
    "cwd": os.getcwd(), "parent": os.readlink(f"/proc/{os.getppid()}/cwd"),
    "session": os.getsid(0) == os.getpid() == os.getpgrp(), "env": dict(os.environ),
    "parents_env": open(f"/proc/{os.getppid()}/environ").read()}), flush=True)
"""
ORPHANS = """
import os, sys
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os._exit(3)
        os._exit(4)
    os.waitpid(pid, 0)
print("made", flush=True)
"""
FOREVER = ("sh", "-c", "echo started; exec sleep 1000")
NO_DAEMON = {"TAZPOD_NET_DAEMON_BINARY": "/nonexistent/tailscaled"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def bare(make: Make) -> Product:
    """A home whose supervisor has nothing to do: there is no tailscaled."""
    return make(auth_key=None, **NO_DAEMON)


def kill_inside(product: Product, part: str) -> None:
    """SIGKILL to what status calls `part`, by the pid that it has in there."""
    product.place.run(["kill", "-9", str(product.status()[part]["pid"])], check=True)


def restarted_since(number: int, now: dict[str, Any]) -> bool:
    """Whether the daemon has been restarted since it had been so often, and is ready again."""
    return bool(now["ready"] and now["daemon"]["restarts"] > number)


def states_of(product: Product, name: str) -> list[str]:
    """States of this home's processes of a name."""
    return [state_of(process.pid) for process in product.processes() if process.argv[0] == name]


class TestAnywhere:
    """Not as PID 1: below another init, or by hand."""

    @pytest.mark.parametrize("code", [0, 1, 2, 75, 76, 126, 127, 128, 254, 255])
    def test_its_exit_code_is_that_of_cmd(self, bare: Product, code: int) -> None:
        """Whatever CMD says, also the numbers that have a meaning elsewhere."""
        bare.run("entrypoint", "--", "sh", "-c", f"exit {code}", expect=code)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL, signal.SIGSEGV])
    def test_a_signal_that_ends_cmd_is_128_and_its_number(self, bare: Product, number: int) -> None:
        """As shells have it."""
        bare.run("entrypoint", "--", *PYTHON, f"import os; os.kill(os.getpid(), {number})", expect=128 + number)

    @pytest.mark.parametrize(
        ("command", "code", "words"),
        [
            ("no-such-program", 127, "no such program: check its name and PATH"),
            ("/no/such/program", 127, "no such program: check the path"),
            ("/etc/passwd", 126, "cannot be run (permission denied)"),
            ("/etc", 126, "cannot be run"),
            ("", 127, "no such program"),
        ],
    )
    def test_what_cannot_be_run_is_said(self, bare: Product, command: str, code: int, words: str) -> None:
        """126 and 127 as shells do, and one line."""
        done = bare.run("entrypoint", "--", command, expect=code)
        assert words in done.err

    def test_a_script_without_its_first_line_is_run_by_the_shell(self, bare: Product) -> None:
        """As every shell does it."""
        script = bare.user / "script"
        script.write_text('echo "ran $1"; exit 5\n')
        script.chmod(0o755)
        assert bare.run("entrypoint", "--", str(script), "well", expect=5).out == "ran well\n"

    def test_options_of_cmd_are_its_own(self, bare: Product) -> None:
        """Behind `--`, or behind CMD's name, nothing is ours."""
        for words in (["--", "echo", "--required", "-h"], ["echo", "--required", "-h"]):
            assert bare.run("entrypoint", *words, expect=0).out == "--required -h\n"

    @pytest.mark.parametrize("word", ["--requird", "--wait=redy", "--timeout=soon"])
    def test_a_mistyped_option_is_usage(self, bare: Product, word: str) -> None:
        """Exit 2 and one line; CMD does not run."""
        done = bare.run("entrypoint", word, "--", "echo", "ran", expect=2)
        assert done.out == ""
        assert len(done.err.splitlines()) == 1

    def test_every_signal_reaches_cmd(self, bare: Product) -> None:
        """In order and none twice, also those that would end a Python program, a fault's, and real-time ones."""
        with bare.popen("entrypoint", "--", *PYTHON, LISTENER) as output:
            output.until(lambda line: line.startswith("ready"))
            numbers = sorted(set(range(1, 65)) - {9, 17, 19, 20, 21, 22, 32, 33})
            for number in numbers:
                output.process.send_signal(number)
                output.until(str(number).__eq__)
            assert [int(line) for line in output.lines[1:]] == numbers

    def test_the_whole_group_gets_it(self, bare: Product) -> None:
        """Children of CMD too."""
        with bare.popen("entrypoint", "--", "sh", "-c", "sleep 1000 & echo $!; wait") as output:
            sleeper = int(output.until(str.isdigit))
            output.process.send_signal(signal.SIGTERM)
            assert output.process.wait(30) == 128 + signal.SIGTERM
            gone(sleeper)

    def test_what_is_left_of_the_group_is_asked_to_end(self, bare: Product) -> None:
        """CMD ends and its children do not: they get SIGTERM."""
        with bare.popen("entrypoint", "--", "sh", "-c", "sleep 1000 & echo $!") as output:
            sleeper = int(output.until(str.isdigit))
            assert output.process.wait(30) == 0
            gone(sleeper)

    @pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
    def test_stop_and_continue(self, bare: Product, number: int) -> None:
        """Both stop, whatever CMD makes of the signal, and both go on."""
        with bare.popen("entrypoint", "--", *PYTHON, LISTENER) as output:
            listener = int(output.until(lambda line: line.startswith("ready")).split()[1])
            output.process.send_signal(number)
            eventually(lambda: state_of(listener) == state_of(output.process.pid) == "T")
            output.process.send_signal(signal.SIGCONT)
            output.until(lambda line: line == str(int(signal.SIGCONT)))
            assert "T" not in {state_of(listener), state_of(output.process.pid)}

    def test_cmd_inherits_a_clean_state(self, bare: Product) -> None:
        """No mask, nothing ignored (though we were started so), no files of ours, its own session, our directory."""
        prefix = ["sh", "-c", "trap '' INT TERM PIPE; cd /usr && exec \"$@\"", "sh"]
        done = bare.run("entrypoint", "--", *PYTHON, INHERITED, prefix=prefix, expect=0)
        found = json.loads(done.out)
        assert found["masks"] == {
            "SigBlk": 0,
            "SigIgn": 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1),
        }  # Python
        assert found["files"] == [0, 1, 2]
        assert (found["cwd"], found["parent"]) == ("/usr", "/")
        assert found["session"]

    def test_secrets_leave_the_environment(self, make: Make, control: Control) -> None:
        """CMD does not have the keys, and `/proc` does not show them; the rest is untouched, and the login works."""
        product = make(TS_CLIENT_SECRET="tskey-client-x", TS_HOSTNAME="named", OTHER="kept")
        key = product.env["TS_AUTHKEY"]
        done = product.run("entrypoint", "--wait=ready", "--", *PYTHON, INHERITED, expect=0)
        found = json.loads(done.out)
        assert not {"TS_AUTHKEY", "TS_CLIENT_SECRET"} & found["env"].keys()
        assert (found["env"]["OTHER"], found["env"]["TS_HOSTNAME"]) == ("kept", "named")
        assert key not in found["parents_env"]
        assert "tskey-" not in found["parents_env"]
        assert control.nodes("named")

    def test_a_bad_configuration_does_not_stop_cmd(self, bare: Product) -> None:
        """Said on stderr, and CMD runs."""
        bare.configure("[daemon]\nmod = 'tun'\n")
        done = bare.run("entrypoint", "--", "sh", "-c", "sleep 1; echo ran", expect=0)
        assert done.out == "ran\n"
        assert "daemon.mod is not known" in done.err

    def test_a_home_that_cannot_be_used_does_not_stop_cmd(self, bare: Product) -> None:
        """Said on stderr, and CMD runs."""
        bare.home.write_text("in the way")
        done = bare.run("entrypoint", "--", "sh", "-c", "sleep 1; echo ran", expect=0)
        assert done.out == "ran\n"
        assert "a file is in the way" in done.err

    def test_no_tailscaled_does_not_stop_cmd(self, bare: Product) -> None:
        """Said on stderr; the supervisor stays, in case one is installed."""
        with bare.popen("entrypoint", "--", *FOREVER) as output:
            output.until(lambda line: line == "started")
            bare.eventually(lambda status: status["supervisor"]["state"] == "fatal")
            output.process.send_signal(signal.SIGTERM)
            assert output.process.wait(30) == 128 + signal.SIGTERM
        eventually(lambda: not bare.processes())

    @pytest.mark.parametrize(("config", "code"), [("[daemon]\nmod = 'tun'\n", 2), ("", 1)], ids=["config", "binary"])
    def test_required_stops_instead(self, bare: Product, config: str, code: int) -> None:
        """The reason on stderr, CMD never runs; at once, because time cannot help."""
        bare.configure(config)
        done = bare.run("entrypoint", "--required", "--timeout", "1h", "--", "echo", "ran", expect=code)
        assert done.out == ""
        assert "daemon.mod" in done.err if config else "/nonexistent/tailscaled" in done.err
        eventually(lambda: not bare.processes())

    def test_required_without_credentials_stops_at_the_timeout(self, make: Make) -> None:
        """They may come within that time."""
        product = make(auth_key=None)
        done = product.run("entrypoint", "--required", "--timeout", "2s", "--", "echo", "ran", expect=1)
        assert done.out == ""
        assert "not ready after 2s, waiting for credentials" in done.err.replace("2 s", "2s")
        assert product.processes() == []

    def test_wait_starts_cmd_when_it_is_so(self, product: Product) -> None:
        """The first thing that CMD sees is a tailnet."""
        done = product.run("entrypoint", "--wait", "ready", "--", product.command, "status", "--short", expect=0)
        assert done.out.startswith("tailnet: ready userspace 100.64.")

    def test_wait_gives_up_with_a_warning(self, make: Make) -> None:
        """CMD runs without the tailnet."""
        done = make(auth_key=None).run("entrypoint", "--wait=ready", "--timeout=1", "--", "echo", "ran", expect=0)
        assert done.out == "ran\n"
        assert "waiting for credentials" in done.err
        assert "CMD starts without the tailnet" in done.err

    def test_a_signal_ends_the_waiting(self, make: Make) -> None:
        """`docker stop` before CMD has started: nothing is left, CMD never ran."""
        product = make(auth_key=None)
        with product.popen("entrypoint", "--wait=ready", "--timeout=1h", "--", "echo", "ran") as output:
            product.eventually(lambda status: status["backend"]["login_code"] == "no-credentials")
            output.process.send_signal(signal.SIGTERM)
            assert output.process.wait(30) == 128 + signal.SIGTERM
            assert output.rest() == []
        assert product.processes() == []

    def test_nothing_is_left_of_a_cmd_that_ends_at_once(self, product: Product) -> None:
        """Wherever the supervisor was in its start."""
        for number in range(5):
            product.run("entrypoint", "--", "sh", "-c", f"sleep 0.{number}; exit {number}", expect=number)
            eventually(lambda: not product.processes())

    def test_what_a_person_stopped_stays_stopped(self, product: Product) -> None:
        """By hand, in the same life of the container, `entrypoint` is not a restart of it."""
        product.up()
        product.down()
        done = product.run("entrypoint", "--", product.command, "status", "--short", expect=3)
        assert done.out == "tailnet: stopped\n"
        assert "stays stopped: tazpod-net up" in done.err

    def test_another_supervisor_is_left_alone(self, product: Product) -> None:
        """One that a person has started is used, and is not stopped with CMD."""
        product.up()
        before = product.status()
        product.run("entrypoint", "--wait", "ready", "--", "true", expect=0)
        assert product.status()["daemon"]["pid"] == before["daemon"]["pid"]

    def test_our_own_events_are_on_stderr(self, product: Product) -> None:
        """With CMD its log stays in the file; CMD's output is its own."""
        words = ["entrypoint", "--wait=ready", "--", "echo", "ran"]
        done = product.run(*words, expect=0)
        assert done.out == "ran\n"
        assert [line for line in done.err.splitlines() if "ready: on example.ts.net as" in line]
        assert product.run(*words, env={"TAZPOD_NET_LOG_STDOUT": "false"}, expect=0).err == ""
        assert "magicsock" not in done.err
        assert "magicsock" in product.run(*words, env={"TAZPOD_NET_LOG_STDOUT": "true"}, expect=0).out

    def test_a_supervisor_that_dies_is_started_again(self, product: Product) -> None:
        """It adopts the daemon; CMD does not notice."""
        with product.popen("entrypoint", "--wait=ready", "--", *FOREVER) as output:
            output.until(lambda line: line == "started")
            before = product.status()["daemon"]["pid"]
            old = product.kill_supervisor()
            now = product.eventually(lambda status: status["ready"] and status["supervisor"]["pid"] not in {None, old})
            assert now["daemon"]["pid"] == before
            assert now["daemon"]["adopted"]
            output.process.send_signal(signal.SIGTERM)
            assert output.process.wait(30) == 128 + signal.SIGTERM
        assert product.processes() == []

    def test_as_a_job_of_a_shell(self, bare: Product) -> None:
        """On a person's terminal: Ctrl-Z and `fg` work on both, Ctrl-C ends CMD, the shell has its terminal again."""
        env = {**bare.env, "PS1": f"{PROMPT} "}
        with Terminal(["bash", "--norc"], env=env, scratch=bare.user, place=bare.place) as shell:
            shell.wait()
            shell.write(f"{bare.command} entrypoint -- cat; echo code $?")
            shell.press("Enter")
            shell.write("hello")
            shell.press("Enter")
            eventually(lambda: "".join(shell.screen()).count("hello") == 2)
            shell.press("C-z")
            shell.wait(prompts=2)
            assert "T" in states_of(bare, "cat")
            shell.write("fg; echo code $?")
            shell.press("Enter")
            eventually(lambda: states_of(bare, "cat") == ["S"])
            shell.write("again")
            shell.press("Enter")
            eventually(lambda: "".join(shell.screen()).count("again") == 2)
            shell.press("C-c")
            eventually(lambda: "code 130" in "".join(shell.screen()))
            assert shell.run("echo $((20 + 3))")[-1:] == ["23"]


@pytest.mark.root
class TestPid1:
    """As PID 1 of a pid namespace."""

    def test_cmd_beside_the_daemon(self, product: Product) -> None:
        """CMD starts at once, can wait for the tailnet, and its code is the container's; then all have ended."""
        script = f"{product.command} wait >&2 && {product.command} status --short; exit 7"
        with Container(product, command=["sh", "-c", script]) as container:
            assert container.line("tailnet").startswith("tailnet: ready userspace")
            assert container.end() == 7
        assert product.processes() == []
        assert "shutting down" in product.log.read_text().lower() or "terminated" in product.log.read_text().lower()

    def test_signals_reach_cmd(self, bare: Product) -> None:
        """All of them, although nobody ends PID 1 by a signal."""
        with Container(bare, command=[*PYTHON, LISTENER]) as container:
            container.line("ready")
            for number in sorted(set(range(1, 65)) - {9, 17, 19, 20, 21, 22, 32, 33}):
                container.signal(number)
                container.line(str(number))

    def test_orphans_are_reaped_while_the_daemon_restarts(self, product: Product) -> None:
        """10,000 of them, and none is taken for a child of ours: the daemon comes back, CMD goes on."""
        with Container(product, "--wait=ready", command=[*FOREVER]) as container:
            container.line("started")
            with product.place.popen([*PYTHON, ORPHANS, "10000"], stdout=subprocess.PIPE) as maker:
                for _ in range(3):
                    before = product.status()["daemon"]
                    kill_inside(product, "daemon")
                    product.eventually(partial(restarted_since, before["restarts"]))
                assert maker.stdout is not None
                assert maker.stdout.read() == "made\n"
            eventually(lambda: "Z" not in container.children())
            container.signal(signal.SIGTERM)
            assert container.end() == 128 + signal.SIGTERM

    def test_a_stop_logs_an_ephemeral_node_out(self, make: Make, control: Control) -> None:
        """`docker stop`: CMD, node and daemon within its patience, the second signal changes nothing."""
        product = make(TAZPOD_NET_DAEMON_STATE="ephemeral", TS_HOSTNAME="passing")
        with Container(product, "--wait=ready", command=FOREVER) as container:
            container.line("started")
            assert control.nodes("passing")
            container.signal(signal.SIGTERM)
            container.signal(signal.SIGTERM)
            assert container.end(within=10) == 128 + signal.SIGTERM
        assert "logged out" in product.logs_text()
        assert product.processes() == []

    def test_the_tailnet_stays_while_cmd_ends_slowly(self, product: Product) -> None:
        """CMD that takes its time after SIGTERM still has its daemon."""
        script = f"trap '{product.command} status --short; exit 9' TERM; echo started; while :; do sleep 0.1; done"
        with Container(product, "--wait=ready", command=["sh", "-c", script]) as container:
            container.line("started")
            container.signal(signal.SIGTERM)
            assert container.line("tailnet:").startswith("tailnet: ready")
            assert container.end() == 9

    def test_cmd_that_ignores_sigterm_is_not_ended(self, product: Product) -> None:
        """Only the engine's own SIGKILL does that."""
        script = "trap 'echo no' TERM; echo started; while :; do sleep 0.1; done"
        with Container(product, "--wait=ready", command=["sh", "-c", script]) as container:
            container.line("started")
            container.signal(signal.SIGTERM)
            container.line("no")
            container.signal(signal.SIGTERM)
            assert product.status()["ready"]
            container.process.kill()
            container.end()

    def test_the_daemons_death_does_not_end_cmd(self, product: Product) -> None:
        """Nor the supervisor's: both are there again."""
        with Container(product, "--wait=ready", command=FOREVER) as container:
            container.line("started")
            kill_inside(product, "daemon")
            product.eventually(lambda status: status["ready"] and status["daemon"]["restarts"] == 1)
            daemon = product.status()["daemon"]["pid"]
            old = product.status()["supervisor"]["pid"]
            kill_inside(product, "supervisor")
            now = product.eventually(lambda status: status["ready"] and status["supervisor"]["pid"] not in {None, old})
            assert now["daemon"]["pid"] == daemon
            assert "the supervisor died: started again" in container.said()
            container.signal(signal.SIGINT)
            assert container.end() == 128 + signal.SIGINT

    def test_down_stays_until_the_container_is_restarted(self, product: Product) -> None:
        """Inside nobody starts it again but `up`; the next container does."""
        with Container(product, "--wait=ready", command=FOREVER) as container:
            container.line("started")
            product.down()
            assert product.short() == "tailnet: stopped"
            product.up()
            product.down()
            container.signal(signal.SIGTERM)
            assert container.end() == 128 + signal.SIGTERM
        with Container(product, "--wait=ready", command=FOREVER) as container:
            container.line("started")
            assert product.short().startswith("tailnet: ready")
            container.signal(signal.SIGTERM)
            container.end()

    def test_what_up_started_is_stopped_too(self, product: Product) -> None:
        """A supervisor of a person's `up` ends in order with the container."""
        with Container(product, "--wait=ready", command=FOREVER) as container:
            container.line("started")
            product.down()
            product.up()
            container.signal(signal.SIGTERM)
            assert container.end() == 128 + signal.SIGTERM
        assert not (product.state / "control.sock").exists()

    def test_without_cmd_it_supervises(self, product: Product) -> None:
        """The daemon's log on stdout, orphans reaped, SIGTERM ends it in order with 0."""
        with Container(product) as container:
            product.run("wait", expect=0)
            container.line("magicsock")
            product.place.run([*PYTHON, ORPHANS, "100"], check=True)
            eventually(lambda: "Z" not in container.children())
            container.signal(signal.SIGTERM)
            assert container.end() == 0
        assert product.processes() == []

    def test_without_cmd_a_dead_supervisor_comes_back(self, product: Product) -> None:
        """The daemon goes on, and is adopted."""
        with Container(product) as container:
            product.run("wait", expect=0)
            before = product.status()
            kill_inside(product, "supervisor")
            now = product.eventually(
                lambda status: status["ready"] and status["supervisor"]["pid"] != before["supervisor"]["pid"]
            )
            assert now["daemon"]["pid"] == before["daemon"]["pid"]
            container.signal(signal.SIGTERM)
            assert container.end() == 0

    def test_without_cmd_a_bad_configuration_ends_it(self, product: Product) -> None:
        """There is nothing else to run."""
        product.configure("[daemon]\nmod = 'tun'\n")
        with Container(product) as container:
            assert container.end() == 2
            assert "daemon.mod is not known" in container.said()

    def test_an_interactive_shell_has_job_control(self, bare: Product) -> None:
        """`docker run -it`: CMD has the controlling terminal, its size and its keys."""
        with Pty() as pty, Container(bare, command=["bash", "--norc", "-i"], tty=pty.slave) as container:
            pty.press("set -m; echo flags=$-; stty size; tty\n")
            assert "m" in pty.until("flags=")
            pty.until("24 80")
            pty.resize(50, 132)
            pty.press("stty size; sleep 1000\n")
            pty.until("50 132")
            eventually(lambda: "sleep" in [name for _, _, name in container.processes()])
            pty.press("\x1a")
            pty.until("Stopped")
            pty.press("fg\n")
            eventually(lambda: ("S", "sleep") in [(state, name) for _, state, name in container.processes()])
            pty.press("\x03")
            eventually(lambda: "sleep" not in [name for _, _, name in container.processes()])
            pty.press("exit 3\n")
            assert container.end() == 3


def test_the_supervisor_is_not_among_cmds_relatives(product: Product) -> None:
    """What watches CMD's process tree sees CMD."""
    with product.popen("entrypoint", "--wait=ready", "--", *FOREVER) as output:
        output.until(lambda line: line == "started")
        children = Path(f"/proc/{output.process.pid}/task/{output.process.pid}/children")
        eventually(lambda: [Path(f"/proc/{p}/comm").read_text() for p in children.read_text().split()] == ["sleep\n"])
        supervisor = product.status()["supervisor"]["pid"]
        assert is_alive(supervisor)
        assert os.getsid(supervisor) == supervisor
        kill(output.process.pid, signal.SIGTERM)
        assert output.process.wait(30) == 128 + signal.SIGTERM
