"""What the scripts that set things up share: a progress line, a lock, a logged command, a directory that appears whole.

Standard library only, and nothing newer than Python 3.11: it runs before anything is installed. It knows nothing of
what is set up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PLAIN_INTERVAL_S = 15.0
LINE_LIMIT = 200


class SetupError(Exception):
    """One line for a person: what failed, and where the whole log is."""


def cache_directory() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/tazpod-net`, where everything lives that is made once and used often."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tazpod-net"


class Progress:
    """One line on stderr, rewritten on a terminal; elsewhere a line now and then, so that a log shows life."""

    def __init__(self, name: str) -> None:
        """`name` begins every line."""
        self._name = name
        self._started = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._text = "starting"
        self._last_plain = self._started
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:  # noqa: PYI034 - Self is newer than the oldest Python that must read this file
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticker.join()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def show(self, text: str) -> None:
        """What is being done now; may be called thousands of times."""
        self._text = text.strip()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(("\r\x1b[K" if self._is_terminal else "") + f"{self._name}: {text}\n")
        self._last_plain = time.monotonic()

    def _tick(self) -> None:
        while not self._ended.wait(0.2):
            line = f"{self._name}: {self.seconds:.0f} s, {self._text}"
            if self._is_terminal:
                self._write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            elif time.monotonic() - self._last_plain >= PLAIN_INTERVAL_S:
                self._last_plain = time.monotonic()
                self._write(line + "\n")
        if self._is_terminal:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


@contextlib.contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Holds a lock file; says so if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another process is at it: waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


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


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    what: str,
    show: Callable[[str], None],
    is_reason: Callable[[str], bool] = bool,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Runs a command with its output in `log`; every line is handed to `show`.

    Raises SetupError with the first line that `is_reason`, else the last one.
    """
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            lines = _copy(process.stdout, sink, show)
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
            if process.stdout:
                process.stdout.close()
    if code != 0:
        reason = next((line for line in lines if is_reason(line)), lines[-1] if lines else "no output")
        raise SetupError(f"{what} failed (exit code {code}): {reason.strip()[:LINE_LIMIT]}; the whole log: {log}")


def _copy(stream: IO[str] | None, sink: IO[str], show: Callable[[str], None]) -> list[str]:
    lines = []
    for line in stream or ():
        sink.write(line)
        lines.append(line)
        show(line)
    return lines
