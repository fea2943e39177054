"""The daemon's environment: that of `up`, without secrets and without what would mislead or kill tailscaled.

Owns which variables pass. Pure: it is handed the environment and gives a new one; no secret is ever part of a
problem.
"""

from collections.abc import Mapping

from tazpod_net.core.containerboot import TABLE
from tazpod_net.core.environment import PREFIX
from tazpod_net.core.knobs import complaint
from tazpod_net.core.layers import shown
from tazpod_net.core.options import Config

# Secrets by name; by value, everything that starts like one of Tailscale's keys.
_SECRETS = frozenset(
    {
        "TS_API_CLIENT_SECRET",
        "TS_API_KEY",
        "TS_AUTHKEY",
        "TS_AUTH_KEY",
        "TS_CLIENT_SECRET",
        "TS_ID_TOKEN",
        "TS_OAUTH_SECRET",
        "TAILSCALE_API_KEY",
        "TAILSCALE_AUTHKEY",
        "TAILSCALE_AUTH_KEY",
    }
)
_KEY_PREFIX = "tskey-"
# PORT is tailscaled's default WireGuard port (cmd/tailscaled/tailscaled.go:105-120). Then systemd's words to us
# and not to a child. TS_LOGS_DIR is set by us. The last three would end the daemon (tailscaled.go:173, 271, 511).
_DROPPED = frozenset(
    {
        "PORT",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "TS_LOGS_DIR",
        "TS_BE_CLI",
        "TS_PARENT_DEATH_FD",
        "TS_PLEASE_PANIC",
    }
)
_PROXY_NAMES = frozenset({"ALL_PROXY", "FTP_PROXY", "HTTP_PROXY", "HTTPS_PROXY"})


def scrubbed_environment(env: Mapping[str, str], config: Config, *, logs_dir: str) -> tuple[dict[str, str], list[str]]:
    """The daemon's environment, and a line for each variable that tailscaled would die of (it is left out).

    `logs_dir`: an existing directory of this home; without it the daemon's upload buffer goes to
    /var/lib/tailscale, which all daemons share (logpolicy/logpolicy.go:210-258). Proxy variables pass, except those
    that point at this daemon's own proxies: it would wait for itself.
    """
    own = {config.proxy.socks5, config.proxy.http} - {""}
    kept: dict[str, str] = {}
    problems: list[str] = []
    for name, value in env.items():
        if _is_dropped(name, value) or _is_own_proxy(name, value, own):
            continue
        wrong = complaint(name, value)
        if wrong:
            problems.append(f"environment {name}: {shown('', value)} {wrong}")
        else:
            kept[name] = value
    kept["TS_LOGS_DIR"] = logs_dir
    return kept, problems


def _is_dropped(name: str, value: str) -> bool:
    consumed = (name in TABLE and name.startswith("TS_")) or name.startswith(PREFIX)
    secret = name in _SECRETS or value.startswith(_KEY_PREFIX)
    return consumed or secret or name in _DROPPED


def _is_own_proxy(name: str, value: str, own: set[str]) -> bool:
    if name.upper() not in _PROXY_NAMES:
        return False
    address = value.rpartition("://")[2].partition("/")[0].rpartition("@")[2]
    return address.replace("localhost", "127.0.0.1") in own
