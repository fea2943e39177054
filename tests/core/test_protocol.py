"""The control protocol: requests and frames, and that the launcher understands what the supervisor writes."""

import socket
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net import control
from tazpod_net.core import protocol
from tazpod_net.core.protocol import Offered, Request, decode_request, encode_request

requests = st.builds(
    Request,
    op=st.text(),
    as_=st.sampled_from(["text", "json", "short"]),
    colour=st.booleans(),
    condition=st.text(),
    conditions=st.lists(st.text(), max_size=3),
    timeout=st.floats(0, 1e6),
    wait=st.none() | st.text(),
    options=st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(), max_size=3
    ),
    auth_key=st.none() | st.text(),
    offered=st.none() | st.builds(Offered, auth_key=st.text()),
)


@given(requests)
def test_a_request_is_one_line_and_comes_back(request: Request) -> None:
    """Whatever is asked is one line, and is read as what was asked."""
    line = encode_request(request)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert decode_request(line) == request


def test_the_launchers_request_is_understood() -> None:
    """The hot path writes its request by hand."""
    assert decode_request(b'{"op":"status","as":"short","colour":false}\n') == Request(op="status", as_="short")


def test_a_newer_client_may_say_more() -> None:
    """Keys that this supervisor does not know are passed over."""
    assert decode_request(b'{"op": "up", "novelty": {"deep": [1]}}') == Request(op="up")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"status",
        b'{"op": 1}',
        b'{"op": "up", "timeout": "soon"}',
        b'{"op": "up", "offered": {"auth_key": 1}}',
        b"\xff\xfe",
        b'{"op":"up","options":{"a":' + b"[" * 60_000,
    ],
    ids=lambda line: line[:30].decode("latin-1"),
)
def test_what_is_no_request_is_refused_with_a_sentence(line: bytes) -> None:
    """Nonsense, wrong types and endless nesting are one kind of error, on one line."""
    with pytest.raises(ValueError, match="does not understand the request") as raised:
        decode_request(line)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    """No bytes of a client lead to another exception."""
    try:
        request = decode_request(line)
    except ValueError:
        return
    assert isinstance(request, Request)


def test_a_refusal_never_repeats_a_key() -> None:
    """The sentence about a bad request may be logged: it has no value of the request in it."""
    with pytest.raises(ValueError, match="auth_key") as raised:
        decode_request(b'{"op": "login", "auth_key": ["tskey-auth-secret"]}')
    assert "tskey" not in str(raised.value)


def test_frames() -> None:
    """The bytes on the wire are what the launcher of any version expects."""
    assert protocol.out(b"ready\n") == b"O6\nready\n"
    assert protocol.err(b"") == b"E0\n"
    assert protocol.end(3) == b"X3\n"


def read_by_launcher(
    wire: bytes, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[int | None, list[tuple[int, bytes]]]:
    """What the launcher writes and ends with when these bytes come in these pieces."""
    written: list[tuple[int, bytes]] = []
    monkeypatch.setattr(control, "_write", lambda fd, data: written.append((fd, bytes(data))))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.recv(100)
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            theirs.sendall(wire[start:end])
        theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    code = control.converse(ours, b"?\n", patience=30.0)
    server.join()
    ours.close()
    return code, written


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 5], list(range(1, 30))])
def test_the_launcher_copies_frames_however_they_are_cut(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames arrive in any pieces; bytes go to their streams, the code is the exit code."""
    wire = protocol.out(b"ready\nX7\n") + protocol.err(b"") + protocol.err(b"E5\nO") + protocol.end(1)
    code, written = read_by_launcher(wire, [cut for cut in cuts if cut < len(wire)], monkeypatch)
    assert code == 1
    assert [(fd, data) for fd, data in written if data] == [(1, b"ready\nX7\n"), (2, b"E5\nO")]


@pytest.mark.parametrize(
    "wire", [b"", b"O", b"O5\nab", protocol.out(b"ab"), protocol.end(protocol.AGAIN)], ids=lambda w: w.decode()
)
def test_an_answer_without_its_end_is_none(wire: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that died in the middle, or says `again`, gives no exit code: the full command line decides."""
    assert read_by_launcher(wire, [], monkeypatch)[0] is None


def test_a_request_that_is_too_long_is_known_before_it_is_sent() -> None:
    """The server reads so many bytes of a line and no more; no request of ours comes near."""
    request = Request(op="up", options={"daemon.mode": "userspace"}, offered=Offered("k" * 500, "i" * 99, "s" * 500))
    assert len(encode_request(request)) < protocol.MAX_REQUEST / 10
    assert msgspec.json.decode(encode_request(request))["op"] == "up"
