"""`logs`: the daemon's log, across rotations."""

import argparse
import os
import sys
from collections.abc import Iterable

from tazpod_net.adapters import logreader
from tazpod_net.cli.main import home_of
from tazpod_net.errors import TazpodNetError
from tazpod_net.home import Layout


def logs(arguments: argparse.Namespace) -> int:
    """Prints the last lines, then with -f what comes."""
    layout = Layout(home_of(arguments))
    path = layout.own_log if arguments.supervisor else layout.log
    if arguments.previous:
        return _print(logreader.previous_run(layout.state, layout.log))
    if not os.path.exists(path):
        raise TazpodNetError(f"there is no log yet ({path})", "tazpod-net up")
    if arguments.follow:
        return _print(logreader.follow(path, last=arguments.lines))
    return _print(logreader.tail_lines(path, arguments.lines))


def _print(lines: Iterable[bytes]) -> int:
    out = sys.stdout.buffer
    try:
        for line in lines:
            out.write(line if line.endswith(b"\n") else line + b"\n")
            out.flush()
    except KeyboardInterrupt:
        return 0
    return 0
