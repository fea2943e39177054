"""The script that makes the environment: where pip comes from when Python brings none, and what makes it again."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import bootstrap
from tests.support.eventually import eventually
from tests.support.progress import Progress, SetupError, locked, run_logged

CHECKOUT = Path(__file__).resolve().parents[1]
OLD, NEW, BETA = (f"pip-{version}-py3-none-any.whl" for version in ("9.0.1", "24.10", "25.0b1"))


class Index(http.server.ThreadingHTTPServer):
    """A package index on loopback that serves what it is given and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.authorizations: list[str | None] = []

    @property
    def netloc(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    """One page."""

    server: Index

    def do_GET(self) -> None:
        """Called by the server."""
        self.server.authorizations.append(self.headers["Authorization"])
        kind, body = self.server.pages.get(self.path, ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def index() -> Iterator[Index]:
    """An index with two releases and a beta of pip, listed in HTML."""
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        links = [f'<a href="../../files/{name}#sha256={checksum(name)}">{name}</a>' for name in (NEW, BETA, OLD)]
        server.pages["/simple/pip/"] = ("text/html", "".join(links).encode())
        server.pages |= {f"/files/{name}": ("application/zip", name.encode()) for name in (OLD, NEW)}
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_pip_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test sets."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def checksum(name: str) -> str:
    """Of the content that the index serves under that name."""
    return hashlib.sha256(name.encode()).hexdigest()


class TestPip:
    """Pip's wheel for a Python without ensurepip on a system without pip."""

    def test_the_newest_release_is_taken(self, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """By version and not by spelling, and no beta."""
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.netloc}/simple")
        wheel = bootstrap.fetch_pip(tmp_path)
        assert (wheel.name, wheel.read_text()) == (NEW, NEW)

    def test_the_other_form_of_an_index_is_read_too(
        self, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """JSON, where a withdrawn release is left out."""
        files = f"""{{"files": [
            {{"filename": "{OLD}", "url": "../../files/{OLD}", "hashes": {{"sha256": "{checksum(OLD)}"}}}},
            {{"filename": "{NEW}", "url": "../../files/{NEW}", "hashes": {{}}, "yanked": "broken"}}]}}"""
        index.pages["/simple/pip/"] = ("application/vnd.pypi.simple.v1+json", files.encode())
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.netloc}/simple/")
        assert bootstrap.fetch_pip(tmp_path).read_text() == OLD

    def test_a_wheel_must_fit_its_checksum(self, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A mirror that serves something else is an error."""
        index.pages[f"/files/{NEW}"] = ("application/zip", b"something else")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.netloc}/simple")
        with pytest.raises(ValueError, match="does not fit its checksum"):
            bootstrap.fetch_pip(tmp_path)

    def test_a_password_in_the_address_is_sent_as_a_header(
        self, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As pip does it for private indexes."""
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:p%40ss@{index.netloc}/simple")
        bootstrap.fetch_pip(tmp_path)
        assert index.authorizations[0] == "Basic bWU6cEBzcw=="

    def test_a_directory_of_wheels_comes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """No network then."""
        (tmp_path / "wheels").mkdir()
        for name in (OLD, NEW):
            (tmp_path / "wheels" / name).write_text(name)
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
        assert bootstrap.fetch_pip(tmp_path).read_text() == NEW

    def test_an_index_without_pip_is_an_error(
        self, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """It names the page."""
        index.pages["/simple/pip/"] = ("text/html", b"")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{index.netloc}/simple")
        with pytest.raises(LookupError, match=r"/simple/pip/ lists no wheel of pip"):
            bootstrap.fetch_pip(tmp_path)

    def test_settings_come_from_pips_files_and_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The user's file counts, a named file more, the environment most."""
        user, named = tmp_path / "config" / "pip" / "pip.conf", tmp_path / "named"
        user.parent.mkdir(parents=True)
        user.write_text("[global]\nindex-url = http://user\ncert = /user\n")
        named.write_text("[install]\nindex-url = http://named\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("PIP_CONFIG_FILE", str(named))
        found = (bootstrap.configured("index-url"), bootstrap.configured("cert"))
        monkeypatch.setenv("PIP_INDEX_URL", "http://environment")
        assert (*found, bootstrap.configured("index-url")) == ("http://named", "/user", "http://environment")


class TestEnvironment:
    """What is made, and when it is made again."""

    def test_a_changed_source_makes_another_wheel(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Contents count, names count, compiled files do not."""
        monkeypatch.setattr(bootstrap, "CHECKOUT", tmp_path)
        package = tmp_path / "tazpod_net"
        (package / "__pycache__").mkdir(parents=True)
        (package / "one.py").write_text("1")
        seen = [bootstrap.digest(bootstrap.package_files())]
        (package / "__pycache__" / "one.pyc").write_text("compiled")
        seen.append(bootstrap.digest(bootstrap.package_files()))
        (package / "one.py").write_text("2")
        seen.append(bootstrap.digest(bootstrap.package_files()))
        (package / "one.py").rename(package / "two.py")
        seen.append(bootstrap.digest(bootstrap.package_files()))
        assert [seen.index(value) for value in seen] == [0, 0, 2, 3]

    def test_a_blank_in_the_cache_is_refused_with_the_fix(self, tmp_path: Path) -> None:
        """Scripts of an environment under such a path could not be started."""
        with Progress("test") as progress, pytest.raises(SetupError, match="set XDG_CACHE_HOME"):
            bootstrap.make(tmp_path / "my cache", progress)

    @pytest.mark.parametrize("arguments", [["run", "--", "no-such-program"], ["nonsense"], []])
    def test_wrong_use_is_one_line_and_no_traceback(self, arguments: list[str], tmp_path: Path) -> None:
        """An unknown act, or a program that is not there."""
        argv = [sys.executable, "-m", "scripts.bootstrap", *arguments]
        # An environment that looks complete, so that nothing is installed.
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        pretend_environment(tmp_path)
        done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr

    def test_a_command_runs_inside(self, tmp_path: Path) -> None:
        """The environment's programs come first, in the checkout's directory, and the exit code is the command's."""
        venv = pretend_environment(tmp_path)
        (venv / "bin").mkdir()
        (venv / "bin" / "tool").write_text('#!/bin/sh\necho "$VIRTUAL_ENV" "$PWD" "$@"; exit 7\n')
        (venv / "bin" / "tool").chmod(0o755)
        argv = [sys.executable, "-m", "scripts.bootstrap", "run", "--", "tool", "-k", "two words"]
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (7, f"{venv} {CHECKOUT} -k two words\n")

    def test_make_alone_says_what_there_is(self) -> None:
        """Every target has its line."""
        if shutil.which("make") is None:
            pytest.skip("make is not installed")
        argv = ["make", "--no-print-directory"]  # `make test` is a make too
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        targets = [line.split()[1] for line in done.stdout.splitlines()]
        assert targets == ["demo", "test", "check", "bench", "lab", "venv", "clean"]


def pretend_environment(cache: Path) -> Path:
    """An environment with both marks of completeness and nothing in it."""
    checkout, wanted = bootstrap.checkout_id(), bootstrap.digest(bootstrap.requirements())
    venv = cache / "tazpod-net" / f"venv-{checkout}-{wanted}"
    venv.mkdir(parents=True)
    (venv / "requirements.done").write_text("")
    (venv / "package.done").write_text(bootstrap.digest(bootstrap.package_files()))
    return venv


class TestProgress:
    """What the scripts have in common."""

    def test_a_failed_command_is_one_line(self, tmp_path: Path) -> None:
        """The first line that is a reason, and where all lines are."""
        log = tmp_path / "log"
        with pytest.raises(SetupError) as caught:
            run_logged(
                ["sh", "-c", "echo noise; echo reason one; echo reason two; exit 3"],
                log,
                what="it",
                show=lambda _: None,
                is_reason=lambda line: "reason" in line,
            )
        assert str(caught.value) == f"it failed (exit code 3): reason one; the whole log: {log}"
        assert log.read_text() == "noise\nreason one\nreason two\n"

    def test_a_lock_is_waited_for_aloud(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Who waits says so, and goes on when the other one is done."""
        program = f"import fcntl, sys; f = open({str(tmp_path / 'lock')!r}, 'a'); fcntl.flock(f, 2); print(); input()"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdout.readline()
            released = threading.Thread(target=release_when_awaited, args=(capsys, other))
            progress = Progress("test")
            released.start()
            with locked(tmp_path / "lock", progress):
                released.join()


def release_when_awaited(capsys: pytest.CaptureFixture[str], other: "subprocess.Popen[str]") -> None:
    """Ends the other holder of the lock once the waiting was said."""
    eventually(lambda: "waiting" in capsys.readouterr().err)
    assert other.stdin is not None
    other.stdin.close()
