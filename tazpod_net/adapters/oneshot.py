"""Short-lived children: input on stdin, answer from stdout, an end in time. For the probe and `--version`."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

_LARGEST = 1 << 20  # bytes of an answer


async def ask(argv: Sequence[str], env: Mapping[str, str], data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
    """Runs a program and returns its stdout. Raises OSError if it cannot be run, TimeoutError after `timeout` s."""
    question, answer = os.pipe(), os.pipe()
    try:
        pid = _spawn(argv, env, question[0], answer[1])
    except OSError:
        os.close(question[1])
        os.close(answer[0])
        raise
    finally:
        os.close(question[0])
        os.close(answer[1])
    pidfd = os.pidfd_open(pid)
    try:
        try:
            os.write(question[1], data[:65536])  # a pipe takes that much without a reader (man 7 pipe)
        finally:
            os.close(question[1])
        async with asyncio.timeout(timeout):
            return await _read_all(answer[0])
    finally:
        os.close(answer[0])
        await _reap(pidfd)


def _spawn(argv: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int) -> int:
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    return os.posix_spawn(argv[0], list(argv), dict(env), file_actions=actions, setsid=True)


async def _read_all(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(fd), "rb", buffering=0)
    )
    try:
        return await _until_eof(reader)
    finally:
        transport.close()


async def _until_eof(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < _LARGEST:
        part = await reader.read(65536)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _reap(pidfd: int) -> None:
    """Ends it if it has not ended, and takes its exit status."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - it has ended: this only reaps
        os.close(pidfd)


def python() -> str:
    """The interpreter for our own children."""
    return sys.executable
