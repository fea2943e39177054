"""Which shell's words `env` prints when nobody says it."""

import pytest

from tazpod_net.cli import surroundings


@pytest.mark.parametrize(
    ("shell", "found"),
    [("/usr/bin/fish", "fish"), ("/bin/zsh", "zsh"), ("/bin/sh", "bash"), ("/bin/csh", "bash"), (None, "bash")],
)
def test_without_a_shell_above_it_is_the_persons(
    monkeypatch: pytest.MonkeyPatch, shell: str | None, found: str
) -> None:
    """`$SHELL`, where it is one whose words are known; else bash."""
    monkeypatch.setattr(surroundings, "process_stat", lambda _pid: None)
    monkeypatch.delenv("SHELL", raising=False)
    if shell is not None:
        monkeypatch.setenv("SHELL", shell)
    assert surroundings._calling_shell() == found


def test_the_nearest_shell_above_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through programs that are no shells, such as sudo and timeout."""
    parents = {10: ("timeout", 9), 9: ("sudo", 8), 8: ("fish", 7), 7: ("bash", 1)}
    monkeypatch.setattr("os.getppid", lambda: 10)
    monkeypatch.setattr(surroundings, "process_stat", lambda pid: ["S", str(parents[pid][1])])
    monkeypatch.setattr(surroundings, "_name_of", lambda pid: parents[pid][0])
    assert surroundings._calling_shell() == "fish"
