"""A mirror on loopback with its own certificate authority, and archives, good ones and others, to put into it."""

import gzip
import hashlib
import io
import json
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from tazpod_net.core.release import Release

_EXTENSIONS = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
authorityKeyIdentifier = keyid
"""


class Authority(NamedTuple):
    """A private authority, and a server certificate of its making for 127.0.0.1 and localhost; PEM files."""

    ca_file: Path
    certificate: Path
    key: Path


def make_authority(directory: Path) -> Authority:
    """By the `openssl` program; AssertionError if that fails."""
    made = Authority(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    settings = directory / "openssl.cnf"
    settings.write_text(_EXTENSIONS)
    key = directory / "ca.key"
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    authority = ["-extensions", "authority", "-subj", "/CN=Test authority", "-keyout", key, "-out", made.ca_file]
    server = ["-extensions", "server", "-subj", "/CN=Test mirror", "-keyout", made.key, "-out", made.certificate]
    for arguments in (authority, [*server, "-CA", made.ca_file, "-CAkey", key]):
        argv = [*new, "-config", str(settings), *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return made


def missing_openssl() -> str:
    """Why there can be no authority, or nothing."""
    return "" if shutil.which("openssl") else "the openssl program is missing"


class Page(NamedTuple):
    """An answer. `cut`: the connection ends after so many bytes of the body; `hold`: there it waits for the event."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    ranges: bool = True
    length: bool = True
    chunked: bool = False
    cut: int | None = None
    hold: threading.Event | None = None


class Seen(NamedTuple):
    """A request."""

    path: str
    range: str


class MirrorServer(ThreadingHTTPServer):
    """Serves `pages` by path; `faults` of a path are served first, one for each request. Use as a context manager."""

    daemon_threads = False

    def __init__(self, authority: Authority | None) -> None:
        """Over TLS, or in clear without an authority."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.faults: dict[str, list[Page]] = {}
        self.seen: list[Seen] = []
        self._tls = None
        if authority is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(authority.certificate, authority.key)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"{'http' if authority is None else 'https'}://{self.host}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for page in [*self.pages.values(), *(page for pages in self.faults.values() for page in pages)]:
            if page.hold is not None:
                page.hold.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        """The handshake is the handler's, so that a client that does none keeps nobody waiting."""
        connection, address = super().get_request()
        connection.settimeout(20)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or trusts nobody, is what many tests are about."""

    def add(self, release: Release, body: bytes, *, published: str | None = None, **how: Any) -> str:
        """An archive, its sum, and the list that names it as the latest; returns the sum."""
        total = hashlib.sha256(body).hexdigest()
        self.pages[release.path] = Page(body, **how)
        self.pages[f"{release.path}.sha256"] = Page((published or total).encode())
        listing = {"TarballsVersion": release.version, "Tarballs": {release.arch: release.archive}}
        self.pages["/stable/?mode=json"] = Page(json.dumps(listing).encode())
        return total

    def ranges(self, release: Release) -> list[str]:
        """The `Range` of every request for the archive."""
        return [seen.range for seen in self.seen if seen.path == release.path]


class _Handler(BaseHTTPRequestHandler):
    server: MirrorServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The first fault of the path, else its page."""
        wanted = self.headers.get("Range", "")
        self.server.seen.append(Seen(self.path, wanted))
        faults = self.server.faults.get(self.path)
        page = faults.pop(0) if faults else self.server.pages.get(self.path, Page(b"not here", 404))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and page.ranges else 0
        if start and page.status == 200:
            page = self._piece(page, start)
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif page.length:
            self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self._send(page)

    @staticmethod
    def _piece(page: Page, start: int) -> Page:
        size = len(page.body)
        if start >= size:
            return Page(status=416, headers={"Content-Range": f"bytes */{size}"})
        said = {"Content-Range": f"bytes {start}-{size - 1}/{size}", **page.headers}
        cut = None if page.cut is None else max(0, page.cut - start)
        return page._replace(body=page.body[start:], status=206, headers=said, cut=cut)

    def _send(self, page: Page) -> None:
        first = page.body if page.cut is None else page.body[: page.cut]
        self._write(first, chunked=page.chunked)
        if page.hold is not None:
            page.hold.wait(30)
            self._write(page.body[len(first) :], chunked=page.chunked)
        if page.chunked and (page.cut is None or page.hold is not None):
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, data: bytes, *, chunked: bool) -> None:
        if data:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Silent."""


# --- archives


class Entry(NamedTuple):
    """A member; `info` sets fields of its header after the fact."""

    name: str
    content: bytes = b""
    info: Mapping[str, Any] = {}


def program(version: str, size: int = 0, seed: str = "") -> bytes:
    """A shell script that calls itself by that version, `size` bytes longer than it needs to be."""
    filler = b""
    while len(filler) < size:
        filler += hashlib.sha256(seed.encode() + filler[-64:]).hexdigest().encode()
    return f"#!/bin/sh\necho {version}\nexit 0\n#".encode() + filler[:size] + b"\n"


def entries(release: Release, *, size: int = 0, programs: Mapping[str, bytes] | None = None) -> list[Entry]:
    """The members of an official archive, in their order."""
    folder = release.folder
    made = programs or {name: program(release.version, size, name) for name in ("tailscaled", "tailscale")}
    return [
        Entry(folder, info={"type": tarfile.DIRTYPE}),
        *(Entry(f"{folder}/{name}", content) for name, content in made.items()),
        Entry(f"{folder}/systemd", info={"type": tarfile.DIRTYPE}),
        *(Entry(f"{folder}/systemd/{name}", b"[Unit]\n") for name in ("tailscaled.service", "tailscaled.defaults")),
    ]


def pack(members: Iterable[Entry], *, level: int = 1) -> bytes:
    """A gzipped tar."""
    return gzip.compress(pack_plain(members), level, mtime=0)


def pack_plain(members: Iterable[Entry]) -> bytes:
    """The tar alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in members:
            info = tarfile.TarInfo(entry.name)
            info.size, info.mode = len(entry.content), 0o755
            for name, value in entry.info.items():
                setattr(info, name, value)
            archive.addfile(info, io.BytesIO(entry.content) if info.isreg() else None)
    return out.getvalue()
