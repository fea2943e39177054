"""The lab from Python: the built Go programs, a control server with its knobs, and real nodes started by hand.

Used by the tests, the demo and the benchmarks. Owns the processes that it starts and ends them; starts nothing when
imported. Nothing here may reach a server outside this machine.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, Self, cast
from urllib.parse import quote

from tests.lab import build
from tests.support import leaks
from tests.support.eventually import eventually
from tests.support.netns import HERE, Place

Mode = Literal["userspace", "tun"]
Auth = Literal["open", "required", "key"]
READY_TIMEOUT_S = 30.0


class Binaries(NamedTuple):
    """Absolute paths of the lab's programs."""

    tailscaled: Path
    tailscale: Path
    containerboot: Path
    labcontrol: Path

    @property
    def directory(self) -> Path:
        """Where they lie, for PATH."""
        return self.tailscaled.parent


def binaries() -> Binaries:
    """The lab's programs, built now if need be; `TAZPOD_LAB_BIN` names a directory that has them already.

    Raises tests.support.progress.SetupError.
    """
    given = os.environ.get("TAZPOD_LAB_BIN")
    directory = Path(given) if given else build.ensure()
    return Binaries(*(directory / name for name in build.PROGRAMS))


def lab_environment(control_url: str, scratch: str | os.PathLike[str], *, loopback_only: bool = True) -> dict[str, str]:
    """What every lab daemon has in its environment, so that it talks to nobody but the lab.

    `scratch` is a directory for its log buffer. `loopback_only`: in a namespace without any other interface
    tailscaled takes the network for down and never starts (net/netmon). Source of the names: tailscale.com/envknob.
    """
    env = {
        "TS_NO_LOGS_NO_SUPPORT": "true",
        "TS_PANIC_IF_HIT_MAIN_CONTROL": "1",
        "TS_DISABLE_PORTMAPPER": "1",
        "TS_NETCHECK_GENERATE_204_URL": f"{control_url}/generate_204",
        "TS_LOGS_DIR": os.fspath(scratch),
    }
    if loopback_only:
        env["TS_ASSUME_NETWORK_UP_FOR_TEST"] = "1"
    return env


class LabError(AssertionError):
    """The control server refused a request of the tests, or died."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: reachable from every network namespace."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connects; OSError as for any socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """A running control server. Use as a context manager, or call `stop`."""

    def __init__(
        self,
        *,
        place: Place = HERE,
        host: str = "127.0.0.1",
        tailnet: str = "example.ts.net",
        auth: Auth = "required",
        tls: bool = False,
        tls_start_s: float = -3600,
        labcontrol: Path | None = None,
    ) -> None:
        """Starts it in `place` and returns when it answers.

        `host` is the address for nodes, DERP, STUN and the minting API; ports are free ones. `auth`: `open` lets
        everybody in, `required` wants a valid key or a visited URL, `key` a valid key. `tls` serves the minting API
        over TLS too, with a certificate that becomes valid `tls_start_s` seconds from now.
        """
        self.tailnet = tailnet
        self._scratch = tempfile.mkdtemp(prefix="tzc-")
        self.log = Path(self._scratch, "labcontrol.log")
        self._admin = f"{self._scratch}/admin"
        argv: list[str | os.PathLike[str]] = [labcontrol or binaries().labcontrol, "-listen", f"{host}:0"]
        argv += ["-admin", f"unix:{self._admin}", "-tailnet", tailnet, "-auth", auth]
        if tls:
            argv += ["-tls-dir", self._scratch, "-tls-start", f"{tls_start_s}s"]
        with self.log.open("w", encoding="utf-8") as log:
            self._process = place.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            reason = self._log_tail()
            self.stop()
            raise LabError(f"the control server did not start: {reason}")
        ready = json.loads(line)
        self.url: str = ready["url"]
        self.derp: str = ready["derp"]
        self.api_url: str = ready["api"]
        self.api_tls_url: str = ready["api_tls"]
        self.ca_file: str = ready["ca"]
        self.pid: int = self._process.pid

    # Who may join.

    def add_key(
        self,
        *,
        key: str = "",
        reusable: bool = False,
        ephemeral: bool = False,
        preauthorized: bool = True,
        tags: Sequence[str] = (),
        expires_in_s: float | None = None,
        error: str = "",
    ) -> str:
        """Makes an auth key and returns it.

        A negative `expires_in_s` is the past; `error` answers whoever presents the key.
        """
        body: dict[str, object] = {
            "key": key,
            "reusable": reusable,
            "ephemeral": ephemeral,
            "preauthorized": preauthorized,
            "tags": list(tags),
            "error": error,
        }
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        return str(self._ask("POST", "/keys", body)["key"])

    def keys(self) -> list[dict[str, Any]]:
        """All keys, with `uses`, `tags`, `expires` and so on; minted ones too."""
        return cast("list[dict[str, Any]]", self._ask("GET", "/keys"))

    def remove_key(self, key: str) -> None:
        """As if it was revoked: `invalid key: API key does not exist`."""
        self._ask("DELETE", f"/keys/{quote(key, safe='')}")

    def set(self, **settings: object) -> None:
        """Changes settings by name (`settings` in tests/lab/labcontrol/tailnet.go); unknown names are refused.

        For example `approval=True`, `register_error="…"`, `rate_limit=3, retry_after="2"`, `map_status=503`.
        """
        self._ask("PATCH", "/settings", settings)

    def settings(self) -> dict[str, Any]:
        """All settings as they are now."""
        return cast("dict[str, Any]", self._ask("GET", "/settings"))

    # What nodes did.

    def logins(self, hostname: str | None = None) -> list[dict[str, Any]]:
        """Every register request so far: hostname, tags, ephemeral, auth_key, followup, logout, outcome, text."""
        seen = cast("list[dict[str, Any]]", self._ask("GET", "/logins"))
        return [login for login in seen if hostname is None or login["hostname"] == hostname]

    def nodes(self, hostname: str | None = None) -> list[dict[str, Any]]:
        """Nodes that exist.

        Their keys: id, name, hostname, ips, tags, auth_key, key_expiry, ephemeral, approved, online, logins.
        """
        seen = cast("list[dict[str, Any]]", self._ask("GET", "/nodes"))
        return [node for node in seen if hostname is None or node["hostname"] == hostname]

    def node(self, which: str) -> dict[str, Any]:
        """The one node with this hostname, name, id, node key or address; else AssertionError."""
        found = [n for n in self.nodes() if which in {n["hostname"], n["name"], n["id"], n["node_key"], *n["ips"]}]
        assert len(found) == 1, f"{len(found)} nodes are called {which}"
        return found[0]

    # What happens to nodes. `which`: hostname, name, id, node key, address or "all".

    def approve(self, which: str = "all") -> None:
        """Machine approval by the administrator."""
        self._act(which, "approve")

    def delete(self, which: str) -> None:
        """Removes a node: its map polls end and are answered `404 node not found` from now on."""
        self._act(which, "delete")

    def forget(self, which: str) -> None:
        """Removes a node as headscale does: its open map poll goes on, all else is answered `404 node not found`."""
        self._act(which, "forget")

    def expire(self, which: str = "all") -> None:
        """Expires node keys at once."""
        self._act(which, "expire")

    def show_offline(self, which: str, *, offline: bool = True) -> None:
        """Lets peers see the node as offline whatever the truth."""
        self._act(which, "offline" if offline else "online")

    def cut(self, which: str = "all") -> None:
        """Ends open map polls once; nodes poll again by themselves."""
        self._act(which, "cut")

    def add_fakes(self, n: int, *, online: int = 0, prefix: str = "fake", tag: str = "") -> None:
        """Puts peers into the network map that nobody runs, `prefix-1` and so on, the first ones online."""
        self._ask("POST", "/fakes", {"n": n, "online": online, "prefix": prefix, "tag": tag})

    # Login URLs.

    def urls(self) -> list[str]:
        """Login URLs that nobody has visited yet."""
        return cast("list[str]", self._ask("GET", "/urls"))

    def visit(self, url: str, *, error: str = "") -> None:
        """Logs in at a URL as a person would; with `error` the node is told that instead."""
        self._ask("POST", "/urls", {"url": url, "error": error})

    # Faults of the wire.

    def outage(self, *, on: bool = True) -> None:
        """Nobody listens and every connection is cut; afterwards the same port answers again."""
        self._ask("POST", "/outage", {"on": on})

    def stall(self, *, on: bool = True) -> None:
        """Connections are accepted, old ones stay open, nothing is answered."""
        self._ask("POST", "/stall", {"on": on})

    # The minting API (`api_url`, `api_tls_url`).

    def add_oauth_client(
        self, client_id: str, secret: str, *, tags: Sequence[str] | None = None, scopes: Sequence[str] | None = None
    ) -> None:
        """A client that may mint; None: any tags, scope auth_keys."""
        self._ask("POST", "/minting/clients", {"id": client_id, "secret": secret, "tags": tags, "scopes": scopes})

    def add_api_key(self, key: str, *, tags: Sequence[str] | None = None) -> None:
        """An API access token that may mint."""
        self._ask("POST", "/minting/clients", {"secret": key, "tags": tags})

    def add_minting_fault(
        self,
        endpoint: Literal["token", "keys", ""] = "",
        *,
        times: int = 0,
        status: int = 0,
        body: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        delay_s: float = 0,
        cut: bool = False,
        drip_s: float = 0,
    ) -> None:
        """Spoils answers of an endpoint (both if empty), `times` times or for ever.

        `status` 0 keeps the true answer. `cut` closes the connection within the body, `drip_s` waits between its
        bytes; redirects and waits are `headers` (Location, Retry-After).
        """
        fault = {
            "endpoint": endpoint,
            "times": times,
            "status": status,
            "body": body,
            "content_type": content_type,
            "headers": dict(headers or {}),
            "delay_s": delay_s,
            "cut": cut,
            "drip_s": drip_s,
        }
        self._ask("POST", "/minting/faults", fault)

    def clear_minting_faults(self) -> None:
        """The minting API behaves again."""
        self._ask("DELETE", "/minting/faults")

    def minting_requests(self) -> list[dict[str, Any]]:
        """Every request to the minting API: method, path, host, headers, body, status, tls."""
        return cast("list[dict[str, Any]]", self._ask("GET", "/minting/requests"))

    # Its process.

    def stop(self) -> None:
        """Ends it. Twice is allowed."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _act(self, which: str, act: str) -> None:
        self._ask("POST", f"/nodes/{quote(which, safe='')}/{act}", {})

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = UnixConnection(self._admin)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except OSError as e:
            raise LabError(f"the control server does not answer: {e}\n{self._log_tail()}") from e
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise LabError(f"{method} {path}: {answer}")
        return answer

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-2000:]
        return ""


class Node:
    """A real tailscaled, run by hand: the far peer. Use as a context manager, or call `stop`."""

    def __init__(
        self,
        control: Control,
        *,
        hostname: str = "peer",
        place: Place = HERE,
        mode: Mode = "userspace",
        loopback_only: bool = True,
        programs: Binaries | None = None,
    ) -> None:
        """Starts the daemon in `place`, logged out; `up` brings it onto the tailnet."""
        self.control = control
        self.hostname = hostname
        self.place = place
        self.mode = mode
        self.ip = ""
        self._programs = programs or binaries()
        self._scratch = Path(tempfile.mkdtemp(prefix="tzn-"))
        self.socket = self._scratch / "sock"
        self.log = self._scratch / "tailscaled.log"
        self._servers: list[subprocess.Popen[Any]] = []
        # Of the environment only what finds programs: a TS_* of the caller's shell must not reach the peer.
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._scratch)}
        env |= {name: os.environ[name] for name in (leaks.MARKER,) if name in os.environ}
        env |= lab_environment(control.url, self._scratch, loopback_only=loopback_only)
        with self.log.open("w", encoding="utf-8") as log:
            self._daemon = place.popen(self._argv(), env=env, stdout=log, stderr=log, new_session=True)

    def _argv(self) -> list[str | os.PathLike[str]]:
        argv: list[str | os.PathLike[str]] = [self._programs.tailscaled, f"--statedir={self._scratch}"]
        argv += [f"--socket={self.socket}", "--port=0"]
        if self.mode == "userspace":
            argv += ["--tun=userspace-networking", "--outbound-http-proxy-listen=localhost:0"]
        return argv

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self._daemon.pid

    def up(self, *options: str, auth_key: str | None = None, timeout: float = READY_TIMEOUT_S) -> Self:
        """Logs in, with a fresh reusable key unless one is given, and waits until it runs."""
        key = auth_key if auth_key is not None else self.control.add_key(reusable=True)
        eventually(self.socket.exists, within=timeout)
        self.cli(
            "up",
            f"--login-server={self.control.url}",
            f"--auth-key={key}",
            f"--hostname={self.hostname}",
            f"--timeout={timeout:.0f}s",
            *options,
            timeout=timeout + 5,
        )
        self.ip = str(self.status()["TailscaleIPs"][0])
        return self

    def status(self) -> dict[str, Any]:
        """`tailscale status --json`."""
        return cast("dict[str, Any]", json.loads(self.cli("status", "--json")))

    def cli(self, *arguments: str, timeout: float = 30.0) -> str:
        """Standard output of `tailscale ARGUMENTS` on this node; AssertionError if it fails."""
        done = self.place.run([self._programs.tailscale, f"--socket={self.socket}", *arguments], timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"tailscale {arguments[0]}: {done.stdout}{done.stderr}\n{self.log_tail()}")
        return done.stdout

    def serve(self, body: str = "hello from the tailnet\n") -> int:
        """Serves `body` over HTTP to the tailnet and returns the port.

        A userspace daemon hands incoming connections to the same port of 127.0.0.1 (wgengine/netstack), so one
        server on all addresses of the place serves both modes.
        """
        server = self.place.popen([sys.executable, "-c", HTTP_SERVER, body], stdout=subprocess.PIPE)
        self._servers.append(server)
        return int(cast("IO[str]", server.stdout).readline())

    def fetch(self, url: str, *, timeout: float = 20.0) -> str:
        """The body of a URL on the tailnet, asked from this node; AssertionError on any failure."""
        argv = [sys.executable, "-c", HTTP_CLIENT, url, str(timeout), self.proxy()]
        return self.place.run(argv, timeout=timeout + 10, check=True).stdout

    def proxy(self) -> str:
        """`http://host:port` of the daemon's proxy; empty in TUN mode."""
        if self.mode == "tun":
            return ""
        found = eventually(lambda: re.search(r"HTTP proxy listening on (\S+)", self.log.read_text(errors="replace")))
        return f"http://{cast('re.Match[str]', found)[1]}"

    def log_tail(self, size: int = 3000) -> str:
        """The end of the daemon's log."""
        return self.log.read_text(errors="replace")[-size:]

    def kill(self) -> None:
        """As the kernel would: no clean-up, its state stays."""
        self._daemon.kill()
        self._daemon.wait()

    def stop(self) -> None:
        """Ends the daemon in order, and its servers. Twice is allowed."""
        for server in self._servers:
            server.kill()
            server.communicate()
        self._daemon.terminate()
        try:
            self._daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


HTTP_SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""

HTTP_CLIENT = """
import sys, urllib.request
url, timeout, proxy = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy} if proxy else {}))
print(opener.open(url, timeout=float(timeout)).read().decode(), end="")
"""
