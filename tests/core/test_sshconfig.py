"""The snippet for ~/.ssh/config, as the real ssh reads it."""

import pytest

from tazpod_net.core.sshconfig import NOTHING_NEEDED, snippet
from tests.support.netns import HERE
from tests.support.terminal import needs

NAMES = ["vault.example.ts.net", "web-1.example.ts.net", "shared.other.ts.net"]
COMMAND = ["/opt/a b/tazpod-net", "--home", "/tmp/it's 100%h/net"]


def way(scratch: object, host: str, text: str) -> str | None:
    """What `ssh -G` says of a host's ProxyCommand."""
    needs("ssh")
    path = f"{scratch}/config"
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    out = HERE.run(["ssh", "-G", "-F", path, host], check=True).stdout
    return next((line.partition(" ")[2] for line in out.splitlines() if line.startswith("proxycommand ")), None)


@pytest.mark.parametrize(
    "host",
    [
        *("vault", "web-1", "vault.example.ts.net", "new.example.ts.net", "shared.other.ts.net"),
        *("100.64.0.1", "100.127.255.254", "fd7a:115c:a1e0::1"),
    ],
)
def test_tailnet_hosts_go_through_the_daemon(scratch: object, host: str) -> None:
    """Names in the domain, also new ones; peers by short names; addresses. Blanks, quotes and % survive."""
    found = way(scratch, host, snippet(COMMAND, "example.ts.net", NAMES))
    assert found == "'/opt/a b/tazpod-net' --home '/tmp/it'\"'\"'s 100%%h/net' tailscale nc %h %p"


@pytest.mark.parametrize("host", ["github.com", "10.0.0.1", "100.63.0.1", "100.128.0.1", "shared", "vaults", "ts.net"])
def test_other_hosts_are_left_alone(scratch: object, host: str) -> None:
    """Also those that look alike."""
    assert way(scratch, host, snippet(COMMAND, "example.ts.net", NAMES)) is None


def test_without_peers(scratch: object) -> None:
    """The domain alone."""
    assert way(scratch, "x.example.ts.net", snippet(["tazpod-net"], "example.ts.net", [])) is not None


def test_a_newline_cannot_be_written() -> None:
    """That file has no way to say it."""
    with pytest.raises(ValueError, match="newline"):
        snippet(["tazpod-net", "--home", "/a\nb"], "example.ts.net", [])


def test_tun_mode_is_comments_only(scratch: object) -> None:
    """Nothing is set."""
    assert all(line.startswith("#") for line in NOTHING_NEEDED.splitlines())
    assert way(scratch, "vault", NOTHING_NEEDED) is None
