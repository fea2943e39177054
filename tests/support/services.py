"""What a second machine serves: files over HTTP, and a real sshd with keys of its own.

Each listens on all addresses of its place: a userspace daemon hands connections from the tailnet to the same port of
127.0.0.1, a TUN daemon has the address itself. Owns its processes and ends them.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from tests.support.eventually import eventually
from tests.support.netns import Place
from tests.support.product import free_port

_FILES = """
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class _Service:
    """A process that ends with us."""

    process: "subprocess.Popen[Any]"

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Files(_Service):
    """A directory over HTTP."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.process = place.popen(
            [sys.executable, "-c", _FILES, directory], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.port = int(cast("IO[str]", self.process.stdout).readline())


class Sshd(_Service):
    """OpenSSH's server: lets in whoever runs the tests, by a key in `scratch`."""

    def __init__(self, place: Place, scratch: Path) -> None:
        """Returns when it listens."""
        self.scratch = scratch
        self.port = free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        for name in ("host", "user"):
            place.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / name], check=True)
        with contextlib.suppress(OSError):  # its directory for separated privileges; in a place it is its own /run
            place.run(["mkdir", "-p", "/run/sshd"])
        config = scratch / "sshd_config"
        config.write_text(
            f"ListenAddress 0.0.0.0:{self.port}\nHostKey {scratch}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PermitRootLogin yes\nAuthorizedKeysFile {scratch}/user.pub\nPasswordAuthentication no\n"
        )
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program
        self.log = scratch / "sshd.log"
        with self.log.open("w") as log:
            self.process = place.popen([program, "-D", "-e", "-f", config], stdout=log, stderr=log)
        eventually(lambda: "Server listening" in self.log.read_text())

    def client_options(self) -> str:
        """Lines for an ssh_config: our key, and whatever key the host shows."""
        return (
            f"Host *\n    User {self.user}\n    IdentityFile {self.scratch}/user\n    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {self.scratch}/known\n    StrictHostKeyChecking no\n    LogLevel ERROR\n"
            "    BatchMode yes\n"
        )
