"""The noisy part of a daemon, run as `python writer.py RECORD LINES PAUSE PARENT`: numbered lines on stderr.

Stands alone: standard library only. One write for each line, as tailscaled does it. `RECORD.PID` gets `pid written
began ended` (CLOCK_MONOTONIC seconds) at the end and, with a pause, after every line: what the kernel has taken can be
compared with what a log has kept. Ends after LINES lines, with the process PARENT, when RECORD.stop appears, or when
nobody reads any more.
"""

import os
import sys
import time

PADDING = "x" * 80  # with the number about as long as tailscaled's own lines


def line(pid: int, number: int) -> bytes:
    """The numbered line; `pid` tells writers apart."""
    return f"numbered {pid} {number:08d} {PADDING}\n".encode()


def main() -> None:
    """Writes."""
    record, lines, pause, parent = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    pid = os.getpid()
    ready = [line(pid, number) for number in range(lines)]
    keep = os.open(f"{record}.{pid}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    written, began = 0, time.monotonic()
    try:
        while written < lines and os.getppid() == parent:
            os.write(2, ready[written])
            written += 1
            if pause:
                if os.path.exists(f"{record}.stop"):
                    break
                os.pwrite(keep, f"{pid} {written} {began:.6f} {time.monotonic():.6f}\n".encode(), 0)
                time.sleep(pause)
    except BrokenPipeError:
        pass  # as tailscaled, which dies of it
    os.pwrite(keep, f"{pid} {written} {began:.6f} {time.monotonic():.6f}\n".encode(), 0)


if __name__ == "__main__":
    main()
