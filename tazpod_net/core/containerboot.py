"""Every variable that Tailscale's containerboot knows: what becomes of it here, and its defaults on request.

Owns the table; which key a variable is read as stands in `core.environment`. Nothing of containerboot's is silently
without effect: a variable is honoured, or has nothing to say here for a reason that the table gives, or is refused
with a sentence. `docs/containerboot.md` is made from it (`tazpod_net.configdoc`).

The names are those of `cmd/containerboot` in tailscale.com v1.102.5.
"""

from collections.abc import Iterator, Mapping

import msgspec

from tazpod_net.core.govalues import go_bool
from tazpod_net.core.layers import Given, Layer

NAME = "containerboot"  # the value of TAZPOD_NET_COMPAT
OAUTH_SECRET = "tskey-client-"  # noqa: S105 - how an OAuth client's secret begins
_PROXY = "forwards no traffic for others: use Tailscale's own image for layer-3 proxies, or unset it"
_OPERATOR = "is for proxies that Tailscale's Kubernetes operator makes: use Tailscale's own image there, or unset it"


class Row(msgspec.Struct, frozen=True):
    """What becomes of a variable. `refused`: the end of the sentence, said if it is set; `if_true`: only then."""

    text: str
    refused: str = ""
    if_true: bool = False


def _no(sentence: str, *, if_true: bool = False) -> Row:
    what, _, fix = sentence.partition(": ")
    return Row(f"refused{' if true' if if_true else ''}: tazpod-net {what}; {fix}", sentence, if_true)


TABLE: dict[str, Row] = {
    "TS_AUTHKEY": Row(
        "`login.auth_key`; `file:PATH` is `login.auth_key_file`; an OAuth client's secret (`tskey-client-…`, with "
        "`?ephemeral=…&preauthorized=…`) mints a key for `login.tags`. Used only when a login is needed"
    ),
    "TS_AUTH_KEY": Row("as `TS_AUTHKEY`, which wins"),
    "TS_CLIENT_ID": Row("with the next: an OAuth client that mints a key for `login.tags` when a login is needed"),
    "TS_CLIENT_SECRET": Row("its secret, or `file:PATH`; without `TS_CLIENT_ID` the id is read from the secret"),
    "TS_ID_TOKEN": _no("does not do workload identity: give TS_AUTHKEY or TS_CLIENT_SECRET, and unset it"),
    "TS_AUDIENCE": _no("does not do workload identity: give TS_AUTHKEY or TS_CLIENT_SECRET, and unset it"),
    "TS_HOSTNAME": Row("`login.hostname`"),
    "TS_ROUTES": Row(
        "`settings.advertise_routes`; empty: none. The kernel's `ip_forward` is yours to set (`--sysctl`)"
    ),
    "TS_EXTRA_ARGS": Row(
        "options of `tailscale up`: `--accept-dns`, `--accept-routes`, `--advertise-exit-node`, "
        "`--advertise-routes`, `--advertise-tags`, "
        "`--exit-node`, `--hostname`, `--login-server`, `--operator`, `--shields-up`, `--ssh`; another one is an error"
    ),
    "TS_ACCEPT_DNS": Row("`settings.accept_dns`"),
    "TS_TAILSCALED_EXTRA_ARGS": Row("`daemon.extra_args`"),
    "TS_SOCKS5_SERVER": Row("`proxy.socks5`; an address that others can reach needs `proxy.allow_remote = true`"),
    "TS_OUTBOUND_HTTP_PROXY_LISTEN": Row("`proxy.http`; likewise"),
    "TS_USERSPACE": Row("`daemon.mode`: true is `userspace`, false is `tun`"),
    "TS_STATE_DIR": Row("`daemon.state_dir`"),
    "TS_SOCKET": Row("`daemon.socket`"),
    "TS_AUTH_ONCE": Row("says nothing here: true and false log in when a login is needed, settings are kept right"),
    "TS_SERVE_CONFIG": Row("`serve.config`"),
    "TS_LOCAL_ADDR_PORT": Row("`http.listen`; an IPv6 address may lack its brackets"),
    "TS_ENABLE_HEALTH_CHECK": Row("`http.health`, on `[::]:9002` without an address"),
    "TS_ENABLE_METRICS": Row("`http.metrics`, on `[::]:9002` without an address"),
    "TS_HEALTHCHECK_ADDR_PORT": Row("`http.health_listen`, and `http.health` by being set"),
    "TS_DEBUG_ADDR_PORT": Row("`--debug=ADDRESS` in `daemon.extra_args`, if that has none"),
    "TS_BOOT_TIMEOUT": Row("`login.timeout_s`, and the time of `entrypoint --wait`"),
    "TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT": Row("false: services of `serve.config` are not advertised"),
    "TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR": _no(
        "runs no tailscaled --config: say the same by TS_* or config.toml, and unset it"
    ),
    "TS_KUBE_SECRET": _no(
        "keeps no state in a Kubernetes Secret: mount a volume, set TS_STATE_DIR, and this to nothing"
    ),
    "TS_KUBERNETES_READ_API_SERVER_ADDRESS_FROM_ENV": Row("says nothing here: the Kubernetes API is not used"),
    "TS_DEST_IP": _no(_PROXY),
    "TS_EXPERIMENTAL_DEST_DNS_NAME": _no(_PROXY),
    "TS_TAILNET_TARGET_IP": _no(_PROXY),
    "TS_TAILNET_TARGET_FQDN": _no(_PROXY),
    "TS_EXPERIMENTAL_ENABLE_FORWARDING_OPTIMIZATIONS": _no(
        "changes no network cards: run Tailscale's ethtool line on the host, or unset it", if_true=True
    ),
    "TS_EGRESS_PROXIES_CONFIG_PATH": _no(_OPERATOR),
    "TS_INGRESS_PROXIES_CONFIG_PATH": _no(_OPERATOR),
    "TS_EXPERIMENTAL_CERT_SHARE": _no(_OPERATOR, if_true=True),
    "EXPERIMENTAL_ALLOW_PROXYING_CLUSTER_TRAFFIC_VIA_INGRESS": _no(_OPERATOR, if_true=True),
    "POD_IP": Row("says nothing here: it is for the operator's proxies"),
    "POD_IPS": Row("says nothing here: an IPv6 address gets its brackets without it"),
    "POD_NAME": Row("says nothing here: it is for the operator's proxies"),
    "POD_UID": Row("says nothing here: it is for the operator's proxies"),
    "KUBERNETES_SERVICE_HOST": Row(
        "says nothing here: state lies in the home or in `TS_STATE_DIR`, also in Kubernetes"
    ),
    "KUBERNETES_SERVICE_PORT_HTTPS": Row("says nothing here: the Kubernetes API is not used"),
    "TS_TEST_ONLY_ROOT": Row("says nothing here: it is for containerboot's own tests"),
    "TS_TEST_FAKE_NETFILTER": Row("says nothing here: it is for containerboot's own tests"),
    "TS_TEST_FAKE_NETFILTER_6": Row("says nothing here: it is for containerboot's own tests"),
}

# containerboot's defaults (cmd/containerboot/settings.go:94-197, tailscaled.go:60-150; `up`'s own for the login).
DEFAULTS: dict[str, object] = {
    "daemon.mode": "userspace",
    "daemon.socket": "/tmp/tailscaled.sock",  # noqa: S108 - theirs
    "login.hostname": "",
    "login.timeout_s": 60.0,
    "login.ephemeral": True,  # of an OAuth client's keys (feature/oauthkey/oauthkey.go:54)
    "login.preauthorized": False,
    "settings.accept_dns": False,
    "settings.accept_routes": False,
    "proxy.socks5": "",
    "proxy.http": "",
    "proxy.allow_remote": True,
}


def refusals(env: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that is set and cannot be honoured."""
    for name, row in TABLE.items():
        value = env.get(name, "")
        if row.refused and value and (not row.if_true or is_true(value)):
            yield f"environment {name}: tazpod-net {row.refused}"


def defaults_layer(env: Mapping[str, str], name: str, problems: list[str]) -> Layer:
    """The lowest source, if TAZPOD_NET_COMPAT (called `name`) asks for it."""
    wanted = env.get(name, "")
    if not wanted:
        return {}
    if wanted != NAME:
        problems.append(f"environment {name}: {wanted!r} is not known: write {NAME}, or unset it")
        return {}
    given = dict(DEFAULTS)
    if not env.get("TS_STATE_DIR"):
        given["daemon.state"] = "ephemeral"  # `mem:` there
    return {key: Given(value, f"environment {name}") for key, value in given.items()}


def with_debug(env: Mapping[str, str], words: list[str]) -> list[str]:
    """The daemon's further options with TS_DEBUG_ADDR_PORT (cmd/containerboot/tailscaled.go:104)."""
    address = env.get("TS_DEBUG_ADDR_PORT", "")
    return words if not address or any(address in word for word in words) else [f"--debug={address}", *words]


def advertises_services(env: Mapping[str, str]) -> bool:
    """TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT, which is on by default."""
    value = env.get("TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT", "")
    try:
        return not value or go_bool(value)
    except ValueError:
        return True


def is_true(value: str) -> bool:
    """As containerboot reads a switch: what is no boolean is false."""
    try:
        return go_bool(value)
    except ValueError:
        return False
