"""What one can wait for."""

import msgspec
import pytest

from tazpod_net.core.conditions import CONDITIONS, parse
from tazpod_net.core.status import Status
from tazpod_net.errors import UsageError


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_is_a_question_that_a_status_answers(name: str) -> None:
    """Every condition that can be named can be asked of a status."""
    assert parse(name) == name
    assert msgspec.convert({"checked_at": "", name: True}, Status).answers(name) is True
    assert Status(checked_at="").answers(name) is False


@pytest.mark.parametrize("name", ["", "Ready", "peer:build", "up"])
def test_others_are_refused_with_the_list(name: str) -> None:
    """A condition that does not exist is wrong usage, and the ones that do are named."""
    with pytest.raises(UsageError) as raised:
        parse(name)
    assert str(raised.value) == f"{name!r} is not a condition: use one of live, ready, online"
    assert raised.value.exit_code == 2
