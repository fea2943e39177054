"""Values through real shells: what goes in comes out."""

import os

import pytest

from tazpod_net.core.shellwords import SHELLS, assignments, known_shell
from tests.support.netns import HERE
from tests.support.terminal import needs

NASTY = [
    "plain",
    "",
    "a blank",
    "it's",
    "''",
    '"quoted" $HOME `id` \\ \\\\ !! !x',
    "new\nline\n",
    "\n",
    "*?[a]~{a,b}",
    "#;&|<>()",
    "tab\tand\x01control",
    "ünïcode",
    "\\'",
    "'\\''",
    os.fsdecode(b"not \xff utf-8"),
]
RUN = {"bash": ["bash", "-eu"], "zsh": ["zsh", "-f", "-eu", "-o", "rcquotes"], "fish": ["fish", "-N"]}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", NASTY)
def test_a_value_comes_out_as_it_went_in(shell: str, value: str) -> None:
    """Through `eval "$(…)"`, or `| source` in fish, and into the environment of a program."""
    needs(shell)
    if shell == "fish" and "\udcff" in value:
        pytest.skip("fish itself takes other bytes than UTF-8 for Latin-1 here")
    text = assignments(shell, {"WANTED": value, "GONE": None})
    take = "printenv CODE | source" if shell == "fish" else 'eval "$(printenv CODE)"'
    script = (
        f"{take}; printenv -0 WANTED; test -z (printenv GONE)" if shell == "fish" else f"{take}; printenv -0 WANTED"
    )
    argv = [*RUN[shell], "-c", script]
    env = {"PATH": os.environ["PATH"], "CODE": text, "GONE": "1", "HOME": os.environ["HOME"], "LC_ALL": "C.UTF-8"}
    done = HERE.popen(argv, env=env, stdout=-1, text=False)
    out, _ = done.communicate(timeout=30)
    assert out.split(b"\0")[0] == os.fsencode(value)


def test_no_changes_are_no_text() -> None:
    """Nothing to evaluate."""
    assert assignments("bash", {}) == ""


@pytest.mark.parametrize(
    ("name", "shell"),
    [
        *[("bash", "bash"), ("-zsh", "zsh"), ("/usr/bin/fish", "fish"), ("sh", "bash"), ("dash", "bash")],
        *[("python3", None), ("", None), ("bashful", None)],
    ],
)
def test_shells_by_name(name: str, shell: str | None) -> None:
    """Login shells have a hyphen; others of the family read what bash reads."""
    assert known_shell(name) == shell
