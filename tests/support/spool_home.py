"""A scratch home for the tests of the log: its paths, its spool, and what its log says as a whole."""

import glob
import os
from pathlib import Path
from typing import Any

from tazpod_net.adapters.spool import Spool
from tazpod_net.core.lines import LineRules


class SpoolHome:
    """`state/` and `logs/` below `root`. `spool()` is a new supervisor's view of them."""

    def __init__(self, root: str | Path) -> None:
        self.state = os.path.join(root, "state")
        self.log = os.path.join(root, "logs", "tailscaled.log")
        self._made: list[Spool] = []
        os.makedirs(self.state, exist_ok=True)

    def spool(self, **changes: Any) -> Spool:
        """A spool with 1 MB of log in 1000 old files, unless changed."""
        settings: dict[str, Any] = {"max_bytes": 1_000_000, "files": 1000, "rules": LineRules(), **changes}
        self._made.append(Spool(self.state, self.log, **settings))
        return self._made[-1]

    def close(self) -> None:
        """Closes every spool that was made, as the end of their processes would."""
        for spool in self._made:
            spool.close()
        self._made.clear()

    def log_files(self) -> list[str]:
        """Paths of the log's files, oldest first."""
        old = [path for path in glob.glob(self.log + ".*") if path.rpartition(".")[2].isdecimal()]
        old.sort(key=lambda path: -int(path.rpartition(".")[2]))
        return [*old, *glob.glob(self.log)]

    def log_bytes(self) -> bytes:
        """All that the log holds, oldest first."""
        return b"".join(Path(path).read_bytes() for path in self.log_files())

    def sizes(self) -> list[int]:
        """Sizes of the log's files in bytes, oldest first."""
        return [os.path.getsize(path) for path in self.log_files()]

    def spools(self) -> list[str]:
        """Names of the spools."""
        return sorted(name for name in os.listdir(self.state) if name.startswith("spool."))


def numbered(first: int, last: int) -> bytes:
    """Lines `first` to `last - 1`, each different, about 30 bytes."""
    return b"".join(b"line %07d %s\n" % (n, b"x" * (n * 7 % 31)) for n in range(first, last))
