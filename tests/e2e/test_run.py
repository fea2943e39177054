"""`run`, `env` and `ssh-config`: real programs through the real mesh, in both modes."""

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.lab import Control, Mode, Node
from tests.support.netns import Place, tun_refusal
from tests.support.product import Product
from tests.support.services import Files, Sshd
from tests.support.terminal import SHELLS, needs

USER = 64329
PROXIES = {spelt for name in ("ALL", "HTTP", "HTTPS", "NO") for spelt in (f"{name}_PROXY", f"{name}_proxy".lower())}
RUN = {"bash": ["bash", "-eu", "-c"], "zsh": ["zsh", "-f", "-eu", "-c"], "fish": ["fish", "-N", "-c"]}
every_shell = pytest.mark.parametrize("shell", SHELLS)


def environment(product: Product, *options: str, **env: str) -> dict[str, str]:
    """What a command sees."""
    out = product.run("run", *options, "--", "env", "-0", expect=0, env=env).out
    return dict(entry.split("=", 1) for entry in out.split("\0") if entry)


class TestRun:
    """The command."""

    def test_brings_the_tailnet_up_and_says_nothing(self, moded: Product) -> None:
        """From nothing: the command's output is all there is; its supervisor stays, and is not its child."""
        done = moded.run("run", "--", "sh", "-c", "echo hello; ps -o ppid= -p $$ >/dev/null; exit 5", expect=5)
        assert (done.out, done.err) == ("hello\n", "")
        assert moded.status(expect=0)["ready"]
        supervisor = moded.status()["supervisor"]["pid"]
        assert Path(f"/proc/{supervisor}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[-1] == b"up"
        again = moded.run("run", "--", "sh", "-c", "cat /proc/$$/task/*/children; exec echo pid $$", expect=0)
        assert str(supervisor) not in again.out.split()
        assert moded.status()["supervisor"]["pid"] == supervisor

    @pytest.mark.parametrize(
        ("argv", "code"),
        [(["true"], 0), (["no-such-command"], 127), (["/etc/passwd"], 126), (["sh", "-c", "kill $$"], -15)],
    )
    def test_the_exit_code_is_the_commands(self, product: Product, argv: list[str], code: int) -> None:
        """126 and 127 as shells do, with a line; a signal is its own, for this process is the command."""
        done = product.run("run", "--", *argv, expect=code)
        assert len(done.err.splitlines()) == (code in {126, 127})

    def test_without_a_command_it_is_wrong_usage(self, product: Product) -> None:
        """Exit 2, and nothing is started."""
        for words in (["run"], ["run", "--"], ["run", "--rm"]):
            assert "no command given" in product.run(*words, expect=2).err
        assert "did you mean --timeout" in product.run("run", "--timeuot", "3", "--", "true", expect=2).err
        assert product.processes() == []

    def test_options_of_the_command_are_its_own(self, product: Product) -> None:
        """Whatever stands behind `--`, also another `--`; without it from the first word on."""
        product.up()
        words = ["--home", "/x", "--", "--rm", "-h", "status", "--json"]
        assert product.run("run", "--", "echo", *words, expect=0).out.split() == words
        assert product.run("run", "--timeout", "9", "echo", "--", "-n", "x", expect=0).out.split() == ["--", "-n", "x"]

    def test_never_ready_is_exit_1(self, make: Make) -> None:
        """At once if only a person can help, with the reason of `up`; the command does not run."""
        product = make(auth_key=None)
        done = product.run("run", "--timeout", "20", "--", "echo", "ran", expect=1)
        assert done.out == ""
        assert "waiting for credentials" in done.err
        assert len(done.err.splitlines()) == 1

    def test_a_slow_start_is_said(self, product: Product, control: Control) -> None:
        """Nothing answers: one line after some seconds, one at the end."""
        control.stall()
        done = product.run("run", "--timeout", "5", "--", "echo", "ran", expect=1)
        lines = done.err.splitlines()
        assert done.out == ""
        assert lines[0].startswith("tazpod-net: waiting for the tailnet: ")
        assert lines[1].startswith("tazpod-net: not ready after 5 s, ")
        assert len(lines) == 2

    def test_a_wrong_configuration_is_exit_2(self, product: Product) -> None:
        """Every error, as for `up`."""
        product.configure("[daemon]\nmode = 5\n[login]\nx = 1\n")
        assert len(product.run("run", "--", "true", expect=2).err.splitlines()) == 2

    def test_what_is_waited_for(self, product: Product, control: Control) -> None:
        """`--for`, more than once."""
        control.stall()
        product.run("run", "--for", "live", "--", "true", expect=0)
        product.run("run", "--for", "live", "--for", "ready", "--timeout", "1", "--", "true", expect=1)
        control.stall(on=False)
        product.run("run", "--for", "live", "--for", "online", "--", "true", expect=0)

    def test_another_user_of_a_running_tailnet(self, make: Make, ns: Place) -> None:
        """Whoever may not change the supervisor can still run through it."""
        if not ns.is_private:
            pytest.skip("needs root for another user")
        product = make()
        product.user.chmod(0o755)
        product.up()
        done = product.run("run", "--", "sh", "-c", "id -u; echo $all_proxy", uid=USER, expect=0)
        assert done.out == f"{USER}\nsocks5h://{product.status()['proxy']['socks5']}\n"
        assert done.err == ""
        for command in ("env", "ssh-config"):
            assert product.run(command, uid=USER, expect=0).out == product.run(command, expect=0).out != ""


class TestEnvironment:
    """The command's."""

    def test_has_this_modes_proxies(self, moded: Product, mode: Mode) -> None:
        """Userspace: the daemon's own; TUN: none."""
        seen = environment(moded)
        proxy = moded.status()["proxy"]
        if mode == "tun":
            assert not PROXIES & set(seen)
            return
        assert seen["ALL_PROXY"] == seen["all_proxy"] == f"socks5h://{proxy['socks5']}"
        assert seen["http_proxy"] == seen["HTTPS_PROXY"] == f"http://{proxy['http']}"
        assert seen["NO_PROXY"] == "localhost,127.0.0.1,::1"

    def test_has_no_secret_of_ours(self, product: Product) -> None:
        """The key that logged in is not the command's business; a key for the API is."""
        seen = environment(product, TS_AUTHKEY=product.env["TS_AUTHKEY"], TAILSCALE_API_KEY="tskey-api-x")
        assert product.env["TS_AUTHKEY"] not in seen.values()
        assert seen["TAILSCALE_API_KEY"] == "tskey-api-x"

    def test_means_the_same_home(self, product: Product) -> None:
        """A tazpod-net inside is told where."""
        other = str(product.user / "an other")
        done = product.run("--home", other, "run", "--", product.command, "status", "--json", expect=0)
        assert json.loads(done.out)["paths"]["home"] == other
        product.run("--home", other, "down")

    def test_takes_back_what_env_set(self, make: Make) -> None:
        """A shell that had the proxies of userspace mode is no hindrance in a TUN home."""
        product = make()
        product.up()
        stale = {"HTTP_PROXY": "http://corp:1", "TAZPOD_NET_ENV": '{"HTTP_PROXY":["http://corp:1","http://old:2"]}'}
        product.configure('[proxy]\nsocks5 = ""\nhttp = ""\n')
        for name in ("TAZPOD_NET_PROXY_SOCKS5", "TAZPOD_NET_PROXY_HTTP"):
            product.env.pop(name, None)
        product.down()
        done = product.run("run", "--", "printenv", "HTTP_PROXY", env=stale, expect=0)
        assert done.out == "http://old:2\n"
        assert "no proxies" in done.err

    def test_a_daemon_never_goes_through_itself(self, product: Product) -> None:
        """Started from a shell with its proxies in it, also on another port than the configured one."""
        product.up()
        inside = environment(product)
        product.down()
        changed = {"TAZPOD_NET_PROXY_SOCKS5": "127.0.0.1:1", "TAZPOD_NET_PROXY_HTTP": "127.0.0.1:2"}
        product.up(env={**product.env, **inside, **changed})
        daemon = Path(f"/proc/{product.status()['daemon']['pid']}/environ").read_bytes()
        assert not any(f"{name}=".encode() in daemon for name in PROXIES)


def evaluate(product: Product, shell: str, script: str, **env: str) -> dict[str, str]:
    """Variables of a shell after a script in which `E` evaluates `tazpod-net env`."""
    needs(shell)
    take = "tazpod-net env | source" if shell == "fish" else 'eval "$(tazpod-net env)"'
    text = script.replace("E", take) + "; command env -0"
    given = {**product.env, "PATH": f"{Path(product.command).parent}:{product.env['PATH']}", **env}
    done = product.place.run([*RUN[shell], text], env=given, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


class TestEnv:
    """`env`, in the shells that it is for."""

    @every_shell
    def test_gives_a_shell_the_proxies_and_takes_them_back(self, make: Make, shell: str) -> None:
        """What was there before, set or not, is there again when there are no proxies any more."""
        product = make()
        product.up()
        before = {"http_proxy": "http://corp:1/it's $x", "HTTPS_PROXY": "http://corp:2"}
        during = evaluate(product, shell, "E; E", **before)
        assert during["TAZPOD_NET_HOME"] == str(product.home)
        assert during["http_proxy"] == f"http://{product.status()['proxy']['http']}"
        assert during["ALL_PROXY"] == f"socks5h://{product.status()['proxy']['socks5']}"
        after = evaluate(product, shell, f"E; {product.command} down; E", **before)
        assert {name: after[name] for name in PROXIES & set(after)} == before
        assert "TAZPOD_NET_ENV" not in after

    def test_in_tun_mode_only_the_home(self, make: Make) -> None:
        """Nothing else is touched; what an earlier one set is taken back."""
        if refusal := tun_refusal():
            pytest.skip(refusal)
        product = make(mode="tun")
        product.up()
        assert product.run("env", expect=0).out == f"export TAZPOD_NET_HOME={product.home}\n"
        assert product.run("env", env={"HTTP_PROXY": "http://mine:1"}).out.count("\n") == 1
        stale = {"ALL_PROXY": "socks5h://x", "TAZPOD_NET_ENV": '{"ALL_PROXY":["socks5h://x",null]}'}
        assert "unset ALL_PROXY" in product.run("env", env=stale).out
        assert product.run("env", "--shell", "fish").out == f"set -gx TAZPOD_NET_HOME '{product.home}'\n"

    @every_shell
    def test_a_home_with_anything_in_its_name(self, make: Make, shell: str) -> None:
        """Blanks, quotes, newlines."""
        product = make(mode="userspace")
        home = product.user / 'it\'s\na "home" $x'
        product.run("--home", str(home), "up", expect=0)
        seen = evaluate(product, shell, "E", TAZPOD_NET_HOME=str(home))
        assert seen["TAZPOD_NET_HOME"] == str(home)
        product.run("--home", str(home), "down", expect=0)

    def test_nothing_running(self, product: Product) -> None:
        """Exit 3, one line on stderr, nothing to evaluate."""
        done = product.run("env", expect=3)
        assert (done.out, done.err) == ("", "tazpod-net: not running: tazpod-net up\n")
        assert not product.home.exists()

    def test_a_daemon_without_supervisor_keeps_its_proxies(self, product: Product) -> None:
        """They work on: nothing is taken back."""
        product.up()
        product.kill_supervisor()
        stale = {"ALL_PROXY": "x", "TAZPOD_NET_ENV": '{"ALL_PROXY":["x",null]}'}
        assert product.run("env", env=stale, expect=3).out == ""

    @pytest.mark.parametrize(("parent", "word"), [("fish", "set -gx"), ("bash", "export"), ("zsh", "export")])
    def test_the_shell_that_calls_is_found(self, product: Product, parent: str, word: str) -> None:
        """By its process, not only by SHELL."""
        needs(parent)
        product.up()
        argv = [*RUN[parent], f"{product.command} env; true"]
        done = product.place.run(argv, env={**product.env, "SHELL": "/bin/other"}, check=True)
        assert done.stdout.startswith(f"{word} TAZPOD_NET_HOME")


@pytest.fixture
def repository(scratch: Path) -> Path:
    """A git repository with one file, also for plain HTTP; returns its directory, below the directory to serve."""
    needs("git")
    bare = scratch / "served" / "repository.git"
    work = scratch / "work"
    env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "GIT_CONFIG_NOSYSTEM": "1"}
    name = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for argv in (
        ["git", "init", "-q", "-b", "main", str(work)],
        ["git", "-C", str(work), *name, "commit", "-q", "--allow-empty", "-m", "over the mesh"],
        ["git", "clone", "-q", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(argv, check=True, env=env)
    return bare


@pytest.fixture
def sshd(ns: Place, scratch: Path) -> Iterator[Sshd]:
    """OpenSSH's server on the peer's side."""
    needs("ssh", "ssh-keygen", "/usr/sbin/sshd")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        pytest.skip("ssh serves only users with a name")
    with Sshd(ns, scratch) as server:
        yield server


class TestPrograms:
    """Real ones, to the peer, by its name."""

    @pytest.fixture(autouse=True)
    def _names(self, control: Control) -> None:
        """The tailnet resolves its names, which TUN mode needs for them."""
        control.set(magic_dns=True, dns_resolvers=["127.0.0.1"])

    def test_curl(self, moded: Product, peer: Node) -> None:
        """HTTP by short name, whole name and address."""
        needs("curl")
        port = peer.serve("from the peer\n")
        for host in ("peer", "peer.example.ts.net", peer.ip):
            done = moded.run("run", "--", "curl", "-sS", "--max-time", "30", f"http://{host}:{port}/", expect=0)
            assert done.out == "from the peer\n"

    def test_curl_by_socks_alone(self, product: Product, peer: Node) -> None:
        """What speaks no HTTP proxy goes by ALL_PROXY."""
        needs("curl")
        port = peer.serve("from the peer\n")
        curl = f"unset HTTP_PROXY http_proxy; curl -sS --max-time 30 http://peer:{port}/"
        assert product.run("run", "--", "sh", "-c", curl, expect=0).out == "from the peer\n"

    def test_git_over_http(self, moded: Product, peer: Node, ns: Place, repository: Path) -> None:
        """A clone."""
        with Files(ns, repository.parent) as server:
            url = f"http://peer:{server.port}/repository.git"
            into = str(moded.user / "clone")
            moded.run("run", "--", "git", "clone", "-q", url, into, expect=0)
            assert moded.run("run", "--", "git", "-C", into, "log", "--format=%s").out == "over the mesh\n"

    def test_ssh_and_git_over_ssh(
        self, moded: Product, peer: Node, sshd: Sshd, scratch: Path, repository: Path
    ) -> None:
        """With the lines of `ssh-config` in front of one's own: by short name, whole name and address."""
        moded.up()
        config = scratch / "ssh_config"
        config.write_text(moded.run("ssh-config", expect=0).out + sshd.client_options())
        ssh = f"ssh -F {config} -p {sshd.port}"
        for host in ("peer", "peer.example.ts.net", peer.ip):
            done = moded.run("run", "--", *ssh.split(), host, "echo hello; exit 42", expect=42)
            assert (done.out, done.err) == ("hello\n", ""), sshd.log.read_text()
        into = str(moded.user / "clone")
        url = f"peer:{repository}"
        moded.run("run", "--", "git", "clone", "-q", url, into, env={"GIT_SSH_COMMAND": ssh}, expect=0)
        assert Path(into, ".git").is_dir()

    def test_ssh_config_follows_the_mode(self, moded: Product, peer: Node, mode: Mode) -> None:
        """TUN: comments that say why there is nothing."""
        assert "not running" in moded.run("ssh-config", expect=3).err
        moded.up()
        out = moded.run("ssh-config", expect=0).out
        lines = [line for line in out.splitlines() if not line.startswith("#")]
        assert (lines == []) == (mode == "tun")
        if mode == "userspace":
            assert lines[0] == "Host *.example.ts.net"
            assert "Host peer" in lines
            assert f"ProxyCommand {moded.command} --home {moded.home} tailscale nc %h %p" in lines[1]

    def test_a_terminal_is_the_commands(self, product: Product) -> None:
        """It is not ours any more: a command may ask a person."""
        product.up()
        terminal = product.terminal("run", "--", "sh", "-c", "test -t 0 && test -t 2 && echo tty; read x; echo =$x=")
        terminal.until(lambda line: line == "tty")
        os.write(terminal._fd, b"hello\n")
        terminal.until(lambda line: line == "=hello=")

    def test_a_signal_while_it_waits_ends_it(self, product: Product, control: Control) -> None:
        """Ctrl-C before the command: exit 130, nothing hangs on; the supervisor goes on trying."""
        control.stall()
        waiting = product.popen("run", "--timeout", "60", "--", "true")
        product.eventually(lambda seen: seen["live"])
        waiting.process.send_signal(signal.SIGINT)
        assert waiting.process.wait(30) == 130
        eventually(lambda: not any("run" in process.argv for process in product.processes()))
