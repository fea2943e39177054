"""What this supervisor can log in with, in the order of the contract: auth key, OAuth client, API key.

Looks at the files at the moment of asking: `~/secrets` exists only after an unlock. Keeps what a person gave by `login`
and what a later `up` could see that this process cannot. Values leave this module only towards LocalAPI and the minting
child; everybody else gets fingerprints.
"""

import contextlib
import os
from collections.abc import Mapping

import msgspec

from tazpod_net.adapters.keyfile import Found, read_key
from tazpod_net.core.containerboot import OAUTH_SECRET
from tazpod_net.core.govalues import go_bool
from tazpod_net.core.login import Candidate
from tazpod_net.core.options import Config
from tazpod_net.core.protocol import Offered


class Minter(msgspec.Struct, frozen=True):
    """What buys a key: an OAuth client, or an API key and its tailnet. `wishes`: what the secret itself asks for."""

    client_id: str = ""
    client_secret: str = ""
    api_key: str = ""
    tailnet: str = ""
    wishes: dict[str, bool] = {}


class Credentials:
    """The credentials of one home."""

    def __init__(self, config: Config, env: Mapping[str, str] | None = None) -> None:
        self.config = config
        self._client = _client_of(env or {})
        self._by_env = "TS_CLIENT_SECRET" in (env or {})
        self.given: str | None = None  # by `tazpod-net login`
        self.offered = Offered()  # by a later `up`
        self._salt = os.urandom(16)

    def candidates(self) -> tuple[Candidate, ...]:
        """What is at hand now, in the order of preference."""
        keys = [Candidate(self._print("key", value)) for value in self._keys()]
        mints = [Candidate(self._print("mint", *_parts(minter)), mints=True) for minter in self._minters()]
        return tuple(dict.fromkeys([*keys, *mints]))

    def key(self, candidate: Candidate) -> str | None:
        """The value of a key candidate; None if it is gone meanwhile."""
        return next((v for v in self._keys() if self._print("key", v) == candidate.fingerprint), None)

    def minter(self, candidate: Candidate) -> Minter | None:
        """The value of a minting candidate; None if it is gone meanwhile."""
        return next((m for m in self._minters() if self._print("mint", *_parts(m)) == candidate.fingerprint), None)

    def looked(self) -> str:
        """Where was looked and what was there: `TS_AUTHKEY: not set · ~/secrets/…: missing`."""
        login = self.config.login
        parts = [f"TS_AUTHKEY: {'set' if login.auth_key else 'not set'}"]
        paths = [login.auth_key_file, login.oauth_client_id_file, login.oauth_client_secret_file, login.api_key_file]
        found = [(path, read_key(path)) for path in paths if path]
        return " · ".join([*parts, *(f"{_short(path)}: {file.state}" for path, file in found)])

    def paths(self) -> list[str]:
        """The files to watch."""
        login = self.config.login
        paths = [login.auth_key_file, login.oauth_client_id_file, login.oauth_client_secret_file]
        return [path for path in [*paths, login.api_key_file, login.tailnet_file] if path]

    def secrets(self) -> tuple[bytes, ...]:
        """Every secret value at hand, for the log's filter."""
        values = [*self._keys(), *(v for m in self._minters() for v in (m.client_secret, m.api_key))]
        return tuple(value.encode() for value in dict.fromkeys(values) if value)

    def _keys(self) -> list[str]:
        return [value for value in self._values() if not value.startswith(OAUTH_SECRET)]

    def _values(self) -> list[str]:
        """Given as auth keys; containerboot takes an OAuth client's secret for one, too."""
        login = self.config.login
        configured = (login.auth_key.reveal(), _value(login.auth_key_file))
        return [value for value in (self.given, *configured, self.offered.auth_key) if value]

    def _minters(self) -> list[Minter]:
        login, offered = self.config.login, self.offered
        found = [_oauth("", value) for value in self._values() if value.startswith(OAUTH_SECRET)]
        env_id, env_secret = self._client
        if env_secret:
            found.append(_oauth(env_id, env_secret))
        secret = _value(login.oauth_client_secret_file)
        client_id = env_id or _value(login.oauth_client_id_file) or (_id_of(secret or "") if self._by_env else "")
        if secret and client_id:  # of two files the second may still come: an unlock writes them in any order
            found.append(_oauth(client_id, secret))
        if offered.client_id and offered.client_secret:
            found.append(Minter(client_id=offered.client_id, client_secret=offered.client_secret))
        api_key, tailnet = _value(login.api_key_file), _value(login.tailnet_file)
        if api_key:
            found.append(Minter(api_key=api_key, tailnet=tailnet or "-"))
        if offered.api_key:
            found.append(Minter(api_key=offered.api_key, tailnet=offered.tailnet or "-"))
        return found

    def _print(self, *parts: str) -> str:
        """A name for a value that is not the value: SipHash with this process's random key (PEP 456).

        Not hashlib, which would load OpenSSL's library into the supervisor (4 MB).
        """
        return f"{hash((self._salt, *parts)) & 0xFFFFFFFFFFFFFFFF:016x}"


def offer(config: Config, env: Mapping[str, str]) -> Offered:
    """What this process can see, for a supervisor that cannot."""
    login = config.login
    env_id, env_secret = _client_of(env)
    secret = env_secret or _value(login.oauth_client_secret_file) or ""
    return Offered(
        auth_key=(login.auth_key.reveal() if login.auth_key else _value(login.auth_key_file)) or "",
        client_id=env_id or _value(login.oauth_client_id_file) or _id_of(env_secret),
        client_secret=secret,
        api_key=_value(login.api_key_file) or "",
        tailnet=_value(login.tailnet_file) or "",
    )


def _client_of(env: Mapping[str, str]) -> tuple[str, str]:
    """containerboot's names of an OAuth client; a secret in a file is the configuration's business."""
    secret = env.get("TS_CLIENT_SECRET", "")
    return env.get("TS_CLIENT_ID", ""), "" if secret.startswith("file:") else secret


def _oauth(client_id: str, secret: str) -> Minter:
    """`tskey-client-ID-…?ephemeral=false&preauthorized=true`, read as Tailscale does (oauthkey.go:54-100)."""
    plain, _, query = secret.partition("?")
    wishes: dict[str, bool] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        with contextlib.suppress(ValueError):
            wishes[name] = go_bool(value)
    return Minter(client_id=client_id or _id_of(plain), client_secret=plain, wishes=wishes)


def _id_of(secret: str) -> str:
    return secret.removeprefix(OAUTH_SECRET).partition("-")[0] if secret.startswith(OAUTH_SECRET) else ""


def _parts(minter: Minter) -> tuple[str, ...]:
    return (minter.client_id, minter.client_secret, minter.api_key, minter.tailnet)


def _value(path: str) -> str | None:
    found: Found | None = read_key(path) if path else None
    return None if found is None else found.value


def _short(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + "/") else path
