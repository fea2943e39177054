"""`logs`: the daemon's log, across rotations."""

import argparse
import sys
from collections.abc import Iterable

from tazpod_net.adapters import logreader
from tazpod_net.cli.common import home_of
from tazpod_net.home import Layout


def logs(arguments: argparse.Namespace) -> int:
    """Prints the last lines, then with -f what comes."""
    layout = Layout(home_of(arguments))
    path = layout.own_log if arguments.supervisor else layout.log
    if arguments.previous:
        return _print([line] for line in logreader.previous_run(layout.state, layout.log, arguments.lines))
    if arguments.follow:
        return _print(logreader.follow(path, arguments.lines))
    return _print([line] for line in logreader.tail_lines(path, arguments.lines))


def _print(bursts: Iterable[Iterable[str]]) -> int:
    for lines in bursts:
        sys.stdout.write("".join(line.rstrip("\n") + "\n" for line in lines))
        sys.stdout.flush()
    return 0
