"""`status --watch` on a terminal: the same text redrawn in place, on the alternate screen, until Ctrl-C.

A frame is one write between the marks of synchronised output, and overwrites what is there line by line: nothing is
cleared first, so nothing flickers. What does not fit is wrapped, then counted. The last frame stays on the screen.
"""

import contextlib
import os
import select
import signal
import time
import unicodedata
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from tazpod_net import control
from tazpod_net.core import render
from tazpod_net.core.protocol import Request, encode_request
from tazpod_net.core.status import Status
from tazpod_net.home import Layout
from tazpod_net.linux import local_offset

APPEAR_EVERY = 0.5  # seconds between looks for a supervisor when there is none
# ECMA-48 and xterm's private modes: 1049 alternate screen, 25 cursor, 2026 synchronised output (ignored where unknown).
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
_REST_OF_LINE = "\x1b[K"


def watch(layout: Layout, request: Request, offline: Callable[[], Status]) -> int:
    """Shows until Ctrl-C, also through the end of a supervisor and the start of the next."""

    def absent() -> str:
        return render.text(offline(), now=time.time(), colour=request.colour, offset_at=local_offset)

    try:
        with _Screen() as screen:
            while True:
                connection = control.connect(layout.home)
                if connection is not None:
                    for text in _frames(connection, encode_request(request), screen):
                        screen.show(text)
                screen.show(absent())
                screen.pause(APPEAR_EVERY)
    except KeyboardInterrupt:
        return 130


class _Screen:
    """The terminal while we have it."""

    def __init__(self) -> None:
        self.text = ""
        self._shown = ""
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGWINCH: self._again,
            signal.SIGCONT: self._come_back,
            signal.SIGTSTP: self._step_aside,
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
        }
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        _write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the terminal may have gone
            _write(_LEAVE + self.text)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._waker)

    def show(self, text: str) -> None:
        """Draws it, if anything differs from what stands there."""
        self.text = text
        size = os.get_terminal_size(1)
        lines = fit(text, size.columns or 80, size.lines or 24)  # 0 on terminals that nobody told
        drawn = _BEGIN + f"{_REST_OF_LINE}\r\n".join(lines) + _REST_OF_LINE + _END
        if drawn != self._shown:
            self._shown = drawn
            _write(drawn)

    def pause(self, seconds: float | None, fd: int | None = None) -> bool:
        """Until `fd` can be read (True), the time is over, or a signal came, after which all is drawn again."""
        ready, _, _ = select.select([self._wake, *([] if fd is None else [fd])], [], [], seconds)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 512)
            self.show(self.text)
        return fd in ready

    def _again(self, *_: object) -> None:
        self._shown = ""

    def _step_aside(self, *_: object) -> None:
        """Ctrl-Z: the shell gets its screen."""
        _write(_LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _come_back(self, *_: object) -> None:
        _write(_ENTER)
        self._shown = ""


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(1, data) :]


def _frames(connection: control.Socket, question: bytes, screen: _Screen) -> Iterator[str]:
    """What the supervisor sends for its standard output, until it ends."""
    fd = connection.fileno()
    data = b""
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.sendall(question)
        while True:
            if not screen.pause(None, fd):
                continue
            part = connection.recv(65536)
            data += part
            while b"\n" in data:
                head, _, rest = data.partition(b"\n")
                if head[:1] == b"X":
                    return
                size = int(head[1:])
                if len(rest) < size:
                    break
                data = rest[size:]
                if size and head[:1] == b"O":
                    yield rest[:size].decode("utf-8", "replace")
            if not part:
                return


def fit(text: str, columns: int, rows: int) -> list[str]:
    """The text as lines of at most `columns` cells, at most `rows` of them; the last one counts what is left out."""
    lines = [part for line in text.rstrip("\n").split("\n") for part in _wrap(line, max(columns, 8))]
    if len(lines) <= rows:
        return lines
    kept = max(rows - 1, 0)
    return [*lines[:kept], f"… {len(lines) - kept} more lines"]


def _wrap(line: str, columns: int) -> Iterator[str]:
    """Breaks by cells: colours have none, wide letters two, marks none."""
    part, used, index = "", 0, 0
    while index < len(line):
        if line[index] == "\x1b":
            end = line.find("m", index) + 1 or len(line)
            part += line[index:end]
            index = end
            continue
        cells = _cells(line[index])
        if used + cells > columns:
            yield part
            part, used = "", 0
        part += line[index]
        used += cells
        index += 1
    yield part


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
