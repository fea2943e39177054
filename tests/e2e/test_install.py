"""`install` as people run it: against a mirror on loopback, with real binaries and on a real terminal."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tazpod_net.core.release import PROGRAMS, Release, architecture
from tests.support.eventually import eventually
from tests.support.lab import Binaries
from tests.support.mirror import Authority, MirrorServer, Page, entries, make_authority, missing_openssl, pack, program
from tests.support.netns import namespace_refusal

RELEASE = Release("1.102.5", architecture(os.uname().machine))
GOOD = pack(entries(RELEASE, size=200_000))
# Programs of this machine are no matter: the tests look for names that nobody has.
NAMES = {"TAZPOD_NET_DAEMON_BINARY": "tailscaled-of-a-test", "TAZPOD_NET_DAEMON_CLI": "tailscale-of-a-test"}

# Until the table of commands has this row: the same program with it.
DRIVER = """
import sys
from tazpod_net import launcher
from tazpod_net.cli import install, main, parser
def options(sub):
    sub.add_argument("--version", metavar="V")
    sub.add_argument("--to", metavar="DIR")
    sub.add_argument("--mirror", metavar="URL")
    sub.add_argument("--force", action="store_true")
if "install" not in parser.COMMANDS:
    parser.COMMANDS["install"] = parser.Command("x", "tazpod-net install", options)
    known = main._command
    main._command = lambda name: install.install if name == "install" else known(name)
launcher.main()
"""


class Said(NamedTuple):
    """How it ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of the error."""
        lines = [line for line in self.err.splitlines() if line.startswith("tazpod-net: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("tazpod-net: ")


class Box:
    """A user's directories, and the command in them."""

    def __init__(self, directory: Path, server: MirrorServer, authority: Authority | None) -> None:
        self.bin = directory / "bin"
        self.cache = directory / "cache"
        self.path = directory / "path"
        for made in (self.bin, self.path):
            made.mkdir()
        self.env = {
            "HOME": str(directory),
            "XDG_CACHE_HOME": str(self.cache),
            "PATH": f"{self.path}:{os.environ['PATH']}",
            "TAZPOD_NET_HOME": str(directory / "net"),
            "TAZPOD_NET_INSTALL_MIRROR": server.url,
            **NAMES,
        }
        if authority is not None:
            self.env["SSL_CERT_FILE"] = str(authority.ca_file)

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-c", DRIVER, "install", *words]

    def run(self, *words: str, before: tuple[str, ...] = (), **more: str) -> Said:
        """To its end."""
        argv = [*before, *self.argv(*words)]
        env = {**os.environ, **self.env, **more}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
        return Said(done.returncode, done.stdout, done.stderr)

    def put(self, name: str, content: bytes, directory: Path | None = None) -> Path:
        """A program that is there already, by the name that it is looked for."""
        path = (directory or self.path) / (name if directory else f"{name}-of-a-test")
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    def inside(self) -> list[str]:
        """The names in the directory."""
        return sorted(path.name for path in self.bin.iterdir())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all tests of this file."""
    if reason := missing_openssl():
        pytest.skip(reason)
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[MirrorServer]:
    """A mirror with the good archive."""
    with MirrorServer(authority) as mirror:
        mirror.add(RELEASE, GOOD)
        yield mirror


@pytest.fixture
def box(tmp_path: Path, server: MirrorServer, authority: Authority) -> Box:
    """A user who has nothing yet."""
    directory = tmp_path / "box"
    directory.mkdir()
    return Box(directory, server, authority)


def test_the_latest_is_installed(box: Box) -> None:
    """Into the directory that was named, with what comes next; nothing is left in the cache."""
    said = box.run("--to", str(box.bin))
    assert (said.code, box.inside()) == (0, sorted(PROGRAMS))
    first, *rest = said.out.splitlines()
    assert first == f"installed tailscaled and tailscale 1.102.5 ({RELEASE.arch}) in {box.bin}"
    assert rest[0] == (
        f"  next  tailscaled-of-a-test is not on PATH: put {box.bin} on PATH, or set daemon.binary = "
        f"'{box.bin}/tailscaled'"
    )
    assert list(Path(box.cache, "tazpod-net").iterdir()) == []
    assert said.err.startswith(f"fetching {RELEASE.archive} from 127.0.0.1:")


def test_real_binaries_run_after_it(box: Box, server: MirrorServer, lab: Binaries) -> None:
    """The lab's own tailscaled and tailscale, packed as an official archive: what is installed says its version."""
    programs = {name: getattr(lab, name).read_bytes() for name in PROGRAMS}
    version = subprocess.run([lab.tailscaled, "--version"], capture_output=True, text=True, check=True, env={})
    server.add(RELEASE, pack(entries(RELEASE, programs=programs)))
    said = box.run("--version", "v1.102.5", "--to", str(box.bin))
    assert said.code == 0, said
    for name in PROGRAMS:
        done = subprocess.run([box.bin / name, "--version"], capture_output=True, text=True, check=True, env={})
        assert done.stdout == version.stdout


def test_with_both_there_nothing_is_fetched(box: Box, server: MirrorServer) -> None:
    """Names, versions and places are said."""
    paths = [box.put(name, program("1.80.3")) for name in PROGRAMS]
    said = box.run()
    assert said == Said(
        0, "".join(f"{n} 1.80.3 is there already: {p}\n" for n, p in zip(PROGRAMS, paths, strict=True)), ""
    )
    assert server.seen == []


def test_an_old_one_is_said(box: Box, server: MirrorServer) -> None:
    """With the way out; it is not replaced without being asked."""
    old = box.put("tailscaled", program("1.66.4"))
    box.put("tailscale", program("1.80.3"))
    said = box.run()
    assert (said.code, server.seen) == (1, [])
    assert said.error == f"{old} is 1.66.4, older than 1.70: 'tazpod-net install --force' fetches the latest"


def test_two_versions_are_said(box: Box) -> None:
    """They work together, mostly."""
    box.put("tailscaled", program("1.80.3"))
    box.put("tailscale", program("1.82.0"))
    said = box.run()
    assert said.code == 0
    assert said.error.startswith("the two are of different versions: ")


@pytest.mark.parametrize("words", [["--force"], ["--version", "1.102.5"]])
def test_it_fetches_when_asked(box: Box, words: list[str]) -> None:
    """Although both are there; and it says which ones will run."""
    paths = [box.put(name, program("1.80.3")) for name in PROGRAMS]
    said = box.run(*words, "--to", str(box.bin))
    assert (said.code, box.inside()) == (0, sorted(PROGRAMS))
    assert f"  next  {paths[0]} comes first: remove it, or set daemon.binary = '{box.bin}/tailscaled'" in said.out


def test_the_same_version_again_is_nothing_to_do(box: Box, server: MirrorServer) -> None:
    """A script that pins a version may run as often as it likes; --force fetches all the same."""
    for _ in range(2):
        assert box.run("--version", "1.102.5", "--to", str(box.bin)).code == 0
    assert len(server.ranges(RELEASE)) == 1
    assert box.run("--version", "1.102.5", "--to", str(box.bin), "--force").code == 0
    assert len(server.ranges(RELEASE)) == 2


@pytest.fixture
def without_root() -> tuple[str, ...]:
    """What to put before a command so that it may not write to /usr/local/bin."""
    if not os.access("/usr/local/bin", os.W_OK):
        return ()
    if reason := namespace_refusal():
        pytest.skip(reason)
    there = "/usr/local/bin"
    return ("unshare", "-m", "sh", "-c", f'mount -B {there} {there} && mount -o remount,bind,ro {there} && "$@"', "sh")


def test_one_alone_is_not_enough(box: Box, without_root: tuple[str, ...]) -> None:
    """The daemon without its command line: both are fetched, to this user's own place."""
    box.put("tailscaled", program("1.80.3"))
    said = box.run(before=without_root)
    assert said.code == 0, said
    assert sorted(path.name for path in Path(box.env["HOME"], ".local/bin").iterdir()) == sorted(PROGRAMS)


def test_one_that_does_not_run_is_none(box: Box) -> None:
    """It is said, and replaced."""
    box.put("tailscaled", program("1.80.3"), box.bin)
    broken = box.put("tailscale", b"#!/nowhere/sh\n", box.bin)
    said = box.run("--to", str(box.bin))
    assert (said.code, said.error) == (0, f"{broken} does not say its version: it is taken for missing")
    assert broken.read_bytes() == program("1.102.5", 200_000, "tailscale")


def test_without_root_they_go_home(box: Box, without_root: tuple[str, ...]) -> None:
    """~/.local/bin where /usr/local/bin may not be written; what to do if that is not on PATH."""
    said = box.run(before=without_root)
    home = Path(box.env["HOME"], ".local/bin")
    first, second, _ = said.out.splitlines()
    assert first == f"installed tailscaled and tailscale 1.102.5 ({RELEASE.arch}) in {home}"
    assert f"put {home} on PATH, or set daemon.binary" in second


def test_on_path_there_is_nothing_next(box: Box) -> None:
    """Found at once by the names that everybody uses."""
    said = box.run(
        "--to",
        str(box.bin),
        TAZPOD_NET_DAEMON_BINARY="tailscaled",
        TAZPOD_NET_DAEMON_CLI="tailscale",
        PATH=f"{box.bin}:{box.env['PATH']}",
    )
    assert said.out == f"installed tailscaled and tailscale 1.102.5 ({RELEASE.arch}) in {box.bin}\n"


def test_an_altered_archive_changes_nothing(box: Box, server: MirrorServer) -> None:
    """One line with both sums; what was there is there."""
    old = box.put("tailscaled", program("1.80.3"), box.bin)
    wanted = server.add(RELEASE, GOOD)
    server.pages[RELEASE.path] = Page(GOOD[:-1] + b"x")
    said = box.run("--to", str(box.bin))
    assert (said.code, said.out, box.inside()) == (1, "", ["tailscaled"])
    assert f", {wanted[:12]}… is published: it was removed, nothing was changed" in said.error
    assert old.read_bytes() == program("1.80.3")


def test_a_hostile_archive_changes_nothing(box: Box, server: MirrorServer) -> None:
    """Its sum fits; its content does not."""
    server.add(RELEASE, pack([entry._replace(name=f"../{entry.name}") for entry in entries(RELEASE)]))
    said = box.run("--to", str(box.bin))
    assert (said.code, box.inside()) == (1, [])
    assert "leads out of its folder: nothing was changed" in said.error


def test_what_does_not_run_here_is_not_put_in_place(box: Box, server: MirrorServer) -> None:
    """Another machine's binary under this one's name."""
    server.add(RELEASE, pack(entries(RELEASE, programs=dict.fromkeys(PROGRAMS, b"\x7fELF of another machine"))))
    said = box.run("--to", str(box.bin))
    assert (said.code, box.inside()) == (1, [])
    assert said.error.startswith(f"the new tailscaled does not run from {box.bin}: nothing was changed")


def test_a_version_that_does_not_exist(box: Box) -> None:
    """Exit 1, with the way out; no directory is made for it."""
    said = box.run("--version", "1.2.3", "--to", str(box.bin / "new"))
    assert (said.code, box.inside()) == (1, [])
    assert "has no tailscale_1.2.3_" in said.error
    assert "leave it out for the latest" in said.error


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--version", "newest"], "'newest' is not a version"),
        (["--to", ""], "--to needs a directory"),
        (["--mirror", "http://pkgs.example.com", "--to", "x"], "the mirror is http://"),
    ],
)
def test_wrong_usage(box: Box, server: MirrorServer, words: list[str], text: str) -> None:
    """Exit 2, before anything is asked."""
    said = box.run(*words)
    assert (said.code, server.seen) == (2, [])
    assert said.error.startswith(text)


def test_no_network(box: Box, server: MirrorServer) -> None:
    """A network namespace with nothing in it, or a port where nobody is: one line."""
    outside = () if namespace_refusal() else ("unshare", "-n")
    address = server.url if outside else "https://127.0.0.1:9"
    said = box.run("--to", str(box.bin), "--mirror", address, before=outside)
    assert (said.code, said.out, box.inside()) == (1, "", [])
    assert "no connection to 127.0.0.1:" in said.error


@pytest.mark.root
@pytest.mark.parametrize("full", ["cache", "bin"])
def test_a_full_disk(box: Box, full: str) -> None:
    """One line that names the directory; what was written is given back."""
    directory = {"cache": box.cache, "bin": box.bin}[full]
    directory.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size=64k none {directory} && "$@"; code=$?; ls -RA {directory} >&2; exit $code'
    said = box.run("--to", str(box.bin), before=("unshare", "-m", "sh", "-c", mount, "sh"))
    assert said.code == 1
    assert "(no space left on device): free some space there" in said.error
    assert not any(name in said.err.partition(said.error)[2] for name in (".part", "tailscale"))


@pytest.mark.root
def test_a_directory_where_nothing_may_run(box: Box) -> None:
    """noexec is noticed before anything is put in place."""
    mount = f'mount -t tmpfs -o noexec none {box.bin} && "$@"'
    said = box.run("--to", str(box.bin), before=("unshare", "-m", "sh", "-c", mount, "sh"))
    assert said.code == 1
    assert "if it is mounted noexec, choose another directory with --to" in said.error


def test_an_interrupted_download_goes_on(box: Box, server: MirrorServer) -> None:
    """Ctrl-C in the middle: exit 130, nothing changed, and the next one fetches only the rest."""
    server.faults[RELEASE.path] = [Page(GOOD, cut=100_000, hold=(held := threading.Event()))]
    env = {**os.environ, **box.env}
    with subprocess.Popen(box.argv("--to", str(box.bin)), env=env, stderr=subprocess.PIPE) as running:
        part = box.cache / "tazpod-net"
        eventually(lambda: [path.stat().st_size for path in part.iterdir()] == [100_000])
        running.send_signal(signal.SIGINT)
        held.set()
        assert running.stderr is not None
        assert b"Traceback" not in running.stderr.read()
    assert (running.returncode, box.inside()) == (130, [])
    assert box.run("--to", str(box.bin)).code == 0
    assert server.ranges(RELEASE) == ["", "bytes=100000-"]


def test_a_killed_install_leaves_the_old_ones(box: Box, server: MirrorServer) -> None:
    """`kill -9` in the middle; the next one clears what it left."""
    box.put("tailscaled", program("1.80.3"), box.bin)
    server.faults[RELEASE.path] = [Page(GOOD, cut=100_000, hold=(held := threading.Event()))]
    env = {**os.environ, **box.env}
    with subprocess.Popen(box.argv("--to", str(box.bin)), env=env, stderr=subprocess.DEVNULL) as running:
        part = box.cache / "tazpod-net"
        eventually(lambda: [path.stat().st_size for path in part.iterdir()] == [100_000])
        running.kill()
        held.set()
    assert (box.bin / "tailscaled").read_bytes() == program("1.80.3")
    assert box.run("--to", str(box.bin)).code == 0
    assert box.inside() == sorted(PROGRAMS)


def on_terminal(box: Box, *words: str, more: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and everything that a terminal showed."""
    leader, follower = pty.openpty()
    env = {**os.environ, **box.env, "TERM": "xterm-256color", "COLUMNS": "100", **more}
    try:
        with subprocess.Popen(box.argv(*words), env=env, stdin=follower, stdout=follower, stderr=follower) as running:
            os.close(follower)
            shown = b""
            while piece := _read(leader):
                shown += piece
    finally:
        os.close(leader)
    return running.returncode, shown.decode()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: nobody has the terminal open any more
        return b""


def test_a_bar_on_a_terminal(box: Box) -> None:
    """It grows to the end; the cursor comes back."""
    code, shown = on_terminal(box, "--to", str(box.bin), more={})
    assert code == 0
    assert RELEASE.archive in shown
    assert "━" in shown
    assert f"{len(GOOD) / 1000:.1f}/{len(GOOD) / 1000:.1f} kB" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_lines_on_a_dumb_terminal(box: Box) -> None:
    """Nothing that it could not show."""
    code, shown = on_terminal(box, "--to", str(box.bin), more={"TERM": "dumb"})
    assert code == 0
    assert "\x1b" not in shown
    assert f"fetching {RELEASE.archive} from " in shown
