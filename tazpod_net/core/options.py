"""What can be configured: names, types, limits, defaults and meanings, one struct for each section.

Owns the shape of the configuration only; where values come from is the business of `tazpod_net.config`. The
page and the JSON Schema under `docs/` are made from these structs (`tazpod_net.configdoc`), and so is the check
of a single value.

An empty text stands for "none" where a key has no default. None stands for "left alone" in `settings`, where it
differs from empty. `HOME/...` and `~/...` in defaults are made absolute by `tazpod_net.config.load`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field


class Secret:
    """A value that shows itself only to `reveal()`: not in repr, str, format, logs or encoded objects."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; keep it out of argv, environment, logs and messages."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(hidden)" if self._value else "Secret()"


Auto = bool | Literal["auto"]
Needed = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
# A year at most, so that no infinity and no number that a timer cannot hold gets through.
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Words = tuple[str, ...]


class Daemon(Struct, frozen=True, forbid_unknown_fields=True):
    """The tailscaled process."""

    mode: Annotated[
        Literal["auto", "tun", "userspace"],
        Meta(
            description="`auto`: TUN if the probe says yes, else userspace, said aloud; "
            "`tun`: fail clearly; `userspace`: proxies only"
        ),
    ] = "auto"
    interface: Annotated[Needed, Meta(description="name of the TUN device")] = "tailscale0"
    port: Annotated[Port, Meta(description="WireGuard UDP port, 0: any; never taken from `$PORT`")] = 0
    binary: Annotated[Needed, Meta(description="tailscaled: a name on PATH, or a path")] = "tailscaled"
    cli: Annotated[Needed, Meta(description="the `tailscale` command: a name on PATH, or a path")] = "tailscale"
    extra_args: Annotated[Words, Meta(description="appended to tailscaled's command line")] = ()
    upload_logs: Annotated[bool, Meta(description="Tailscale's default; `false`: `--no-logs-no-support`")] = True
    state: Annotated[
        Literal["persist", "ephemeral"],
        Meta(description="`ephemeral`: a stop logs out, a crash does not"),
    ] = "persist"
    state_dir: Annotated[Needed, Meta(description="where `tailscaled.state` lives")] = "HOME/state"
    socket: Annotated[Needed, Meta(description="the LocalAPI's socket")] = "HOME/state/tailscaled.sock"
    link_socket: Annotated[
        Auto,
        Meta(
            description="`auto`: as root, `/var/run/tailscale/tailscaled.sock` links to ours if absent or "
            "dangling, removed on `down`: plain `tailscale` works"
        ),
    ] = "auto"


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """How the node joins its tailnet."""

    server: Annotated[str, Meta(description="control server URL; empty: Tailscale's")] = ""
    auth_key: Annotated[Secret, Meta(description="auth key, or `file:PATH`; the value never reaches a child")] = field(
        default_factory=Secret
    )
    auth_key_file: Annotated[str, Meta(description="file that holds the auth key")] = ""
    oauth_client_id_file: Annotated[
        str,
        Meta(
            description="with the next: mints one short-lived key per login; the client needs the scope "
            "`auth_keys` and `login.tags`"
        ),
    ] = "~/secrets/tailscale-oauth-client-id"
    oauth_client_secret_file: Annotated[str, Meta(description="the client's secret")] = (
        "~/secrets/tailscale-oauth-client-secret"  # noqa: S105 - a path
    )
    api_key_file: Annotated[str, Meta(description="API key: mints where there is no OAuth client")] = (
        "~/secrets/tailscale-api-key"
    )
    tailnet_file: Annotated[str, Meta(description="the API key's tailnet")] = "~/secrets/tailscale-tailnet"
    api_url: Annotated[Needed, Meta(description="where keys are minted")] = "https://api.tailscale.com"
    tags: Annotated[
        Words,
        Meta(
            description="of minted keys only; auth keys of one's own and interactive logins ask for no tag",
            extra_json_schema={"items": {"type": "string", "pattern": "^tag:[A-Za-z][A-Za-z0-9-]*$"}},
        ),
    ] = ("tag:tazpod",)
    # Tailscale's auth keys live 90 days at most.
    key_expiry_s: Annotated[int, Meta(ge=1, le=7_776_000, description="of minted keys")] = 3600
    preauthorized: Annotated[bool, Meta(description="of minted keys")] = True
    reusable: Annotated[bool, Meta(description="of minted keys")] = False
    ephemeral: Annotated[
        Auto,
        Meta(
            description="of minted keys; `auto`: false if the state is on a mount that outlives the container, "
            'true on the container\'s layer, tmpfs or `daemon.state = "ephemeral"`'
        ),
    ] = "auto"
    hostname: Annotated[
        str,
        Meta(
            description="requested name; `auto`: chosen at the first login and kept in the home, a container id or "
            "the host's own name becomes `tazpod-<folder>`; empty: the system's"
        ),
    ] = "auto"
    interactive: Annotated[
        Auto,
        Meta(
            description="`auto`: only `up` and `login` on a terminal ask for a URL, never hook, entrypoint, "
            "supervise or pipes"
        ),
    ] = "auto"
    hint: Annotated[str, Meta(description="what to tell a person who must provide credentials")] = ""
    timeout_s: Annotated[Seconds, Meta(description="one login attempt")] = 30.0


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The node's own settings: corrected on every start and `reload`. Not set: as Tailscale has it, left alone."""

    accept_routes: Annotated[bool, Meta(description="use routes that other nodes advertise")] = True
    accept_dns: Annotated[bool | None, Meta(description="use the tailnet's DNS")] = None
    ssh: Annotated[bool | None, Meta(description="run Tailscale's SSH server")] = None
    shields_up: Annotated[bool | None, Meta(description="refuse incoming connections")] = None
    advertise_routes: Annotated[
        Words | None, Meta(description="networks to offer, such as `10.0.0.0/8`; empty: none")
    ] = None
    operator: Annotated[
        str | None, Meta(description="who may use `tailscale` without root; not set: the user who ran `up`")
    ] = None
    exit_node: Annotated[str | None, Meta(description="IP, name or `auto:any` of the exit node; empty: none")] = None


class Proxy(Struct, frozen=True, forbid_unknown_fields=True):
    """The proxies of userspace mode. A taken port: the next free one, shown in `status`."""

    socks5: Annotated[str, Meta(description="SOCKS5, `host:port` on loopback; empty: none")] = "127.0.0.1:1055"
    http: Annotated[str, Meta(description="HTTP, `host:port` on loopback; empty: none")] = "127.0.0.1:1055"
    allow_remote: Annotated[bool, Meta(description="lets both listen on other addresses too")] = False


class Restart(Struct, frozen=True, forbid_unknown_fields=True):
    """When a daemon that died comes back: at once after a stable run, then exponentially with jitter."""

    initial_s: Annotated[Seconds, Meta(description="first delay")] = 0.5
    max_s: Annotated[Seconds, Meta(description="longest delay")] = 60.0
    stable_s: Annotated[Seconds, Meta(description="a run of this length was stable")] = 30.0
    give_up_after: Annotated[Count, Meta(description="failures in a row, 0: never")] = 0


class Stop(Struct, frozen=True, forbid_unknown_fields=True):
    """The end of the daemon."""

    timeout_s: Annotated[Seconds, Meta(description="SIGTERM to SIGKILL of the daemon")] = 25.0


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """The daemon's log. Keys are always redacted."""

    max_bytes: Annotated[int, Meta(ge=65536, le=1 << 40, description="rotation at this size")] = 10_485_760
    files: Annotated[Count, Meta(description="older files kept")] = 5
    drop: Annotated[Words, Meta(description="regular expressions of lines to drop")] = ()
    stdout: Annotated[
        Auto,
        Meta(
            description="`auto`: `supervise` and `entrypoint` without CMD copy the daemon's log; "
            "with CMD only our own events, on stderr"
        ),
    ] = "auto"


class Dns(Struct, frozen=True, forbid_unknown_fields=True):
    """Name resolution of the container."""

    guard: Annotated[bool, Meta(description="ordinary DNS works when tailscaled does not")] = True
    hosts: Annotated[
        Auto,
        Meta(description="tailnet names in `/etc/hosts`; `auto`: in userspace mode or with accept_dns off"),
    ] = "auto"


class Serve(Struct, frozen=True, forbid_unknown_fields=True):
    """Serve and funnel."""

    config: Annotated[
        str, Meta(description="serve/funnel JSON, applied when ready and again when the file changes")
    ] = ""


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """Health and metrics over HTTP: off until one of the two is on."""

    listen: Annotated[Needed, Meta(description="where; by containerboot's names without an address: `[::]:9002`")] = (
        "127.0.0.1:9002"
    )
    health: Annotated[bool, Meta(description="`/livez`, `/readyz`, `/healthz`")] = False
    health_listen: Annotated[str, Meta(description="where health is, if not at `http.listen`; empty: there")] = ""
    metrics: Annotated[bool, Meta(description="`/metrics`")] = False


class Doctor(Struct, frozen=True, forbid_unknown_fields=True):
    """What must be reachable."""

    peers: Annotated[Words, Meta(description="`name` or `tag:...`")] = ()
    endpoints: Annotated[Words, Meta(description="`host:port` or `https://...`")] = ()


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration of one home."""

    daemon: Daemon = field(default_factory=Daemon)
    login: Login = field(default_factory=Login)
    settings: Settings = field(default_factory=Settings)
    proxy: Proxy = field(default_factory=Proxy)
    restart: Restart = field(default_factory=Restart)
    stop: Stop = field(default_factory=Stop)
    log: Log = field(default_factory=Log)
    dns: Dns = field(default_factory=Dns)
    serve: Serve = field(default_factory=Serve)
    http: Http = field(default_factory=Http)
    doctor: Doctor = field(default_factory=Doctor)


SECTIONS: dict[str, type[Struct]] = Config.__annotations__
DEFAULTS = Config()

SECRET = "login.auth_key"  # noqa: S105 - the name of a key, not its value
PATHS = frozenset(
    {
        "daemon.state_dir",
        "daemon.socket",
        "login.auth_key_file",
        "login.oauth_client_id_file",
        "login.oauth_client_secret_file",
        "login.api_key_file",
        "login.tailnet_file",
        "serve.config",
    }
)
# A name here is looked up on PATH; with a slash it is a path.
PROGRAMS = frozenset({"daemon.binary", "daemon.cli"})

# Keys that are checked but not yet acted upon, and what they wait for.
NOT_YET: dict[str, str] = {
    "doctor.peers": "doctor",
    "doctor.endpoints": "doctor",
}


def annotation(key: str) -> object:
    """The declared type of `section.name`."""
    section, _, name = key.partition(".")
    declared: object = SECTIONS[section].__annotations__[name]
    return declared


def is_key(key: str) -> bool:
    """Whether `section.name` can be configured."""
    section, _, name = key.partition(".")
    return section in SECTIONS and name in SECTIONS[section].__annotations__


def value_of(config: Config, key: str) -> object:
    """The value of `section.name`."""
    section, _, name = key.partition(".")
    found: object = getattr(getattr(config, section), name)
    return found


def all_keys() -> list[str]:
    """Every `section.name`, in the order of the structs."""
    return [f"{section}.{name}" for section, struct in SECTIONS.items() for name in struct.__annotations__]
