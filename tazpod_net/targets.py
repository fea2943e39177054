"""Tries what a person waits for out there: a peer, a TCP port, a name; each through the data path of this mode.

TUN: the kernel's own connect and the system's resolver, as every program has them. Userspace: the daemon dials, as its
proxies do, and a name counts if the daemon, or the system (the block in /etc/hosts), can resolve it. Nothing is tried
before the node is ready, and nothing goes on here while nobody waits.
"""

import asyncio
import os
from collections.abc import Callable, Sequence

from tazpod_net.core import peers
from tazpod_net.core.conditions import Condition, is_address
from tazpod_net.core.peers import Machine
from tazpod_net.core.timefmt import seconds as show
from tazpod_net.errors import TazpodNetError
from tazpod_net.ports import Network, Tailnet

PATIENCE = 5.0  # seconds for one try, at most
_WORDS = ("dial failure: ", "resolve failure: ")
_AT_ONCE = 4  # peers of one tag that are tried together


class Targets:
    """`mode`: of the present daemon. `known`: machines of the last snapshot. `patience`: seconds for one try."""

    def __init__(
        self,
        tailnet: Tailnet,
        network: Network,
        *,
        mode: Callable[[], str | None],
        known: Callable[[], tuple[Machine, ...]],
    ) -> None:
        self.tailnet = tailnet
        self.network = network
        self.mode = mode
        self.known = known
        self.patience = PATIENCE

    async def misses(self, wanted: Sequence[Condition]) -> dict[str, str]:
        """Tries all at once; those that do not hold, each with the reason."""
        reasons = await asyncio.gather(*(self._why_not(condition) for condition in wanted))
        return {str(c): why for c, why in zip(wanted, reasons, strict=True) if why is not None}

    async def _why_not(self, condition: Condition) -> str | None:
        tries = {"peer": self._peer, "tcp": self._tcp, "name": self._name}
        try:
            async with asyncio.timeout(self.patience * 2):  # a look-up, then a connection
                return await tries[condition.kind](condition)
        except TimeoutError:
            return f"no answer within {show(self.patience)}"
        except (OSError, TazpodNetError) as e:
            return self._reason(e)

    # --- peers ----------------------------------------------------------------------------------------------------

    async def _peer(self, condition: Condition) -> str | None:
        found = peers.find(self.known(), condition.what)
        if not found:
            return "no node has this tag" if condition.what.startswith(peers.TAG) else "no such peer in the tailnet"
        if any(machine.own for machine in found):
            return None  # this node itself, which is ready
        online = [machine for machine in found if machine.online and machine.ips]
        if not online:
            return "is offline" if len(found) == 1 else f"all {len(found)} are offline"
        answers = await asyncio.gather(*(self._ping(machine) for machine in online[:_AT_ONCE]))
        return None if None in answers else answers[0]

    async def _ping(self, machine: Machine) -> str | None:
        try:
            return await self.tailnet.ping(machine.ips[0], self.patience)
        except TimeoutError:
            return "is online and does not answer a ping"
        except (OSError, TazpodNetError) as e:
            return self._reason(e)

    # --- connections ----------------------------------------------------------------------------------------------

    async def _tcp(self, condition: Condition) -> str | None:
        if self.mode() != "tun":
            outside = await self.tailnet.dial(condition.what, condition.port, self.patience)
            if outside is None:
                return None
            host = outside.rpartition(":")[0].strip("[]")
            return await self._connect([host], condition.port)
        if is_address(condition.what):
            return await self._connect([condition.what], condition.port)
        return await self._connect(await self.network.lookup(condition.what, self.patience), condition.port)

    async def _connect(self, addresses: list[str], port: int) -> str | None:
        """All addresses at once; None if one of them takes the connection."""
        tries = (self.network.connect(address, port, self.patience) for address in dict.fromkeys(addresses))
        ends = await asyncio.gather(*tries, return_exceptions=True)
        if None in ends:
            return None
        reasons = [self._reason(end) for end in ends if isinstance(end, Exception)]
        return reasons[0] if reasons else "no address"

    # --- names ----------------------------------------------------------------------------------------------------

    async def _name(self, condition: Condition) -> str | None:
        if self.mode() != "tun" and await self._daemon_knows(condition.what):
            return None
        try:
            await self.network.lookup(condition.what, self.patience)
        except TimeoutError:
            return f"the resolver does not answer within {show(self.patience)}"
        except OSError as e:
            return f"does not resolve ({self._reason(e)})"
        return None

    async def _daemon_knows(self, name: str) -> bool:
        if any(name in {machine.short, machine.full} for machine in self.known()):
            return True
        try:
            return await self.tailnet.resolves(name, self.patience)
        except (OSError, TazpodNetError):
            return False

    def _reason(self, error: Exception) -> str:
        """In a few words: LocalAPI's text without its head, the kernel's without number and address."""
        if isinstance(error, TimeoutError):
            return f"no answer within {show(self.patience)}"
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        for word in _WORDS:
            text = text.removeprefix(word)
        text = " ".join(text.split())
        return text[:1].lower() + text[1:] if text else type(error).__name__
