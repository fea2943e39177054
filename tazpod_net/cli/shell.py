"""`init` and `completion`: what a shell sources. Owns the marked block in its rc file, and nothing else in that file.

The hook itself lies under `tazpod_net/shell`. Completions are made from the parser's own table of commands.
"""

import argparse
import contextlib
import errno
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator

from tazpod_net import __version__
from tazpod_net.cli import parser as grammar
from tazpod_net.core.conditions import CONDITIONS
from tazpod_net.errors import EXIT_OK, TazpodNetError

SHELLS = ("bash", "zsh", "fish")
BEGIN = b"# >>> tazpod-net >>>"
END = b"# <<< tazpod-net <<<"
_DATA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "shell")
_TARGETS = ("peer:", "tcp:", "name:")  # conditions that name something
_IN_PLACE = frozenset({errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV})


def init(arguments: argparse.Namespace) -> int:
    """Prints what to source; `--install` and `--uninstall` keep one marked block in the shell's rc file."""
    if not (arguments.install or arguments.uninstall):
        sys.stdout.write("\n".join(source_lines(arguments.shell)) + "\n")
        return EXIT_OK
    path = rc_file(arguments.shell)
    old = _read(path)
    lines = [line.encode("utf-8", "surrogateescape") for line in source_lines(arguments.shell)]
    new = with_block(old or b"", lines, path) if arguments.install else without_block(old or b"", path)
    if new != (old or b""):
        _replace(path, new, is_ours=arguments.shell == "fish")
    _say(arguments, path, changed=new != (old or b""))
    return EXIT_OK


def _say(arguments: argparse.Namespace, path: str, *, changed: bool) -> None:
    if arguments.uninstall:
        print(f"removed from {path}" if changed else f"nothing to remove in {path}")
        return
    print(f"{'written into' if changed else 'already in'} {path}: new shells use it")
    startup = _startup_without_rc() if arguments.shell == "bash" else None
    if startup is not None:
        print(f"tazpod-net: {startup} does not read ~/.bashrc: login shells do not see it", file=sys.stderr)


def _startup_without_rc() -> str | None:
    """The file that a login bash reads instead of ~/.bashrc (`man 1 bash`, INVOCATION), if it does not name that."""
    for name in (".bash_profile", ".bash_login", ".profile"):
        data = _read(os.path.join(_user_home(), name))
        if data is not None:
            return None if b"bashrc" in data else f"~/{name}"
    return None


# --- the rc file ------------------------------------------------------------------------------------------------------


def source_lines(shell: str) -> list[str]:
    """What a shell sources: silent where the program has been removed, and safe under `set -e`."""
    path = os.path.join(_DATA, "tazpod-net.fish" if shell == "fish" else "tazpod-net.sh")
    if shell == "fish":
        word = "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return [f"test ! -r {word}; or source {word} #"]
    return [f"[ ! -r {shlex.quote(path)} ] || . {shlex.quote(path)} #"]  # the comment swallows a CR in a file of CRLF


def rc_file(shell: str) -> str:
    """The file that interactive shells of this user read. Raises TazpodNetError without a HOME."""
    if shell == "bash":
        return os.path.join(_user_home(), ".bashrc")
    if shell == "zsh":
        return os.path.join(os.environ.get("ZDOTDIR") or _user_home(), ".zshrc")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(_user_home(), ".config")
    return os.path.join(base, "fish", "conf.d", "tazpod-net.fish")


def _user_home() -> str:
    home = os.environ.get("HOME")
    if not home:
        raise TazpodNetError("HOME is not set", "set it to the directory of the shell's files")
    return home


def with_block(data: bytes, lines: list[bytes], path: str) -> bytes:
    """`data` with exactly one block: in the place of the first that is there, else at the end.

    Line ends are those of `data`; where its last line has none, the last line of the block has none either, so that
    `without_block` gives back every byte. Raises TazpodNetError for half a block; `path` is for that message.
    """
    newline = b"\r\n" if b"\r\n" in data else b"\n"
    block = newline.join([BEGIN, *lines, END])
    spans = _spans(data, path)
    if spans:
        start, end = spans[0]
        rest = _cut(data[end:], path)
        after = data[end:] if len(spans) == 1 else rest
        return data[:start] + block + after
    if data and not data.endswith(b"\n"):
        return data + newline + block
    return data + block + newline


def without_block(data: bytes, path: str) -> bytes:
    """`data` without our blocks. Raises TazpodNetError for half a block."""
    return _cut(data, path)


def _cut(data: bytes, path: str) -> bytes:
    for start, end in reversed(_spans(data, path)):
        before, after = data[:start], data[end:]
        if after:
            after = after[2:] if after.startswith(b"\r\n") else after[1:]
        else:  # it had no newline at its end, so it brought the one before it
            before = before.removesuffix(b"\n").removesuffix(b"\r")
        data = before + after
    return data


def _spans(data: bytes, path: str) -> list[tuple[int, int]]:
    """Start and end of each block, without the newline after it."""
    found: list[tuple[int, int]] = []
    begun: int | None = None
    for start, line in _lines(data):
        if line == BEGIN and begun is None:
            begun = start
        elif line == END and begun is not None:
            found.append((begun, start + len(END)))
            begun = None
        elif line in {BEGIN, END}:
            raise _half(path, line)
    if begun is not None:
        raise _half(path, BEGIN)
    return found


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in data.splitlines(keepends=True):
        yield start, line.rstrip(b"\r\n")
        start += len(line)


def _half(path: str, line: bytes) -> TazpodNetError:
    return TazpodNetError(f"{path} has half of our block", f"remove the line {line.decode()!r} by hand, then again")


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError:
        return None


def _replace(path: str, data: bytes, *, is_ours: bool) -> None:
    """Writes the file behind `path` anew, keeping its mode and owner; in place where a rename cannot be had.

    `is_ours`: the whole file is ours and goes when it is empty. Raises OSError.
    """
    real = os.path.realpath(path)
    if is_ours and not data:
        os.unlink(path)
        return
    os.makedirs(os.path.dirname(real), exist_ok=True)
    try:
        before: os.stat_result | None = os.stat(real)
    except FileNotFoundError:
        before = None
    try:
        _replace_by_rename(real, data, before)
    except OSError as e:
        if before is None or e.errno not in _IN_PLACE:
            raise
        with open(real, "r+b") as f:  # a bind mount, another's file that we may write, or a directory that we may not
            f.write(data)
            f.truncate()


def _replace_by_rename(real: str, data: bytes, before: os.stat_result | None) -> None:
    temp = f"{real}.tazpod-net.{os.getpid()}"
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if before is None else 0o600)
    try:
        with open(fd, "wb") as f:
            f.write(data)
            f.flush()
            if before is not None:
                _become(f.fileno(), before)
            os.fsync(f.fileno())
        os.rename(temp, real)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def _become(fd: int, before: os.stat_result) -> None:
    """Owner first: chown(2) clears set-id bits."""
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, stat.S_IMODE(before.st_mode))


# --- completion -------------------------------------------------------------------------------------------------------


class Option:
    """One option or positional of a command, as completions need it."""

    def __init__(self, action: argparse.Action) -> None:
        self.names = tuple(action.option_strings)
        self.help = (action.help or "").replace("\n", " ")
        self.metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        self.choices = tuple(str(choice) for choice in action.choices or ())
        self.takes_value = action.nargs != 0
        self.kind = _kind(action, self.metavar)
        if self.kind == "condition":
            self.choices = (*CONDITIONS, *_TARGETS)


def _kind(action: argparse.Action, metavar: str) -> str:
    """What a value is: `words`, `condition`, `directory`, `file`, `peer`, `rest`, or `nothing` that could be listed."""
    if action.choices:
        return "words"
    if action.nargs == argparse.REMAINDER:
        return "peer" if action.dest == "args" else "rest"  # `args` are those of the tailscale command
    kinds = {"DIR": "directory", "FILE": "file", "F": "file", "COND": "condition"}
    return kinds.get(metavar, "nothing")


class Words:
    """A command with its aliases; `name` is empty for what stands before any command."""

    def __init__(self, names: tuple[str, ...], summary: str, options: list[Option]) -> None:
        self.names = names
        self.summary = summary
        self.options = [option for option in options if option.names]
        self.values = [option for option in options if not option.names]


def table() -> list[Words]:
    """The grammar of the command line, the global options first, from the parser itself."""
    top = grammar.build(__version__)
    actions = top._actions  # noqa: SLF001 - argparse has no public name for it
    subs = next(action for action in actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    rows = [Words(("",), "", [Option(action) for action in actions if action is not subs])]
    for name, command in grammar.COMMANDS.items():
        aliases = [alias for alias, target in grammar.ALIASES.items() if target == name]
        options = [Option(action) for action in subs.choices[name]._actions]  # noqa: SLF001
        rows.append(Words((name, *aliases), command.summary, options))
    return rows


def completion(arguments: argparse.Namespace) -> int:
    """Prints the completion script of a shell."""
    sys.stdout.write(script(arguments.shell))
    return EXIT_OK


def script(shell: str) -> str:
    """The completion script: a template of `tazpod_net/shell`, with the table in the shell's own words."""
    makers: dict[str, Callable[[list[Words]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    with open(os.path.join(_DATA, f"completion.{shell}"), encoding="utf-8") as f:
        template = f.read()
    return template.replace("@TABLE@\n", makers[shell](table()))


def _bash(rows: list[Words]) -> str:
    """Two cases: `words` by command, `words` or `kind` by command and option."""
    lines = ["  case $command in"]
    for row in rows:
        words = [name for option in row.options for name in option.names]
        words += [choice for value in row.values for choice in value.choices]
        if row.names == ("",):
            words += [name for other in rows[1:] for name in other.names]
        lines.append(f"  {_pattern(row.names)}) words={shlex.quote(' '.join(words))} ;;")
    lines += ["  esac", "  case $command/$previous in"]
    for row in rows:
        for option in row.options:
            if option.takes_value:
                pattern = "|".join(f"{name}/{word}" for name in row.names for word in option.names)
                lines.append(f"  {pattern}) kind={option.kind} words={shlex.quote(' '.join(option.choices))} ;;")
        for value in row.values:
            if value.kind in {"peer", "rest"}:
                lines.append(f"  {'|'.join(f'{name}/*' for name in row.names)}) kind={value.kind} ;;")
    return "\n".join([*lines, "  esac"]) + "\n"


def _pattern(names: tuple[str, ...]) -> str:
    return "|".join(name or "''" for name in names)


def _zsh(rows: list[Words]) -> str:
    """An array of commands, and the arguments of each for `_arguments`."""
    lines = ["  commands=("]
    lines += [f"    {shlex.quote(f'{name}:{row.summary}')}" for row in rows[1:] for name in row.names]
    lines += ["  )", "  case $command in"]
    for row in rows:
        specs = [_zsh_spec(option) for option in row.options] + [_zsh_value(value) for value in row.values]
        lines.append(f"  {_pattern(row.names)})")
        lines += ["    specs=(", *(f"      {shlex.quote(spec)}" for spec in specs), "    )", "    ;;"]
    return "\n".join([*lines, "  esac"]) + "\n"


_ZSH_KINDS = {"directory": "_files -/", "file": "_files", "condition": "_tazpod-net-condition", "nothing": " "}


def _zsh_spec(option: Option) -> str:
    """The long name only: a pair that excludes each other cannot be written as one word."""
    name = option.names[-1]
    value = f":{_zsh_text(option.metavar)}:{_zsh_action(option)}" if option.takes_value else ""
    equals = "=" if option.takes_value and name.startswith("--") else ""
    return f"{name}{equals}[{_zsh_text(option.help)}]{value}"


def _zsh_value(option: Option) -> str:
    if option.kind == "peer":
        return f"*:{_zsh_text(option.metavar)}:_tazpod-net-peers"
    return f"*::{_zsh_text(option.metavar)}:_normal" if option.kind == "rest" else f":shell:{_zsh_action(option)}"


def _zsh_action(option: Option) -> str:
    return f"({' '.join(option.choices)})" if option.kind == "words" else _ZSH_KINDS[option.kind]


def _zsh_text(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, "\\" + character)
    return text


def _fish(rows: list[Words]) -> str:
    """One `complete` line for each word."""
    lines = [
        f"complete -c tazpod-net -n __tazpod_net_bare -a {name} -d {_fish_quote(row.summary)}"
        for row in rows[1:]
        for name in row.names
    ]
    for row in rows:
        condition = "__tazpod_net_bare" if row.names == ("",) else f"__tazpod_net_is {' '.join(row.names)}"
        head = f"complete -c tazpod-net -n {_fish_quote(condition)}"
        lines += [f"{head} {_fish_option(option)}" for option in row.options]
        lines += [f"{head} {_fish_value(value)}" for value in row.values]
    return "\n".join(lines) + "\n"


def _fish_value(value: Option) -> str:
    if value.kind == "peer":
        return "-a '(__tazpod_net_peers)'"
    return "-F -a '(__fish_complete_command)'" if value.kind == "rest" else f"-a {_fish_quote(' '.join(value.choices))}"


def _fish_option(option: Option) -> str:
    words = [f"-s {name[1:]}" if not name.startswith("--") else f"-l {name[2:]}" for name in option.names]
    if option.kind == "directory":
        words.append("-x -a '(__fish_complete_directories (commandline -ct))'")
    elif option.kind == "file":
        words.append("-r -F")
    elif option.takes_value:
        peers = " (string replace -r '^' peer: (__tazpod_net_peers))" if option.kind == "condition" else ""
        words.append("-x" + (f" -a {_fish_quote(' '.join(option.choices) + peers)}" if option.choices else ""))
    return " ".join([*words, f"-d {_fish_quote(option.help)}"])


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
