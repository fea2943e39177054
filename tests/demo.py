"""`make demo`: the real thing in front of you. A control server of our own, two real nodes, one of them supervised.

No account, no key, no root needed: as root everything runs in a private network namespace with a real TUN device,
otherwise on loopback in userspace mode. Nothing is left running, also after Ctrl-C.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.lab import HTTP_CLIENT, Control, Node, binaries, lab_environment
from tests.support.netns import HERE, Namespace, Place, namespace_refusal, tun_refusal

_BOLD, _DIM, _OFF = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")


def say(text: str) -> None:
    """What happens next."""
    print(f"\n{_BOLD}# {text}{_OFF}", flush=True)


class Shell:
    """Runs commands as a person in the container would, and shows them."""

    def __init__(self, place: Place, env: Mapping[str, str]) -> None:
        self.place = place
        self.env = env

    def __call__(self, *words: str, quiet: bool = False) -> str:
        """Shows and runs `tazpod-net WORDS`; returns its stdout. Raises SystemExit if it fails."""
        print(f"$ {' '.join(words)}", flush=True)
        done = self.place.run(words, env=self.env, timeout=120)
        if not quiet:
            print(f"{_DIM}{done.stderr}{_OFF}{done.stdout}", end="", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"demo: {words[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def status(self) -> dict[str, object]:
        """`status --json`."""
        done = self.place.run(["tazpod-net", "status", "--json"], env=self.env)
        found: dict[str, object] = json.loads(done.stdout)
        return found


def main() -> int:
    """The demonstration."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    refusal = namespace_refusal() or tun_refusal()
    say("A lab of our own: Tailscale's test control server with DERP and STUN, and a second real node")
    programs = binaries()
    scratch = Path(tempfile.mkdtemp(prefix="tazpod-demo-"))
    with Namespace() if refusal is None else HERE as place, Control(place=place) as control:
        if refusal is not None:
            print(f"userspace mode on loopback: {refusal}")
        peer = Node(control, hostname="far-service", place=place).up()
        try:
            show(Shell(place, environment(control, programs.directory, scratch)), control, peer)
        finally:
            down = environment(control, programs.directory, scratch)
            place.run(["tazpod-net", "down"], env=down)
            peer.stop()
            shutil.rmtree(scratch, ignore_errors=True)
    say(f"Done in {time.monotonic() - began:.0f} s; nothing is left running")
    return 0


def environment(control: Control, programs: Path, scratch: Path) -> dict[str, str]:
    """A user's environment: where the programs are, which control server, and a key as platforms inject it."""
    env = lab_environment(control.url, scratch)
    del env["TS_LOGS_DIR"]
    path = f"{Path(sys.executable).parent}:{programs}:{os.environ.get('PATH', os.defpath)}"
    env |= {"PATH": path, "HOME": str(scratch), "TAZPOD_NET_HOME": str(scratch / "net")}
    env["TAZPOD_NET_DNS_HOSTS"] = "false"  # without namespaces it would be the machine's own /etc/hosts
    return env | {"TAZPOD_NET_LOGIN_SERVER": control.url, "TAZPOD_NET_LOGIN_HOSTNAME": "tazpod"}


def show(shell: Shell, control: Control, peer: Node) -> None:
    """What a user does on the first day."""
    key = control.add_key()
    say("One command brings this container onto its tailnet (the key comes in by the environment)")
    Shell(shell.place, {**shell.env, "TS_AUTHKEY": key})("tazpod-net", "up", "--wait", "online")
    shell("tazpod-net", "status")
    port = peer.serve("hello from the far service\n")
    say(f"A request over the tailnet to the second node ({peer.hostname}, {peer.ip})")
    request(shell, f"http://{peer.ip}:{port}/")
    say("The daemon is killed (kill -9) and comes back; the key is used up, the kept identity logs in")
    daemon = shell.status()["daemon"]
    assert isinstance(daemon, dict)
    print(f"$ kill -9 {daemon['pid']}")
    os.kill(int(daemon["pid"]), signal.SIGKILL)
    shell("tazpod-net", "wait", "--for", "online")
    eventually(lambda: shell.status()["ready"])
    shell("tazpod-net", "status")
    request(shell, f"http://{peer.ip}:{port}/")
    say("Its own supervisor is killed (kill -9): the daemon goes on, and the next 'up' adopts it, same pid")
    supervisor = shell.status()["supervisor"]
    assert isinstance(supervisor, dict)
    print(f"$ kill -9 {supervisor['pid']}")
    os.kill(int(supervisor["pid"]), signal.SIGKILL)
    request(shell, f"http://{peer.ip}:{port}/")
    shell("tazpod-net", "up")
    shell("tazpod-net", "status")
    say("The daemon's log, kept and rotated, through all of that")
    shell("tazpod-net", "logs", "-n", "5")
    say("And down, in order; it stays down until somebody says 'up'")
    shell("tazpod-net", "down")
    print("$ tazpod-net status")
    print(shell.place.run(["tazpod-net", "status"], env=shell.env).stdout, end="")


def request(shell: Shell, url: str) -> None:
    """A GET, through the proxy in userspace mode."""
    status = shell.status()
    proxy = status["proxy"]
    assert isinstance(proxy, dict)
    through = f"http://{proxy['http']}" if proxy["http"] else ""
    print(f"$ curl {f'-x {through} ' if through else ''}{url}")
    done = subprocess.run(
        shell.place.wrap([sys.executable, "-c", HTTP_CLIENT, url, "20", through]),
        env=dict(shell.env),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"demo: the request failed: {done.stderr.strip().splitlines()[-1:]}")
    print(done.stdout, end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
