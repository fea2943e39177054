"""The log with real processes: kill -9 again and again, a full disk, 100 MB at full speed.

`SPOOL_KILLS` (default 200) is the number of kills on each filesystem.
"""

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tazpod_net.core.lines import LineRules
from tests.support.spool_home import SpoolHome

REPOSITORY = Path(__file__).parents[2]
KILLS = int(os.environ.get("SPOOL_KILLS", "200"))
RIG = [sys.executable, "-m", "tests.support.spool_rig"]
LINE = b"%08d magicsock: disco: node [abcde] now using 192.0.2.1:41641 with a path of its own\n"
COMPLETE: dict[str, object] = {"left": [], "trouble": None, "difference": None, "secrets": 0}


def rig(*command: str) -> dict[str, Any]:
    """Runs the rig and returns its answer."""
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A directory on the disk, and one in memory."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs at /dev/shm")
    directory = tempfile.mkdtemp(dir="/dev/shm", prefix="tazpod-net-")
    yield directory
    shutil.rmtree(directory)


@pytest.mark.timeout(60 + KILLS)
def test_killed_supervisors_lose_and_double_nothing(place: str) -> None:
    """Pumps killed every few milliseconds, several runs of the daemon, over many rotations: each line once."""
    answer = rig(*RIG, "campaign", place, str(KILLS), "7")
    assert answer["kills"] >= KILLS
    assert answer["files"] > answer["kills"] // 10
    assert {key: answer[key] for key in COMPLETE} == COMPLETE


@pytest.mark.root
def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a full filesystem the log stops at a whole line, kills included, and is complete once there is room."""
    home, spool_dir = tmp_path / "small", tmp_path / "spool"
    home.mkdir()
    spool_dir.mkdir()
    script = 'mount -t tmpfs -o size=6m none "$0" && exec "$@"'
    mounted = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(home)]
    answer = rig(*mounted, *RIG, "full", str(home), str(spool_dir), "20")
    assert answer["trouble_when_full"] == "cannot write logs/tailscaled.log: no space left on device"
    assert answer["whole_lines_when_full"]
    assert {key: answer[key] for key in COMPLETE} == COMPLETE


def test_100_mb_at_full_speed_are_complete(tmp_path: Path) -> None:
    """A daemon that writes 100 MB as fast as it can: all of them are in the rotated log, and the spool is gone."""
    source = tmp_path / "source"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for first in range(0, 1_400_000, 10_000):
            block = b"".join(LINE % number for number in range(first, first + 10_000))
            digest.update(block)
            file.write(block)
    assert source.stat().st_size > 100_000_000
    home = SpoolHome(tmp_path)
    shown = 0

    def count(lines: list[bytes]) -> None:
        nonlocal shown
        shown += len(lines)

    spool = home.spool(max_bytes=10 << 20, files=20, rules=LineRules(secrets=(b"not-in-there",)), on_lines=count)
    fd = spool.open_for_daemon()
    with subprocess.Popen(["cat", source], stdout=fd) as daemon:
        os.close(fd)
        watch = spool.watch_fd()
        while spool.pump() or daemon.poll() is None:
            select.select([watch], [], [], 0.05)
            spool.drain_watch()
    spool.flush()
    found = hashlib.sha256()
    for path in home.log_files():
        found.update(Path(path).read_bytes())
    assert found.hexdigest() == digest.hexdigest()
    assert shown == 1_400_000
    assert home.spools() == []
    home.close()
