"""Linux calls without a place in the standard library."""

import errno
import fcntl
import os
import select
from pathlib import Path

import pytest

from tazpod_net import linux
from tazpod_net.linux import IN_MODIFY, Inotify, is_lock_free, punch_hole

MIB = 1 << 20


@pytest.mark.parametrize("ioctl", [linux._FS_IOC_UNRESVSP64, 0])
def test_hole_gives_space_back_and_keeps_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ioctl: int) -> None:
    """A hole at the front frees its blocks and nothing else: by the ioctl, and by the call where that is unknown."""
    monkeypatch.setattr(linux, "_FS_IOC_UNRESVSP64", ioctl)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * MIB)
    with path.open("r+b") as file:
        before = os.fstat(file.fileno()).st_blocks
        punch_hole(file.fileno(), 0, 2 * MIB)
        assert before - os.fstat(file.fileno()).st_blocks == 2 * MIB // 512
    assert path.read_bytes() == bytes(2 * MIB) + b"x" * MIB


@pytest.mark.parametrize("ioctl", [linux._FS_IOC_UNRESVSP64, 0])
def test_hole_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ioctl: int) -> None:
    """A file that is open for reading only cannot get a hole."""
    monkeypatch.setattr(linux, "_FS_IOC_UNRESVSP64", ioctl)
    path = tmp_path / "file"
    path.write_bytes(b"x" * MIB)
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor") as caught:
        punch_hole(file.fileno(), 0, 4096)
    assert caught.value.errno == errno.EBADF


def test_lock_is_seen_and_left_alone(tmp_path: Path) -> None:
    """A look at a lock neither takes nor breaks it."""
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as held, path.open("rb") as looking:
        assert is_lock_free(looking.fileno())
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not is_lock_free(looking.fileno())
        fcntl.flock(held, fcntl.LOCK_UN)
        assert is_lock_free(looking.fileno())


def test_inotify_wakes_until_drained(tmp_path: Path) -> None:
    """The fd is readable after a change, not after `drain`, and not after the watch was removed."""
    path = tmp_path / "file"
    path.touch()
    inotify = Inotify()
    descriptor = inotify.add(str(path), IN_MODIFY)
    path.write_bytes(b"x")
    assert select.select([inotify.fd], [], [], 0)[0]
    inotify.drain()
    assert not select.select([inotify.fd], [], [], 0)[0]
    inotify.remove(descriptor)
    inotify.drain()
    path.write_bytes(b"y")
    assert not select.select([inotify.fd], [], [], 0)[0]
    inotify.remove(descriptor)
    with pytest.raises(OSError, match="No such file"):
        inotify.add(str(tmp_path / "missing"), IN_MODIFY)
    inotify.close()
