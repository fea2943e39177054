"""What `status` knows as Prometheus text (exposition format 0.0.4). Pure; loaded by the first who asks for it.

Own text and not the official client library: that imports ssl and an HTTP server, which the supervisor must not hold
(4 MB for it and 4 MB for the ssl that asyncio then loads too: 15 MB become 23, with a budget of 20), and a child for
each scrape would cost 140 ms of CPU. The library's parser and promtool judge this text in the tests.

Names never change once shipped; `docs/metrics.md` has them all and a test compares.
"""

import re  # msgspec has loaded it already
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tazpod_net.core.login import Code
from tazpod_net.core.model import State
from tazpod_net.core.render import short_state
from tazpod_net.core.status import Status
from tazpod_net.core.tally import Tally
from tazpod_net.core.timefmt import parse_rfc3339

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tazpod_net_"

# STATE of `status --short`, the whole list of the contract.
STATES = (
    *("ready", "offline", "starting", "waiting-credentials", "waiting-approval", "waiting-login", "key-rejected"),
    *("key-expired", "backoff", "stopping", "fatal", "stopped", "down"),
)
MODES = ("tun", "userspace")


class LogCounts(msgspec.Struct, frozen=True):
    """Of the daemon's log, since this supervisor began."""

    lines: int = 0
    bytes: int = 0
    filtered: int = 0  # lines that `log.drop` kept out
    lost: int = 0  # lines that the log could not take in time


class Usage(msgspec.Struct, frozen=True):
    """What the supervisor's own process uses. None: not to be had here."""

    rss_bytes: int | None = None
    pss_bytes: int | None = None
    cpu_seconds: float | None = None
    open_fds: int | None = None


class WebCounts(msgspec.Struct, frozen=True):
    """Of our own HTTP side."""

    connections: int = 0
    answers: Mapping[int, int] = {}  # by HTTP status
    dropped: int = 0  # connections that were closed to make room, or were too slow


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the text is made of. `now`: seconds since the epoch; `mono`: monotonic seconds."""

    status: Status
    now: float
    mono: float = 0.0
    tally: Tally = msgspec.field(default_factory=Tally)
    log: LogCounts = LogCounts()
    usage: Usage = Usage()
    web: WebCounts | None = None
    daemon_text: bytes | None = None  # what the daemon says of itself; None: no answer in time


Sample = tuple[tuple[str, ...], float | None]  # label values, and the value; None: nothing to say


class Metric(msgspec.Struct, frozen=True):
    """A row of the table. `name` is without the prefix."""

    name: str
    kind: str
    help: str
    read: Callable[[Facts], Iterable[Sample]]
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Facts], float | None]) -> Callable[[Facts], Iterable[Sample]]:
    """A metric without labels."""
    return lambda facts: [((), read(facts))]


def _each(words: Iterable[str], read: Callable[[Facts], str | None]) -> Callable[[Facts], Iterable[Sample]]:
    """One series for each of `words`, 1 for the one that holds now."""
    known = tuple(words)

    def samples(facts: Facts) -> Iterable[Sample]:
        now = read(facts)
        return [((word,), float(word == now)) for word in (*known, *([] if now in {None, *known} else [str(now)]))]

    return samples


def _time(text: str | None) -> float | None:
    return None if text is None else parse_rfc3339(text)


def _port(address: str | None) -> float | None:
    port = (address or "").rpartition(":")[2]
    return float(port) if port.isdecimal() else None


def _build(facts: Facts) -> Iterable[Sample]:
    return [((facts.status.supervisor.version, facts.status.daemon.short_version), 1.0)]


def _node(facts: Facts) -> Iterable[Sample]:
    backend = facts.status.backend
    if not facts.status.ready:
        return []
    return [((backend.hostname or "", backend.tailnet or "", backend.ips[0] if backend.ips else ""), 1.0)]


def _spent(facts: Facts) -> Iterable[Sample]:
    spent = facts.tally.seconds(facts.mono)
    return [((word,), spent.get(word, 0.0)) for word in STATES]


def _ends(facts: Facts) -> Iterable[Sample]:
    return [((end.code, end.signal, end.reason), float(count)) for end, count in facts.tally.ends.items()]


def _last_exit(facts: Facts) -> float | None:
    end = facts.status.daemon.last_exit
    return None if end is None else _time(end.at)


def _notes(facts: Facts) -> Iterable[Sample]:
    codes = [note.code for note in facts.status.notes]
    return [((code,), float(codes.count(code))) for code in sorted(set(codes))]


def _answers(facts: Facts) -> Iterable[Sample]:
    return [] if facts.web is None else [((str(code),), float(n)) for code, n in sorted(facts.web.answers.items())]


_G, _C = "gauge", "counter"
METRICS: tuple[Metric, ...] = (
    Metric("build_info", _G, "Versions of tazpod-net and of tailscaled (empty: not known); always 1.",
           _build, ("version", "tailscaled")),
    Metric("live", _G, "1 if tailscaled answers, else 0.", _one(lambda f: f.status.live)),
    Metric("ready", _G, "1 if live, and on the tailnet with an address, else 0.", _one(lambda f: f.status.ready)),
    Metric("online", _G, "1 if ready, and the control server says that this node is online, else 0.",
           _one(lambda f: f.status.online)),
    Metric("wanted", _G, "0 if a person stopped it, else 1.", _one(lambda f: f.status.wanted == "up")),
    Metric("state", _G, "1 for the present state as 'status --short' says it, 0 for the others.",
           _each(STATES, lambda f: short_state(f.status)), ("state",)),
    Metric("state_start_timestamp_seconds", _G, "When the present state began.",
           _one(lambda f: None if f.tally.word is None else f.now - (f.mono - f.tally.since))),
    Metric("state_seconds_total", _C, "Seconds in each state since the supervisor began.", _spent, ("state",)),
    Metric("supervisor_state", _G, "1 for the state of the supervisor's machine, 0 for the others.",
           _each(State, lambda f: f.status.supervisor.state), ("state",)),
    Metric("mode", _G, "1 for the mode in use, 0 for the other.", _each(MODES, lambda f: f.status.daemon.mode),
           ("mode",)),
    Metric("login", _G, "1 for the present login code, 0 for the others.",
           _each(Code, lambda f: f.status.backend.login_code), ("code",)),
    Metric("node_info", _G, "Name, tailnet and first address of this node while it is ready; always 1.",
           _node, ("hostname", "tailnet", "ip")),
    Metric("key_expiry_timestamp_seconds", _G, "When the node key ends; absent where it does not.",
           _one(lambda f: _time(f.status.backend.key_expiry))),
    Metric("health_warnings", _G, "Warnings of tailscaled's own health check.",
           _one(lambda f: len(f.status.backend.health))),
    Metric("settings_drift", _G, "Settings that are not as configured.", _one(lambda f: len(f.status.settings_drift))),
    Metric("notes", _G, "Notes of 'status', by their code.", _notes, ("code",)),
    Metric("peers", _G, "Nodes that this one may talk to.", _one(lambda f: f.status.backend.peers.total)),
    Metric("peers_online", _G, "Peers that the control server sees.", _one(lambda f: f.status.backend.peers.online)),
    Metric("peers_direct", _G, "Peers reached directly now.", _one(lambda f: f.status.backend.peers.direct)),
    Metric("peers_relayed", _G, "Peers reached through a relay (DERP) now.",
           _one(lambda f: f.status.backend.peers.relayed)),
    Metric("proxy_port", _G, "Port of each proxy, userspace mode only.",
           lambda f: [(("socks5",), _port(f.status.proxy.socks5)), (("http",), _port(f.status.proxy.http))],
           ("proxy",)),
    Metric("daemon_running", _G, "1 if there is a tailscaled process, else 0.",
           _one(lambda f: f.status.daemon.pid is not None)),
    Metric("daemon_adopted", _G, "1 if it was left by an earlier supervisor, else 0.",
           _one(lambda f: f.status.daemon.adopted)),
    Metric("daemon_start_timestamp_seconds", _G, "When tailscaled was started.",
           _one(lambda f: _time(f.status.daemon.since))),
    Metric("daemon_restarts_total", _C, "Starts after an end that nobody asked for, earlier supervisors included.",
           _one(lambda f: f.status.daemon.restarts)),
    Metric("daemon_exits_total", _C, "Ends of tailscaled since the supervisor began: by exit code or signal (neither: "
           "not known), and by reason where the log tells one.", _ends, ("code", "signal", "reason")),
    Metric("daemon_last_exit_timestamp_seconds", _G, "When tailscaled ended last.", _one(_last_exit)),
    Metric("daemon_next_start_timestamp_seconds", _G, "When it is started again, while backing off.",
           _one(lambda f: _time(f.status.daemon.next_start))),
    Metric("daemon_resident_memory_bytes", _G, "Resident memory of tailscaled.",
           _one(lambda f: f.status.daemon.rss_bytes)),
    Metric("daemon_metrics_up", _G, "1 if tailscaled told its own metrics in time (tailscaled_*), else 0.",
           _one(lambda f: f.daemon_text is not None)),
    Metric("log_lines_total", _C, "Lines written to logs/tailscaled.log.", _one(lambda f: f.log.lines)),
    Metric("log_bytes_total", _C, "Bytes written to logs/tailscaled.log.", _one(lambda f: f.log.bytes)),
    Metric("log_lines_dropped_total", _C, "Lines that are not there: 'filter' (log.drop), 'overflow' (the log could "
           "not take them in time).",
           lambda f: [(("filter",), f.log.filtered), (("overflow",), f.log.lost)], ("why",)),
    Metric("supervisor_start_timestamp_seconds", _G, "When the supervisor was started.",
           _one(lambda f: _time(f.status.supervisor.since))),
    Metric("supervisor_resident_memory_bytes", _G, "Resident memory of the supervisor.",
           _one(lambda f: f.usage.rss_bytes)),
    Metric("supervisor_proportional_memory_bytes", _G, "Its share of memory: pages divided by all who map them (PSS).",
           _one(lambda f: f.usage.pss_bytes)),
    Metric("supervisor_cpu_seconds_total", _C, "Processor time of the supervisor.",
           _one(lambda f: f.usage.cpu_seconds)),
    Metric("supervisor_open_fds", _G, "File descriptors that the supervisor has open.",
           _one(lambda f: f.usage.open_fds)),
    Metric("http_connections", _G, "Connections to this HTTP side now.",
           _one(lambda f: None if f.web is None else f.web.connections)),
    Metric("http_answers_total", _C, "Answers given over HTTP, by status.", _answers, ("status",)),
    Metric("http_connections_dropped_total", _C, "Connections closed because they were too slow or too many.",
           _one(lambda f: None if f.web is None else f.web.dropped)),
)  # fmt: skip


def render(facts: Facts) -> bytes:
    """The whole text, the daemon's own metrics at its end."""
    lines: list[str] = []
    for metric in METRICS:
        lines += _family(metric, facts)
    text = "\n".join([*lines, ""]).encode("utf-8", "replace")
    return text + daemon_metrics(facts.daemon_text or b"")


def _family(metric: Metric, facts: Facts) -> list[str]:
    name = PREFIX + metric.name
    samples = [
        f"{name}{_labels(metric.labels, values)} {_number(value)}"
        for values, value in metric.read(facts)
        if value is not None
    ]
    if not samples:
        return []
    return [f"# HELP {name} {_escaped(metric.help)}", f"# TYPE {name} {metric.kind}", *samples]


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = [f'{name}="{_quoted(value)}"' for name, value in zip(names, values, strict=True)]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    """Whole numbers without a point, times to the millisecond."""
    return str(int(value)) if value == int(value) else f"{value:.3f}"


_NAME = rb"tailscaled_[a-zA-Z0-9_]+"
_LABEL = rb'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_LINE = re.compile(
    rb"(?:# HELP (" + _NAME + rb") (?:[^\\\n]|\\[\\n])*|# TYPE (" + _NAME + rb") (?:counter|gauge|untyped)|"
    rb"("
    + _NAME
    + rb")(?:\{(?:"
    + _LABEL
    + rb"(?:,"
    + _LABEL
    + rb")*,?)?\})? [-+]?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|Inf|NaN))"
)


def daemon_metrics(text: bytes) -> bytes:
    """The lines of `text` that are surely metrics of tailscaled, each family together.

    One line that the scraper does not understand would cost it all the others, ours included.
    """
    families: dict[bytes, dict[bytes, bytes]] = {}
    for line in text.split(b"\n"):
        found = _LINE.fullmatch(line)
        if found is None or not _is_utf8(line):
            continue
        helps, types, sample = found.groups()
        key = line.rpartition(b" ")[0] if sample else (b"0" if helps else b"1")  # HELP, TYPE, then one line per series
        families.setdefault(helps or types or sample, {}).setdefault(key, line)
    lines = [family[key] for family in families.values() for key in sorted(family, key=_heads_first)]
    return b"\n".join([*lines, b""]) if lines else b""


def _heads_first(key: bytes) -> int:
    return {b"0": 0, b"1": 1}.get(key, 2)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
