"""The files for other people's tools: Compose, Kubernetes, Dev Containers, Quadlet."""

import configparser
import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.support import schemas
from tests.support.progress import SetupError

ROOT = Path(__file__).resolve().parent.parent
FEATURE = ROOT / "devcontainer" / "tazpod-net"
CHECK = ["tazpod-net", "status", "--short", "--for", "ready"]
pytestmark = pytest.mark.timeout(300)

# podman-container.unit(5) of podman 4.6: the [Container] keys that the file may use.
QUADLET = {
    *("AddCapability", "AddDevice", "ContainerName", "EnvironmentFile", "Exec", "HealthCmd", "HealthInterval"),
    *("HealthStartPeriod", "Image", "Network", "NoNewPrivileges", "Notify", "Volume"),
}


def compose() -> dict[str, Any]:
    """The parsed file."""
    return cast("dict[str, Any]", yaml.safe_load((ROOT / "compose.yaml").read_text()))


def manifests() -> list[dict[str, Any]]:
    """The parsed documents."""
    return list(yaml.safe_load_all((ROOT / "kubernetes" / "sidecar.yaml").read_text()))


@pytest.fixture(scope="module")
def published() -> None:
    """The packages with the schemas, fetched once."""
    try:
        for requirement, _ in (schemas.COMPOSE, schemas.KUBERNETES):
            schemas.wheel(requirement)
    except SetupError as e:
        pytest.skip(str(e))


class TestCompose:
    """compose.yaml."""

    @pytest.mark.usefixtures("published")
    def test_schema(self) -> None:
        """It is valid by the Compose Specification; a misspelt key would not be."""
        assert schemas.complaints_of_compose(compose()) == []
        wrong = compose()
        wrong["services"]["dev"]["capadd"] = []
        assert schemas.complaints_of_compose(wrong) != []

    def test_order(self) -> None:
        """The second service waits for the first one's health, which is readiness; a stop has time for the daemon."""
        services = compose()["services"]
        assert services["app"]["depends_on"]["dev"]["condition"] == "service_healthy"
        assert services["dev"]["healthcheck"]["test"] == ["CMD", *CHECK]
        assert int(services["dev"]["stop_grace_period"].rstrip("s")) > 25


class TestKubernetes:
    """kubernetes/sidecar.yaml."""

    @pytest.mark.usefixtures("published")
    def test_schema(self) -> None:
        """Every document is valid by Kubernetes' own schemas, unknown fields refused."""
        for document in manifests():
            assert schemas.complaints_of_kubernetes(document) == []
        wrong = copy.deepcopy(manifests()[0])
        wrong["spec"]["template"]["spec"]["initContainers"][0]["livenesProbe"] = {}
        assert schemas.complaints_of_kubernetes(wrong) != []

    def test_probes(self) -> None:
        """Liveness asks whether it lives, never whether the tailnet can be reached."""
        [sidecar] = manifests()[0]["spec"]["template"]["spec"]["initContainers"]
        paths = {name: sidecar[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
        settings = {each["name"]: each.get("value") for each in sidecar["env"]}
        assert settings["TAZPOD_NET_HTTP_LISTEN"].endswith(f":{sidecar['ports'][0]['containerPort']}")


class TestFeature:
    """The Dev Container Feature."""

    def test_metadata(self) -> None:
        """Names and types as the specification of Features has them; the id is the directory's name."""
        feature = json.loads((FEATURE / "devcontainer-feature.json").read_text())
        assert feature["id"] == FEATURE.name
        assert re.fullmatch(r"\d+\.\d+\.\d+", feature["version"])
        known = {*("id", "version", "name", "description", "options", "capAdd", "containerEnv", "mounts"),
                 *("postStartCommand", "installsAfter")}  # fmt: skip
        assert feature.keys() <= known
        for name, option in feature["options"].items():
            assert re.fullmatch(r"[a-z]+", name)  # becomes a variable of install.sh
            assert option["type"] in {"string", "boolean"}
            assert isinstance(option["default"], bool if option["type"] == "boolean" else str)
            assert option["default"] in option.get("enum", [option["default"]])
            assert option["description"]
        for mount in feature["mounts"]:
            assert set(mount) == {"type", "source", "target"}

    def test_every_option_is_used(self) -> None:
        """install.sh reads each option, and its defaults are those of the metadata."""
        script = (FEATURE / "install.sh").read_text()
        for name, option in json.loads((FEATURE / "devcontainer-feature.json").read_text())["options"].items():
            default = str(option["default"]).lower() if option["type"] == "boolean" else option["default"]
            assert f"{name.upper()}=${{{name.upper()}:-{default}}}" in script

    def test_it_refuses_what_is_wrong(self) -> None:
        """One line and exit 1 before anything is changed."""
        done = subprocess.run(
            ["sh", str(FEATURE / "install.sh")], env={"PATH": "/usr/bin:/bin", "MODE": "tunnel"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


class TestQuadlet:
    """systemd/tazpod-net.container."""

    def test_keys(self) -> None:
        """Known keys only, a device and a capability for TUN, and time to stop."""
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(ROOT / "systemd" / "tazpod-net.container")
        assert parser.sections() == ["Unit", "Container", "Service", "Install"]
        container = parser["Container"]
        assert set(container) <= QUADLET
        assert "NET_ADMIN" in container["AddCapability"].split()
        assert container["AddDevice"] == "/dev/net/tun"
        assert json.loads(container["HealthCmd"]) == CHECK
        assert int(parser["Service"]["TimeoutStopSec"].rstrip("s")) > 25
