"""The full command line: parse, run one command, turn every error into one line and an exit code."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tazpod_net.cli.common import complain
from tazpod_net.errors import ConfigError, TazpodNetError

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace

Command = Callable[["Namespace"], int]


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
    if name in {"up", "supervise"}:
        from tazpod_net.cli import start  # noqa: PLC0415

        return {"up": start.up, "supervise": start.supervise}[name]
    if name in {"status", "wait", "metrics"}:
        from tazpod_net.cli import look  # noqa: PLC0415

        return {"status": look.status, "wait": look.wait, "metrics": look.metrics}[name]
    if name == "logs":
        from tazpod_net.cli import logs  # noqa: PLC0415

        return logs.logs
    if name in {"init", "completion"}:
        from tazpod_net.cli import shell  # noqa: PLC0415

        return {"init": shell.init, "completion": shell.completion}[name]
    if name == "run":
        from tazpod_net.cli import run as running  # noqa: PLC0415

        return running.run
    if name in {"env", "ssh-config"}:
        from tazpod_net.cli import surroundings  # noqa: PLC0415

        return {"env": surroundings.env, "ssh-config": surroundings.ssh_config}[name]
    if name == "entrypoint":
        from tazpod_net.cli import entrypoint  # noqa: PLC0415

        return entrypoint.entrypoint
    if name == "hosts":
        from tazpod_net.cli import hosts  # noqa: PLC0415

        return hosts.hosts
    if name == "install":
        from tazpod_net.cli import install  # noqa: PLC0415

        return install.install
    if name == "probe":
        from tazpod_net.cli import probe  # noqa: PLC0415

        return probe.probe
    from tazpod_net.cli import change  # noqa: PLC0415

    commands: dict[str, Command] = {
        "down": change.down,
        "restart": change.restart,
        "reload": change.reload,
        "login": change.login,
        "logout": change.logout,
        "tailscale": change.tailscale,
    }
    return commands[name]
