"""Whose rights: a user with sudo, one without, root's supervisor and everybody else's shell. uid 1000, real sudo."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control
from tests.support.netns import Namespace, Place, is_alive, tun_refusal
from tests.support.people import NAME, UID, Sudo, move_in
from tests.support.product import Product
from tests.support.terminal import needs

pytestmark = pytest.mark.root

Move = Callable[..., Product]

# Before the real one on PATH: notes what others could see of it.
WITNESS = """#!/bin/sh
printf '%s\\n' "$*" >>{calls}
env >>{calls}.env
exec /usr/bin/sudo "$@"
"""


@pytest.fixture
def tenant(make: Make, ns: Place) -> Iterator[Move]:
    """Makes homes of a user with an account, by default with NOPASSWD, in the mode that the program chooses."""
    if refusal := tun_refusal():
        pytest.skip(refusal)
    assert isinstance(ns, Namespace)
    with ExitStack() as stack:

        def one(sudo: Sudo = "free", **options: object) -> Product:
            product = make(**{"mode": None, "uid": UID, **options})
            move_in(ns, str(product.user), sudo=sudo)
            stack.callback(end_supervisor, product)
            programs = product.user / "wbin"
            programs.mkdir()
            (programs / "sudo").write_text(WITNESS.format(calls=product.user / "calls"))
            (programs / "sudo").chmod(0o755)
            product.env["PATH"] = f"{programs}:{product.env['PATH']}"
            os.chown(product.user, UID, UID)
            return product

        yield one


def end_supervisor(product: Product) -> None:
    """Root's supervisor has only what sudo gives in its first environment: `close` does not know it as ours."""
    product.run("down", "--timeout", "5", uid=0)


def calls(product: Product) -> list[str]:
    """The command lines of sudo so far."""
    path = product.user / "calls"
    return path.read_text().splitlines() if path.exists() else []


def uid_of(pid: int) -> int:
    """The real uid of a process."""
    return os.stat(f"/proc/{pid}").st_uid


def pids(product: Product) -> tuple[int, int]:
    """Supervisor and daemon."""
    seen = product.status()
    return seen["supervisor"]["pid"], seen["daemon"]["pid"]


def home_meant(product: Product, uid: int = 12345) -> str:
    """The home that another user's shell means."""
    seen = json.loads(product.run("status", "--json", uid=uid, env={"HOME": "/nowhere"}).out)
    return str(seen["paths"]["home"])


class TestSudo:
    """A user who may `sudo -n`."""

    @pytest.mark.parametrize("sudo", ["free", "pty"])
    def test_up_is_tun_as_root_in_the_users_home(self, tenant: Move, sudo: Sudo) -> None:
        """One call of sudo; supervisor and daemon are root's, the home and what it tells are the user's."""
        product = tenant(sudo)
        done = product.up()
        assert done.out.startswith("ready: on ")
        assert " by TUN" in done.out
        assert [uid_of(pid) for pid in pids(product)] == [0, 0]
        assert len(calls(product)) == 1
        for path in (product.home, product.state, product.home / "logs"):
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (UID, 0o755)
        assert (product.state / "tailscaled.state").stat().st_mode & 0o777 == 0o600
        for path in (product.state / "status.json", product.state / "short", product.log):
            assert path.stat().st_mode & 0o777 == 0o644

    def test_the_user_sees_and_does_everything_without_sudo(self, tenant: Move) -> None:
        """Root supervises; its home's owner looks and changes by the control socket alone."""
        product = tenant()
        product.up()
        assert product.run("status", expect=0).out.startswith("ready: ")
        assert product.short().startswith("tailnet: ready tun ")
        product.run("wait", expect=0)
        assert "magicsock" in product.run("logs", "-n", "all", expect=0).out
        assert "starting" in product.run("logs", "--supervisor", expect=0).out
        assert "already running" in product.up().out
        product.run("restart", expect=0)
        assert "tailscaled" in product.run("logs", "--previous", "-n", "all", expect=0).out
        product.run("reload", expect=0)
        assert product.run("down", expect=0).out == "stopped\n"
        assert len(calls(product)) == 1
        assert product.status()["wanted"] == "stopped"
        assert product.run("down", expect=0).out == "not running\n"

    def test_what_sudo_shows_has_no_secret(self, tenant: Move) -> None:
        """Its arguments name the home, its environment has nothing of the user's but what sudo itself needs."""
        product = tenant(OTHER_SECRET="hunter2")
        product.up()
        argv = calls(product)[0]
        assert argv.endswith(f" --home {product.home}")
        shown = Path(f"{product.user}/calls.env").read_text() + argv
        assert product.env["TS_AUTHKEY"] not in shown
        assert "hunter2" not in shown
        assert "TAZPOD" not in shown
        for pid in pids(product):
            block = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            assert product.env["TS_AUTHKEY"].encode() not in block

    def test_files_of_the_user_are_meant(self, tenant: Move, control: Control) -> None:
        """~/secrets, ~/.config and HOME are the user's although root reads them; the user is the operator."""
        product = tenant(auth_key=None)
        product.give("tailscale-auth-key", control.add_key(reusable=True))
        config = product.user / ".config" / "tazpod-net" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text('[login]\nhostname = "mine"\nauth_key_file = "~/secrets/tailscale-auth-key"\n')
        product.up()
        seen = product.status()
        assert seen["backend"]["requested_hostname"] == "mine"
        assert uid_of(seen["daemon"]["pid"]) == 0
        prefs = json.loads(product.run("tailscale", "debug", "prefs", expect=0).out)
        assert prefs["OperatorUser"] == NAME

    def test_a_home_without_a_name_is_the_users(self, tenant: Move) -> None:
        """`~/.local/state`, made on the way for the user; the pointer lets every shell mean it."""
        product = tenant()
        del product.env["TAZPOD_NET_HOME"]
        product.home = product.user / ".local/state/tazpod-net"
        product.up()
        assert product.status()["paths"]["home"] == str(product.home)
        for path in (product.user / ".local", product.home, product.state):
            assert path.stat().st_uid == UID
        assert home_meant(product) == "/nowhere/.local/state/tazpod-net"
        product.user.chmod(0o755)
        (product.user / ".local").chmod(0o755)
        assert home_meant(product) == str(product.home)

    def test_a_place_that_only_root_may_write_gets_a_home_of_the_users(self, tenant: Move) -> None:
        """Another's workspace: root makes the home there, and the user owns it."""
        product = tenant()
        workspace = product.user / "workspace"
        workspace.mkdir()
        os.chown(workspace, 1001, 1001)
        workspace.chmod(0o755)
        product.home = workspace / ".tazpod" / "net"
        product.env["TAZPOD_NET_HOME"] = str(product.home)
        product.up()
        assert [path.stat().st_uid for path in (product.home.parent, product.home, product.state)] == [UID] * 3
        product.run("down", expect=0)
        assert workspace.stat().st_uid == 1001

    def test_userspace_mode_needs_no_root(self, tenant: Move) -> None:
        """Who sets userspace gets a daemon of their own, and sudo is not asked."""
        product = tenant(mode="userspace")
        product.up()
        assert [uid_of(pid) for pid in pids(product)] == [UID, UID]
        assert calls(product) == []

    def test_a_capability_is_as_good_as_root(self, tenant: Move) -> None:
        """A user who may make TUN devices (podman run --user --cap-add) gets one without sudo."""
        product = tenant()
        ambient = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        ambient += ["--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--"]
        done = product.place.run([*ambient, product.command, "up"], env=product.env)
        assert " by TUN" in done.stdout, done
        assert [uid_of(pid) for pid in pids(product)] == [UID, UID]
        assert calls(product) == []

    def test_a_daemon_that_outlived_its_supervisor_is_adopted(self, tenant: Move) -> None:
        """kill -9 of root's supervisor: the user's `up` takes the daemon over, the user's `down` stops it."""
        product = tenant()
        product.up()
        _, daemon = pids(product)
        product.kill_supervisor()
        assert f"tailscaled (pid {daemon}) still runs" in product.run("status").out
        product.up()
        assert pids(product)[1] == daemon
        product.kill_supervisor()
        assert f"stopped tailscaled (pid {daemon})" in product.run("down", expect=0).out
        assert not is_alive(daemon)

    def test_errors_are_those_of_the_command(self, tenant: Move) -> None:
        """A start that root refuses says so on the user's screen, with its exit code."""
        product = tenant(TS_DEBUG_FIREWALL_MODE="auto")
        done = product.run("up", "--import-state", "/nowhere", expect=1)
        assert done.err.startswith("tazpod-net: ")
        assert "/nowhere" in done.err
        assert product.run("up", "--mode", "tun", env={"TAZPOD_NET_DAEMON_PORT": "x"}, expect=2).out == ""

    def test_probe_looks_as_root(self, tenant: Move) -> None:
        """`probe` answers for what `up` would do, and makes no home."""
        product = tenant()
        assert product.run("probe", expect=0).out.startswith("mode: TUN")
        assert not product.home.exists()

    def test_supervise_becomes_root(self, tenant: Move) -> None:
        """In the foreground sudo takes this process's place; a signal ends all in order."""
        product = tenant()
        output = product.popen("supervise")
        seen = product.eventually(lambda s: s["ready"])
        assert (uid_of(seen["supervisor"]["pid"]), seen["daemon"]["mode"]) == (0, "tun")
        os.kill(output.process.pid, 15)
        assert output.process.wait(30) in {0, 143}
        eventually(lambda: not is_alive(seen["daemon"]["pid"]))

    def test_an_entrypoint_has_root_only_for_the_tailnet(self, tenant: Move) -> None:
        """CMD is the user's; supervisor and daemon are root's, and end with it."""
        product = tenant()
        look = f"{product.command} status --short; id -u"
        done = product.run("entrypoint", "--wait", "ready", "--", "sh", "-c", look, expect=0)
        assert done.out.startswith("tailnet: ready tun ")
        assert done.out.endswith(f"{UID}\n")
        assert product.daemons() == []
        assert product.run("status").code == 3

    def test_a_node_for_one_command(self, tenant: Move, control: Control) -> None:
        """`run --rm` by TUN, as root beneath the user's command; nothing is left of it."""
        product = tenant()
        done = product.run("run", "--rm", "--", "sh", "-c", "ip -o link show tailscale0; id -u", expect=0)
        assert done.out.endswith(f"{UID}\n")
        assert "tailscale0" in done.out
        eventually(lambda: product.daemons() == [])
        eventually(lambda: control.nodes() == [])

    def test_ten_at_once_make_one_daemon(self, tenant: Move) -> None:
        """Ten shells of the user start at the same moment: all are told that it is ready, one daemon runs."""
        product = tenant()
        done = product.at_once([("up",)] * 10)
        assert [each.code for each in done] == [0] * 10, done
        assert len(product.daemons()) == 1

    def test_a_hung_supervisor_of_root_is_said_and_ended(self, tenant: Move) -> None:
        """One that is stopped (SIGSTOP) is named to the user, whose `down` ends it and its daemon."""
        product = tenant()
        product.up()
        supervisor, daemon = pids(product)
        os.kill(supervisor, 19)
        assert f"(pid {supervisor}) is stopped" in product.run("status", expect=3).out
        product.run("down", expect=0)
        assert not is_alive(supervisor)
        assert not is_alive(daemon)


class TestWithoutSudo:
    """Userspace mode, said plainly; never a question for a password."""

    @pytest.mark.parametrize(
        ("sudo", "why", "fix"),
        [
            ("asks", "sudo asks for a password", "NOPASSWD"),
            ("not allowed", "sudo", "NOPASSWD"),
            ("missing", "there is no sudo", "run it as root"),
            ("no-new-privileges", "no-new-privileges", "without no-new-privileges"),
        ],
    )
    def test_userspace_with_the_reason(self, tenant: Move, ns: Place, sudo: str, why: str, fix: str) -> None:
        """`up` is ready by proxy, and says once why not by TUN and what helps; so does `status`."""
        product = tenant("asks" if sudo == "asks" else "not allowed" if sudo == "not allowed" else "free")
        if sudo == "missing":
            ns.run(["mount", "--bind", "/dev/null", "/usr/bin/sudo"], check=True)
            (product.user / "wbin" / "sudo").unlink()
        prefix = ["setpriv", "--no-new-privs", "--"] if sudo == "no-new-privileges" else []
        done = product.run("up", prefix=prefix, expect=0)
        assert "userspace (proxy only)" in done.out
        told = [line for line in done.err.splitlines() if line.startswith("no TUN: ")]
        assert len(told) == 1
        assert why in told[0]
        assert fix in told[0]
        assert why in product.status()["daemon"]["mode_reason"]
        assert [uid_of(pid) for pid in pids(product)] == [UID, UID]

    def test_tun_that_was_asked_for_fails_clearly(self, tenant: Move) -> None:
        """`daemon.mode = "tun"` and no root: the reason in one line, nothing runs as something else."""
        product = tenant("asks", mode="tun")
        done = product.up(expect=1)
        assert "sudo asks for a password" in done.err
        assert "NOPASSWD" in done.err
        assert product.daemons() == []

    def test_a_home_that_is_roots(self, tenant: Move) -> None:
        """Neither the user nor sudo may: one line names the home, and nothing is made elsewhere."""
        product = tenant("asks")
        product.home = Path("/var/lib/tazpod-net")
        product.env["TAZPOD_NET_HOME"] = str(product.home)
        done = product.up(expect=1)
        assert done.err.startswith(
            "tazpod-net: cannot write the home /var/lib/tazpod-net (permission denied), and sudo"
        )
        assert len(done.err.splitlines()) == 1

    def test_root_that_may_not_write_the_workspace(self, tenant: Move, ns: Place) -> None:
        """A filesystem that is the user's alone (root-squashed, FUSE): the user's own daemon, in userspace mode."""
        product = tenant()
        with fuse(ns, product, ["bindfs", "--no-allow-other", "-f"]):
            done = product.up()
            assert "userspace (proxy only)" in done.out
            assert "root cannot do it (cannot write the home" in done.err
            assert [uid_of(pid) for pid in pids(product)] == [UID, UID]
            product.down()


class TestOthers:
    """A supervisor of root's, such as a container's PID 1, and the shells of a plain user."""

    @pytest.fixture
    def roots(self, tenant: Move) -> Product:
        """Root's supervisor in root's own home; the user names no home and has no sudo."""
        product = tenant("asks")
        del product.env["TAZPOD_NET_HOME"]
        product.home = Path("/var/lib/tazpod-net")
        product.run("up", uid=0, expect=0)
        return product

    def test_everybody_may_look(self, roots: Product) -> None:
        """status, wait, logs and up mean root's supervisor, change nothing and need nothing."""
        assert roots.run("status", expect=0).out.startswith("ready: ")
        roots.run("wait", expect=0)
        assert "magicsock" in roots.run("logs", "-n", "all", expect=0).out
        assert "already running" in roots.run("up", expect=0).out
        assert "already running" in roots.run("up", "--wait", "online", expect=0).out
        assert roots.status()["paths"]["home"] == "/var/lib/tazpod-net"

    @pytest.mark.parametrize("command", [("down",), ("restart",), ("reload",), ("logout",), ("login",)])
    def test_only_root_and_the_owner_may_change(self, roots: Product, command: tuple[str, ...]) -> None:
        """A plain user is refused in one line, and it goes on running."""
        done = roots.run(*command, expect=1)
        assert done.err == (
            f"tazpod-net: {command[0]}: uid {UID} may not change this supervisor (uid 0): "
            "run it as root or as the owner of the home\n"
        )
        assert roots.status()["ready"] is True

    def test_with_sudo_the_user_may(self, tenant: Move, ns: Place) -> None:
        """The same user with NOPASSWD: restart, a key by standard input, down."""
        product = tenant("free")
        del product.env["TAZPOD_NET_HOME"]
        product.home = Path("/var/lib/tazpod-net")
        product.run("up", uid=0, expect=0)
        product.run("restart", expect=0)
        assert "already logged in" in product.run("login", expect=0).out
        assert product.run("down", expect=0).out == "stopped\n"
        assert len(calls(product)) == 3

    def test_credentials_of_a_users_shell_reach_root(self, tenant: Move, control: Control) -> None:
        """A supervisor that waits gets what the user's `up` can see, through sudo."""
        product = tenant("free", auth_key=None)
        del product.env["TAZPOD_NET_HOME"]
        product.home = Path("/var/lib/tazpod-net")
        product.run("up", uid=0, expect=1)
        key = control.add_key(reusable=True)
        done = product.run("up", env={"TS_AUTHKEY": key}, expect=0)
        assert "ready: " in done.out
        assert key not in done.said

    def test_a_waiting_supervisor_is_told_to_a_user_without_rights(self, tenant: Move, control: Control) -> None:
        """`up` cannot hand anything over, says what is missing, and does not hang."""
        product = tenant("asks", auth_key=None)
        del product.env["TAZPOD_NET_HOME"]
        product.home = Path("/var/lib/tazpod-net")
        product.run("up", uid=0, expect=1)
        done = product.run("up", env={"TS_AUTHKEY": control.add_key(reusable=True)}, expect=1)
        assert "credentials" in done.err
        assert product.status()["ready"] is False


class TestSockets:
    """Where the home has no place for a socket."""

    @pytest.mark.parametrize("who", ["root", "sudo", "user"])
    def test_a_filesystem_without_sockets(self, tenant: Move, ns: Place, who: str) -> None:
        """sshfs refuses sockets as 9p does: they move, status says where, and every command finds them."""
        mode = "userspace" if who == "user" else None
        runtime = {} if who != "user" else {"XDG_RUNTIME_DIR": "/run/user/1000"}
        product = tenant("free", mode=mode, **({"uid": None} if who == "root" else {}), **runtime)
        ns.run(["install", "-d", "-o", str(UID), "-m", "700", "/run/user/1000"], check=True)
        with fuse(ns, product, None, UID if who == "user" else None):
            product.up()
            place = product.status()["paths"]["socket"]
            assert place.startswith("/run/user/1000/tazpod-net-" if who == "user" else "/run/tazpod-net-")
            assert "100.64." in product.run("tailscale", "status", expect=0).out
            assert product.run("status", expect=0).out.startswith("ready: ")
            assert "magicsock" in product.run("logs", "-n", "all", expect=0).out
            product.down()
            assert product.run("status", expect=3).out.startswith("not running")


class fuse:  # noqa: N801 - used like a function
    """Mounts the workspace of a product as a FUSE filesystem: bindfs by the user, or sshfs for all without argv."""

    def __init__(self, place: Place, product: Product, argv: list[str] | None, uid: int | None = None) -> None:
        needs("bindfs" if argv else "sshfs", "fusermount3")
        if argv is None and not os.path.exists(SFTP_SERVER):
            pytest.skip(f"{SFTP_SERVER} is not installed")
        if not os.path.exists("/dev/fuse"):
            pytest.skip("no FUSE here")
        self.place, self.product, self.uid = place, product, uid
        self.behind, self.mount = product.user / "behind", product.user / "workspace"
        for path in (self.behind, self.mount):
            path.mkdir()
            os.chown(path, product.uid or 0, product.uid or 0)
        product.home = self.mount / "net"
        product.env["TAZPOD_NET_HOME"] = str(product.home)
        self.argv = argv

    def __enter__(self) -> None:
        node = "[ -e /dev/net/fuse ] || mknod -m 666 /dev/net/fuse c 10 229; mount --bind /dev/net/fuse /dev/fuse"
        self.place.run(["sh", "-c", node], check=True)
        if self.argv is not None:
            argv = [*self.argv, str(self.behind), str(self.mount)]
            self.process = self.place.popen(argv, uid=UID, stderr=subprocess.PIPE)
        else:
            argv = [sys.executable, "-c", SFTP, str(self.behind), str(self.mount), SFTP_SERVER]
            self.process = self.place.popen(argv, stderr=subprocess.PIPE, uid=self.uid)
        listed = ["sh", "-c", f"grep -q ' {self.mount} fuse' /proc/self/mounts"]
        eventually(lambda: self.place.run(listed).returncode == 0 or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()

    def __exit__(self, *_: object) -> None:
        self.product.run("down", "--timeout", "5")
        self.place.run(["umount", "-l", str(self.mount)], check=True)
        self.process.kill()
        self.process.communicate()


SFTP_SERVER = "/usr/lib/openssh/sftp-server"
# sshfs and an SFTP server on a pair of pipes: no network, no daemon.
SFTP = """
import os, subprocess, sys
a, b = os.pipe(), os.pipe()
server = subprocess.Popen([sys.argv[3]], stdin=a[0], stdout=b[1])
os.close(a[0]); os.close(b[1])
os.dup2(b[0], 0); os.dup2(a[1], 1)
options = "passive,default_permissions" + ",allow_other" * (os.geteuid() == 0)
os.execvp("sshfs", ["sshfs", ":" + sys.argv[1], sys.argv[2], "-f", "-o", options])
"""
