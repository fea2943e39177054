"""Real containers in a namespace of the tests: podman with a store of its own, which reads the shared images.

Owns the containers that it starts and ends them. Everything that podman writes lies in the namespace's own /run and
goes with it.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from tests.support.eventually import eventually
from tests.support.images import Image
from tests.support.netns import Namespace

ROOT = "/run/podman-test"

# Storage on the namespace's tmpfs (the machine's disk may be an overlay itself). No cgroups: on hosts with v1 and v2
# crun cannot make them. Limits below podman's own: the tests may lack CAP_SYS_RESOURCE.
SETUP = """
set -eu
mkdir -p "$ROOT"
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
cat >"$ROOT/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$ROOT/store"
runroot = "$ROOT/run"
[storage.options]
additionalimagestores = ["$STORE"]
END
cat >"$ROOT/containers.conf" <<END
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
END
"""


def mount_cgroup(place: Namespace, store: Path) -> None:
    """Prepares a namespace for containers and machines. Twice is allowed."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ROOT": ROOT, "STORE": str(store)}
    place.run(["sh", "-c", SETUP], env=env, check=True)


class Podman:
    """The command, and the containers that it started. Use as a context manager, or call `close`."""

    def __init__(self, place: Namespace, image: Image, *, env: Mapping[str, str]) -> None:
        """`env`: for every container."""
        self.place = place
        self.image = image
        self.env = dict(env)
        self._env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": ROOT,
            "CONTAINERS_STORAGE_CONF": f"{ROOT}/storage.conf",
            "CONTAINERS_CONF": f"{ROOT}/containers.conf",
            "DISABLE_HC_SYSTEMD": "true",  # the health check's timer would be a unit of a systemd that is not there
        }
        mount_cgroup(place, image.store)

    def __call__(
        self, *arguments: str, expect: int | None = 0, timeout: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """`podman ARGUMENTS`; another exit code than `expect` is an AssertionError."""
        done = self.place.run(["podman", "--tmpdir", f"{ROOT}/tmp", *arguments], env=self._env, timeout=timeout)
        seen = f"podman {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert expect is None or done.returncode == expect, seen
        return done

    def start(
        self,
        *options: str,
        command: Sequence[str] = ("sleep", "infinity"),
        notify_socket: str | None = None,
        **env: str,
    ) -> "Container":
        """`podman run --detach OPTIONS IMAGE COMMAND`, in the namespace's network unless an option says otherwise.

        `notify_socket`: as if a service manager had called podman.
        """
        given: list[str] = ["--pull=never"]
        if not any(option.startswith("--network") for option in options):
            given.append("--network=host")
        for name, value in {**self.env, **env}.items():
            given += ["--env", f"{name}={value}"]
        before = dict(self._env)
        if notify_socket is not None:
            self._env["NOTIFY_SOCKET"] = notify_socket
        started = self("run", "--detach", *given, *options, self.image.name, *command)
        self._env = before
        return Container(self, started.stdout.strip())

    def close(self) -> None:
        """Ends and removes all containers."""
        self("rm", "--all", "--force", "--time", "0", "--volumes", expect=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Container:
    """A container that was started; it may have ended since."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name

    def exec(self, *argv: str, user: str | None = None, expect: int | None = 0) -> "subprocess.CompletedProcess[str]":
        """`podman exec`."""
        options = ["--user", user] if user else []
        return self.podman("exec", *options, self.name, *argv, expect=expect)

    def status(self) -> dict[str, Any]:
        """`tazpod-net status --json` inside."""
        return cast("dict[str, Any]", json.loads(self.exec("tazpod-net", "status", "--json", expect=None).stdout))

    def ready(self, *, within: float = 30.0) -> dict[str, Any]:
        """The status once it is ready."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            assert status["ready"], f"{status['summary']}\n{self.logs()}"
            return status

        return cast("dict[str, Any]", eventually(look, within=within, every=0.1))

    def inspect(self, template: str) -> str:
        """`podman inspect --format`."""
        return self.podman("inspect", "--format", template, self.name).stdout.strip()

    def health(self, *, expect: int) -> None:
        """Runs the image's own health check once."""
        self.podman("healthcheck", "run", self.name, expect=expect)

    def logs(self) -> str:
        """What the container printed."""
        done = self.podman("logs", self.name, expect=None)
        return done.stdout + done.stderr
