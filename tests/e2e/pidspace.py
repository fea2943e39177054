"""A place whose PID 1 never reaps: `sleep infinity`, as containers often have."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.netns import Argument, Place


class NeverReaping(Place):
    """Inside another place, a private pid namespace: whoever dies there without a parent stays a zombie."""

    is_private = True

    def __init__(self, outside: Place) -> None:
        self.outside = outside
        argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--", "sleep", "infinity"]
        self._anchor = outside.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, new_session=True)
        children = Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children")
        self.pid = int(eventually(lambda: children.read_text().split())[0])
        eventually(lambda: os.readlink(f"/proc/{self.pid}/exe").endswith("sleep"))

    def wrap(self, argv: Sequence[Argument], *, cwd: Argument = "/", uid: int | None = None) -> list[str]:
        """Joins the namespaces of its PID 1, whose child nobody inside is: orphans become zombies."""
        inside = super().wrap(argv, cwd=cwd, uid=uid)
        return ["nsenter", f"--target={self.pid}", "--pid", "--mount", "--net", "--", *inside]

    def close(self) -> None:
        """Ends everything inside. Twice is allowed."""
        self._anchor.kill()
        self._anchor.wait()
