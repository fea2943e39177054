"""A release of Tailscale as the official static archives carry it: its names, its sums, what may be in it. Pure.

Owns what is believed of a mirror's answers and of an archive's members, and the words for what is wrong with them.
Facts: `clientupdate/clientupdate.go:1335` (the list), `release/dist/unixpkgs/pkgs.go:42-160` (names and members).
"""

import os
import re
import time
from typing import Literal

import msgspec

from tazpod_net.core.layers import printable
from tazpod_net.core.minting import Failure, Kind
from tazpod_net.errors import TazpodNetError, UsageError

DEFAULT_MIRROR = "https://pkgs.tailscale.com"
PROGRAMS = ("tailscaled", "tailscale")
OLDEST = (1, 70)  # the oldest tailscaled that is not called too old
LIST_PATH = "/stable/?mode=json"

LARGEST_PAGE = 1 << 20  # bytes; the list has 5 KB, a sum 65
LARGEST_ARCHIVE = 200 << 20  # bytes; 1.102.5 has about 35 MB
LARGEST_MEMBER = 200 << 20  # bytes; tailscaled 1.102.5 has 43 MB
MOST_MEMBERS = 32  # 1.102.5 has 8

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "riscv64": "riscv64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",  # a 64-bit kernel that shows itself as 32-bit (man 2 personality)
}
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")
_NOTHING_CHANGED = "nothing was changed"


class Release(msgspec.Struct, frozen=True):
    """One version for one architecture, such as `1.102.5` and `amd64`."""

    version: str
    arch: str

    @property
    def folder(self) -> str:
        """The one directory in the archive."""
        return f"tailscale_{self.version}_{self.arch}"

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return f"{self.folder}.tgz"

    @property
    def path(self) -> str:
        """Where a mirror has it."""
        return f"/stable/{self.archive}"


class Member(msgspec.Struct, frozen=True):
    """One entry of an archive, as its header says. `size` in bytes."""

    name: str
    kind: Literal["file", "directory", "link", "other"]
    size: int


def architecture(machine: str) -> str:
    """The archive's word for `os.uname().machine`. Raises TazpodNetError where there is none."""
    arch = _ARCHITECTURES.get(machine)
    if arch is None:
        raise TazpodNetError(
            f"there is no archive that is known to run on {printable(machine) or 'this machine'}",
            "only amd64, arm64, arm and riscv64 are known here: install tailscaled another way, and set daemon.binary",
        )
    return arch


# --- versions


def parse_version(text: str) -> str:
    """`1.102.5` from what a person wrote, with or without a `v`. Raises UsageError."""
    version = text.strip().removeprefix("v")
    if not _VERSION.fullmatch(version):
        raise UsageError(
            f"{printable(text)!r} is not a version", "write it like 1.102.5, or leave it out for the latest"
        )
    return version


def read_version(said: str) -> str:
    """The first word of what `tailscaled --version` prints, such as `1.102.5` or `1.60.1-dev2024`; else empty."""
    word = (said.split() or [""])[0]
    return word if _VERSION.match(word) else ""


def is_old(version: str) -> bool:
    """Whether a version that `read_version` gave is older than OLDEST."""
    return tuple(int(part) for part in version.split(".")[:2]) < OLDEST


# --- what a mirror answers


class _Listing(msgspec.Struct):
    version: str | None = msgspec.field(default=None, name="TarballsVersion")
    archives: dict[str, str] | None = msgspec.field(default=None, name="Tarballs")


def read_latest(body: bytes, arch: str, host: str) -> Release:
    """The release that a mirror's list calls its latest. Raises TazpodNetError."""
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        listing = _Listing()
    if listing.version is None or not _VERSION.fullmatch(listing.version):
        raise TazpodNetError(
            f"{host} did not answer with a list of versions",
            "check the mirror, and that no captive portal stands in between; or name one with --version",
        )
    release = Release(listing.version, arch)
    if listing.archives is not None and listing.archives.get(arch) != release.archive:
        raise TazpodNetError(
            f"{host} lists no Tailscale {release.version} for {arch}", "name another version with --version"
        )
    return release


def read_sum(body: bytes, archive: str, host: str) -> str:
    """The SHA-256 that a mirror publishes: 64 hexadecimal digits, alone or before the file's name as `sha256sum` does.

    Raises TazpodNetError.
    """
    words = body.decode("ascii", "replace").split()
    is_named = len(words) == 2 and words[1].lstrip("*") == archive  # noqa: PLR2004 - sum and name
    if (len(words) == 1 or is_named) and re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
        return words[0].lower()
    raise TazpodNetError(
        f"{host} did not answer with the SHA-256 of {archive}",
        "check the mirror, and that no captive portal stands in between",
    )


def wrong_sum(archive: str, wanted: str, found: str) -> TazpodNetError:
    """What came is not what was published."""
    return TazpodNetError(
        f"{archive} has SHA-256 {found[:12]}…, {wanted[:12]}… is published",
        f"it was removed, {_NOTHING_CHANGED}: try again, and if it stays so, do not trust this mirror",
    )


# --- what is in an archive


def choose_member(release: Release, member: Member) -> str | None:
    """Which of PROGRAMS this is, or None for what is left out. Raises TazpodNetError for what no such archive has."""
    name = member.name.rstrip("/") if member.kind == "directory" else member.name
    parts = name.split("/")
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(parts):
        raise wrong_archive(release, f"the path of {_quoted(name)} leads out of its folder")
    if parts[0] != release.folder:
        raise wrong_archive(release, f"{_quoted(name)} is not in {release.folder}")
    if member.kind not in {"file", "directory"}:
        raise wrong_archive(release, f"{_quoted(name)} is {'a link' if member.kind == 'link' else 'no plain file'}")
    if not 0 <= member.size <= LARGEST_MEMBER:
        raise wrong_archive(release, f"{_quoted(name)} is larger than {LARGEST_MEMBER >> 20} MB")
    is_program = len(parts) == 2 and parts[1] in PROGRAMS  # noqa: PLR2004 - folder and name
    if is_program and (member.kind != "file" or not member.size):
        raise wrong_archive(release, f"{_quoted(name)} is no program")
    return parts[1] if is_program else None


def wrong_archive(release: Release, why: str) -> TazpodNetError:
    """An archive whose sum fits and whose content does not."""
    return TazpodNetError(f"{release.archive} is not what it should be: {why}", f"{_NOTHING_CHANGED}; check the mirror")


def _quoted(name: str) -> str:
    shown = printable(name)
    return repr(shown if len(shown) <= 60 else f"{shown[:59]}…")  # noqa: PLR2004 - enough to know it by


# --- what did not come


class Way(msgspec.Struct, frozen=True):
    """How a host is reached, as far as words need it. `at`: our clock, seconds since the epoch."""

    host: str
    proxy: str | None = None
    cert_file: str | None = None
    has_authorities: bool = True
    at: float = 0.0


class Trouble(msgspec.Struct, frozen=True):
    """Why something did not come. `again`: another try may help by itself."""

    problem: str
    fix: str
    again: bool = False


_CHECK_MIRROR = "check --mirror or TAZPOD_NET_INSTALL_MIRROR, and that no proxy stands in between"
_CHECK_NETWORK = "check the network and DNS, or choose a mirror that can be reached with --mirror"
_CHECK_PROXY = "check HTTPS_PROXY and NO_PROXY"
_SERVER_ERROR = 500
_BUSY = {408, 429}
_TRANSIENT = {Kind.NAME_LATER, Kind.CONNECT, Kind.CONNECT_SLOW, Kind.SLOW, Kind.CUT}


def explain_status(status: int, path: str, host: str) -> Trouble:
    """An HTTP status other than the one that was hoped for."""
    if status >= _SERVER_ERROR or status in _BUSY:
        return Trouble(f"{host} has trouble of its own ({status})", "try again later, or another --mirror", again=True)
    if status in {404, 410} and path == LIST_PATH:
        return Trouble(f"{host} has no list of versions ({status})", "check --mirror, or name one with --version")
    if status in {404, 410}:
        what = path.removeprefix("/stable/")
        return Trouble(
            f"{host} has no {what} ({status})",
            "check --version (stable versions have an even second number); leave it out for the latest",
        )
    return Trouble(f"{host} refused to hand it out ({status})", _CHECK_MIRROR)


def explain(failure: Failure, way: Way) -> Trouble:
    """No answer, or none to its end."""
    who = way.host
    if way.proxy is not None:
        who = f"the proxy {way.proxy}" if failure.at_proxy else f"{way.host} (through the proxy {way.proxy})"
    check = _CHECK_NETWORK if way.proxy is None else _CHECK_PROXY
    match failure.kind:
        case Kind.PROXY_STATUS:
            needs = "; put its user and password there" if failure.number == 407 else ""  # noqa: PLR2004 - RFC 9110
            again = failure.number >= _SERVER_ERROR
            return Trouble(
                f"{who} does not connect to {way.host} ({failure.number})", _CHECK_PROXY + needs, again=again
            )
        case Kind.NAME_UNKNOWN:
            return Trouble(f"the name of {who} does not exist in DNS", check)
        case Kind.NAME_LATER:
            problem = f"the name of {who} cannot be looked up, DNS does not answer"
        case Kind.CONNECT:
            problem = f"no connection to {who} ({_reason(failure.number)})"
        case Kind.CONNECT_SLOW:
            problem = f"no connection to {who}, it does not answer"
        case Kind.SLOW:
            problem = f"{who} fell silent"
        case Kind.CUT:
            problem = f"{who} cut the connection"
        case Kind.NOT_HTTP:
            return Trouble(f"{who} does not speak HTTP", _CHECK_MIRROR)
        case _:
            return _certificate(failure, way, who)
    return Trouble(problem, check, again=failure.kind in _TRANSIENT)


def _reason(number: int) -> str:
    return os.strerror(number).lower() if number else "it failed"


def _certificate(failure: Failure, way: Way, who: str) -> Trouble:
    day = time.strftime("%Y-%m-%d", time.gmtime(way.at))
    match failure.kind:
        case Kind.CERT_EARLY | Kind.CERT_LATE:
            how = "not valid yet" if failure.kind is Kind.CERT_EARLY else "expired"
            return Trouble(f"the certificate of {who} is {how} on {day}", "set the clock if that is not today")
        case Kind.CERT_NAME:
            return Trouble(f"the certificate of {who} is for another name", _CHECK_MIRROR)
        case Kind.CERT_UNKNOWN_CA if not way.has_authorities:
            return Trouble(
                "this machine trusts no certificate authority", "install ca-certificates, or set SSL_CERT_FILE"
            )
        case Kind.CERT_UNKNOWN_CA:
            now = f" (now {way.cert_file})" if way.cert_file else ""
            return Trouble(
                f"the certificate of {who} is from an authority that this machine does not trust",
                f"set SSL_CERT_FILE to a file with that authority's certificate{now}",
            )
        case Kind.CERT:
            return Trouble(f"the certificate of {who} is not accepted (OpenSSL says {failure.number})", _CHECK_MIRROR)
        case _:
            return Trouble(f"no TLS with {who}, it speaks another protocol or version", _CHECK_MIRROR)
