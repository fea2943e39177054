"""Configuration while it runs: what `reload`, SIGHUP and `restart` apply, and what a mistake does."""

import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.support.eventually import eventually
from tests.support.product import Product, kill


class TestReload:
    """`reload` and SIGHUP."""

    def test_applies_what_can_be_applied(self, product: Product) -> None:
        """`log.max_bytes` is live at once: the log is rotated by the new limit; the daemon goes on."""
        product.configure("[log]\nmax_bytes = 10000000\n")
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.configure("[log]\nmax_bytes = 65536\nfiles = 3\n")
        assert "log.max_bytes" in product.run("reload", expect=0).out
        for number in range(4):  # tailscaled logs what it is told, but nothing more than five times in five seconds
            routes = ",".join(f"10.{10 * number + i // 200}.{i % 200}.0/24" for i in range(2000))
            product.run("tailscale", "set", f"--advertise-routes={routes}", expect=0)
        eventually(Path(f"{product.log}.1").exists)
        assert product.status()["daemon"]["pid"] == pid

    def test_names_what_needs_a_restart(self, product: Product) -> None:
        """`daemon.port` is named with `restart`, not applied; `restart` then applies it."""
        product.up()
        pid = product.status()["daemon"]["pid"]
        product.configure("[daemon]\nport = 41998\n")
        out = product.run("reload", expect=0).out
        assert "daemon.port" in out
        assert "restart" in out
        assert product.status()["daemon"]["pid"] == pid
        product.run("restart", expect=0)
        argv = next(process.argv for process in product.processes() if process.is_daemon)
        assert "--port=41998" in argv

    def test_applies_settings(self, product: Product) -> None:
        """A changed setting reaches the running node."""
        product.up()
        product.configure("[settings]\nshields_up = true\n")
        product.run("reload", expect=0)
        eventually(lambda: '"ShieldsUp": true' in product.run("tailscale", "debug", "prefs", expect=0).out)

    def test_refuses_mistakes_all_at_once(self, product: Product) -> None:
        """A wrong file: exit 2 with every error, the old configuration stays, everything runs on."""
        product.configure("[log]\nmax_bytes = 5000000\n")
        product.up()
        before = product.status()
        product.configure('[log]\nmax_bytes = "many"\n[daemon]\nmood = "good"\nport = 99999\n')
        done = product.run("reload", expect=2)
        for word in ("log.max_bytes", "mood", "daemon.port"):
            assert word in done.err
        assert len(done.err.strip().splitlines()) == 3
        after = product.status(expect=0)
        assert (after["daemon"]["pid"], after["ready"]) == (before["daemon"]["pid"], True)
        product.configure("[log]\nmax_bytes = 5000000\n")
        product.run("reload", expect=0)

    def test_by_signal(self, product: Product) -> None:
        """SIGHUP does the same; a mistake becomes a note in `status` and ends nothing."""
        product.up()
        pid = product.status()["supervisor"]["pid"]
        product.configure("[settings]\nshields_up = true\n")
        kill(pid, signal.SIGHUP)
        eventually(lambda: '"ShieldsUp": true' in product.run("tailscale", "debug", "prefs", expect=0).out)
        product.configure("[daemon]\nmood = 1\n")
        kill(pid, signal.SIGHUP)
        seen = product.eventually(lambda s: any("mood" in note["text"] for note in s["notes"]))
        assert (seen["ready"], seen["supervisor"]["pid"]) == (True, pid)


class TestSources:
    """Where configuration comes from."""

    def test_later_sources_win(self, make: Make) -> None:
        """User's file < home's file < environment < command line."""
        product = make(mode=None)
        user = product.user / ".config" / "tazpod-net"
        user.mkdir(parents=True)
        (user / "config.toml").write_text('[daemon]\nport = 41001\nmode = "tun"\n[proxy]\nsocks5 = "127.0.0.1:41101"\n')
        product.configure("[daemon]\nport = 41002\n")
        product.up("--mode", "userspace", env={"TAZPOD_NET_PROXY_HTTP": "127.0.0.1:41102"})
        seen = product.status(expect=0)
        argv = next(process.argv for process in product.processes() if process.is_daemon)
        assert "--port=41002" in argv
        assert seen["daemon"]["mode"] == "userspace"
        assert seen["proxy"] == {"socks5": "127.0.0.1:41101", "http": "127.0.0.1:41102"}

    def test_a_named_file_stands_instead_of_all(self, product: Product) -> None:
        """With `--config FILE` the home's file is not read."""
        product.configure("not = [even, toml")
        other = product.user / "other.toml"
        other.write_text("[daemon]\nport = 41003\n")
        product.up("--config", str(other))
        argv = next(process.argv for process in product.processes() if process.is_daemon)
        assert "--port=41003" in argv

    @pytest.mark.root
    def test_system_file(self, product: Product) -> None:
        """`/etc/tazpod-net/config.toml` is read first."""
        text = "mkdir -p /etc/tazpod-net; printf '[daemon]\\nport = 41004\\n' >/etc/tazpod-net/config.toml"
        product.place.run(["sh", "-c", text], check=True)
        product.up()
        argv = next(process.argv for process in product.processes() if process.is_daemon)
        assert "--port=41004" in argv

    @pytest.mark.root
    def test_home_of_a_live_root_supervisor_is_found(self, product: Product) -> None:
        """`/run/tazpod-net/home`: without `--home` and TAZPOD_NET_HOME other commands find the same home."""
        product.up()
        done = product.run("status", "--json", env={"TAZPOD_NET_HOME": None}, expect=0)
        assert f'"home": "{product.home}"' in done.out
        product.down(env={"TAZPOD_NET_HOME": None})
        assert product.daemons() == []
        assert product.run("status", env={"TAZPOD_NET_HOME": None}).code == 3

    def test_link_for_plain_tailscale(self, product: Product) -> None:
        """As root plain `tailscale` works while it runs; `down` takes the link away."""
        if not product.place.is_private:
            pytest.skip("needs a private /run")
        product.up()
        cli = [str(product.programs.tailscale), "ip", "-4"]
        assert product.place.run(cli).stdout.startswith("100.64.")
        product.down()
        link = "/var/run/tailscale/tailscaled.sock"
        assert product.place.run(["test", "-L", link]).returncode != 0
