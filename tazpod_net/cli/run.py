"""`run`: a command with the tailnet. Without `--rm` this process becomes the command."""

import os
import signal
from typing import TYPE_CHECKING

from tazpod_net.adapters import foreground
from tazpod_net.cli.bringup import Unready, bring_up
from tazpod_net.cli.common import complain, home_of
from tazpod_net.core.proxyenv import HOME, recorded
from tazpod_net.core.status import Status
from tazpod_net.errors import UsageError
from tazpod_net.home import Layout

if TYPE_CHECKING:
    from argparse import Namespace

# What we consume and a command has no business with. A TAILSCALE_API_KEY, say, is the command's own.
SECRETS = ("TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TAZPOD_NET_LOGIN_AUTH_KEY")


def run(arguments: "Namespace") -> int:
    """Makes sure that the tailnet is up, then runs the command; the exit code is the command's."""
    if not arguments.cmd:
        raise UsageError("no command given", "for example: tazpod-net run -- curl http://vault:8200")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody could wait for a child
    if arguments.rm:
        from tazpod_net.cli import runrm  # noqa: PLC0415 - each has its own needs

        return runrm.run(arguments)
    layout = Layout(home_of(arguments))
    try:
        status = bring_up(arguments, layout)
    except Unready as e:
        return e.code
    try:
        foreground.replace(arguments.cmd, environment(status, layout, arguments.config))
    except OSError as e:
        return refused(arguments.cmd[0], e)


def environment(status: Status, layout: Layout, config_file: str | None) -> dict[str, str]:
    """The command's: this mode's proxies, the home for a tazpod-net inside of it, none of our secrets.

    With the record of `env`: a shell or another `up` inside of it can take the proxies back.
    """
    if status.daemon.mode == "userspace" and not (status.proxy.socks5 or status.proxy.http):
        complain("no proxies, so the command does not reach the tailnet: set proxy.socks5 or proxy.http")
    env = recorded(os.environ, status.proxy, domain_of(status))
    for name in SECRETS:
        env.pop(name, None)
    env[HOME] = layout.home
    if config_file is not None:
        env["TAZPOD_NET_CONFIG"] = os.path.abspath(config_file)
    return env


def domain_of(status: Status) -> str | None:
    """The tailnet's domain, by this node's own name."""
    return (status.backend.dns_name or "").partition(".")[2] or None


def refused(name: str, error: OSError) -> int:
    """Says why a command cannot be run; its exit code as shells have it."""
    code = foreground.refusal_code(error)
    if code == foreground.NOT_FOUND and "/" not in name:
        complain(f"{name!r} is not a command on PATH: check its name")
    else:
        complain(f"{name!r} cannot be run ({(error.strerror or '').lower()}): check the file and its mode")
    return code
