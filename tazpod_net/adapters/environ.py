"""Takes secrets out of this process's environment, also out of what /proc/PID/environ shows.

`os.environ.pop` leaves the initial environment block as it was; the kernel shows exactly that block
(`man 5 proc`, fields 50 and 51 of stat), so it is overwritten in place.
"""

import os
from collections.abc import Iterable

_ENV_START = 47  # field 50 of /proc/PID/stat, counted from field 3


def forget(names: Iterable[str]) -> bool:
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
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    start, end = int(fields[_ENV_START]), int(fields[_ENV_START + 1])
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
