"""A real terminal for the tests: one tmux server with one shell in it, keys in and the shown screen out.

Owns the server and everything in it: `close` ends both. Knows nothing of the program under test.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.eventually import eventually
from tests.support.netns import HERE, Place, is_alive

PROMPT = "P>"
SHELLS = ("bash", "zsh", "fish")
# What makes a shell show PROMPT and nothing else.
PROMPTS = {
    "bash": f"PS1='{PROMPT} '\n",
    "zsh": f"PS1='{PROMPT} '\nunsetopt prompt_sp\n",
    "fish": f"function fish_prompt; echo '{PROMPT} '; end\nset -g fish_greeting\n"
    "set -g fish_autosuggestion_enabled 0\n",
}
_RC = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}


def needs(*programs: str) -> None:
    """Skips the test where one of these is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def give_rc(shell: str, user: Path, lines: str) -> Path:
    """Writes the start-up file of `shell` for the user whose directory is `user`: a plain prompt, then `lines`."""
    path, prompt = user / _RC[shell], PROMPTS[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != prompt + lines:  # other shells may be reading it
        path.write_text(prompt + lines)
    if shell == "fish":  # or its first start makes completions from manual pages, behind everybody's back
        (user / ".local/share/fish/generated_completions").mkdir(parents=True, exist_ok=True)
    return path


class Terminal:
    """A shell on a terminal of 200 columns. Use as a context manager, or call `close`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        scratch: Path,
        place: Place = HERE,
        uid: int | None = None,
    ) -> None:
        """Starts it; `scratch` is a directory with a short name that the user may write, for tmux's socket."""
        needs("tmux", argv[0])
        self._place = place
        self._uid = uid
        self._env = {"TERM": "xterm", "LANG": "C.UTF-8", **env}
        self._socket = str(scratch / f"tmux{id(self):x}")
        self._pid = 0
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", *argv)
        self._pid = int(self._tmux("display-message", "-p", "#{pid}"))

    def _tmux(self, *arguments: str) -> str:
        argv = ["tmux", "-S", self._socket, *arguments]
        return self._place.run(argv, env=self._env, uid=self._uid, check=True).stdout

    def screen(self) -> list[str]:
        """The lines shown so far, wrapped ones joined, without the empty ones at the end."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip().split("\n")

    def visible(self) -> list[str]:
        """The lines of the window as they stand, without the empty ones at the end."""
        return self._tmux("capture-pane", "-p").rstrip().split("\n")

    def ask(self, what: str) -> str:
        """What tmux knows of the window, such as `#{cursor_flag}` (`man tmux`, FORMATS)."""
        return self._tmux("display-message", "-p", what).strip()

    def resize(self, columns: int, rows: int) -> None:
        """Gives the window another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def said(self) -> list[str]:
        """What the program under test said of itself, in the order of the screen."""
        return [line.rstrip() for line in self.screen() if line.startswith("tazpod-net: ")]

    def press(self, *keys: str) -> None:
        """Presses keys, named as tmux does (`Tab`, `C-c`) or text."""
        self._tmux("send-keys", *keys)

    def write(self, text: str) -> None:
        """Types text, without Enter."""
        self._tmux("send-keys", "-l", text)

    def prompts(self) -> int:
        """Prompts shown so far, if the newest waits for input; else 0."""
        lines = self.screen()
        return sum(line.startswith(PROMPT) for line in lines) if lines[-1].rstrip() == PROMPT else 0

    def wait(self, *, prompts: int = 1, within: float = 30.0) -> Self:
        """Returns when that many prompts have been shown and the shell waits for input."""
        try:
            eventually(lambda: self.prompts() >= prompts, within=within)
        except AssertionError as e:
            raise AssertionError(f"{e}; the screen:\n" + "\n".join(self.screen())) from e
        return self

    def run(self, command: str) -> list[str]:
        """Types a command, and returns the lines that it and the next prompt's hooks showed."""
        before = eventually(self.prompts)
        self.write(command)
        self.press("Enter")
        self.wait(prompts=before + 1)
        shown = self.screen()
        starts = [number for number, line in enumerate(shown) if line.startswith(PROMPT)]
        return [line.rstrip() for line in shown[starts[before - 1] + 1 : -1]]

    def close(self) -> None:
        """Hangs up: the terminal goes away, as a closed window does. Twice is allowed."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self._tmux("kill-server")
        if not self._pid:
            return
        try:
            eventually(lambda: not is_alive(self._pid), within=5)
        except AssertionError:
            os.kill(self._pid, signal.SIGKILL)
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
