"""What one can wait for. Pure."""

from tazpod_net.errors import UsageError

CONDITIONS = ("live", "ready", "online")


def parse(text: str) -> str:
    """Checks one condition. Raises UsageError with the list."""
    if text in CONDITIONS:
        return text
    raise UsageError(f"{text!r} is not a condition", f"use one of {', '.join(CONDITIONS)}")
