"""A real systemd: the image of the container tests booted by nspawn, in the network of a test's namespace.

Owns the machine and powers it off. It boots from an overlay in memory: each boot begins from the same image, and
nothing of it is kept.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.eventually import eventually
from tests.support.podman import Podman

UNITS = Path(__file__).resolve().parents[2] / "systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OVERLAY = """
set -eu
mkdir -p "$TOP/up" "$TOP/work" "$TOP/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$TOP/up,workdir=$TOP/work" "$TOP/root"
"""

# Its own part of the cgroup tree: without it two machines would share nspawn's own names there.
BOOT = """
mkdir -p "/sys/fs/cgroup/$NAME" && echo $$ >"/sys/fs/cgroup/$NAME/cgroup.procs" && exec "$@"
"""


class Machine:
    """Boots in the constructor after `prepare(root)`. Use as a context manager, or call `close`."""

    def __init__(self, podman: Podman, prepare: Callable[[Path], None] = lambda _root: None) -> None:
        """`prepare` may write into the machine's root directory."""
        self.place = podman.place
        self.name = f"tz-{os.getpid()}-{self.place.pid}"
        top = f"/run/{self.name}"
        env = {"PATH": PATH, "TOP": top, "LOWER": _layers(podman), "NAME": self.name}
        self.place.run(["sh", "-c", OVERLAY], env=env, check=True)
        self.root = Path(f"/proc/{self.place.pid}/root{top}/root")  # as seen from outside the mount namespace
        install_units(self.root)
        prepare(self.root)
        self.console = self.root.parent / "console"
        argv = ["systemd-nspawn", "--quiet", f"--directory={top}/root", "--register=no", "--keep-unit"]
        argv += ["--console=pipe", f"--machine={self.name}", "--link-journal=no", "--resolv-conf=off"]
        argv += [f"--network-namespace-path=/proc/{self.place.pid}/ns/net", "--bind=/dev/net/tun"]
        # bpf: systemd's own device rules (DeviceAllow) are silently nothing without it.
        argv += ["--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF", "--system-call-filter=bpf", "--boot"]
        with self.console.open("wb") as console:
            self._nspawn = self.place.popen(
                ["sh", "-c", BOOT, "sh", *argv], env=env, stdout=console, stderr=console, new_session=True, text=False
            )
        try:
            self._pid1 = eventually(self._find_pid1, within=20)
            eventually(self._has_booted, within=60, every=0.1)
        except BaseException:
            self.close()
            raise

    def _find_pid1(self) -> int | None:
        """nspawn's child, once it has become systemd: before that there are others, which go again."""
        assert self._nspawn.poll() is None, self.console.read_text(errors="replace")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return next((int(child) for child in children if _comm(child) == "systemd"), None)

    def _has_booted(self) -> bool:
        """`degraded` will do: a unit of Debian's own may not like nspawn."""
        return self.run("systemctl", "is-system-running", expect=None).stdout.strip() in {"running", "degraded"}

    def run(
        self, *argv: str, expect: int | None = 0, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command as root inside, outside of any unit."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        inside = ["env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", *(f"{k}={v}" for k, v in (env or {}).items()), *argv]
        done = subprocess.run(
            ["nsenter", f"--target={self._pid1}", *spaces, "--", *inside],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        seen = f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert expect is None or done.returncode == expect, (
            f"{seen}\n{self.journal() if argv[0] != 'journalctl' else ''}"
        )
        return done

    def systemctl(self, *arguments: str, expect: int | None = 0, timeout: float = 60.0) -> str:
        """`systemctl ARGUMENTS`."""
        return self.run("systemctl", *arguments, expect=expect, timeout=timeout).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def journal(self, unit: str | None = None) -> str:
        """The machine's log, or that of a unit."""
        only = ["--unit", unit] if unit else []
        return self.run(
            "journalctl", "--no-pager", "--output=short-monotonic", "--lines=200", *only, expect=None
        ).stdout

    def close(self) -> None:
        """Powers off, in order if it does so in time. Twice is allowed."""
        if self._nspawn.returncode is not None:
            return
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()  # the machine's PID 1 dies with its parent
            self._nspawn.wait()
        # The tree of groups is the machine's own, whatever namespace it was seen in.
        self.place.run(["find", f"/sys/fs/cgroup/{self.name}", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def install_units(root: Path) -> None:
    """The units as an administrator copies them; nothing is enabled."""
    for directory, names in (
        ("system", [*UNITS.glob("*.service"), *UNITS.glob("*.target")]),
        ("user", (UNITS / "user").glob("*.service")),
    ):
        target = root / "etc/systemd" / directory
        target.mkdir(parents=True, exist_ok=True)
        for unit in names:
            (target / unit.name).write_text(unit.read_text())


def drop_in(root: Path, unit: str, text: str) -> None:
    """A drop-in for one of them."""
    directory = root / "etc/systemd/system" / f"{unit}.d"
    directory.mkdir(exist_ok=True)
    (directory / "test.conf").write_text(text)


def _layers(podman: Podman) -> str:
    """The image's directories, topmost first, as an overlay wants them."""
    template = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}"
    return podman("image", "inspect", "--format", template, podman.image.name).stdout.strip()


def _comm(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
