"""A command as our child: its end, its signals and its terminal, with a real shell above."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tazpod_net.adapters import foreground
from tests.support.eventually import eventually
from tests.support.product import gone, is_alive
from tests.support.terminal import Terminal, give_rc

RUN = """
import os, sys
from tazpod_net.adapters import foreground
try:
    sys.exit(foreground.run(sys.argv[1:], os.environ, dies_with_us=True))
except OSError as e:
    sys.exit(foreground.refusal_code(e))
"""
BECOME = RUN.replace("run(sys.argv[1:], os.environ, dies_with_us=True)", "replace(sys.argv[1:], os.environ)")
COUNTS = """
n=0
trap 'n=$((n + 1))' INT
echo ready
while [ $n = 0 ]; do sleep 0.05; done
sleep 0.3
echo n=$n
"""
WAIT = "while :; do sleep 0.05; done"
both = pytest.mark.parametrize("how", [RUN, BECOME], ids=["child", "exec"])


def runner(how: str, *argv: str) -> list[str]:
    """The command line of a Python that runs `argv`."""
    return [sys.executable, "-c", how, *argv]


class Started:
    """A runner in a session of its own, whose command has said a line."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            runner(RUN, *argv), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class TestEnd:
    """Exit codes, as shells have them."""

    @both
    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (["true"], 0),
            (["sh", "-c", "exit 7"], 7),
            (["sh", "-c", "exit 255"], 255),
            (["/nonexistent/x"], 127),
            (["no-such-command"], 127),
            ([""], 127),
            (["/etc/passwd"], 126),
            (["/etc"], 126),
        ],
    )
    def test_is_the_commands(self, how: str, argv: list[str], code: int) -> None:
        """127 for what is not there, 126 for what cannot be run."""
        assert subprocess.run(runner(how, *argv), check=False, stdin=subprocess.DEVNULL).returncode == code

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
    def test_of_a_signal_is_128_and_its_number(self, number: signal.Signals) -> None:
        """Also for those that cannot be caught."""
        assert subprocess.run(runner(RUN, "sh", "-c", f"kill -{number:d} $$"), check=False).returncode == 128 + number

    @both
    def test_a_script_without_an_interpreter_line(self, how: str, tmp_path: Path) -> None:
        """It is sh's, as execvp(3) has it; its arguments arrive."""
        script = tmp_path / "script"
        script.write_text('echo "$1"; exit 3\n')
        script.chmod(0o755)
        done = subprocess.run(runner(how, str(script), "a b"), check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, "a b\n")

    @both
    def test_signals_are_as_the_caller_had_them(self, how: str) -> None:
        """Nothing blocked, nothing ignored that was not: Python's SIGPIPE would turn `head` into an error."""
        bare = masks(["cat", "/proc/self/status"])
        assert bare["SigIgn"] & 1 << (signal.SIGUSR1 - 1)
        assert masks(runner(how, "cat", "/proc/self/status")) == bare


def masks(argv: list[str]) -> dict[str, int]:
    """What a command that shows its status has of signals, where the caller ignores one."""
    argv = ["sh", "-c", "trap '' USR1; exec \"$@\"", "sh", *argv]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    found = dict(line.split(":\t", 1) for line in out.splitlines() if line.startswith("Sig"))
    return {name: int(found[name], 16) for name in ("SigBlk", "SigCgt", "SigIgn")}


class TestSignals:
    """For us, to the command's group."""

    @pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "RTMIN+3"])
    def test_reach_the_command(self, name: str) -> None:
        """Whatever can be caught."""
        script = f"trap 'exit 9' {name}; echo ready; {WAIT}"
        with Started("bash", "-c", script) as started:
            number = signal.SIGRTMIN + 3 if "+" in name else signal.Signals[f"SIG{name}"]
            started.process.send_signal(number)
            assert started.process.wait(30) == 9

    def test_reach_what_the_command_has_started(self) -> None:
        """A shell script and the program that it runs."""
        with Started("sh", "-c", "sleep 1000 & echo $!; wait") as started:
            assert is_alive(int(started.line))
            started.process.terminate()
            assert started.process.wait(30) == 128 + signal.SIGTERM
            gone(int(started.line))

    def test_sigkill_for_us_ends_the_command(self) -> None:
        """It is told to end."""
        with Started("sh", "-c", "echo $$; exec sleep 1000") as started:
            started.process.kill()
            gone(int(started.line))

    def test_a_stopped_command_can_be_continued(self) -> None:
        """Without a shell above, a stop of the command is no stop of ours, and its end is seen."""
        with Started("sh", "-c", "echo $$; exec sleep 1000") as started:
            pid = int(started.line)
            os.kill(pid, signal.SIGSTOP)
            eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            os.kill(pid, signal.SIGCONT)
            started.process.send_signal(signal.SIGINT)
            assert started.process.wait(30) == 128 + signal.SIGINT


@pytest.fixture
def bash(scratch: Path) -> Iterator[Terminal]:
    """An interactive bash whose `r` runs a command through us."""
    program = scratch / "r"
    program.write_text(f"#!{sys.executable}\n{RUN}")
    program.chmod(0o755)
    give_rc("bash", scratch, f"PATH={scratch}:$PATH\n")
    env = {"HOME": str(scratch), "PATH": os.environ["PATH"]}
    env |= {name: value for name, value in os.environ.items() if name.startswith("TAZPOD_TEST_")}
    with ExitStack() as stack:
        yield stack.enter_context(Terminal(["bash", "--noprofile", "-i"], env=env, scratch=scratch)).wait()


def shows(terminal: Terminal, text: str) -> None:
    """Waits for a line of the screen."""
    eventually(lambda: text in [line.removeprefix("^C") for line in terminal.screen()], within=30)


def type_line(terminal: Terminal, text: str) -> None:
    """A line that is not followed by a prompt."""
    terminal.write(text)
    terminal.press("Enter")


class TestTerminal:
    """Job control, with bash above."""

    def test_the_command_has_it(self, bash: Terminal) -> None:
        """It reads from it, also after it was in the hands of another command."""
        for word in ("one", "two"):
            before = bash.prompts()
            type_line(bash, f"r sh -c 'echo ready {word}; read x; echo =$x='")
            shows(bash, f"ready {word}")
            type_line(bash, word)
            bash.wait(prompts=before + 1)
            shows(bash, f"={word}=")

    def test_control_c_is_the_commands(self, bash: Terminal) -> None:
        """Once, and the shell sees how it ended."""
        before = bash.prompts()
        type_line(bash, "r sh -c \"trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done\"")
        shows(bash, "ready")
        bash.press("C-c")
        bash.wait(prompts=before + 1)
        assert bash.run("echo code $?") == ["code 4"]
        assert len([line for line in bash.screen() if line.lstrip("^C") == "caught"]) == 1

    @pytest.mark.parametrize("tail", ["", " | cat"])
    def test_control_z_and_fg(self, bash: Terminal, tail: str) -> None:
        """Stopped like any other job, alone or in a pipeline; `fg` goes on with it; it ends as it should."""
        before = bash.prompts()
        type_line(bash, "r sh -c 'echo ready; sleep 0.1; read x; echo =$x=; exit 6'" + tail)
        shows(bash, "ready")
        bash.press("C-z")
        bash.wait(prompts=before + 1)
        assert "Stopped" in "\n".join(bash.run("jobs"))
        type_line(bash, "fg")
        type_line(bash, "again")
        bash.wait(prompts=before + 3)
        shows(bash, "=again=")
        if not tail:
            assert bash.run("echo code $?") == ["code 6"]
        assert bash.run("jobs") == []

    def test_in_the_background_it_goes_on(self, bash: Terminal) -> None:
        """`&`: it does not take the terminal; one that wants to read stops, `fg` gives it the terminal."""
        before = bash.prompts()
        type_line(bash, "r sh -c 'read x; echo =$x=' &")
        bash.wait(prompts=before + 1)
        eventually(lambda: "Stopped" in "\n".join(bash.run("jobs")), within=30)
        before = bash.prompts()
        type_line(bash, "fg")
        type_line(bash, "late")
        bash.wait(prompts=before + 1)
        shows(bash, "=late=")

    def test_others_of_a_pipeline_have_it_too(self, bash: Terminal) -> None:
        """`| less`: the reader may ask the terminal."""
        before = bash.prompts()
        type_line(bash, "r echo hello | sh -c 'cat; read x </dev/tty; echo =$x='")
        shows(bash, "hello")
        type_line(bash, "key")
        bash.wait(prompts=before + 1)
        shows(bash, "=key=")

    def test_control_c_reaches_a_pipeline_once(self, bash: Terminal, scratch: Path) -> None:
        """The kernel tells the whole group; we do not say it again."""
        before = bash.prompts()
        script = scratch / "counts"
        script.write_text(COUNTS)
        type_line(bash, f"r sh {script} | sh -c 'trap : INT; cat; cat'")
        shows(bash, "ready")
        bash.press("C-c")
        bash.wait(prompts=before + 1)
        shows(bash, "n=1")

    def test_modes_are_repaired_after_a_kill(self, bash: Terminal) -> None:
        """A command that was killed could not switch echo on again."""
        before = bash.prompts()
        type_line(bash, "r sh -c 'stty -echo; kill -9 $$'; stty -a | grep -ow -e -echo -e echo")
        bash.wait(prompts=before + 1)
        shows(bash, "echo")


class TestAlone:
    """We are the session's first process, as under `docker exec -it`: nobody above could continue what is stopped."""

    @pytest.fixture
    def env(self, scratch: Path) -> dict[str, str]:
        """For a terminal without a shell of ours."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("TAZPOD_TEST_")}
        return {"HOME": str(scratch), "PATH": os.environ["PATH"], **kept}

    def test_control_z_does_nothing(self, env: dict[str, str], scratch: Path) -> None:
        """The command goes on, and has the terminal."""
        argv = runner(RUN, "sh", "-c", "echo ready; read x; echo; echo =$x=; read y")
        with Terminal(argv, env=env, scratch=scratch) as terminal:
            shows(terminal, "ready")
            terminal.press("C-z")
            type_line(terminal, "on")
            shows(terminal, "=on=")

    def test_a_shell_inside_has_its_jobs(self, env: dict[str, str], scratch: Path) -> None:
        """An interactive bash as the command: stops and continues its own."""
        give_rc("bash", scratch, "")
        with Terminal(runner(RUN, "bash", "--noprofile", "-i"), env=env, scratch=scratch) as terminal:
            terminal.wait()
            type_line(terminal, "sh -c 'echo ready; read x; echo =$x='")
            shows(terminal, "ready")
            terminal.press("C-z")
            terminal.wait(prompts=2)
            type_line(terminal, "fg")
            type_line(terminal, "back")
            terminal.wait(prompts=3)
            shows(terminal, "=back=")


def test_exit_codes_of_wait_statuses() -> None:
    """As shells say it."""
    assert [foreground.exit_code(status) for status in (0, 7 << 8, 15, 9, 0x80 | 11)] == [0, 7, 143, 137, 139]
