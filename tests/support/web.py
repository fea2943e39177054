"""Clients of the HTTP side, as programs that run in a place: honest ones, and a crowd that is not.

They know sockets only, so that they see what is really sent.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.netns import Place

# Sends its third argument to host and port, prints all that comes back.
ASK = """
import socket, sys
host, port, request = sys.argv[1:]
with socket.create_connection((host, int(port)), 20) as s:
    s.sendall(request.encode())
    while data := s.recv(65536):
        sys.stdout.buffer.write(data)
"""

# Opens so many connections and holds them to the end of its input: a quarter says nothing, a quarter begins a request,
# a quarter sends nonsense, a quarter asks for metrics without end and does not read. Prints how many it has opened.
CROWD = """
import os, resource, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
asks = b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n"
kinds = (b"", asks + b"X: ", os.urandom(500), (asks + b"\\r\\n") * 50)
held = []
for number in range(count):
    s = socket.socket()
    s.settimeout(20)
    try:
        s.connect((host, port))
        s.setblocking(False)
        s.send(kinds[number % 4])
    except OSError:
        pass
    held.append(s)
print(len(held), flush=True)
sys.stdin.read()
"""

# So many connections at once, each with one request; prints how many got a whole answer with status 200.
HERD = """
import resource, selectors, socket, sys
host, port, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
request = f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode()
waiting, answers = selectors.DefaultSelector(), {}
for number in range(count):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((host, port))
    waiting.register(s, selectors.EVENT_WRITE)
while waiting.get_map():
    ready = waiting.select(30)
    if not ready:
        break
    for key, events in ready:
        s = key.fileobj
        try:
            if events & selectors.EVENT_WRITE:
                s.send(request)
                waiting.modify(s, selectors.EVENT_READ)
                continue
            data = s.recv(65536)
        except OSError:
            data = b""
        answers[s] = answers.get(s, b"") + data
        if not data:
            waiting.unregister(s)
            s.close()
def whole(answer):
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    return head.startswith(b"HTTP/1.1 200 ") and f"Content-Length: {len(body)}".encode().lower() in head.lower()
print(sum(map(whole, answers.values())))
"""


class Reply(NamedTuple):
    """One answer."""

    status: int
    head: str
    body: str


def fetch(place: Place, port: int, path: str, *, host: str = "127.0.0.1", method: str = "GET") -> Reply:
    """Asks from inside the place; AssertionError if nobody answers."""
    request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    done = place.run([sys.executable, "-c", ASK, host, str(port), request], timeout=40)
    head, _, body = done.stdout.partition("\n\n")  # text mode: \r\n is \n
    assert done.returncode == 0, done.stderr
    assert head.startswith("HTTP/1.1 "), done.stdout + done.stderr
    return Reply(int(head.split()[1]), head, body)


def is_open(place: Place, port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there; anything else than a refusal is an AssertionError."""
    done = place.run([sys.executable, "-c", ASK, host, str(port), "GET / HTTP/1.0\r\n\r\n"], timeout=40)
    assert done.returncode == 0 or "ConnectionRefusedError" in done.stderr, done.stderr
    return done.returncode == 0


def herd(place: Place, port: int, count: int, path: str) -> int:
    """How many of `count` simultaneous requests were answered."""
    argv = [sys.executable, "-c", HERD, "127.0.0.1", str(port), str(count), path]
    return int(place.run(argv, timeout=90, check=True).stdout)


@contextlib.contextmanager
def crowd(place: Place, port: int, count: int) -> Iterator[None]:
    """Meanwhile `count` hostile connections are held open."""
    argv = [sys.executable, "-c", CROWD, "127.0.0.1", str(port), str(count)]
    program = place.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert int(program.stdout.readline()) == count
        yield
    finally:
        program.communicate()
