"""Brings the daemon's serve config to what a file says, through LocalAPI, as often as it is asked to.

Owns the memory of the last good file. It must not watch the file nor wait for the daemon: whoever does calls `apply`
when the backend is ready, when the file or the certificate domain changed, and for each new daemon.
"""

import asyncio
import os
import stat
from collections.abc import Callable

import msgspec

from tazpod_net.core import serveconfig
from tazpod_net.core.serveconfig import Config, ServeConfigError, ServeFile
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import LocalApi

LARGEST = 1 << 20  # bytes of a file
_ATTEMPTS = 3  # when somebody else changes the serve config at the same time
_NO_DOMAIN = (
    "needs a certificate domain (${TS_CERT_DOMAIN} or HTTPS) and this tailnet gives none:"
    " enable HTTPS certificates in its DNS settings"
)


class ServeApplier:
    """One file for one home. `notify` is told what is wrong, or None when nothing is any more; each thing once.

    With `advertise` the services of the file are advertised, which containerboot does as well
    (`cmd/containerboot/serve.go:128-143`).
    """

    def __init__(
        self, api: LocalApi, path: str, notify: Callable[[str | None], None], *, advertise: bool = True
    ) -> None:
        self._api = api
        self.path = path
        self._notify = notify
        self._advertise = advertise
        self._said: str | None = None
        self._good: ServeFile | None = None
        self._left: tuple[Config, str, list[str]] | None = None  # what was set, its ETag, what the daemon left out
        self._advertised = False
        self._lock = asyncio.Lock()

    async def apply(self, cert_domain: str | None) -> None:
        """Sets what the file wants if the daemon has something else. Idempotent; raises nothing that is expected.

        `cert_domain`: the first of the status' CertDomains. A file that cannot be used changes nothing: the last good
        one goes on, also for a daemon that has forgotten it.
        """
        async with self._lock:
            said = await self._apply(cert_domain)
            if said != self._said:
                self._said = said
                self._notify(said)

    async def _apply(self, cert_domain: str | None) -> str | None:
        complaint = self._read()
        if self._good is None:
            return complaint
        wanted = serveconfig.fill(self._good, cert_domain)
        if wanted is None:
            return complaint or f"{self.path} {_NO_DOMAIN}"
        try:
            said = await self._bring(wanted)
            await self._advertise_services(serveconfig.service_names(wanted))
        except TazpodNetError as e:
            said = f"tailscaled refused {self.path}: {e}"
        except msgspec.DecodeError as e:
            said = f"{self.path} is not applied, tailscaled's answer cannot be read: {e}"
        except OSError as e:
            said = f"{self.path} is not applied, tailscaled does not answer: {e or type(e).__name__}"
        return complaint or said

    def _read(self) -> str | None:
        """Takes the file if it is good; else what is wrong with it."""
        try:
            self._good = serveconfig.parse(_read_file(self.path))
        except OSError as e:
            reason = e.strerror or str(e)
            why = f"cannot be read ({reason[:1].lower()}{reason[1:]})"
        except ServeConfigError as e:
            why = str(e)
        else:
            return None
        return f"{self.path} {why}" + ("; the last good one goes on" if self._good else "")

    async def _bring(self, wanted: Config) -> str | None:
        """From whatever the daemon has to wanted; says what the daemon left out of it."""
        for _ in range(_ATTEMPTS):
            present, etag = await self._present()
            if serveconfig.is_same(present, wanted):
                return None
            if self._left is None or self._left[:2] != (wanted, etag):
                if not await self._replace(present, wanted, etag):
                    continue
                present, etag = await self._present()
                self._left = (wanted, etag, serveconfig.missing(wanted, present))
            places = ", ".join(self._left[2])
            return f"{self.path}: this tailscaled does not know {places}" if places else None
        return f"{self.path} is not applied: another program changes the serve config all the time"

    async def _present(self) -> tuple[Config, str]:
        body, etag = await self._api.serve_config()
        return serveconfig.read_present(body), etag

    async def _replace(self, present: Config, wanted: Config, etag: str) -> bool:
        """False: somebody changed it meanwhile. If the daemon refuses half-way, what was there comes back."""
        step = serveconfig.stepping_stone(present, wanted)
        if step is None:
            return await self._set(serveconfig.replacement(present, wanted), etag)
        if not await self._set(serveconfig.replacement(present, step), etag):
            return False
        _, etag = await self._present()
        try:
            return await self._set(serveconfig.replacement(present, wanted), etag)
        except TazpodNetError:
            await self._set(present, etag)
            raise

    async def _set(self, config: Config, etag: str) -> bool:
        return await self._api.set_serve_config(msgspec.json.encode(config), etag)

    async def _advertise_services(self, names: list[str]) -> None:
        """A service without advertisement reaches nobody; one that is advertised without a config loses traffic."""
        if not self._advertise or not (names or self._advertised):
            return
        present = (await self._api.prefs()).get("AdvertiseServices") or []
        if present != names:
            await self._api.edit_prefs({"AdvertiseServicesSet": True, "AdvertiseServices": names})
        self._advertised = bool(names)


def _read_file(path: str) -> bytes:
    """The file's bytes. Raises OSError; a FIFO or a directory is an error and not a wait."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is not a regular file")
        with open(fd, "rb", closefd=False) as f:
            raw = f.read(LARGEST + 1)
    finally:
        os.close(fd)
    if len(raw) > LARGEST:
        raise OSError(0, f"it is larger than {LARGEST >> 20} MiB")
    return raw
