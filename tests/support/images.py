"""The images of the container and systemd tests: a Debian base and, on it, the Containerfile's result.

Made once and kept under `${XDG_CACHE_HOME:-~/.cache}/tazpod-net/images`, keyed by what they are made of; any number of
processes may ask at once. The machine's own image store is not touched. Nothing here runs a container.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.bootstrap import digest, package_files
from tests.support.lab import Binaries
from tests.support.netns import namespace_refusal
from tests.support.progress import Progress, SetupError, cache_directory, fresh_directory, locked, run_logged

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = cache_directory() / "images"  # fixed at import: tests change HOME afterwards
CONTAINERFILE = CHECKOUT / "Containerfile"
SUITE = "bookworm"
PYTHON = "3.11"  # of that suite, for the wheels
PACKAGES = (
    *("python3", "python3-venv", "iptables", "iproute2", "ca-certificates", "procps", "sudo"),
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd"),  # the same image is booted as a machine
)
BASE = "localhost/base:latest"
PROGRAMS = ("podman", "buildah", "crun", "mmdebstrap", "systemd-nspawn")
KEPT = 12  # built images in the store; older ones are removed by the next build
UNUSED_DAYS = 30
# Of one test session this says that a skip is a failure: CI has installed everything.
REQUIRED = "TAZPOD_TEST_CONTAINERS"

# An own mount namespace with cgroup v2 where crun and nspawn look for it, on hosts with both versions too.
WRAP = """
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup && exec "$@"
"""


@functools.cache
def refusal() -> str | None:
    """Why there are no containers here, for a skip; None if there are."""
    if os.environ.get("TAZPOD_LAB") == "off":
        return "TAZPOD_LAB=off"
    if without_namespaces := namespace_refusal():
        return without_namespaces
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    reason = f"not installed: {', '.join(missing)}" if missing else None
    if reason is None and subprocess.run(wrapped(["true"]), capture_output=True, check=False).returncode != 0:
        reason = "cgroup v2 cannot be mounted in a namespace"
    if reason is not None and os.environ.get(REQUIRED) == "required":
        raise SetupError(f"{REQUIRED}=required, and {reason}")
    return reason


def wrapped(argv: Sequence[str]) -> list[str]:
    """The argv that runs `argv` in such a namespace of its own."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", WRAP, "sh", *argv]


class Image:
    """A built image in a store that others may use read-only."""

    def __init__(self, store: Path, name: str, wheels: Path) -> None:
        self.store = store
        self.name = name
        self.wheels = wheels


def ensure(programs: Binaries) -> Image:
    """The Containerfile's image of this checkout, built now if need be. Raises SetupError."""
    recipe = digest(iter((SUITE.encode(), *map(str.encode, PACKAGES))))
    store = CACHE / f"store-{recipe}"
    with Progress("images") as progress, locked(CACHE / "lock", progress):
        image = Image(store, f"localhost/tazpod-net:{digest(_sources(programs))}", _wheelhouse(progress))
        if not (store / "base.done").exists():
            _make_store(store, progress)
        os.utime(store)
        if not _exists(store, image.name):
            _build(image, programs, progress)
    return image


def _sources(programs: Binaries) -> Iterator[bytes]:
    """All that the image is made of, the base excepted."""
    yield from package_files()
    yield CONTAINERFILE.read_bytes()
    yield os.fsencode(programs.directory)  # named by what it was built from
    yield _requirements().encode()


def _make_store(store: Path, progress: Progress) -> None:
    """A new store with the base system in it."""
    for old in CACHE.glob("store-*"):
        if old == store or time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    progress.say(f"making a Debian {SUITE} base (about a minute the first time)")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        tar = f"{scratch}/base.tar"
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, tar]
        run_logged(command, CACHE / "mmdebstrap.log", what="mmdebstrap", show=progress.show, is_reason=_is_error)
        progress.show("importing the base")
        store.mkdir(parents=True, exist_ok=True)
        _tool(store, ["podman", "import", tar, BASE], progress, what="importing the base")
    (store / "base.done").write_text("")


def _is_error(line: str) -> bool:
    return line.startswith(("E:", "Error"))


def _build(image: Image, programs: Binaries, progress: Progress) -> None:
    """The Containerfile as a user builds it, but offline: wheels from a directory, tailscaled from the lab."""
    progress.say("building the image (about 20 s)")
    tailscale = f"localhost/tailscale:{programs.directory.name}"
    if not _exists(image.store, tailscale):
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            tar = f"{scratch}/programs.tar"
            command = ["tar", "-C", str(programs.directory), "--owner=0", "--group=0"]
            command += ["--transform=s,^,usr/local/bin/,", "-cf", tar, "tailscaled", "tailscale"]
            run_logged(command, CACHE / "tar.log", what="tar", show=progress.show)
            _tool(image.store, ["podman", "import", tar, tailscale], progress, what="importing tailscale")
    command = ["buildah", "bud", "--format", "docker", "--pull-never", "--volume", f"{image.wheels}:/wheelhouse:ro"]
    for argument in (
        "PIP_NO_INDEX=1",
        "PIP_FIND_LINKS=/wheelhouse",
        f"BASE_IMAGE={BASE}",
        f"TAILSCALE_IMAGE={tailscale}",
        "SUDO=true",
    ):
        command += ["--build-arg", argument]
    command += ["-t", image.name, "-f", str(CONTAINERFILE), str(CHECKOUT)]
    _forget_old(image.store, progress)
    _tool(image.store, command, progress, what="buildah bud")


def _forget_old(store: Path, progress: Progress) -> None:
    """Keeps the newest images: several checkouts share the store, and one of them may use its own right now."""
    asking = ["podman", "images", "--format", "{{.Repository}}:{{.Tag}}", "localhost/tazpod-net"]
    command = wrapped(_in_store(store, asking))
    asked = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    for name in asked.stdout.split()[KEPT:]:  # newest first
        with contextlib.suppress(SetupError):
            _tool(store, ["podman", "rmi", name], progress, what="removing an old image")


def _wheelhouse(progress: Progress) -> Path:
    """The wheels that the package needs, in the versions of the lock, for the base's Python."""
    wanted = _requirements()
    target = CACHE / f"wheels-{digest(iter((wanted.encode(), PYTHON.encode())))}"
    if not target.exists():
        with fresh_directory(target) as scratch:
            lock = CACHE / "constraints.txt"
            lock.write_text((CHECKOUT / "requirements-ci.txt").read_text())
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--only-binary=:all:"]
            command += ["--python-version", PYTHON, "-d", str(scratch), "-c", str(lock), *wanted.split()]
            run_logged(command, CACHE / "pip.log", what="fetching wheels", show=progress.show, is_reason=_is_pip_error)
    return target


def _is_pip_error(line: str) -> bool:
    return line.startswith("ERROR")


def _requirements() -> str:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    return "\n".join(["setuptools", *sorted(project["project"]["dependencies"])])


def _exists(store: Path, name: str) -> bool:
    command = wrapped(_in_store(store, ["buildah", "inspect", "--type", "image", name]))
    return subprocess.run(command, env=_environment(), capture_output=True, check=False).returncode == 0


def _tool(store: Path, argv: Sequence[str], progress: Progress, *, what: str) -> None:
    log = CACHE / f"{argv[0]}.log"
    run_logged(
        wrapped(_in_store(store, argv)), log, what=what, show=progress.show, is_reason=_is_error, env=_environment()
    )


def _in_store(store: Path, argv: Sequence[str]) -> list[str]:
    options = ["--root", str(store), "--runroot", str(CACHE / "runroot")]
    if argv[0] == "podman":
        options += ["--tmpdir", str(CACHE / "tmp"), "--cgroup-manager=cgroupfs", "--events-backend=none"]
        options += ["--network-backend=netavark"]
    return [argv[0], *options, *argv[1:]]


def _environment() -> dict[str, str]:
    """Nothing of the user's own container configuration, and no user's HOME."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(CACHE), "BUILDAH_ISOLATION": "chroot"}
