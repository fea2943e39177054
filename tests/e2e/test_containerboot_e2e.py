"""A container of containerboot's users, moved as it is: their environment, their defaults, a real daemon."""

import json
from pathlib import Path
from typing import Any

from tazpod_net.core.argv import read_argv
from tests.e2e.conftest import Make
from tests.support.lab import Control
from tests.support.product import Product

COMPAT = {"TAZPOD_NET_COMPAT": "containerboot"}


def their_prefs(product: Product) -> dict[str, Any]:
    """The daemon's own settings."""
    return dict(json.loads(product.run("tailscale", "debug", "prefs", expect=0).out))


def test_a_real_daemon_with_their_environment(make: Make, control: Control, scratch: Path) -> None:
    """One container of theirs, moved: their defaults, their names, nothing of ours, and CMD beside it."""
    product = make(
        mode=None,
        **COMPAT,
        TS_HOSTNAME="moved",
        TS_ROUTES="10.1.0.0/16",
        TS_EXTRA_ARGS="--accept-routes",
        TS_SOCKET=str(scratch / "ts.sock"),
        TS_AUTH_ONCE="true",
        TS_TAILSCALED_EXTRA_ARGS="--verbose=1",
    )
    for name in ("TAZPOD_NET_PROXY_SOCKS5", "TAZPOD_NET_PROXY_HTTP"):
        product.env.pop(name, None)
    with product.popen("entrypoint", "--wait=ready", "--", "sh", "-c", "echo started; exec sleep 1000") as output:
        output.until(lambda line: line == "started")
        prefs = their_prefs(product)
        assert (prefs["CorpDNS"], prefs["RouteAll"], prefs["Hostname"]) == (False, True, "moved")
        assert prefs["AdvertiseRoutes"] == ["10.1.0.0/16"]
        (daemon,) = [process for process in product.processes() if process.is_daemon]
        seen = read_argv(list(daemon.argv))
        assert (seen.mode, seen.socket, seen.socks5, seen.http) == ("userspace", str(scratch / "ts.sock"), None, None)
        assert daemon.argv[-1] == "--verbose=1"
        assert not any("tskey" in word for word in daemon.argv)
        output.process.terminate()
        output.process.wait(30)
    assert "logged out" in product.logs_text()  # ephemeral, as their `mem:`
