"""What can happen. Every event carries `at`, monotonic seconds, read once by whoever reports it."""

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""

    at: float


class WantUp(Event, frozen=True):
    """Somebody wants the daemon: start it now, also out of backoff and fatal."""


class WantDown(Event, frozen=True):
    """Somebody wants it to end, in order."""


class Unwanted(Event, frozen=True):
    """It is to end soon (a farewell comes first): should it end by itself meanwhile, that was it."""


class WantRestart(Event, frozen=True):
    """Stop it in order and start it again at once."""


class Cured(Event, frozen=True):
    """What made it fatal has changed (binary, device, configuration)."""


class Spawned(Event, frozen=True):
    """The process exists."""

    pid: int


class SpawnFailed(Event, frozen=True):
    """It could not be started at all. `permanent`: time does not cure it. `jitter` is in [0, 1)."""

    reason: str
    permanent: bool = False
    jitter: float = 0.5
    fix: str = ""  # what a person can do about it


class Adopted(Event, frozen=True):
    """A daemon of an earlier supervisor was found and is watched."""

    pid: int
    started: float


class BecameLive(Event, frozen=True):
    """LocalAPI of this daemon answered for the first time."""

    pid: int


class Exited(Event, frozen=True):
    """The daemon ended. `tun_failed`: it was in TUN mode and its log says that TUN is the cause."""

    pid: int
    reason: str = ""
    tun_failed: bool = False
    permanent: bool = False
    jitter: float = 0.5
    fix: str = ""


class Tick(Event, frozen=True):
    """Time passed; only a deadline in the past means something."""


AnyEvent = (
    WantUp | WantDown | Unwanted | WantRestart | Cured | Spawned | SpawnFailed | Adopted | BecameLive | Exited | Tick
)
