"""Completion in bash, zsh and fish: made from the parser's table, tried with real keys in real terminals."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tazpod_net.cli import parser, shell
from tazpod_net.core.conditions import CONDITIONS
from tests.support.netns import HERE
from tests.support.product import SYSTEM_PATH
from tests.support.terminal import PROMPT, SHELLS, Terminal, give_rc, needs

ROOT = Path(__file__).resolve().parents[1]
INTERACTIVE = {"bash": ["bash", "--noprofile", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}
COMPINIT = "autoload -Uz compinit; compinit -D -u\n"
every_shell = pytest.mark.parametrize("name", SHELLS)

# Stands for the program: its own completion. The supervisor's list of peers lies in the home.
STUB = """#!/bin/sh
case "$*" in
completion*) cat "$SCRIPTS/completion.$2" ;;
*) echo "no completion may start it: $*" >&2 ;;
esac
"""
PEERS = "vault vault.example.ts.net\nvector vector.example.ts.net\nnas.other.ts.net\nb$(id) x\n"


class Box:
    """A user, a stub for the program, and the three completion scripts."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.user = root / "user"
        self.user.mkdir()
        program = root / "bin" / "tazpod-net"
        program.parent.mkdir()
        program.write_text(STUB)
        program.chmod(0o755)
        self.give_peers(self.user / "net", PEERS)
        for name in SHELLS:
            (root / f"completion.{name}").write_text(shell.script(name))
        self.env = {
            **{name: value for name, value in os.environ.items() if name.startswith("TAZPOD_TEST_")},
            "HOME": str(self.user),
            "PATH": f"{program.parent}:{SYSTEM_PATH}",
            "TAZPOD_NET_HOME": str(self.user / "net"),
            "SCRIPTS": str(root),
        }
        self._stack = stack

    def give_peers(self, home: Path, text: str) -> None:
        """What the supervisor of a home has listed."""
        (home / "state").mkdir(parents=True, exist_ok=True)
        (home / "state" / "peers").write_text(text)

    def open(self, name: str, lines: str) -> Terminal:
        """A shell whose rc file has these lines."""
        give_rc(name, self.user, (COMPINIT if name == "zsh" else "") + lines)
        return self._stack.enter_context(Terminal(INTERACTIVE[name], env=self.env, scratch=self.root)).wait()

    def completing(self, name: str) -> Terminal:
        """A shell that has read its completion script."""
        return self.open(name, f"{'source' if name == 'fish' else '.'} {self.root}/completion.{name}\n")

    def bash(self, *words: str) -> list[str]:
        """What bash would offer for the last of these words."""
        given = " ".join(f"'{word}'" for word in words)
        line = (
            f". {self.root}/completion.bash; COMP_WORDS=(tazpod-net {given}); COMP_CWORD={len(words)}; "
            '_tazpod_net; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return HERE.run(["bash", "-uc", line], env=self.env, check=True).stdout.split()

    def fish(self, line: str) -> list[str]:
        """What fish would offer behind this line."""
        needs("fish")
        command = f"source {self.root}/completion.fish; complete -C {line!r}"
        done = HERE.run(["fish", "-Nc", command], env=self.env, check=True)
        return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


Offers = Callable[[str], list[str]]


@pytest.fixture
def box(scratch: Path) -> Iterator[Box]:
    """A user with the scripts."""
    with ExitStack() as stack:
        yield Box(scratch, stack)


@pytest.fixture(params=["bash", "fish"])
def offers(box: Box, request: pytest.FixtureRequest) -> Offers:
    """What a shell offers behind a line, without a terminal; zsh cannot be asked so."""
    if request.param == "fish":
        return lambda line: box.fish(f"tazpod-net {line}")
    return lambda line: box.bash(*line.replace("=", " = ").replace(":", " : ").split(" "))


def commands() -> list[str]:
    """Every command and every alias."""
    return [*parser.COMMANDS, *parser.ALIASES]


def options_of(command: str) -> list[str]:
    """Long options of a command, as argparse knows them."""
    rows = {name: row for row in shell.table() for name in row.names}
    return [name for option in rows[command].options for name in option.names if name.startswith("--")]


class TestTable:
    """The words are the parser's."""

    @every_shell
    def test_the_script_is_good_syntax(self, box: Box, name: str) -> None:
        """The shell itself reads the script without complaint."""
        needs(name)
        done = HERE.run([name, "-n", f"{box.root}/completion.{name}"], env=box.env)
        assert (done.returncode, done.stderr) == (0, "")

    def test_every_command_is_offered(self, offers: Offers) -> None:
        """Commands and aliases, none missing."""
        assert set(commands()) <= set(offers(""))

    @pytest.mark.parametrize("command", commands())
    def test_every_option_is_offered(self, offers: Offers, command: str) -> None:
        """All long options of a command stand behind it, none of another's."""
        options = options_of(command)
        assert "--help" in options
        assert sorted(o for o in offers(f"{command} --") if o.startswith("--")) == sorted(options)

    @pytest.mark.parametrize("command", commands())
    def test_every_option_is_in_zsh(self, command: str) -> None:
        """The same for zsh, in its script."""
        script = shell.script("zsh")
        assert f"'{command}:" in script or f"{command}:" in script
        assert all(option in script for option in options_of(command))

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("up --mode ", ["auto", "tun", "userspace"]),
            ("start --mode u", ["userspace"]),
            ("--home /somewhere up --wait ", list(CONDITIONS)),
            ("up --timeout ", []),
            ("sta", ["start", "status"]),
            ("tailscale ping v", ["vault", "vector"]),
            ("tailscale ping vau", ["vault"]),
            ("tailscale ssh n", ["nas.other.ts.net"]),
            ("tailscale nc vault.", ["vault.example.ts.net"]),
            ("tailscale ping b", []),
            ("nonsense ", []),
        ],
    )
    def test_values_are_offered(self, offers: Offers, line: str, expected: list[str]) -> None:
        """Choices of options, prefixes, options before the command, and names of peers."""
        assert sorted(offers(line)) == sorted(expected)

    def test_a_value_behind_an_equals_sign(self, box: Box) -> None:
        """`--mode=` is three words to bash."""
        assert box.bash("up", "--mode", "=") == ["auto", "tun", "userspace"]
        assert box.bash("up", "--mode", "=", "us") == ["userspace"]

    def test_directories_and_files(self, offers: Offers, box: Box) -> None:
        """`--home` wants a directory, `--config` any file."""
        (box.user / "inner").mkdir()
        (box.user / "item").touch()
        assert [Path(o.rstrip("/")).name for o in offers(f"up --home {box.user}/i")] == ["inner"]
        found = {Path(o.rstrip("/")).name for o in offers(f"up --config {box.user}/i")}
        assert found == {"inner", "item"}

    def test_a_command_to_run(self, offers: Offers) -> None:
        """Options before it, then commands; what is behind it is not ours."""
        assert {"--rm", "--for", "--mode"} <= set(offers("run --"))
        assert "printenv" in offers("run -- printen")
        assert "printenv" in offers("run printen")
        assert "--rm" not in offers("run -- printenv --")

    def test_conditions_that_name_a_peer(self, box: Box) -> None:
        """The kinds are offered, and peers behind `peer:`."""
        assert box.bash("wait", "--for", "") == [*CONDITIONS, "peer:", "tcp:", "name:"]
        assert box.bash("wait", "--for", "peer", ":") == ["vault", "vector", "nas.other.ts.net"]
        assert box.bash("wait", "--for", "=", "peer", ":", "vec") == ["vector"]
        assert box.bash("wait", "--for", "tcp", ":", "v") == []
        terminal = box.completing("zsh")
        assert press(terminal, "tazpod-net wait --for peer:vau") == "tazpod-net wait --for peer:vault"
        assert set(box.fish("tazpod-net wait --for p")) >= {"peer:vault", "peer:vector"}

    @pytest.mark.parametrize("option", ["--home {} ", "--home={} "])
    def test_peers_of_the_home_that_is_named(self, offers: Offers, box: Box, option: str) -> None:
        """`--home` on the line wins over the environment."""
        other = box.user / "other"
        box.give_peers(other, "quay\n")
        assert offers(option.format(other) + "tailscale ping ") == ["quay"]

    @pytest.mark.parametrize("missing", ["file", "home"])
    def test_without_a_list_there_is_nothing(self, offers: Offers, box: Box, missing: str) -> None:
        """No supervisor, no home: no names, no words, no wait."""
        box.env["TAZPOD_NET_HOME"] = str(box.user / "nowhere")
        if missing == "home":
            del box.env["TAZPOD_NET_HOME"]
        assert offers("tailscale ping v") == []

    def test_five_thousand_peers(self, offers: Offers, box: Box) -> None:
        """All of them are looked through."""
        box.give_peers(box.user / "net", "".join(f"n{n} n{n}.example.ts.net\n" for n in range(5000)))
        assert offers("tailscale ping n4999") == ["n4999"]


def press(terminal: Terminal, line: str) -> str:
    """The line after Tab; the shell then has an empty line again."""
    before = len([shown for shown in terminal.screen() if shown.startswith(PROMPT)])
    terminal.write(line)
    terminal.press("Tab", "Enter")
    terminal.wait(prompts=before + 1)
    prompts = [shown for shown in terminal.screen() if shown.startswith(PROMPT)]
    return prompts[before - 1].removeprefix(PROMPT).strip()


class TestKeys:
    """Real Tab keys."""

    @every_shell
    def test_tab_completes(self, box: Box, name: str) -> None:
        """A command, a value, a peer: one Tab each."""
        terminal = box.completing(name)
        assert press(terminal, "tazpod-net pro") == "tazpod-net probe"
        assert press(terminal, "tazpod-net up --mode use") == "tazpod-net up --mode userspace"
        assert press(terminal, "tazpod-net status --sh") == "tazpod-net status --short"
        assert press(terminal, "tazpod-net tailscale ping vau") == "tazpod-net tailscale ping vault"

    @every_shell
    def test_the_hook_loads_it_at_the_first_tab(self, box: Box, name: str) -> None:
        """With TAZPOD_NET_HOOK_COMPLETION the first Tab works already, and so does the second."""
        hook = "tazpod_net/shell/tazpod-net.fish" if name == "fish" else "bashrc.d/tazpod-net.sh"
        box.env["TAZPOD_NET_HOOK_COMPLETION"] = "1"
        state = box.user / "net" / "state"
        ticks = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
        (state / "short").write_text(f"tailnet: starting\n{os.getpid()} {ticks}\n")
        terminal = box.open(name, f"{'source' if name == 'fish' else '.'} {ROOT}/{hook}\n")
        assert press(terminal, "tazpod-net pro") == "tazpod-net probe"
        assert press(terminal, "tazpod-net up --mode use") == "tazpod-net up --mode userspace"
