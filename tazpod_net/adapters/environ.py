"""What others see of this process in /proc: secrets go out of its environment, another's words out of its command line.

`os.environ.pop` leaves the initial environment block as it was; the kernel shows exactly that block
(`man 5 proc`, fields 50 and 51 of stat; 48 and 49 for the command line), so it is overwritten in place.
"""

import contextlib
import os
import sys

TYPE_CHECKING = False  # as typing's, which costs 8 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

# What no process but the supervisor may have; tailscaled gets even less (core.childenv).
SECRETS = ("TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TAZPOD_NET_LOGIN_AUTH_KEY")
SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  # a service manager's words (`man 3 sd_notify`)
_ENV_START = 47  # field 50 of /proc/PID/stat, counted from field 3
_ARG_START = 45


def forget(names: "Iterable[str]") -> bool:
    """Zeroes the values of these variables; False if the kernel did not let us (they are gone from os.environ)."""
    values = [name.encode() + b"=" for name in names if os.environ.pop(name, None) is not None]
    if not values:
        return True
    try:
        _overwrite(values)
    except (OSError, ValueError, IndexError):
        return False
    return True


def _overwrite(prefixes: list[bytes]) -> None:
    start, end = _block(_ENV_START)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        block = memory.read(end - start)
        offset = 0
        for entry in block.split(b"\0"):
            for prefix in prefixes:
                if entry.startswith(prefix):
                    memory.seek(start + offset + len(prefix))
                    memory.write(b"\0" * (len(entry) - len(prefix)))
            offset += len(entry) + 1


def retitle(words: list[str]) -> None:
    """Shows these words instead of our own arguments: a `pkill -f` for a command must not find its supervisor."""
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    wanted = b"".join(os.fsencode(word) + b"\0" for word in [*program, *words])
    with contextlib.suppress(OSError, ValueError, IndexError):
        start, end = _block(_ARG_START)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(wanted[: end - start - 1].ljust(end - start, b"\0"))


def _block(field: int) -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return int(fields[field]), int(fields[field + 1])
