"""`status --watch` and `logs -f` in real terminals: what is shown, what is sent, and what is left behind."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.eventually import eventually
from tests.support.product import Product
from tests.support.terminal import SHELLS, Terminal, give_rc

ARGV = {"bash": ["bash", "--noprofile", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}

every_shell = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture
def at(product: Product) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals of the product's user."""
    with ExitStack() as stack:

        def one(shell: str = "bash") -> Terminal:
            give_rc(shell, product.user, "")
            path = f"{os.path.dirname(product.command)}:{product.env['PATH']}"
            env = {**product.env, "PATH": path}
            terminal = Terminal(ARGV[shell], env=env, scratch=product.user, place=product.place)
            return stack.enter_context(terminal).wait()

        yield one


def start(terminal: Terminal, command: str, first: str) -> None:
    """Types a command that stays, and waits for what it shows first."""
    terminal.write(command)
    terminal.press("Enter")
    shows(terminal, first)


def shows(terminal: Terminal, pattern: str) -> None:
    """Waits until the visible screen has it."""
    try:
        eventually(lambda: re.search(pattern, "\n".join(terminal.visible()), re.MULTILINE))
    except AssertionError as e:
        raise AssertionError(f"{pattern!r} is not shown: {terminal.visible()}") from e


def code(terminal: Terminal, shell: str) -> str:
    """The exit code of the last command, as the shell tells it."""
    return terminal.run("echo code=$status" if shell == "fish" else "echo code=$?")[-1]


class TestWatch:
    """`status --watch`."""

    @every_shell
    def test_ctrl_c_leaves_the_last_state_and_a_clean_terminal(
        self, product: Product, at: Callable[..., Terminal], shell: str
    ) -> None:
        """It follows the state; Ctrl-C ends it with 130: cursor and earlier screen are back, the state stays."""
        terminal = at(shell)
        terminal.run("echo before")
        start(terminal, "tazpod-net status --watch", "^not running")
        product.up()
        shows(terminal, "^ready: on ")
        assert terminal.ask("#{alternate_on} #{cursor_flag}") == "1 0"
        product.down()
        shows(terminal, "^not running: stopped by")
        terminal.press("C-c")
        eventually(lambda: terminal.prompts() > 0)
        assert terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1"
        assert code(terminal, shell) == "code=130"
        said = terminal.screen()
        assert "before" in said
        assert sum(line.startswith("not running: stopped by") for line in said) == 1
        assert not any("Traceback" in line or "Interrupt" in line for line in said)

    def test_follows_the_size_of_the_window(self, product: Product, at: Callable[..., Terminal]) -> None:
        """A smaller window wraps and counts what has no room; a larger one has all of it again, at once."""
        product.up()
        terminal = at()
        start(terminal, "tazpod-net status --watch", "^ready: on ")
        whole = terminal.visible()
        assert len(whole) > 4
        terminal.resize(40, 4)
        shows(terminal, r"^… \d+ more lines$")
        assert all(len(line) <= 40 for line in terminal.visible())
        assert terminal.visible()[0].startswith("ready: on ")
        terminal.resize(200, 50)
        eventually(lambda: len(terminal.visible()) == len(whole))
        terminal.press("C-c")

    def test_ctrl_z_gives_the_screen_back(self, product: Product, at: Callable[..., Terminal]) -> None:
        """Suspended, the shell has its own screen; continued, the state is drawn again."""
        terminal = at()
        start(terminal, "tazpod-net status --watch", "^not running")
        terminal.press("C-z")
        eventually(lambda: terminal.prompts() == 2)
        assert terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1"
        start(terminal, "fg", "^not running")
        eventually(lambda: terminal.ask("#{alternate_on} #{cursor_flag}") == "1 0")
        terminal.press("C-c")
        eventually(lambda: terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1")

    def test_a_termination_restores_the_terminal(self, product: Product, at: Callable[..., Terminal]) -> None:
        """`kill` of the process is as clean as Ctrl-C."""
        terminal = at()
        start(terminal, "tazpod-net status --watch", "^not running")
        pids = [process.pid for process in product.processes() if "--watch" in process.argv]
        os.kill(pids[0], signal.SIGTERM)
        eventually(lambda: terminal.prompts() == 2)
        assert terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1"
        assert code(terminal, "bash") == "code=143"

    def test_frames_overwrite_and_never_clear(self, product: Product) -> None:
        """What is sent: synchronised frames from the home position, nothing erased before it is drawn again."""
        with product.terminal("status", "--watch") as output:
            output.until(lambda line: "not running" in line)
            product.up()
            output.until(lambda line: "on example.ts.net" in line)
            output.process.send_signal(signal.SIGINT)
            sent = "\n".join(output.rest())
        assert "\x1b[2J" not in sent
        assert sent.count("\x1b[?2026h\x1b[H") == sent.count("\x1b[J\x1b[?2026l") >= 2

    def test_in_a_pipe_it_is_plain(self, product: Product) -> None:
        """Without a terminal: no escape codes, each state a text of its own, written at once."""
        product.up()
        with product.popen("status", "--watch") as output:
            output.until(lambda line: line.startswith("ready: on "))
            product.down()
            output.until(lambda line: line.startswith("not running"))
            assert not any("\x1b" in line for line in output.lines)


class TestFollow:
    """`logs -f`."""

    @every_shell
    def test_ctrl_c_is_clean(self, product: Product, at: Callable[..., Terminal], shell: str) -> None:
        """Lines come as they are written; Ctrl-C ends it with 130 and no word."""
        product.up()
        terminal = at(shell)
        start(terminal, "tazpod-net logs -n 1 -f", r"^20\d\d/")
        product.kill_daemon()
        eventually(lambda: "Program starting" in "\n".join(terminal.screen()))
        product.eventually(lambda s: s["ready"])
        terminal.press("C-c")
        eventually(lambda: terminal.prompts() > 0)
        assert code(terminal, shell) == "code=130"
        assert not any("Traceback" in line or "KeyboardInterrupt" in line for line in terminal.screen())

    def test_through_down_and_up(self, product: Product) -> None:
        """It goes on through the end of everything into the next life, and through rotation."""
        product.configure("[log]\nmax_bytes = 65536\n")
        product.up()
        with product.popen("logs", "-f", "-n", "1") as output:
            output.until(lambda _: True)
            for _ in range(2):
                product.down()
                product.up()
                output.until(lambda line: "Program starting" in line)


class TestMistakes:
    """Words that do not exist."""

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (["statsu"], "did you mean 'status'?"),
            (["stpo"], "did you mean 'stop'?"),
            (["logs", "--folow"], "did you mean --follow?"),
            (["up", "--tiemout", "3"], "did you mean --timeout?"),
            (["--hoem", "/x", "up"], "did you mean --home?"),
        ],
    )
    def test_the_nearest_is_named(self, product: Product, words: list[str], meant: str) -> None:
        """A mistyped command or option: one line, exit 2, and the word that was meant."""
        done = product.run(*words, expect=2)
        assert meant in done.err
        assert len(done.err.splitlines()) == 1

    def test_options_of_other_commands_are_not_proposed(self, product: Product) -> None:
        """`down --follow` is an option of another command: the same word again would be no help."""
        assert "did you mean --follow" not in product.run("down", "--follow", expect=2).err
