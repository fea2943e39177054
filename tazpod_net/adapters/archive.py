"""An official static archive: fetched from a mirror, checked against its published SHA-256, unpacked, put in place.

Owns the HTTP calls of `install`, the unfinished download in the cache, and the directory that the programs go to. What
an answer or a member is worth is judged by `core.release`. Must not run what it unpacks, and must not be loaded by
anything but `install`: nothing else in this program downloads.

The order is the promise: the directory is known to be writable before anything is fetched, nothing is unpacked before
the sum fits, nothing that is there is touched before the new programs are whole on disk, and a name in the directory is
changed by rename only: a daemon that runs keeps the file that it was started from.
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import os
import stat
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from types import TracebackType
from typing import BinaryIO, Literal, Protocol, Self, cast

import tenacity
import urllib3
from urllib3 import exceptions as http_errors

from tazpod_net import __version__
from tazpod_net.adapters import https
from tazpod_net.core import release as words
from tazpod_net.core.release import PROGRAMS, Member, Release
from tazpod_net.errors import TazpodNetError, UsageError

_CONNECT_S = 10.0
_SILENCE_S = 30.0  # without a single byte; the whole may take as long as it takes
_ATTEMPTS = 4  # in a row that bring nothing new
_PAGE_ATTEMPTS = 3  # of a small answer: a machine without network is told so within two seconds
_PAUSE_S = 0.5  # before the second; doubled for each that follows
_LONGEST_PAUSE_S = 8.0
_MOST_REDIRECTS = 5
_PIECE = 1 << 18  # bytes
_MARGIN = 1 << 18  # bytes of an archive that are no member's content: headers, padding, what is read ahead
_LARGEST_TOTAL = 2 * words.LARGEST_MEMBER + (16 << 20)  # bytes
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"tazpod-net/{__version__}"}


class Watcher(Protocol):
    """Who is told how far it is."""

    def begin(self, name: str, host: str, done: int, total: int | None) -> None:
        """A transfer starts or goes on; `done` and `total` in bytes, None if the server does not say."""

    def reached(self, done: int) -> None:
        """That many bytes are there."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class TransferError(TazpodNetError):
    """Something did not come from the mirror. `again`: another try may help."""

    def __init__(self, trouble: words.Trouble) -> None:
        super().__init__(trouble.problem, trouble.fix)
        self.again = trouble.again


# --- the mirror


class Mirror:
    """Where archives come from."""

    def __init__(self, address: str, env: Mapping[str, str]) -> None:
        """`env`: for the proxies and SSL_CERT_FILE. Raises UsageError if the address or one of these is unusable."""
        base = https.parse(address)
        if base is None or base.query is not None or base.fragment is not None:
            raise UsageError("the mirror is no usable address", f"write it like {words.DEFAULT_MIRROR}")
        if base.auth is not None:
            raise UsageError(
                "the mirror's address has a user or password in it", "use a mirror without, it is not kept secret"
            )
        if base.scheme == "http" and not https.is_loopback(base):
            raise UsageError("the mirror is http://", "write https:// (http:// is for 127.0.0.1 and localhost only)")
        self._base = base.url.rstrip("/")
        self._env = env
        self._cert_file = env.get("SSL_CERT_FILE") or None
        try:
            self._trust = https.make_trust(self._cert_file)
            https.find_proxy(base, env)
        except https.WayError as e:
            raise _unusable(e) from e
        self.host = https.shown(base.url)

    def latest(self, arch: str) -> Release:
        """The newest stable release. Raises TazpodNetError."""
        return words.read_latest(self._page(words.LIST_PATH), arch, self.host)

    def published_sum(self, release: Release) -> str:
        """The archive's SHA-256 as the mirror publishes it. Raises TazpodNetError."""
        return words.read_sum(self._page(f"{release.path}.sha256"), release.archive, self.host)

    def fetch(self, release: Release, part: "Part", wanted: str, watcher: Watcher) -> None:
        """Completes `part`, whose sum is `wanted` then. Raises TazpodNetError; what came is kept for the next try."""
        resumed = part.size > 0
        if part.sum() == wanted:
            watcher.note(f"{release.archive} was already here")
            return
        self._complete(release, part, watcher)
        if part.sum() != wanted and resumed:
            watcher.note("what an earlier try left does not fit: once more from the start")
            part.restart()
            self._complete(release, part, watcher)
        found = part.sum()
        if found != wanted:
            part.remove()
            raise words.wrong_sum(release.archive, wanted, found)

    def _complete(self, release: Release, part: "Part", watcher: Watcher) -> None:
        """Until the server says that this was all, as long as attempts bring something new."""
        furthest, idle = part.size, 0

        def is_enough(_: tenacity.RetryCallState) -> bool:
            nonlocal furthest, idle
            idle = 0 if part.size > furthest else idle + 1
            furthest = max(furthest, part.size)
            return idle >= _ATTEMPTS

        def tell(state: tenacity.RetryCallState) -> None:
            e = state.outcome.exception() if state.outcome else None
            if isinstance(e, TransferError):
                watcher.note(f"{e.problem}: trying again")

        _retrying(is_enough, tell)(lambda: self._transfer(release, part, watcher))

    def _transfer(self, release: Release, part: "Part", watcher: Watcher) -> None:
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        with self._get(release.path, headers) as (response, url):
            host = https.shown(url)
            if response.status == _NOT_SATISFIABLE and part.size:
                part.restart()
                raise TransferError(words.Trouble(f"{host} cannot go on where it stopped", "try again", again=True))
            if response.status not in {_OK, _PARTIAL}:
                raise TransferError(words.explain_status(response.status, release.path, host))
            total = _start(response, part, host)
            watcher.begin(release.archive, host, part.size, total)
            while piece := self._read(response, url):
                if part.size + len(piece) > words.LARGEST_ARCHIVE:
                    raise _too_large(host)
                part.append(piece)
                watcher.reached(part.size)

    def _page(self, path: str) -> bytes:
        """A small answer, whole."""
        return _retrying(lambda state: state.attempt_number >= _PAGE_ATTEMPTS)(lambda: self._page_once(path))

    def _page_once(self, path: str) -> bytes:
        with self._get(path, {}) as (response, url):
            if response.status != _OK:
                raise TransferError(words.explain_status(response.status, path, https.shown(url)))
            body = b""
            while piece := self._read(response, url):
                body += piece
                if len(body) > words.LARGEST_PAGE:
                    raise _too_large(https.shown(url))
            return body

    @contextlib.contextmanager
    def _get(self, path: str, headers: Mapping[str, str]) -> Iterator[tuple[urllib3.BaseHTTPResponse, str]]:
        """The answer after all redirects, and the address that gave it."""
        url = self._base + path
        for _ in range(_MOST_REDIRECTS + 1):
            with self._ask(url, headers) as response:
                target = response.headers.get("Location") if response.status in https.REDIRECTS else None
                if target is None:
                    yield response, url
                    return
                url = self._follow(url, target)
        raise TransferError(words.Trouble(f"{self.host} leads in circles", "check the mirror"))

    @contextlib.contextmanager
    def _ask(self, url: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        with https.open_pool(self._trust, self._proxy(url)) as pool:
            try:
                response = pool.request(
                    "GET",
                    url,
                    headers={**_HEADERS, **headers},
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(connect=_CONNECT_S, read=_SILENCE_S),
                )
            except (http_errors.HTTPError, HTTPException, OSError) as e:
                raise self._lost(e, url) from e
            try:
                yield response
            finally:
                response.close()

    def _read(self, response: urllib3.BaseHTTPResponse, url: str) -> bytes:
        """The next bytes, as they come; empty at the end. urllib3 sees by itself that something is missing."""
        try:
            return response.read1(_PIECE, decode_content=False)
        except (http_errors.HTTPError, HTTPException, OSError) as e:
            raise self._lost(e, url) from e

    def _follow(self, url: str, target: str) -> str:
        """Another host may be meant: no credentials are sent, and the sum is the proof. Never into the open."""
        led = https.join(url, target)
        parsed = https.parse(led)
        here = https.parse(url)
        is_local = here is not None and here.scheme == "http" and parsed is not None and https.is_loopback(parsed)
        if parsed is None or parsed.auth is not None or (parsed.scheme != "https" and not is_local):
            where = https.shown(led)
            text = f"{https.shown(url)} leads to an address that is not https://" + (f" ({where})" if where else "")
            raise TransferError(
                words.Trouble(text, "log in to the captive portal if there is one, or check the mirror")
            )
        return led

    def _proxy(self, url: str) -> urllib3.util.Url | None:
        parsed = https.parse(url)
        try:
            return None if parsed is None else https.find_proxy(parsed, self._env)
        except https.WayError as e:
            raise _unusable(e) from e

    def _lost(self, e: BaseException, url: str) -> TransferError:
        """The exception of one call as words."""
        proxy = self._proxy(url)
        way = words.Way(
            https.shown(url),
            proxy=https.shown(proxy.url) if proxy else None,
            cert_file=self._cert_file,
            has_authorities=https.has_authorities(self._trust),
            at=time.time(),
        )
        return TransferError(words.explain(https.failure_of(e), way))


def _retrying(
    stop: Callable[[tenacity.RetryCallState], bool], tell: Callable[[tenacity.RetryCallState], None] | None = None
) -> tenacity.Retrying:
    """Calls again after a failure that may pass by itself, until `stop` says that it is enough."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, TransferError) and e.again),
        wait=tenacity.wait_exponential(multiplier=_PAUSE_S, max=_LONGEST_PAUSE_S),
        stop=stop,
        before_sleep=tell,
        reraise=True,
    )


def _start(response: urllib3.BaseHTTPResponse, part: "Part", host: str) -> int | None:
    """Makes `part` end where the answer begins; returns the size of the whole, if that is said."""
    if response.status != _PARTIAL:
        part.restart()
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):  # RFC 9110, 14.4
        part.restart()
        raise TransferError(words.Trouble(f"{host} sent another part than was asked for", "try again", again=True))
    length = response.headers.get("Content-Length", "")
    total = part.size + int(length) if length.isdigit() else None
    if total is not None and total > words.LARGEST_ARCHIVE:
        raise _too_large(host)
    return total


def _too_large(host: str) -> TransferError:
    return TransferError(words.Trouble(f"{host} sends more than such a file can have", "check the mirror"))


def _unusable(e: https.WayError) -> UsageError:
    match e.kind:
        case "socks":
            return UsageError(f"{e.name} is a SOCKS proxy, which cannot be used here", "set it to an HTTP proxy")
        case "proxy":
            return UsageError(f"{e.name} is no usable address", "write it like http://proxy.example:3128")
        case _:
            why = os.strerror(e.number).lower() if e.number else "no certificate in it"
            return UsageError(f"{e.name} is {e.value} ({why})", "correct it or unset it")


# --- the unfinished download


def cache_directory(env: Mapping[str, str]) -> str:
    """`${XDG_CACHE_HOME:-~/.cache}/tazpod-net`."""
    base = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or "/", ".cache")
    return os.path.abspath(os.path.join(base, "tazpod-net"))


class Part:
    """An archive that is on its way, hashed as it grows: one file in the cache, locked.

    Its name has the beginning of the wanted sum in it: what another mirror calls the same is another file. It is ours
    alone: a file that somebody else owns could be changed after it was checked.
    """

    def __init__(self, directory: str, archive: str, wanted: str) -> None:
        """Raises TazpodNetError if the cache cannot be used, or if another process has this one."""
        self.path = os.path.join(directory, f"{archive}.{wanted[:12]}.part")
        self._directory = directory
        with self._told():
            os.makedirs(directory, 0o700, exist_ok=True)
            self._fd = self._open()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_back()
        except BlockingIOError as e:
            os.close(self._fd)
            raise TazpodNetError("another install fetches the same archive just now", "wait until it has ended") from e
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
        else:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1:
                return fd
            os.close(fd)
        os.unlink(self.path)
        return os.open(self.path, flags | os.O_EXCL, 0o600)

    def _read_back(self) -> None:
        self.size, self._hash = 0, hashlib.sha256()
        while piece := os.pread(self._fd, 1 << 20, self.size):
            self._hash.update(piece)
            self.size += len(piece)

    def sum(self) -> str:
        """SHA-256 of what is there."""
        return self._hash.hexdigest()

    def append(self, data: bytes) -> None:
        """Raises TazpodNetError if it cannot be written; on a full disk nothing of it is kept."""
        try:
            _write_all(self._fd, data, self.size)
        except OSError as e:
            self.remove()
            raise _cache_error(self._directory, e) from e
        self._hash.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Forgets what is there."""
        os.ftruncate(self._fd, 0)
        self.size, self._hash = 0, hashlib.sha256()

    def remove(self) -> None:
        """Takes the file away."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def open(self) -> BinaryIO:
        """What is there, from its start; the caller closes it."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self._fd), "rb")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise _cache_error(self._directory, e) from e


def _cache_error(directory: str, e: OSError) -> TazpodNetError:
    why = (e.strerror or str(e)).lower()
    fix = (
        "free some space there, or set XDG_CACHE_HOME" if _is_full(e) else "set XDG_CACHE_HOME to a directory of yours"
    )
    return TazpodNetError(f"cannot write the cache {directory} ({why})", fix)


def _is_full(e: OSError) -> bool:
    return e.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


# --- the directory


def default_directory(env: Mapping[str, str]) -> str:
    """/usr/local/bin if this user may write there, else ~/.local/bin."""
    if os.access("/usr/local/bin", os.W_OK | os.X_OK):
        return "/usr/local/bin"
    return os.path.join(env.get("HOME") or "/", ".local/bin")


class Place:
    """The directory that the programs go to. What is new lies beside what is there until `commit`."""

    def __init__(self, directory: str) -> None:
        """`directory`: an absolute path; it is made if it is missing."""
        self.directory = directory
        self._made: list[str] = []
        self._lock = -1
        self._fds: dict[str, int] = {}

    def new(self, name: str) -> str:
        """Where a new program lies until it is put in place."""
        return os.path.join(self.directory, f".{name}.tazpod-net")

    def final(self, name: str) -> str:
        """Where it belongs."""
        return os.path.join(self.directory, name)

    def __enter__(self) -> Self:
        """Proves that it can be written. Raises TazpodNetError."""
        try:
            self._prepare()
        except OSError as e:
            self._clear()
            raise self._error(e) from e
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._clear()

    def _prepare(self) -> None:
        self._make()
        self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(self._lock)
            self._lock = -1
            raise TazpodNetError(f"another install writes to {self.directory}", "wait until it has ended") from e
        except OSError:
            pass
        for name in PROGRAMS:
            if os.path.isdir(self.final(name)):
                raise TazpodNetError(f"{self.final(name)} is a directory", "remove it, or choose another with --to")
            self._fds[name] = _create(self.new(name))

    def _make(self) -> None:
        """What is made here is remembered, for nothing stays behind after a failure."""
        path = self.directory
        while not os.path.lexists(path):
            self._made.append(path)
            path = os.path.dirname(path)
        os.makedirs(self.directory, 0o755, exist_ok=True)

    def unpack(self, packed: BinaryIO, release: Release) -> None:
        """Writes the two programs beside what is there, whole and on disk. Raises TazpodNetError."""
        found: set[str] = set()
        for name, content in _members(packed, release):
            if name in found:
                raise words.wrong_archive(release, f"it has {name} twice")
            found.add(name)
            self._write(name, content)
        for name in PROGRAMS:
            if name not in found:
                raise words.wrong_archive(release, f"it has no {name}")

    def _write(self, name: str, content: Iterator[bytes]) -> None:
        fd = self._fds.pop(name)
        offset = 0
        try:
            for piece in content:  # outside of the OSError below: what is wrong with the archive is said as such
                with self._told():
                    _write_all(fd, piece, offset)
                offset += len(piece)
            with self._told():
                os.fchmod(fd, 0o755)
                os.fsync(fd)
        finally:
            os.close(fd)

    def commit(self) -> None:
        """Puts both in place, or leaves both as they were. Raises TazpodNetError."""
        swapped: list[tuple[str, str | None]] = []
        try:
            for name in PROGRAMS:
                kept = self._keep(name)
                swapped.append((name, kept))
                os.rename(self.new(name), self.final(name))
            os.fsync(self._lock)
        except OSError as e:
            self._undo(swapped)
            raise self._error(e) from e
        self._made = []

    def _keep(self, name: str) -> str | None:
        """A second name for what is there now, so that it can come back; None if there is nothing."""
        kept = self._old(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept)
        try:
            os.link(self.final(name), kept, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            return ""  # no hard links here: there is no way back
        return kept

    def _undo(self, swapped: list[tuple[str, str | None]]) -> None:
        for name, kept in swapped:
            with contextlib.suppress(OSError):
                if os.path.lexists(self.new(name)):
                    continue  # it was not put in place
                if kept is None:
                    os.unlink(self.final(name))
                elif kept:
                    os.rename(kept, self.final(name))

    def _old(self, name: str) -> str:
        return os.path.join(self.directory, f".{name}.tazpod-net.old")

    def _clear(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        if self._lock >= 0:  # else another install may be at work there
            for path in (*map(self.new, PROGRAMS), *map(self._old, PROGRAMS)):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            os.close(self._lock)
            self._lock = -1
        for path in self._made:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise self._error(e) from e

    def _error(self, e: OSError) -> TazpodNetError:
        why = (e.strerror or str(e)).lower()
        if _is_full(e):
            fix = "free some space there, or choose another directory with --to"
        elif e.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            fix = "choose a directory that you may write with --to, or run it as its owner"
        else:
            fix = "choose another directory with --to"
        return TazpodNetError(f"cannot write {self.directory} ({why})", fix)


def _create(path: str) -> int:
    """A new file that is nobody else's; what a killed install left there goes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


# --- the archive


class _Inflated:
    """What a gzip file holds, never more than was allowed: a small archive may hold a large one."""

    def __init__(self, packed: BinaryIO) -> None:
        self._gzip = gzip.GzipFile(fileobj=packed)
        self._left = _MARGIN
        self._total = _LARGEST_TOTAL

    def allow(self, size: int) -> None:
        """The next member has `size` bytes."""
        self._left = size + _MARGIN

    def read(self, size: int) -> bytes:
        """For tarfile. Raises _TooMuchError."""
        data = self._gzip.read(size)
        self._left -= len(data)
        self._total -= len(data)
        if self._left < 0 or self._total < 0:
            raise _TooMuchError
        return data


class _TooMuchError(Exception):
    """More comes out of an archive than its headers may promise."""


_DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, _TooMuchError, ValueError, OverflowError)


def _members(packed: BinaryIO, release: Release) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The wanted programs and their content, in the order of the archive; each is read to its end before the next."""
    inflated = _Inflated(packed)
    with _sound(release):
        archive = tarfile.open(fileobj=cast("BinaryIO", inflated), mode="r|")  # noqa: SIM115 - it holds nothing open
    for number in range(words.MOST_MEMBERS + 1):
        with _sound(release):
            info = archive.next()
        if info is None:
            return
        if number == words.MOST_MEMBERS:
            raise words.wrong_archive(release, f"it has more than {number} members")
        name = words.choose_member(release, Member(info.name, _kind(info), info.size))
        inflated.allow(info.size)
        if name is not None:
            yield name, _content(archive, info, release)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo, release: Release) -> Iterator[bytes]:
    with _sound(release):
        stream = archive.extractfile(info)
    if stream is None:
        raise words.wrong_archive(release, "it is damaged")
    with stream:
        while True:
            with _sound(release):
                piece = stream.read(_PIECE)
            if not piece:
                return
            yield piece


@contextlib.contextmanager
def _sound(release: Release) -> Iterator[None]:
    try:
        yield
    except _TooMuchError as e:
        raise words.wrong_archive(release, "it holds more than it says") from e
    except _DAMAGE as e:
        raise words.wrong_archive(release, "it is damaged") from e


def _kind(info: tarfile.TarInfo) -> Literal["file", "directory", "link", "other"]:
    """Plain files only: a sparse one is short in the archive and as long as it likes on disk."""
    if info.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and info.sparse is None:
        return "file"
    if info.isdir():
        return "directory"
    return "link" if info.issym() or info.islnk() else "other"
