"""A user with an account in a namespace: by name, with sudo, with sudo that asks, or without.

Owns nothing outside the namespace: its `/etc` is an overlay of its own.
"""

import shutil
from typing import Literal

import pytest

from tests.support.netns import Namespace

NAME, UID = "tazpod", 1000
Sudo = Literal["free", "pty", "asks", "not allowed"]

# The account has no password, and none can be given: sudo either lets it or fails.
ACCOUNT = """
set -eu
grep -q '^{name}:' /etc/passwd || {{
  sed -i '/^[^:]*:[^:]*:{uid}:/d' /etc/passwd
  echo '{name}:x:{uid}:{uid}::{home}:/bin/bash' >>/etc/passwd
  echo '{name}:x:{uid}:' >>/etc/group
  echo '{name}:*:19000:0:99999:7:::' >>/etc/shadow
}}
mkdir -p /etc/sudoers.d
printf '%s\\n' '{rule}' >/etc/sudoers.d/tazpod-net-tests
chmod 440 /etc/sudoers.d/tazpod-net-tests
"""
RULES: dict[Sudo, str] = {
    "free": f"{NAME} ALL=(ALL) NOPASSWD: ALL",
    "pty": f"Defaults use_pty\\n{NAME} ALL=(ALL) NOPASSWD: ALL",
    "asks": f"{NAME} ALL=(ALL) ALL",
    "not allowed": "# nobody",
}


def move_in(place: Namespace, home: str, *, sudo: Sudo = "free") -> None:
    """Makes the account; `sudo` says how it stands with sudo. Skips the test where sudo is not installed."""
    if shutil.which("sudo") is None:
        pytest.skip("sudo is not installed")
    rule = RULES[sudo].replace("\\n", "\n")
    place.run(["sh", "-c", ACCOUNT.format(name=NAME, uid=UID, home=home, rule=rule)], check=True)
