"""Places where test processes run: private network and mount namespaces as root, the machine itself otherwise.

Owns namespaces and everything that lives in them: closing a place ends every process inside. What runs inside sees
its own interfaces, `/run`, `/etc`, `/dev/net/tun` and `/etc/resolv.conf`; nothing of the machine's is changed.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

Argument = str | os.PathLike[str]
Stream = int | IO[Any] | None

# Loopback up without iproute2, which minimal images lack: SIOCSIFFLAGS (man 7 netdevice) with IFF_UP | IFF_RUNNING.
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sH14x", b"lo", 0x41))
"""

# Private mounts of a namespace. /etc is overlaid and not only resolv.conf: where that is a symbolic link (systemd),
# tailscaled replaces the link, in /etc itself. The file is then bound over itself, as container engines do.
SETUP = """
set -eu
overlay() {
  mkdir -p "/run/overlay$1/up" "/run/overlay$1/work"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=/run/overlay$1/up,workdir=/run/overlay$1/work" "$1"
}
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/lock /run/tailscale
[ -L /var/run ] || mount --bind /run /var/run
overlay /etc
for directory in $OVERLAYS; do overlay "$directory"; done
grep -q '^overlay /etc overlay ' /proc/self/mounts
# The programs may lie below a directory that only root may enter: other users of the tests must reach them.
[ -z "$CLOSED" ] || overlay "${CLOSED%% *}"
[ -z "$CLOSED" ] || chmod o+x $CLOSED
rm -f /etc/resolv.conf
printf '%s' "$RESOLV_CONF" >/etc/resolv.conf
cp /etc/resolv.conf /run/resolv.conf.bound
mount --bind /run/resolv.conf.bound /etc/resolv.conf
mkdir -p /dev/net
mount -t tmpfs -o mode=0755 tmpfs /dev/net
[ "$TUN" = no ] || mknod -m 0666 /dev/net/tun c 10 200
"$PYTHON" -S -c "$LOOPBACK_UP"
echo ready
exec cat >/dev/null
"""

# What a probe does: open, then TUNSETIFF (0x400454ca) with IFF_TUN | IFF_NO_PI on a throw-away name.
TUN_TRIAL = """
import fcntl, os, struct
fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454ca, struct.pack("16sH14x", b"tzp%d", 0x1001))
"""


class Place:
    """The machine itself: nothing private. `Namespace` has the same interface."""

    is_private = False

    def wrap(self, argv: Sequence[Argument], *, cwd: Argument = "/", uid: int | None = None) -> list[str]:
        """The argv that runs `argv` in this place, as user `uid` (and that group alone) if given."""
        command = [os.fspath(a) for a in argv]
        if uid is not None:
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *command]
        return ["env", "-C", os.fspath(cwd), "--", *command]

    def popen(
        self,
        argv: Sequence[Argument],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Argument = "/",
        uid: int | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        new_session: bool = False,
        text: bool = True,
    ) -> "subprocess.Popen[Any]":
        """Starts a process here; its pid is that of `argv` itself. The caller reaps it."""
        return subprocess.Popen(
            self.wrap(argv, cwd=cwd, uid=uid),
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            start_new_session=new_session,
        )

    def run(
        self,
        argv: Sequence[Argument],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Argument = "/",
        uid: int | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
        check: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end, output captured. With `check` a failure is an AssertionError that shows it."""
        command = self.wrap(argv, cwd=cwd, uid=uid)
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **given,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


HERE = Place()


class Namespace(Place):
    """Private network and mount namespaces with only `lo`; needs root."""

    is_private = True

    def __init__(
        self,
        *,
        tun: bool = True,
        resolv_conf: str = "nameserver 127.0.0.1\n",
        overlays: Sequence[str] = ("/var/lib",),
    ) -> None:
        """Directories in `overlays`, and always `/etc`, can be written inside without any change outside.

        The default resolver answers nothing and refuses at once.
        """
        settings = {
            "CLOSED": " ".join(closed_ancestors(sys.prefix)),
            "OVERLAYS": " ".join(d for d in overlays if d != "/etc" and is_overlayable(d)),
            "RESOLV_CONF": resolv_conf,
            "TUN": "yes" if tun else "no",
            "PYTHON": sys.executable,
            "LOOPBACK_UP": LOOPBACK_UP,
        }
        # `cat` ends when this process does, however that happens: the pipe is the anchor's life line.
        self._anchor = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", SETUP],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._anchor.stdout is not None
        if self._anchor.stdout.readline() != "ready\n":
            _, reason = self._anchor.communicate()
            raise RuntimeError(f"no namespace: {reason.strip()}")
        self.pid = self._anchor.pid
        self._identity = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    @property
    def net_path(self) -> str:
        """The network namespace as a path, for tools that join one."""
        return f"/proc/{self.pid}/ns/net"

    def wrap(self, argv: Sequence[Argument], *, cwd: Argument = "/", uid: int | None = None) -> list[str]:
        """Joins both namespaces, then does what every place does."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *super().wrap(argv, cwd=cwd, uid=uid)]

    def processes(self) -> list[int]:
        """Pids of all that runs inside, the anchor excepted."""
        return [pid for pid in pids() if pid != self.pid and self._holds(pid)]

    def _holds(self, pid: int) -> bool:
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == self._identity
        except OSError:  # gone, or a zombie
            return False

    def close(self) -> None:
        """Ends everything inside, then the namespaces themselves. Twice is allowed."""
        if self._anchor.returncode is not None:
            return
        deadline = time.monotonic() + 10
        while (inside := self.processes()) and time.monotonic() < deadline:
            for pid in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self._anchor.kill()
        self._anchor.communicate()


class Mesh(Place):
    """Several namespaces on one Ethernet bridge; the mesh itself is the place of the bridge, for servers."""

    is_private = True
    network = "10.77.0"

    def __init__(self) -> None:
        self.switch = Namespace(tun=False)
        self.address = f"{self.network}.1"
        self._nodes: list[Namespace] = []
        self._links("ip.link('add', ifname='br0', kind='bridge')", f"up('br0', '{self.address}')")

    def wrap(self, argv: Sequence[Argument], *, cwd: Argument = "/", uid: int | None = None) -> list[str]:
        """Runs at the bridge's address."""
        return self.switch.wrap(argv, cwd=cwd, uid=uid)

    def add(self, *, tun: bool = True, resolv_conf: str = "nameserver 127.0.0.1\n") -> Namespace:
        """A namespace with `eth0` on the bridge and a default route; its address is `address_of`."""
        node = Namespace(tun=tun, resolv_conf=resolv_conf)
        self._nodes.append(node)
        number = len(self._nodes)
        self._links(
            f"ip.link('add', ifname='v{number}', kind='veth', peer={{'ifname': 'eth0', 'net_ns_pid': {node.pid}}})",
            f"up('v{number}', master='br0')",
        )
        self._links(f"up('eth0', '{self.address_of(node)}')", f"ip.route('add', gateway='{self.address}')", place=node)
        return node

    def address_of(self, node: Namespace) -> str:
        """The IPv4 address on the bridge."""
        return f"{self.network}.{self._nodes.index(node) + 2}"

    def cut(self, node: Namespace, *, is_cut: bool) -> None:
        """Pulls a node's cable or puts it back."""
        number = self._nodes.index(node) + 1
        self._links(f"ip.link('set', index=index('v{number}'), state='{'down' if is_cut else 'up'}')")

    def _links(self, *statements: str, place: Place | None = None) -> None:
        program = "\n".join((NETLINK, *statements))
        (place or self.switch).run([sys.executable, "-c", program], check=True)

    def close(self) -> None:
        """Closes all nodes and the bridge."""
        for node in self._nodes:
            node.close()
        self.switch.close()


# Netlink by pyroute2, the project's own dependency: iproute2 may be missing.
NETLINK = """
from pyroute2 import IPRoute
ip = IPRoute()
def index(name):
    return ip.link_lookup(ifname=name)[0]
def up(name, address=None, master=None):
    if address:
        ip.addr('add', index=index(name), address=address, prefixlen=24)
    if master:
        ip.link('set', index=index(name), master=index(master))
    ip.link('set', index=index(name), state='up')
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def pids() -> Iterator[int]:
    """All processes of this pid namespace."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def closed_ancestors(path: str) -> list[str]:
    """The directories above `path` that others may not enter, the outermost first."""
    parts = os.path.realpath(path).split("/")
    above = ["/".join(parts[:n]) for n in range(2, len(parts) + 1)]
    return [directory for directory in above if not os.stat(directory).st_mode & 0o001]


def is_overlayable(directory: str) -> bool:
    """Not where the checkout, HOME, the interpreter or temporary files lie: those are shared with the outside."""
    own = [Path.cwd(), Path.home(), Path(os.environ.get("TMPDIR", "/tmp")), Path(sys.prefix)]
    return Path(directory).is_dir() and not any(path.resolve().is_relative_to(directory) for path in own)


@functools.cache
def namespace_refusal() -> str | None:
    """Why namespaces cannot be had here, for a skip; None if they can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    try:
        Namespace(tun=False).close()
    except (RuntimeError, OSError) as e:
        return str(e)
    return None


@functools.cache
def tun_refusal() -> str | None:
    """Why a TUN device cannot be had in a namespace of ours; None if it can."""
    if refusal := namespace_refusal():
        return refusal
    try:
        with Namespace() as place:
            done = place.run([sys.executable, "-S", "-c", TUN_TRIAL])
    except RuntimeError as e:
        return str(e)
    return None if done.returncode == 0 else f"no TUN device: {done.stderr.strip().splitlines()[-1]}"
