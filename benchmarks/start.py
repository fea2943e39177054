"""`up --wait ready` from nothing to `Running`, a new node each time, beside containerboot and a start by hand."""

from collections.abc import Callable

from benchmarks.contestants import BY_HAND, CONTAINERBOOT, OURS, SCRIPT, ByHand, Containerboot, Tazpod
from benchmarks.figures import Budget, Section, Series, Table
from benchmarks.rounds import calm, rotate
from benchmarks.stage import NotHereError, Stage
from benchmarks.watching import Seen, race
from tests.support.lab import Mode

HOW = (
    "From the exec of the first process to (a) LocalAPI saying `Running` with an address, looked at every 2 ms in the "
    "same way for all, and (b) the contestant's own word: the return of `up --wait ready`, containerboot's line "
    "`Startup complete`, the return of `tailscale up`. New state directory and new node each time, accept-routes and "
    "accept-dns on for all. By hand: `tailscaled &`, a loop that waits 5 ms at a time for the socket, `tailscale up`."
)
Contestant = Tazpod | Containerboot | ByHand


def run(*, quick: bool) -> Section:
    """Both modes; TUN where it can be had."""
    parts: list[Table] = []
    notes: list[str] = []
    for mode in ("userspace", "tun"):
        try:
            parts += _measure(mode, rounds=2 if quick else 15, scale=not quick or mode == "userspace")
        except NotHereError as e:
            notes.append(f"{mode}: {e}")
    return Section("start", "from nothing to Running", HOW, parts, notes)


def _measure(mode: Mode, *, rounds: int, scale: bool) -> list[Table]:
    seen: dict[str, list[Seen]] = {}
    with Stage(mode) as stage:
        starts: dict[str, Callable[[], Contestant]] = {
            OURS: lambda: Tazpod(stage, mode),
            CONTAINERBOOT: lambda: Containerboot(stage, mode),
            BY_HAND: lambda: ByHand(stage, mode),
        }

        def timed(name: str, make: Callable[[], Contestant]) -> float:
            seen.setdefault(name, []).append(_once(stage, make()))
            return seen[name][-1].running

        rotate({name: lambda n=name, m=make: timed(n, m) for name, make in starts.items()}, rounds)  # type: ignore[misc]
        if scale:
            timed(SCRIPT, lambda: ByHand(stage, mode, name=SCRIPT))
    return [
        _table(f"Running seen by LocalAPI, {mode}", {name: [s.running for s in all_] for name, all_ in seen.items()}),
        _table(f"own word, {mode}", {name: [s.word for s in all_] for name, all_ in seen.items()}),
    ]


def _once(stage: Stage, contestant: Contestant) -> Seen:
    calm()
    started = contestant.start()
    try:
        return race(started.began, started.socket, started.word)
    finally:
        contestant.stop()
        stage.forget_nodes()


def _table(title: str, samples: dict[str, list[float]]) -> Table:
    budgets = {OURS: Budget(1.0)}
    series = [Series(name, [s * 1000 for s in values], budgets.get(name)) for name, values in samples.items()]
    return Table(title, "ms", series, reference=CONTAINERBOOT)
