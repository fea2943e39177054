"""Why did tailscaled end? From its exit status and its last lines to one plain reason. Pure.

The texts are tailscaled's (`tailscaled.md`, sections 4, 6 and 23, each seen with v1.102.5): stable substrings, never
whole lines. The line that counts is the last one that says something: Go prints the cause of an exit at its end.
"""

import signal as signals

import msgspec

TAIL_LINES = 20  # kept in `last_exit.log_tail`
LOOK_LINES = 200  # to look for the cause: a wrong option is followed by 45 lines of usage, a panic by its goroutines


class ExitStatus(msgspec.Struct, frozen=True):
    """How the process ended. Both None: the kernel does not tell any more (adopted, reaped by another parent)."""

    code: int | None = None
    signal: int | None = None


class Cause(msgspec.Struct, frozen=True):
    """The verdict. `reason`: how it ended, and why if that is known; `because`: why, with the log's own words."""

    reason: str
    because: str | None = None
    next: str | None = None
    tun_failed: bool = False
    permanent: bool = False


def from_wait_status(status: int) -> ExitStatus:
    """From a wait status (`man 2 wait`), also field 52 of /proc/PID/stat and PIDFD_GET_INFO's exit_code."""
    if status & 0x7F:
        return ExitStatus(signal=status & 0x7F)
    return ExitStatus(code=(status >> 8) & 0xFF)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 99` for what has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def explain(
    status: ExitStatus, tail: list[str], *, mode: str, live: bool, asked: bool = False, ran: float = 0.0
) -> Cause:
    """The verdict on one end. `live`: LocalAPI had answered; `asked`: we sent the signal; `ran`: seconds.

    `tail` is what it wrote last, `LOOK_LINES` at best. Only a daemon that never answered can have failed to start:
    later the same words in its log mean something else.
    """
    how = _how(status, ran)
    if asked:
        return Cause(f"{how}, as asked")
    if status.signal is not None:
        return Cause(how)
    found = next((hit for hit in (_classify(line, live=live) for line in reversed(tail)) if hit is not None), None)
    if found is None and any(_USAGE in line for line in tail):
        found = _OPTION, ""
    if found is None:
        return Cause(how, because=_last_words(tail))
    known, detail = found
    return Cause(
        f"{how}: {known.says}",
        because=_sentence(known.says, detail),
        next=known.fix,
        tun_failed=known.kind == _TUN and mode == "tun",
        permanent=known.kind == _PERMANENT,
    )


def how_of(reason: str) -> str:
    """The part of `Cause.reason` that says how it ended: `code 1 after 0.4 s`."""
    return reason.partition(": ")[0]


def _how(status: ExitStatus, ran: float) -> str:
    if status.signal is not None:
        likely = ", likely out of memory" if status.signal == signals.SIGKILL else ""
        return signal_name(status.signal) + likely
    if status.code is None:
        return "ended, exit status unknown"
    after = f" after {ran:.1f} s" if 0 < ran < 10 else ""  # noqa: PLR2004 - longer runs do not look like a start
    return f"code {status.code}{after}"


class _Known(msgspec.Struct, frozen=True):
    """One kind of end: a line with all `needles`. `says` may have `{name}`, the interface that the line names."""

    needles: tuple[str, ...]
    kind: str
    says: str
    fix: str | None = None


_TUN, _PERMANENT, _START, _ANY = "tun", "permanent", "start", "any"  # all but the last: only before LocalAPI answered
_ENV = "tailscaled does not accept an environment variable"
_ENV_FIX = "correct or unset it, then: tazpod-net down; tazpod-net up"
_ARGS_FIX = "correct daemon.extra_args, then: tazpod-net reload; tazpod-net up"
_OPTION = _Known((), _PERMANENT, "tailscaled does not accept an option", _ARGS_FIX)
_USAGE = "print version information and exit"  # of the usage text, 41 lines, which may have pushed the error away
_KNOWN = (
    _Known(("invalid ", " environment variable "), _PERMANENT, _ENV, _ENV_FIX),
    *(
        msgspec.structs.replace(_OPTION, needles=needles)
        for needles in (
            ("flag provided but not defined",),
            ("flag needs an argument",),
            ("invalid value ", " for flag -"),
            ("invalid boolean value ", " for -"),
        )
    ),
    _Known(("does not take non-flag arguments",), _PERMANENT, "tailscaled does not accept an argument", _ARGS_FIX),
    _Known(("error reading config file",), _PERMANENT, "its --config file is bad", _ARGS_FIX),
    _Known(("error parsing config",), _PERMANENT, "its --config file is bad", _ARGS_FIX),
    _Known(("--statedir (or at least --state) is required",), _PERMANENT, "it has no state directory", None),
    _Known(("failed to create state directory",), _PERMANENT, "it cannot make its state directory", None),
    _Known(("device or resource busy",), _TUN, "another program holds {name}",
           'set daemon.mode = "userspace" or stop the other one'),
    _Known(("/dev/net/tun does not exist",), _TUN, "there is no /dev/net/tun"),
    _Known(("requires root",), _TUN, "TUN needs root"),
    _Known(('tstun.New("',), _TUN, "the TUN device could not be made"),
    _Known(("router.Up: ",), _TUN, "routing rules could not be set"),
    _Known(("is already set",), _TUN, "the TUN start failed half way"),
    _Known(("createEngine: ",), _TUN, "its engine could not be made"),
    _Known((" listener: ",), _START, "a proxy port is taken"),
    _Known(("safesocket.Listen",), _START, "its socket is taken by another tailscaled", "tazpod-net up --takeover"),
    _Known(("no space left on device",), _ANY, "the disk is full", "free some space"),
    _Known(("watchdog timeout",), _ANY, "its own watchdog found a deadlock"),
    _Known(("wgengine has been closed",), _ANY, "its engine closed: was the interface deleted?"),
    _Known(("panic: ",), _ANY, "it panicked"),
    _Known(("fatal error: ",), _ANY, "the Go runtime gave up"),
)  # fmt: skip


def _classify(line: str, *, live: bool) -> tuple[_Known, str] | None:
    """The kind of end that a line tells of, and its words. The start line repeats argv: it says nothing."""
    if "Program starting: " in line:
        return None
    for known in _KNOWN:
        if (known.kind == _ANY or not live) and all(needle in line for needle in known.needles):
            said = known.says.replace("{name}", _quoted(line) or "the TUN device")
            return msgspec.structs.replace(known, says=said), _detail(line, known)
    return None


def _quoted(line: str) -> str:
    """The first text in quotes: `tstun.New("tailscale0"): device or resource busy`."""
    parts = line.split('"', 2)
    return parts[1] if len(parts) == 3 else ""  # noqa: PLR2004 - before, inside, after


def _detail(line: str, known: _Known) -> str:
    """The words that matter: for trouble with a device what the kernel said, else the whole message."""
    message = _message(line)
    return message.rpartition(": ")[2] if known.kind == _TUN else message


def _sentence(says: str, detail: str) -> str:
    """`another program holds tailscale0 (device or resource busy)`."""
    return says if says.endswith(detail) or not detail else f"{says} ({_short(detail)})"


def _message(line: str) -> str:
    """The line without Go's time stamp."""
    words = line.split(" ", 2)
    if len(words) == 3 and words[0].count("/") == 2 and words[1].count(":") >= 2:  # noqa: PLR2004 - date, time, text
        return words[2].strip()
    return line.strip()


def _last_words(tail: list[str]) -> str | None:
    """Where nothing is known: the last line that is more than farewell."""
    said = [message for message in map(_message, tail) if message and message not in _FAREWELL]
    return _short(said[-1]) if said else None


_FAREWELL = frozenset({"flushing log.", "logger closing down"})


def _short(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
