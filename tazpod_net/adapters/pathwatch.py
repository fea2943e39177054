"""Tells when one of some files may have appeared, changed or gone, however that comes about, without polling.

Owns the kernel's watches (`man 7 inotify`) and an eye on the mount table (`man 5 proc_pid_mountinfo`). It must not
read the files: what the news means is the caller's business.

A path is followed as the kernel follows it, entry by entry, through symbolic links. Each entry that exists is watched
itself, as that very inode: its move, its replacement by another (which changes its number of links) and its end are
told, the traffic beside it is not. Only the directory in which the next entry is missing is watched for new names; and
its parent for deletions, because the end of a directory that a process stands in is told to the parent alone (those
farther up cannot go before it). An entry is watched before it is looked at, so that nothing can happen unseen in
between. A mount changes what a path means without any of this: the mount table tells that.

Not seen: what another machine changes on a network filesystem; what is written by a program that never closes the
file; that the right to enter a directory is taken away; the end of an empty directory right below a shared one such
as /tmp, while a process stands in it.
"""

import os
import select
import stat
import struct
from collections.abc import Iterator, Sequence

from tazpod_net.linux import IN_CLOSE_WRITE, Inotify

POLL_EVERY = 1.0  # seconds between looks where the kernel cannot tell
MOUNTS = "/proc/self/mountinfo"

_IN_ATTRIB = 0x4
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_MOVE_SELF = 0x800
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_DONT_FOLLOW = 0x2000000
_IN_MASK_ADD = 0x20000000

_ENTRY = _IN_MOVE_SELF  # its end is told in any case, as IN_IGNORED
_ARRIVAL = _IN_CREATE | _IN_MOVED_TO | _IN_ATTRIB  # with the right to enter the directory
_BY_NAME = _ARRIVAL | _IN_MOVED_FROM | _IN_DELETE | IN_CLOSE_WRITE  # all about an entry, from outside
_EVENT = struct.Struct("iIII")
_BATCH = 64 << 10  # bytes of events taken at once
_MAX_LINKS = 40  # man 7 path_resolution

# What a path is now: of a file what changes with its content, else why there is none.
_Look = tuple[object, ...]


class PathWatch:
    """Watches files by path. `fd` is readable when there may be news; take it with `drain`.

    `trouble` says why the kernel cannot tell everything (its limits are used up, a directory may not be read); then
    `poll_every` is the seconds after which `drain` is to be called without being asked, else it is None.

    A mount in the instant between the creation and `loop.add_reader` wakes nobody (see `_Mounts`): call `drain` once
    after it.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Watches `paths`, absolute ones. Raises OSError (EMFILE) if this process has no descriptor left."""
        self.trouble: str | None = None
        self.poll_every: float | None = None
        self._epoll = select.epoll()
        self._mounts = _Mounts(self._epoll)
        self._watches = _Watches(self._epoll)
        self._looks: dict[str, _Look] = {}
        self.set_paths(paths)

    @property
    def fd(self) -> int:
        """For `loop.add_reader`. Readable is a hint: `drain` knows."""
        return self._epoll.fileno()

    def set_paths(self, paths: Sequence[str]) -> None:
        """Watches these from now on. What they are at this moment is no news: look at them afterwards."""
        self._looks = dict.fromkeys(paths, ())
        self._arm()

    def drain(self) -> bool:
        """Takes the news off `fd` and watches on; True if one of the files may have changed since the last call."""
        moved = self._mounts.changed()
        touched, written = self._watches.news()
        if not (moved or touched or self.trouble):
            return False
        before = self._looks
        self._arm()
        return written or self._looks != before

    def close(self) -> None:
        """Ends every watch."""
        self._watches.close()
        self._mounts.close()
        self._epoll.close()

    def _arm(self) -> None:
        self._watches.begin()
        self._looks = {path: self._follow(path) for path in self._looks}
        self._watches.finish()
        self.trouble = self._mounts.trouble or self._watches.trouble
        self.poll_every = POLL_EVERY if self.trouble else None

    def _follow(self, path: str) -> _Look:
        """Watches every entry on the way to `path`; returns what is at its end."""
        ahead = path.split("/")[::-1]
        here, links = "/", 0
        self._watches.add("/", _ENTRY)
        while ahead:
            name = ahead.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                here = os.path.dirname(here)  # without links in it: it was followed
                continue
            entry = os.path.join(here, name)
            try:
                found = self._look(here, name)
                target = os.readlink(entry) if stat.S_ISLNK(found.st_mode) else None
            except OSError as e:
                return (e.errno,)
            if target is None and not any(ahead):
                return self._at_end(entry, found)
            if target is None:
                here = entry  # if that is no directory, the next look says so
                continue
            links += 1
            if links > _MAX_LINKS:
                return ("links",)
            ahead += target.split("/")[::-1]
            here = "/" if target.startswith("/") else here
        return ("directory",)

    def _look(self, directory: str, name: str) -> os.stat_result:
        """An entry, watched. Raises OSError: there is none, or it may not be looked at."""
        path = os.path.join(directory, name)
        self._watches.name(directory, name)
        if not self._watches.add(path, _ENTRY):
            self._await(directory, path)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            return found
        self._watches.add(path, _IN_ATTRIB | IN_CLOSE_WRITE)
        return os.lstat(path)

    def _await(self, directory: str, path: str) -> None:
        """Watches for an entry that is missing, or that can only be watched by its name."""
        mask = _BY_NAME if os.path.lexists(path) else _ARRIVAL
        # Where nothing can be looked up nothing is missed: a change of that right is told.
        self._watches.add(directory, mask, needed=os.access(directory, os.X_OK, effective_ids=True))
        parent = os.path.dirname(directory)
        if parent != directory and not _is_shared(parent):
            self._watches.add(parent, _IN_DELETE)

    def _at_end(self, path: str, found: os.stat_result) -> _Look:
        kept = (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid)
        if stat.S_ISDIR(found.st_mode):
            return kept
        self._watches.is_file(path)
        return (*kept, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Mounts:
    """Whether the mount table changed.

    It is always readable; a change is told as EPOLLPRI, once for each open file. A poll of the outer epoll asks the
    inner one and so takes the news off that file: it wakes, but who asks it afterwards is told nothing. So there are
    two: one wakes, the other one answers.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self.trouble: str | None = None
        self._fds: list[int] = []
        self._answers = select.poll()
        try:
            self._fds = [os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)]
            self._fds.append(os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as e:
            self.trouble = f"mounts are looked for every second: {MOUNTS} cannot be read ({_reason(e)})"
            return
        epoll.register(self._fds[0], select.EPOLLPRI)
        self._answers.register(self._fds[1], select.POLLPRI)

    def changed(self) -> bool:
        """Whether it changed since the last call."""
        return bool(self._answers.poll(0))

    def close(self) -> None:
        """Closes both files."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class _Watches:
    """The inotify watches of one round of following paths, from `begin` to `finish`; and their events.

    A directory can be on several paths, each of which needs other events of it: masks are only added to within a
    round, and what the round did not ask for is taken away at its end.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self.trouble: str | None = None
        self._epoll = epoll
        self._inotify: Inotify | None = None
        self._masks: dict[int, int] = {}  # of watches that the kernel has
        self._wanted: dict[int, int] = {}  # of this round
        self._by_path: dict[str, int] = {}
        self._names: dict[int, set[bytes]] = {}  # which entries matter
        self._files: set[int] = set()

    def begin(self) -> None:
        """Begins a round."""
        self.trouble = None
        self._wanted, self._by_path, self._names, self._files = {}, {}, {}, set()
        if self._inotify is None:
            self._open()

    def add(self, path: str, mask: int, *, needed: bool = False) -> bool:
        """Watches the entry itself, a link too. False: there is none, or it cannot be watched (trouble if `needed`)."""
        if self._inotify is None:
            return False
        known = self._by_path.get(path)
        if known is not None and not mask & ~self._wanted[known]:
            return True
        try:
            watch = self._inotify.add(path, mask | _IN_DONT_FOLLOW | _IN_MASK_ADD)
        except (FileNotFoundError, NotADirectoryError):
            return False  # gone: the watch on what was there says so
        except PermissionError as e:
            if needed:
                self._blind(f"{path} cannot be watched ({_reason(e)})")
            return False
        except OSError as e:
            self._blind(f"no inotify watch can be had, see fs.inotify.max_user_watches ({_reason(e)})")
            return False
        self._by_path[path] = watch
        self._masks[watch] = self._masks.get(watch, 0) | mask
        self._wanted[watch] = self._wanted.get(watch, 0) | mask
        return True

    def name(self, directory: str, name: str) -> None:
        """News of this entry of a directory matter."""
        watch = self._by_path.get(directory)
        if watch is not None:
            self._names.setdefault(watch, set()).add(os.fsencode(name))

    def is_file(self, path: str) -> None:
        """Any news of this one is a change, even if it looks as before: a second write within one tick of the clock."""
        watch = self._by_path.get(path)
        if watch is not None:
            self._files.add(watch)

    def finish(self) -> None:
        """Ends a round: watches that it did not ask for are removed."""
        if self._inotify is None:
            return
        for path, watch in self._by_path.items():
            if self._masks.get(watch) != self._wanted[watch]:
                self._trim(self._inotify, path, watch)
        for watch in self._masks.keys() - self._wanted.keys():
            self._inotify.remove(watch)
            del self._masks[watch]

    def news(self) -> tuple[bool, bool]:
        """Takes a batch of events; whether the paths must be followed again, and whether a file itself is affected."""
        touched = written = False
        for watch, mask, name in self._events():
            if mask & _IN_IGNORED:
                touched |= self._masks.pop(watch, None) is not None
            elif mask & _IN_Q_OVERFLOW:
                touched = written = True
            elif watch in self._masks and (not name or name in self._names.get(watch, ())):
                touched = True
                written |= watch in self._files
        return touched, written

    def close(self) -> None:
        """Ends every watch."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _open(self) -> None:
        try:
            self._inotify = Inotify()
        except OSError as e:  # EMFILE: 128 instances for each user by default
            self._blind(f"no inotify instance can be had, see fs.inotify.max_user_instances ({_reason(e)})")
            return
        self._epoll.register(self._inotify.fd, select.EPOLLIN)

    def _blind(self, why: str) -> None:
        self.trouble = self.trouble or f"files are looked at every second: {why}"

    def _trim(self, inotify: Inotify, path: str, watch: int) -> None:
        """Sets the mask anew. If the path is another file by now, this is a watch too many, for one round."""
        mask = self._wanted[watch]
        try:
            found = inotify.add(path, mask | _IN_DONT_FOLLOW)
        except OSError:
            return
        self._masks[found] = mask

    def _events(self) -> Iterator[tuple[int, int, bytes]]:
        """Watch, mask and name of each event (`man 7 inotify`)."""
        if self._inotify is None:
            return
        try:
            data = os.read(self._inotify.fd, _BATCH)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            yield watch, mask, data[offset - length : offset].rstrip(b"\0")


def _is_shared(directory: str) -> bool:
    """Sticky, as /tmp: everybody deletes there all the time."""
    try:
        return bool(os.stat(directory).st_mode & stat.S_ISVTX)
    except OSError:
        return False


def _reason(e: OSError) -> str:
    return (e.strerror or str(e)).lower()
