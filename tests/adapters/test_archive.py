"""Fetching, checking, unpacking and placing: against a mirror on loopback, and archives that nobody should unpack."""

import contextlib
import errno
import fcntl
import gzip
import io
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tazpod_net.adapters import archive
from tazpod_net.adapters.archive import Mirror, Part, Place, TransferError
from tazpod_net.core import release as releases
from tazpod_net.core.release import PROGRAMS, Release
from tazpod_net.errors import TazpodNetError, UsageError
from tests.support.mirror import (
    Authority,
    Entry,
    MirrorServer,
    Page,
    entries,
    make_authority,
    missing_openssl,
    pack,
    pack_plain,
)

RELEASE = Release("1.102.5", "amd64")
SIZE = 400_000
GOOD = pack(entries(RELEASE, size=SIZE))


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
def env(authority: Authority) -> dict[str, str]:
    """An environment that trusts the mirror."""
    return {"SSL_CERT_FILE": str(authority.ca_file)}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_PAUSE_S", 0.01)


class Watch:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int | None]] = []
        self.last = 0
        self.notes: list[str] = []

    def begin(self, name: str, host: str, done: int, total: int | None) -> None:
        """Where an attempt starts."""
        self.begun.append((done, total))

    def reached(self, done: int) -> None:
        """How far it is."""
        self.last = done

    def note(self, text: str) -> None:
        """What a person should know."""
        self.notes.append(text)


def fetch(mirror: Mirror, cache: Path, watch: Watch | None = None) -> bytes:
    """The archive, checked."""
    wanted = mirror.published_sum(RELEASE)
    with Part(str(cache), RELEASE.archive, wanted) as part:
        mirror.fetch(RELEASE, part, wanted, watch or Watch())
        with part.open() as packed:
            return packed.read()


def refusal(mirror: Mirror, cache: Path) -> TazpodNetError:
    """Why it cannot be had; one line."""
    with pytest.raises(TazpodNetError) as caught:
        fetch(mirror, cache)
    assert str(caught.value).isprintable()
    assert caught.value.fix
    return caught.value


def left(cache: Path) -> list[int]:
    """The sizes of what is kept for the next try."""
    return [path.stat().st_size for path in cache.glob("*.part")]


def leave(cache: Path, mirror: Mirror, content: bytes) -> None:
    """What an earlier try left."""
    with Part(str(cache), RELEASE.archive, mirror.published_sum(RELEASE)) as part:
        part.append(content)


class TestFetch:
    """From the mirror into the cache."""

    def test_the_archive_comes_over_tls(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Whole, checked, with its size told beforehand."""
        watch = Watch()
        assert fetch(Mirror(server.url, env), tmp_path, watch) == GOOD
        assert (watch.begun, watch.last) == ([(0, len(GOOD))], len(GOOD))

    def test_the_latest_is_found(self, server: MirrorServer, env: dict[str, str]) -> None:
        """In the list of the mirror."""
        assert Mirror(server.url, env).latest("amd64") == RELEASE

    def test_a_mirror_may_lie_below_a_path(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """With and without a slash at its end."""
        server.pages = {f"/below/it{path}": page for path, page in server.pages.items()}
        assert fetch(Mirror(f"{server.url}/below/it/", env), tmp_path) == GOOD

    def test_loopback_may_be_in_clear(self, tmp_path: Path) -> None:
        """http:// leaves nobody in between there."""
        with MirrorServer(None) as server:
            server.add(RELEASE, GOOD)
            assert fetch(Mirror(server.url, {}), tmp_path) == GOOD

    @pytest.mark.parametrize("how", [{"length": False}, {"chunked": True}], ids=["until the end", "chunked"])
    def test_a_size_that_is_not_told(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path, how: dict[str, Any]
    ) -> None:
        """Comes all the same."""
        server.add(RELEASE, GOOD, **how)
        watch = Watch()
        assert fetch(Mirror(server.url, env), tmp_path, watch) == GOOD
        assert watch.begun == [(0, None)]

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_cut_is_continued(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path, *, chunked: bool
    ) -> None:
        """From where it ended, as often as something new comes."""
        cuts = [20_000 * n for n in range(1, 8)]
        server.faults[RELEASE.path] = [Page(GOOD, cut=cut, chunked=chunked) for cut in cuts]
        watch = Watch()
        assert fetch(Mirror(server.url, env), tmp_path, watch) == GOOD
        assert server.ranges(RELEASE) == ["", *(f"bytes={cut}-" for cut in cuts)]
        assert watch.notes == [f"{server.host} cut the connection: trying again"] * len(cuts)

    def test_a_later_try_goes_on(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """With what an earlier one left."""
        mirror = Mirror(server.url, env)
        leave(tmp_path, mirror, GOOD[:100_000])
        watch = Watch()
        assert fetch(mirror, tmp_path, watch) == GOOD
        assert watch.begun == [(100_000, len(GOOD))]

    def test_what_is_complete_is_not_fetched(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Its sum is proof enough."""
        mirror = Mirror(server.url, env)
        leave(tmp_path, mirror, GOOD)
        assert fetch(mirror, tmp_path) == GOOD
        assert server.ranges(RELEASE) == []

    def test_a_server_without_ranges_starts_again(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path
    ) -> None:
        """And nothing is there twice."""
        server.add(RELEASE, GOOD, ranges=False)
        server.faults[RELEASE.path] = [Page(GOOD, cut=50_000)]
        assert fetch(Mirror(server.url, env), tmp_path) == GOOD
        assert server.ranges(RELEASE) == ["", "bytes=50000-"]

    @pytest.mark.parametrize("junk", [b"x" * 100_000, b"x" * (len(GOOD) + 5), b"x" * len(GOOD)])
    def test_a_rest_that_does_not_fit_is_thrown_away(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path, junk: bytes
    ) -> None:
        """Shorter, longer or as long as the real one: it starts again by itself."""
        mirror = Mirror(server.url, env)
        leave(tmp_path, mirror, junk)
        assert fetch(mirror, tmp_path) == GOOD

    def test_another_part_than_was_asked_for(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Is not put in its place."""
        mirror = Mirror(server.url, env)
        leave(tmp_path, mirror, GOOD[:1000])
        wrong = {"Content-Range": f"bytes 500-{len(GOOD) - 1}/{len(GOOD)}"}
        server.faults[RELEASE.path] = [Page(GOOD[500:], 206, wrong, ranges=False)]
        assert fetch(mirror, tmp_path) == GOOD
        assert server.ranges(RELEASE) == ["bytes=1000-", ""]

    def test_trouble_of_the_server_passes(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Small answers and the archive are tried again."""
        server.faults[RELEASE.path] = [Page(status=503), Page(status=429)]
        server.faults[f"{RELEASE.path}.sha256"] = [Page(status=502), Page(b"0" * 64, cut=0)]
        assert fetch(Mirror(server.url, env), tmp_path) == GOOD


class TestRefusedContent:
    """What comes and is not what was published."""

    @pytest.mark.parametrize("at", [0, len(GOOD) // 2, len(GOOD) - 1])
    def test_an_altered_archive(self, server: MirrorServer, env: dict[str, str], tmp_path: Path, at: int) -> None:
        """One byte is enough: both sums are shown, it is removed, and nobody asks again."""
        wanted = server.add(RELEASE, GOOD)
        server.pages[RELEASE.path] = Page(GOOD[:at] + bytes([GOOD[at] ^ 1]) + GOOD[at + 1 :])
        refused = refusal(Mirror(server.url, env), tmp_path)
        assert f"{wanted[:12]}… is published" in refused.problem
        assert (left(tmp_path), len(server.ranges(RELEASE))) == ([], 1)

    def test_a_wrong_sum_file(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """The good archive under another sum is as bad."""
        server.add(RELEASE, GOOD, published="0" * 64)
        assert "000000000000… is published" in refusal(Mirror(server.url, env), tmp_path).problem
        assert left(tmp_path) == []

    def test_a_cut_that_nobody_can_see(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Without a length the sum is what tells."""
        server.add(RELEASE, GOOD, length=False, cut=70_000)
        assert "has SHA-256" in refusal(Mirror(server.url, env), tmp_path).problem

    def test_a_cut_that_does_not_pass(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Four times without anything new are enough; what came is kept."""
        server.add(RELEASE, GOOD, cut=70_000)
        assert refusal(Mirror(server.url, env), tmp_path).problem == f"{server.host} cut the connection"
        assert left(tmp_path) == [70_000]
        assert server.ranges(RELEASE) == ["", *["bytes=70000-"] * 4]

    def test_a_cut_before_each_end_without_ranges(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path
    ) -> None:
        """The same bytes again are nothing new."""
        server.add(RELEASE, GOOD, cut=70_000, ranges=False)
        refusal(Mirror(server.url, env), tmp_path)
        assert len(server.ranges(RELEASE)) == 5

    @pytest.mark.parametrize("how", [{}, {"length": False}], ids=["announced", "not announced"])
    def test_more_than_an_archive_can_have(
        self,
        server: MirrorServer,
        env: dict[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        how: dict[str, Any],
    ) -> None:
        """It ends where it becomes too much."""
        monkeypatch.setattr(releases, "LARGEST_ARCHIVE", 100_000)
        server.add(RELEASE, GOOD, **how)
        assert refusal(Mirror(server.url, env), tmp_path).problem.endswith("sends more than such a file can have")
        assert all(size <= 100_000 for size in left(tmp_path))

    def test_a_list_without_end(self, server: MirrorServer, env: dict[str, str]) -> None:
        """A page of more than a megabyte is none."""
        server.pages["/stable/?mode=json"] = Page(b" " * (2 << 20))
        with pytest.raises(TransferError, match="sends more than such a file can have"):
            Mirror(server.url, env).latest("amd64")

    def test_a_page_instead_of_a_sum(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """A captive portal answers everything with 200; nothing is fetched."""
        server.pages[f"{RELEASE.path}.sha256"] = Page(b"<html>log in</html>")
        assert "did not answer with the SHA-256" in refusal(Mirror(server.url, env), tmp_path).problem
        assert server.ranges(RELEASE) == []

    def test_a_version_that_does_not_exist(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """404 once, with the way out."""
        server.pages.clear()
        refused = refusal(Mirror(server.url, env), tmp_path)
        assert refused.problem == f"{server.host} has no {RELEASE.archive}.sha256 (404)"
        assert len(server.seen) == 1

    def test_a_sum_without_its_archive(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """404 for the second one."""
        del server.pages[RELEASE.path]
        assert refusal(Mirror(server.url, env), tmp_path).problem == f"{server.host} has no {RELEASE.archive} (404)"


class TestWay:
    """The network, the certificates, redirects and proxies."""

    def test_silence_has_an_end(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that stops in the middle is left, and the next attempt goes on there."""
        monkeypatch.setattr(archive, "_SILENCE_S", 0.2)
        server.faults[RELEASE.path] = [Page(GOOD, cut=30_000, hold=(held := threading.Event()))]
        try:
            assert fetch(Mirror(server.url, env), tmp_path) == GOOD
        finally:
            held.set()
        assert server.ranges(RELEASE) == ["", "bytes=30000-"]

    def test_slow_is_not_silent(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """What has come is told at once, not when a buffer is full; then it goes on."""
        go_on = threading.Event()
        server.faults[RELEASE.path] = [Page(GOOD, cut=30_000, hold=go_on)]

        class Release30k(Watch):
            def reached(self, done: int) -> None:
                super().reached(done)
                if done == 30_000:
                    go_on.set()

        assert fetch(Mirror(server.url, env), tmp_path, Release30k()) == GOOD
        assert server.ranges(RELEASE) == [""]

    def test_nobody_listens(self, authority: Authority, env: dict[str, str], tmp_path: Path) -> None:
        """One line, after a few attempts."""
        with MirrorServer(authority) as gone:
            pass
        assert refusal(Mirror(gone.url, env), tmp_path).problem == f"no connection to {gone.host} (connection refused)"

    @pytest.mark.parametrize(
        ("code", "text"),
        [(socket.EAI_NONAME, "does not exist in DNS"), (socket.EAI_AGAIN, "cannot be looked up, DNS does not answer")],
    )
    def test_no_name(
        self, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
    ) -> None:
        """A machine without network says that its DNS does not answer."""

        def fail(*_: object, **__: object) -> None:
            raise socket.gaierror(code, "no")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        problem = refusal(Mirror("https://pkgs.example.com", env), tmp_path).problem
        assert problem == f"the name of pkgs.example.com {text}"

    def test_an_unknown_authority(self, server: MirrorServer, tmp_path: Path) -> None:
        """Is not trusted because it is asked nicely."""
        assert "authority that this machine does not trust" in refusal(Mirror(server.url, {}), tmp_path).problem
        assert server.seen == []

    def test_a_certificate_of_another_name(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """The right authority is not enough."""
        refused = refusal(Mirror(server.url.replace("127.0.0.1", "127.1"), env), tmp_path)
        assert refused.problem.endswith("is for another name")

    def test_a_server_without_tls(self, env: dict[str, str], tmp_path: Path) -> None:
        """https:// means it."""
        with MirrorServer(None) as server:
            assert "no TLS with" in refusal(Mirror(server.url.replace("http", "https"), env), tmp_path).problem

    def test_a_redirect_to_another_host(
        self, server: MirrorServer, authority: Authority, env: dict[str, str], tmp_path: Path
    ) -> None:
        """Over https it is followed, and resumed there."""
        with MirrorServer(authority) as other:
            url = other.url.replace("127.0.0.1", "localhost")
            other.add(RELEASE, GOOD)
            other.faults[RELEASE.path] = [Page(GOOD, cut=40_000)]
            server.pages[RELEASE.path] = Page(status=302, headers={"Location": f"{url}{RELEASE.path}"}, ranges=False)
            assert fetch(Mirror(server.url, env), tmp_path) == GOOD
            assert other.ranges(RELEASE) == ["", "bytes=40000-"]

    @pytest.mark.parametrize(
        "target",
        ["http://127.0.0.1:9/x", "http://example.com/x", "ftp://127.0.0.1/x", "https://u:p@127.0.0.1/x", "//["],
    )
    def test_a_redirect_into_the_open(
        self, server: MirrorServer, env: dict[str, str], tmp_path: Path, target: str
    ) -> None:
        """From https only to https, and with no password."""
        server.pages[RELEASE.path] = Page(status=301, headers={"Location": target})
        assert "leads to an address that is not https://" in refusal(Mirror(server.url, env), tmp_path).problem

    def test_redirects_in_circles(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """Have an end."""
        server.pages[RELEASE.path] = Page(status=307, headers={"Location": RELEASE.path})
        assert refusal(Mirror(server.url, env), tmp_path).problem == f"{server.host} leads in circles"
        assert len(server.ranges(RELEASE)) == 6

    def test_a_proxy_that_is_not_there(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """It is the proxy that is named, without its password; NO_PROXY goes around it."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            env["HTTPS_PROXY"] = f"http://user:MARKER@{address}"
            refused = refusal(Mirror(server.url, env), tmp_path)
            assert refused.problem == f"no connection to the proxy {address} (connection refused)"
            assert "MARKER" not in str(refused)
            assert fetch(Mirror(server.url, {**env, "NO_PROXY": "127.0.0.1"}), tmp_path) == GOOD

    @pytest.mark.parametrize(
        ("address", "more", "text"),
        [
            ("http://pkgs.example.com", {}, "the mirror is http://"),
            ("pkgs.example.com", {}, "the mirror is no usable address"),
            ("ftp://pkgs.example.com", {}, "the mirror is no usable address"),
            ("https://", {}, "the mirror is no usable address"),
            ("https://pkgs.example.com/?a=b", {}, "the mirror is no usable address"),
            ("https://user:MARKER@pkgs.example.com", {}, "the mirror's address has a user or password in it"),
            ("https://m.example", {"HTTPS_PROXY": "socks5://u:MARKER@p:1"}, "HTTPS_PROXY is a SOCKS proxy"),
            ("https://m.example", {"https_proxy": "http://[MARKER"}, "HTTPS_PROXY is no usable address"),
            ("https://m.example", {"SSL_CERT_FILE": "/nowhere/ca"}, "SSL_CERT_FILE is /nowhere/ca (no such file"),
            ("https://m.example", {"SSL_CERT_FILE": "/dev/null"}, "SSL_CERT_FILE is /dev/null (no certificate in it)"),
        ],
    )
    def test_settings_that_cannot_be_used(self, address: str, more: dict[str, str], text: str) -> None:
        """Wrong usage, said before anything is asked, and no password is shown."""
        with pytest.raises(UsageError) as caught:
            Mirror(address, more)
        assert str(caught.value).startswith(text)
        assert "MARKER" not in str(caught.value)


class TestPart:
    """The unfinished download."""

    def test_one_install_at_a_time(self, tmp_path: Path) -> None:
        """The second is told; the first goes on."""
        with (
            Part(str(tmp_path), "a.tgz", "0" * 64) as first,
            pytest.raises(TazpodNetError, match="another install fetches the same archive just now"),
        ):
            Part(str(tmp_path), "a.tgz", "0" * 64)
        assert first.size == 0

    @pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
    def test_a_trap_in_the_cache(self, tmp_path: Path, kind: str) -> None:
        """What is not a plain file of its own is replaced; nobody writes through it, and nobody waits."""
        cache, victim = tmp_path / "cache", tmp_path / "victim"
        cache.mkdir()
        victim.write_bytes(b"precious")
        path = cache / f"a.tgz.{'0' * 12}.part"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            (path.symlink_to if kind == "symlink" else path.hardlink_to)(victim)
        with Part(str(cache), "a.tgz", "0" * 64) as part:
            part.append(b"new")
            assert (part.size, path.read_bytes()) == (3, b"new")
        assert victim.read_bytes() == b"precious"

    def test_a_cache_that_cannot_be_made(self, tmp_path: Path) -> None:
        """The directory and the way out are named."""
        (tmp_path / "file").write_text("")
        with pytest.raises(TazpodNetError, match=r"cannot write the cache .*/file/x \(.*\): set XDG_CACHE_HOME"):
            Part(str(tmp_path / "file" / "x"), "a.tgz", "0" * 64)

    def test_a_full_disk(self, server: MirrorServer, env: dict[str, str], tmp_path: Path) -> None:
        """One line, and what was written is given back."""
        with largest_file(65536):
            refused = refusal(Mirror(server.url, env), tmp_path)
        assert refused.problem.startswith(f"cannot write the cache {tmp_path} (")
        assert left(tmp_path) == []

    @pytest.mark.parametrize(
        ("env", "path"),
        [
            ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/tazpod-net"),
            ({"HOME": "/h"}, "/h/.cache/tazpod-net"),
            ({}, "/.cache/tazpod-net"),
        ],
    )
    def test_where_the_cache_is(self, env: dict[str, str], path: str) -> None:
        """As the base directory specification says."""
        assert archive.cache_directory(env) == path


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit for the size of files stands for a full disk: an OSError at the same place, and it needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    action = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)


def put(directory: Path, packed: bytes) -> None:
    """Unpacks and puts in place."""
    with Place(str(directory)) as place:
        place.unpack(io.BytesIO(packed), RELEASE)
        place.commit()


def inside(directory: Path) -> dict[str, bytes]:
    """Everything in a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with an older pair in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_bytes(f"old {name}".encode())
    return directory


OLD = {name: f"old {name}".encode() for name in PROGRAMS}
NEW = {entry.name.rpartition("/")[2]: entry.content for entry in entries(RELEASE, size=SIZE)[1:3]}


class TestPlace:
    """Into the directory."""

    def test_both_programs_and_nothing_else(self, place: Path) -> None:
        """The service files of the archive stay in it."""
        put(place, GOOD)
        assert inside(place) == NEW
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o755}

    def test_the_mode_is_not_the_archives(self, place: Path) -> None:
        """Set-user-id, or no right to execute: whatever it says, and whatever the umask is."""
        members = [member._replace(info={**member.info, "mode": 0o4777, "uid": 12345}) for member in entries(RELEASE)]
        before = os.umask(0o077)
        try:
            put(place, pack(members))
        finally:
            os.umask(before)
        assert stat.S_IMODE((place / "tailscaled").stat().st_mode) == 0o755
        assert (place / "tailscaled").stat().st_uid == os.geteuid()

    def test_a_missing_directory_is_made(self, tmp_path: Path) -> None:
        """With all above it."""
        put(tmp_path / "a" / "b", GOOD)
        assert inside(tmp_path / "a" / "b") == NEW

    def test_a_failure_leaves_no_directory(self, tmp_path: Path) -> None:
        """What was made is taken away again."""
        with pytest.raises(TazpodNetError):
            put(tmp_path / "a" / "b", b"")
        assert not (tmp_path / "a").exists()

    def test_a_link_is_replaced_not_followed(self, place: Path, tmp_path: Path) -> None:
        """What it led to stays what it was."""
        target = tmp_path / "elsewhere"
        target.write_bytes(b"precious")
        (place / "tailscaled").unlink()
        (place / "tailscaled").symlink_to(target)
        put(place, GOOD)
        assert (target.read_bytes(), inside(place)) == (b"precious", NEW)

    def test_a_running_program_is_left_alone(self, place: Path) -> None:
        """It may be replaced while it runs, and runs on from the old file."""
        sleep = shutil.which("sleep")
        assert sleep is not None
        shutil.copy(sleep, place / "tailscaled")
        with subprocess.Popen([place / "tailscaled", "60"]) as running:
            try:
                put(place, GOOD)
                assert inside(place) == NEW
                assert running.poll() is None
                assert os.readlink(f"/proc/{running.pid}/exe").endswith("(deleted)")
            finally:
                running.kill()

    def test_half_a_change_is_taken_back(self, place: Path) -> None:
        """If the second program cannot be put in place, the first is what it was."""
        with Place(str(place)) as opened:
            opened.unpack(io.BytesIO(GOOD), RELEASE)
            (place / "tailscale").unlink()
            (place / "tailscale").mkdir()
            with pytest.raises(TazpodNetError, match="cannot write"):
                opened.commit()
        assert [path.name for path in sorted(place.iterdir())] == ["tailscale", "tailscaled"]
        assert (place / "tailscaled").read_bytes() == OLD["tailscaled"]

    def test_half_a_first_install_is_taken_back(self, tmp_path: Path) -> None:
        """Where nothing was, nothing is."""
        with Place(str(tmp_path)) as opened:
            opened.unpack(io.BytesIO(GOOD), RELEASE)
            (tmp_path / "tailscale").mkdir()
            with pytest.raises(TazpodNetError, match="cannot write"):
                opened.commit()
        assert not (tmp_path / "tailscaled").exists()

    def test_without_hard_links(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no way back, but a way forward."""

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no")

        monkeypatch.setattr(os, "link", fail)
        put(place, GOOD)
        assert inside(place) == NEW

    def test_what_a_killed_install_left_is_cleared(self, place: Path) -> None:
        """Also if it was no plain file."""
        (place / ".tailscaled.tazpod-net").symlink_to("/nowhere")
        (place / ".tailscale.tazpod-net").write_text("half")
        (place / ".tailscale.tazpod-net.old").write_text("old")
        put(place, GOOD)
        assert inside(place) == NEW

    def test_one_install_at_a_time(self, place: Path) -> None:
        """The second is told, and does not tidy up what is the first one's."""
        with Place(str(place)) as first:
            first.unpack(io.BytesIO(GOOD), RELEASE)
            with pytest.raises(TazpodNetError, match="another install writes to"), Place(str(place)):
                pass
            first.commit()
        assert inside(place) == NEW

    def test_a_filesystem_without_locks(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """NFS gives none for a directory: it goes on without."""

        def fail(*_: object) -> None:
            raise OSError(errno.EBADF, "no")

        monkeypatch.setattr(fcntl, "flock", fail)
        put(place, GOOD)
        assert inside(place) == NEW

    def test_a_program_that_is_a_directory(self, place: Path) -> None:
        """Said before anything is fetched."""
        (place / "tailscale").unlink()
        (place / "tailscale").mkdir()
        with pytest.raises(TazpodNetError, match="tailscale is a directory: remove it"), Place(str(place)):
            pass
        assert [path.name for path in sorted(place.iterdir())] == ["tailscale", "tailscaled"]

    def test_a_file_where_the_directory_should_be(self, tmp_path: Path) -> None:
        """Not a directory."""
        (tmp_path / "file").write_text("")
        with pytest.raises(TazpodNetError, match="choose another directory with --to"), Place(str(tmp_path / "file")):
            pass

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_of_somebody_else(self) -> None:
        """Said before anything is fetched."""
        with pytest.raises(TazpodNetError, match=r"cannot write /usr \(permission denied\)"), Place("/usr"):
            pass

    def test_a_directory_that_nobody_can_write(self) -> None:
        """Not even root, and nothing is left open."""
        with pytest.raises(TazpodNetError, match="cannot write /proc"), Place("/proc"):
            pass

    def test_a_full_disk(self, place: Path) -> None:
        """What is there stays, what is half there goes."""
        with largest_file(65536), pytest.raises(TazpodNetError, match=r"cannot write .*: free some space there"):
            put(place, GOOD)
        assert inside(place) == OLD

    @pytest.mark.parametrize(("writable", "path"), [(True, "/usr/local/bin"), (False, "/h/.local/bin")])
    def test_where_programs_go(self, monkeypatch: pytest.MonkeyPatch, path: str, *, writable: bool) -> None:
        """To everybody if that is allowed, else to this user."""
        monkeypatch.setattr(os, "access", lambda *_: writable)
        assert archive.default_directory({"HOME": "/h"}) == path


F = RELEASE.folder
FINE = entries(RELEASE)
LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
DEVICE = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
HARD = {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}
LONG = {"type": tarfile.DIRTYPE, "pax_headers": {"comment": "a" * 2_000_000}}
SPARSE = {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9999999999"}}
HOSTILE: dict[str, tuple[list[Entry], str]] = {
    "absolute": ([Entry("/etc/tailscaled", b"x"), *FINE], "leads out of its folder"),
    "parent": ([*FINE, Entry(f"{F}/../tailscaled", b"x")], "leads out of its folder"),
    "deep parent": ([*FINE, Entry(f"{F}/a/../../../tailscaled", b"x")], "leads out of its folder"),
    "outside": ([*FINE, Entry("tailscaled", b"x")], "is not in"),
    "symbolic link": ([Entry(f"{F}/tailscaled", info=LINK), *FINE], "is a link"),
    "link elsewhere": ([*FINE, Entry(f"{F}/systemd/x", info=LINK)], "is a link"),
    "folder as link": ([Entry(F, info=LINK), *FINE[1:]], "is a link"),
    "hard link": ([Entry(f"{F}/tailscaled", info=HARD), *FINE], "is a link"),
    "fifo": ([*FINE, Entry(f"{F}/x", info={"type": tarfile.FIFOTYPE})], "is no plain file"),
    "device": ([*FINE, Entry(f"{F}/x", info=DEVICE)], "is no plain file"),
    "sparse": ([*FINE, Entry(f"{F}/x", b"1\n0\n1\n" + b"\0" * 600, SPARSE)], "is no plain file"),
    "twice": ([*FINE, FINE[1]], "it has tailscaled twice"),
    "too many": ([*FINE, *(Entry(f"{F}/{n}") for n in range(40))], "it has more than 32 members"),
    "no daemon": ([entry for entry in FINE if not entry.name.endswith("/tailscaled")], "it has no tailscaled"),
    "no client": ([entry for entry in FINE if not entry.name.endswith("/tailscale")], "it has no tailscale"),
    "empty program": ([FINE[0], Entry(f"{F}/tailscaled"), *FINE[2:]], "is no program"),
    "nothing": ([], "it has no tailscaled"),
    "long name": ([*FINE, Entry(f"{F}/{'a' * 2_000_000}", b"x")], "it holds more than it says"),
    "long header": ([Entry(F, info=LONG)], "it holds more than it says"),
}  # fmt: skip


def with_size(size: int) -> bytes:
    """A header that announces a huge program, and a little of it."""
    info = tarfile.TarInfo(f"{F}/tailscaled")
    info.size = size
    return gzip.compress(info.tobuf(format=tarfile.GNU_FORMAT) + b"\0" * 5000, 1)


class TestHostile:
    """Archives whose sum fits, and which nobody should unpack."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_it_is_refused_whole(self, place: Path, name: str) -> None:
        """The reason is one line; the directory is as it was, and nothing beside it."""
        members, why = HOSTILE[name]
        self.refused(place, pack(members), why)

    def refused(self, place: Path, packed: bytes, why: str) -> None:
        """Nothing has changed, in the directory and above it."""
        above = sorted(place.parent.rglob("*"))
        with pytest.raises(TazpodNetError) as caught:
            put(place, packed)
        assert why in caught.value.problem
        assert str(caught.value).isprintable()
        assert (inside(place), sorted(place.parent.rglob("*"))) == (OLD, above)

    @pytest.mark.parametrize(
        ("packed", "why"),
        [
            (b"", "it is damaged"),
            (b"<html>", "it is damaged"),
            (GOOD[:1000], "it is damaged"),
            (GOOD[: len(GOOD) // 2], "it is damaged"),
            (pack_plain(FINE), "it is damaged"),
            (gzip.compress(b"nothing of the kind"), "it is damaged"),
            (gzip.compress(pack_plain(FINE)[:1040]), "it is damaged"),
            (with_size((200 << 20) + 1), "is larger than 200 MB"),
            (with_size(150 << 20), "it is damaged"),
        ],
        ids=["empty", "page", "cut early", "cut", "not packed", "no tar", "cut inside", "huge", "shorter than it says"],
    )
    def test_what_is_no_archive(self, place: Path, packed: bytes, why: str) -> None:
        """Cut, damaged, or something else."""
        self.refused(place, packed, why)

    def test_a_bomb(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many large members that are all left out still have an end."""
        monkeypatch.setattr(archive, "_LARGEST_TOTAL", 3 << 20)
        filler = [Entry(f"{F}/{n}", bytes(1 << 20)) for n in range(9)]
        packed = pack([*filler, *FINE], level=9)
        assert len(packed) < 20_000
        self.refused(place, packed, "it holds more than it says")

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damage_of_any_kind(self, place: Path, data: Any) -> None:
        """Whatever is changed in the tar: it is unpacked well, or refused in our own words with nothing changed."""
        plain = bytearray(pack_plain(FINE))
        for at in data.draw(st.lists(st.integers(0, 6 * 512), min_size=1, max_size=8)):
            plain[at] = data.draw(st.integers(0, 255))
        said = ""
        with Place(str(place)) as opened:
            try:
                opened.unpack(io.BytesIO(gzip.compress(plain, 1)), RELEASE)
            except TazpodNetError as e:
                said = e.problem
        assert not said or "is not what it should be" in said
        assert inside(place) == OLD
