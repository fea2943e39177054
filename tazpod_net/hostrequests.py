"""The requests of `hosts`: what would be in the block, write it, take it out. Rights are the service's business."""

import errno
from typing import TYPE_CHECKING

from tazpod_net.core import hostsblock, outcome, protocol
from tazpod_net.core.hostsblock import Refused
from tazpod_net.errors import EXIT_OK, TazpodNetError
from tazpod_net.names import Names, is_refused

if TYPE_CHECKING:
    from tazpod_net.service import Client
    from tazpod_net.supervisor import Supervisor

FRESH = 0.3  # seconds that a request waits for the daemon's newest peers


async def answer(op: str, supervisor: "Supervisor", names: Names, client: "Client") -> int:
    """The exit code of one request."""
    try:
        if op == "hosts-remove":
            return _remove(names, client)
        status = await supervisor.fresh_status(FRESH)
        if not status.ready:
            return client.fail(f"not ready, {outcome.why_not(status)}", "tazpod-net up")
        if op == "hosts-apply":
            return _apply(supervisor, names, client)
        plan = names.preview(supervisor.session.backend.machines)
    except (OSError, TazpodNetError) as e:
        return _failed(e, client)
    client.raw(hostsblock.block(names.home, plan.lines))
    _say_refused(plan.refused, client)
    return EXIT_OK


def _apply(supervisor: "Supervisor", names: Names, client: "Client") -> int:
    before, names.order = names.order, True
    try:
        names.apply(supervisor.session.backend.machines)
    except (OSError, TazpodNetError):
        names.order = before
        raise
    _say_refused(names.refused, client)
    client.out("names are in /etc/hosts, and followed until 'tazpod-net down' or 'tazpod-net hosts --remove'")
    names.notify()
    return EXIT_OK


def _remove(names: Names, client: "Client") -> int:
    before, names.order = names.order, False
    try:
        changed = names.remove()
    except (OSError, TazpodNetError):
        names.order = before
        raise
    client.out("names are taken out of /etc/hosts" if changed else "no names of this home in /etc/hosts")
    names.notify()
    return EXIT_OK


def _failed(error: OSError | TazpodNetError, client: "Client") -> int:
    if is_refused(error):
        return protocol.YOURSELF
    if isinstance(error, TazpodNetError):
        return client.fail(error.problem, error.fix)
    fix = "free some space on its filesystem" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return client.fail(f"/etc/hosts cannot be used ({(error.strerror or str(error)).lower()})", fix)


def _say_refused(refused: tuple[Refused, ...], client: "Client") -> None:
    for each in refused:
        client.err(f"tazpod-net: left out: {each.name} {each.why}")
