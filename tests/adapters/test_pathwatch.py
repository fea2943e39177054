"""Watching paths on the real kernel: every way in which a file comes, changes and goes, and what does not wake."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

import tazpod_net
from tazpod_net.adapters import pathwatch
from tazpod_net.adapters.pathwatch import PathWatch
from tests.support.netns import HERE, Namespace, Place
from tests.support.product import Output

ROOT = Path(tazpod_net.__file__).parent.parent
NOBODY = 65534

# A loop as the supervisor's: one line for each time that it is woken, with what it finds then; at the end of its input
# it says how often. As another user after the imports: that user may not be able to read the interpreter.
LOOP = """
import asyncio, ctypes, os, sys
from tazpod_net.adapters.pathwatch import PathWatch
uid, *paths = sys.argv[1:]
if int(uid):
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
woken = 0
def found():
    try:
        with open(paths[0]) as f:
            return f.read().strip()
    except OSError:
        return f"{os.lstat(paths[0]).st_size} bytes" if os.path.lexists(paths[0]) else "none"
loop = asyncio.new_event_loop()
watch = PathWatch(paths)
def news():
    global woken
    woken += 1
    say = "news" if watch.drain() else "nothing"
    print(f"{say}: {found()}", flush=True)
loop.add_reader(watch.fd, news)
loop.add_reader(0, loop.stop)
watch.drain()
print(f"watching, {watch.trouble or 'no trouble'}", flush=True)
loop.run_forever()
print(f"woken {woken} times", flush=True)
"""

# The kernel counts watches and instances for each user namespace, too (man 7 user_namespaces): a limit of its own.
LIMITED = """
import os, sys
import msgspec
from tazpod_net.adapters.pathwatch import PathWatch
name, path = sys.argv[1:]
def limit(count):
    with open(f"/proc/sys/user/{name}", "w") as f:
        f.write(str(count))
limit(1 if "watches" in name else 0)
watch = PathWatch([path])
before = [watch.trouble, watch.poll_every, watch.drain()]
open(path, "w").close()
found = [watch.drain(), watch.drain()]
limit(1000)
after = [watch.drain(), watch.trouble, watch.poll_every]
os.unlink(path)
sys.stdout.buffer.write(msgspec.json.encode([before, found, after, watch.drain()]))
"""


class Tree:
    """A home with a path in it that is watched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.secrets = self.home / "secrets"
        self.key = self.secrets / "key"
        self.home.mkdir()

    def put(self, text: str = "tskey-1", directory: Path | None = None) -> Path:
        """Writes the key, with the directories that lack."""
        key = (directory or self.secrets) / "key"
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(text)
        return key

    def elsewhere(self, name: str = "elsewhere") -> Path:
        """A directory beside the home that has a key."""
        return self.put(f"of {name}", self.root / name).parent


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A home without secrets."""
    root = tmp_path / "tree"
    root.mkdir()
    return Tree(root)


@pytest.fixture
def watching() -> Iterator[Callable[..., PathWatch]]:
    """Makes watches and closes them."""
    made: list[PathWatch] = []

    def one(*paths: Path | str) -> PathWatch:
        made.append(PathWatch([str(path) for path in paths]))
        return made[-1]

    yield one
    for watch in made:
        watch.close()


def told(watch: PathWatch, batches: int = 20) -> bool:
    """Whether there is news, asked as a loop asks: for as long as the descriptor is readable."""
    news = False
    for _ in range(batches):
        if not select.select([watch.fd], [], [], 0)[0]:
            return news
        news |= watch.drain()
    raise AssertionError("the descriptor stays readable: a loop would spin")


def environment() -> dict[str, str]:
    """The test's own, in which a child finds the tree under test from any directory."""
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


class Loop:
    """A loop of its own process that watches, in any place and as any user."""

    def __init__(self, place: Place, *paths: Path, uid: int = 0) -> None:
        argv = [sys.executable, "-c", LOOP, str(uid), *map(str, paths)]
        self._process = place.popen(argv, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.output = Output(self._process, self._process.stdout.fileno())  # type: ignore[union-attr]
        self.began = self.output.until(lambda line: line.startswith("watching"))

    def hears(self, found: str, *, news: bool = True) -> None:
        """Waits until the loop was woken and found that."""
        line = f"{'news' if news else 'nothing'}: {found}"
        self.output.until(lambda said: said == line)

    def finish(self) -> int:
        """Ends the loop; how often it was woken in all."""
        self._process.stdin.close()  # type: ignore[union-attr]
        said = self.output.until(lambda line: line.endswith("times"))
        return int(said.split()[1])

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self.output.close()


@pytest.fixture
def looping() -> Iterator[Callable[..., Loop]]:
    """Makes loops, as `Loop`, and ends them."""
    with ExitStack() as stack:

        def one(place: Place, *paths: Path, uid: int = 0) -> Loop:
            return stack.enter_context(closing(Loop(place, *paths, uid=uid)))

        yield one


# --- ways to come, change and go; each gets a tree that was prepared and is watched --------------------------------


def nothing(_: Tree) -> None:
    """Not even the directory."""


def empty_directory(tree: Tree) -> None:
    """The directory, without the file."""
    tree.secrets.mkdir()


def present(tree: Tree) -> None:
    """The file is there."""
    tree.put()


def projected(tree: Tree) -> None:
    """As Kubernetes projects a secret: the file through a link to a directory."""
    tree.put("old", tree.secrets / "..2026_1")
    (tree.secrets / "..data").symlink_to("..2026_1")
    tree.key.symlink_to("..data/key")


def linked_directory(tree: Tree) -> None:
    """The directory is an absolute link, out of the home."""
    tree.secrets.symlink_to(tree.elsewhere())


def dangling(tree: Tree) -> None:
    """A link to what does not exist, through a parent directory."""
    tree.secrets.mkdir()
    tree.key.symlink_to("../../later/deep/key")


def make_all(tree: Tree) -> None:
    """Directory and file, one right after the other."""
    tree.put()


def move_file_in(tree: Tree) -> None:
    """A file from elsewhere."""
    (tree.elsewhere() / "key").rename(tree.key)


def move_directory_in(tree: Tree) -> None:
    """A directory that has the file already."""
    tree.elsewhere().rename(tree.secrets)


def link_directory(tree: Tree) -> None:
    """A link to a directory that has the file already."""
    tree.secrets.symlink_to(tree.elsewhere())


def hard_link(tree: Tree) -> None:
    """A second name of a file."""
    tree.key.hardlink_to(tree.elsewhere() / "key")


def replace_file(tree: Tree) -> None:
    """Written beside and renamed over, as careful programs do."""
    (tree.put("tskey-2", tree.root / "new")).replace(tree.key)


def rewrite(tree: Tree) -> None:
    """The same file, the same length."""
    tree.key.write_text("tskey-2")


def append(tree: Tree) -> None:
    """A line more."""
    with tree.key.open("a") as f:
        f.write("more")


def change_rights(tree: Tree) -> None:
    """Now it may be read."""
    tree.key.chmod(0o444)


def remove(tree: Tree) -> None:
    """The file goes."""
    tree.key.unlink()


def remove_all(tree: Tree) -> None:
    """File and directory go."""
    tree.key.unlink()
    tree.secrets.rmdir()


def move_parent_away(tree: Tree) -> None:
    """The home goes, with all that is in it."""
    tree.home.rename(tree.root / "was")


def swap_parent(tree: Tree) -> None:
    """Another home takes its place."""
    tree.put("other", tree.root / "other" / "secrets")
    tree.home.rename(tree.root / "was")
    (tree.root / "other").rename(tree.home)


def replace_empty_directory(tree: Tree) -> None:
    """A directory with the file is renamed over the empty one."""
    tree.elsewhere().rename(tree.secrets)


def swap_data(tree: Tree) -> None:
    """As Kubernetes updates a secret: a new directory, the link replaced, the old directory removed."""
    tree.put("new", tree.secrets / "..2026_2")
    (tree.secrets / "..data_tmp").symlink_to("..2026_2")
    (tree.secrets / "..data_tmp").replace(tree.secrets / "..data")
    (tree.secrets / "..2026_1" / "key").unlink()
    (tree.secrets / "..2026_1").rmdir()


def retarget(tree: Tree) -> None:
    """The link goes and comes again, elsewhere."""
    tree.secrets.unlink()
    tree.secrets.symlink_to(tree.elsewhere("other"))


def change_target(tree: Tree) -> None:
    """What the link leads to is written."""
    (tree.root / "elsewhere" / "key").write_text("tskey-2")


def make_target(tree: Tree) -> None:
    """What the link leads to comes, directories and all."""
    tree.put("late", tree.root / "later" / "deep")


def file_becomes_directory(tree: Tree) -> None:
    """Somebody mistakes the one for the other."""
    tree.key.unlink()
    tree.key.mkdir()


WAYS = [
    (nothing, make_all),
    (nothing, move_directory_in),
    (nothing, link_directory),
    (nothing, swap_parent),
    (empty_directory, make_all),
    (empty_directory, move_file_in),
    (empty_directory, hard_link),
    (empty_directory, replace_empty_directory),
    (empty_directory, swap_parent),
    (present, replace_file),
    (present, rewrite),
    (present, append),
    (present, change_rights),
    (present, remove),
    (present, remove_all),
    (present, move_parent_away),
    (present, swap_parent),
    (present, file_becomes_directory),
    (projected, swap_data),
    (linked_directory, retarget),
    (linked_directory, change_target),
    (dangling, make_target),
]


@pytest.mark.parametrize(("before", "act"), WAYS, ids=[f"{a.__name__}-{b.__name__}" for a, b in WAYS])
def test_every_way_is_told(
    tree: Tree, watching: Callable[..., PathWatch], before: Callable[[Tree], None], act: Callable[[Tree], None]
) -> None:
    """It is told once, without a spin; what comes after it is told again."""
    before(tree)
    watch = watching(tree.root / "never" / "there", tree.key)
    assert not told(watch)
    act(tree)
    assert told(watch)
    assert not watch.drain()
    if tree.key.is_dir():
        tree.key.rmdir()
    tree.put("something else")
    assert told(watch)
    assert watch.trouble is None


@pytest.mark.parametrize(("before", "act"), WAYS, ids=[f"{a.__name__}-{b.__name__}" for a, b in WAYS])
def test_every_way_is_told_when_drained_at_each_step(
    tree: Tree,
    watching: Callable[..., PathWatch],
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Tree], None],
    act: Callable[[Tree], None],
) -> None:
    """The news may be taken between any two calls of whoever makes the change: nothing falls into the gap."""
    before(tree)
    watch = watching(tree.key)
    found: list[bool] = []
    steps = ("mkdir", "rename", "replace", "symlink", "unlink", "rmdir")

    def drained(call: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **named: object) -> object:
            result = call(*args, **named)
            found.append(told(watch))
            return result

        return step

    for name in steps:
        monkeypatch.setattr(os, name, drained(getattr(os, name)))
    act(tree)
    found.append(told(watch))
    assert any(found)
    assert not told(watch)


def test_directory_that_is_held_open_is_told_when_it_goes(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """A directory that a shell stands in says nothing of its removal itself; its successor is seen nevertheless."""
    tree.secrets.mkdir()
    held = os.open(tree.secrets, os.O_RDONLY)
    watch = watching(tree.key)
    tree.secrets.rmdir()
    assert not told(watch)
    tree.secrets.mkdir()
    assert not told(watch)
    tree.key.write_text("tskey-1")
    assert told(watch)
    os.close(held)


def test_second_write_within_one_tick_is_told(
    tree: Tree, watching: Callable[..., PathWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that looks as before after a write counts as changed: timestamps are coarse."""
    tree.put()
    watch = watching(tree.key)
    look = (1,)
    monkeypatch.setattr(watch, "_at_end", lambda path, found: (PathWatch._at_end(watch, path, found), look)[1])
    tree.key.write_text("tskey-1")
    assert told(watch)
    tree.key.write_text("tskey-1")
    assert told(watch)


def test_other_files_do_not_wake_once_the_path_exists(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """What goes on in the home and beside the file wakes nobody."""
    tree.put()
    watch = watching(tree.key)
    for directory in (tree.home, tree.secrets):
        for number in range(50):
            (directory / f"new{number}").write_text("x")
        (directory / "made").mkdir()
        (directory / "new1").rename(directory / "made" / "new1")
    assert select.select([watch.fd], [], [], 0)[0] == []


def test_other_files_are_no_news_while_the_path_is_missing(
    tree: Tree, watching: Callable[..., PathWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a directory is awaited, other new names wake; they are taken away without a look at any path."""
    watch = watching(tree.key)
    monkeypatch.setattr(watch, "_follow", pytest.fail)
    for number in range(50):
        (tree.home / f"new{number}").write_text("x")
        (tree.home / f"new{number}").unlink()
    assert select.select([watch.fd], [], [], 0)[0]
    assert not told(watch)


def test_deletions_in_a_shared_directory_do_not_wake(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """A home right below /tmp, as in many tests: what others remove there wakes nobody, a new directory does."""
    others = [tree.root / f"other{number}" for number in range(5)]
    for other in others:
        other.mkdir()
    tree.root.chmod(0o1777)
    watch = watching(tree.key)
    for other in others:
        other.rmdir()
    assert select.select([watch.fd], [], [], 0)[0] == []
    tree.put()
    assert told(watch)


def test_reading_is_no_news(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """Whoever reads the file after news is not woken by that."""
    tree.put()
    watch = watching(tree.key)
    assert tree.key.read_text() == "tskey-1"
    assert os.listdir(tree.secrets) == ["key"]
    assert select.select([watch.fd], [], [], 0)[0] == []


def test_other_paths_can_be_watched_later(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """`set_paths` forgets the old ones, and what the new ones are is no news."""
    tree.put()
    other = tree.elsewhere() / "key"
    watch = watching(tree.key)
    watch.set_paths([str(other)])
    assert not told(watch)
    tree.put("changed")
    assert not told(watch)
    other.write_text("changed")
    assert told(watch)


def test_lost_events_count_as_news(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """When the kernel's queue was too short, anything may have happened."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 1 << 16:
        pytest.skip("the queue of this kernel is too long to be filled")
    watch = watching(tree.key)
    for number in range(queue + 1):
        os.mknod(tree.home / f"new{number % 2}")
        os.unlink(tree.home / f"new{number % 2}")
    assert told(watch, batches=queue)
    tree.put()
    assert told(watch)


def test_impossible_paths_are_no_trouble(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """Loops of links, files where directories should be, directories where files should be: just not there."""
    (tree.home / "loop").symlink_to("loop")
    (tree.home / "file").write_text("")
    watch = watching(tree.home / "loop" / "key", tree.home / "file" / "key", tree.home, "/", f"{tree.home}//./../home/")
    assert watch.trouble is None
    (tree.home / "loop").unlink()
    tree.put("x", tree.home / "loop")
    assert told(watch)
    (tree.home / "file").unlink()
    tree.put("x", tree.home / "file")
    assert told(watch)


def test_watches_do_not_pile_up(tree: Tree, watching: Callable[..., PathWatch]) -> None:
    """However often the path changes, the kernel has the very watches that a fresh start would have."""

    def held(watch: PathWatch) -> set[str]:
        lines = Path(f"/proc/self/fdinfo/{watch._watches._inotify.fd}").read_text().splitlines()  # type: ignore[union-attr]
        return {line.partition(" ino:")[2] for line in lines if line.startswith("inotify")}

    watch = watching(tree.key)
    for number, act in enumerate((make_all, replace_file, move_parent_away, make_all, remove_all, link_directory)):
        act(tree)
        assert told(watch), number
        assert held(watch) == held(watching(tree.key)), number


def test_unreadable_mount_table_is_said(
    tree: Tree, watching: Callable[..., PathWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the mount table (a sandbox without /proc) files are watched, and looked at every second."""
    monkeypatch.setattr(pathwatch, "MOUNTS", str(tree.home / "mountinfo"))
    watch = watching(tree.key)
    assert "cannot be read (no such file or directory)" in (watch.trouble or "")
    assert watch.poll_every == pathwatch.POLL_EVERY
    tree.put()
    assert told(watch)


@pytest.mark.parametrize("name", ["max_inotify_watches", "max_inotify_instances"])
def test_limits_of_the_kernel_mean_looking(tree: Tree, name: str) -> None:
    """When watches or instances are used up it says so and finds by looking; it recovers when there are some again."""
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, name, str(tree.key)]
    tree.secrets.mkdir()
    done = HERE.run(argv, env=environment())
    if "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stderr == ""
    (trouble, every, nothing_new), found, after, gone = msgspec.json.decode(done.stdout)
    assert f"fs.inotify.{name.replace('inotify', 'user')}" in trouble
    assert (every, nothing_new) == (1.0, False)
    assert found == [True, False]
    assert after == [False, None, None]
    assert gone is True


def test_wakes_a_loop(tree: Tree, looping: Callable[..., Loop]) -> None:
    """In a loop each change wakes it a few times and no more."""
    loop = looping(HERE, tree.key)
    assert loop.began == "watching, no trouble"
    steps = ((make_all, "tskey-1"), (append, "tskey-1more"), (replace_file, "tskey-2"), (remove_all, "none"))
    for act, found in (*steps, *steps, (make_all, "tskey-1"), (swap_parent, "other")):
        act(tree)
        loop.hears(found)
    assert loop.finish() < 60


def test_stays_cheap_under_a_storm(tree: Tree) -> None:
    """Two thousand other files in the awaited directory's parent: their news is taken in batches or one by one."""
    watch = PathWatch([str(tree.key)])
    began = time.process_time()
    for number in range(2000):
        os.mknod(tree.home / f"new{number}")
    made = time.process_time()
    assert not told(watch)
    assert time.process_time() - made < 10 * (made - began)
    watch.close()


# --- mounts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def space() -> Iterator[Place]:
    """Namespaces of our own, to mount in."""
    with Namespace(tun=False) as place:
        yield place


@pytest.mark.root
def test_unlock_by_mount_is_told(tree: Tree, space: Place, looping: Callable[..., Loop]) -> None:
    """A mount brings the file and its end takes it away; inotify alone would see neither."""
    tree.secrets.mkdir()
    loop = looping(space, tree.key)
    space.run(["mount", "--bind", tree.elsewhere(), tree.secrets], check=True)
    loop.hears("of elsewhere")
    space.run(["sh", "-c", f"echo more >{tree.key}"], check=True)
    loop.hears("more")
    space.run(["umount", tree.secrets], check=True)
    loop.hears("none")
    assert loop.finish() < 20


@pytest.mark.root
def test_empty_filesystem_is_watched_from_its_mount_on(tree: Tree, space: Place, looping: Callable[..., Loop]) -> None:
    """An unlock that mounts first and writes afterwards: what comes inside the new filesystem is told."""
    tree.secrets.mkdir()
    loop = looping(space, tree.key)
    space.run(["mount", "-t", "tmpfs", "tmpfs", tree.secrets], check=True)
    loop.hears("none", news=False)
    space.run(["sh", "-c", f"echo key >{tree.key}"], check=True)
    loop.hears("key")
    space.run(["umount", "--lazy", tree.secrets], check=True)
    loop.hears("none")
    assert loop.finish() < 20


@pytest.mark.root
def test_mount_over_a_parent_or_the_file_is_told(tree: Tree, space: Place, looping: Callable[..., Loop]) -> None:
    """Wherever on the way something is mounted, the path is followed anew."""
    tree.put()
    tree.put("other", tree.root / "other" / "secrets")
    loop = looping(space, tree.key)
    space.run(["mount", "--bind", tree.root / "other", tree.home], check=True)
    loop.hears("other")
    space.run(["mount", "--bind", tree.elsewhere() / "key", tree.key], check=True)
    loop.hears("of elsewhere")
    space.run(["umount", tree.key], check=True)
    loop.hears("other")
    assert loop.finish() < 20


@pytest.mark.root
def test_other_mounts_are_no_news_and_no_spin(tree: Tree, space: Place, looping: Callable[..., Loop]) -> None:
    """The mount table is always readable; a loop is woken once for each change of it."""
    tree.put()
    other = tree.elsewhere()
    loop = looping(space, tree.key)
    for _ in range(5):
        space.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True)
        loop.hears("tskey-1", news=False)
        space.run(["umount", other], check=True)
        loop.hears("tskey-1", news=False)
    rewrite(tree)
    loop.hears("tskey-2")
    assert loop.finish() < 30


# --- without the right to read --------------------------------------------------------------------------------------


@pytest.fixture
def shared(scratch: Path) -> Tree:
    """A tree that every user may enter."""
    scratch.chmod(0o755)
    return Tree(scratch)


@pytest.mark.root
def test_unreadable_file_is_watched_by_its_name(shared: Tree, looping: Callable[..., Loop]) -> None:
    """Another user's secret cannot be watched itself; its directory tells when it is written, released or replaced."""
    shared.put().chmod(0o600)
    loop = looping(HERE, shared.key, uid=NOBODY)
    assert loop.began == "watching, no trouble"
    append(shared)
    loop.hears("11 bytes")
    change_rights(shared)
    loop.hears("tskey-1more")
    remove(shared)
    loop.hears("none")
    make_all(shared)
    loop.hears("tskey-1")
    assert loop.finish() < 40


@pytest.mark.root
def test_closed_directory_is_watched_until_it_opens(shared: Tree, looping: Callable[..., Loop]) -> None:
    """Nothing can be found in a directory that may not be entered; when it may, that is told."""
    shared.put()
    shared.secrets.chmod(0o700)
    loop = looping(HERE, shared.key, uid=NOBODY)
    assert loop.began == "watching, no trouble"
    shared.secrets.chmod(0o755)
    loop.hears("tskey-1")
    rewrite(shared)
    loop.hears("tskey-2")
    assert loop.finish() < 20


@pytest.mark.root
def test_directory_that_cannot_be_watched_is_said(shared: Tree, looping: Callable[..., Loop]) -> None:
    """What may be entered but not read hides its new files from the kernel's news: they are looked for."""
    shared.secrets.mkdir()
    shared.secrets.chmod(0o711)
    loop = looping(HERE, shared.key, uid=NOBODY)
    assert f"{shared.secrets} cannot be watched (permission denied)" in loop.began
    loop.finish()
