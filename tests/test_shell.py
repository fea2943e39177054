"""`init`: what is printed, and the one marked block in an rc file, to the byte."""

import argparse
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tazpod_net.cli import shell
from tazpod_net.errors import TazpodNetError
from tests.support.netns import HERE, Namespace, Place
from tests.support.terminal import SHELLS, needs

RC = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/conf.d/tazpod-net.fish"}
every_shell = pytest.mark.parametrize("name", SHELLS)


@pytest.fixture
def user() -> Path:
    """The user's directory."""
    return Path(os.environ["HOME"])


def init(name: str, *, install: bool = False, uninstall: bool = False) -> int:
    """The command."""
    return shell.init(argparse.Namespace(shell=name, install=install, uninstall=uninstall))


class TestPrinted:
    """Without options."""

    @every_shell
    def test_prints_what_the_shell_can_source(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One line that reads the hook, which is there, good syntax, and silent in a script."""
        needs(name)
        assert init(name) == 0
        line = capsys.readouterr().out
        assert "tazpod-net.fish" in line if name == "fish" else "tazpod-net.sh" in line
        done = HERE.run([name, *(["-N"] if name == "fish" else ["-eu"]), "-c", f"{line}echo after"])
        assert (done.stdout, done.stderr) == ("after\n", "")

    @every_shell
    def test_a_removed_program_leaves_a_silent_line(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Quotes and spaces in the path survive; a hook that is no longer there is no error."""
        needs(name)
        monkeypatch.setattr(shell, "_DATA", str(tmp_path / "it's here"))
        line = shell.source_lines(name)[0] + "\necho after"
        assert HERE.run([name, *(["-N"] if name == "fish" else ["-eu"]), "-c", line]).stdout == "after\n"
        (tmp_path / "it's here").mkdir()
        (tmp_path / "it's here" / ("tazpod-net.fish" if name == "fish" else "tazpod-net.sh")).write_text("echo hook\n")
        assert HERE.run([name, *(["-N"] if name == "fish" else ["-eu"]), "-c", line]).stdout == "hook\nafter\n"


class TestBlock:
    """Bytes in, bytes out."""

    @pytest.mark.parametrize(
        "before",
        [
            b"",
            b"one\n",
            b"one\ntwo",
            b"one\r\ntwo\r\n",
            b"one\r\ntwo",
            b"\xff\xfe not text\n",
            b"\n\n",
            b"a\x0bb\x85\n",
        ],
    )
    def test_goes_without_a_trace(self, before: bytes) -> None:
        """Install and uninstall give back every byte: CRLF, a missing last newline, bytes that are no text."""
        after = shell.with_block(before, [b"line"], "rc")
        assert after.startswith(before)
        assert after.count(shell.BEGIN) == 1
        assert shell.without_block(after, "rc") == before
        assert shell.with_block(after, [b"line"], "rc") == after

    def test_keeps_the_line_ends_of_the_file(self) -> None:
        """In a file of CRLF the block has CRLF too."""
        assert shell.with_block(b"one\r\n", [b"x"], "rc") == (
            b"one\r\n# >>> tazpod-net >>>\r\nx\r\n# <<< tazpod-net <<<\r\n"
        )

    def test_an_old_block_is_replaced_where_it_is(self) -> None:
        """What stands around it stays; a second block goes."""
        old = b"a\n# >>> tazpod-net >>>\nold\n# <<< tazpod-net <<<\nb\n# >>> tazpod-net >>>\n# <<< tazpod-net <<<\nc\n"
        new = b"a\n# >>> tazpod-net >>>\nnew\n# <<< tazpod-net <<<\nb\nc\n"
        assert shell.with_block(old, [b"new"], "rc") == new
        assert shell.without_block(new, "rc") == b"a\nb\nc\n"

    @pytest.mark.parametrize(
        "text",
        [
            b"# >>> tazpod-net >>>\nx\n",
            b"x\n# <<< tazpod-net <<<\n",
            b"# >>> tazpod-net >>>\n# >>> tazpod-net >>>\n# <<< tazpod-net <<<\n",
        ],
    )
    def test_half_a_block_is_an_error(self, text: bytes) -> None:
        """Nothing is guessed: the line to remove is named."""
        with pytest.raises(TazpodNetError, match="half of our block"):
            shell.with_block(text, [b"x"], "/rc")
        with pytest.raises(TazpodNetError, match="/rc"):
            shell.without_block(text, "/rc")

    def test_words_inside_a_line_are_no_marks(self) -> None:
        """Only whole lines are marks."""
        text = b"echo '# >>> tazpod-net >>>'\n"
        assert shell.without_block(text, "rc") == text


class TestFile:
    """The rc file itself."""

    @every_shell
    def test_install_twice_and_uninstall(self, user: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One block in the right file, made if need be; the second time nothing changes; then it is gone."""
        path = user / RC[name]
        assert init(name, install=True) == 0
        first = path.read_bytes()
        assert first.count(shell.BEGIN) == first.count(shell.END) == 1
        assert init(name, install=True) == 0
        assert path.read_bytes() == first
        assert init(name, uninstall=True) == 0
        assert path.exists() == (name != "fish")
        assert init(name, uninstall=True) == 0
        assert [line.partition(" /")[0] for line in capsys.readouterr().out.splitlines()] == [
            "written into",
            "already in",
            "removed from",
            "nothing to remove in",
        ]

    def test_places_that_the_user_chose(self, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """ZDOTDIR and XDG_CONFIG_HOME are followed."""
        monkeypatch.setenv("ZDOTDIR", str(user / "z"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(user / "c"))
        init("zsh", install=True)
        init("fish", install=True)
        assert (user / "z" / ".zshrc").exists()
        assert (user / "c" / "fish" / "conf.d" / "tazpod-net.fish").exists()

    def test_mode_owner_and_link_stay(self, user: Path) -> None:
        """A link stays a link, and the file behind it keeps its mode and owner."""
        real = user / "dotfiles" / "bashrc"
        real.parent.mkdir()
        real.write_text("mine\n")
        real.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(real, 12345, 12346)
        before = real.stat()
        (user / ".bashrc").symlink_to("dotfiles/bashrc")
        init("bash", install=True)
        after = real.stat()
        assert (user / ".bashrc").is_symlink()
        assert real.read_bytes().startswith(b"mine\n# >>> tazpod-net >>>\n")
        assert stat.S_IMODE(after.st_mode) == 0o640
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert sorted(path.name for path in real.parent.iterdir()) == ["bashrc"]

    @pytest.mark.root
    def test_a_bind_mount_is_written_in_place(self, user: Path, ns: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a rename cannot be had the file itself is written."""
        assert isinstance(ns, Namespace)
        (user / ".bashrc").write_text("a line that is longer than what comes after it\n" * 20)
        ns.run(["mount", "--bind", user / ".bashrc", user / ".bashrc"], check=True)
        inside = Path(f"/proc/{ns.pid}/root{user}")
        monkeypatch.setenv("HOME", str(inside))
        init("bash", install=True)
        assert (user / ".bashrc").read_bytes().count(shell.BEGIN) == 1
        init("bash", uninstall=True)
        assert (user / ".bashrc").read_text() == "a line that is longer than what comes after it\n" * 20

    def test_without_a_home_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No HOME: one line, nothing written."""
        monkeypatch.delenv("HOME")
        with pytest.raises(TazpodNetError, match="HOME is not set"):
            init("bash", install=True)

    @pytest.mark.parametrize(("text", "warned"), [("echo hi\n", True), (". ~/.bashrc\n", False)])
    def test_a_login_shell_that_would_not_see_it_is_named(
        self, user: Path, text: str, warned: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`bash -l` reads ~/.bash_profile and not ~/.bashrc."""
        (user / ".bash_profile").write_text(text)
        init("bash", install=True)
        assert ("~/.bash_profile does not read ~/.bashrc" in capsys.readouterr().err) is warned

    def test_it_is_harmless_in_a_file_of_crlf(self, user: Path) -> None:
        """The block's own line can be run although a CR stands at its end."""
        (user / ".bashrc").write_bytes(b"#\r\n")
        init("bash", install=True)
        done = subprocess.run(["bash", "-eu", user / ".bashrc"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
