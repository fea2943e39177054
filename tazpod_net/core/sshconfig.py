"""The snippet for ~/.ssh/config: how ssh reaches names and addresses of the tailnet in userspace mode. Pure."""

import shlex
from collections.abc import Iterable, Sequence

_ADDRESSES = [f"100.{second}.*" for second in range(64, 128)] + ["fd7a:115c:a1e0:*"]  # Tailscale's own ranges


def snippet(command: Sequence[str], domain: str, names: Iterable[str]) -> str:
    """The lines; `command` runs this program for this home. `names`: of peers, whole, as in `web.example.ts.net`.

    Raises ValueError for a word with a newline, which a line of that file cannot hold.
    """
    if any("\n" in word or "\r" in word for word in command):
        raise ValueError("a newline in the command")
    way = shlex.join(command).replace("%", "%%") + " tailscale nc %h %p"
    whole = sorted(set(names))
    short = sorted({name.removesuffix(f".{domain}") for name in whole if name.endswith(f".{domain}")})
    foreign = [name for name in whole if not name.endswith(f".{domain}")]
    lines = [
        f"# Tailnet {domain}, userspace mode: ssh goes through the daemon. From 'tazpod-net ssh-config'.",
        "# ssh takes the first value that fits: this belongs below hosts of your own with the same names.",
    ]
    for about, patterns in (
        ("# Everything in the tailnet's domain.", [f"*.{domain}", *foreign]),
        ("# Peers by their short names, as of now.", short),
        ("# The addresses of tailnets: 100.64.0.0/10, fd7a:115c:a1e0::/48.", _ADDRESSES),
    ):
        if patterns:
            lines += [about, f"Host {' '.join(patterns)}", f"    ProxyCommand {way}"]
    return "\n".join(lines) + "\n"


NOTHING_NEEDED = (
    "# TUN mode: ssh reaches the tailnet by itself, nothing is needed here. From 'tazpod-net ssh-config'.\n"
    "# Names need the tailnet's DNS (settings.accept_dns); addresses always work.\n"
)
