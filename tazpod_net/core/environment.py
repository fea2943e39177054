"""The environment as a source of configuration: our own names, and containerboot's.

Owns which variable means which key. It is handed the environment as a mapping and never looks at the process's
own.

Facts of containerboot (`cmd/containerboot/settings.go:94-197`): an empty variable is as good as unset, except
TS_ROUTES, where empty clears the routes; options are split at whitespace, without quoting; booleans are Go's.
"""

from collections.abc import Iterator, Mapping

from tazpod_net.core import containerboot
from tazpod_net.core.govalues import go_bool
from tazpod_net.core.layers import Given, Layer, nearest, shown
from tazpod_net.core.options import SECRET, all_keys, is_key

PREFIX = "TAZPOD_NET_"
HOME = "TAZPOD_NET_HOME"
CONFIG = "TAZPOD_NET_CONFIG"
COMPAT = "TAZPOD_NET_COMPAT"
# Ours, but no keys of the configuration.
OTHER_NAMES = frozenset(
    {HOME, CONFIG, COMPAT, "TAZPOD_NET_DEBUG", "TAZPOD_NET_INSTALL_MIRROR"}
    | {"TAZPOD_NET_HOOK_COMPLETION", "TAZPOD_NET_HOOK_PROMPT", "TAZPOD_NET_HOOK_WRAPPER", "TAZPOD_NET_ENV"}
)

# containerboot's name -> key. Of two names for one key the later wins (settings.go:96).
CONTAINERBOOT: dict[str, str] = {
    "TS_USERSPACE": "daemon.mode",
    "TS_TAILSCALED_EXTRA_ARGS": "daemon.extra_args",
    "TS_STATE_DIR": "daemon.state_dir",
    "TS_SOCKET": "daemon.socket",
    "TS_AUTH_KEY": SECRET,
    "TS_AUTHKEY": SECRET,
    "TS_HOSTNAME": "login.hostname",
    "TS_BOOT_TIMEOUT": "login.timeout_s",
    "TS_ACCEPT_DNS": "settings.accept_dns",
    "TS_ROUTES": "settings.advertise_routes",
    "TS_SOCKS5_SERVER": "proxy.socks5",
    "TS_OUTBOUND_HTTP_PROXY_LISTEN": "proxy.http",
    "TS_SERVE_CONFIG": "serve.config",
    "TS_LOCAL_ADDR_PORT": "http.listen",
    "TS_HEALTHCHECK_ADDR_PORT": "http.health_listen",  # deprecated there; an address of its own, and on by being set
    "TS_ENABLE_HEALTH_CHECK": "http.health",
    "TS_ENABLE_METRICS": "http.metrics",
}
EXTRA_ARGS = "TS_EXTRA_ARGS"
EXIT_NODE = "advertise-exit-node"  # no setting of its own: two routes (cmd/tailscale/cli/up.go, calcAdvertiseRoutes)
ROUTES = "settings.advertise_routes"
# Options of `tailscale up` (cmd/tailscale/cli/up.go:90-152) in TS_EXTRA_ARGS -> key.
UP_SWITCHES = {
    "accept-dns": "settings.accept_dns",
    "accept-routes": "settings.accept_routes",
    "shields-up": "settings.shields_up",
    "ssh": "settings.ssh",
}
UP_VALUES = {
    "advertise-tags": "login.tags",
    "advertise-routes": ROUTES,
    "exit-node": "settings.exit_node",
    "hostname": "login.hostname",
    "login-server": "login.server",
    "operator": "settings.operator",
}
_UP_HINTS = {
    "auth-key": "remove it, and set TS_AUTHKEY",
    "authkey": "remove it, and set TS_AUTHKEY",
    "force-reauth": "remove it; 'tazpod-net logout' and 'login' do the same",
    "json": "remove it; 'tazpod-net status --json' says more",
    "reset": "remove it; what the configuration names is set at every start",
    "timeout": "remove it, and set TS_BOOT_TIMEOUT",
}
_UP_HINT = "remove it; after the login: 'tazpod-net tailscale set'"

LISTEN_BY_CONTAINERBOOT = "[::]:9002"  # settings.go:132, used when the address is not given


def variable(key: str) -> str:
    """Our environment name of `section.name`."""
    return PREFIX + key.replace(".", "_").upper()


def own_layer(env: Mapping[str, str], problems: list[str]) -> Layer:
    """The keys named by TAZPOD_NET_*; an unknown name goes to `problems`."""
    layer: Layer = {}
    for name, value in env.items():
        if not name.startswith(PREFIX) or name in OTHER_NAMES:
            continue
        section, _, rest = name[len(PREFIX) :].lower().partition("_")
        key = f"{section}.{rest}"
        if is_key(key) and name == variable(key):
            layer[key] = Given(value, f"environment {name}", is_text=True)
        else:
            problems.append(f"environment {name}: not known: {_meant(name)}")
    return layer


def _meant(name: str) -> str:
    """The prefix is left out of the comparison, or everything would look alike."""
    names = [variable(key) for key in all_keys()] + sorted(OTHER_NAMES)
    near = nearest(name.removeprefix(PREFIX).upper(), [known.removeprefix(PREFIX) for known in names])
    return f"write {PREFIX}{near}, or unset it" if near else "unset it; names are TAZPOD_NET_<SECTION>_<KEY>"


def containerboot_layer(env: Mapping[str, str], problems: list[str]) -> Layer:
    """The keys named by containerboot's variables, TS_EXTRA_ARGS apart."""
    layer: Layer = {}
    for name, key in CONTAINERBOOT.items():
        value = env.get(name)
        if value is None or (not value and name != "TS_ROUTES"):
            continue
        given = _containerboot_value(name, value, problems)
        if given is not None:
            layer[key] = given
    if env.get("TS_DEBUG_ADDR_PORT"):
        words = containerboot.with_debug(env, env.get("TS_TAILSCALED_EXTRA_ARGS", "").split())
        layer["daemon.extra_args"] = Given(words, "environment TS_DEBUG_ADDR_PORT")
    layer |= _client_secret(env)
    problems += containerboot.refusals(env)
    if "http.health_listen" in layer and "http.health" not in layer:
        layer["http.health"] = Given("true", layer["http.health_listen"].where, is_text=True)
    return layer


def _client_secret(env: Mapping[str, str]) -> Layer:
    """`file:PATH` of TS_CLIENT_SECRET; a value stays in the environment, where `credentials` finds it."""
    prefix, colon, path = env.get("TS_CLIENT_SECRET", "").partition(":")
    if prefix != "file" or not colon:
        return {}
    return {"login.oauth_client_secret_file": Given(path, "environment TS_CLIENT_SECRET", is_text=True)}


def _containerboot_value(name: str, value: str, problems: list[str]) -> Given | None:
    where = f"environment {name}"
    if name == "TS_TAILSCALED_EXTRA_ARGS":
        return Given(value.split(), where)
    if name == "TS_LOCAL_ADDR_PORT":
        return Given(_bracketed(value), where, is_text=True)
    if name != "TS_USERSPACE":
        return Given(value, where, is_text=True)
    try:
        return Given("userspace" if go_bool(value) else "tun", where, is_text=True)
    except ValueError:
        problems.append(f"{where}: {shown('', value)} is not true or false: write true (userspace) or false (tun)")
    return None


def _bracketed(address: str) -> str:
    """`$(POD_IP):9002` where the pod's address is an IPv6 one: containerboot adds the brackets (settings.go:188)."""
    host, _, port = address.rpartition(":")
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else address


def listen_default(layer: Layer) -> Given | None:
    """The address for health or metrics that containerboot's switches turned on, if no source gave one.

    `layer`: the merged one.
    """
    if "http.listen" in layer:
        return None
    for name in ("TS_ENABLE_HEALTH_CHECK", "TS_ENABLE_METRICS"):
        given = layer.get(CONTAINERBOOT[name])
        if given is not None and given.value and given.where == f"environment {name}":
            return Given(LISTEN_BY_CONTAINERBOOT, given.where)
    return None


def extra_args_layer(env: Mapping[str, str], problems: list[str]) -> Layer:
    """The keys named by TS_EXTRA_ARGS; an option that cannot be honoured goes to `problems`.

    It wins over containerboot's other names, as `--accept-dns` does there (settings.go:199-244).
    """
    layer: Layer = {}
    words = iter(env.get(EXTRA_ARGS, "").split())
    is_exit_node = False
    for word in words:
        name, value = _up_option(word, words)
        if name == EXIT_NODE:
            is_exit_node = containerboot.is_true(value or "true")
            continue
        key = UP_SWITCHES.get(name) or UP_VALUES.get(name)
        problem = _option_problem(word, name, key, value, layer)
        if problem or key is None:
            problems.append(f"environment {EXTRA_ARGS}: {problem}")
        else:
            layer[key] = Given(value, f"environment {EXTRA_ARGS}", is_text=True)
    if is_exit_node:
        routes = layer.get(ROUTES) or Given(env.get("TS_ROUTES", ""), "")
        text = ",".join(filter(None, (str(routes.value), "0.0.0.0/0", "::/0")))
        layer[ROUTES] = Given(text, f"environment {EXTRA_ARGS}", is_text=True)
    return layer


def _up_option(word: str, rest: Iterator[str]) -> tuple[str, str | None]:
    """Name and value as Go's flag package takes them: `-x`, `--x`, `--x=v`; `--x v` where a value is needed."""
    name, equals, value = word.lstrip("-").partition("=")
    if equals:
        return name, value
    if name in UP_SWITCHES:
        return name, "true"
    return name, next(rest, None) if name in UP_VALUES else None


def _option_problem(word: str, name: str, key: str | None, value: str | None, layer: Layer) -> str:
    """What is wrong with an option, or an empty text. Values are not shown: one may be an auth key."""
    if not word.startswith("-"):
        return "a word that belongs to no option: write --option=value"
    if key is None:
        return f"--{name} cannot be honoured: {_UP_HINTS.get(name, _UP_HINT)}"
    if value is None:
        return f"--{name} has no value: write --{name}=value"
    return f"--{name} is given twice: keep one" if key in layer else ""
