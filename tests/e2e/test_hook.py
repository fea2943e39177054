"""The shell hook, in real terminals: bash, zsh and fish under tmux, what they show and what they start."""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tazpod_net import home as homes
from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.netns import HERE, Namespace, Place, tun_refusal
from tests.support.people import UID, Sudo, move_in
from tests.support.product import SYSTEM_PATH, Product
from tests.support.terminal import PROMPT, SHELLS, Terminal, give_rc, needs

ROOT = Path(__file__).resolve().parents[2]
HOOKS = {
    "bash": ROOT / "bashrc.d" / "tazpod-net.sh",
    "zsh": ROOT / "bashrc.d" / "tazpod-net.sh",
    "fish": ROOT / "tazpod_net" / "shell" / "tazpod-net.fish",
}
STARTING = "tazpod-net: starting the tailnet in the background (tazpod-net status)"
WAITS = "tazpod-net: tailnet waits for credentials: logs in by itself"
NOBODY = 12345
INTERACTIVE = {"bash": ["bash", "--noprofile", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}

# Stands for the program: notes each call, then ends as the test says.
STUB = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
cut -d ' ' -f 6 /proc/$$/stat >"$CALLS.session"
. "$PLAN"
"""

every_shell = pytest.mark.parametrize("shell", SHELLS)
sh_like = pytest.mark.parametrize("shell", ["bash", "zsh"])


def source(shell: str) -> str:
    """The line of an rc file that reads the hook."""
    return f"{'source' if shell == 'fish' else '.'} {HOOKS[shell]}\n"


def alive_short(word: str) -> str:
    """`state/short` of a supervisor in that state that lives: this test's own process stands for it."""
    return f"tailnet: {word}\n{os.getpid()} {homes.start_ticks(os.getpid())}\n"


class Box:
    """A user with a home and a stub for the program: for what the hook does by itself."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.user = root / "user"
        self.home = self.user / "net"
        self.state = self.home / "state"
        self.state.mkdir(parents=True)
        self.calls_file = root / "calls"
        self.plan = root / "plan"
        self.plan.write_text("exit 0\n")
        program = root / "bin" / "tazpod-net"
        program.parent.mkdir()
        program.write_text(STUB)
        program.chmod(0o755)
        self.program = program
        self.env = {
            **{name: value for name, value in os.environ.items() if name.startswith("TAZPOD_TEST_")},
            "HOME": str(self.user),
            "PATH": f"{program.parent}:{SYSTEM_PATH}",
            "TAZPOD_NET_HOME": str(self.home),
            "CALLS": str(self.calls_file),
            "PLAN": str(self.plan),
        }
        self._stack = stack

    def short(self, word: str) -> None:
        """Publishes a state, of a supervisor that lives."""
        (self.state / "short").write_text(alive_short(word))

    def status(self, **keys: object) -> None:
        """Publishes a status object with these keys."""
        (self.state / "status.json").write_text(json.dumps(keys, separators=(",", ":")) + "\n")

    def fails(self, *lines: str, code: int = 1) -> None:
        """The program says this and fails."""
        said = "".join(f"echo '{line}' >&2\n" for line in lines)
        self.plan.write_text(f"{said}exit {code}\n")

    def comes_up(self, word: str = "ready tun 100.64.0.1 tazpod") -> None:
        """The program makes it ready."""
        (self.root / "up").write_text(alive_short(word))
        self.plan.write_text(f"cp {self.root}/up {self.state}/short\n")

    def waits(self) -> None:
        """The program does nothing before `go`."""
        self.plan.write_text(f'while [ ! -e "$CALLS.go" ]; do sleep 0.05; done\n{self.plan.read_text()}')

    def go(self) -> None:
        """Lets the program go on."""
        Path(f"{self.calls_file}.go").touch()

    def calls(self) -> list[str]:
        """Command lines of the program so far."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def open(self, shell: str, rc: str | None = None, env: dict[str, str] | None = None) -> Terminal:
        """A terminal with a shell whose rc file has `rc`, by default the hook's line."""
        give_rc(shell, self.user, source(shell) if rc is None else rc)
        terminal = Terminal(INTERACTIVE[shell], env={**self.env, **(env or {})}, scratch=self.root)
        return self._stack.enter_context(terminal)

    def shown(self, shell: str, rc: str | None = None, env: dict[str, str] | None = None) -> list[str]:
        """What a new shell says until its first prompt."""
        terminal = self.open(shell, rc, env).wait()
        return terminal.said()


@pytest.fixture
def box(scratch: Path) -> Iterator[Box]:
    """A user without a supervisor; what its shells leave in /tmp is removed."""
    with ExitStack() as stack:
        yield Box(scratch, stack)
    forget_marks(scratch)


def children(pid: str) -> list[str]:
    """Pids of the children of a process, zombies included."""
    pids = (name for name in os.listdir("/proc") if name.isdigit())
    return [name for name in pids if (homes.process_stat(int(name)) or ["", ""])[1] == pid]


def forget_marks(path: Path, uid: int | None = None) -> None:
    """Removes what shells noted about homes that have the name of `path` in their own."""
    key = re.sub(r"[^A-Za-z0-9]", "_", path.name)
    for mark in Path(f"/tmp/tazpod-net-{os.geteuid() if uid is None else uid}").glob(f"*{key}*"):
        mark.unlink(missing_ok=True)


@pytest.fixture
def at(make: Make) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals for a product's user."""
    products: list[Product] = []
    with ExitStack() as stack:

        def one(product: Product, shell: str, lines: str = "", **env: str) -> Terminal:
            products.append(product)
            give_rc(shell, product.user, lines + source(shell))
            path = f"{os.path.dirname(product.command)}:{product.env['PATH']}"
            merged = {**product.env, "PATH": path, **env}
            if product.uid is not None:
                os.chown(product.user, product.uid, product.uid)
            terminal = Terminal(
                INTERACTIVE[shell],
                env={name: value for name, value in merged.items() if value},
                scratch=product.user,
                place=product.place,
                uid=product.uid,
            )
            return stack.enter_context(terminal)

        yield one
    for product in products:
        forget_marks(product.user, product.uid)


class TestWell:
    """Nothing to do: nothing said, nothing started."""

    @every_shell
    @pytest.mark.parametrize("word", ["ready tun 100.64.0.1 tazpod", "offline tun 100.64.0.1 tazpod", "starting"])
    def test_a_living_supervisor_is_left_alone(self, box: Box, shell: str, word: str) -> None:
        """A shell beside a supervisor that is up or on its way says nothing, starts nothing, keeps nothing."""
        box.short(word)
        terminal = box.open(shell).wait()
        assert terminal.screen() == [PROMPT]
        left = terminal.run("functions -a | grep tazpod_net_p" if shell == "fish" else "typeset -f | grep tazpod_net")
        assert left == []
        assert box.calls() == []

    @every_shell
    def test_no_process_is_made(self, box: Box, shell: str) -> None:
        """A shell with the hook makes exactly the processes that it makes without."""
        needs("strace", shell)
        if HERE.run(["strace", "-f", "-o", "/dev/null", "true"]).returncode != 0:
            pytest.skip("strace may not trace here")
        box.short("ready tun 100.64.0.1 tazpod")

        def made(rc: str) -> int:
            give_rc(shell, box.user, rc)
            trace = box.root / "trace"
            argv = ["strace", "-f", "-e", "trace=fork,vfork,clone,clone3,execve", "-o", str(trace), *INTERACTIVE[shell]]
            with Terminal(argv, env=box.env, scratch=box.root) as terminal:
                terminal.wait()
            return sum("CLONE_THREAD" not in line and "(" in line for line in trace.read_text().splitlines())

        made("")  # the first start of a shell may have files to make
        assert made(source(shell)) == made("")

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_without_a_terminal_it_does_nothing(self, box: Box, shell: str) -> None:
        """An interactive shell on pipes, as `docker exec` without -t gives, starts nothing and says nothing."""
        needs(shell)
        give_rc(shell, box.user, source(shell))
        done = HERE.run(INTERACTIVE[shell], env=box.env, stdin="echo here\nexit\n")
        assert "here" in done.stdout
        assert "tazpod-net:" not in done.stdout + done.stderr
        assert box.calls() == []

    @sh_like
    def test_a_script_does_nothing(self, box: Box, shell: str) -> None:
        """A shell that is not interactive goes on behind the hook and has heard nothing of it."""
        needs(shell)
        done = HERE.run([shell, "-euc", f"{source(shell)}echo here"], env=box.env)
        assert (done.returncode, done.stdout, done.stderr, box.calls()) == (0, "here\n", "", [])

    @every_shell
    def test_without_the_program_it_is_silent(self, box: Box, shell: str) -> None:
        """The hook outlives the program without a word."""
        box.program.unlink()
        terminal = box.open(shell).wait()
        assert terminal.screen() == [PROMPT]


class TestStart:
    """No supervisor: one is started in the background."""

    @every_shell
    def test_starts_and_tells_of_success_once(self, box: Box, shell: str) -> None:
        """One line at once, one at a later prompt when it is ready, then never again."""
        box.comes_up()
        box.waits()
        terminal = box.open(shell).wait()
        assert terminal.said() == [STARTING]
        box.go()
        eventually((box.state / "short").exists)
        terminal.run("true")
        terminal.run("true")
        assert terminal.said() == [STARTING, "tazpod-net: tailnet ready: tazpod 100.64.0.1 by TUN"]
        assert box.calls() == ["up"]

    @every_shell
    def test_tells_of_failure_once(self, box: Box, shell: str) -> None:
        """The next prompt has the reason; prompts and shells after that do not repeat it."""
        box.fails("tazpod-net: no tailscaled: tazpod-net install")
        box.waits()
        terminal = box.open(shell).wait()
        box.go()
        reason = "tazpod-net: tailnet did not start: no tailscaled: tazpod-net install (tazpod-net status)"
        eventually(lambda: reason in terminal.run("true"))
        terminal.run("true")
        assert terminal.said() == [STARTING, reason]
        assert box.shown(shell) == []

    @every_shell
    def test_the_next_shell_tells_what_no_prompt_has_told(self, box: Box, shell: str) -> None:
        """The reason is not lost with the shell that started it."""
        box.fails("tazpod-net: first problem", "tazpod-net: second problem", code=2)
        box.waits()
        box.open(shell).wait().close()
        box.go()
        ended = Path(f"/tmp/tazpod-net-{os.geteuid()}")
        eventually(lambda: [path for path in ended.glob("*.end.1") if box.root.name.replace("-", "_") in path.name])
        told = "tazpod-net: tailnet did not start: first problem, and 1 more (tazpod-net status)"
        assert box.shown(shell) == [told]
        assert box.shown(shell) == []

    @every_shell
    def test_it_is_in_a_session_of_its_own_and_no_job(self, box: Box, shell: str) -> None:
        """The shell has no job, no zombie, no word of job control; what it started is in another session."""
        box.comes_up()
        terminal = box.open(shell).wait()
        eventually((box.state / "short").exists)
        jobs = terminal.run("jobs")
        assert [line for line in jobs if "tazpod-net:" not in line] == (
            ["jobs: There are no jobs"] if shell == "fish" else []
        )
        pid = terminal.run("echo $fish_pid" if shell == "fish" else "echo $$")[-1]
        session = Path(f"{box.calls_file}.session").read_text().strip()
        assert session != (homes.process_stat(int(pid)) or [])[3]
        eventually(lambda: children(pid) == [])
        assert not any(re.match(r"^\[\d+\]", line) for line in terminal.screen())

    @every_shell
    def test_job_control_is_as_before(self, box: Box, shell: str) -> None:
        """A job can be stopped and continued in a shell whose hook has acted."""
        box.fails("tazpod-net: no")
        terminal = box.open(shell).wait()
        terminal.write("sleep 100")
        terminal.press("Enter")
        eventually(lambda: terminal.prompts() == 0)
        terminal.press("C-z")
        terminal.wait(prompts=2)
        assert any("sleep" in line for line in terminal.run("jobs"))
        terminal.run("kill %1; jobs")

    @every_shell
    def test_of_ten_shells_one_starts(self, box: Box, shell: str) -> None:
        """Ten shells at once: one line, one `up`."""
        box.waits()
        terminals = [box.open(shell) for _ in range(10)]
        for terminal in terminals:
            terminal.wait()
        assert [line for terminal in terminals for line in terminal.said()] == [STARTING]
        assert box.calls() == ["up"]
        box.go()

    @sh_like
    def test_an_attempt_that_was_lost_is_made_again(self, box: Box, shell: str) -> None:
        """A start whose process was killed does not keep later shells from starting."""
        box.plan.write_text("kill -9 $PPID; exit 0\n")
        assert box.shown(shell) == [STARTING]
        marks = list(Path(f"/tmp/tazpod-net-{os.geteuid()}").glob("*.start.1"))
        mark = next(path for path in marks if box.root.name.replace("-", "_") in path.name)
        assert box.shown(shell) == []
        mark.write_text("1\n")  # seconds after the machine's start
        assert box.shown(shell) == [STARTING]

    @every_shell
    def test_a_home_that_cannot_be_written_is_no_trouble(self, box: Box, shell: str) -> None:
        """On a read-only home the hook starts the program as ever and tells what that says."""
        box.fails("tazpod-net: cannot write the home")
        terminal = box.open(shell, env={"TAZPOD_NET_HOME": f"/proc/{box.root.name}"}).wait()
        told = "tazpod-net: tailnet did not start: cannot write the home (tazpod-net status)"
        eventually(lambda: terminal.run("true") is not None and told in terminal.said())

    @every_shell
    def test_a_dead_supervisor_is_no_supervisor(self, box: Box, shell: str) -> None:
        """A `state/short` whose process has gone, or whose pid is another process now, counts for nothing."""
        (box.state / "short").write_text(f"tailnet: ready tun 100.64.0.1 x\n{os.getpid()} 1\n")
        assert box.shown(shell) == [STARTING]

    @every_shell
    def test_hostile_files_are_no_trouble(self, box: Box, shell: str) -> None:
        """Garbage in the files that it reads is as good as nothing, and none of it is run."""
        (box.state / "short").write_text("tailnet: $(touch /tmp/x) `id`\n../../etc 7;id\n")
        assert box.shown(shell) == [STARTING]


class TestSurroundings:
    """Whatever the user's own shell is set to."""

    @sh_like
    @pytest.mark.parametrize(
        "before",
        [
            "set -eu",
            "set -o noclobber",
            "IFS=:/; set -f",
            "alias read=false printf=false local=false unset=false command=false builtin=false return=false eval=false",
            "unset HOME",
            "cd /tmp; umask 777; umask 022",
            "setopt ksharrays shwordsplit nullglob 2>/dev/null || shopt -s failglob nullglob",
        ],
        ids=["eu", "noclobber", "ifs", "aliases", "homeless", "elsewhere", "options"],
    )
    def test_settings_do_not_matter(self, box: Box, shell: str, before: str) -> None:
        """It starts, tells, and leaves the shell as it was."""
        box.comes_up()
        after = "\\unalias -a\n" if "alias" in before else ""
        terminal = box.open(shell, f"{before}\n{source(shell)}{after}").wait()
        eventually((box.state / "short").exists)
        terminal.run("true")
        assert terminal.said() == [STARTING, "tazpod-net: tailnet ready: tazpod 100.64.0.1 by TUN"]
        assert terminal.screen()[0] == STARTING
        assert box.calls() == ["up"]

    @every_shell
    def test_twice_is_once(self, box: Box, shell: str) -> None:
        """Two lines in the rc file do not make two of anything."""
        box.comes_up()
        terminal = box.open(shell, source(shell) * 2).wait()
        eventually((box.state / "short").exists)
        terminal.run("true")
        assert terminal.said() == [STARTING, "tazpod-net: tailnet ready: tazpod 100.64.0.1 by TUN"]
        assert box.calls() == ["up"]

    @pytest.mark.parametrize(
        ("own", "after"),
        [
            ("unset PROMPT_COMMAND", "bash: declare: PROMPT_COMMAND: not found"),
            ("PROMPT_COMMAND='seen=$?; # mine'", 'declare -- PROMPT_COMMAND="seen=\\$?; # mine"'),
            ("PROMPT_COMMAND=('seen=$?' :)", 'declare -a PROMPT_COMMAND=([0]="seen=\\$?" [1]=":")'),
            ("readonly PROMPT_COMMAND='seen=$?'", 'declare -r PROMPT_COMMAND="seen=\\$?"'),
        ],
        ids=["none", "string", "array", "readonly"],
    )
    def test_the_users_prompt_command_stays(self, box: Box, own: str, after: str) -> None:
        """PROMPT_COMMAND runs beside ours, sees $?, and is what it was when ours has gone."""
        box.comes_up()
        terminal = box.open("bash", f"{own}\n{source('bash')}").wait()
        terminal.run("(exit 7)")
        if "seen" in own:
            assert terminal.run("echo seen=$seen")[0] == "seen=7"
        eventually((box.state / "short").exists)
        terminal.run("true")
        assert terminal.run("declare -p PROMPT_COMMAND")[-1] == after

    def test_the_users_precmd_functions_stay(self, box: Box) -> None:
        """zsh's own hooks run, see $?, and none is skipped when ours leaves."""
        box.comes_up()
        own = "a() { seen=$? }\nb() { ran=$((ran + 1)) }\nprecmd_functions=(a)\n"
        terminal = box.open("zsh", f"{own}{source('zsh')}precmd_functions+=(b)\n").wait()
        eventually((box.state / "short").exists)
        terminal.run("(exit 7)")
        assert terminal.run("echo $seen $ran")[-1] == "7 2"
        assert terminal.run("echo $precmd_functions")[-1] == "a b"

    @every_shell
    def test_the_exit_status_is_left_alone(self, box: Box, shell: str) -> None:
        """$? of the last command is what it was, while the hook waits and when it leaves."""
        terminal = box.open(shell).wait()
        variable = "$status" if shell == "fish" else "$?"
        box.short("starting")
        terminal.run("false")
        assert terminal.run(f"echo code={variable}")[0] == "code=1"
        box.short("ready tun 100.64.0.1 tazpod")
        terminal.run("false")
        assert terminal.run(f"echo code={variable}")[0] == "code=1"


class TestHome:
    """The same home as the program's."""

    @every_shell
    @pytest.mark.parametrize(
        "env",
        [
            {"TAZPOD_NET_HOME": "/a/b"},
            {"TAZPOD_NET_HOME": "~/x y"},
            {"TAZPOD_NET_HOME": "relative"},
            {"TAZPOD_NET_HOME": ""},
            {},
            {"XDG_STATE_HOME": "/state"},
        ],
        ids=["absolute", "tilde", "relative", "empty", "default", "xdg"],
    )
    @pytest.mark.parametrize("uid", [0, NOBODY])
    @pytest.mark.root
    def test_is_found_as_the_program_finds_it(
        self, box: Box, ns: Place, shell: str, env: dict[str, str], uid: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Environment and user decide alike in the shells and in Python."""
        needs(shell)
        given = {name: value for name, value in box.env.items() if name != "TAZPOD_NET_HOME"} | env
        monkeypatch.setenv("HOME", str(box.user))
        monkeypatch.chdir(box.user)
        assert _home_in(shell, box, ns, given, uid) == homes.resolve(None, given, uid)

    @every_shell
    @pytest.mark.parametrize(
        ("uid", "lives", "found"),
        [(NOBODY, True, True), (NOBODY, False, False), (0, True, True), (0, False, True)],
        ids=["user-live", "user-dead", "root-live", "root-dead"],
    )
    @pytest.mark.root
    def test_the_pointer_of_root_is_followed(
        self, box: Box, ns: Place, shell: str, uid: int, lives: bool, found: bool
    ) -> None:
        """A user's shell means the home of a living root supervisor; root's means it also when that has died."""
        needs(shell)
        ticks = homes.start_ticks(os.getpid()) if lives else 1
        text = f"/run/net\\n{os.getpid()} {ticks}\\n"
        ns.run(["sh", "-c", f"mkdir -p /run/net /run/tazpod-net && printf '{text}' >/run/tazpod-net/home"], check=True)
        given = {name: value for name, value in box.env.items() if name != "TAZPOD_NET_HOME"}
        expected = "/run/net" if found else homes.default_home(given, uid)
        assert _home_in(shell, box, ns, given, uid) == expected


def _home_in(shell: str, box: Box, place: Place, env: dict[str, str], uid: int) -> str:
    box.program.unlink(missing_ok=True)
    variable = "$__tazpod_net_home" if shell == "fish" else "$_tazpod_net_home"
    given = {**env, "TAZPOD_NET_HOOK_WRAPPER": "1"}
    give_rc(shell, box.user, f"cd\n{source(shell)}")
    for path in [box.root, *box.root.rglob("*")]:
        os.chown(path, uid, uid)
    with Terminal(INTERACTIVE[shell], env=given, scratch=box.root, place=place, uid=uid or None) as terminal:
        return terminal.wait().run(f'echo "{variable}"')[-1]


class TestLeft:
    """What a person stopped stays stopped."""

    def _mark(self, box: Box, name: str, **changes: object) -> None:
        mark = {
            "by": "tazpod-net down",
            "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "init": int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]),
        }
        (box.state / name).write_text(json.dumps({**mark, **changes}) + "\n")

    @every_shell
    @pytest.mark.parametrize("name", ["stopped.json", "logged-out"])
    def test_a_mark_of_this_life_is_obeyed(self, box: Box, shell: str, name: str) -> None:
        """After `down` or `logout` a new shell is silent and starts nothing."""
        self._mark(box, name)
        assert box.shown(shell) == []
        assert box.calls() == []

    @every_shell
    @pytest.mark.parametrize(
        "changes", [{"pid_namespace": 7}, {"boot_id": "another"}, {"init": 1}], ids=["container", "machine", "again"]
    )
    def test_a_mark_of_an_earlier_life_is_not(self, box: Box, shell: str, changes: dict[str, object]) -> None:
        """A restart of the container or of the machine undoes it."""
        self._mark(box, "stopped.json", **changes)
        assert box.shown(shell) == [STARTING]

    @every_shell
    def test_after_a_logout_no_credentials_are_handed_over(self, box: Box, shell: str) -> None:
        """A supervisor that a person logged out waits, whatever this shell can see."""
        box.short("waiting-credentials")
        self._mark(box, "logged-out")
        assert box.shown(shell, env={"TS_AUTHKEY": "tskey-auth-x"}) == []
        assert box.calls() == []

    @every_shell
    def test_a_backend_that_was_stopped_is_left_alone(self, box: Box, shell: str) -> None:
        """`tailscale down` is a person's will too."""
        box.short("stopped")
        assert box.shown(shell) == []
        assert box.calls() == []

    @every_shell
    def test_a_stop_while_it_starts_is_no_failure(self, box: Box, shell: str) -> None:
        """`down` ends the attempt of the hook, and the hook says nothing about that."""
        self_mark = box.root / "mark"
        self._mark(box, "stopped.json")
        (box.state / "stopped.json").rename(self_mark)
        box.plan.write_text(
            f"mv {self_mark} {box.state}/stopped.json\necho 'tazpod-net: stopped by down' >&2\nexit 1\n"
        )
        terminal = box.open(shell).wait()
        eventually((box.state / "stopped.json").exists)
        terminal.run("true")
        terminal.run("true")
        assert terminal.said() == [STARTING]


class TestWaiting:
    """The supervisor has no credentials."""

    @every_shell
    @pytest.mark.parametrize(
        ("following", "line"),
        [
            (
                "tazpod unlock (login follows by itself), or: tazpod-net login",
                f"{WAITS} after 'tazpod unlock'",
            ),
            (
                "tazpod-net login",
                f"{WAITS} when they are there, or: tazpod-net login",
            ),
        ],
        ids=["hint", "none"],
    )
    def test_is_told_once(self, box: Box, shell: str, following: str, line: str) -> None:
        """The first shell names what to do, in the words of login.hint; the next is silent."""
        box.short("waiting-credentials")
        box.status(backend={"login_next": following})
        assert box.shown(shell) == [line]
        assert box.shown(shell) == []
        assert box.calls() == []

    @every_shell
    @pytest.mark.parametrize("kind", ["variable", "oauth", "api", "configured"])
    def test_what_this_shell_can_see_is_handed_over(self, box: Box, shell: str, kind: str) -> None:
        """A key in the environment or a file that is there makes the shell run `up`, once."""
        box.short("waiting-credentials")
        secrets = box.user / "secrets"
        secrets.mkdir()
        names = {"oauth": ["tailscale-oauth-client-id", "tailscale-oauth-client-secret"], "api": ["tailscale-api-key"]}
        for name in names.get(kind, ["elsewhere"]):
            (secrets / name).write_text("x\n")
        if kind == "configured":
            (box.home / "config.toml").write_text('[login]\nauth_key_file = "~/secrets/elsewhere"  # here\n')
        terminal = box.open(shell, env={"TS_AUTHKEY": "tskey-auth-x"} if kind == "variable" else None).wait()
        eventually(lambda: box.calls() == ["up"])
        terminal.run("true")
        terminal.run("true")
        assert box.calls() == ["up"]

    @every_shell
    def test_a_later_prompt_hands_over_and_tells_of_success(self, box: Box, shell: str) -> None:
        """An unlock in this very shell is seen by its next prompt."""
        box.short("waiting-credentials")
        terminal = box.open(shell).wait()
        assert len(terminal.said()) == 1
        box.comes_up("ready userspace 100.64.0.2 tazpod-2")
        terminal.run("set -gx TS_AUTHKEY x" if shell == "fish" else "export TS_AUTHKEY=x")
        eventually(lambda: "ready" in (box.state / "short").read_text())
        terminal.run("true")
        assert terminal.said()[1:] == [
            STARTING,
            "tazpod-net: tailnet ready: tazpod-2 100.64.0.2, userspace (proxy only)",
        ]

    @every_shell
    @pytest.mark.parametrize("word", ["fatal", "key-rejected", "waiting-approval"])
    def test_other_trouble_is_told_once(self, box: Box, shell: str, word: str) -> None:
        """What a supervisor that nobody watches has met is told by one shell, in the words of its summary."""
        box.short(word)
        box.status(summary='failed: daemon.mode is "tun", no C:\\ here')
        assert box.shown(shell) == [
            'tazpod-net: tailnet did not start: failed: daemon.mode is "tun", no C:\\ here (tazpod-net status)'
        ]
        assert box.shown(shell) == []
        assert box.calls() == []


class TestOptions:
    """The `tailscale` wrapper."""

    @every_shell
    def test_the_wrapper_follows_the_daemon(self, box: Box, shell: str) -> None:
        """While ours lives `tailscale` goes through the program; else it is the ordinary command."""
        plain = box.program.with_name("tailscale")
        plain.write_text("#!/bin/sh\necho plain $*\n")
        plain.chmod(plain.stat().st_mode | stat.S_IXUSR)
        box.plan.write_text("echo ours $*\n")
        box.short("ready tun 100.64.0.1 x")
        terminal = box.open(shell, env={"TAZPOD_NET_HOOK_WRAPPER": "1"}).wait()
        assert terminal.run("tailscale ping vault")[-1] == "ours tailscale ping vault"
        (box.state / "short").unlink()
        assert terminal.run("tailscale ping vault")[-1] == "plain ping vault"


class TestPrompt:
    """`TAZPOD_NET_HOOK_PROMPT`."""

    @every_shell
    def test_the_state_is_shown_while_its_writer_lives(self, box: Box, shell: str) -> None:
        """The state of a living supervisor, `down` for a dead one and for none; in the environment too."""
        box.short("offline tun 100.64.0.1 x")
        terminal = box.open(shell, env={"TAZPOD_NET_HOOK_PROMPT": "1"}).wait()
        assert terminal.run("env | grep TAILNET=") == ["TAILNET=offline"]
        (box.state / "short").write_text(f"tailnet: ready tun 100.64.0.1 x\n{os.getpid()} 1\n")
        terminal.run("true")
        assert terminal.run("echo $TAILNET") == ["down"]
        variable = "$status" if shell == "fish" else "$?"
        terminal.run("false")
        assert terminal.run(f"echo code={variable}") == ["code=1"]
        (box.state / "short").unlink()
        terminal.run("true")
        assert terminal.run("echo $TAILNET") == ["down"]

    @every_shell
    def test_the_examples_of_the_manual(self, box: Box, shell: str) -> None:
        """docs/shell.md: what it says makes this prompt."""
        found = re.search(
            rf"^```{shell}\n(TAZ.*?|set -g TAZ.*?)^```",
            (ROOT / "docs" / "shell.md").read_text(),
            re.MULTILINE | re.DOTALL,
        )
        assert found is not None
        box.short("offline tun 100.64.0.1 x")
        option, prompt = found[1].split("\n", 1)
        terminal = box.open(shell, f"{option}\n{source(shell)}cd /tmp\n{prompt}")
        eventually(lambda: terminal.screen()[-1].startswith("[tailnet offline] /tmp "))
        (box.state / "short").unlink()
        terminal.press("Enter")
        eventually(lambda: terminal.screen()[-1].startswith("[tailnet down] /tmp "))

    @sh_like
    def test_twice_is_once(self, box: Box, shell: str) -> None:
        """Sourced again it is there once, before what the user has, and survives the end of the hook's own work."""
        own = "PROMPT_COMMAND='seen=$TAILNET'\n" if shell == "bash" else "a() { seen=$TAILNET }\nprecmd_functions=(a)\n"
        box.comes_up()
        terminal = box.open(shell, f"{own}{source(shell) * 2}", env={"TAZPOD_NET_HOOK_PROMPT": "1"}).wait()
        eventually((box.state / "short").exists)
        terminal.run("true")
        assert terminal.said()[-1] == "tazpod-net: tailnet ready: tazpod 100.64.0.1 by TUN"
        assert terminal.run("echo $seen") == ["ready"]
        wanted = {"bash": "tazpod_net_prompt; seen=$TAILNET", "zsh": "tazpod_net_prompt a"}
        assert terminal.run('echo "${PROMPT_COMMAND:-$precmd_functions}"') == [wanted[shell]]


class TestReal:
    """The real program, its daemon and a control server."""

    @every_shell
    def test_a_new_shell_brings_the_tailnet_up(self, product: Product, at: Callable[..., Terminal], shell: str) -> None:
        """Opening a shell is enough; closing its window changes nothing; the next one is silent."""
        terminal = at(product, shell).wait()
        assert terminal.said() == [STARTING]
        product.eventually(lambda s: s["ready"])
        terminal.run("true")
        assert re.fullmatch(
            r"tazpod-net: tailnet ready: \S+ 100\.64\.0\.\d+, userspace \(proxy only\)", terminal.said()[-1]
        )
        terminal.close()
        assert product.status(expect=0)["ready"] is True
        assert at(product, shell).wait().screen() == [PROMPT]

    @sh_like
    def test_ten_shells_make_one_daemon(self, product: Product, at: Callable[..., Terminal], shell: str) -> None:
        """Ten windows at once: one line of work, one daemon."""
        terminals = [at(product, shell) for _ in range(10)]
        for terminal in terminals:
            terminal.wait()
        product.eventually(lambda s: s["ready"])
        assert [line for terminal in terminals for line in terminal.said()] == [STARTING]
        assert len(product.daemons()) == 1

    @every_shell
    def test_a_wrong_configuration_is_told(self, product: Product, at: Callable[..., Terminal], shell: str) -> None:
        """The reason of the real program reaches the next prompt."""
        terminal = at(product, shell, TAZPOD_NET_DAEMON_MODE="sideways").wait()
        eventually(lambda: terminal.run("true") is not None and len(terminal.said()) > 1)
        assert terminal.said()[-1].startswith("tazpod-net: tailnet did not start: ")
        assert '"sideways"' in terminal.said()[-1]

    @every_shell
    def test_down_is_respected(self, product: Product, at: Callable[..., Terminal], shell: str) -> None:
        """After `down` a new shell says nothing and nothing runs."""
        product.up()
        product.down()
        assert at(product, shell).wait().screen() == [PROMPT]
        assert product.daemons() == []

    def test_a_killed_supervisor_is_replaced_and_its_daemon_kept(
        self, product: Product, at: Callable[..., Terminal]
    ) -> None:
        """After kill -9 the next shell starts a supervisor, which adopts."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.kill_supervisor()
        assert at(product, "bash").wait().said() == [STARTING]
        seen = product.eventually(lambda s: s["ready"])
        assert (seen["daemon"]["pid"], seen["daemon"]["adopted"]) == (pid, True)

    @every_shell
    def test_credentials_of_the_shell_reach_a_waiting_supervisor(
        self, make: Make, control: Control, at: Callable[..., Terminal], shell: str
    ) -> None:
        """The hook tells once what is missing, and hands over a key when its shell has one."""
        product = make(auth_key=None, TAZPOD_NET_LOGIN_HINT="tazpod unlock")
        terminal = at(product, shell).wait()
        product.eventually(lambda s: s["backend"]["login_code"] == "no-credentials")
        waiting = f"{WAITS} after 'tazpod unlock'"
        eventually(lambda: waiting in terminal.run("true"))
        assert at(product, shell).wait().said() == []
        key = control.add_key(reusable=True)
        terminal.run(f"set -gx TS_AUTHKEY {key}" if shell == "fish" else f"export TS_AUTHKEY={key}")
        product.eventually(lambda s: s["ready"])
        terminal.run("true")
        assert terminal.said()[:2] == [STARTING, waiting]
        assert "tailnet ready: " in terminal.said()[-1]

    @pytest.mark.root
    def test_a_plain_user_has_it_too(self, make: Make, at: Callable[..., Terminal]) -> None:
        """A user without any right brings up a daemon of their own."""
        product = make(uid=NOBODY)
        product.use_copies()
        if product.place.run(["sh", "-c", f"{product.command} --version; exit $?"], uid=NOBODY).returncode != 0:
            pytest.skip("the program lies where other users may not read")
        terminal = at(product, "bash").wait()
        assert terminal.said() == [STARTING]
        product.eventually(lambda s: s["ready"])

    @every_shell
    @pytest.mark.parametrize("sudo", ["free", "pty", "asks"])
    @pytest.mark.root
    def test_a_user_with_sudo_and_one_without(
        self, make: Make, at: Callable[..., Terminal], ns: Place, shell: str, sudo: Sudo
    ) -> None:
        """As uid 1000: ten shells, one line; with NOPASSWD by TUN, else by proxy; no password is asked for."""
        if refusal := tun_refusal():
            pytest.skip(refusal)
        assert isinstance(ns, Namespace)
        product = make(mode=None, uid=UID)
        move_in(ns, str(product.user), sudo=sudo)
        try:
            terminals = [at(product, shell) for _ in range(3 if shell == "fish" else 10)]
            for terminal in terminals:
                terminal.wait()
            product.eventually(lambda s: s["ready"])
            said = [(terminal, line) for terminal in terminals for line in terminal.said()]
            assert [line for _, line in said] == [STARTING]
            starter = said[0][0]
            eventually(lambda: starter.run("true") is not None and len(starter.said()) == 2)
            how = r", userspace \(proxy only\)" if sudo == "asks" else " by TUN"
            assert re.fullmatch(rf"tazpod-net: tailnet ready: \S+ 100\.64\.0\.\d+{how}", starter.said()[-1])
            assert not any("assword" in line for terminal in terminals for line in terminal.screen())
            assert len(product.daemons()) == 1
        finally:
            product.run("down", "--timeout", "5", uid=0)
