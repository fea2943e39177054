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
_no_supervisord: list[SetupError] = []  # a network that is not there costs its time-outs once


def product() -> Path:
    """The directory of the installed `tazpod-net` and its `python`, made from this checkout now if need be.

    Raises SetupError.
    """
    return _environment(f"bench-venv-{digest(_all_that_matters())}", _install_product)


def supervisord() -> Path:
    """The directory of the installed `supervisord`. Raises SetupError; asked again in this process, at once."""
    if _no_supervisord:
        raise _no_supervisord[0]
    try:
        return _install_supervisord()
    except SetupError as e:
        _no_supervisord.append(e)
        raise


def _install_supervisord() -> Path:
    name = hashlib.sha256(f"{SUPERVISORD} {sys.version}".encode()).hexdigest()[:12]
    return _environment(f"bench-peer-{name}", lambda python, progress: _pip(python, [SUPERVISORD], progress))


def _all_that_matters() -> Iterator[bytes]:
    yield sys.version.encode()
    yield REQUIREMENTS.read_bytes()
    yield from package_files()


def _environment(name: str, install: Install) -> Path:
    """`bin` of the environment `name`; it counts as complete by a file that is written last."""
    target = CACHE / name
    complete = target / "complete"
    if not complete.exists():
        with Progress("benchmarks") as progress, locked(CACHE / "bench.lock", progress):
            if not complete.exists():
                _sweep()
                shutil.rmtree(target, ignore_errors=True)
                progress.say(f"installing into {name}, once for each state of the sources")
                command = [sys.executable, "-m", "venv", "--without-pip", str(target)]
                _run(command, progress, "making a virtual environment")
                install(target / "bin" / "python", progress)
                complete.touch()
    with contextlib.suppress(OSError):  # another user's cache
        os.utime(target)  # in use: not to be swept
    return target / "bin"


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
