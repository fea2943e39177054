"""The command line's grammar: one table of commands, made into argparse parsers. Knows nothing of what they do."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tazpod_net import init
from tazpod_net.core.conditions import CONDITIONS, FORMS
from tazpod_net.core.conditions import parse as parse_condition
from tazpod_net.core.durations import FORMS as DURATIONS
from tazpod_net.core.durations import parse_duration
from tazpod_net.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
MODES = ("auto", "tun", "userspace")
ALIASES = {"start": "up", "stop": "down"}
_ENV_EXAMPLE = 'tazpod-net env | source (fish), eval "$(tazpod-net env)" (bash, zsh)'
WITH_CMD = {"run"}  # commands that end with `-- CMD`


class Parser(argparse.ArgumentParser):
    """Errors are ours: one line, exit 2, with the nearest word."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(_plain(message, self), f"see '{self.prog} -h'")

    def all_options(self) -> list[str]:
        """Every option of this parser."""
        return [option for action in self._actions for option in action.option_strings]

    def of(self, command: str | None) -> "Parser":
        """The parser of a command, or this one."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no public name for it
                found = action.choices.get(command or "", self)
                assert isinstance(found, Parser)
                return found
        return self

    def refuse(self, word: str) -> NoReturn:
        """Raises UsageError for an option that this parser does not have."""
        self.error(f"unrecognized arguments: {word}")


def _plain(message: str, parser: Parser) -> str:
    """argparse's sentence without its shell talk, and the nearest option for one that does not exist."""
    if message.startswith("unrecognized arguments: "):
        word = message.partition(": ")[2]
        near = nearest(word.partition("=")[0], [o for o in parser.all_options() if o.startswith("--")])
        return f"unknown option or argument {word!r}" + (f", did you mean {near}?" if near else "")
    return message


def nearest(word: str, words: Sequence[str]) -> str | None:
    """The word that was probably meant."""
    import difflib  # noqa: PLC0415 - only after a mistake

    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return found[0] if found else None


def seconds(text: str) -> float:
    """argparse type of a duration."""
    try:
        return parse_duration(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write {DURATIONS}") from e


def condition(text: str) -> str:
    """argparse type of what can be waited for; the same for every command that waits, and for its request."""
    try:
        return str(parse_condition(text))
    except UsageError as e:
        near = nearest(text, CONDITIONS)
        raise argparse.ArgumentTypeError(f"{e}" + (f"; did you mean {near}?" if near else "")) from e


def count(text: str) -> int | None:
    """argparse type of `-n`: a number, or `all`."""
    if text == "all":
        return None
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines: write a number or 'all'")
    return int(text)


Setup = Callable[[Parser], None]


def _up(parser: Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--wait", choices=CONDITIONS, default="ready", help="what to wait for (default: ready)")
    group.add_argument("--no-wait", action="store_true", help="return as soon as the supervisor runs")
    _timeout(parser, 30.0)
    parser.add_argument("--mode", choices=MODES, help="instead of daemon.mode")
    parser.add_argument("--no-login", action="store_true", help="start the daemon, do not log in")
    parser.add_argument("--takeover", action="store_true", help="stop a tailscaled that uses this home first")
    parser.add_argument("--fresh-identity", action="store_true", help="move a bad state aside, join as a new node")
    parser.add_argument("--import-state", metavar="FILE", help="copy a tailscaled.state into this empty home first")
    parser.add_argument("--json", action="store_true", help="end with the status object")


def _down(parser: Parser) -> None:
    parser.add_argument("--timeout", type=seconds, metavar="D", help="grace before SIGKILL (default: stop.timeout_s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--logout", action="store_true", help="log the node out of its tailnet first")
    what.add_argument(
        "--orphan", action="store_true", help="only a daemon whose supervisor is gone; it does not stay stopped"
    )


def _restart(parser: Parser) -> None:
    parser.add_argument("--mode", choices=MODES, help="start again in this mode")
    _timeout(parser, 30.0)


def _status(parser: Parser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the status object, schema 1")
    form.add_argument("--short", action="store_true", help="one line, for prompts")
    parser.add_argument("--watch", action="store_true", help="again on every change; with --json one object a line")
    parser.add_argument("--for", dest="condition", choices=CONDITIONS, default="ready", help="condition of exit 0")


def _logs(parser: Parser) -> None:
    parser.add_argument("-n", dest="lines", type=count, default=100, metavar="N", help="last N lines, or 'all'")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--previous", action="store_true", help="the run before the last exit")
    which.add_argument("--supervisor", action="store_true", help="the supervisor's own log")


def _conditions(parser: Parser) -> None:
    parser.add_argument(
        "--for",
        dest="conditions",
        action="append",
        type=condition,
        metavar="COND",
        help=f"{FORMS} (default: ready); again for more: all must hold",
    )


def _wait(parser: Parser) -> None:
    _conditions(parser)
    _timeout(parser, 30.0)
    parser.add_argument("--json", action="store_true", help="end with the status object")


def _login(parser: Parser) -> None:
    parser.add_argument("--auth-key-file", metavar="F", help="file with the key, '-' for standard input")
    _timeout(parser, 30.0)


def _probe(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="the facts as one object")


def _tailscale(parser: Parser) -> None:
    parser.add_argument("args", nargs=argparse.REMAINDER, help="passed on as they are")


def _supervise(parser: Parser) -> None:
    parser.add_argument("--takeover", action="store_true", help="end a supervisor that runs, adopt its daemon")
    parser.add_argument("--mode", choices=MODES, help="instead of daemon.mode")


def _run(parser: Parser) -> None:
    _conditions(parser)
    _timeout(parser, 30.0)
    parser.add_argument("--mode", choices=MODES, help="instead of daemon.mode, if it has to be started")
    parser.add_argument("--rm", action="store_true", help="an ephemeral node in a throw-away home, gone afterwards")
    parser.usage = "%(prog)s [--for COND]... [--timeout D] [--mode M] [--rm] -- CMD..."
    _cmd(parser)


def _cmd(parser: Parser) -> None:
    """`parse` has cut it off at the first `--`: argparse's own idea of that differs between versions."""
    parser.add_argument("cmd", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")


def _env(parser: Parser) -> None:
    parser.add_argument("--shell", choices=SHELLS, help="whose words (default: the shell that runs it)")


def _init(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--install", action="store_true", help="write it into the shell's startup file")
    group.add_argument("--uninstall", action="store_true", help="take it out of there again")


def _completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def _hosts(parser: Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--apply", action="store_true", help="write them into /etc/hosts, and follow from now on")
    group.add_argument("--remove", action="store_true", help="take them out of /etc/hosts")


def _install(parser: Parser) -> None:
    parser.add_argument("--version", metavar="V", help="this version (default: the latest stable one)")
    parser.add_argument("--to", metavar="DIR", help="into this directory (default: /usr/local/bin, else ~/.local/bin)")
    parser.add_argument("--mirror", metavar="URL", help="instead of https://pkgs.tailscale.com")
    parser.add_argument("--force", action="store_true", help="fetch although they are there")


def _entrypoint(parser: Parser) -> None:
    parser.add_argument("--required", action="store_true", help="stop the container if the tailnet cannot be had first")
    parser.add_argument("--wait", choices=CONDITIONS, help="start CMD only then, or after the time-out")
    parser.add_argument(
        "--timeout", type=seconds, metavar="D", help="of --wait and --required: 30, 30s, 2m (default: 30s)"
    )
    parser.add_argument("cmd", nargs="*", metavar="CMD", help="the container's program; none: only the supervisor")


def _nothing(_parser: Parser) -> None:
    return


def _timeout(parser: Parser, default: float) -> None:
    parser.add_argument(
        "--timeout", type=seconds, default=default, metavar="D", help=f"30, 30s, 2m (default: {default:g}s)"
    )


class Command:
    """A row of the table."""

    def __init__(self, summary: str, example: str, setup: Setup = _nothing) -> None:
        self.summary = summary
        self.example = example
        self.setup = setup


COMMANDS: dict[str, Command] = {
    "up": Command("make sure that the tailnet is up", "tazpod-net up --wait online --timeout 1m", _up),
    "down": Command("stop daemon and supervisor; it stays stopped", "tazpod-net down --logout", _down),
    "restart": Command("stop and start the daemon", "tazpod-net restart --mode userspace", _restart),
    "reload": Command("read the configuration again", "tazpod-net reload"),
    "status": Command("how it is", "tazpod-net status --json --for online", _status),
    "logs": Command("the daemon's log", "tazpod-net logs -n 500 -f", _logs),
    "wait": Command(
        "wait until a condition holds", "tazpod-net wait --for online --for tcp:vault:8200 --timeout 2m", _wait
    ),
    "login": Command("log in to the tailnet", "tazpod-net login --auth-key-file ~/key", _login),
    "logout": Command("log out of the tailnet", "tazpod-net logout"),
    "probe": Command("which mode can be had here, and why", "tazpod-net probe --json", _probe),
    "tailscale": Command("run the tailscale command on this daemon", "tazpod-net tailscale ping vault", _tailscale),
    "run": Command("run a command with the tailnet", "tazpod-net run --rm -- curl http://vault:8200", _run),
    "env": Command("the proxy variables for this shell", _ENV_EXAMPLE, _env),
    "ssh-config": Command("what ~/.ssh/config needs", "tazpod-net ssh-config >>~/.ssh/config"),
    "hosts": Command("the tailnet's names, as a block of /etc/hosts", "tazpod-net hosts --apply", _hosts),
    "init": Command("what a shell sources to start the tailnet by itself", "tazpod-net init bash --install", _init),
    "completion": Command("the shell's completion script", "tazpod-net completion bash", _completion),
    "install": Command("put tailscaled and tailscale in place", "tazpod-net install --version 1.102.5", _install),
    "entrypoint": Command(
        "be a container's first process: CMD and the supervisor", "tazpod-net entrypoint -- sleep infinity", _entrypoint
    ),
    "metrics": Command("Prometheus text of what 'status' knows", "tazpod-net metrics | grep peers"),
    "supervise": Command("run the supervisor in the foreground", "tazpod-net supervise", _supervise),
}


def build(version: str) -> Parser:
    """The whole parser."""
    parser = Parser(
        prog="tazpod-net",
        description="Keeps this container on its tailnet: starts, watches and restarts tailscaled.",
        epilog="example: tazpod-net up && tazpod-net status",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tazpod-net {version}")
    _global_options(parser, default=None)
    # With `prog` given, argparse does not load shutil to find the width of the terminal (5 ms).
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, prog=parser.prog)
    for name, command in COMMANDS.items():
        aliases = [alias for alias, target in ALIASES.items() if target == name]
        sub = commands.add_parser(
            name,
            aliases=aliases,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"example: {command.example}",
            allow_abbrev=False,
        )
        _global_options(sub, default=argparse.SUPPRESS)
        command.setup(sub)
    return parser


def _global_options(parser: Parser, default: object) -> None:
    parser.add_argument("--home", metavar="DIR", default=default, help="the home (default: see the manual)")
    parser.add_argument("--config", metavar="FILE", default=default, help="this configuration file only")


def parse(argv: list[str], version: str) -> argparse.Namespace:
    """The parsed command line. Raises UsageError; `-h` and `--version` print and raise SystemExit."""
    parts = init.split(argv)
    argv = parts[0] if parts is not None else argv
    parser = build(version)
    _refuse_unknown_option(argv, parser)
    _refuse_unknown_command(argv)
    argv, passed_on = _without_tailscales(argv)
    argv, cmd = _cut(argv)
    known, rest = parser.parse_known_args(argv)
    if cmd:
        known.cmd = [*known.cmd, "--", *cmd] if known.cmd else cmd
    if rest:
        parser.of(known.command).refuse(rest[0])
    if known.command is None:
        parser.print_help(sys.stderr)
        raise UsageError("no command given", "for example: tazpod-net up")
    if parts is not None:
        known.cmd = parts[1]
    known.command = ALIASES.get(known.command, known.command)
    if passed_on:
        known.args = passed_on
    return known


def _cut(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, and those behind it."""
    if _command_word(argv) not in WITH_CMD or "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _without_tailscales(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our words, and what goes to the tailscale command as it is, options of its own included."""
    if _command_word(argv) != "tailscale":
        return argv, []
    end = _command_at(argv) + 1
    while end < len(argv):
        if argv[end] in {"--home", "--config"}:
            end += 1
        elif argv[end] not in {"-h", "--help"} and not argv[end].startswith(("--home=", "--config=")):
            return argv[:end], argv[end:]
        end += 1
    return argv, []


def _command_word(argv: list[str]) -> str | None:
    """The command; None before one is given."""
    at = _command_at(argv)
    return argv[at] if at < len(argv) else None


def _command_at(argv: list[str]) -> int:
    """Where the command stands; the length of `argv` or more before one is given."""
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] in {"--home", "--config"} else 1
    return at


def _refuse_unknown_option(argv: list[str], parser: Parser) -> None:
    """Before the command: or the value of a mistyped one would be taken for the command."""
    words = iter(argv)
    for word in words:
        if word in {"--home", "--config"}:
            next(words, None)
        elif not word.startswith("-"):
            return
        elif word.startswith("--") and word.partition("=")[0] not in parser.all_options():
            parser.refuse(word)


def _refuse_unknown_command(argv: list[str]) -> None:
    word = _command_word(argv)
    if word is not None and word not in COMMANDS and word not in ALIASES:
        near = nearest(word, [*COMMANDS, *ALIASES])
        hint = f"did you mean '{near}'? " if near else ""
        raise UsageError(f"unknown command {word!r}", f"{hint}see 'tazpod-net -h'")
