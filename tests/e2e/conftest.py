"""Fixtures of the end-to-end tests: the installed program beside a real control server, as its users have it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.lab import Binaries, Control, Mode, Node, lab_environment
from tests.support.machine import Machine
from tests.support.netns import Namespace, Place
from tests.support.podman import Podman
from tests.support.product import Product

Make = Callable[..., Product]
Boot = Callable[..., Machine]


@pytest.fixture
def make(ns: Place, control: Control, lab: Binaries) -> Iterator[Make]:
    """Makes homes in one place; options as those of `Product`, by default userspace mode with a good key."""
    with ExitStack() as stack:

        def one(**options: Any) -> Product:
            given = {"control": control, "programs": lab, "place": ns, **options}
            return stack.enter_context(Product(**given))

        yield one


@pytest.fixture
def product(make: Make) -> Product:
    """A home of its own in userspace mode, with a good reusable key; nothing started."""
    return make()


@pytest.fixture
def moded(make: Make, mode: Mode) -> Product:
    """The same in both modes."""
    return make(mode=mode)


@pytest.fixture
def peer(control: Control, ns: Place, lab: Binaries) -> Iterator[Node]:
    """A second real node on the tailnet."""
    with Node(control, place=ns, programs=lab) as node:
        yield node.up()


@pytest.fixture(scope="session")
def image(lab: Binaries) -> images.Image:
    """The Containerfile's image, built once for all workers and sessions; skipped where containers cannot be had."""
    if refusal := images.refusal():
        pytest.skip(refusal)
    return images.ensure(lab)


@pytest.fixture
def podman(image: images.Image, ns: Place, control: Control) -> Iterator[Podman]:
    """Podman in `ns`, its containers with a good key for the lab's control server."""
    assert isinstance(ns, Namespace)
    env = lab_environment(control.url, "/nowhere")
    del env["TS_LOGS_DIR"]
    env |= {"TAZPOD_NET_LOGIN_SERVER": control.url, "TS_AUTHKEY": control.add_key(reusable=True)}
    with Podman(ns, image, env=env) as engine:
        yield engine


@pytest.fixture
def boot(podman: Podman) -> Iterator[Boot]:
    """Boots the image as a machine with our units installed; `/etc/default/tazpod-net` names the lab's server."""
    with ExitStack() as stack:

        def one(prepare: Callable[[Path], None] = lambda _root: None, **env: str) -> Machine:
            def with_defaults(root: Path) -> None:
                lines = [f"{name}={value}\n" for name, value in {**podman.env, **env}.items()]
                (root / "etc/default").mkdir(exist_ok=True)
                (root / "etc/default/tazpod-net").write_text("".join(lines))
                prepare(root)

            return stack.enter_context(Machine(podman, with_defaults))

        yield one
