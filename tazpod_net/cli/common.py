"""What every command needs: the one-line error, and the home that is meant."""

import os
import sys
from typing import TYPE_CHECKING

from tazpod_net import home

if TYPE_CHECKING:  # 8 ms that a bare `up` does not pay
    from argparse import Namespace


person: bool | None = None  # whether somebody sits at a terminal, where this process cannot see it (behind sudo)


def on_terminal() -> bool:
    """Whether there is a person who can be asked."""
    return person if person is not None else os.isatty(0) and os.isatty(2)


def complain(text: str) -> None:
    """The one-line error."""
    print(f"tazpod-net: {' '.join(text.split())}", file=sys.stderr)


def home_of(arguments: "Namespace") -> str:
    """The home that the command line means."""
    return home.resolve(arguments.home, os.environ, os.geteuid())
