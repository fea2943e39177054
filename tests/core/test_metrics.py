"""The text of metrics, read by the official parser; the page, the alerts and the dashboard against the table."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from tazpod_net.core.backend import Backend
from tazpod_net.core.login import Code, Said
from tazpod_net.core.metrics import METRICS, PREFIX, STATES, Facts, LogCounts, Usage, WebCounts, daemon_metrics, render
from tazpod_net.core.model import Machine, State
from tazpod_net.core.report import build
from tazpod_net.core.status import BackendPart, LastExit, Note, ProxyPart, Status
from tazpod_net.core.tally import End, Tally
from tests.support.fakes import NOON, READY, known

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "docs" / "grafana" / "tazpod-net.json"
DAEMON = (
    b"# TYPE tailscaled_inbound_bytes_total counter\n# HELP tailscaled_inbound_bytes_total Bytes\n"
    b'tailscaled_inbound_bytes_total{path="derp"} 17\ntailscaled_inbound_bytes_total{path="direct_ipv4"} 4.5e+06\n'
)


def families(text: bytes) -> dict[str, Family]:
    """What the official parser makes of a text."""
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.name not in found, f"{family.name} comes twice"
        found[family.name] = family
    return found


def series(text: bytes) -> dict[str, float]:
    """Values by `name{label=value,…}`, our prefix left out."""
    return {
        sample.name.removeprefix(PREFIX)
        + ("{" + ",".join(f"{k}={v}" for k, v in sample.labels.items()) + "}" if sample.labels else ""): sample.value
        for family in families(text).values()
        for sample in family.samples
    }


def facts(status: Status | None = None, **more: Any) -> Facts:
    """Those of a ready node at noon."""
    return Facts(status=status or build(known()), now=NOON, mono=20_000.0, **more)


EXIT = LastExit("2026-11-23T11:00:00Z", 1, None, "", [])
FULL = facts(
    msgspec.structs.replace(
        build(known(backend=READY, restarts=3, mode="userspace", last_exit=EXIT)),
        notes=[Note("disk-full", "x"), Note("http", "y"), Note("http", "z")],
        proxy=ProxyPart("127.0.0.1:1055", "[::1]:1056"),
    ),
    tally=Tally(
        ends={End("1", "", "it panicked"): 2, End("", "SIGKILL"): 1},
        word="ready",
        since=19_000.0,
        spent={"starting": 2.5},
    ),
    log=LogCounts(100, 9000, 7, 3),
    usage=Usage(21_000_000, 15_000_000, 1.25, 22),
    web=WebCounts(4, {200: 10, 503: 2}, 1),
    daemon_text=DAEMON,
)


class TestText:
    """What a scraper reads."""

    def test_everything_is_said_as_the_table_has_it(self) -> None:
        """Each metric of the table is there with its type, help and labels, but for those with nothing to say."""
        found = families(render(FULL))
        for metric in METRICS:
            name = PREFIX + metric.name
            if metric.name == "daemon_next_start_timestamp_seconds":  # only while backing off
                assert name not in found
                continue
            family = found[name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            assert {tuple(sample.labels) for sample in family.samples} == {metric.labels}

    def test_values(self) -> None:
        """A sample of each kind: states, times, counts, ports, ends."""
        said = series(render(FULL))
        expected = {
            "build_info{version=0.1.0,tailscaled=1.102.5}": 1,
            "state{state=ready}": 1,
            "state{state=offline}": 0,
            "state_start_timestamp_seconds": NOON - 1000,
            "state_seconds_total{state=ready}": 1000,
            "state_seconds_total{state=starting}": 2.5,
            "supervisor_state{state=up}": 1,
            "mode{mode=userspace}": 1,
            "mode{mode=tun}": 0,
            "login{code=ok}": 1,
            "login{code=key-used}": 0,
            "node_info{hostname=tazpod,tailnet=example.ts.net,ip=100.64.0.1}": 1,
            "peers": 12,
            "peers_direct": 5,
            "proxy_port{proxy=socks5}": 1055,
            "proxy_port{proxy=http}": 1056,
            "notes{code=http}": 2,
            "notes{code=disk-full}": 1,
            "daemon_restarts_total": 3,
            "daemon_exits_total{code=1,signal=,reason=it panicked}": 2,
            "daemon_exits_total{code=,signal=SIGKILL,reason=}": 1,
            "daemon_last_exit_timestamp_seconds": NOON - 3600,
            "daemon_metrics_up": 1,
            "log_lines_dropped_total{why=overflow}": 3,
            "log_lines_dropped_total{why=filter}": 7,
            "supervisor_cpu_seconds_total": 1.25,
            "http_answers_total{status=503}": 2,
            "tailscaled_inbound_bytes_total{path=direct_ipv4}": 4_500_000,
        }
        assert {key: said.get(key) for key in expected} == expected

    def test_the_key_has_a_time_only_if_it_ends(self) -> None:
        """Absent, not zero: an alert on the time left must not fire for a key that never ends."""
        assert "key_expiry_timestamp_seconds" in series(render(facts()))
        for_ever = build(known(backend=msgspec.structs.replace(READY, key_expiry=None)))
        assert "key_expiry_timestamp_seconds" not in series(render(facts(for_ever)))

    @pytest.mark.parametrize("state", list(State))
    def test_exactly_one_of_each_enumeration(self, state: State) -> None:
        """In every state of the machine one state and at most one mode and one login code are 1."""
        for live in (True, False):
            status = build(known(machine=Machine(state=state, pid=1, deadline=20_010.0), live=live, backend=Backend()))
            said = series(render(facts(status)))
            assert sum(value for key, value in said.items() if key.startswith("state{")) == 1
            assert sum(value for key, value in said.items() if key.startswith("supervisor_state{")) == 1
            assert sum(value for key, value in said.items() if key.startswith(("login{", "mode{"))) <= 2
        assert ("daemon_next_start_timestamp_seconds" in said) is (state is State.BACKOFF)

    @pytest.mark.parametrize("code", list(Code))
    def test_the_states_are_those_of_status_short(self, code: Code) -> None:
        """No login code leads to a state that is not in the list: its series would come and go."""
        machine = Machine(state=State.UP, pid=1)
        status = build(known(machine=machine, backend=Backend(state="NeedsLogin"), said=Said(code, "x")))
        said = [key for key, value in series(render(facts(status))).items() if key.startswith("state{") and value]
        assert said[0][len("state{state=") : -1] in STATES

    @given(text=st.text(max_size=30))
    @settings(deadline=None)
    def test_any_name_is_quoted(self, text: str) -> None:
        """Whatever a node is called, quotes, newlines and lone surrogates included, it is one label of one line."""
        status = build(known(backend=msgspec.structs.replace(READY, hostname=text, tailnet=text)))
        family = families(render(facts(status)))[PREFIX + "node_info"]
        wanted = text.encode("utf-8", "replace").decode()
        assert [sample.labels["hostname"] for sample in family.samples] == [wanted]

    def test_nothing_secret_is_in_it(self) -> None:
        """A URL that logs somebody in, paths and sentences of others stay in `status`."""
        backend = BackendPart(
            auth_url="https://login.example/a/SECRET", login_next="open https://login.example/a/SECRET"
        )
        status = msgspec.structs.replace(
            build(known()), backend=backend, notes=[Note("x", "tskey-auth-SECRET in /home/me/SECRET", "SECRET")]
        )
        text = render(facts(status, daemon_text=b"# tskey-auth-SECRET\nSECRET 1\n"))
        assert b"SECRET" not in text
        assert b"://" not in text

    def test_the_contract_of_a_scrape_without_anything(self) -> None:
        """A supervisor that knows nothing yet has a good text, too."""
        said = series(render(Facts(status=Status(checked_at=""), now=NOON)))
        assert (said["live"], said["state{state=down}"], said["daemon_metrics_up"]) == (0, 1, 0)


class TestDaemon:
    """The daemon's own metrics, appended."""

    def test_families_are_put_together(self) -> None:
        """HELP, TYPE, then the series, in whatever order they came; the parser takes it."""
        mixed = b'tailscaled_a{x="1"} 1\ntailscaled_b 2\n# TYPE tailscaled_a gauge\ntailscaled_a{x="2"} 3\n'
        assert daemon_metrics(mixed) == (
            b'# TYPE tailscaled_a gauge\ntailscaled_a{x="1"} 1\ntailscaled_a{x="2"} 3\ntailscaled_b 2\n'
        )

    @pytest.mark.parametrize(
        "line",
        [
            b"tazpod_net_live 0",
            b"go_goroutines 7",
            b"tailscaled_a",
            b"tailscaled_a x",
            b"tailscaled_a 1..2",
            b'tailscaled_a{x="1} 1',
            b'tailscaled_a{x="\xff"} 1',
            b"tailscaled_a{1=2} 1",
            b"# TYPE tailscaled_a nonsense",
            b"# TYPE tailscaled_a histogram",
            b"<html>",
            b"\0",
        ],
    )
    def test_what_is_no_metric_is_left_out(self, line: bytes) -> None:
        """One bad line would cost the scrape everything; another's metric would be ours."""
        assert daemon_metrics(line + b"\n") == b""
        assert daemon_metrics(DAEMON + line + b"\n") == daemon_metrics(DAEMON)

    def test_a_series_comes_once(self) -> None:
        """Prometheus refuses the same series twice."""
        twice = b"tailscaled_a 1\ntailscaled_a 2\n# TYPE tailscaled_a gauge\n# TYPE tailscaled_a gauge\n"
        assert daemon_metrics(twice) == b"# TYPE tailscaled_a gauge\ntailscaled_a 1\n"

    @given(
        text=st.binary(max_size=200)
        | st.text('tailscaled_{}="\\ #HELPTYPEgauge10.e+-NInf\n', max_size=200).map(str.encode)
    )
    @settings(deadline=None, max_examples=300)
    def test_any_text_leaves_ours_readable(self, text: bytes) -> None:
        """Whatever the daemon says, the whole is a good text and ours is unchanged."""
        ours = series(render(facts()))
        said = series(render(facts(daemon_text=text)))
        assert {key: value for key, value in said.items() if not key.startswith("tailscaled_")} == {
            **ours,
            "daemon_metrics_up": 1,
        }


class TestTally:
    """What adds up."""

    def test_seconds_in_each_state(self) -> None:
        """The present stay counts up to now; saying the same state again begins nothing anew."""
        tally = Tally()
        assert tally.seconds(5.0) == {}
        for word, at in (("starting", 10.0), ("ready", 12.0), ("ready", 15.0), ("offline", 20.0), ("ready", 21.0)):
            tally.entered(word, at)
        assert tally.seconds(31.0) == {"starting": 2.0, "ready": 18.0, "offline": 1.0}
        assert (tally.word, tally.since) == ("ready", 21.0)

    def test_two_do_not_share(self) -> None:
        """Each supervisor begins at zero."""
        one = Tally()
        one.ended(End("1"))
        one.ended(End("1"))
        one.entered("ready", 1.0)
        assert one.ends == {End("1"): 2}
        assert (Tally().ends, Tally().spent) == ({}, {})


# --- what people are given --------------------------------------------------------------------------------------------


def test_the_page_has_every_metric() -> None:
    """docs/metrics.md has one row for each metric, with type, labels and help, in the table's order."""
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert rows == [
        f"| `{PREFIX}{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |"
        for m in METRICS
    ]


def test_names_follow_the_rules() -> None:
    """Counters end with _total and nothing else does; units are in the names; names and labels are lower case."""
    assert [m.name for m in METRICS if m.name.endswith("_total") != (m.kind == "counter")] == []
    assert len({m.name for m in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
        assert all(re.fullmatch(r"[a-z]+", label) for label in metric.labels)
        assert metric.help.endswith(".")


def labels_by_name() -> dict[str, set[str]]:
    """Labels that a selector may use, of our metrics."""
    return {PREFIX + metric.name: {*metric.labels, "instance", "job"} for metric in METRICS}


# What tailscaled has for its users (util/usermetric, https://tailscale.com/kb/1482/client-metrics).
OF_THE_DAEMON = {
    "tailscaled_inbound_bytes_total": {"path"},
    "tailscaled_outbound_bytes_total": {"path"},
    "tailscaled_inbound_dropped_packets_total": {"reason"},
    "tailscaled_outbound_dropped_packets_total": {"reason"},
}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> Iterator[str]:
    """Every PromQL expression of the dashboard."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for note in dashboard()["annotations"]["list"]:
        yield note["expr"]


@pytest.mark.parametrize("path", [ALERTS, ALERTS.with_name("alerts_test.yaml"), DASHBOARD], ids=lambda path: path.name)
def test_only_metrics_and_labels_that_exist_are_used(path: Path) -> None:
    """A name or label that nobody exports would be an alert that never fires, or an empty panel."""
    text = "\n".join(expressions()) if path == DASHBOARD else path.read_text()
    known_labels = labels_by_name() | {name: {*labels, "instance"} for name, labels in OF_THE_DAEMON.items()}
    used = re.findall(r"\b((?:tazpod_net|tailscaled)_\w+)(\{[^}]*\})?", text)
    assert len(used) > 10
    for name, selector in used:
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", selector))
        assert labels <= known_labels.get(name, set()), f"{name}{selector} in {path.name}"


@pytest.mark.parametrize("path", [ALERTS, ALERTS.with_name("alerts_test.yaml"), DASHBOARD], ids=lambda path: path.name)
def test_only_label_values_that_exist_are_selected(path: Path) -> None:
    """The states and reasons that are named are ones that can be."""
    text = "\n".join(expressions()) if path == DASHBOARD else path.read_text()
    for value in re.findall(r"state=~?\"([^\"]+)\"", text):
        assert any(re.fullmatch(value, word) for word in STATES), value
    assert set(re.findall(r"why=\"(\w+)\"", text)) <= {"filter", "overflow"}


def test_the_dashboard_is_well_formed() -> None:
    """Ids are unique, no panel covers another, each has a title, words and the data source that is chosen."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered, panel["title"]
        covered |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "instance"}


@functools.cache
def promtool() -> str:
    """The program of Debian's package prometheus; without it the test is skipped."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool (Debian: prometheus)")
    return found


def told(*arguments: str, stdin: str | None = None) -> str:
    """What promtool says; a failure is an AssertionError."""
    done = subprocess.run(
        [promtool(), *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class TestPromtool:
    """Prometheus's own judge."""

    def test_the_text_has_no_lint(self) -> None:
        """`promtool check metrics` finds nothing to say."""
        assert told("check", "metrics", stdin=render(FULL).decode()) == ""

    def test_the_alerts_are_accepted(self) -> None:
        """`promtool check rules`."""
        assert "SUCCESS" in told("check", "rules", str(ALERTS))

    def test_the_alerts_fire_when_they_should(self) -> None:
        """`promtool test rules`: histories, and which alerts they lead to; every alert is in there."""
        assert "SUCCESS" in told("test", "rules", str(ALERTS.with_name("alerts_test.yaml")))
        tests = ALERTS.with_name("alerts_test.yaml").read_text()
        for alert in re.findall(r"- alert: (\w+)", ALERTS.read_text()):
            assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n", tests), f"{alert} never fires in the tests"

    def test_the_expressions_of_the_dashboard_are_promql(self, tmp_path: Path) -> None:
        """Each as a rule, with Grafana's variables filled in."""
        rules = [
            {"record": f"panel:{number}", "expr": re.sub(r"\$__(?:rate_)?interval", "5m", expression)}
            for number, expression in enumerate(expressions())
        ]
        assert len(rules) > 20
        path = tmp_path / "rules.yaml"
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
        assert f"{len(rules)} rules found" in told("check", "rules", str(path))
