"""/etc/hosts on a real filesystem: by rename, in place, through a crash, and beside other writers."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tazpod_net.adapters import hostsfile
from tazpod_net.adapters.hostsfile import BusyError, HostsFile
from tazpod_net.core.hostsblock import outside, with_block
from tazpod_net.errors import TazpodNetError
from tests.support.netns import Namespace

BEFORE = b"127.0.0.1\tlocalhost\n172.17.0.2\tbox\n"
AFTER = b"127.0.0.1\tlocalhost\n100.64.0.2\tvault\n"


def to(data: bytes) -> Callable[[bytes], bytes]:
    """An edit whose result is this."""
    return lambda _: data


class Box:
    """A hosts file in a directory of its own."""

    def __init__(self, root: Path) -> None:
        (root / "etc").mkdir()
        self.path = root / "etc" / "hosts"
        self.path.write_bytes(BEFORE)
        self.journal = root / "journal"
        self.file = HostsFile(str(self.journal), str(self.path))

    def bind(self) -> None:
        """A second name for it: as with a mount point, a rename would leave one of the two behind."""
        os.link(self.path, self.path.parent / "second")

    def names(self) -> set[str]:
        """What lies beside it."""
        return {path.name for path in self.path.parent.iterdir()}


@pytest.fixture
def box(scratch: Path) -> Box:
    """A plain one."""
    return Box(scratch)


def test_a_change_is_a_new_file_of_the_same_kind(box: Box) -> None:
    """By rename: readers see the old or the new. Mode, owner and extended attributes stay; nothing is left beside."""
    box.path.chmod(0o640)
    marked = True
    try:
        os.setxattr(box.path, "user.note", b"kept")
    except OSError:
        marked = False  # a filesystem without
    if os.geteuid() == 0:
        os.chown(box.path, 12, 34)
    before = box.path.stat()
    assert box.file.change(to(AFTER)) is True
    after = box.path.stat()
    assert box.path.read_bytes() == AFTER
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert not marked or os.getxattr(box.path, "user.note") == b"kept"
    assert box.names() == {"hosts"}


def test_nothing_to_change_writes_nothing(box: Box) -> None:
    """Not even a time."""
    before = box.path.stat()
    assert box.file.change(lambda data: data) is False
    assert box.path.stat() == before


def test_in_place_where_a_rename_is_not_to_be_had(box: Box) -> None:
    """The same file, longer and shorter; the journal goes again."""
    box.bind()
    inode = box.path.stat().st_ino
    for data in (AFTER, BEFORE * 1000, b"x", b"", BEFORE):
        box.file.change(to(data))
        assert (box.path.read_bytes(), box.path.stat().st_ino) == (data, inode)
    assert not box.journal.exists()


def test_a_link_is_followed(box: Box) -> None:
    """The file behind it changes, the link stays."""
    real = box.path.parent.parent / "real"
    box.path.rename(real)
    box.path.symlink_to("../real")
    box.file.change(to(AFTER))
    assert box.path.is_symlink()
    assert real.read_bytes() == AFTER


def test_no_file_yet(box: Box) -> None:
    """It is made when there is something to write, for everybody to read."""
    box.path.unlink()
    assert (box.file.read(), box.file.mark()) == (b"", None)
    assert box.file.change(to(b"")) is False
    assert box.names() == set()
    assert box.file.change(to(AFTER)) is True
    assert (box.path.read_bytes(), box.path.stat().st_mode & 0o777) == (AFTER, 0o644)


@pytest.mark.parametrize("kind", ["directory", "fifo", "binary", "huge"])
def test_what_is_no_hosts_file(box: Box, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, without hanging and without a change."""
    box.path.unlink()
    if kind == "directory":
        box.path.mkdir()
    elif kind == "fifo":
        os.mkfifo(box.path)
    elif kind == "binary":
        box.path.write_bytes("127.0.0.1 localhost\n".encode("utf-16"))
    else:
        monkeypatch.setattr(hostsfile, "LARGEST", 10)
        box.path.write_bytes(BEFORE)
    with pytest.raises((TazpodNetError, OSError)):
        box.file.change(to(AFTER))
    with pytest.raises((TazpodNetError, OSError)):
        box.file.read()


def test_the_leavings_of_a_crash_before_the_rename(box: Box) -> None:
    """A half-written file beside it is overwritten, also where somebody put a link there."""
    victim = box.path.parent.parent / "victim"
    victim.write_bytes(b"mine")
    (box.path.parent / ".hosts.tazpod-net").symlink_to(victim)
    box.file.change(to(AFTER))
    assert (box.path.read_bytes(), victim.read_bytes(), box.names()) == (AFTER, b"mine", {"hosts"})


# --- crashes in place ---------------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_write_that_was_cut_anywhere_is_finished(box: Box, old: bytes, new: bytes, at: int) -> None:
    """Whatever the texts: some of the new, the rest of the old, and it becomes the new; else it stays as it is."""
    old, new = old.replace(b"\0", b"0"), new.replace(b"\0", b"0")
    kept = at % (len(new) + 1)
    cut = new[:kept] + old[kept:]
    box.path.write_bytes(cut)
    box.file._note(old, new)
    box.file.repair()
    assert box.path.read_bytes() in ({new} if cut not in {old, new} and new[:1] == cut[:1] else {old, new, cut})
    assert not box.journal.exists()


@pytest.mark.parametrize("there", [b"", b"127.0.0.1 localhost\n10.0.0.9 written-anew\n", BEFORE + b"10.0.0.5 db\n"])
def test_a_file_that_became_another_is_left_alone(box: Box, there: bytes) -> None:
    """An engine wrote it anew at a restart: the journal is about a file that is no more."""
    box.file._note(BEFORE, AFTER)
    box.path.write_bytes(there)
    assert box.file.repair() is False
    assert box.path.read_bytes() == there
    assert not box.journal.exists()


@pytest.mark.parametrize(
    "journal",
    [b"", b"tazpod-net hosts journal 1", b"tazpod-net hosts journal 1 5 5\nabc", b"tazpod-net hosts journal 2 1 1\nab",
     b"tazpod-net hosts journal 1 -1 3\nab", b"\xff" * 100],
)  # fmt: skip
def test_a_journal_that_says_nothing(box: Box, journal: bytes) -> None:
    """Cut, of another version, or garbage: nothing is done."""
    box.journal.write_bytes(journal)
    assert box.file.repair() is False
    assert box.path.read_bytes() == BEFORE


def test_a_journal_of_another_user_does_not_count(box: Box) -> None:
    """Who owns the home must not be able to have root write something."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    box.file._note(b"x" + BEFORE[1:], BEFORE[:1] + b"evil")
    os.chown(box.journal, 1000, 1000)
    assert box.file.repair() is False
    assert box.path.read_bytes() == BEFORE


KILLED = """
import os, signal, sys
from tazpod_net.adapters.hostsfile import HostsFile
path, journal, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = os.pwrite
def pwrite(fd, data, offset):
    real(fd, bytes(data)[:at], offset)
    os.kill(os.getpid(), signal.SIGKILL)
os.pwrite = pwrite
HostsFile(journal, path).change(lambda _: sys.stdin.buffer.read())
"""


@pytest.mark.parametrize("at", [0, 1, 30, 75, 140])
def test_kill_minus_nine_while_it_writes_in_place(box: Box, at: int) -> None:
    """A block between others' lines goes to the end, and the process dies within that: no line is lost."""
    home = "/home"
    middle = BEFORE + with_block(b"", home, [b"100.64.0.2\tvault"]) + b"10.0.0.5\tdb # by hand\n10.0.0.6\tqueue\n"
    new = with_block(middle, home, [b"100.64.0.2\tvault", b"100.64.0.3\tbuild"])
    box.path.write_bytes(middle)
    box.bind()
    argv = [sys.executable, "-c", KILLED, str(box.path), str(box.journal), str(at)]
    died = subprocess.run(argv, input=new, capture_output=True, check=False, timeout=60)
    assert died.returncode == -9, died.stderr
    for line in outside(middle, home).splitlines():
        assert line in box.path.read_bytes()
    box.file.repair()
    assert box.path.read_bytes() in ({new} if at else {middle})
    assert outside(box.path.read_bytes(), home) == outside(middle, home)


def test_a_full_disk_takes_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it was written when the room was over: the old bytes come back."""
    box.bind()
    real, calls = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(fd, data[:7] if len(calls) == 1 else data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space"):
        box.file.change(to(AFTER * 50))
    assert box.path.read_bytes() == BEFORE
    assert not box.journal.exists()


# --- other writers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_rename", [False, True])
def test_what_somebody_wrote_meanwhile_is_kept(box: Box, by_rename: bool) -> None:
    """Between our reading and our writing: their line is seen, and the edit is made anew."""
    asked: list[bytes] = []

    def edit(data: bytes) -> bytes:
        asked.append(data)
        if len(asked) == 1 and by_rename:
            (box.path.parent / "new").write_bytes(data + b"10.0.0.5 theirs\n")
            (box.path.parent / "new").rename(box.path)
        elif len(asked) == 1:
            with box.path.open("ab") as f:
                f.write(b"10.0.0.5 theirs\n")
        return with_block(data, "/home", [b"100.64.0.2\tvault"])

    assert box.file.change(edit) is True
    assert len(asked) == 2
    assert outside(box.path.read_bytes(), "/home") == BEFORE + b"10.0.0.5 theirs\n"


def test_somebody_who_writes_all_the_time(box: Box) -> None:
    """It is given up, to be tried later; nothing of theirs is lost."""

    def edit(data: bytes) -> bytes:
        with box.path.open("ab") as f:
            f.write(b"#\n")
        return data + b"x"

    with pytest.raises(BusyError):
        box.file.change(edit)
    assert box.path.read_bytes() == BEFORE + b"#\n" * 5


def test_a_lock_that_another_holds(box: Box) -> None:
    """Never waited for: the loop goes on."""
    with box.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            box.file.change(to(AFTER))
    assert box.file.change(to(AFTER)) is True


WRITER = """
import sys, time
from tazpod_net.adapters.hostsfile import BusyError, HostsFile
from tazpod_net.core.hostsblock import with_block
path, home = sys.argv[1:]
for n in range(1, 16):
    while True:
        try:
            HostsFile(None, path).change(lambda data: with_block(data, home, [b"100.64.0.%d\\tvault" % n]))
            break
        except BusyError:
            time.sleep(0.001)
"""


@pytest.mark.parametrize("in_place", [False, True])
def test_four_supervisors_at_once(box: Box, in_place: bool) -> None:
    """Each writes its block fifteen times: all four are whole, and the file of before is."""
    if in_place:
        box.bind()
    homes = [f"/home{n}" for n in range(4)]
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(box.path), home]) for home in homes]
    assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    data = box.path.read_bytes()
    for home in homes:
        assert data.count(b"# END tazpod-net %b\n" % home.encode()) == 1
        data = outside(data, home)
    assert data == BEFORE


@pytest.mark.root
def test_a_mount_point_is_written_in_place(scratch: Path) -> None:
    """As container engines give it: a file bound over /etc/hosts, which a rename cannot replace."""
    bound = scratch / "bound"
    bound.write_bytes(BEFORE)
    script = (
        "import sys; from tazpod_net.adapters.hostsfile import HostsFile; "
        "HostsFile(None).change(lambda data: data + b'10.0.0.5 db\\n')"
    )
    with Namespace(tun=False) as place:
        place.run(["mount", "--bind", str(bound), "/etc/hosts"], check=True)
        place.run([sys.executable, "-c", script], check=True)
        assert place.run(["cat", "/etc/hosts"]).stdout.encode() == BEFORE + b"10.0.0.5 db\n"
        assert "tazpod-net" not in place.run(["ls", "-a", "/etc"]).stdout
    assert bound.read_bytes() == BEFORE + b"10.0.0.5 db\n"
