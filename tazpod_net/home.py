"""Which home is meant, and where everything lies in it. Imports only os: the launcher runs it on every prompt.

One home = one identity = at most one daemon.
"""

import os

TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_HOME = "/var/lib/tazpod-net"
POINTER = "/run/tazpod-net/home"  # written by a live root supervisor, so that a user's shell means the same home
MAX_SOCKET_PATH = 107  # bytes without the final NUL, man 7 unix


def default_home(env: "Mapping[str, str]", uid: int) -> str:
    """The home when nothing names one."""
    if uid == 0:
        return SYSTEM_HOME
    base = env.get("XDG_STATE_HOME") or os.path.join(env.get("HOME") or "/", ".local/state")
    return os.path.join(base, "tazpod-net")


def resolve(option: str | None, env: "Mapping[str, str]", uid: int) -> str:
    """The absolute path of the home: `--home`, TAZPOD_NET_HOME, the pointer of a root supervisor, the default."""
    named = option or env.get("TAZPOD_NET_HOME") or read_pointer(uid) or default_home(env, uid)
    return os.path.abspath(os.path.expanduser(named))


def read_pointer(uid: int, pointer: str = POINTER) -> str | None:
    """The home in `/run/tazpod-net/home`, if root wrote it, its supervisor lives and the user may enter the home.

    Root itself follows it also when that supervisor is dead, while the home is there: the daemon that it left is root's
    to find.
    """
    try:
        fd = os.open(pointer, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != 0:
            return None
        text = os.read(fd, 8192).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    home, _, process = text.partition("\n")
    words = process.split()
    if not home.startswith("/"):
        return None
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):  # noqa: PLR2004 - pid and ticks
        return None  # not written by us, or not wholly
    is_live = start_ticks(int(words[0])) == int(words[1])
    if not is_live and (uid != 0 or not os.path.isdir(home)):
        return None
    if uid != 0 and not os.access(home, os.X_OK):
        return None
    return home


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (`man 5 proc`): with the pid it names one process. None if dead or a zombie."""
    stat = process_stat(pid)
    return None if stat is None or stat[0] in {"Z", "X"} else int(stat[19])


def process_stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on, or None if there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096).decode("ascii", "replace")
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return text.rpartition(")")[2].split()


def socket_dirs(home: str, env: "Mapping[str, str]") -> list[str]:
    """Directories where this home's sockets may be, in the order of preference.

    HOME/state; where its path is too long for a socket or its filesystem has none: under /run, or
    $XDG_RUNTIME_DIR, named after the home's device and inode.
    """
    state = os.path.join(home, "state")
    fits = len(os.fsencode(state)) + len("/tailscaled.sock") <= MAX_SOCKET_PATH
    places = [state] if fits else []
    try:
        info = os.stat(home)
    except OSError:
        return places or [state]
    name = f"tazpod-net-{info.st_dev:x}-{info.st_ino:x}"
    places.append(os.path.join("/run", name))
    runtime = env.get("XDG_RUNTIME_DIR")
    if runtime:
        places.append(os.path.join(runtime, name))
    return places


class Layout:
    """Every path of a home. Names are the contract's; those without a comment there are private."""

    __slots__ = (
        "config",
        "control_name",
        "daemon_record",
        "gitignore",
        "home",
        "hosts_journal",
        "lock",
        "log",
        "logged_out",
        "logs",
        "own_log",
        "peers",
        "probe",
        "short",
        "state",
        "status",
        "stderr",
        "stopped",
    )

    def __init__(self, home: str) -> None:
        self.home = home
        self.config = os.path.join(home, "config.toml")
        self.gitignore = os.path.join(home, ".gitignore")
        self.state = os.path.join(home, "state")
        self.logs = os.path.join(home, "logs")
        self.log = os.path.join(self.logs, "tailscaled.log")
        self.own_log = os.path.join(self.logs, "tazpod-net.log")
        self.control_name = "control.sock"
        self.lock = os.path.join(self.state, "supervisor.lock")
        self.status = os.path.join(self.state, "status.json")
        self.short = os.path.join(self.state, "short")
        self.daemon_record = os.path.join(self.state, "daemon.json")
        self.stopped = os.path.join(self.state, "stopped.json")
        self.logged_out = os.path.join(self.state, "logged-out")
        self.hosts_journal = os.path.join(self.state, "hosts.journal")
        self.peers = os.path.join(self.state, "peers")  # for completions: NAME [FULL-NAME] a line
        self.probe = os.path.join(self.state, "probe.json")
        self.stderr = os.path.join(self.state, "supervisor.err")
