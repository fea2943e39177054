"""Why did tailscaled end? From its exit status and its last lines to one plain reason. Pure.

The texts are tailscaled's (section and line given); they are stable substrings, never whole lines.
"""

import signal as signals

import msgspec

TAIL_LINES = 20  # kept in `last_exit.log_tail`


class ExitStatus(msgspec.Struct, frozen=True):
    """How the process ended. Both None: the kernel does not tell any more (adopted, reaped by another parent)."""

    code: int | None = None
    signal: int | None = None


class Cause(msgspec.Struct, frozen=True):
    """The verdict. `because` is the line of the log that says it, if there is one."""

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
    """The verdict on one end. `live`: LocalAPI had answered; `asked`: we sent the signal; `ran`: seconds."""
    how = _how(status, ran)
    if asked:
        return Cause(f"{how}, as asked")
    line = next((text for text in reversed(tail) if any(n in text for n in _TELLING)), None)
    if status.signal is not None:
        return Cause(how + _who_kills(status.signal), because=None)
    found = _classify(line or "")
    if found is None:
        return Cause(how, because=_last_words(tail))
    kind, reason, fix = found
    return Cause(
        f"{how}: {reason}",
        because=_message(line or ""),
        next=fix,
        tun_failed=kind == "tun" and mode == "tun" and not live,
        permanent=kind == "permanent",
    )


def _how(status: ExitStatus, ran: float) -> str:
    if status.signal is not None:
        return signal_name(status.signal)
    if status.code is None:
        return "ended, exit status unknown"
    after = f" after {ran:.1f} s" if 0 < ran < 10 else ""  # noqa: PLR2004 - longer runs do not look like a start
    return f"code {status.code}{after}"


def _who_kills(number: int) -> str:
    if number == signals.SIGKILL:
        return ", likely out of memory or killed by hand"
    return ""


_TUN = "tun"
_CLASSES: tuple[tuple[str, str, str, str | None], ...] = (
    ("invalid boolean environment variable", "permanent", "an environment variable that tailscaled does not accept",
     "correct or unset the variable, then: tazpod-net up"),
    ("invalid integer environment variable", "permanent", "an environment variable that tailscaled does not accept",
     "correct or unset the variable, then: tazpod-net up"),
    ("environment variable", "permanent", "an environment variable that tailscaled does not accept",
     "correct or unset the variable, then: tazpod-net up"),
    ("flag provided but not defined", "permanent", "tailscaled does not know an option",
     "correct daemon.extra_args, then: tazpod-net up"),
    ("invalid value", "permanent", "tailscaled does not accept an option", "correct daemon.extra_args, then: tazpod-net up"),
    ("non-flag arguments", "permanent", "tailscaled does not accept an argument", "correct daemon.extra_args, then: tazpod-net up"),
    ("device or resource busy", _TUN, "another program holds the TUN device",
     'set daemon.mode = "userspace" or stop the other one'),
    ("/dev/net/tun does not exist", _TUN, "/dev/net/tun does not exist", None),
    ("tstun.New", _TUN, "the TUN device could not be made", None),
    ("router.Up", _TUN, "routing rules could not be set", None),
    ("already set", _TUN, "the TUN start failed half way", None),
    ("createEngine", _TUN, "its engine could not be made", None),
    ("listener:", "config", "a proxy port is taken", None),
    ("safesocket.Listen", "config", "its socket is taken by another tailscaled", "tazpod-net up --takeover"),
    ("error reading config file", "permanent", "its --config file is bad", "correct daemon.extra_args"),
    ("error parsing config", "permanent", "its --config file is bad", "correct daemon.extra_args"),
    ("--statedir", "permanent", "it cannot use its state directory", None),
    ("no space left on device", "config", "the disk is full", "free some space"),
    ("watchdog timeout", "config", "its own watchdog found a deadlock", None),
    ("wgengine has been closed", "config", "its engine closed (was the interface deleted?)", None),
    ("panic:", "config", "it panicked", None),
)  # fmt: skip
_TELLING = tuple(row[0] for row in _CLASSES)


def _classify(line: str) -> tuple[str, str, str | None] | None:
    for needle, kind, reason, fix in _CLASSES:
        if needle in line:
            return kind, reason, fix
    return None


def _message(line: str) -> str:
    """The line without Go's time stamp."""
    words = line.split(" ", 2)
    if len(words) == 3 and words[0].count("/") == 2 and words[1].count(":") >= 2:  # noqa: PLR2004 - date, time, text
        return words[2].strip()
    return line.strip()


def _last_words(tail: list[str]) -> str | None:
    return _message(tail[-1]) if tail else None
