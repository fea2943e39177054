"""What a frame of `status --watch` looks like on a terminal of a size."""

import pytest

from tazpod_net.cli.live import fit

GREEN, RESET = "\x1b[32m", "\x1b[0m"


@pytest.mark.parametrize(
    ("text", "columns", "rows", "lines"),
    [
        ("one\ntwo\n", 80, 24, ["one", "two"]),
        ("", 80, 24, [""]),
        ("0123456789", 8, 24, ["01234567", "89"]),
        (f"{GREEN}ready{RESET}: 0123", 8, 24, [f"{GREEN}ready{RESET}: 0", "123"]),
        ("世界世界世界", 8, 24, ["世界世界", "世界"]),
        ("e\u0301" * 8, 8, 24, ["e\u0301" * 8]),
        ("a\nb\nc\nd\n", 80, 3, ["a", "b", "… 2 more lines"]),
        ("a\nb\nc\n", 80, 3, ["a", "b", "c"]),
        ("a\nb\n", 80, 1, ["… 2 more lines"]),
        ("0123456789", 0, 24, ["01234567", "89"]),
    ],
)
def test_fits(text: str, columns: int, rows: int, lines: list[str]) -> None:
    """Lines are wrapped by cells, colours have none; what has no room is counted."""
    assert fit(text, columns, rows) == lines
