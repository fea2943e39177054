"""Reads a secret from a file as people write them: quotes, CRLF, trailing blanks. Never blocks, never logs a value."""

import os
import stat

_LARGEST = 65536  # bytes


class Found:
    """What a file holds: `value` is None unless there is a key, `state` says what was found (`missing`, `empty` …)."""

    __slots__ = ("state", "value")

    def __init__(self, value: str | None, state: str) -> None:
        self.value = value
        self.state = state


def read_key(path: str) -> Found:
    """The key in a file. A directory, a FIFO or a socket is an answer, not a wait."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return Found(None, "missing")
    except OSError as e:
        return Found(None, f"unreadable ({(e.strerror or '').lower()})")
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            return Found(None, "is a directory")
        if not stat.S_ISREG(kind):
            return Found(None, "is not a regular file")
        raw = os.read(fd, _LARGEST)
    except OSError as e:
        return Found(None, f"unreadable ({(e.strerror or '').lower()})")
    finally:
        os.close(fd)
    key = clean(raw)
    return Found(key, "set") if key else Found(None, "empty")


def clean(raw: bytes) -> str:
    """The key without what editors and shells put around it: BOM, blanks, line ends, one pair of quotes."""
    text = raw.decode("utf-8", "replace").lstrip("\ufeff").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text
