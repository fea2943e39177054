"""The configuration of one home, from all its sources: files, environment, command line.

Owns the files and the order of sources: defaults < /etc < ~/.config < HOME/config.toml (or one named file
instead of the three) < environment < command line. What can be configured is the business of `core.options`,
what a variable means that of `core.environment`, which values cannot be right that of `core.checks`. It looks
at no other state of the machine, and a person gets every error at once.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tazpod_net.core import containerboot, environment
from tazpod_net.core.checks import check
from tazpod_net.core.layers import Given, Layer, merge, nearest, printable, shown
from tazpod_net.core.options import (
    DEFAULTS,
    NOT_YET,
    PATHS,
    PROGRAMS,
    SECTIONS,
    Config,
    Daemon,
    Dns,
    Doctor,
    Http,
    Log,
    Login,
    Proxy,
    Restart,
    Secret,
    Serve,
    Settings,
    Stop,
    all_keys,
    is_key,
    value_of,
)
from tazpod_net.errors import ConfigError

__all__ = [
    "NOT_YET",
    "Config",
    "Daemon",
    "Dns",
    "Doctor",
    "Http",
    "Loaded",
    "Log",
    "Login",
    "Proxy",
    "Restart",
    "Secret",
    "Serve",
    "Settings",
    "Stop",
    "load",
    "places",
]

FILE_NAME = "config.toml"
_LARGEST_FILE = 1 << 20  # bytes; a real one has a few hundred


class Loaded(msgspec.Struct, frozen=True):
    """A configuration and where it is from.

    `sources`: for each key that some source gave, in the order of the page: `FILE line 3`, `environment NAME` or
    `command line`. `notes`: what a person should hear although nothing is wrong. `files`: those that were read.
    """

    config: Config
    sources: dict[str, str]
    notes: tuple[str, ...]
    files: tuple[str, ...]


class _Place(msgspec.Struct, frozen=True):
    """A file to look for. `named_by`: who named it; a file that nobody named may be missing."""

    path: str
    named_by: str = ""


def load(
    *,
    home: str,
    env: Mapping[str, str],
    config_file: str | None = None,
    overrides: Mapping[str, object] | None = None,
    user_home: str | None = None,
    etc_dir: str = "/etc/tazpod-net",
) -> Loaded:
    """The configuration of `home`, an absolute path.

    `overrides`: `section.name` -> value from the command line, None for an option that was not given. `user_home`:
    the person's home directory where that is not the environment's HOME (under sudo).

    Raises:
        ConfigError: with every error of every source, each one line: where, what is wrong, what to do.
    """
    problems: list[str] = []
    person = _user_home(env, user_home)
    found = _places(home=home, env=env, config_file=config_file, person=person, etc_dir=etc_dir, problems=problems)
    files = [(place.path, layer) for place in found if (layer := _file_layer(place, problems)) is not None]
    layers = [
        containerboot.defaults_layer(env, environment.COMPAT, problems),
        *(layer for _, layer in files),
        environment.containerboot_layer(env, problems),
        environment.extra_args_layer(env, problems),
        environment.own_layer(env, problems),
        _command_line(overrides or {}, problems),
    ]
    given = _absolute(merge(layers, problems), person, problems)
    notes = _notes(given)
    listen = environment.listen_default(given)
    if listen is not None:
        given["http.listen"] = listen
    config = _build(given, home, person)
    problems += check(config, given)
    if problems:
        raise ConfigError([printable(problem) for problem in problems])
    sources = {key: given[key].where for key in all_keys() if key in given}
    return Loaded(config, sources, notes, tuple(path for path, _ in files))


def places(
    *,
    home: str,
    env: Mapping[str, str],
    config_file: str | None = None,
    user_home: str | None = None,
    etc_dir: str = "/etc/tazpod-net",
) -> tuple[str, ...]:
    """The files that `load` looks for, whether they exist or not; later ones win."""
    person = _user_home(env, user_home)
    found = _places(home=home, env=env, config_file=config_file, person=person, etc_dir=etc_dir, problems=[])
    return tuple(place.path for place in found)


def _places(
    *, home: str, env: Mapping[str, str], config_file: str | None, person: str, etc_dir: str, problems: list[str]
) -> list[_Place]:
    named = config_file if config_file is not None else env.get(environment.CONFIG)
    by = "--config" if config_file is not None else environment.CONFIG
    if named is not None:
        if not named:
            problems.append(f"{by}: is empty: name a file, or leave it out")
            return []
        expanded = _under_home(named, person) or named
        return [_Place(os.path.abspath(expanded), by)]
    # XDG base directory specification: a relative path in it counts as not set.
    xdg = env.get("XDG_CONFIG_HOME", "")
    base = xdg if xdg.startswith("/") else f"{person}/.config" if person else ""
    users = [_Place(f"{base}/tazpod-net/{FILE_NAME}")] if base else []
    return [_Place(f"{etc_dir}/{FILE_NAME}"), *users, _Place(f"{home}/{FILE_NAME}")]


def _user_home(env: Mapping[str, str], user_home: str | None) -> str:
    """The person's home directory; empty where there is none."""
    found = user_home or env.get("HOME", "")
    if found.startswith("/"):
        return found.rstrip("/") or "/"
    # A container's HOME may be unset; the password database knows. Rarely needed, so not loaded above.
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _file_layer(place: _Place, problems: list[str]) -> Layer | None:
    """The values of one file; None if it could not be read, which is a problem unless it may be missing."""
    try:
        data = _read(place.path)
    except (FileNotFoundError, NotADirectoryError):
        if place.named_by:
            problems.append(f"{place.path}: does not exist: create it, or correct {place.named_by}")
        return None
    except OSError as error:
        problems.append(
            f"{place.path}: cannot be read ({error.strerror}): make it a file that uid {os.getuid()} may read"
        )
        return None
    if len(data) > _LARGEST_FILE:
        problems.append(f"{place.path}: is larger than {_LARGEST_FILE} bytes: name a configuration file")
        return None
    return _parse(place.path, data, problems)


def _read(path: str) -> bytes:
    """At most one byte over the limit; never waits, whatever `path` is (a FIFO, a terminal).

    Raises:
        OSError: not there, not readable, or neither a file nor a device such as /dev/null.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise OSError(0, "it is a directory" if stat.S_ISDIR(mode) else "it is not a file")
        data = b""
        while len(data) <= _LARGEST_FILE and (part := os.read(descriptor, _LARGEST_FILE + 1 - len(data))):
            data += part
        return data
    finally:
        os.close(descriptor)


def _parse(path: str, data: bytes, problems: list[str]) -> Layer | None:
    # 8 ms: nobody without a configuration file pays for it before the daemon is started.
    import tomllib  # noqa: PLC0415

    try:
        text = data.decode("utf-8-sig")
        return _table_layer(path, tomllib.loads(text), _lines(text), problems)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(f"{path} line {line}: is not UTF-8: save the file as UTF-8")
    except RecursionError:
        problems.append(f"{path}: is nested too deeply: keys stand in [section] tables, one level deep")
    except ValueError as error:
        # TOMLDecodeError and what int() says of endless numbers; the place is only in the text (Python < 3.14).
        what, _, where = str(error).rpartition(" (at ")
        at = f"{path} line {_toml_line(where, data)}" if what else path
        problems.append(f"{at}: is not TOML ({what or error}): correct it")
    return None


def _toml_line(where: str, data: bytes) -> str:
    """The line in tomllib's `line 3, column 5)` or `end of document)`."""
    if where.startswith("line "):
        return where.removeprefix("line ").partition(",")[0]
    return str(data.count(b"\n") + 1)


def _lines(text: str) -> dict[str, int]:
    """Line numbers of `section` and `section.name` where they are easy to see, for messages only."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip()
        if words.startswith("["):
            section = _bare(words.lstrip("[").partition("]")[0])
            found.setdefault(section, number)
        elif "=" in words and not words.startswith("#"):
            name = _bare(words.partition("=")[0])
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found


def _bare(name: str) -> str:
    return name.replace(" ", "").replace('"', "").replace("'", "")


def _table_layer(path: str, table: dict[str, Any], lines: dict[str, int], problems: list[str]) -> Layer:
    layer: Layer = {}
    base = os.path.dirname(path)
    for section, values in table.items():
        if section not in SECTIONS or not isinstance(values, dict):
            problems.append(f"{_where(path, lines, section)}: {_not_a_section(section, values)}")
            continue
        for name, value in values.items():
            key = f"{section}.{name}"
            where = _where(path, lines, key)
            if is_key(key):
                layer[key] = Given(value, where, base)
            else:
                problems.append(f"{where}: {key} is not known: {_meant(key)}")
    return layer


def _where(path: str, lines: dict[str, int], key: str) -> str:
    line = lines.get(key) or lines.get(key.partition(".")[0])
    return f"{path} line {line}" if line else path


def _not_a_section(name: str, value: object) -> str:
    if name in SECTIONS:
        return f"{name} = {shown(name, value)} is not a section: write [{name}] and its keys below it"
    if isinstance(value, dict):
        near = nearest(name, SECTIONS)
        return f"[{name}] is not known: " + (
            f"write [{near}]" if near else f"remove it; sections are {', '.join(SECTIONS)}"
        )
    return f"{name} is not known outside a section: {_meant(f'.{name}')}"


def _meant(key: str) -> str:
    """What a person should write instead of an unknown `section.name`."""
    section, _, name = key.partition(".")
    elsewhere = [other for other in SECTIONS if name in SECTIONS[other].__annotations__]
    if elsewhere:
        return f"write it below [{elsewhere[0]}]"
    near = nearest(name, SECTIONS[section].__annotations__) if section else nearest(key, all_keys())
    if near:
        return f"write {section}.{near}" if section else f"write {near}"
    return f"remove it; [{section}] has {', '.join(SECTIONS[section].__annotations__)}" if section else "remove it"


def _command_line(overrides: Mapping[str, object], problems: list[str]) -> Layer:
    layer: Layer = {}
    for key, value in overrides.items():
        if value is None:
            continue
        if is_key(key):
            layer[key] = Given(value, "command line")
        else:
            problems.append(f"command line: {key} is not known: {_meant(f'.{key}')}")
    return layer


def _absolute(given: Layer, person: str, problems: list[str]) -> Layer:
    """`given` with every path made absolute; what cannot be is dropped and goes to `problems`."""
    good: Layer = {}
    for key, source in given.items():
        path = source.value
        if not isinstance(path, str) or not path or not _is_path(key, path):
            good[key] = source
            continue
        absolute = _under_home(path, person) or (path if path.startswith("/") else _below(source.base, path))
        if absolute:
            good[key] = msgspec.structs.replace(source, value=os.path.normpath(absolute))
        else:
            problems.append(f"{source.where}: {key} = {shown(key, path)} {_no_absolute(path)}")
    return good


def _is_path(key: str, text: str) -> bool:
    return key in PATHS or (key in PROGRAMS and ("/" in text or text.startswith("~")))


def _under_home(path: str, person: str) -> str:
    """`~/x`, `$HOME/x` and `${HOME}/x` as a path below `person`; empty for anything else."""
    first, slash, rest = path.partition("/")
    return f"{person}{slash}{rest}" if person and first in {"~", "$HOME", "${HOME}"} else ""


def _below(base: str | None, path: str) -> str:
    return "" if base is None or path.startswith(("~", "$")) else f"{base}/{path}"


def _no_absolute(path: str) -> str:
    if path.startswith(("~", "$")):
        return "cannot be expanded: write the whole path"
    return "is relative, and there is no file that it could be relative to: write the whole path"


def _notes(given: Layer) -> tuple[str, ...]:
    # `persist` is what this version does anyway.
    unused = [key for key in NOT_YET if key in given and given[key].value != "persist"]
    return tuple(f"{name} is set but not used by this version" for name in unused)


def _build(given: Layer, home: str, person: str) -> Config:
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in (*_default_paths(home, person), *((key, source.value) for key, source in given.items())):
        section, _, name = key.partition(".")
        values[section][name] = value
    sections: dict[str, Any] = {section: SECTIONS[section](**values[section]) for section in SECTIONS}
    return Config(**sections)


def _default_paths(home: str, person: str) -> Iterator[tuple[str, str]]:
    """The defaults that start with `HOME/` or `~/`; empty (none) where there is no home directory."""
    for key in PATHS:
        default = str(value_of(DEFAULTS, key))
        if default.startswith("HOME/"):
            yield key, home + default.removeprefix("HOME")
        elif default.startswith("~/"):
            yield key, _under_home(default, person)
