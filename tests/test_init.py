"""`init`: its command line without a parser, and what PID 1 has in memory."""

import os
import signal

import pytest

from tazpod_net import init
from tazpod_net.adapters import initcmd
from tests.test_architecture import HEAVY, loaded_by


@pytest.mark.parametrize(
    ("argv", "ours", "cmd"),
    [
        ("entrypoint", "entrypoint", ""),
        ("entrypoint --", "entrypoint", ""),
        ("entrypoint -- sh -c x", "entrypoint", "sh -c x"),
        ("entrypoint sh --required", "entrypoint", "sh --required"),
        ("entrypoint --required -- -x --", "entrypoint --required", "-x --"),
        ("entrypoint --wait ready --timeout 5 a -- b", "entrypoint --wait ready --timeout 5", "a -- b"),
        ("--home entrypoint entrypoint --config c d", "--home entrypoint entrypoint --config c", "d"),
        ("--home=/h entrypoint -- entrypoint", "--home=/h entrypoint", "entrypoint"),
        ("entrypoint -h", "entrypoint -h", ""),
    ],
)
def test_where_cmd_begins(argv: str, ours: str, cmd: str) -> None:
    """Behind `--`, or at the first word that is no option of ours."""
    assert init.split(argv.split()) == (ours.split(), cmd.split())


@pytest.mark.parametrize("argv", ["", "up", "run -- entrypoint", "--home entrypoint", "status entrypoint"])
def test_other_commands_are_not_ours(argv: str) -> None:
    """Whatever stands in their arguments."""
    assert init.split(argv.split()) is None
    assert init.plain(argv.split()) is None


def test_the_plain_form() -> None:
    """Options without difficulty need no parser, the others are left to it."""
    options = init.plain(["--home=/h", "entrypoint", "--config", "/c", "--required", "--", "a", "b"])
    assert options is not None
    assert (options.home, options.config, options.required, options.command) == ("/h", "/c", True, ["a", "b"])
    for words in (["--wait=ready"], ["-h"], ["--requird"], ["--home="]):
        assert init.plain(["entrypoint", *words, "--", "a"]) is None


def test_pid_1_stays_small() -> None:
    """What it loads before it forks, and so has in memory for ever."""
    loaded = loaded_by("import tazpod_net.init")
    own = {name for name in loaded if name.startswith("tazpod_net")}
    wanted = {"init", "adapters", "adapters.environ", "adapters.initcmd"}
    assert own == {"tazpod_net", *(f"tazpod_net.{name}" for name in wanted)}
    assert {
        "asyncio",
        "socket",
        "msgspec",
        "subprocess",
        "threading",
        "logging",
        "re",
        "ctypes",
        *HEAVY,
    } & loaded == set()


@pytest.mark.parametrize("code", [0, 1, 127, 128, 255])
def test_exit_codes(code: int) -> None:
    """As the kernel writes them down (`man 2 wait`)."""
    assert initcmd.exit_code(code << 8) == code


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGRTMAX])
def test_ends_by_signal(number: int) -> None:
    """With a core and without."""
    assert initcmd.exit_code(number) == 128 + number
    assert initcmd.exit_code(number | 0x80) == 128 + number


def test_every_catchable_signal_is_known() -> None:
    """All of the kernel's 64 but KILL, STOP and libc's own two."""
    assert set(range(1, 65)) - set(initcmd.CATCHABLE) == {signal.SIGKILL, signal.SIGSTOP, 32, 33}


def test_a_line_is_said_only_where_there_is_room() -> None:
    """PID 1 never waits for a reader that does not read."""
    readable, writable = os.pipe()
    kept = os.dup(2)
    try:
        os.set_blocking(writable, False)
        while True:
            try:
                os.write(writable, b"x" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(writable, True)
        os.dup2(writable, 2)
        init.say("nobody hears it")
    finally:
        os.dup2(kept, 2)
        for fd in (kept, readable, writable):
            os.close(fd)
