"""Makes the environment that everything else runs in, and runs things in it: `python3 -m scripts.bootstrap …`.

Owns the virtual environments under `${XDG_CACHE_HOME:-~/.cache}/tazpod-net`, one per checkout, Python and set of
requirements. Standard library only. It writes nothing into the checkout: the package is built from a copy and
installed as a wheel, so that tests see what users get. Must not know what is run.
"""

# An old Python must get as far as the sentence in main(): no syntax here that is newer than 3.7.
from __future__ import annotations

import argparse
import base64
import configparser
import contextlib
import hashlib
import html.parser
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.progress import Progress, SetupError, cache_directory, locked, run_logged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECKOUT = Path(__file__).resolve().parent.parent
REQUIREMENTS = CHECKOUT / "requirements-ci.txt"
# What the wheel is made of; a change of any of it makes a new one.
PACKAGE_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "bin", "tazpod_net")
OLDEST_PYTHON = (3, 11)
# Where pip itself looks when nothing is configured (pip config, `index-url`).
DEFAULT_INDEX = "https://pypi.org/simple"
UNUSED_DAYS = 30
TIMEOUT_S = 60


def main() -> int:
    """Exit code 1 with one line on stderr if something failed; that of the command otherwise."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        found = sys.version.split()[0]
        print(
            f"setup: this is Python {found}, {wanted} or newer is needed: make PYTHON=python{wanted}", file=sys.stderr
        )
        return 1
    options = parser().parse_args()
    try:
        act(options)
    except SetupError as e:
        print(f"setup: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="bootstrap", description=(__doc__ or "").splitlines()[0])
    acts = top.add_subparsers(dest="act", required=True)
    acts.add_parser("venv", help="make it and print where it is")
    acts.add_parser("clean", help="remove this checkout's environments")
    run = acts.add_parser("run", help="run a command in it")
    run.add_argument("--lab", action="store_true", help="build the lab's programs first")
    run.add_argument("command", nargs="+")
    return top


def act(options: argparse.Namespace) -> None:
    """Does what the command line says; `run` does not return."""
    if options.act == "clean":
        clean()
        return
    venv = ensure()
    if options.act == "venv":
        print(venv)
        return
    env = environment(venv)
    if options.lab:
        env["TAZPOD_LAB_BIN"] = lab_programs(venv, env)
    program = shutil.which(options.command[0], path=env["PATH"])
    if program is None:
        raise SetupError(f"no program {options.command[0]}")
    os.execve(program, options.command, env)


def environment(venv: Path) -> dict[str, str]:
    """As `activate` would, with the caches of the tools outside the checkout."""
    env = {**os.environ, "VIRTUAL_ENV": str(venv), "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    for tool in ("MYPY", "RUFF"):
        env.setdefault(f"{tool}_CACHE_DIR", str(venv / f"{tool.lower()}-cache"))
    env.pop("PYTHONHOME", None)
    return env


def lab_programs(venv: Path, env: dict[str, str]) -> str:
    """Where the lab's programs are; built if need be."""
    command = [str(venv / "bin" / "python"), "-m", "tests.lab.build"]
    done = subprocess.run(command, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SetupError("the lab could not be built")
    return done.stdout.strip()


def ensure() -> Path:
    """The environment with the requirements and today's package in it.

    Safe for several processes at once. Raises SetupError.
    """
    venv = cache_directory() / f"venv-{checkout_id()}-{digest(requirements())}"
    wheel = digest(package_files())
    if is_done(venv, "requirements", "") and is_done(venv, "package", wheel):
        with contextlib.suppress(OSError):  # another user's cache
            os.utime(venv)  # in use: not to be swept
        return venv
    with Progress("setup") as progress, locked(cache_directory() / "venv.lock", progress):
        if not is_done(venv, "requirements", ""):
            make(venv, progress)
        if not is_done(venv, "package", wheel):
            install_package(venv, progress)
            (venv / "package.done").write_text(wheel)
        progress.say(f"ready after {progress.seconds:.0f} s: {venv}")
    return venv


def checkout_id() -> str:
    """Two checkouts never share an environment, because each has its own package in it."""
    return hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:8]


def requirements() -> Iterator[bytes]:
    """All that an environment depends on, the package excepted."""
    yield sys.version.encode()
    yield os.fsencode(os.path.realpath(sys.executable))
    yield REQUIREMENTS.read_bytes()


def package_files() -> Iterator[bytes]:
    """Names and contents of what the wheel is made of."""
    for path in sorted(source_files()):
        yield os.fsencode(path.relative_to(CHECKOUT))
        yield path.read_bytes()


def source_files() -> Iterator[Path]:
    """The files themselves, without what Python compiled."""
    for name in PACKAGE_SOURCES:
        source = CHECKOUT / name
        for path in [source, *source.rglob("*")]:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def digest(parts: Iterator[bytes]) -> str:
    """A short name for contents."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:12]


def is_done(venv: Path, step: str, wanted: str) -> bool:
    """Whether a step ended, and with this result."""
    try:
        return (venv / f"{step}.done").read_text() == wanted
    except OSError:
        return False


def make(venv: Path, progress: Progress) -> None:
    """An environment with all requirements; a half-made one is thrown away first."""
    if re.search(r"\s", str(venv)):
        # Pip writes the interpreter's path as it is into the first line of scripts, and the kernel splits it there.
        raise SetupError(
            f"no scripts can be installed under {cache_directory()}, there is a blank in it: set XDG_CACHE_HOME"
        )
    sweep(keep=venv)
    shutil.rmtree(venv, ignore_errors=True)
    progress.say("making the Python environment (about a minute the first time)")
    make_empty(venv, progress)
    progress.show("installing requirements")
    pip(venv, progress, ["install", "-r", str(REQUIREMENTS)], what="installing requirements")
    (venv / "requirements.done").write_text("")


def make_empty(venv: Path, progress: Progress) -> None:
    """With pip in it, on systems too whose Python comes without ensurepip (Debian and Ubuntu as installed)."""
    if not has_module("venv"):
        raise SetupError("this Python has no module venv: install python3-venv")
    has_pip = has_module("ensurepip")
    command = [sys.executable, "-m", "venv", *([] if has_pip else ["--without-pip"]), str(venv)]
    run_logged(command, log(), what="making a virtual environment", show=progress.show)
    if not has_pip:
        add_pip(venv, progress)


def has_module(name: str) -> bool:
    """Whether this Python has it; an empty directory of that name, which Debian may leave, does not count."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def add_pip(venv: Path, progress: Progress) -> None:
    """By the system's own pip if there is one, else by pip's wheel, which can install itself."""
    progress.say("this Python has no ensurepip: fetching pip")
    if has_module("pip"):
        command = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "pip"]
        run_logged(command, log(), what="installing pip by the system's pip", show=progress.show, is_reason=is_error)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            wheel = fetch_pip(Path(scratch))
        except (OSError, ValueError, LookupError) as e:
            raise SetupError(f"pip could not be fetched ({e}): install python3-venv") from e
        command = [str(venv / "bin" / "python"), f"{wheel}/pip", "install", "--no-index", "--no-deps", str(wheel)]
        run_logged(command, log(), what="installing pip", show=progress.show, is_reason=is_error)


def pip(venv: Path, progress: Progress, arguments: Sequence[str], *, what: str) -> None:
    """Runs the environment's pip."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    run_logged(command, log(), what=what, show=progress.show, is_reason=is_error)


def log() -> Path:
    """Of the last command; named in errors."""
    return cache_directory() / "setup.log"


def is_error(line: str) -> bool:
    """Of pip's output; not `error: metadata-generation-failed` and the like, which say only where it was."""
    text = line.strip()
    return text.startswith(("ERROR: ", "error: ")) and " " in text.partition(": ")[2]


def install_package(venv: Path, progress: Progress) -> None:
    """Builds a wheel from a copy, because building leaves files beside the sources, and installs it."""
    progress.say("installing tazpod-net from a wheel")
    with tempfile.TemporaryDirectory() as scratch:
        for path in source_files():
            copy = Path(scratch) / path.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        # The build's own requirements are in the lock: no isolation, no network, no surprise.
        arguments = ["install", "--no-deps", "--no-build-isolation", "--force-reinstall", scratch]
        pip(venv, progress, arguments, what="building the package")


def sweep(keep: Path) -> None:
    """Removes environments of this checkout that nobody used lately. The lock is held."""
    for old in environments():
        if old != keep and time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)


def environments() -> list[Path]:
    """Of this checkout, whatever their requirements."""
    return list(cache_directory().glob(f"venv-{checkout_id()}-*"))


def clean() -> None:
    """Removes this checkout's environments and what tools left in it; the lab's programs are shared and stay."""
    rubbish = [".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", "build", "tazpod_net.egg-info"]
    found = [*environments(), *(CHECKOUT / name for name in rubbish)]
    for path in found:
        if path.exists():
            print(f"removing {path}")
            shutil.rmtree(path)
    for cached in CHECKOUT.rglob("__pycache__"):
        shutil.rmtree(cached)
    print(f"kept: {cache_directory() / 'lab'}")


# Pip's wheel, for a Python without ensurepip and a system without pip. Where pip would look is asked of pip's own
# configuration (pip's documentation, "Configuration" and "Simple repository API").


def fetch_pip(into: Path) -> Path:
    """Downloads or finds pip's newest wheel. OSError, ValueError or LookupError says why not."""
    for place in configured("find-links").split():
        found = max(Path(place).glob("pip-*-py3-none-any.whl"), key=lambda path: version_of(path.name), default=None)
        if found:
            return Path(shutil.copy(found, into))
    page = configured("index-url") or DEFAULT_INDEX
    page = page.rstrip("/") + "/pip/"
    links = read_links(page)
    if not links:
        raise LookupError(f"{page} lists no wheel of pip")
    url, checksum = max(links, key=lambda link: version_of(link[0]))
    content, _ = get(url)
    if checksum and hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"{url} does not fit its checksum")
    wheel = into / urllib.parse.unquote(url.rsplit("/", 1)[1])
    wheel.write_bytes(content)
    return wheel


def version_of(name: str) -> tuple[int, ...]:
    """Of a wheel's file name; releases only, so that a beta sorts below everything."""
    found = re.search(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl$", name)
    return tuple(map(int, found.group(1).split("."))) if found else ()


def read_links(page: str) -> list[tuple[str, str]]:
    """Address and sha256 (or "") of the wheels on a page of the simple API, in either of its forms."""
    content, kind = get(page, accept="application/vnd.pypi.simple.v1+json, text/html;q=0.5")
    if "json" in kind:
        files = json.loads(content)["files"]
        links = [(file["url"], file.get("hashes", {}).get("sha256", "")) for file in files if not file.get("yanked")]
    else:
        reader = LinkReader()
        reader.feed(content.decode())
        links = [(link.partition("#")[0], link.partition("#sha256=")[2]) for link in reader.links]
    return [(urllib.parse.urljoin(page, url), checksum) for url, checksum in links if version_of(url)]


class LinkReader(html.parser.HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        href = dict(attrs).get("href")
        if tag == "a" and href and "data-yanked" not in dict(attrs):
            self.links.append(href)


def get(url: str, *, accept: str = "*/*") -> tuple[bytes, str]:
    """Body and content type. A name and password in the address are sent as pip sends them."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"{url} is neither http nor https")
    headers = {"Accept": accept}
    if parts.username:
        secret = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    context = ssl.create_default_context(cafile=configured("cert") or None) if parts.scheme == "https" else None
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
        return response.read(), response.headers.get("Content-Type", "")


def configured(name: str) -> str:
    """A setting of pip: from the environment, else from the last of its files that has it, else ""."""
    given = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if given is not None:
        return given
    found = ""
    for path in pip_files():
        reader = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            reader.read(path)
            for section in ("global", "install"):
                found = reader.get(section, name, fallback=found)
    return found


def pip_files() -> list[Path]:
    """Pip's configuration files in the order in which it reads them."""
    special = os.environ.get("PIP_CONFIG_FILE", "")
    if special == os.devnull:
        return []
    system = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [*(Path(directory, "pip/pip.conf") for directory in system.split(":")), Path("/etc/pip.conf")]
    files += [Path.home() / ".pip" / "pip.conf", user / "pip" / "pip.conf"]
    return [*files, *([Path(special)] if special else [])]


if __name__ == "__main__":
    sys.exit(main())
