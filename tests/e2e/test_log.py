"""Not a line of the daemon's log is lost, doubled or blocked, whatever happens to the supervisor."""

import contextlib
import os
import random
import re
import signal
import sys

import pytest

from tests.e2e.test_restart import script
from tests.support.eventually import eventually
from tests.support.product import Product, gone, kill

# Writes numbered lines into the daemon's own output, a burst at a time, each by one write; then says that it is done.
CHATTER = """
import os, sys, time
number, total, burst, pause = 0, *map(int, sys.argv[1:4])
while number < total:
    for _ in range(burst):
        number += 1
        os.write(2, b"numbered %08d %s\\n" % (number, b"x" * (number % 150)))
    time.sleep(pause / 1000)
os.write(2, b"chatter is done\\n")
"""


def chatty(product: Product, total: int, *, burst: int = 20, pause_ms: int = 4) -> None:
    """A tailscaled that logs `total` numbered lines beside its own."""
    program = product.user / "chatter.py"
    program.write_text(CHATTER)
    script(product, f'{sys.executable} {program} {total} {burst} {pause_ms} & exec "$REAL" "$@"')


def whole_log(product: Product) -> str:
    """Rotated files and the newest, oldest first; each is there or not, as the rotation goes on beside us."""
    rotated = [path for path in product.log.parent.iterdir() if re.fullmatch(r"tailscaled\.log\.\d+", path.name)]
    rotated.sort(key=lambda path: -int(path.suffix[1:]))
    texts: list[str] = []
    for path in [*rotated, product.log]:
        with contextlib.suppress(FileNotFoundError):  # between a rename and the new file; stays so if killed there
            texts.append(path.read_text(errors="replace"))
    return "".join(texts)


def is_done(product: Product) -> bool:
    """Whether all numbered lines are in the log."""
    return "chatter is done" in whole_log(product)


def numbers(text: str) -> list[int]:
    """Of the numbered lines, in their order."""
    return [int(found) for found in re.findall(r"^numbered (\d+) ", text, re.MULTILINE)]


class TestNothingIsLost:
    """Numbered lines."""

    def test_under_kills_of_the_supervisor(self, product: Product) -> None:
        """Killed again and again amid the writing and the rotating: each line is there once, in order."""
        total = 30_000
        chatty(product, total, burst=20, pause_ms=5)
        product.configure("[log]\nmax_bytes = 65536\nfiles = 100\n")
        product.up("--wait", "live")
        pid = product.daemons()
        chance = random.Random(3)
        kills = 0
        while not is_done(product):
            seen = len(whole_log(product)) + chance.randrange(30_000)
            eventually(lambda size=seen: is_done(product) or len(whole_log(product)) >= size)  # type: ignore[misc]
            supervisor = next(p.pid for p in product.processes() if product.command in p.argv)
            kill(supervisor)
            gone(supervisor)
            kills += 1
            product.up("--no-wait")
        eventually(lambda: is_done(product))
        assert numbers(whole_log(product)) == list(range(1, total + 1))
        assert kills > 5
        assert product.daemons() == pid

    def test_at_full_speed(self, product: Product) -> None:
        """20 MB as fast as they can be written pass through rotation; the daemon does not wait for anybody."""
        total = 200_000
        chatty(product, total, burst=total, pause_ms=0)
        product.configure("[log]\nmax_bytes = 2000000\nfiles = 50\n")
        product.up("--wait", "live")
        eventually(lambda: is_done(product), within=60, every=0.2)
        assert numbers(whole_log(product)) == list(range(1, total + 1))

    def test_while_the_supervisor_is_stopped(self, product: Product) -> None:
        """The writer ends although nobody reads; continued, the supervisor has all of it."""
        total = 30_000
        chatty(product, total, burst=total, pause_ms=0)
        product.up("--wait", "live")
        pid = product.kill_supervisor(signal.SIGSTOP)
        eventually(lambda: not [p for p in product.processes() if "chatter" in " ".join(p.argv)])
        kill(pid, signal.SIGCONT)
        eventually(lambda: is_done(product))
        assert numbers(whole_log(product)) == list(range(1, total + 1))

    def test_through_down(self, product: Product) -> None:
        """What was written until the end is in the log after `down`."""
        total = 20_000
        chatty(product, total, burst=total, pause_ms=0)
        product.up("--wait", "live")
        product.down()
        eventually(lambda: not product.processes())
        product.up("--wait", "live")
        product.down()
        text = whole_log(product)
        found = numbers(text)
        # Two runs: each wrote from 1 to its end.
        assert found == [*range(1, total + 1), *range(1, total + 1)]

    def test_after_both_were_killed(self, product: Product) -> None:
        """Supervisor and daemon killed amid the writing: all that the daemon wrote is there at the next start."""
        chatty(product, 50_000, burst=500, pause_ms=1)
        product.up("--wait", "live")
        eventually(lambda: numbers(whole_log(product)))
        product.crash()
        script(product, 'exec "$REAL" "$@"')
        product.up("--wait", "live")
        found = eventually(lambda: numbers(whole_log(product)))
        assert found == list(range(1, len(found) + 1))
        assert whole_log(product).count("Program starting") == 2


class TestRotation:
    """Size and number of files."""

    def test_keeps_so_many_files(self, product: Product) -> None:
        """`log.files` old ones at most, `.1` the newest of them, none much larger than `log.max_bytes`."""
        chatty(product, 20_000, burst=1000, pause_ms=1)
        product.configure("[log]\nmax_bytes = 65536\nfiles = 3\n")
        product.up("--wait", "live")
        eventually(lambda: is_done(product))
        names = {path.name for path in product.log.parent.iterdir() if path.name.startswith("tailscaled.log")}
        assert names == {"tailscaled.log", *(f"tailscaled.log.{n}" for n in (1, 2, 3))}
        sizes = [path.stat().st_size for path in product.log.parent.iterdir() if path.name in names]
        assert max(sizes) < 2 * 65536 + 65536
        found = numbers(whole_log(product))
        assert found == list(range(found[0], 20_001))

    def test_a_deleted_log_is_made_anew(self, product: Product) -> None:
        """A person removes or truncates the log: it goes on, without a restart."""
        product.up()
        product.log.unlink()
        product.run("tailscale", "set", "--hostname=after-unlink", expect=0)
        eventually(lambda: "after-unlink" in product.log.read_text())
        os.truncate(product.log, 0)
        product.run("tailscale", "set", "--hostname=after-truncate", expect=0)
        eventually(lambda: "after-truncate" in product.log.read_text())
        assert "after-unlink" not in product.log.read_text()

    @pytest.mark.parametrize("name", ["logs", "logs/tailscaled.log"])
    def test_a_log_that_cannot_be_written_is_said(self, product: Product, name: str) -> None:
        """A directory in place of the log (or a file in place of its directory): a note; lines come later."""
        product.up()
        path = product.home / name
        path.rename(product.user / "aside")
        if name == "logs":
            path.write_text("in the way")
        else:
            path.mkdir()
        product.run("tailscale", "set", "--hostname=meanwhile", expect=0)
        product.eventually(lambda s: [note for note in s["notes"] if "log" in note["code"]])
        assert product.status(expect=0)["ready"] is True
        (path.rmdir if path.is_dir() else path.unlink)()
        (product.user / "aside").rename(path)
        eventually(lambda: "meanwhile" in product.log.read_text())


class TestFilter:
    """`log.drop` and redaction."""

    def test_drops_what_is_told(self, product: Product) -> None:
        """Lines that match are left out, all others are there."""
        chatty(product, 100)
        product.configure("[log]\ndrop = ['^numbered \\d+[05] ', 'netcheck']\n")
        product.up("--wait", "live")
        eventually(lambda: "chatter is done" in product.log.read_text())
        assert numbers(product.log.read_text()) == [n for n in range(1, 101) if n % 5]
        assert "netcheck" not in product.log.read_text()
