"""What people get wrong: each is a clear line or a state in `status`, never a traceback, a hang or a lost file."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.e2e.test_restart import script
from tests.support.eventually import eventually
from tests.support.netns import Place
from tests.support.product import Done, Product

SECONDS = 20.0


def plain(done: Done, code: int) -> str:
    """The one error line."""
    assert done.code == code, str(done)
    lines = done.err.strip().splitlines()
    assert lines, str(done)
    assert all(line.startswith("tazpod-net: ") for line in lines), str(done)
    return lines[-1]


class TestCommandLine:
    """Mistyped commands and options."""

    @pytest.mark.parametrize(("typed", "meant"), [("statsu", "status"), ("dwon", "down"), ("supervize", "supervise")])
    def test_a_mistyped_command(self, product: Product, typed: str, meant: str) -> None:
        """Exit 2, and the nearest command is named."""
        done = product.run(typed, expect=2)
        assert meant in done.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["up", "--wiat", "live"],
            ["up", "--wait", "lively"],
            ["up", "--timeout", "soon"],
            ["up", "--timeout", "-1"],
            ["up", "--mode", "tunnel"],
            ["up", "extra"],
            ["up", "--wait", "live", "--no-wait"],
            ["status", "--json", "--short"],
            ["logs", "-n", "few"],
            ["wait", "--for", "peace"],
            [],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_2(self, product: Product, arguments: list[str]) -> None:
        """Wrong options and values: exit 2, nothing starts."""
        done = product.run(*arguments, expect=2, timeout=SECONDS)
        assert done.err
        assert product.processes() == []

    def test_help_and_version(self, product: Product) -> None:
        """Every command has help with an example; `--version` is one line."""
        assert len(product.run("--version", expect=0).out.splitlines()) == 1
        commands = "up down restart reload status logs wait login logout probe tailscale supervise"
        for command in commands.split():
            assert "example: tazpod-net" in product.run(command, "-h", expect=0).out


class TestConfiguration:
    """Wrong configuration."""

    def test_all_errors_at_once(self, product: Product) -> None:
        """Exit 2; unknown keys, wrong types and impossible values are all listed, with file and fix."""
        product.configure('[daemon]\nmoed = "tun"\nport = "high"\n[restart]\ninitial_s = -1\n[nonsense]\na = 1\n')
        done = product.up(expect=2, timeout=SECONDS)
        for word in ("moed", "daemon.mode", "daemon.port", "restart.initial_s", "nonsense", "config.toml"):
            assert word in done.err
        assert len(done.err.strip().splitlines()) >= 4
        assert product.processes() == []

    def test_not_even_toml(self, product: Product) -> None:
        """A file that does not parse: exit 2 with file and line."""
        product.configure("[daemon\nport = 1\n")
        line = plain(product.up(expect=2, timeout=SECONDS), 2)
        assert "config.toml" in line
        assert "1" in line

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("TAZPOD_NET_DAEMON_MODE", "tunnel"),
            ("TAZPOD_NET_DAEMON_PORT", "high"),
            ("TAZPOD_NET_DAEMON_MOED", "tun"),
            ("TS_USERSPACE", "perhaps"),
        ],
    )
    def test_environment(self, product: Product, name: str, value: str) -> None:
        """A wrong variable is named; exit 2."""
        done = product.run("up", env={name: value}, expect=2, timeout=SECONDS)
        assert name in done.err

    def test_a_variable_that_tailscaled_would_die_of(self, product: Product) -> None:
        """Exit 2 naming each; nothing is started, so that the next `up` without them works."""
        wrong = {"TS_DEBUG_MTU": "abc", "TS_DISABLE_TAILDROP": "perhaps"}
        done = product.run("up", env=wrong, expect=2)
        for name in wrong:
            assert f"environment {name}" in done.err
        assert product.processes() == []
        product.up()

    def test_a_program_that_was_corrected_in_the_environment(self, product: Product) -> None:
        """The supervisor keeps the environment of its start: the second `up` says what makes it count."""
        product.run("up", env={"TAZPOD_NET_DAEMON_BINARY": "/nowhere/tailscaled"}, expect=1)
        assert "tazpod-net down" in product.up(expect=1).err
        product.down()
        product.up()

    @pytest.mark.parametrize("form", [["status"], ["status", "--json"], ["up", "--json"]])
    def test_a_full_disk_behind_standard_output(self, product: Product, form: list[str]) -> None:
        """Exit 1 and one line, no talk of a bug."""
        product.up()
        done = product.run(*form, prefix=["sh", "-c", 'exec "$@" >/dev/full', "sh"], expect=1)
        assert "no space left" in done.err
        assert "internal" not in done.err

    def test_a_configuration_file_that_is_missing(self, product: Product) -> None:
        """`--config` of nothing: exit 2, naming it."""
        assert "/nowhere/c.toml" in product.up("--config", "/nowhere/c.toml", expect=2).err

    def test_status_and_down_do_not_need_it(self, product: Product) -> None:
        """With a broken file a running home can be asked and stopped."""
        product.up()
        product.configure("[daemon\n")
        assert product.status(expect=0)["ready"] is True
        product.down()
        assert product.daemons() == []


class TestBinary:
    """A tailscaled that cannot run."""

    def _fatal(self, product: Product, *words: str) -> None:
        """`up` fails at once; the supervisor stays in `fatal`, names the program, and starts nothing."""
        done = product.up(expect=1, timeout=SECONDS)
        assert any(word in done.err for word in words), done.err
        seen = product.status(expect=1)
        assert (seen["supervisor"]["state"], seen["daemon"]["pid"], seen["live"]) == ("fatal", None, False)
        assert product.short() == "tailnet: fatal"

    def test_missing(self, product: Product) -> None:
        """No such program: `fatal`; when it appears the node comes up by itself."""
        path = product.user / "bin" / "tailscaled"
        product.env["TAZPOD_NET_DAEMON_BINARY"] = str(path)
        self._fatal(product, str(path))
        script(product, 'exec $REAL "$@"')
        product.eventually(lambda s: s["ready"])

    def test_not_on_path(self, product: Product) -> None:
        """Not on PATH: said so."""
        product.env["PATH"] = "/usr/bin:/bin"
        self._fatal(product, "tailscaled is not on PATH")

    def test_not_executable(self, product: Product) -> None:
        """No execute bit: `fatal`; `chmod +x` cures it."""
        path = script(product, 'exec $REAL "$@"')
        path.chmod(0o644)
        self._fatal(product, "not an executable file", "not executable")
        path.chmod(0o755)
        product.eventually(lambda s: s["ready"])

    def test_of_another_machine(self, product: Product) -> None:
        """An ELF file for another processor: `fatal` with a reason; the right one cures it."""
        path = script(product, "")
        image = bytearray(product.programs.tailscaled.read_bytes()[:4096])
        image[18:20] = (0x08).to_bytes(2, "little")  # e_machine: EM_MIPS
        path.write_bytes(image)
        self._fatal(product, str(path))
        script(product, 'exec $REAL "$@"')
        product.eventually(lambda s: s["ready"])

    def test_a_directory(self, product: Product) -> None:
        """A directory is no program."""
        product.env["TAZPOD_NET_DAEMON_BINARY"] = str(product.user)
        self._fatal(product, str(product.user))

    def test_garbage(self, product: Product) -> None:
        """Bytes that are no program at all."""
        path = script(product, "")
        path.write_bytes(b"\x00\x01garbage")
        self._fatal(product, str(path))


class TestHome:
    """A home that cannot be used as usual."""

    def test_is_a_file(self, product: Product) -> None:
        """Exit 1 naming it; the file is untouched."""
        product.home.write_text("precious")
        assert str(product.home) in plain(product.up(expect=1, timeout=SECONDS), 1)
        assert product.home.read_text() == "precious"
        assert product.run("status").code == 3
        product.down()

    def test_below_a_file(self, product: Product) -> None:
        """Exit 1 naming it."""
        (product.user / "file").write_text("")
        plain(product.up("--home", str(product.user / "file" / "net"), expect=1, timeout=SECONDS), 1)

    @pytest.mark.root
    def test_is_read_only(self, product: Product) -> None:
        """A read-only mount: exit 1 with the reason and a way out; `status` and `down` end too."""
        product.home.mkdir()
        mounted = "mount -t tmpfs -o ro,size=1m tmpfs"
        product.place.run([*mounted.split(), str(product.home)], check=True)
        line = plain(product.up(expect=1, timeout=SECONDS), 1)
        assert "read-only" in line
        assert "--home" in line
        assert product.run("status", timeout=SECONDS).code == 3
        assert product.run("down", timeout=SECONDS).code == 0

    @pytest.mark.root
    def test_belongs_to_another(self, make: Make) -> None:
        """A directory that the user may not write: exit 1, one line."""
        product = make(uid=12345)
        os.chown(product.user, 0, 0)
        product.user.chmod(0o755)
        assert str(product.home) in plain(product.up(expect=1, timeout=SECONDS), 1)

    def test_path_is_too_long_for_a_socket(self, moded: Product) -> None:
        """Over 107 bytes: everything works, `paths.socket` says where the socket is."""
        home = moded.user / ("long-" * 30) / "net"
        moded.home = home
        moded.env["TAZPOD_NET_HOME"] = str(home)
        moded.env["XDG_RUNTIME_DIR"] = str(moded.user)
        moded.up()
        socket = Path(moded.status(expect=0)["paths"]["socket"])
        assert len(str(socket)) <= 107
        assert not socket.is_relative_to(home)
        assert moded.short().startswith("tailnet: ready")
        assert "100.64." in moded.run("tailscale", "ip", "-4", expect=0).out
        pid = moded.daemons()[0]
        moded.kill_supervisor()
        moded.up()
        assert moded.status()["daemon"]["pid"] == pid
        moded.run("restart", expect=0)
        moded.down()
        assert moded.daemons() == []

    def test_home_variable_unset(self, product: Product) -> None:
        """Without HOME in the environment nothing breaks."""
        product.run("up", env={"HOME": None}, expect=0)
        product.run("down", env={"HOME": None}, expect=0)

    def test_relative_and_strange_paths(self, product: Product) -> None:
        """Spaces, quotes and non-ASCII letters in the path are only letters."""
        home = product.user / "my net's \u00fc"
        product.home = home
        product.env["TAZPOD_NET_HOME"] = str(home)
        product.up()
        assert product.status(expect=0)["paths"]["home"] == str(home)
        product.down()

    @pytest.mark.parametrize("name", [b"new\nline", b"no\xffutf-8", b"-dash"], ids=["line break", "bytes", "dash"])
    def test_unprintable_paths(self, make: Make, name: bytes) -> None:
        """No line and no JSON can tell such a path: it works all the same, and so does the next home of this user."""
        product = make()
        product.home = product.user / os.fsdecode(name)
        product.env["TAZPOD_NET_HOME"] = str(product.home)
        product.up()
        pid = product.status(expect=0)["daemon"]["pid"]
        product.kill_supervisor()
        product.up()
        assert product.status(expect=0)["daemon"]["pid"] == pid
        assert product.run("status", expect=0).out.startswith("ready: ")
        other = make()
        other.up()
        other.down()
        product.down()
        assert product.daemons() == []

    @pytest.mark.root
    def test_the_pointer_of_root_is_garbage(self, make: Make) -> None:
        """`/run/tazpod-net/home` may hold anything: nothing breaks, for root and for others."""
        product, other = make(), make(uid=12345)
        text = "mkdir -p /run/tazpod-net; printf '/srv/net\\nfoo bar\\n' >/run/tazpod-net/home"
        product.place.run(["sh", "-c", text], check=True)
        product.up()
        for each in (product, other):
            each.run("status", env={"TAZPOD_NET_HOME": None})
        product.kill_supervisor()
        product.up()

    def test_of_the_earlier_scripts(self, product: Product) -> None:
        """A home with only state and log of the shell script is taken over: same identity, the old log kept."""
        product.up()
        ips = product.status()["backend"]["ips"]
        product.down()
        state = (product.state / "tailscaled.state").read_bytes()
        old = product.user / "old"
        (old / "state").mkdir(parents=True)
        (old / "logs").mkdir()
        (old / "state" / "tailscaled.state").write_bytes(state)
        (old / "logs" / "tailscaled.log").write_text("a line of the script's time\n")
        product.home = old
        product.env["TAZPOD_NET_HOME"] = str(old)
        product.up(env={"TS_AUTHKEY": None})
        assert product.status(expect=0)["backend"]["ips"] == ips
        assert "a line of the script's time" in product.logs_text()


@pytest.mark.root
class TestFullDisk:
    """A home on a file system without room."""

    @pytest.fixture
    def small(self, product: Product, ns: Place) -> Product:
        """A home on a tmpfs of 2 MiB, seen in the place only."""
        product.home.mkdir()
        ns.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", str(product.home)], check=True)
        return product

    def _fill(self, product: Product) -> None:
        """Takes every block."""
        command = f"cat /dev/zero >{product.home}/ballast 2>/dev/null; sync; true"
        product.place.run(["sh", "-c", command], check=True)

    def _make_room(self, product: Product) -> None:
        product.place.run(["rm", f"{product.home}/ballast"], check=True)

    def _read(self, product: Product, name: str) -> str:
        return product.place.run(["sh", "-c", f"cat {product.home}/{name}"]).stdout

    def test_at_the_start(self, small: Product) -> None:
        """`up` ends within its time with a plain line or a state; with room again `up` is ready."""
        self._fill(small)
        done = small.run("up", "--timeout", "5", timeout=30)
        assert done.code == 1
        assert all(line.startswith("tazpod-net: ") for line in done.err.strip().splitlines()), str(done)
        small.run("status", timeout=SECONDS)
        self._make_room(small)
        small.up()
        assert small.status(expect=0)["ready"] is True

    def test_while_it_runs(self, small: Product) -> None:
        """It stays up and says so; with room again log and state are whole and everything can be written."""
        small.up()
        state = json.loads(self._read(small, "state/tailscaled.state"))
        pid = small.status()["daemon"]["pid"]
        before = eventually(lambda: self._read(small, "logs/tailscaled.log"))
        self._fill(small)
        for number in range(4):  # tailscaled leaves out what it logs more often than five times in five seconds
            small.run("tailscale", "set", f"--hostname=full-{number}")
        seen = small.eventually(lambda s: any("full" in note["text"] for note in s["notes"]))
        assert (seen["ready"], seen["daemon"]["pid"]) == (True, pid)
        self._make_room(small)
        small.run("restart", expect=0)
        assert small.status(expect=0)["ready"] is True
        eventually(lambda: self._read(small, "logs/tailscaled.log").count("Program starting") == 2)
        after = self._read(small, "logs/tailscaled.log")
        assert after.startswith(before)
        assert "full-0" in after
        assert json.loads(self._read(small, "state/tailscaled.state"))["_machinekey"] == state["_machinekey"]
        small.eventually(lambda s: not any("full" in note["text"] for note in s["notes"]))

    def test_down_and_adoption_need_no_room(self, small: Product) -> None:
        """On a full disk a supervisor can be replaced and everything stopped."""
        small.up()
        pid = small.status()["daemon"]["pid"]
        self._fill(small)
        small.kill_supervisor()
        small.up()
        assert small.status()["daemon"]["pid"] == pid
        small.down()
        assert small.daemons() == []
        self._fill(small)
        small.down()
        self._make_room(small)
        small.up()
        self._fill(small)
        small.down()
        assert small.processes() == []


class TestState:
    """The node's identity is damaged."""

    @pytest.mark.parametrize("damage", ["garbage", "half", "list", "empty"])
    def test_is_said_and_left_alone(self, product: Product, damage: str) -> None:
        """A corrupt `tailscaled.state`: exit 1 naming it, no loop, the file untouched; restored, it is ready."""
        product.up()
        product.down()
        path = product.state / "tailscaled.state"
        good = path.read_bytes()
        bad = {"garbage": b"\x00garbage", "half": good[: len(good) // 2], "list": b"[]", "empty": b""}[damage]
        path.write_bytes(bad)
        done = product.up(expect=1, timeout=SECONDS)
        assert "tailscaled.state" in done.err
        seen = product.status(expect=1)
        assert seen["supervisor"]["state"] == "fatal"
        assert "tailscaled.state" in product.run("status").out
        assert path.read_bytes() == bad
        path.write_bytes(good)
        product.eventually(lambda s: s["ready"])

    def test_modes_are_kept(self, product: Product) -> None:
        """The state file stays 0600 through crashes and restarts."""
        product.up()
        product.kill_daemon()
        product.eventually(lambda s: s["ready"] and s["daemon"]["restarts"])
        assert stat.S_IMODE((product.state / "tailscaled.state").stat().st_mode) == 0o600
