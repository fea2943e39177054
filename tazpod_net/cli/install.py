"""`install`: tailscaled and tailscale of one pinned release, put in place. The only command that downloads anything.

rich draws the bar on a terminal; elsewhere there is a line now and then.
"""

import argparse
import os
import subprocess
import sys
from typing import Self

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tazpod_net import config
from tazpod_net.adapters.archive import Mirror, Part, Place, cache_directory, default_directory
from tazpod_net.cli.common import complain, home_of
from tazpod_net.core import release as releases
from tazpod_net.core.release import PROGRAMS, Release
from tazpod_net.daemon import ProgramError, find_program, read_record
from tazpod_net.errors import EXIT_FAILED, EXIT_OK, TazpodNetError, UsageError
from tazpod_net.home import Layout

MIRROR = "TAZPOD_NET_INSTALL_MIRROR"
_PATIENCE = 20.0  # seconds for a program to say its version
_QUARTER = 0.25


class Found(msgspec.Struct, frozen=True):
    """A program that is there. `version` is empty if it does not run."""

    name: str
    path: str
    version: str


def install(arguments: argparse.Namespace) -> int:
    """Exit 0 if both programs are there and are what was asked for."""
    wanted = None if arguments.version is None else releases.parse_version(arguments.version)
    if arguments.to is not None and not arguments.to.strip():
        raise UsageError("--to needs a directory", "for example --to ~/.local/bin")
    layout = Layout(home_of(arguments))
    daemon = _settings(arguments, layout).daemon
    target = None if arguments.to is None else os.path.abspath(os.path.expanduser(arguments.to))
    names = (daemon.binary, daemon.cli)
    there = _present(names, target)
    if not arguments.force and len(there) == len(PROGRAMS) and all(found.version for found in there):
        if wanted is None and target is None:
            return _say_present(there)
        if wanted is not None and all(found.version == wanted for found in there):
            print(f"{wanted} is there already: {_paths(there)}")
            return EXIT_OK
    directory = target or default_directory(os.environ)
    done = _put(wanted, directory, arguments.mirror or os.environ.get(MIRROR) or releases.DEFAULT_MIRROR)
    print(f"installed tailscaled and tailscale {done.version} ({done.arch}) in {directory}")
    _say_next(directory, names, layout)
    return EXIT_OK


def _settings(arguments: argparse.Namespace, layout: Layout) -> config.Config:
    env = {name: value for name, value in os.environ.items() if name != MIRROR}
    return config.load(home=layout.home, env=env, config_file=arguments.config).config


# --- what is there


def _present(names: tuple[str, str], target: str | None) -> list[Found]:
    """The programs that are there: in `target`, else where this program would look for them."""
    found = []
    for name, configured in zip(PROGRAMS, names, strict=True):
        try:
            path = find_program(configured if target is None else os.path.join(target, name), os.environ)
        except ProgramError:
            continue
        version = _version(path)
        found.append(Found(name, path, version))
        if not version:
            complain(f"{path} does not say its version: it is taken for missing")
    return found


def _version(path: str) -> str:
    """What a program says of itself; nothing of our environment is its business."""
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return releases.read_version(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else ""


def _say_present(there: list[Found]) -> int:
    """Both are there; an old one is said with the way out."""
    for found in there:
        print(f"{found.name} {found.version} is there already: {found.path}")
    old = [found for found in there if releases.is_old(found.version)]
    oldest = ".".join(map(str, releases.OLDEST))
    for found in old:
        complain(
            f"{found.path} is {found.version}, older than {oldest}: 'tazpod-net install --force' fetches the latest"
        )
    if not old and len({found.version for found in there}) > 1:
        complain("the two are of different versions: 'tazpod-net install --force' fetches a pair")
    return EXIT_FAILED if old else EXIT_OK


def _paths(there: list[Found]) -> str:
    return ", ".join(found.path for found in there)


# --- fetching


def _put(wanted: str | None, directory: str, address: str) -> Release:
    """Fetches, checks, unpacks, tries, and puts in place; after a failure everything is as it was."""
    arch = releases.architecture(os.uname().machine)
    mirror = Mirror(address, os.environ)
    with Place(directory) as place:
        release = mirror.latest(arch) if wanted is None else Release(wanted, arch)
        published = mirror.published_sum(release)
        with Part(cache_directory(os.environ), release.archive, published) as part:
            with _watcher() as watcher:
                mirror.fetch(release, part, published, watcher)
            with part.open() as packed:
                place.unpack(packed, release)
            _try(place, release)
            place.commit()
            part.remove()
    return release


def _try(place: Place, release: Release) -> None:
    """What does not run here is not put in place."""
    for name in PROGRAMS:
        said = _version(place.new(name))
        if not said:
            raise TazpodNetError(
                f"the new {name} does not run from {place.directory}",
                "nothing was changed: if it is mounted noexec, choose another directory with --to",
            )
        if said.partition("-")[0] != release.version:
            complain(f"the new {name} calls itself {said}, the archive is called {release.version}")


# --- progress


class _Lines:
    """Where no terminal is: a line at the start, at each quarter, and for whatever a person should know."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._next = _QUARTER

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def begin(self, name: str, host: str, done: int, total: int | None) -> None:
        """One line."""
        self._total = total
        size = "" if total is None else f", {_megabytes(total)}"
        going_on = f", going on at {_megabytes(done)}" if done else ""
        self.note(f"fetching {name} from {host}{size}{going_on}")

    def reached(self, done: int) -> None:
        """One line for each quarter but the last."""
        if not self._total or done >= self._total or done < self._next * self._total:
            return
        share = int(done / self._total / _QUARTER) * _QUARTER
        self._next = share + _QUARTER
        self.note(f"{share:.0%} of {_megabytes(self._total)}")

    def note(self, text: str) -> None:
        """One line on stderr: answers have stdout for themselves."""
        print(text, file=sys.stderr, flush=True)


class _Bar:
    """On a terminal: one line that is drawn again."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str, host: str, done: int, total: int | None) -> None:
        """A new attempt goes on in the same line; where it comes from has no room there."""
        del host
        if self._task is None:
            self._task = self._bar.add_task(name, total=total, completed=done)
        self._bar.update(self._task, total=total, completed=done)

    def reached(self, done: int) -> None:
        """Drawn ten times a second at most, whatever comes in."""
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)


def _watcher() -> _Bar | _Lines:
    is_bar = sys.stderr.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}
    return _Bar() if is_bar else _Lines()


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"


# --- what comes next


def _say_next(directory: str, names: tuple[str, str], layout: Layout) -> None:
    """Only what a person has to do so that the new programs are the ones that run."""
    for name, configured in zip(PROGRAMS, names, strict=True):
        mine = os.path.join(directory, name)
        key = "daemon.binary" if name == "tailscaled" else "daemon.cli"
        try:
            used = find_program(configured, os.environ)
        except ProgramError as e:
            on_path = "" if "/" in configured else f"put {directory} on PATH, or "
            print(f"  next  {e.problem}: {on_path}set {key} = {mine!r}")
            continue
        if not os.path.samefile(used, mine):
            print(f"  next  {used} comes first: remove it, or set {key} = {mine!r}")
    record = read_record(layout.daemon_record)
    if record.fits():
        print(f"  next  tailscaled (pid {record.pid}) goes on as it is: 'tazpod-net restart' starts the new one")
