"""The conversation with sudo, against programs that stand for it: what it says, and when it does not."""

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from tazpod_net.cli import asroot, sudo
from tazpod_net.cli.sudo import Refusal, explain, rerun


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("sudo: a password is required\n", "sudo asks for a password"),
        ("sudo: interactive authentication is required\n", "sudo asks for a password"),  # sudo-rs
        (
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.\nsudo: If sudo ...',
            "sudo may not become root here (no-new-privileges)",
        ),
        ("tazpod is not in the sudoers file.\n", "sudo is not allowed to this user"),
        ("Sorry, user tazpod is not allowed to execute '/bin/x' as root on vm.\n", "sudo does not allow this"),
        ("sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set\n", "sudo is not setuid root here"),
        (
            "sudo: unable to resolve host vm\nsudo: account validation failure\n",
            "sudo failed (account validation failure)",
        ),
        ("", "sudo failed (it says nothing)"),
    ],
)
def test_what_sudo_says_is_one_reason(said: str, why: str) -> None:
    """Its sentences, and those of sudo-rs, become the end of one of ours, with what helps."""
    found = explain(said)
    assert found.why == why
    assert found.fix


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is found as sudo; the test writes it."""
    path = tmp_path / "sudo"
    path.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


def write(path: Path, script: str) -> None:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")


class TestRerun:
    """One command through sudo."""

    def test_one_that_hangs_is_left_in_time(self, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A directory server that does not answer costs the limit, and what starts late does nothing."""
        monkeypatch.setattr(sudo, "ANSWER_WITHIN", 0.3)
        write(fake, "trap '' TERM; exec sleep 100")
        began = time.monotonic()
        found = rerun("", None, "/nowhere")
        assert isinstance(found, Refusal)
        assert "has not answered within 0.3 s" in found.why
        assert time.monotonic() - began < 30

    def test_output_and_exit_code_are_the_commands(
        self, fake: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What it prints on both streams is printed, all of it, and its exit code is ours."""
        warning = "echo 'sudo: unable to resolve host vm' >&2"
        write(fake, f"{warning}; echo tazpod-net; head -n 1 >{tmp_path}/heard; echo go; seq 50000; echo no >&2; exit 3")
        assert rerun("up", Namespace(wait="ready", keeper=object()), "/nowhere") == 3
        out, err = capfd.readouterr()
        assert (out.splitlines()[-1], len(out.splitlines()), err) == ("50000", 50000, "no\n")

    def test_secrets_go_by_standard_input_only(
        self, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment arrives there whole; neither arguments nor environment of sudo have it."""
        monkeypatch.setenv("TS_AUTHKEY", "tskey-auth-hidden")
        monkeypatch.setenv("ODD", "a\nb\udcff")
        write(
            fake,
            f'env >{tmp_path}/seen; echo "$@" >>{tmp_path}/seen; echo tazpod-net; head -n 1 >{tmp_path}/heard; echo go',
        )
        assert rerun("up", Namespace(wait="ready", keeper=object()), "/nowhere") == 0
        assert "hidden" not in (tmp_path / "seen").read_text()
        heard = (tmp_path / "heard").read_text()
        assert '"TS_AUTHKEY": "tskey-auth-hidden"' in heard
        assert heard.count("\n") == 1

    def test_one_that_dies_before_it_hears_us(self, fake: Path) -> None:
        """A helper that ends after its greeting is a refusal, not an error."""
        write(fake, "echo tazpod-net; exit 1")
        assert isinstance(rerun("", None, "/nowhere"), Refusal)

    def test_what_root_cannot_do_is_said(self, fake: Path) -> None:
        """The reason that root's side gives is part of ours."""
        write(fake, "echo tazpod-net; echo 'cannot write the home'; cat >/dev/null")
        found = rerun("", None, "/nowhere")
        assert isinstance(found, Refusal)
        assert found.why == "root cannot do it (cannot write the home)"


def test_root_does_nothing_for_one_who_has_gone(tmp_path: Path) -> None:
    """Root's side ends quietly when its caller stops waiting, at any point."""
    argv = [sys.executable, "-I", str(asroot.__file__), "--home", str(tmp_path / "home")]
    for message in (b"", b'{"half', b"not json\n"):
        done = subprocess.run(argv, input=message, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (1, asroot.HELLO, b"")
    assert not (tmp_path / "home").exists()
