"""Names, versions, sums and members of a release."""

import errno
import json

import pytest

from tazpod_net.core import release as releases
from tazpod_net.core.minting import Failure, Kind
from tazpod_net.core.release import Member, Release, Way
from tazpod_net.errors import TazpodNetError, UsageError

RELEASE = Release("1.102.5", "amd64")
SUM = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm"), ("armv6l", "arm"), ("riscv64", "riscv64")],
)
def test_the_architecture_of_a_machine(machine: str, arch: str) -> None:
    """Linux's word becomes the archive's."""
    assert releases.architecture(machine) == arch


@pytest.mark.parametrize("machine", ["i686", "mips", "s390x", "", "\x1b[31m"])
def test_a_machine_without_archive(machine: str) -> None:
    """One printable line that says what there is."""
    with pytest.raises(TazpodNetError, match="amd64, arm64, arm and riscv64") as caught:
        releases.architecture(machine)
    assert str(caught.value).isprintable()


def test_the_names_of_a_release() -> None:
    """As Tailscale names them."""
    assert (RELEASE.folder, RELEASE.path) == ("tailscale_1.102.5_amd64", "/stable/tailscale_1.102.5_amd64.tgz")


@pytest.mark.parametrize("text", ["1.102.5", "v1.102.5", " 1.102.5\n"])
def test_a_version_that_a_person_wrote(text: str) -> None:
    """With and without a v."""
    assert releases.parse_version(text) == "1.102.5"


@pytest.mark.parametrize("text", ["", "latest", "1.102", "1.102.5-dev", "../1.2.3", "1.2.3/x", "1.2.99999", "V1.2.3"])
def test_what_is_no_version(text: str) -> None:
    """Wrong usage; it never becomes part of an address."""
    with pytest.raises(UsageError, match="is not a version: write it like "):
        releases.parse_version(text)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("1.102.5\n  long version: 1.102.5-t1\n  go version: go1.26\n", "1.102.5"),
        ("1.60.1-dev20240101-t123\n", "1.60.1-dev20240101-t123"),
        ("", ""),
        ("error: 1.2.3", ""),
    ],
)
def test_the_version_that_a_program_says(said: str, version: str) -> None:
    """The first word, if it looks like one."""
    assert releases.read_version(said) == version


@pytest.mark.parametrize(
    ("version", "is_old"),
    [("1.69.9", True), ("0.98.1", True), ("1.70.0", False), ("1.102.5-x", False), ("2.0.0", False)],
)
def test_what_is_too_old(version: str, is_old: bool) -> None:
    """Numbers are compared, not letters."""
    assert releases.is_old(version) is is_old


class TestAnswers:
    """What a mirror says."""

    def test_the_list_names_the_latest(self) -> None:
        """Unknown fields are no matter."""
        body = {"TarballsVersion": "1.102.5", "Tarballs": {"amd64": RELEASE.archive, "arm": "x"}, "MSIs": {"x86": "y"}}
        assert releases.read_latest(json.dumps(body).encode(), "amd64", "m") == RELEASE

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"\xff",
            b"[]",
            b"{}",
            b'{"TarballsVersion": 3}',
            b'{"TarballsVersion": "../../x"}',
            b'{"TarballsVersion": ""}',
            b'{"TarballsVersion": "1.2.3", "Tarballs": "x"}',
        ],
    )
    def test_what_is_no_list(self, body: bytes) -> None:
        """A captive portal's page, or anything that could lead elsewhere."""
        with pytest.raises(TazpodNetError, match="m did not answer with a list of versions: "):
            releases.read_latest(body, "amd64", "m")

    @pytest.mark.parametrize("archives", [{}, {"arm64": "x"}, {"amd64": "tailscale_1.102.4_amd64.tgz"}])
    def test_a_list_without_this_architecture(self, archives: dict[str, str]) -> None:
        """Said before anything is fetched."""
        body = json.dumps({"TarballsVersion": "1.102.5", "Tarballs": archives}).encode()
        with pytest.raises(TazpodNetError, match=r"m lists no Tailscale 1\.102\.5 for amd64"):
            releases.read_latest(body, "amd64", "m")

    @pytest.mark.parametrize(
        "body", [SUM, f"{SUM}\n", SUM.upper(), f"{SUM}  {RELEASE.archive}\n", f"{SUM} *{RELEASE.archive}\n"]
    )
    def test_a_sum(self, body: str) -> None:
        """Alone, or as sha256sum writes it."""
        assert releases.read_sum(body.encode(), RELEASE.archive, "m") == SUM

    @pytest.mark.parametrize("body", ["", SUM[:-1], f"{SUM}0", f"{SUM}  other.tgz", "<html>", "g" * 64, "\xe9" * 64])
    def test_what_is_no_sum(self, body: str) -> None:
        """Nothing is guessed from it."""
        with pytest.raises(TazpodNetError, match=f"the SHA-256 of {RELEASE.archive}: "):
            releases.read_sum(body.encode(), RELEASE.archive, "m")

    def test_a_wrong_sum_shows_both(self) -> None:
        """Twelve digits each."""
        text = str(releases.wrong_sum("a.tgz", SUM, "f" * 64))
        assert "SHA-256 ffffffffffff…, 0123456789ab… is published: it was removed" in text


class TestMembers:
    """What may be in an archive."""

    @pytest.mark.parametrize(
        ("name", "kind", "program"),
        [
            ("tailscale_1.102.5_amd64/tailscaled", "file", "tailscaled"),
            ("tailscale_1.102.5_amd64/tailscale", "file", "tailscale"),
            ("tailscale_1.102.5_amd64/", "directory", None),
            ("tailscale_1.102.5_amd64", "directory", None),
            ("tailscale_1.102.5_amd64/systemd/tailscaled", "file", None),
            ("tailscale_1.102.5_amd64/new-in-1.104", "file", None),
        ],
    )
    def test_the_programs_are_chosen(self, name: str, kind: str, program: str | None) -> None:
        """The two in the folder itself; the rest is left out."""
        assert releases.choose_member(RELEASE, Member(name, kind, 5)) == program  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "kind", "size", "why"),
        [
            ("/tailscale_1.102.5_amd64/tailscaled", "file", 5, "leads out of its folder"),
            ("tailscale_1.102.5_amd64/../tailscaled", "file", 5, "leads out of its folder"),
            ("../tailscaled", "file", 5, "leads out of its folder"),
            ("./tailscale_1.102.5_amd64/tailscaled", "file", 5, "leads out of its folder"),
            ("tailscale_1.102.5_amd64//tailscaled", "file", 5, "leads out of its folder"),
            ("tailscale_1.102.5_amd64/tailscaled/", "file", 5, "leads out of its folder"),
            ("", "file", 5, "leads out of its folder"),
            ("tailscaled", "file", 5, "is not in tailscale_1.102.5_amd64"),
            ("tailscale_1.102.4_amd64/tailscaled", "file", 5, "is not in tailscale_1.102.5_amd64"),
            ("tailscale_1.102.5_amd64/tailscaled", "link", 0, "is a link"),
            ("tailscale_1.102.5_amd64/x", "link", 0, "is a link"),
            ("tailscale_1.102.5_amd64/x", "other", 0, "is no plain file"),
            ("tailscale_1.102.5_amd64/x", "file", (200 << 20) + 1, "is larger than 200 MB"),
            ("tailscale_1.102.5_amd64/x", "file", -1, "is larger than 200 MB"),
            ("tailscale_1.102.5_amd64/tailscaled", "file", 0, "is no program"),
            ("tailscale_1.102.5_amd64/tailscaled", "directory", 0, "is no program"),
        ],
    )
    def test_what_no_such_archive_has(self, name: str, kind: str, size: int, why: str) -> None:
        """Named, and nothing changed."""
        with pytest.raises(TazpodNetError, match=f"{why}: nothing was changed"):
            releases.choose_member(RELEASE, Member(name, kind, size))  # type: ignore[arg-type]

    def test_a_name_is_shown_harmlessly(self) -> None:
        """No control characters, and not for ever."""
        with pytest.raises(TazpodNetError) as caught:
            releases.choose_member(RELEASE, Member("\x1b]0;x\n" + "a" * 5000, "file", 5))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


class TestTrouble:
    """What did not come."""

    @pytest.mark.parametrize(
        ("status", "path", "text", "again"),
        [
            (503, RELEASE.path, "m has trouble of its own (503)", True),
            (429, releases.LIST_PATH, "m has trouble of its own (429)", True),
            (404, releases.LIST_PATH, "m has no list of versions (404)", False),
            (404, RELEASE.path, "m has no tailscale_1.102.5_amd64.tgz (404)", False),
            (403, RELEASE.path, "m refused to hand it out (403)", False),
        ],
    )
    def test_a_status(self, status: int, path: str, text: str, again: bool) -> None:
        """Its own trouble passes; a verdict does not."""
        trouble = releases.explain_status(status, path, "m")
        assert (trouble.problem, trouble.again) == (text, again)

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("proxy", [None, "p:3128"])
    def test_every_failure_has_words(self, kind: Kind, proxy: str | None) -> None:
        """What went wrong, naming who, and what to do."""
        trouble = releases.explain(Failure(kind), Way("m", proxy))
        assert "m" in trouble.problem
        assert trouble.fix

    @pytest.mark.parametrize(
        ("failure", "way", "text"),
        [
            (Failure(Kind.CONNECT, errno.ECONNREFUSED), Way("m"), "no connection to m (connection refused)"),
            (Failure(Kind.CONNECT), Way("m"), "no connection to m (it failed)"),
            (Failure(Kind.CONNECT, errno.ECONNREFUSED, at_proxy=True), Way("m", "p"), "no connection to the proxy p "),
            (Failure(Kind.CUT), Way("m", "p"), "m (through the proxy p) cut the connection"),
            (Failure(Kind.PROXY_STATUS, 407, at_proxy=True), Way("m", "p"), "the proxy p does not connect to m (407)"),
            (Failure(Kind.CERT_LATE), Way("m", at=86400.0), "the certificate of m is expired on 1970-01-02"),
            (Failure(Kind.CERT_UNKNOWN_CA), Way("m", has_authorities=False), "this machine trusts no certificate"),
            (Failure(Kind.CERT, 26), Way("m"), "the certificate of m is not accepted (OpenSSL says 26)"),
        ],
    )
    def test_the_words(self, failure: Failure, way: Way, text: str) -> None:
        """Who failed: the mirror, the proxy, or this machine."""
        assert releases.explain(failure, way).problem.startswith(text)

    def test_a_certificate_file_is_named(self) -> None:
        """The one that is in use now."""
        assert "(now /ca.pem)" in releases.explain(Failure(Kind.CERT_UNKNOWN_CA), Way("m", cert_file="/ca.pem")).fix

    @pytest.mark.parametrize(("number", "again"), [(502, True), (403, False)])
    def test_a_proxy_that_is_unwell_may_be_asked_again(self, number: int, again: bool) -> None:
        """One that refuses may not."""
        assert releases.explain(Failure(Kind.PROXY_STATUS, number), Way("m", "p")).again is again
