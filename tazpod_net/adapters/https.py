"""The way to an HTTPS server: whom we trust, by which proxy, and what an exception of the HTTP library means.

Shared by the short-lived programs that ask somebody outside. Must not word anything for people, must not decide what
is tried again, and is never loaded by the supervisor: TLS costs it 4 MB.
"""

import base64
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping
from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected
from typing import Literal
from urllib.parse import unquote, urljoin

import urllib3
from urllib3 import exceptions as http_errors

from tazpod_net.core.minting import Failure, Kind

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class WayError(Exception):
    """The environment names a way that cannot be used. `number` is an errno, 0 if the content is what is wrong."""

    def __init__(
        self, kind: Literal["socks", "proxy", "cert-file"], name: str, value: str = "", number: int = 0
    ) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name
        self.value = value  # a path; never a proxy's address, in which a password may be
        self.number = number


# --- addresses


def parse(url: str) -> urllib3.util.Url | None:
    """A URL of http or https with a host, or None."""
    try:
        parsed = urllib3.util.parse_url(url)
    except http_errors.LocationParseError:
        return None
    return parsed if parsed.scheme in {"http", "https"} and parsed.host else None


def join(url: str, target: str) -> str:
    """Where a redirect leads; nowhere if that is no address at all."""
    try:
        return urljoin(url, target)
    except ValueError:
        return ""


def shown(url: str) -> str:
    """`host` or `host:port`: never user, password, path or query."""
    parsed = parse(url)
    if parsed is None:
        return ""
    return f"{parsed.host}:{parsed.port}" if parsed.port else f"{parsed.host}"


def is_loopback(url: urllib3.util.Url) -> bool:
    """Whether it names this machine."""
    host = (url.host or "").strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- proxies


def find_proxy(target: urllib3.util.Url, env: Mapping[str, str]) -> urllib3.util.Url | None:
    """The proxy for this address: https_proxy and no_proxy as tailscaled reads them, which does not know ALL_PROXY.

    Raises WayError (`socks`, `proxy`).
    """
    name = f"{target.scheme}_proxy"
    value = env.get(name) or env.get(name.upper()) or ""
    if not value or _is_exempt(target, env.get("no_proxy") or env.get("NO_PROXY") or ""):
        return None
    if re.match(r"socks[45]h?:", value, re.IGNORECASE):
        raise WayError("socks", name.upper())
    proxy = parse(value if "://" in value else f"http://{value}")
    if proxy is None:
        raise WayError("proxy", name.upper())
    # What is not encrypted does not leave this machine.
    return None if target.scheme == "http" and not is_loopback(proxy) else proxy


def proxy_login(proxy: urllib3.util.Url) -> tuple[str, str]:
    """User and password of a proxy's address; empty if it has none."""
    user, _, password = (proxy.auth or "").partition(":")
    return unquote(user), unquote(password)


def basic(user: str, password: str) -> str:
    """The value of HTTP Basic (RFC 7617)."""
    return base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _is_exempt(url: urllib3.util.Url, no_proxy: str) -> bool:
    """NO_PROXY: names with their subdomains, addresses, networks, `*` (golang.org/x/net/http/httpproxy)."""
    host = (url.host or "").strip("[]").rstrip(".")
    port = url.port or (443 if url.scheme == "https" else 80)
    return any(_fits(entry.strip().lower(), host, port) for entry in no_proxy.split(",") if entry.strip())


def _fits(entry: str, host: str, port: int) -> bool:
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (name.endswith("]") or ":" not in name):
        if int(number) != port:
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return entry == "*" or host == entry.lstrip(".*") or host.endswith(f".{entry.lstrip('.*')}")


# --- trust


def make_trust(cert_file: str | None) -> ssl.SSLContext:
    """What the system trusts, and `cert_file` (SSL_CERT_FILE). Raises WayError (`cert-file`).

    Once more by name: OpenSSL reads that variable itself, and passes over a file that it cannot use, in silence.
    """
    # Not create_default_context: that writes the keys of connections to SSLKEYLOGFILE.
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_default_certs()
    if cert_file:
        try:
            trust.load_verify_locations(cafile=cert_file)
        except ssl.SSLError as e:
            raise WayError("cert-file", "SSL_CERT_FILE", cert_file) from e
        except OSError as e:
            raise WayError("cert-file", "SSL_CERT_FILE", cert_file, e.errno or 0) from e
    return trust


def has_authorities(trust: ssl.SSLContext) -> bool:
    """Whether anybody is trusted. OpenSSL reads files at once, and directories only when it needs them."""
    directory = ssl.get_default_verify_paths().capath
    return trust.cert_store_stats()["x509_ca"] > 0 or bool(directory and os.listdir(directory))


def open_pool(trust: ssl.SSLContext, proxy: urllib3.util.Url | None) -> urllib3.PoolManager:
    """The pool of connections; nothing is connected yet."""
    if proxy is None:
        return urllib3.PoolManager(ssl_context=trust)
    headers = {"Proxy-Authorization": f"Basic {basic(*proxy_login(proxy))}"} if proxy.auth else {}
    return urllib3.ProxyManager(
        proxy._replace(auth=None).url, proxy_headers=headers, proxy_ssl_context=trust, ssl_context=trust
    )


# --- failures


def failure_of(e: BaseException, *, at_proxy: bool = False) -> Failure:  # noqa: C901 - one row per exception
    """What an exception of urllib3, http.client, ssl or socket means; of its text, a proxy's status only."""
    match e:
        case http_errors.ProxyError():
            status = re.search(r"Tunnel connection failed: ([0-9]{3})", str(e.original_error))
            if status:
                return Failure(Kind.PROXY_STATUS, int(status[1]), at_proxy=True)
            return failure_of(e.original_error, at_proxy=True)
        case http_errors.NameResolutionError():
            return Failure(_name_kind(e.__cause__), at_proxy=at_proxy)
        case http_errors.NewConnectionError():
            return Failure(Kind.CONNECT, getattr(e.__cause__, "errno", None) or 0, at_proxy)
        case http_errors.ConnectTimeoutError():
            return Failure(Kind.CONNECT_SLOW, at_proxy=at_proxy)
        case http_errors.TimeoutError() | TimeoutError():
            return Failure(Kind.SLOW, at_proxy=at_proxy)
        case ssl.SSLCertVerificationError():
            return Failure(_CERTIFICATE_CODES.get(e.verify_code, Kind.CERT), e.verify_code, at_proxy)
        case ssl.SSLError():
            return Failure(Kind.TLS, at_proxy=at_proxy)
        case http_errors.SSLError() | http_errors.ProtocolError() if isinstance(e.args[-1], BaseException):
            return failure_of(e.args[-1], at_proxy=at_proxy)
        case BadStatusLine() if not isinstance(e, RemoteDisconnected):
            return Failure(Kind.NOT_HTTP, at_proxy=at_proxy)
        case HTTPException() if not isinstance(e, IncompleteRead | RemoteDisconnected):
            return Failure(Kind.NOT_HTTP, at_proxy=at_proxy)
        case _:
            return Failure(Kind.CUT, at_proxy=at_proxy)


def _name_kind(cause: BaseException | None) -> Kind:
    known = isinstance(cause, socket.gaierror) and cause.errno in {socket.EAI_NONAME, socket.EAI_NODATA}
    return Kind.NAME_UNKNOWN if known else Kind.NAME_LATER


# X509_V_ERR_* of openssl/x509_vfy.h.
_CERTIFICATE_CODES = {
    9: Kind.CERT_EARLY,
    10: Kind.CERT_LATE,
    2: Kind.CERT_UNKNOWN_CA,
    18: Kind.CERT_UNKNOWN_CA,
    19: Kind.CERT_UNKNOWN_CA,
    20: Kind.CERT_UNKNOWN_CA,
    21: Kind.CERT_UNKNOWN_CA,
    62: Kind.CERT_NAME,
    64: Kind.CERT_NAME,
}
