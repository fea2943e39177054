"""`status`, `wait` and `metrics`: ask, and never start or repair anything."""

import argparse
import os
import sys
import time

import msgspec

from tazpod_net import __version__
from tazpod_net.adapters import process
from tazpod_net.boot import read_mark
from tazpod_net.cli import client
from tazpod_net.cli.common import complain, home_of
from tazpod_net.core import render
from tazpod_net.core.argv import read_argv
from tazpod_net.core.protocol import Request
from tazpod_net.core.status import (
    DaemonPart,
    IdentityPart,
    Note,
    PathsPart,
    Status,
    SupervisorPart,
    to_json,
    to_pretty_json,
)
from tazpod_net.core.timefmt import rfc3339
from tazpod_net.core.timefmt import seconds as show
from tazpod_net.daemon import read_record
from tazpod_net.errors import EXIT_NOT_RUNNING, NotRunningError
from tazpod_net.home import Layout, socket_dirs, start_ticks
from tazpod_net.linux import local_offset

APPEAR_EVERY = 0.2  # seconds between looks for a supervisor, only while somebody watches and there is none


def status(arguments: argparse.Namespace) -> int:
    """How it is; exit 0 if the condition holds, 1 if not, 3 without a supervisor."""
    layout = Layout(home_of(arguments))
    request = Request(
        op="status",
        as_="json" if arguments.json else "short" if arguments.short else "text",
        colour=_colour(),
        condition=arguments.condition,
        watch=arguments.watch,
    )
    if arguments.watch:
        return _watch(layout, request)
    hung: client.HungError | None = None
    try:
        code = client.ask(layout, request, client.STATUS_PATIENCE)
    except client.HungError as e:
        hung, code = e, None
    if code is not None:
        return code
    _print(offline(layout, hung), request)
    return EXIT_NOT_RUNNING


def _colour() -> bool:
    return os.isatty(1) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _watch(layout: Layout, request: Request) -> int:
    """Until Ctrl-C or the reader's end: through the end of this supervisor, and into the life of the next."""
    if os.isatty(1) and request.as_ == "text" and os.environ.get("TERM") != "dumb":
        from tazpod_net.cli import live  # noqa: PLC0415 - of no use but here

        return live.watch(layout, request, lambda: offline(layout))
    shown: Status | None = None
    while True:
        hung: client.HungError | None = None
        try:
            if client.ask(layout, request, client.STATUS_PATIENCE) is not None:
                shown = None
        except client.HungError as e:
            hung = e
        found = offline(layout, hung)
        if shown is None or _steady(found) != _steady(shown):
            _print(found, request)
            sys.stdout.flush()
            shown = found
        time.sleep(APPEAR_EVERY)


def _steady(found: Status) -> Status:
    return msgspec.structs.replace(found, checked_at="")


def _print(found: Status, request: Request) -> None:
    if request.as_ == "json":
        sys.stdout.buffer.write(to_json(found) + b"\n" if request.watch else to_pretty_json(found))
    elif request.as_ == "short":
        print(render.short(found))
    else:
        sys.stdout.write(render.text(found, now=time.time(), colour=request.colour, offset_at=local_offset))


def offline(layout: Layout, hung: client.HungError | None = None) -> Status:
    """The status of a home without an answering supervisor."""
    mark = read_mark(layout.stopped)
    left = survivor(layout)
    notes: list[Note] = []
    record = read_record(layout.daemon_record)
    if hung is not None:
        summary = f"not answering: {hung.problem}"
        notes.append(Note("hung", "nothing supervises tailscaled now", hung.fix))
    elif left is not None and _is_by_hand(left, layout):
        summary = f"not running: a tailscaled started by hand (pid {left}) uses this home"
        notes.append(
            Note(
                "by-hand", "this program did not start it", "'tazpod-net up --takeover' stops it and keeps the identity"
            )
        )
    elif left is not None:
        summary = f"supervisor is gone, tailscaled (pid {left}) still runs: tazpod-net up takes it over"
    elif mark is not None:
        at = render.clock(str(mark.get("at")), time.time(), local_offset)
        summary = f"not running: stopped by '{mark.get('by')}' at {at}, new shells leave it so"
    else:
        summary = "not running"
    if left is None and hung is None:
        notes.append(Note("start", "nothing runs for this home", "tazpod-net up"))
    return Status(
        checked_at=rfc3339(time.time()),
        wanted="stopped" if mark is not None else "up",
        summary=summary,
        notes=notes,
        supervisor=SupervisorPart(
            pid=None if hung is None else hung.pid,
            start_ticks=None if hung is None or hung.pid is None else start_ticks(hung.pid),
            version=__version__,
        ),
        daemon=DaemonPart(
            pid=left,
            binary_version=record.binary_version,
            mode=None if left is None else read_argv(process.argv_of(left)).mode,
            restarts=record.restarts,
            last_exit=record.last_exit,
        ),
        identity=IdentityPart(path=layout.home if os.path.isdir(layout.state) else None),
        paths=PathsPart(
            layout.home, os.path.join(socket_dirs(layout.home, os.environ)[0], "tailscaled.sock"), layout.log
        ),
    )


def survivor(layout: Layout) -> int | None:
    """A daemon that outlived its supervisor: the one in the record, if it is a tailscaled of this home, else any."""
    sockets = {os.path.join(d, "tailscaled.sock") for d in socket_dirs(layout.home, os.environ)}
    record = read_record(layout.daemon_record)
    if record.pid and record.fits() and _serves(record.pid, sockets):
        return record.pid
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((pid for pid in pids if _serves(pid, sockets)), None)


def _is_by_hand(pid: int, layout: Layout) -> bool:
    """Whether its output goes elsewhere than into a spool of ours: then no supervisor has started it."""
    try:
        output = os.readlink(f"/proc/{pid}/fd/2")
    except OSError:  # another user's
        return False
    return read_record(layout.daemon_record).pid != pid and not os.path.basename(output).startswith("spool.")


def _serves(pid: int, sockets: set[str]) -> bool:
    argv = process.argv_of(pid)
    return len(argv) > 1 and "tailscaled" in os.path.basename(argv[0]) and read_argv(argv).socket in sockets


class _Asked:
    """One `wait` over several attempts: a supervisor may appear, end and appear again."""

    def __init__(self, layout: Layout, arguments: argparse.Namespace, deadline: float) -> None:
        self.layout = layout
        self.arguments = arguments
        self.deadline = deadline
        self.trouble: client.HungError | None = None

    def once(self) -> int:
        """The exit code. Raises NotYet without an answer."""
        request = Request(
            op="wait",
            conditions=self.arguments.conditions or ["ready"],
            timeout=max(0.0, self.deadline - time.monotonic()),
            asked=self.arguments.timeout,
            json=self.arguments.json,
        )
        try:
            code = client.ask(self.layout, request, client.STATUS_PATIENCE)
        except client.HungError as e:
            self.trouble = e
            raise client.NotYet from e
        if code is None:
            raise client.NotYet
        return code


def wait(arguments: argparse.Namespace) -> int:
    """Returns when all conditions hold; waits for a supervisor to appear too."""
    layout = Layout(home_of(arguments))
    conditions = arguments.conditions or ["ready"]
    deadline = time.monotonic() + arguments.timeout
    asked = _Asked(layout, arguments, deadline)
    try:
        for attempt in client.again(arguments.timeout, every=0.1):
            with attempt:
                return asked.once()
    except client.NotYet:
        pass
    trouble = asked.trouble
    if arguments.json:
        sys.stdout.buffer.write(to_json(offline(layout, trouble)) + b"\n")
    why = str(trouble) if trouble is not None else "no supervisor runs for this home: tazpod-net up"
    complain(f"not {' and '.join(conditions)} after {show(arguments.timeout)}, {why}")
    return EXIT_NOT_RUNNING


def metrics(arguments: argparse.Namespace) -> int:
    """Prometheus text; exit 3 without a supervisor."""
    code = client.ask(Layout(home_of(arguments)), Request(op="metrics"), client.STATUS_PATIENCE)
    if code is None:
        raise NotRunningError("not running", "tazpod-net up")
    return code
