"""The control protocol between command line and supervisor, without I/O.

Private, but kept compatible: a command line and a supervisor of any two versions understand each other in `status`,
`up`, `wait` and `down`.

Request: one line of JSON, an object with `op`; the connection then belongs to that request. Unknown keys are ignored,
an unknown op is answered with exit 1 and a sentence.
Answer: frames. `O<n>`, newline and n bytes for stdout, `E<n>` likewise for stderr, `X<code>` and newline at the end. So
the client decides nothing: it copies bytes and ends with that code. The launcher speaks this without any import.
"""

from typing import Any

import msgspec

MAX_REQUEST = 65536

# Exit codes that are words to the command line and never leave it.
AGAIN = 75  # EX_TEMPFAIL: this supervisor is ending, wait for the lock and start the next
NEEDS_CREDENTIALS = 76  # it is not logged in and has nothing to log in with: what can you see?

YOURSELF = 77  # EX_NOPERM: this supervisor may not write that file; perhaps you may


class Offered(msgspec.Struct, frozen=True):
    """Credentials that a later `up` can see and the supervisor perhaps cannot; empty: none."""

    auth_key: str = ""
    client_id: str = ""
    client_secret: str = ""
    api_key: str = ""
    tailnet: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Times in seconds."""

    op: str
    as_: str = msgspec.field(name="as", default="text")  # status: text, json, short
    colour: bool = False
    condition: str = msgspec.field(name="for", default="ready")
    conditions: list[str] = []
    timeout: float = 30.0
    asked: float = 0.0  # wait: the time-out that a person asked for, of which `timeout` is what is left; for messages
    wait: str | None = "ready"  # up: condition, or null for --no-wait
    json: bool = False
    watch: bool = False
    fresh: bool = False  # up: this client has just started the supervisor
    started: float = 0.0  # up, fresh: when it began, CLOCK_MONOTONIC
    options: dict[str, Any] = {}  # up: what the command line asks for, dotted keys
    mode: str | None = None  # restart
    logout: bool = False  # down
    sticky: bool = True  # down: new shells leave it so
    auth_key: str | None = None  # login; the socket is local and the request is never logged
    interactive: bool = False
    login: bool = True  # up --no-login
    offered: Offered | None = None  # up, after NEEDS_CREDENTIALS


def decode_request(line: bytes) -> Request:
    """Raises ValueError with a sentence."""
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, RecursionError) as e:  # the second: brackets without end, from anybody on this machine
        raise ValueError(f"this supervisor does not understand the request ({e})") from e


def encode_request(request: Request) -> bytes:
    """One line."""
    return msgspec.json.encode(request) + b"\n"


def out(data: bytes) -> bytes:
    """A frame for stdout."""
    return b"O%d\n%b" % (len(data), data)


def err(data: bytes) -> bytes:
    """A frame for stderr."""
    return b"E%d\n%b" % (len(data), data)


def end(code: int) -> bytes:
    """The last frame: the exit code."""
    return b"X%d\n" % code
