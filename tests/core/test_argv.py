"""tailscaled's command line both ways, and settings as prefs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.argv import DaemonPlan, Seen, Wanted, daemon_argv, drift, masked, read_argv, wanted_prefs
from tazpod_net.core.backend import Prefs

TUN = DaemonPlan(
    binary="/usr/sbin/tailscaled",
    mode="tun",
    interface="tailscale0",
    state_dir="/h/state",
    socket="/h/state/tailscaled.sock",
)
PROXIES = DaemonPlan(
    binary="/usr/sbin/tailscaled",
    mode="userspace",
    interface="tailscale0",
    state_dir="/h/state",
    socket="/run/x/tailscaled.sock",
    port=41641,
    socks5="127.0.0.1:1055",
    http="127.0.0.1:1056",
    upload_logs=False,
    extra_args=("--verbose=1", "--debug", "127.0.0.1:9"),
)


def test_command_line_of_a_tun_daemon() -> None:
    """Everything that has a dangerous default is given: state, socket, and the port, whose default is $PORT."""
    assert daemon_argv(TUN) == (
        "/usr/sbin/tailscaled",
        "--statedir=/h/state",
        "--state=/h/state/tailscaled.state",
        "--socket=/h/state/tailscaled.sock",
        "--port=0",
        "--tun=tailscale0",
    )


def test_command_line_of_a_userspace_daemon() -> None:
    """Proxies only in userspace mode, no upload if told so, a person's own arguments last."""
    assert daemon_argv(PROXIES)[4:] == (
        "--port=41641",
        "--tun=userspace-networking",
        "--socks5-server=127.0.0.1:1055",
        "--outbound-http-proxy-listen=127.0.0.1:1056",
        "--no-logs-no-support",
        "--verbose=1",
        "--debug",
        "127.0.0.1:9",
    )


def test_a_forgetful_daemon_has_no_state_file() -> None:
    """The identity is in memory; the other files still have their directory."""
    argv = daemon_argv(DaemonPlan("t", "tun", "tailscale0", "/h/state", "/s", in_memory=True))
    assert {"--state=mem:", "--statedir=/h/state"} <= set(argv)
    assert not any("tailscaled.state" in word for word in argv)


def test_a_tun_daemon_has_no_proxies() -> None:
    """A proxy that is configured is not started in TUN mode."""
    plan = DaemonPlan("t", "tun", "tailscale0", "/h", "/s", socks5="127.0.0.1:1055", http="127.0.0.1:1055")
    assert not any("1055" in word for word in daemon_argv(plan))


words = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1).filter(lambda w: w[0] != "-")
ports = st.none() | st.integers(1, 65535).map(lambda port: f"127.0.0.1:{port}")


@given(st.sampled_from(["tun", "userspace"]), words, words, words, ports, ports, st.booleans())
def test_what_was_written_is_read_back(
    mode: str, interface: str, state_dir: str, socket: str, socks5: str | None, http: str | None, upload: bool
) -> None:
    """An adopted daemon's command line tells its mode, interface, paths and proxies, whatever they are."""
    if interface == "userspace-networking":
        return
    plan = DaemonPlan("t", mode, interface, state_dir, socket, socks5=socks5, http=http, upload_logs=upload)
    tun = mode == "tun"
    assert read_argv(list(daemon_argv(plan))) == Seen(
        mode=mode,
        interface=interface if tun else None,
        socket=socket,
        state_dir=state_dir,
        state=f"{state_dir}/tailscaled.state",
        socks5=None if tun else socks5,
        http=None if tun else http,
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["tailscaled", "--tun=userspace-networking", "--socket=/s", "--no-logs-no-support"],
        ["tailscaled", "-tun", "userspace-networking", "--no-logs-no-support", "-socket", "/s"],
        ["tailscaled", "--verbose", "2", "--tun", "userspace-networking", "-socket=/s"],
        ["tailscaled", "--socket=/s", "--tun=userspace-networking", "--", "--socket=/other"],
        ["tailscaled", "--socket=/s", "--tun=userspace-networking", "-", "--socket=/other"],
        ["tailscaled", "--socket=/s", "--tun=userspace-networking", "debug", "--socket=/other"],
        ["tailscaled", "--socket=/other", "--tun=userspace-networking", "--socket=/s"],
    ],
)
def test_go_flags_in_every_spelling(argv: list[str]) -> None:
    """One or two dashes, `=` or a space, switches between them, the last wins, and the end of the flags."""
    seen = read_argv(argv)
    assert (seen.mode, seen.interface, seen.socket) == ("userspace", None, "/s")


@pytest.mark.parametrize("argv", [["tailscaled"], ["tailscaled", "--socket"], []])
def test_tailscaleds_own_defaults(argv: list[str]) -> None:
    """Without flags it is TUN on tailscale0, and nothing else is known."""
    seen = read_argv(argv)
    assert (seen.mode, seen.interface, seen.state_dir, seen.socks5) == ("tun", "tailscale0", None, None)


def test_settings_that_were_not_configured_are_left_alone() -> None:
    """Nothing wanted, nothing sent, nothing drifted: also not on `false` and `[]`."""
    assert wanted_prefs(Wanted()) == {}
    assert drift(Wanted(), Prefs(run_ssh=True, exit_node_id="n1")) == []


ALL = Wanted(
    accept_routes=True,
    accept_dns=False,
    ssh=True,
    shields_up=False,
    advertise_routes=("10.0.0.0/8",),
    operator="me",
    exit_node="100.64.0.9",
    hostname="box",
)


def test_settings_as_prefs() -> None:
    """Each setting has the daemon's own name; false and empty are values."""
    assert wanted_prefs(ALL) == {
        "RouteAll": True,
        "CorpDNS": False,
        "RunSSH": True,
        "ShieldsUp": False,
        "AdvertiseRoutes": ["10.0.0.0/8"],
        "OperatorUser": "me",
        "Hostname": "box",
        "AutoExitNode": "",
        "ExitNodeIP": "100.64.0.9",
        "ExitNodeID": "",
    }


def test_masked_prefs_say_which_fields_count() -> None:
    """`PATCH prefs` ignores a field without its mark."""
    assert masked({"RunSSH": False}) == {"RunSSH": False, "RunSSHSet": True}


def test_drift_names_setting_wanted_and_actual() -> None:
    """Each setting that is not as configured is one row; equal ones are none."""
    prefs = Prefs(route_all=True, corp_dns=True, run_ssh=True, advertise_routes=None, hostname="box")
    assert drift(ALL, prefs) == [
        ("accept_dns", False, True),
        ("advertise_routes", ["10.0.0.0/8"], []),
        ("operator", "me", ""),
        ("exit_node", "100.64.0.9", ""),
    ]


@pytest.mark.parametrize("actual", [None, [], ["10.1.0.0/16", "10.0.0.0/8"]])
def test_the_order_of_routes_is_no_drift(actual: list[str] | None) -> None:
    """Routes are a set; none at all may be null."""
    wanted = Wanted(advertise_routes=("10.0.0.0/8", "10.1.0.0/16") if actual else ())
    assert drift(wanted, Prefs(advertise_routes=actual)) == []


PEERS = {"100.64.0.9": "n9", "exit.example.ts.net": "n9", "exit": "n9", "100.64.0.8": "n8", "other": "n8"}
NONE = {"AutoExitNode": "", "ExitNodeIP": "", "ExitNodeID": ""}


@pytest.mark.parametrize(
    ("chosen", "fields"),
    [
        ("", NONE),
        ("auto:any", NONE | {"AutoExitNode": "any"}),
        ("100.64.0.9", NONE | {"ExitNodeIP": "100.64.0.9"}),
        ("fd7a:115c:a1e0::9", NONE | {"ExitNodeIP": "fd7a:115c:a1e0::9"}),
        ("exit", NONE | {"ExitNodeID": "n9"}),
        ("Exit.Example.ts.net.", NONE | {"ExitNodeID": "n9"}),
        ("nobody", {}),
    ],
)
def test_exit_node_as_prefs(chosen: str, fields: dict[str, object]) -> None:
    """An address is sent as it is, a name as the peer's id once it is known; the other fields are emptied."""
    assert wanted_prefs(Wanted(exit_node=chosen), PEERS) == fields


@pytest.mark.parametrize(
    ("chosen", "prefs", "actual"),
    [
        ("", Prefs(), None),
        ("", Prefs(exit_node_id="n9"), "100.64.0.9"),
        ("", Prefs(exit_node_id="n7"), "n7"),
        ("100.64.0.9", Prefs(exit_node_ip="100.64.0.9"), None),
        ("100.64.0.9", Prefs(exit_node_id="n9"), None),
        ("100.64.0.9", Prefs(exit_node_id="n8"), "100.64.0.8"),
        ("exit", Prefs(exit_node_id="n9"), None),
        ("EXIT", Prefs(exit_node_id="n9"), None),
        ("exit", Prefs(), ""),
        ("auto:any", Prefs(auto_exit_node="any", exit_node_id="n9"), None),
        ("exit", Prefs(auto_exit_node="any", exit_node_id="n9"), "auto:any"),
        ("auto:any", Prefs(exit_node_id="n9"), "100.64.0.9"),
        ("nobody", Prefs(exit_node_id="n9"), "100.64.0.9"),
    ],
)
def test_exit_node_drift(chosen: str, prefs: Prefs, actual: str | None) -> None:
    """The daemon keeps an id where an address or a name was given: that is no drift."""
    rows = drift(Wanted(exit_node=chosen), prefs, PEERS)
    assert rows == ([] if actual is None else [("exit_node", chosen, actual)])
