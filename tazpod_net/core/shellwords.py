"""Words of bash, zsh and fish: values that come out of an evaluation as they went in, whatever they hold. Pure."""

import shlex
from collections.abc import Mapping

SHELLS = ("bash", "zsh", "fish")
_POSIX = {"sh", "dash", "ash", "ksh", "mksh", "busybox"}  # read what bash reads, as far as we write it


def known_shell(name: str) -> str | None:
    """The shell whose words a program of this name understands; None for what is no shell that we know."""
    base = name.rpartition("/")[2].lstrip("-")
    return base if base in SHELLS else "bash" if base in _POSIX else None


def quoted(shell: str, text: str) -> str:
    """One word."""
    if shell != "fish":
        return shlex.quote(text)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def assignments(shell: str, changes: Mapping[str, str | None]) -> str:
    """Lines that set and export these variables; None removes one."""
    lines = [_line(shell, name, value) for name, value in changes.items()]
    return "".join(f"{line}\n" for line in lines)


def _line(shell: str, name: str, value: str | None) -> str:
    if value is None:
        return f"set -eg {name}" if shell == "fish" else f"unset {name}"
    return f"set -gx {name} {quoted(shell, value)}" if shell == "fish" else f"export {name}={quoted(shell, value)}"
