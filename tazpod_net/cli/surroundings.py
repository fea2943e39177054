"""`env` and `ssh-config`: what other programs need to find the tailnet. Both only read."""

import asyncio
import os
import shutil
import sys
from typing import TYPE_CHECKING

from tazpod_net.adapters.localapi import LocalApi
from tazpod_net.cli import client, look
from tazpod_net.cli.common import complain, home_of
from tazpod_net.cli.run import domain_of
from tazpod_net.core import outcome, proxyenv, shellwords, sshconfig
from tazpod_net.core.status import Status
from tazpod_net.errors import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_OK, NotRunningError, TazpodNetError
from tazpod_net.home import Layout, process_stat

if TYPE_CHECKING:
    from argparse import Namespace

_ANCESTORS = 8  # processes between us and the shell: sudo, timeout, make
_PARENT = 1  # field 4 of /proc/PID/stat, counted from the third


def env(arguments: "Namespace") -> int:
    """Prints what a shell evaluates: the home and, in userspace mode, the proxies; else the way back."""
    layout = Layout(home_of(arguments))
    shell = arguments.shell or _calling_shell()
    status = _status(layout)
    if status is None:
        gone = look.offline(layout).daemon.pid is None
        _print(shell, proxyenv.restored(os.environ) if gone else dict(os.environ))  # proxies of nobody help nobody
        complain("not running: tazpod-net up")
        return EXIT_NOT_RUNNING
    if status.daemon.mode is None:
        _print(shell, {**os.environ, proxyenv.HOME: layout.home})
        complain(f"the mode is not known yet, {outcome.why_not(status)}: tazpod-net wait, then again")
        return EXIT_FAILED
    wanted = proxyenv.recorded(os.environ, status.proxy, domain_of(status))
    _print(shell, {**wanted, proxyenv.HOME: layout.home}, always=proxyenv.HOME)
    return EXIT_OK


def _status(layout: Layout) -> Status | None:
    try:
        return client.fetch_status(layout)
    except client.HungError as e:
        complain(str(e))
        return None


def _print(shell: str, wanted: dict[str, str], always: str | None = None) -> None:
    """Only what differs; `always` also if it does not: it may not be exported where this is evaluated."""
    changes = proxyenv.changes(os.environ, wanted)
    if always is not None:
        changes = {always: wanted[always], **changes}
    sys.stdout.buffer.write(os.fsencode(shellwords.assignments(shell, changes)))


def _calling_shell() -> str:
    """The nearest shell above us, else $SHELL, else bash."""
    pid = os.getppid()
    for _ in range(_ANCESTORS):
        stat = process_stat(pid)
        if pid <= 0 or stat is None:
            break
        found = shellwords.known_shell(_name_of(pid))
        if found is not None:
            return found
        pid = int(stat[_PARENT])
    return shellwords.known_shell(os.environ.get("SHELL", "")) or "bash"


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().rstrip("\n")
    except OSError:
        return ""


def ssh_config(arguments: "Namespace") -> int:
    """Prints the snippet; in TUN mode a comment that says why there is none."""
    layout = Layout(home_of(arguments))
    status = client.fetch_status(layout)
    if status is None:
        raise NotRunningError("not running", "tazpod-net up")
    if status.daemon.mode == "tun":
        sys.stdout.write(sshconfig.NOTHING_NEEDED)
        return EXIT_OK
    domain = domain_of(status)
    if domain is None:
        raise TazpodNetError(f"no tailnet yet, {outcome.why_not(status)}", "tazpod-net wait, then again")
    command = [_program(), "--home", layout.home]
    try:
        text = sshconfig.snippet(command, domain, _peers(status))
    except ValueError as e:
        raise TazpodNetError(f"ssh cannot be told of {layout.home!r} ({e})", "choose a home without a newline") from e
    sys.stdout.buffer.write(os.fsencode(text))
    return EXIT_OK


def _program() -> str:
    """This program for others: ssh may run without this shell's PATH."""
    mine = os.path.abspath(sys.argv[0])
    if os.path.basename(mine) == "tazpod-net" and os.access(mine, os.X_OK):
        return mine
    return shutil.which("tazpod-net") or "tazpod-net"


def _peers(status: Status) -> list[str]:
    """Whole names of the peers, from the daemon."""
    try:
        snapshot = asyncio.run(LocalApi(status.paths.socket).snapshot())
    except TimeoutError as e:
        raise TazpodNetError("tailscaled does not answer", "tazpod-net status") from e
    return [name for peer in (snapshot.peer or {}).values() if (name := peer.dns_name.rstrip("."))]
