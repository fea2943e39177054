"""Our block of tailnet names in a hosts file: written into its bytes, taken out again, never a byte of others changed.

The file is others': every line outside the block stays as it is, line ends included, and so does a line inside the
block that we cannot have written (somebody's hand: it moves out, before the block). The block stands at the end, where
a writer who writes in place has nothing of others to move. Its marks name the home: two homes, two blocks.

A block that was cut half way (a crash while it was written in place) is recognised by its lines: an address of the
tailnet's ranges, a tab, one or two names. Pure.
"""

import re
from collections.abc import Iterable

import msgspec

from tazpod_net.core.peers import Machine

BEGIN, END = b"# BEGIN tazpod-net ", b"# END tazpod-net "
_NEWLINE = b" +newline"  # on the first mark: the file had no newline at its end, the one before the mark is ours
_ABOUT = b": names of the tailnet, kept up to date; 'tazpod-net hosts --remove' takes them out"
_ADDRESS = rb"(?:100(?:\.\d{1,3}){3}|fd7a:115c:a1e0:[0-9a-f:]+)"  # Tailscale's ranges (net/tsaddr/tsaddr.go)
_OURS = re.compile(_ADDRESS + rb"\t[a-z0-9_.-]+(?: [a-z0-9_.-]+)?")
_CUT = re.compile(rb"(?:100\.|fd7a:115c:a1e0:)[0-9a-f.:]*(?:\t[a-z0-9_.-]*(?: [a-z0-9_.-]*)?)?")
_HEADS = (b"100.", b"fd7a:115c:a1e0:")
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(r"(?=.{1,253}\Z)(?!.*\.\d+\Z)(?!\d+\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
                   r"(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")  # fmt: skip
_RESERVED = frozenset(
    {
        *("localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4"),
        *("localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback", "ip6-localnet"),
        *("ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "broadcasthost", "_gateway"),
        *("host.docker.internal", "gateway.docker.internal", "kubernetes.docker.internal"),
        *("host.containers.internal", "wpad", "isatap"),
    }
)


class Refused(msgspec.Struct, frozen=True):
    """A name that does not go into the block, and why."""

    name: str
    why: str


class Plan(msgspec.Struct, frozen=True):
    """The lines of a block, without marks and line ends."""

    lines: tuple[bytes, ...] = ()
    refused: tuple[Refused, ...] = ()


def plan(known: Iterable[Machine], data: bytes, home: str, hostname: str) -> Plan:
    """Lines for these machines. Refused: what would shadow a name that the file, this machine or a rule has already.

    `data`: the hosts file. `hostname`: the container's own name. A name in the block of another home is no reason if
    it stands there for the same address: then both mean the same node.
    """
    taken, siblings = _names(data, home)
    for own in filter(None, (hostname.lower(), hostname.lower().partition(".")[0])):
        taken.setdefault(own, "is this container's own name")
    lines: list[bytes] = []
    refused: list[Refused] = []
    for machine in known:
        names = []
        for name in dict.fromkeys(filter(None, (machine.full, machine.short))):
            why = _why_not(name, machine, taken, siblings)
            if why is None:
                names.append(name)
                taken[name] = f"is the name of {machine.ips[0]} too"
            else:
                refused.append(Refused(name, why))
        addresses = [ip.encode() for ip in machine.ips if ip.isascii()] if names else []
        lines += [ip + b"\t" + " ".join(names).encode() for ip in addresses if re.fullmatch(_ADDRESS, ip)]
    return Plan(tuple(lines), tuple(refused))


def _why_not(name: str, machine: Machine, taken: dict[str, str], siblings: dict[str, set[str]]) -> str | None:
    if not _NAME.fullmatch(name):
        return "is not a valid host name"
    if name in _RESERVED or name.endswith(".localhost"):
        return "is reserved"
    if name in taken:
        return taken[name]
    if name in siblings and not siblings[name] & set(machine.ips):
        return "stands for another node in another home's block"
    return None if machine.ips else "has no address"


def _names(data: bytes, home: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Names outside the blocks, each with the reason; names in other homes' blocks with their addresses."""
    taken: dict[str, str] = {}
    siblings: dict[str, set[str]] = {}
    inside = False
    for line in outside(data, home).removeprefix(_BOM).split(b"\n"):
        if line.startswith((BEGIN, END)):
            inside = line.startswith(BEGIN)
        address, *names = line.partition(b"#")[0].decode("utf-8", "replace").lower().split() or [""]
        for name in (name.rstrip(".") for name in names):
            if inside and _OURS.fullmatch(line.rstrip(b"\r")):
                siblings.setdefault(name, set()).add(address)
            else:
                taken.setdefault(name, "stands elsewhere in the file")
    return taken, siblings


# --- the bytes --------------------------------------------------------------------------------------------------------


def with_block(data: bytes, home: str, lines: Iterable[bytes]) -> bytes:
    """`data` with exactly one block of this home, at the end. Without lines it is `data` without a block."""
    lines = list(lines)
    bare = outside(data, home)
    if not lines:
        return bare
    newline = _style(bare)
    is_cut = bare != b"" and not bare.endswith(b"\n")
    first, last = _marks(home)
    head = newline + first + _NEWLINE + _ABOUT if is_cut else first + _ABOUT
    return bare + newline.join([head, *lines, last, b""])


def block(home: str, lines: Iterable[bytes]) -> bytes:
    """The block alone, as a file of its own would have it."""
    return with_block(b"", home, lines)


def holds(data: bytes, home: str, lines: Iterable[bytes]) -> bool:
    """Whether the file has just this block already, wherever it stands: then there is nothing to write."""
    found = _walk(data, home)
    return found.whole == 1 and not found.odd and found.own == list(lines)


def has_block(data: bytes, home: str) -> bool:
    """Whether there is anything of this home in the file."""
    return outside(data, home) != data


def outside(data: bytes, home: str) -> bytes:
    """Everything that is not ours: `data` without blocks of this home and without what a cut one has left."""
    found = _walk(data, home)
    if found.added is not None and len(found.kept) == found.added[0] and found.kept:
        last = found.kept[-1]
        end = found.added[1] if last.endswith(found.added[1]) else b"\n"
        found.kept[-1] = last.removesuffix(end)
    return b"".join(found.kept)


class _Found:
    """What a walk through the file has seen."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []  # lines of others, with their ends
        self.own: list[bytes] = []  # lines of ours, without
        self.whole = 0  # blocks with both marks
        self.odd = False  # a cut block, or a foreign line within one
        self.added: tuple[int, bytes] | None = None  # how much was kept before a newline of ours, and its bytes


def _walk(data: bytes, home: str) -> _Found:
    first, last = _marks(home)
    *whole, rest = data.split(b"\n")
    lines = [line + b"\n" for line in whole] + ([rest] if rest else [])
    bare = [line.rstrip(b"\r\n") for line in lines]
    found = _Found()
    at = 0
    while at < len(lines):
        if _is_mark(bare[at], first):
            at = _block(found, lines, bare, at, first, last)
        elif bare[at] == last:  # the end of a block that lost its head
            found.odd = True
            while found.kept and _OURS.fullmatch(found.kept[-1].rstrip(b"\r\n")):
                found.kept.pop()
            at += 1
        elif at == len(lines) - 1 and _is_piece(bare[at], lines[at], first, last):
            found.odd = True
            at += 1
        else:
            found.kept.append(lines[at])
            at += 1
    return found


def _block(found: _Found, lines: list[bytes], bare: list[bytes], at: int, first: bytes, last: bytes) -> int:
    """Reads the block whose first mark stands at `at`; returns where it is over."""
    if bare[at].startswith(first + _NEWLINE):
        found.added = (len(found.kept), lines[at][len(bare[at]) :] or b"\n")
    end = next((n for n in range(at + 1, len(lines)) if bare[n] == last or _is_mark(bare[n], first)), None)
    if end is not None and bare[end] == last:
        found.whole += 1
        for line, text in zip(lines[at + 1 : end], bare[at + 1 : end], strict=True):
            if _OURS.fullmatch(text):
                found.own.append(text)
            else:
                found.odd = True
                found.kept.append(line)
        return end + 1
    found.odd = True
    at += 1
    while at < len(lines) and _OURS.fullmatch(bare[at]) and lines[at].endswith(b"\n"):
        at += 1
    if at == len(lines) - 1 and not lines[at].endswith(b"\n"):
        text = bare[at]
        is_cut = last.startswith(text) or _CUT.fullmatch(text) or any(head.startswith(text) for head in _HEADS)
        return at + 1 if is_cut else at
    return at


def _is_mark(text: bytes, first: bytes) -> bool:
    return text == first or text.startswith((first + b":", first + _NEWLINE))


def _is_piece(text: bytes, line: bytes, first: bytes, last: bytes) -> bool:
    """Whether the last line of the file is a mark of ours that was cut."""
    if line.endswith(b"\n"):
        return False
    least = len(BEGIN) if text.startswith(BEGIN) else len(END)
    marks = (first + _ABOUT, first + _NEWLINE + _ABOUT, last)
    return len(text) > least and any(mark.startswith(text) for mark in marks)


def _marks(home: str) -> tuple[bytes, bytes]:
    """First and last mark. The home is one word of ASCII, whatever its path has in it."""
    raw = home.encode("utf-8", "surrogateescape")
    word = b"".join(bytes([c]) if c > 0x20 and c < 0x7F and c not in b"%:" else b"%%%02X" % c for c in raw)  # noqa: PLR2004
    return BEGIN + word, END + word


def _style(data: bytes) -> bytes:
    """The line end that most lines of the file have."""
    return b"\r\n" if data.count(b"\r\n") * 2 > data.count(b"\n") else b"\n"
