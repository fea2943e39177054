"""The full command line: parse, run one command, turn every error into one line and an exit code."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tazpod_net.cli.common import complain
from tazpod_net.errors import ConfigError, TazpodNetError

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace

Command = Callable[["Namespace"], int]

# Where each command is: a function of its name, with `_` for `-`.
_MODULES = {
    **dict.fromkeys(("up", "supervise"), "start"),
    **dict.fromkeys(("down", "restart", "reload", "login", "logout", "tailscale"), "change"),
    **dict.fromkeys(("status", "wait", "metrics"), "look"),
    **dict.fromkeys(("init", "completion"), "shell"),
    **dict.fromkeys(("env", "ssh-config"), "surroundings"),
    **{name: name for name in ("entrypoint", "hosts", "install", "logs", "probe", "run")},
}


def run(argv: list[str]) -> int:
    """The exit code of any command line."""
    return guarded(lambda: _parsed(argv))


def run_plain_up(home: str | None) -> int:
    """The exit code of `up` without options, which every shell runs."""
    from tazpod_net.cli import start  # noqa: PLC0415 - see _command

    return guarded(lambda: start.plain_up(home))


def run_parsed(arguments: "Namespace") -> int:
    """The exit code of a command line that somebody else has parsed."""
    return guarded(lambda: _command(arguments.command)(arguments))


def _parsed(argv: list[str]) -> int:
    from tazpod_net import __version__  # noqa: PLC0415 - with the parser, which loads argparse
    from tazpod_net.cli import parser  # noqa: PLC0415

    arguments = parser.parse(argv, __version__)
    return _command(arguments.command)(arguments)


def guarded(work: Callable[[], int]) -> int:
    """The exit code of a piece of work: an expected error is one line on stderr."""
    try:
        return work()
    except SystemExit as e:  # argparse's -h and --version
        return e.code if isinstance(e.code, int) else 0
    except ConfigError as e:
        for problem in e.problems:
            complain(problem)
        return e.exit_code
    except TazpodNetError as e:
        complain(str(e))
        return e.exit_code
    except BrokenPipeError:
        raise  # the reader has gone: the launcher ends quietly
    except PermissionError as e:
        complain(f"{e.filename or 'something'} may not be used ({(e.strerror or '').lower()}): run it as its owner")
        return 1
    except OSError as e:
        complain(f"{e.filename or 'the system'}: {(e.strerror or str(e)).lower()}")
        return 1


def _command(name: str) -> Command:
    """Only the module of the command that runs is loaded: each has its own needs."""
    import importlib  # noqa: PLC0415 - a bare `up` does not come here

    module = importlib.import_module(f"tazpod_net.cli.{_MODULES[name]}")
    found: Command = getattr(module, name.replace("-", "_"))
    return found
