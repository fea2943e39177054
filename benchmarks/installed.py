"""The programs under test, installed as a user installs them: a clean environment, run-time dependencies, `.pyc`.

Owns `bench-*` in the project's cache directory. The environment of the tests would not do: what only they need
(typing_extensions) is found by the product's imports there and costs a start 10 to 20 ms, as missing bytecode does.
Must not write into the checkout.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.bootstrap import CHECKOUT, REQUIREMENTS, digest, is_error, package_files, source_files
from tests.support.progress import Progress, SetupError, cache_directory, locked, run_logged

CACHE = cache_directory()  # fixed at import: tests change HOME afterwards
SUPERVISORD = "supervisor==4.3.0"  # the peer from PyPI, never a requirement of the product
UNUSED_DAYS = 7
Install = Callable[[Path, Progress], None]
_failed: dict[str, SetupError] = {}  # a network that is not there costs its time-outs once in a process


def product() -> Path:
    """The directory of the installed `tazpod-net` and its `python`, made from this checkout now if need be.

    Raises SetupError.
    """
    return _environment(f"bench-venv-{digest(_all_that_matters())}", _install_product)


def supervisord() -> Path:
    """The directory of the installed `supervisord`. Raises SetupError."""
    name = hashlib.sha256(f"{SUPERVISORD} {sys.version}".encode()).hexdigest()[:12]
    return _environment(f"bench-peer-{name}", lambda python, progress: _pip(python, [SUPERVISORD], progress))


def _all_that_matters() -> Iterator[bytes]:
    yield sys.version.encode()
    yield REQUIREMENTS.read_bytes()
    yield from package_files()


def _environment(name: str, install: Install) -> Path:
    """`bin` of the environment `name`; it counts as complete by a file that is written last."""
    target = CACHE / name
    if not (target / "complete").exists():
        if name in _failed:
            raise _failed[name]
        with Progress("benchmarks") as progress, locked(CACHE / "bench.lock", progress):
            try:
                _make(target, install, progress)
            except SetupError as e:
                _failed[name] = e
                raise
    with contextlib.suppress(OSError):  # another user's cache
        os.utime(target)  # in use: not to be swept
    return target / "bin"


def _make(target: Path, install: Install, progress: Progress) -> None:
    if (target / "complete").exists():  # by whoever had the lock before us
        return
    _sweep()
    shutil.rmtree(target, ignore_errors=True)
    progress.say(f"installing into {target.name}, once for each state of the sources")
    _run([sys.executable, "-m", "venv", "--without-pip", str(target)], progress, "making a virtual environment")
    install(target / "bin" / "python", progress)
    (target / "complete").touch()


def _install_product(python: Path, progress: Progress) -> None:
    """A wheel, built in a copy: setuptools leaves `build/` and `*.egg-info` behind where it works."""
    with tempfile.TemporaryDirectory(prefix="tzbuild-") as scratch:
        for source in source_files():
            copy = Path(scratch, source.relative_to(CHECKOUT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={scratch}"]
        _run([*build, scratch], progress, "building the package")  # setuptools is in the lock: no network for this
        wheel = next(Path(scratch).glob("*.whl"))
        _pip(python, [f"--constraint={REQUIREMENTS}", str(wheel)], progress)


def _pip(python: Path, arguments: Sequence[str], progress: Progress) -> None:
    """By the pip of this interpreter, so that the new environment stays without one."""
    pip = [sys.executable, "-m", "pip", f"--python={python}", "--disable-pip-version-check"]
    _run([*pip, "install", "--compile", *arguments], progress, "installing")


def _run(command: Sequence[str], progress: Progress, what: str) -> None:
    run_logged(command, CACHE / "bench.log", what=what, show=progress.show, is_reason=is_error)


def _sweep() -> None:
    """Removes environments of sources that nobody has run for a while. The lock is held."""
    for old in CACHE.glob("bench-*-*"):
        if time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
