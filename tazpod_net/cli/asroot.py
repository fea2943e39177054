"""The other end of `cli.sudo`: what sudo runs as root, by its file name. Does one command as the person would see it.

It hears everything on standard input, because sudo logs its arguments and others can read them: the environment with
its secrets, the import path (a user's own site-packages are not root's), the working directory and the parsed command
line. Only the home is in its arguments, for people who read the log of sudo. It answers on standard output: HELLO at
once, then GO or why root cannot do it here, then what the command prints.

Standard library only until the import path is known.
"""

import contextlib
import gc
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from argparse import Namespace

HELLO = b"tazpod-net\n"
GO = b"go\n"
QUIET = "--foreground"  # instead of sudo's caller, which has become sudo: nobody hears our answers
CHANGE_NOTHING = ("probe",)
LARGEST = 1 << 22  # bytes of a message: an environment has at most 6 MiB and usually 4 KiB


def main() -> None:
    """Does the command and ends with its exit code. Does nothing for somebody who has stopped waiting."""
    home = sys.argv[2]
    _answer(HELLO)
    gc.set_threshold(100_000)  # as the launcher does
    message = _hear()
    if message is None:
        sys.exit(1)
    sys.path[:] = message["path"]
    _become(message)
    trouble = None if message["command"] in CHANGE_NOTHING else _prepare_home(home)
    _answer(GO if trouble is None else f"{trouble}\n".encode("utf-8", "replace"))
    if trouble is None and message["command"]:
        _work(message, home)


def _answer(line: bytes) -> None:
    if QUIET in sys.argv[3:]:
        return
    try:
        os.write(1, line)
    except OSError:
        sys.exit(1)  # nobody listens any more


def _hear() -> dict[str, Any] | None:
    """The message: one line of JSON; None if it does not come whole."""
    import json  # noqa: PLC0415 - the other end loads this module for its words only

    data = b""
    while not data.endswith(b"\n") and len(data) < LARGEST:
        part = os.read(0, 1 << 16)
        if not part:
            return None
        data += part
    try:
        message: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return message


def _become(message: dict[str, Any]) -> None:
    """Takes over the person's environment, but for what sudo says of who they are."""
    whose = {name: os.environ[name] for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER") if name in os.environ}
    os.environ.clear()
    os.environ.update({**message["env"], **whose})
    with contextlib.suppress(OSError):  # a directory that root may not enter
        os.chdir(message["folder"])
    given = os.memfd_create("stdin")
    os.write(given, message["stdin"].encode("utf-8", "surrogateescape"))
    os.lseek(given, 0, os.SEEK_SET)
    os.dup2(given, 0)
    os.close(given)


def _prepare_home(home: str) -> str | None:
    """Makes what is missing of the home, for the person and not for root; or says why root cannot write there."""
    from tazpod_net.adapters import files  # noqa: PLC0415 - the import path was not known before
    from tazpod_net.errors import TazpodNetError  # noqa: PLC0415
    from tazpod_net.home import Layout  # noqa: PLC0415

    layout = Layout(home)
    made = _missing(layout.state) + _missing(layout.logs)
    try:
        files.make_home(layout.home, layout.state, layout.logs)
        for path in dict.fromkeys([*made, *([layout.gitignore] if home in made else [])]):
            os.chown(path, _number("SUDO_UID"), _number("SUDO_GID"))
        files.write_atomic(os.path.join(layout.state, "root"), b"")
        files.remove(os.path.join(layout.state, "root"))
    except TazpodNetError as e:
        return e.problem
    except OSError as e:
        return files.home_error(home, e).problem
    return None


def _missing(path: str) -> list[str]:
    """The directories on the way to `path` that are not there yet, and itself."""
    found: list[str] = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def _number(name: str) -> int:
    return int(os.environ.get(name, "0"))


def _work(message: dict[str, Any], home: str) -> None:
    from tazpod_net import launcher  # noqa: PLC0415 - the import path was not known before
    from tazpod_net.cli import common  # noqa: PLC0415
    from tazpod_net.cli.main import run_parsed  # noqa: PLC0415

    common.person = message["person"]
    given = {**message["arguments"], "command": message["command"], "home": home}
    arguments = cast("Namespace", SimpleNamespace(**given))  # not argparse's own, which costs 8 ms
    launcher.end_with(lambda: run_parsed(arguments))


if __name__ == "__main__":
    main()
