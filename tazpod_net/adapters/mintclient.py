"""The supervisor's side of minting: hands the request to a short-lived child and reads its answer.

Owns what the child may see of the environment: nothing that could be a secret. Imports `oneshot`, which runs children:
the one exception from "adapters do not import each other". Must not speak HTTP.
"""

from collections.abc import Mapping

import msgspec

from tazpod_net.adapters import oneshot
from tazpod_net.core.minting import Answer, Minted, Refused, Request, broken

_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",  # an interpreter outside of the system's places may need it to start
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONUSERBASE",
        "PYTHONNOUSERSITE",
        "PYTHONPYCACHEPREFIX",
        "PYTHONDONTWRITEBYTECODE",
    }
    | {name for proxy in ("http_proxy", "https_proxy", "no_proxy") for name in (proxy, proxy.upper())}
)
_START_S = 3.0  # for the child to start and import, on a busy machine: 0.3 s measured on an idle one


async def mint(request: Request, env: Mapping[str, str], timeout: float) -> Answer:  # noqa: ASYNC109
    """One key, or why not; never raises for what the child or the network does. Takes at most `timeout` seconds.

    `env`: the supervisor's; proxies, SSL_CERT_FILE and what Python needs are taken from it. The child's own budget ends
    before ours, so that it is the one to say what was slow.
    """
    budget = max(1.0, min(request.timeout_s, timeout - _START_S))
    question = msgspec.json.encode(msgspec.structs.replace(request, timeout_s=budget))
    # -P: the working directory is not a place to import from.
    argv = [oneshot.python(), "-P", "-m", "tazpod_net.adapters.minting"]
    try:
        said = await oneshot.ask(argv, child_environment(env), question, timeout)
    except TimeoutError:
        return broken(f"no answer within {timeout:g} s")
    except OSError as e:
        return broken(f"it cannot be started: errno {e.errno}")
    return _decode(said)


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The part of `env` that the child gets."""
    return {name: value for name, value in env.items() if name in _NAMES}


def _decode(said: bytes) -> Answer:
    try:
        return msgspec.json.decode(said, type=Minted | Refused)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return broken("it ended without an answer")
