"""The grammar of the command line."""

import pytest

from tazpod_net.cli import parser
from tazpod_net.cli.start import PLAIN
from tazpod_net.errors import UsageError


@pytest.mark.parametrize("word", ["up", "start"])
def test_a_bare_up_needs_no_parser(word: str) -> None:
    """What the launcher hands on without argparse is what argparse would have made."""
    assert vars(parser.parse([word], "1")) == {"home": None, **PLAIN}


@pytest.mark.parametrize("argv", [["--home", "/h", "status", "--json"], ["status", "--json", "--home", "/h"]])
def test_global_options_stand_before_or_after_the_command(argv: list[str]) -> None:
    """Both mean the same."""
    parsed = parser.parse(argv, "1")
    assert (parsed.command, parsed.home, parsed.json) == ("status", "/h", True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stauts"], "unknown command 'stauts': did you mean 'status'? see 'tazpod-net -h'"),
        (["qqqq"], "unknown command 'qqqq': see 'tazpod-net -h'"),
        (["status", "--jsno"], "unknown option or argument '--jsno', did you mean --json?: see 'tazpod-net status -h'"),
        (["up", "--timeout", "soon"], "argument --timeout: 'soon' is not a duration: write 30, 30s, 2m, 1h or 500ms"),
    ],
)
def test_a_mistake_names_what_was_meant(argv: list[str], said: str) -> None:
    """One line, with the nearest word."""
    with pytest.raises(UsageError) as caught:
        parser.parse(argv, "1")
    assert said in str(caught.value)


@pytest.mark.parametrize("command", list(parser.COMMANDS))
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`-h` ends with one."""
    with pytest.raises(SystemExit) as caught:
        parser.parse([command, "-h"], "1")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "example: tazpod-net" in out
    assert out.startswith(f"usage: tazpod-net {command} ")


@pytest.mark.parametrize(
    ("argv", "args", "home"),
    [
        (["tailscale", "--version"], ["--version"], None),
        (["tailscale", "-json", "status"], ["-json", "status"], None),
        (["--home", "/h", "tailscale", "ping", "--home", "vault"], ["ping", "--home", "vault"], "/h"),
        (["tailscale", "--home=/h", "up", "-h"], ["up", "-h"], "/h"),
        (["tailscale", "--", "x"], ["--", "x"], None),
        (["tailscale"], [], None),
    ],
)
def test_the_tailscale_command_gets_its_own_options(argv: list[str], args: list[str], home: str | None) -> None:
    """All that follows is its own; our options stand before."""
    found = parser.parse(argv, "0")
    assert (found.command, found.args, found.home) == ("tailscale", args, home)
