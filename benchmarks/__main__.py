"""`python -m benchmarks [NAME…] [--quick] [--list] [--out FILE]`: runs benchmarks, prints them, keeps a dated report.

Never a test: a missed budget is in the report, not in the exit code, which is 1 only if something did not run.
"""

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from benchmarks import report, rounds
from benchmarks.catalogue import BENCHMARKS, measure
from benchmarks.figures import QUICK_NOTE, markdown
from benchmarks.stage import FailedError, NotHereError
from tests.support.progress import SetupError

REPORTS = Path(__file__).resolve().parent / "reports"
_SKIPPED = (NotHereError, SetupError)


def main() -> int:
    """The exit code: 0, 1 if a benchmark broke, 130 after Ctrl-C. Everything that was started has ended by then."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{name:10} {benchmark.summary}" for name, benchmark in BENCHMARKS.items()))
        return 0
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(arguments.names or list(BENCHMARKS), _path(arguments), quick=arguments.quick)
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them by default")
    parser.add_argument("--quick", action="store_true", help="few rounds, short waits: to see that it runs")
    parser.add_argument("--list", action="store_true", help="the names")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report (a quick run writes none without this)")
    return parser.parse_args()


def _path(arguments: argparse.Namespace) -> Path | None:
    if arguments.out is not None or arguments.quick:
        out: Path | None = arguments.out
        return out
    return REPORTS / f"{datetime.now(UTC):%Y-%m-%d}.md"


def _stop(*_: object) -> NoReturn:
    """SIGTERM ends like Ctrl-C: through every `finally`."""
    raise KeyboardInterrupt


def _run(names: list[str], path: Path | None, *, quick: bool) -> int:
    code = 0
    if quick:
        print(QUICK_NOTE, file=sys.stderr)
    for name in names:
        began, load = time.monotonic(), os.getloadavg()[0]
        print(f"benchmarks: {name}: {BENCHMARKS[name].summary}", file=sys.stderr, flush=True)
        try:
            section = measure(name, quick=quick)
        except _SKIPPED as e:
            print(f"benchmarks: {name} cannot run here: {e}", file=sys.stderr)
            continue
        except (FailedError, AssertionError, OSError) as e:
            print(f"benchmarks: {name} broke: {type(e).__name__}: {e}", file=sys.stderr)
            code = 1
            continue
        took = time.monotonic() - began
        text = markdown(section, report.circumstances(seconds=took, quick=quick, load=load, calm=rounds.waits))
        print(f"\n{text}", flush=True)
        if path is not None:
            report.write(path, {name: text}, list(BENCHMARKS))
    if path is not None:
        print(f"benchmarks: report in {path}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
