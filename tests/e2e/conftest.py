"""Fixtures of the end-to-end tests: the installed program beside a real control server, as its users have it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.lab import Binaries, Control, Mode, Node
from tests.support.netns import Place
from tests.support.product import Product

Make = Callable[..., Product]


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
