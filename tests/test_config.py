"""Configuration: files, environment and command line -> one Config, or the exact list of errors."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tazpod_net import configdoc
from tazpod_net.config import NOT_YET, Config, Loaded, Secret, load, places
from tazpod_net.core.environment import CONTAINERBOOT, OTHER_NAMES, variable
from tazpod_net.core.options import all_keys, value_of
from tazpod_net.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs"


class Machine:
    """A scratch machine: /etc, a person's home and a home of ours, all empty."""

    def __init__(self, root: Path) -> None:
        self.etc = root / "etc"
        self.user = root / "user"
        self.home = root / "home"
        self.dirs = {"etc": self.etc, "user": self.user / ".config" / "tazpod-net", "home": self.home}
        for directory in self.dirs.values():
            directory.mkdir(parents=True, exist_ok=True)

    def write(self, place: str, text: str) -> Path:
        """`place`: one of etc, user, home."""
        path = self.dirs[place] / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def load(
        self,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        config_file: str | None = None,
    ) -> Loaded:
        """What `tazpod_net.config.load` says on this machine."""
        return load(
            home=str(self.home),
            env={"HOME": str(self.user), **(env or {})},
            config_file=config_file,
            overrides=overrides,
            etc_dir=str(self.etc),
        )

    def problems(
        self,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        config_file: str | None = None,
    ) -> list[str]:
        """The errors, with the scratch directories shortened to ETC, USER and HOME."""
        with pytest.raises(ConfigError) as caught:
            self.load(env, overrides, config_file)
        return [self.short(problem) for problem in caught.value.problems]

    def short(self, text: str) -> str:
        """`text` with the scratch directories shortened."""
        for name in ("etc", "user", "home"):
            text = text.replace(str(getattr(self, name)), name.upper())
        return text


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty scratch machine."""
    return Machine(tmp_path)


DEFAULTS: dict[str, object] = {
    "daemon.mode": "auto",
    "daemon.interface": "tailscale0",
    "daemon.port": 0,
    "daemon.binary": "tailscaled",
    "daemon.cli": "tailscale",
    "daemon.extra_args": (),
    "daemon.upload_logs": True,
    "daemon.state": "persist",
    "daemon.state_dir": "HOME/state",
    "daemon.socket": "HOME/state/tailscaled.sock",
    "daemon.link_socket": "auto",
    "login.server": "",
    "login.auth_key": Secret(),
    "login.auth_key_file": "",
    "login.oauth_client_id_file": "USER/secrets/tailscale-oauth-client-id",
    "login.oauth_client_secret_file": "USER/secrets/tailscale-oauth-client-secret",
    "login.api_key_file": "USER/secrets/tailscale-api-key",
    "login.tailnet_file": "USER/secrets/tailscale-tailnet",
    "login.api_url": "https://api.tailscale.com",
    "login.tags": ("tag:tazpod",),
    "login.key_expiry_s": 3600,
    "login.preauthorized": True,
    "login.reusable": False,
    "login.ephemeral": "auto",
    "login.hostname": "auto",
    "login.interactive": "auto",
    "login.hint": "",
    "login.timeout_s": 30.0,
    "settings.accept_routes": True,
    "settings.accept_dns": None,
    "settings.ssh": None,
    "settings.shields_up": None,
    "settings.advertise_routes": None,
    "settings.operator": None,
    "settings.exit_node": None,
    "proxy.socks5": "127.0.0.1:1055",
    "proxy.http": "127.0.0.1:1055",
    "proxy.allow_remote": False,
    "restart.initial_s": 0.5,
    "restart.max_s": 60.0,
    "restart.stable_s": 30.0,
    "restart.give_up_after": 0,
    "stop.timeout_s": 25.0,
    "log.max_bytes": 10485760,
    "log.files": 5,
    "log.drop": (),
    "log.stdout": "auto",
    "dns.guard": True,
    "dns.hosts": "auto",
    "serve.config": "",
    "http.listen": "127.0.0.1:9002",
    "http.health": False,
    "http.health_listen": "",
    "http.metrics": False,
    "doctor.peers": (),
    "doctor.endpoints": (),
}


def flat(machine: Machine, config: Config) -> dict[str, object]:
    """`section.name` -> value, with the scratch directories shortened."""
    values = {key: value_of(config, key) for key in all_keys()}
    return {key: machine.short(value) if isinstance(value, str) else value for key, value in values.items()}


def test_nothing_configured_gives_the_documented_defaults(machine: Machine) -> None:
    """Without files, environment and options every key has the contract's default, and nothing is noted."""
    loaded = machine.load()
    assert flat(machine, loaded.config) == DEFAULTS
    assert (loaded.sources, loaded.notes, loaded.files) == ({}, (), ())


def test_later_sources_win_and_are_named(machine: Machine) -> None:
    """Defaults < /etc < ~/.config < HOME < environment < command line, key by key."""
    everything = "[daemon]\nport = {0}\ninterface = 'ts{0}'\n[stop]\ntimeout_s = {0}\n[log]\nfiles = {0}\n"
    machine.write("etc", everything.format(1) + "[restart]\nmax_s = 61\n")
    machine.write("user", "[daemon]\nport = 2\n[stop]\ntimeout_s = 2\n[log]\nfiles = 2\n")
    machine.write("home", "# mine\n[daemon]\nport = 3\n\n[stop]\ntimeout_s = 3.5\n")
    loaded = machine.load(
        {"TAZPOD_NET_DAEMON_PORT": "4", "TAZPOD_NET_DAEMON_MODE": "userspace"}, overrides={"daemon.mode": "tun"}
    )
    changed = {key: value for key, value in flat(machine, loaded.config).items() if value != DEFAULTS[key]}
    assert changed == {
        "daemon.mode": "tun",
        "daemon.interface": "ts1",
        "daemon.port": 4,
        "stop.timeout_s": 3.5,
        "log.files": 2,
        "restart.max_s": 61.0,
    }
    assert {key: machine.short(where) for key, where in loaded.sources.items()} == {
        "daemon.mode": "command line",
        "daemon.interface": "ETC/config.toml line 3",
        "daemon.port": "environment TAZPOD_NET_DAEMON_PORT",
        "restart.max_s": "ETC/config.toml line 9",
        "stop.timeout_s": "HOME/config.toml line 6",
        "log.files": "USER/.config/tazpod-net/config.toml line 6",
    }
    assert [machine.short(path) for path in loaded.files] == [
        "ETC/config.toml",
        "USER/.config/tazpod-net/config.toml",
        "HOME/config.toml",
    ]


@pytest.mark.parametrize("by", ["option", "environment", "both"])
def test_a_named_file_takes_the_place_of_all_three(machine: Machine, tmp_path: Path, by: str) -> None:
    """--config wins over TAZPOD_NET_CONFIG, and either over the standard places."""
    machine.write("etc", "[daemon]\nport = 1\n")
    machine.write("home", "broken")
    chosen = tmp_path / "chosen.toml"
    chosen.write_text("[log]\nfiles = 9\n")
    option = str(chosen) if by != "environment" else None
    env = {"environment": str(chosen), "both": "/does/not/exist"}.get(by)
    loaded = machine.load({} if env is None else {"TAZPOD_NET_CONFIG": env}, config_file=option)
    assert (loaded.config.daemon.port, loaded.config.log.files) == (0, 9)
    assert loaded.files == (str(chosen),)


def test_a_named_file_may_lie_below_the_persons_home(machine: Machine) -> None:
    """`~` works where no shell has expanded it."""
    (machine.user / "own.toml").write_text("[log]\nfiles = 7\n")
    assert machine.load({"TAZPOD_NET_CONFIG": "~/own.toml"}).config.log.files == 7


def test_the_null_device_is_an_empty_configuration(machine: Machine) -> None:
    """`--config /dev/null` means: no file at all."""
    machine.write("etc", "[daemon]\nport = 1\n")
    assert machine.load(config_file="/dev/null").config.daemon.port == 0


@pytest.mark.parametrize(
    ("xdg", "users"),
    [("", "USER/.config"), ("relative", "USER/.config"), ("/some/where", "/some/where")],
)
def test_the_persons_file_follows_xdg(machine: Machine, xdg: str, users: str) -> None:
    """An absolute XDG_CONFIG_HOME counts, an empty or relative one does not."""
    env = {"HOME": str(machine.user), "XDG_CONFIG_HOME": xdg}
    found = places(home=str(machine.home), env=env, etc_dir=str(machine.etc))
    assert [machine.short(path) for path in found] == [
        "ETC/config.toml",
        f"{users}/tazpod-net/config.toml",
        "HOME/config.toml",
    ]


def test_the_person_may_differ_from_the_environments_home(machine: Machine) -> None:
    """Under sudo the user's home is used, not root's."""
    loaded = load(home=str(machine.home), env={"HOME": "/root"}, user_home="/home/me", etc_dir=str(machine.etc))
    assert loaded.config.login.api_key_file == "/home/me/secrets/tailscale-api-key"


@pytest.mark.parametrize("known", [True, False])
def test_without_home_the_password_database_is_asked(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """HOME unset is no error, not even for a uid that nobody knows; then there are simply no such files."""
    monkeypatch.setattr(os, "getuid", lambda: 0 if known else 0x7FFFFFF0)
    loaded = load(home=str(machine.home), env={}, etc_dir=str(machine.etc))
    assert loaded.config.login.api_key_file == ("/root/secrets/tailscale-api-key" if known else "")


ENVIRONMENT: list[tuple[dict[str, str], dict[str, object]]] = [
    ({"TAZPOD_NET_DAEMON_MODE": "tun"}, {"daemon.mode": "tun"}),
    ({"TAZPOD_NET_DAEMON_PORT": "41641"}, {"daemon.port": 41641}),
    ({"TAZPOD_NET_DAEMON_UPLOAD_LOGS": "f"}, {"daemon.upload_logs": False}),
    ({"TAZPOD_NET_DAEMON_LINK_SOCKET": "false"}, {"daemon.link_socket": False}),
    ({"TAZPOD_NET_DNS_HOSTS": "auto"}, {"dns.hosts": "auto"}),
    ({"TAZPOD_NET_LOGIN_TAGS": "tag:a, tag:b,"}, {"login.tags": ("tag:a", "tag:b")}),
    ({"TAZPOD_NET_LOGIN_TAGS": ""}, {"login.tags": ()}),
    ({"TAZPOD_NET_LOGIN_HINT": ""}, {"login.hint": ""}),
    ({"TAZPOD_NET_PROXY_HTTP": ""}, {"proxy.http": ""}),
    ({"TAZPOD_NET_SETTINGS_OPERATOR": ""}, {"settings.operator": ""}),
    ({"TAZPOD_NET_SETTINGS_ADVERTISE_ROUTES": ""}, {"settings.advertise_routes": ()}),
    ({"TAZPOD_NET_SETTINGS_SSH": "1"}, {"settings.ssh": True}),
    ({"TAZPOD_NET_STOP_TIMEOUT_S": "1m30s"}, {"stop.timeout_s": 90.0}),
    ({"TAZPOD_NET_STOP_TIMEOUT_S": "3"}, {"stop.timeout_s": 3.0}),
    ({"TAZPOD_NET_LOGIN_AUTH_KEY": " tskey-auth-x\n"}, {"login.auth_key": Secret("tskey-auth-x")}),
    ({"TAZPOD_NET_LOGIN_AUTH_KEY": "file:/run/key"}, {"login.auth_key_file": "/run/key"}),
    ({"TAZPOD_NET_SERVE_CONFIG": "/etc/serve.json"}, {"serve.config": "/etc/serve.json"}),
    ({"TAZPOD_NET_LOGIN_SERVER": "http://127.0.0.1:9911"}, {"login.server": "http://127.0.0.1:9911"}),
    ({"TAZPOD_NET_PROXY_SOCKS5": "localhost:1"}, {"proxy.socks5": "localhost:1"}),
    ({"TAZPOD_NET_PROXY_SOCKS5": "[::1]:65535"}, {"proxy.socks5": "[::1]:65535"}),
    (
        {"TAZPOD_NET_PROXY_SOCKS5": ":1055", "TAZPOD_NET_PROXY_ALLOW_REMOTE": "true"},
        {"proxy.socks5": ":1055", "proxy.allow_remote": True},
    ),
    ({"TAZPOD_NET_LOGIN_HOSTNAME": "box.example"}, {"login.hostname": "box.example"}),
    ({"TAZPOD_NET_LOG_DROP": "a.*b,^c$"}, {"log.drop": ("a.*b", "^c$")}),
    ({"TAZPOD_NET_HOME": "/x", "TAZPOD_NETWORK": "y", "UNRELATED": "z"}, {}),
    # containerboot's names
    ({"TS_USERSPACE": "true"}, {"daemon.mode": "userspace"}),
    ({"TS_USERSPACE": "0"}, {"daemon.mode": "tun"}),
    ({"TS_USERSPACE": "true", "TAZPOD_NET_DAEMON_MODE": "tun"}, {"daemon.mode": "tun"}),
    (
        {"TS_TAILSCALED_EXTRA_ARGS": " --verbose=1\t--debug=:1 "},
        {"daemon.extra_args": ("--verbose=1", "--debug=:1")},
    ),
    ({"TS_STATE_DIR": "/var/lib/tailscale/"}, {"daemon.state_dir": "/var/lib/tailscale"}),
    ({"TS_SOCKET": "/tmp/ts.sock"}, {"daemon.socket": "/tmp/ts.sock"}),
    ({"TS_AUTH_KEY": "old"}, {"login.auth_key": Secret("old")}),
    ({"TS_AUTH_KEY": "old", "TS_AUTHKEY": "new"}, {"login.auth_key": Secret("new")}),
    ({"TS_AUTH_KEY": "old", "TS_AUTHKEY": ""}, {"login.auth_key": Secret("old")}),
    ({"TS_AUTHKEY": "file:/run/secrets/key"}, {"login.auth_key_file": "/run/secrets/key"}),
    (
        {"TS_AUTHKEY": "k", "TAZPOD_NET_LOGIN_AUTH_KEY_FILE": "/f"},
        {"login.auth_key": Secret("k"), "login.auth_key_file": "/f"},
    ),
    ({"TS_HOSTNAME": "box"}, {"login.hostname": "box"}),
    ({"TS_BOOT_TIMEOUT": "1m30s"}, {"login.timeout_s": 90.0}),
    ({"TS_ACCEPT_DNS": "T"}, {"settings.accept_dns": True}),
    ({"TS_ROUTES": "10.0.0.0/8,fd00::/64"}, {"settings.advertise_routes": ("10.0.0.0/8", "fd00::/64")}),
    ({"TS_ROUTES": ""}, {"settings.advertise_routes": ()}),
    ({"TS_SOCKS5_SERVER": "127.0.0.1:1080"}, {"proxy.socks5": "127.0.0.1:1080"}),
    ({"TS_OUTBOUND_HTTP_PROXY_LISTEN": "localhost:8080"}, {"proxy.http": "localhost:8080"}),
    ({"TS_SERVE_CONFIG": "/config/serve.json"}, {"serve.config": "/config/serve.json"}),
    ({"TS_LOCAL_ADDR_PORT": "[::]:9999"}, {"http.listen": "[::]:9999"}),
    ({"TS_LOCAL_ADDR_PORT": "fd00::7:9002"}, {"http.listen": "[fd00::7]:9002"}),
    ({"TS_HEALTHCHECK_ADDR_PORT": "[::]:9003"}, {"http.health": True, "http.health_listen": "[::]:9003"}),
    (
        {"TS_HEALTHCHECK_ADDR_PORT": "127.0.0.1:9003", "TS_ENABLE_METRICS": "1", "TS_LOCAL_ADDR_PORT": "10.0.0.1:9002"},
        {
            "http.health": True,
            "http.health_listen": "127.0.0.1:9003",
            "http.metrics": True,
            "http.listen": "10.0.0.1:9002",
        },
    ),
    ({"TS_ENABLE_METRICS": "true"}, {"http.metrics": True, "http.listen": "[::]:9002"}),
    ({"TS_ENABLE_HEALTH_CHECK": "false"}, {}),
    (
        {"TS_ENABLE_HEALTH_CHECK": "1", "TS_LOCAL_ADDR_PORT": "127.0.0.1:80"},
        {"http.health": True, "http.listen": "127.0.0.1:80"},
    ),
    ({"TS_ENABLE_METRICS": "true", "TAZPOD_NET_HTTP_METRICS": "false"}, {}),
    # options of `tailscale up`
    (
        {
            "TS_EXTRA_ARGS": "--accept-dns=false --ssh -shields-up=t --accept-routes=0 --hostname h --operator=me "
            "--advertise-routes=10.0.0.0/8 --exit-node=100.64.0.9 --login-server=https://control.example"
        },
        {
            "settings.accept_dns": False,
            "settings.ssh": True,
            "settings.shields_up": True,
            "settings.accept_routes": False,
            "login.hostname": "h",
            "settings.operator": "me",
            "settings.advertise_routes": ("10.0.0.0/8",),
            "settings.exit_node": "100.64.0.9",
            "login.server": "https://control.example",
        },
    ),
    ({"TS_EXTRA_ARGS": "--accept-dns", "TS_ACCEPT_DNS": "false"}, {"settings.accept_dns": True}),
    ({"TS_EXTRA_ARGS": "--ssh", "TAZPOD_NET_SETTINGS_SSH": "false"}, {"settings.ssh": False}),
]


@pytest.mark.parametrize(("env", "changed"), ENVIRONMENT)
def test_the_environment_configures(machine: Machine, env: dict[str, str], changed: dict[str, object]) -> None:
    """Our names and containerboot's; empty is not unset; everything that is not named keeps its default."""
    assert flat(machine, machine.load(env).config) == DEFAULTS | changed


def test_an_empty_containerboot_variable_is_as_good_as_unset(machine: Machine) -> None:
    """Compose files write `TS_X=${TS_X:-}`; only TS_ROUTES says something when it is empty."""
    env = dict.fromkeys([*CONTAINERBOOT, "TS_EXTRA_ARGS"], "")
    assert flat(machine, machine.load(env).config) == DEFAULTS | {"settings.advertise_routes": ()}


def test_every_key_has_an_environment_name(machine: Machine) -> None:
    """The value that a key has by default can also be given by its variable."""
    spelled: dict[type, Any] = {bool: lambda value: str(value).lower(), tuple: ",".join, Secret: lambda _: ""}
    base = machine.load().config
    for key in all_keys():
        value = value_of(base, key)
        if value is not None:
            text = spelled.get(type(value), str)(value)
            if text or key not in {"serve.config", "login.auth_key"}:
                loaded = machine.load({variable(key): text})
                assert value_of(loaded.config, key) == value
                assert loaded.sources == {key: f"environment {variable(key)}"}


FILES: list[tuple[str, dict[str, object]]] = [
    ("", {}),
    ("\ufeff[log]\nfiles = 1\n", {"log.files": 1}),
    ("[log]\r\nfiles = 1\r\n", {"log.files": 1}),
    ("daemon.mode = 'tun'\n", {"daemon.mode": "tun"}),
    ("stop = { timeout_s = 3 }\n", {"stop.timeout_s": 3.0}),
    ("[daemon]\nlink_socket = true\n", {"daemon.link_socket": True}),
    ("[settings]\nadvertise_routes = []\nssh = false\n", {"settings.advertise_routes": (), "settings.ssh": False}),
    ("[login]\nauth_key = 'tskey-auth-1'\n", {"login.auth_key": Secret("tskey-auth-1")}),
    ("[login]\nauth_key = 'file:key'\n", {"login.auth_key_file": "HOME/key"}),
    ("[login]\nauth_key = 'file:key'\nauth_key_file = ''\n", {"login.auth_key_file": "HOME/key"}),
    ("[login]\nauth_key_file = '../key'\n", {"login.auth_key_file": "ROOT/key"}),
    ("[login]\nauth_key_file = '~/key'\n", {"login.auth_key_file": "USER/key"}),
    ("[login]\nauth_key_file = '$HOME/key'\n", {"login.auth_key_file": "USER/key"}),
    ("[login]\nauth_key_file = '${HOME}/key'\n", {"login.auth_key_file": "USER/key"}),
    ("[login]\napi_key_file = ''\n", {"login.api_key_file": ""}),
    ("[daemon]\nbinary = 'ts'\ncli = './ts'\n", {"daemon.binary": "ts", "daemon.cli": "HOME/ts"}),
    ("[daemon]\nbinary = '~/bin/ts'\n", {"daemon.binary": "USER/bin/ts"}),
    (
        "[daemon]\nstate_dir = '/a//b/../c/'\nsocket = 's'\n",
        {"daemon.state_dir": "/a/c", "daemon.socket": "HOME/s"},
    ),
    ("[log]\nmax_bytes = 65536\nfiles = 0\n", {"log.max_bytes": 65536, "log.files": 0}),
    ("[restart]\ninitial_s = 60\nmax_s = 60\n", {"restart.initial_s": 60.0}),
]


@pytest.mark.parametrize(("text", "changed"), FILES)
def test_a_file_configures(machine: Machine, text: str, changed: dict[str, object]) -> None:
    """Any spelling that TOML has; relative paths start at the file's directory."""
    machine.write("home", text)
    found = flat(machine, machine.load().config)
    root = str(machine.home.parent)
    assert {k: v.replace(root, "ROOT") if isinstance(v, str) else v for k, v in found.items()} == (DEFAULTS | changed)


@pytest.mark.parametrize(
    ("text", "env", "key", "file"),
    [
        ("[login]\nauth_key = 'k'\n", {"TAZPOD_NET_LOGIN_AUTH_KEY_FILE": "/f"}, "k", "/f"),
        ("[login]\nauth_key_file = '/f'\n", {"TS_AUTHKEY": "k"}, "k", "/f"),
        ("[login]\nauth_key_file = '/f'\n", {"TS_AUTHKEY": "file:/g"}, "", "/g"),
        ("[login]\nauth_key_file = '/f'\n", {"TAZPOD_NET_LOGIN_AUTH_KEY": ""}, "", "/f"),
        ("[login]\nauth_key = 'k'\nauth_key_file = ''\n", {}, "k", ""),
    ],
)
def test_a_key_and_a_key_file_of_different_sources_are_both_kept(
    machine: Machine, text: str, env: dict[str, str], key: str, file: str
) -> None:
    """They are tried in turn: neither may hide the other."""
    machine.write("etc", text)
    login = machine.load(env).config.login
    assert (login.auth_key.reveal(), login.auth_key_file) == (key, file)


NO_SECONDS = "is not a number of seconds above 0 and up to 31536000"
FILE_ERRORS: list[tuple[str, str]] = [
    (
        '[daemon]\nmode = "tnu"\n',
        'line 2: daemon.mode = "tnu" is not one of auto, tun, userspace: write "auto", "tun" or "userspace"',
    ),
    ('[daemon]\nmdoe = "tun"\n', "line 2: daemon.mdoe is not known: write daemon.mode"),
    ("[daemon]\ntags = []\n", "line 2: daemon.tags is not known: write it below [login]"),
    ("[stop]\nzzzzzz = 1\n", "line 2: stop.zzzzzz is not known: remove it; [stop] has timeout_s"),
    ("\n[deamon]\nport = 1\n", "line 2: [deamon] is not known: write [daemon]"),
    (
        "[zzzzzz]\n",
        (
            "line 1: [zzzzzz] is not known: remove it; sections are "
            "daemon, login, settings, proxy, restart, stop, log, dns, serve, http, doctor"
        ),
    ),
    ('mode = "tun"\n', "line 1: mode is not known outside a section: write it below [daemon]"),
    ("daemon_mode = 'tun'\n", "line 1: daemon_mode is not known outside a section: write daemon.mode"),
    ("'9' = 1\n", "line 1: 9 is not known outside a section: remove it"),
    ("daemon = 3\n", "line 1: daemon = 3 is not a section: write [daemon] and its keys below it"),
    ("[[daemon]]\n", "line 1: daemon = [{}] is not a section: write [daemon] and its keys below it"),
    (
        "[daemon]\nport = 70000\n",
        "line 2: daemon.port = 70000 is not a whole number from 0 to 65535: write 0 for example",
    ),
    (
        "[daemon]\nport = -1\n",
        "line 2: daemon.port = -1 is not a whole number from 0 to 65535: write 0 for example",
    ),
    (
        "[daemon]\nport = true\n",
        "line 2: daemon.port = true is not a whole number from 0 to 65535: write 0 for example",
    ),
    (
        '[daemon]\nupload_logs = "yes"\n',
        'line 2: daemon.upload_logs = "yes" is not true or false: write true or false without quotes',
    ),
    ("[daemon]\nupload_logs = 1\n", "line 2: daemon.upload_logs = 1 is not true or false: write true or false"),
    (
        '[dns]\nhosts = "on"\n',
        'line 2: dns.hosts = "on" is not auto, true or false: write "auto", true or false without quotes',
    ),
    (
        "[settings]\nssh = 1979-05-27\n",
        'line 2: settings.ssh = "1979-05-27" is not true or false: write true or false',
    ),
    (
        "[stop]\ntimeout_s = 0\n",
        f"line 2: stop.timeout_s = 0 {NO_SECONDS}: write 25 for example",
    ),
    (
        "[stop]\ntimeout_s = nan\n",
        f"line 2: stop.timeout_s = nan {NO_SECONDS}: write 25 for example",
    ),
    (
        "[stop]\ntimeout_s = inf\n",
        f"line 2: stop.timeout_s = inf {NO_SECONDS}: write 25 for example",
    ),
    (
        '[stop]\ntimeout_s = "5s"\n',
        f'line 2: stop.timeout_s = "5s" {NO_SECONDS}: write 25 for example',
    ),
    (
        "[log]\nmax_bytes = 65535\n",
        ("line 2: log.max_bytes = 65535 is not a whole number from 65536 to 1099511627776: write 10485760 for example"),
    ),
    (
        "[log]\nfiles = -1\n",
        "line 2: log.files = -1 is not a whole number from 0 to 1000000: write 5 for example",
    ),
    ('[log]\ndrop = "x"\n', 'line 2: log.drop = "x" is not a list of texts: write for example ["one", "two"]'),
    ("[login]\nhint = 3\n", "line 2: login.hint = 3 is not a text: write it in quotes"),
    ("[login]\nauth_key = 3\n", "line 2: login.auth_key = (hidden) is not a text: write it in quotes"),
    (
        '[daemon]\nbinary = ""\n',
        'line 2: daemon.binary = "" is empty: write "tailscaled", or leave it out',
    ),
    ('[login]\nhint = "a\\u0000b"\n', 'line 2: login.hint = "a\\u0000b" holds a NUL character: remove it'),
    ('[log]\ndrop = ["\\u0000"]\n', 'line 2: log.drop = ["\\u0000"] holds a NUL character: remove it'),
    (
        '[daemon]\ninterface = "tailscale-is-long"\n',
        'line 2: daemon.interface = "tailscale-is-long" is longer than 15 bytes: write "tailscale0" for example',
    ),
    *[
        (
            f'[daemon]\ninterface = "{name}"\n',
            f'line 2: daemon.interface = "{name}" is not a name for an interface: write "tailscale0" for example',
        )
        for name in ("a b", "a/b", "..", ".", "tap:x", "tun0,tun1")
    ],
    (
        '[daemon]\nextra_args = ["--verbose=1", "-tun=x"]\n',
        (
            'line 2: daemon.extra_args = ["--verbose=1","-tun=x"] repeats --tun: '
            "remove it and use daemon.mode and daemon.interface"
        ),
    ),
    *[
        (
            f'[daemon]\nextra_args = ["--{name}"]\n',
            f'line 2: daemon.extra_args = ["--{name}"] repeats --{name}: remove it and use {instead}',
        )
        for name, instead in {
            "socket": "daemon.socket",
            "state": "daemon.state_dir",
            "statedir": "daemon.state_dir",
            "port": "daemon.port",
            "socks5-server": "proxy.socks5",
            "outbound-http-proxy-listen": "proxy.http",
            "no-logs-no-support": "daemon.upload_logs",
            "cleanup": "'tazpod-net down'",
        }.items()
    ],
    (
        '[daemon]\nextra_args = [""]\n',
        'line 2: daemon.extra_args = [""] has an empty word, with which tailscaled would not start: remove it',
    ),
    (
        f'[daemon]\nsocket = "/{"x" * 107}"\n',
        (
            f'line 2: daemon.socket = "/{"x" * 98}... is longer than 107 bytes, the most for a socket: '
            "name a shorter path"
        ),
    ),
    *[
        (
            f'[login]\nserver = "{url}"\n',
            f'line 2: login.server = "{url}" is not a URL: write "https://" and the name of the server',
        )
        for url in ("control.example", "ftp://x", "https://", "https:///x", "https://a b")
    ],
    *[
        (
            f'[login]\ntags = ["tag:ok", "{tag}"]\n',
            (
                f'line 2: login.tags = ["tag:ok","{tag}"] has "{tag}": '
                'write "tag:", a letter, then letters, digits and hyphens'
            ),
        )
        for tag in ("tazpod", "tag:", "tag:1a", "tag:a_b", "tag:é")
    ],
    *[
        (
            f'[login]\nhostname = "{name}"\n',
            (f'line 2: login.hostname = "{name}" is not a host name: write letters, digits and hyphens, 63 at most'),
        )
        for name in ("a_b", "-a", "a-", "a..b", "x" * 64, "é")
    ],
    (
        '[settings]\nadvertise_routes = ["10.0.0.1/8"]\n',
        (
            'line 2: settings.advertise_routes = ["10.0.0.1/8"] has no network in "10.0.0.1/8" '
            '(10.0.0.1/8 has host bits set): write "192.168.0.0/24" for example'
        ),
    ),
    *[
        (
            f'[settings]\nadvertise_routes = ["{address}"]\n',
            (
                f'line 2: settings.advertise_routes = ["{address}"] has no network in "{address}": '
                f'write "{address}{bits}"'
            ),
        )
        for address, bits in (("10.0.0.1", "/32"), ("fd00::1", "/128"))
    ],
    *[
        (
            f'[proxy]\nsocks5 = "{address}"\n',
            f'line 2: proxy.socks5 = "{address}" is not host:port: write "127.0.0.1:1055" for example',
        )
        for address in ("127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:1055", "a b:1", "x:-1")
    ],
    *[
        (
            f'[proxy]\nhttp = "{address}"\n',
            (
                f'line 2: proxy.http = "{address}" would be open to other machines, without a password: '
                'write "127.0.0.1:1055", or set proxy.allow_remote = true'
            ),
        )
        for address in (":1055", "0.0.0.0:1055", "[::]:1055", "10.0.0.1:1055", "127.example:1055", "127.0.0.x:1055")
    ],
    (
        '[http]\nlisten = "9002"\n',
        'line 2: http.listen = "9002" is not host:port: write "127.0.0.1:9002" for example',
    ),
    (
        '[log]\ndrop = ["ok", "["]\n',
        (
            'line 2: log.drop = ["ok","["] has "[", which is no regular expression '
            "(unterminated character set at position 0): correct it"
        ),
    ),
    (
        "[log]\ndrop = ['\\u00e9']\n",
        (
            'line 2: log.drop = ["\\\\u00e9"] has "\\\\u00e9", which is no regular expression '
            "(bad escape \\u at position 0): correct it"
        ),
    ),
    (
        "[log]\ndrop = ['(?u)x']\n",
        (
            'line 2: log.drop = ["(?u)x"] has "(?u)x", which is no regular expression '
            "(bad inline flags: cannot use 'u' flag with a bytes pattern at position 3): correct it"
        ),
    ),
    (
        "[restart]\ninitial_s = 100\n",
        "line 2: restart.initial_s = 100 is above restart.max_s = 60: lower the first or raise the second",
    ),
    (
        "[restart]\ninitial_s = 10\nmax_s = 9\n",
        "line 3: restart.initial_s = 10 is above restart.max_s = 9: lower the first or raise the second",
    ),
    (
        "[login]\nauth_key_file = 'f'\nauth_key = 'k'\n",
        "line 3: login.auth_key and login.auth_key_file are both set: remove one of them",
    ),
    (
        "[login]\nauth_key = 'file:k'\nauth_key_file = 'f'\n",
        "line 2: login.auth_key and login.auth_key_file are both set: remove one of them",
    ),
    (
        "[login]\nauth_key_file = '~other/key'\n",
        'line 2: login.auth_key_file = "~other/key" cannot be expanded: write the whole path',
    ),
    (
        "[daemon]\nsocket = '$XDG_RUNTIME_DIR/s'\n",
        'line 2: daemon.socket = "$XDG_RUNTIME_DIR/s" cannot be expanded: write the whole path',
    ),
    ("[daemon\n", "line 1: is not TOML (Expected ']' at the end of a table declaration): correct it"),
    ("[daemon]\nmode = \n", "line 2: is not TOML (Invalid value): correct it"),
    ("[daemon]\nmode = 'a'\nmode = 'b'\n", "line 3: is not TOML (Cannot overwrite a value): correct it"),
    ("[daemon]\nmode = [", "line 2: is not TOML (Invalid value): correct it"),
    (f"x = {'[' * 100_000}", ": is nested too deeply: keys stand in [section] tables, one level deep"),
]


@pytest.mark.parametrize(("text", "expected"), FILE_ERRORS)
def test_a_wrong_file_is_named_with_line_and_fix(machine: Machine, text: str, expected: str) -> None:
    """Each error names the file, the line where it is known, the value as written, and what to write."""
    machine.write("home", text)
    found = machine.problems()
    place = "HOME/config.toml" if expected.startswith(":") else "HOME/config.toml "
    assert found == [place + expected]


ENVIRONMENT_ERRORS: list[tuple[dict[str, str], str]] = [
    (
        {"TAZPOD_NET_DAEMON_MODE": "tnu"},
        (
            'environment TAZPOD_NET_DAEMON_MODE: daemon.mode = "tnu" is not one of auto, tun, userspace: '
            "write auto, tun or userspace"
        ),
    ),
    (
        {"TAZPOD_NET_DAEMON_PORT": ""},
        (
            'environment TAZPOD_NET_DAEMON_PORT: daemon.port = "" is not a whole number from 0 to 65535: '
            "write 0 for example"
        ),
    ),
    (
        {"TAZPOD_NET_DAEMON_PORT": "1_0"},
        (
            'environment TAZPOD_NET_DAEMON_PORT: daemon.port = "1_0" is not a whole number from 0 to 65535: '
            "write 0 for example"
        ),
    ),
    (
        {"TAZPOD_NET_DNS_GUARD": ""},
        'environment TAZPOD_NET_DNS_GUARD: dns.guard = "" is not true or false: write true or false',
    ),
    (
        {"TAZPOD_NET_LOG_STDOUT": "yes"},
        ('environment TAZPOD_NET_LOG_STDOUT: log.stdout = "yes" is not auto, true or false: write auto, true or false'),
    ),
    (
        {"TAZPOD_NET_STOP_TIMEOUT_S": "soon"},
        (
            'environment TAZPOD_NET_STOP_TIMEOUT_S: stop.timeout_s = "soon" is not a number of seconds above 0 '
            "and up to 31536000: write 25s for example"
        ),
    ),
    (
        {"TAZPOD_NET_DAEMON_SOCKET": ""},
        (
            'environment TAZPOD_NET_DAEMON_SOCKET: daemon.socket = "" is empty: '
            "write HOME/state/tailscaled.sock, or leave it out"
        ),
    ),
    (
        {"TAZPOD_NET_DAEMON_SOCKET": "s.sock"},
        (
            'environment TAZPOD_NET_DAEMON_SOCKET: daemon.socket = "s.sock" is relative, and there is no file '
            "that it could be relative to: write the whole path"
        ),
    ),
    (
        {"TAZPOD_NET_LOGIN_HINT": "\udcff"},
        'environment TAZPOD_NET_LOGIN_HINT: login.hint = "?" is not UTF-8: write it in UTF-8',
    ),
    (
        {"TAZPOD_NET_DAEMON_MDOE": "tun"},
        "environment TAZPOD_NET_DAEMON_MDOE: not known: write TAZPOD_NET_DAEMON_MODE, or unset it",
    ),
    (
        {"TAZPOD_NET_MODE": "tun"},
        "environment TAZPOD_NET_MODE: not known: write TAZPOD_NET_DAEMON_MODE, or unset it",
    ),
    (
        {"TAZPOD_NET_daemon_mode": "tun"},
        "environment TAZPOD_NET_daemon_mode: not known: write TAZPOD_NET_DAEMON_MODE, or unset it",
    ),
    ({"TAZPOD_NET_HOEM": "/x"}, "environment TAZPOD_NET_HOEM: not known: write TAZPOD_NET_HOME, or unset it"),
    (
        {"TAZPOD_NET_QQQQQ": ""},
        "environment TAZPOD_NET_QQQQQ: not known: unset it; names are TAZPOD_NET_<SECTION>_<KEY>",
    ),
    ({"TAZPOD_NET_CONFIG": ""}, "TAZPOD_NET_CONFIG: is empty: name a file, or leave it out"),
    ({"TAZPOD_NET_CONFIG": "/no/such"}, "/no/such: does not exist: create it, or correct TAZPOD_NET_CONFIG"),
    (
        {"TS_USERSPACE": "maybe"},
        'environment TS_USERSPACE: "maybe" is not true or false: write true (userspace) or false (tun)',
    ),
    (
        {"TS_ACCEPT_DNS": "on"},
        'environment TS_ACCEPT_DNS: settings.accept_dns = "on" is not true or false: write true or false',
    ),
    (
        {"TS_BOOT_TIMEOUT": "1 minute"},
        (
            'environment TS_BOOT_TIMEOUT: login.timeout_s = "1 minute" is not a number of seconds above 0 '
            "and up to 31536000: write 30s for example"
        ),
    ),
    (
        {"TS_SOCKS5_SERVER": ":1055"},
        (
            'environment TS_SOCKS5_SERVER: proxy.socks5 = ":1055" would be open to other machines, without a '
            'password: write "127.0.0.1:1055", or set proxy.allow_remote = true'
        ),
    ),
    (
        {"TS_TAILSCALED_EXTRA_ARGS": "--tun=userspace-networking"},
        (
            'environment TS_TAILSCALED_EXTRA_ARGS: daemon.extra_args = ["--tun=userspace-networking"] '
            "repeats --tun: remove it and use daemon.mode and daemon.interface"
        ),
    ),
    (
        {"TS_EXTRA_ARGS": "--auth-key tskey-auth-1 --netfilter-mode=off"},
        (
            "environment TS_EXTRA_ARGS: --auth-key cannot be honoured: remove it, and set TS_AUTHKEY\n"
            "environment TS_EXTRA_ARGS: a word that belongs to no option: write --option=value\n"
            "environment TS_EXTRA_ARGS: --netfilter-mode cannot be honoured: "
            "remove it; after the login: 'tazpod-net tailscale set'"
        ),
    ),
    (
        {"TS_EXTRA_ARGS": "--hostname"},
        "environment TS_EXTRA_ARGS: --hostname has no value: write --hostname=value",
    ),
    ({"TS_EXTRA_ARGS": "--ssh --ssh=false"}, "environment TS_EXTRA_ARGS: --ssh is given twice: keep one"),
    (
        {"TS_EXTRA_ARGS": "--ssh=perhaps"},
        'environment TS_EXTRA_ARGS: settings.ssh = "perhaps" is not true or false: write true or false',
    ),
    (
        {"TAZPOD_NET_LOGIN_AUTH_KEY": "k", "TAZPOD_NET_LOGIN_AUTH_KEY_FILE": "/f"},
        (
            "environment TAZPOD_NET_LOGIN_AUTH_KEY: login.auth_key and login.auth_key_file are both set: "
            "remove one of them"
        ),
    ),
]


@pytest.mark.parametrize(("env", "expected"), ENVIRONMENT_ERRORS)
def test_a_wrong_variable_is_named_with_its_fix(machine: Machine, env: dict[str, str], expected: str) -> None:
    """Each error names the variable, the value and what to write, in the environment's own spelling."""
    assert "\n".join(machine.problems(env)) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            {"daemon.mode": "tnu"},
            (
                'command line: daemon.mode = "tnu" is not one of auto, tun, userspace: '
                'write "auto", "tun" or "userspace"'
            ),
        ),
        (
            {"daemon.socket": "s"},
            (
                'command line: daemon.socket = "s" is relative, and there is no file that it could be relative to: '
                "write the whole path"
            ),
        ),
        ({"mode": "tun"}, "command line: mode is not known: write it below [daemon]"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(machine: Machine, overrides: dict[str, object], expected: str) -> None:
    """The command line's values are checked like every other."""
    assert "\n".join(machine.problems(overrides=overrides)) == expected


def test_an_endless_number_is_an_error_of_the_file(machine: Machine) -> None:
    """Python refuses to convert thousands of digits; that must not look like a bug of ours."""
    machine.write("home", f"[log]\nfiles = {'9' * 5000}\n")
    (found,) = machine.problems()
    assert found.startswith("HOME/config.toml: is not TOML (")


def test_an_error_cannot_command_a_terminal(machine: Machine) -> None:
    """Control characters in names and values are shown escaped, so each error stays one harmless line."""
    machine.write("home", '[stop]\n"\\n" = 1\n[daemon]\nmode = "\\u001b[31m"\n')
    assert machine.problems() == [
        "HOME/config.toml line 1: stop.\\u000a is not known: remove it; [stop] has timeout_s",
        (
            'HOME/config.toml line 4: daemon.mode = "\\u001b[31m" is not one of auto, tun, userspace: '
            'write "auto", "tun" or "userspace"'
        ),
    ]


def test_an_option_that_was_not_given_leaves_the_environment_alone(machine: Machine) -> None:
    """None on the command line is no value."""
    assert machine.load({"TAZPOD_NET_DAEMON_MODE": "tun"}, {"daemon.mode": None}).config.daemon.mode == "tun"


def test_every_error_of_every_source_is_reported_at_once(machine: Machine) -> None:
    """A person corrects all of them in one go, even those that a later source would hide."""
    machine.write("etc", "[daemon]\nport = 'x'\n[nonsense-section]\n")
    machine.write("user", "not toml\n")
    machine.write("home", "[daemon]\nport = 1\nmod = 'tun'\ninterface = 'a b'\n[proxy]\nhttp = ':1'\n")
    found = machine.problems({"TAZPOD_NET_LOG_FILES": "many", "TS_EXTRA_ARGS": "--reset"}, {"stop.timeout_s": -1.0})
    assert [problem.partition(": ")[0] for problem in found] == [
        "ETC/config.toml line 3",
        "USER/.config/tazpod-net/config.toml line 1",
        "HOME/config.toml line 3",
        "environment TS_EXTRA_ARGS",
        "ETC/config.toml line 2",
        "environment TAZPOD_NET_LOG_FILES",
        "command line",
        "HOME/config.toml line 4",
        "HOME/config.toml line 6",
    ]


def test_a_missing_named_file_is_an_error(machine: Machine) -> None:
    """The three standard places may be empty, a file that somebody named may not be missing."""
    assert machine.problems(config_file="/no/such.toml") == [
        "/no/such.toml: does not exist: create it, or correct --config"
    ]


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "loop", "forbidden", "big", "latin-1"])
def test_an_unusable_file_is_named_and_never_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever lies at a standard place: one line with the reason, no traceback and no hang."""
    path = machine.home / "config.toml"
    fix = f": make it a file that uid {os.getuid()} may read"
    expected = {
        "directory": f"HOME/config.toml: cannot be read (it is a directory){fix}",
        "fifo": f"HOME/config.toml: cannot be read (it is not a file){fix}",
        "socket": f"HOME/config.toml: cannot be read (No such device or address){fix}",
        "loop": f"HOME/config.toml: cannot be read (Too many levels of symbolic links){fix}",
        "forbidden": f"HOME/config.toml: cannot be read (Permission denied){fix}",
        "big": "HOME/config.toml: is larger than 1048576 bytes: name a configuration file",
        "latin-1": "HOME/config.toml line 3: is not UTF-8: save the file as UTF-8",
    }
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(machine.home)  # a socket's path is short
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        case "loop":
            path.symlink_to(path)
        case "forbidden":
            path.touch()
            monkeypatch.setattr(os, "open", _refuse)  # root may read everything
        case "big":
            path.write_bytes(b"#" * (1 << 20) + b"\n")
        case _:
            path.write_bytes("# a\n# b\n# \u00e9\n".encode("latin-1"))
    assert machine.problems() == [expected[kind]]


def _refuse(path: str, flags: int) -> int:
    if path.endswith("home/config.toml"):
        raise PermissionError(13, "Permission denied")
    raise FileNotFoundError(2, "No such file or directory")


def test_a_secret_shows_itself_only_on_request(machine: Machine) -> None:
    """Neither repr, str, format nor an encoder gives the auth key away."""
    config = machine.load({"TS_AUTHKEY": "tskey-auth-SECRET"}).config
    secret = config.login.auth_key
    for text in (repr(config), str(config), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "SECRET" not in text
    assert "hidden" in repr(config)
    with pytest.raises(TypeError):
        msgspec.json.encode(config)
    assert secret.reveal() == "tskey-auth-SECRET"
    assert {secret, Secret("tskey-auth-SECRET"), Secret()} == {secret, Secret()}
    assert secret != "tskey-auth-SECRET"


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("[login]\nauth_key = ['tskey-auth-SECRET']\n", {}),
        ("[login]\nauth_key = 'tskey-auth-SECRET\\n'\nauth_key_file = 'x'\n", {}),
        ("[login]\nauth_key = 'tskey-auth-SECRET\n", {}),
        ("[login]\nauthkey = 'tskey-auth-SECRET'\n", {}),
        ("[login]\nserver = 'tskey-auth-SECRET'\n", {}),
        ("login = 'tskey-auth-SECRET'\n", {}),
        ("", {"TAZPOD_NET_LOGIN_AUTHKEY": "tskey-auth-SECRET"}),
        ("", {"TAZPOD_NET_LOGIN_AUTH_KEY": "tskey-auth-SECRET\0"}),
        ("", {"TS_EXTRA_ARGS": "--authkey=tskey-auth-SECRET"}),
        ("", {"TS_EXTRA_ARGS": "--auth-key tskey-auth-SECRET"}),
        ("", {"TS_EXTRA_ARGS": "--hostname --auth-key=tskey-auth-SECRET"}),
        ("", {"TS_TAILSCALED_EXTRA_ARGS": "--state=tskey-auth-SECRET"}),
    ],
)
def test_no_error_shows_an_auth_key(machine: Machine, text: str, env: dict[str, str]) -> None:
    """A key in the wrong place stays a secret."""
    machine.write("home", text)
    found = machine.problems(env)
    assert len(found) >= 1
    assert "SECRET" not in " ".join(found)


@pytest.mark.parametrize(
    ("env", "notes"),
    [
        ({"TAZPOD_NET_DAEMON_MODE": "tun"}, ()),
        ({"TAZPOD_NET_DAEMON_STATE": "persist"}, ()),
        ({"TAZPOD_NET_DAEMON_STATE": "ephemeral"}, ()),
        ({"TS_SERVE_CONFIG": "/s.json"}, ()),
        ({"TS_ENABLE_METRICS": "true"}, ()),
        ({"TAZPOD_NET_COMPAT": "containerboot"}, ()),
        (
            {"TAZPOD_NET_DOCTOR_PEERS": "a", "TAZPOD_NET_LOGIN_TAGS": "tag:x"},
            ("doctor.peers is set but not used by this version",),
        ),
    ],
)
def test_what_has_no_effect_yet_is_said(machine: Machine, env: dict[str, str], notes: tuple[str, ...]) -> None:
    """A key of a later version is accepted and checked, and a person who set it hears that nothing follows."""
    assert machine.load(env).notes == notes


def test_keys_without_effect_are_keys() -> None:
    """The table of keys that wait names no key that does not exist."""
    assert set(NOT_YET) <= set(all_keys())


def test_containerboots_names_mean_keys() -> None:
    """A containerboot name that leads to no key would be an error that nobody can cure."""
    assert set(CONTAINERBOOT.values()) <= set(all_keys())
    assert not OTHER_NAMES & {variable(key) for key in all_keys()}


def test_the_page_is_that_of_the_code() -> None:
    """docs/configuration.md has the tables that the code makes: run `python -m tazpod_net.configdoc docs`."""
    text = (DOCS / configdoc.PAGE).read_text(encoding="utf-8")
    assert text == configdoc.page(text)
    assert all(f"| `{key.partition('.')[2]}` |" in text for key in all_keys())


def test_the_schema_is_that_of_the_code(tmp_path: Path) -> None:
    """docs/config.schema.json is what the code makes, and both files are written by one command."""
    assert (DOCS / configdoc.SCHEMA).read_text(encoding="utf-8") == configdoc.schema()
    page = (DOCS / configdoc.PAGE).read_text(encoding="utf-8")
    (tmp_path / configdoc.PAGE).write_text(page, encoding="utf-8")
    (tmp_path / configdoc.CONTAINERBOOT_PAGE).write_bytes((DOCS / configdoc.CONTAINERBOOT_PAGE).read_bytes())
    configdoc.main(str(tmp_path))
    assert (tmp_path / configdoc.PAGE).read_text(encoding="utf-8") == page
    assert (tmp_path / configdoc.SCHEMA).read_text(encoding="utf-8") == configdoc.schema()


def test_the_schema_describes_every_key_and_nothing_else() -> None:
    """Editors complete all keys, refuse others, and do not offer null, which TOML does not have."""
    schema = msgspec.json.decode(configdoc.schema())
    found = [
        f"{section}.{name}"
        for section in schema["properties"]
        for name in schema["$defs"][section.capitalize()]["properties"]
    ]
    assert found == all_keys()
    assert all(part["additionalProperties"] is False for part in [schema, *schema["$defs"].values()])
    assert "null" not in configdoc.schema()


def test_without_files_nothing_heavy_is_loaded() -> None:
    """The configuration is read before the daemon is started: TOML, difflib and the like only when needed."""
    program = (
        "import sys; before = set(sys.modules); from tazpod_net.config import load;"
        "load(home='/nonexistent', env={'HOME': '/nonexistent'}); print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    unwanted = {"tomllib", "difflib", "ipaddress", "pathlib", "dataclasses", "json", "asyncio", "pwd", "socket"}
    assert "msgspec" in loaded.stdout
    assert unwanted & set(loaded.stdout.split()) == set()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def _loads_or_explains(machine: Machine, env: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> None:
    try:
        config = machine.load(env, overrides).config
    except ConfigError as error:
        for problem in error.problems:
            assert problem.isprintable()
            assert problem.count(": ") >= 1
    else:
        msgspec.convert(msgspec.to_builtins(config, enc_hook=lambda _: "", builtin_types=()), dict)


@quiet
@given(overrides=st.dictionaries(st.sampled_from(all_keys()), values, max_size=4))
def test_any_typed_value_is_taken_or_explained(machine: Machine, overrides: dict[str, object]) -> None:
    """Whatever a file or option holds: a configuration, or errors of one line each; never a traceback."""
    _loads_or_explains(machine, {}, overrides)


@quiet
@given(
    env=st.dictionaries(
        st.sampled_from([*map(variable, all_keys()), *CONTAINERBOOT, "TS_EXTRA_ARGS"]),
        st.text(st.characters(exclude_characters="\0"), max_size=30),
        max_size=4,
    )
)
def test_any_environment_is_taken_or_explained(machine: Machine, env: dict[str, str]) -> None:
    """Whatever the environment holds, undecodable bytes included: a configuration, or errors of one line."""
    _loads_or_explains(machine, env)


@quiet
@given(data=st.binary(max_size=60) | st.text(alphabet="[]daemon.portlg=\"'1,{} \n#\\", max_size=60).map(str.encode))
def test_any_file_is_taken_or_explained(machine: Machine, data: bytes) -> None:
    """Whatever the file holds: a configuration, or errors of one line each."""
    (machine.home / "config.toml").write_bytes(data)
    _loads_or_explains(machine, {})
