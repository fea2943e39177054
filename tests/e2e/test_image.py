"""The image as its users run it: real podman, four forms, each ready in the right mode and for the right reason."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import images
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.podman import Podman

TUN = ("--cap-add=NET_ADMIN", "--device=/dev/net/tun")
PROGRAMS_MB = 60  # tailscaled and tailscale are 53 of it
OURS_MB = 20

# The first test of a session may have to make the base system and the image.
pytestmark = pytest.mark.timeout(600)

FORMS = {
    "tun": (TUN, "tun", ""),
    "no device": (("--cap-add=NET_ADMIN",), "userspace", "--device /dev/net/tun"),
    "no capability": (("--device=/dev/net/tun",), "userspace", "--cap-add NET_ADMIN"),
    "user": (("--user=1000",), "userspace", "--device /dev/net/tun"),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], str, str]:
    """Options, mode, and what the reason names as the remedy."""
    return FORMS[request.param]


def test_ready_in_every_form(podman: Podman, form: tuple[tuple[str, ...], str, str]) -> None:
    """Mode and reason are right, the user's command runs beside it, the health check agrees, the end is in order."""
    options, mode, remedy = form
    container = podman.start(*options)
    status = container.ready()
    assert status["daemon"]["mode"] == mode, status
    assert remedy in json.dumps(status["notes"]) + str(status["daemon"]["mode_reason"]), status
    assert container.exec("tazpod-net", "status", "--short").stdout.startswith(f"tailnet: ready {mode} 100.64.")
    container.health(expect=0)
    assert container.inspect("{{.State.Health.Status}}") == "healthy"
    podman("stop", "--time", "20", container.name)
    # `sleep` has no handler: as any command of a container it is ended by the signal.
    assert container.inspect("{{.State.ExitCode}}") in {"143", "0"}


def test_user_of_the_image(podman: Podman) -> None:
    """User 1000 owns the home: it reads root's node and may stop it, and becomes root by sudo."""
    container = podman.start(*TUN)
    container.ready()
    assert container.exec("tazpod-net", "status", "--short", user="1000").stdout.startswith("tailnet: ready tun")
    assert container.exec("sudo", "-n", "id", "-u", user="1000").stdout.strip() == "0"
    container.exec("tazpod-net", "down", user="1000")
    assert container.exec("tazpod-net", "status", expect=3, user="1000").stdout.startswith("not running: stopped by")


def test_restart_keeps_the_node(podman: Podman, control: Control) -> None:
    """`podman restart`: ready again as the same node, from the volume, without another login by key."""
    container = podman.start(*TUN)
    before = container.ready()
    podman("restart", "--time", "20", container.name)
    after = container.ready()
    assert after["backend"]["ips"] == before["backend"]["ips"]
    assert after["supervisor"]["since"] != before["supervisor"]["since"]
    assert (after["identity"]["kind"], after["identity"]["path"]) == ("persist", "/var/lib/tazpod-net")
    assert after["identity"]["store"] != "container layer"
    assert len(control.nodes()) == 1


def test_kill_and_start(podman: Podman) -> None:
    """`podman kill` takes everything at once; the next start heals what it left."""
    container = podman.start(*TUN)
    before = container.ready()
    podman("kill", container.name)
    eventually(lambda: container.inspect("{{.State.Status}}") == "exited")
    assert container.inspect("{{.State.ExitCode}}") == "137"
    podman("start", container.name)
    assert container.ready()["backend"]["ips"] == before["backend"]["ips"]


def test_health_follows_readiness(podman: Podman, control: Control) -> None:
    """Unhealthy while it is not ready, healthy again; an outage at the control server is not an illness."""
    [found] = json.loads(podman("image", "inspect", podman.image.name).stdout)
    check = json.dumps(found["Healthcheck"]["Test"][1:])  # podman takes a shorter start period only together with it
    container = podman.start(*TUN, f"--health-cmd={check}", "--health-start-period=0s", "--health-retries=2")
    container.ready()
    control.outage(on=True)
    container.health(expect=0)
    control.outage(on=False)
    container.exec("tazpod-net", "down")
    for _ in range(2):
        container.health(expect=1)
    assert container.inspect("{{.State.Health.Status}}") == "unhealthy"
    container.exec("tazpod-net", "up", "--no-wait")
    container.ready()
    container.health(expect=0)
    assert container.inspect("{{.State.Health.Status}}") == "healthy"


def test_exit_status_is_the_commands(podman: Podman) -> None:
    """The container ends with its command and with that command's status."""
    done = podman("run", "--pull=never", "--network=none", "--rm", podman.image.name, "sh", "-c", "exit 7", expect=7)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("tazpod-net", "probe"),
        ("tazpod-net", "-h"),
        ("tailscale", "version"),
        ("/opt/tazpod-net/bin/python", "-c", "import rich.progress, structlog, pyroute2, psutil, urllib3"),
    ],
    ids=lambda argv: argv[0] + argv[1],
)
def test_nothing_that_is_needed_was_left_out(podman: Podman, command: Sequence[str]) -> None:
    """What was taken out of the environment for its size is missed by nobody."""
    podman("run", "--rm", "--pull=never", "--network=none", "--entrypoint=", podman.image.name, *command)


def test_size_and_contents(podman: Podman) -> None:
    """Two files of Tailscale, and our own environment without pip, tests and caches of builds."""

    def size(image: str) -> float:
        return int(podman("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6

    added = size(podman.image.name) - size(images.BASE)
    assert added < PROGRAMS_MB + OURS_MB, f"{added:.1f} MB"
    find = (
        "du -sm /opt/tazpod-net; find /opt/tazpod-net -name pip -o -name tests -o -name 'setuptools*'; command -v gcc"
    )
    inside = podman(
        "run", "--rm", "--pull=never", "--network=none", "--entrypoint=", podman.image.name, "sh", "-c", f"{find}; true"
    )
    [line] = inside.stdout.splitlines()
    assert int(line.split()[0]) <= OURS_MB


def test_labels_and_metadata(podman: Podman) -> None:
    """What registries and engines read."""
    [found] = json.loads(podman("image", "inspect", podman.image.name).stdout)
    config = found["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "tazpod-net"
    assert set(config["Labels"]) >= {
        f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")
    }
    assert config["Entrypoint"] == ["tazpod-net", "entrypoint", "--"]
    assert found["Healthcheck"]["Test"] == ["CMD", "tazpod-net", "status", "--short", "--for", "ready"]
    assert list(config["Volumes"]) == ["/var/lib/tazpod-net"]


def test_no_key_in_the_image_or_the_commands_environment(podman: Podman) -> None:
    """`TS_AUTHKEY` of `podman run` is for the login alone: no process, no command line and no log shows it."""
    container = podman.start(*TUN)
    container.ready()
    status = container.status()
    asleep = container.exec("pgrep", "--exact", "sleep").stdout.split()
    pids = ["1", str(status["supervisor"]["pid"]), str(status["daemon"]["pid"]), *asleep]
    assert len(pids) == 4
    for pid in pids:
        shown = container.exec("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline").stdout
        assert podman.env["TS_AUTHKEY"] not in shown, pid
        assert "PATH=" in shown, pid
    assert podman.env["TS_AUTHKEY"] not in container.logs()


def test_notify_reaches_the_service_manager(podman: Podman, scratch: Path) -> None:
    """`--sdnotify=container`, which a Quadlet with Notify=true means: READY=1 comes from the supervisor inside."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(scratch / "notify"))
        manager.settimeout(30)
        podman.start(*TUN, "--sdnotify=container", notify_socket=str(scratch / "notify"))
        heard = ""
        while "READY=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"


def test_the_dev_container_feature_installs(podman: Podman) -> None:
    """On a plain base, offline: the command, the configuration and the shell's hook are in place."""
    checkout, feature = images.CHECKOUT, images.CHECKOUT / "devcontainer/tazpod-net"
    script = (
        "set -e; mkdir /src; cd /checkout; cp -r pyproject.toml README.md LICENSE bin tazpod_net /src; "
        "sh /feature/install.sh >/dev/null; tazpod-net --version; cat /etc/tazpod-net/config.toml; "
        "grep -c 'tazpod-net' /etc/bash.bashrc; stat -c %U /var/lib/tazpod-net"
    )
    options = ["run", "--rm", "--pull=never", "--network=none", "--volume", f"{checkout}:/checkout:ro"]
    options += ["--volume", f"{feature}:/feature:ro", "--volume", f"{podman.image.wheels}:/wheelhouse:ro"]
    for setting in ("SOURCE=/src", "TAILSCALE=none", "MODE=userspace", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheelhouse"):
        options += ["--env", setting]
    done = podman(*options, images.BASE, "sh", "-c", script, timeout=300)
    version, section, mode, hook, owner = done.stdout.splitlines()
    assert version.startswith("tazpod-net ")
    assert (section, mode, owner) == ("[daemon]", 'mode = "userspace"', "root")
    assert int(hook) > 0
