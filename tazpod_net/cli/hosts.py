"""`hosts`: the tailnet's names as a marked block of /etc/hosts. The supervisor writes it where it may; else we do."""

import argparse
import errno
import os
import sys
from collections.abc import Callable

from tazpod_net.adapters.hostsfile import HostsFile
from tazpod_net.cli import client
from tazpod_net.cli.common import complain, home_of
from tazpod_net.core import hostsblock
from tazpod_net.core.peers import Machine
from tazpod_net.core.protocol import YOURSELF, Request
from tazpod_net.errors import EXIT_NOT_RUNNING, EXIT_OK, TazpodNetError
from tazpod_net.home import Layout


def hosts(arguments: argparse.Namespace) -> int:
    """Prints the block, or brings it into the file, or out."""
    layout = Layout(home_of(arguments))
    op = "hosts-apply" if arguments.apply else "hosts-remove" if arguments.remove else "hosts"
    code = client.ask(layout, Request(op=op), client.STATUS_PATIENCE)
    if arguments.remove and code in {None, YOURSELF}:
        return _remove(layout)
    if code == YOURSELF:
        return _apply(layout)
    if code is None:
        complain("no supervisor runs for this home: tazpod-net up")
        return EXIT_NOT_RUNNING
    return code


def _remove(layout: Layout) -> int:
    home = os.path.realpath(layout.home)
    changed = _change(lambda data: hostsblock.outside(data, home))
    print("names are taken out of /etc/hosts" if changed else "no names of this home in /etc/hosts")
    return EXIT_OK


def _apply(layout: Layout) -> int:
    """As somebody who may write what the supervisor may not. What it says is checked as what a server says."""
    found = client.collect(layout, Request(op="hosts"), client.STATUS_PATIENCE)
    if found is None:
        complain("no supervisor runs for this home: tazpod-net up")
        return EXIT_NOT_RUNNING
    code, text, said = found
    sys.stderr.write(said.decode("utf-8", "replace"))
    if code != EXIT_OK:
        return code
    known = _machines(text.decode("ascii", "replace"))
    home = os.path.realpath(layout.home)

    def edit(data: bytes) -> bytes:
        lines = hostsblock.plan(known, data, home, os.uname().nodename).lines
        return data if hostsblock.holds(data, home, lines) else hostsblock.with_block(data, home, lines)

    _change(edit)
    complain("written once: the supervisor of this home may not write /etc/hosts, so that nothing follows its peers")
    print("names are in /etc/hosts")
    return EXIT_OK


def _machines(text: str) -> list[Machine]:
    """The machines that the lines of a block speak of."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#") and line.split():
            address, *names = line.split()
            rows.setdefault(tuple(names), []).append(address)
    return [Machine(short=names[-1], full=names[0], ips=tuple(ips)) for names, ips in rows.items() if names]


def _change(edit: Callable[[bytes], bytes]) -> bool:
    try:
        return HostsFile(None).change(edit)
    except PermissionError as e:
        raise TazpodNetError("you may not write /etc/hosts", "run it as root") from e
    except OSError as e:
        fix = "mount it writable" if e.errno == errno.EROFS else "correct that, then again"
        raise TazpodNetError(f"/etc/hosts cannot be written ({(e.strerror or str(e)).lower()})", fix) from e
