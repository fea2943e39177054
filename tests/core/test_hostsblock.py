"""Our block in a hosts file: every byte of others' stays."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tazpod_net.core import hostsblock
from tazpod_net.core.hostsblock import block, has_block, holds, outside, plan, with_block
from tazpod_net.core.peers import Machine

HOME = "/workspace/.tazpod/net"
OTHER = "/home/a b/net"
LINES = [b"100.64.0.2\tvault.example.ts.net vault", b"fd7a:115c:a1e0::2\tvault.example.ts.net vault"]
PLAIN = b"127.0.0.1\tlocalhost\n172.17.0.2\tbox\n"

addresses = st.sampled_from([b"127.0.0.1", b"100.64.0.2", b"fd7a:115c:a1e0::2", b"::1", b"10.0.0.5"])
names = st.text(st.sampled_from("abz09-._"), min_size=1, max_size=8).map(str.encode)
entries = st.tuples(addresses, st.sampled_from([b"\t", b" ", b"  "]), names, st.sampled_from([b"", b" # a", b" x"]))
texts = st.one_of(
    entries.map(b"".join),
    st.binary(max_size=20).filter(lambda data: b"\n" not in data),
    st.sampled_from([b"", b"#", b"\r", b"# END", b"# BEGIN", b"# BEGIN tazpod-net", b"100.64", b"\xef\xbb\xbf# x"]),
    st.sampled_from([b"# BEGIN tazpod-net /else", b"# END tazpod-net /else", block(OTHER, LINES).rstrip(b"\n")]),
)
ends = st.sampled_from([b"\n", b"\r\n"])
whole_files = st.lists(st.tuples(texts, ends).map(b"".join), max_size=8).map(b"".join)
files = st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), whole_files, texts).map(b"".join)
own_lines = st.lists(
    st.tuples(st.sampled_from([b"100.64.0.2", b"100.127.9.9", b"fd7a:115c:a1e0::ab:2"]), names, st.booleans()).map(
        lambda row: row[0] + b"\t" + row[1] + (b" short" if row[2] else b"")
    ),
    min_size=1,
    max_size=5,
)


@given(files, own_lines)
def test_taking_out_what_was_put_in_gives_back_every_byte(data: bytes, lines: list[bytes]) -> None:
    """Whatever the file: no newline at its end, CRLF, a BOM, binary, others' blocks."""
    assume(not has_block(data, HOME))
    assert outside(with_block(data, HOME, lines), HOME) == data


@given(files, own_lines, own_lines)
def test_twice_is_once(data: bytes, before: list[bytes], lines: list[bytes]) -> None:
    """Also over an older block: one block, the new one, and the file that is asked for."""
    assume(not has_block(data, HOME))
    once = with_block(data, HOME, lines)
    assert with_block(once, HOME, lines) == once
    assert with_block(with_block(data, HOME, before), HOME, lines) == once
    assert holds(once, HOME, lines)
    assert not holds(data, HOME, lines)


@given(whole_files, files, own_lines, own_lines)
def test_what_stands_around_the_block_stays(before: bytes, after: bytes, old: list[bytes], new: list[bytes]) -> None:
    """A block in the middle of others' lines: they stay, in their order."""
    assume(not has_block(before, HOME) and not has_block(after, HOME) and not has_block(before + after, HOME))
    data = before + block(HOME, old) + after
    assert outside(data, HOME) == before + after
    assert outside(with_block(data, HOME, new), HOME) == before + after
    assert holds(data, HOME, old)


@given(files, own_lines, st.integers(0))
def test_a_cut_block_is_taken_out_whole(data: bytes, lines: list[bytes], at: int) -> None:
    """A crash while the block was written at the end: of what was written of it nothing stays, of the file everything.

    A piece so short that it could be anybody's comment stays, and a newline.
    """
    assume(not has_block(data, HOME))
    new = with_block(data, HOME, lines)
    written = new[len(data) :]
    kept = at % (len(written) + 1)
    left = outside(data + written[:kept], HOME)
    assert left.startswith(data)
    assert left[len(data) :].lstrip(b"\r\n") in {b"", written[:kept].lstrip(b"\r\n")[: len(hostsblock.BEGIN)]}
    assert outside(with_block(data + written[:kept], HOME, lines), HOME).startswith(data)


@given(files, st.sampled_from([HOME, OTHER, "/\udcff:%\n"]), own_lines, own_lines)
def test_two_homes_have_two_blocks(data: bytes, home: str, lines: list[bytes], others: list[bytes]) -> None:
    """What one does, the other's block does not feel."""
    assume(home != "/second" and not has_block(data, home) and not has_block(data, "/second"))
    both = with_block(with_block(data, "/second", others), home, lines)
    assert holds(both, "/second", others)
    assert holds(both, home, lines)
    assert holds(with_block(both, home, []), "/second", others)


@given(st.lists(st.tuples(names, st.booleans()), max_size=6), files)
def test_whatever_the_names_the_lines_are_lines(rows: list[tuple[bytes, bool]], data: bytes) -> None:
    """Nothing that a control server says can be more than an address and its names; and our own lines are known."""
    known = [
        Machine(
            short=name.decode("latin-1"),
            full=name.decode("latin-1") + (".x\n# y" if odd else ".x"),
            ips=("100.64.0.2",),
        )
        for name, odd in rows
    ]
    lines = plan(known, data, HOME, "box").lines
    assert all(len(line.split()) in {2, 3} and b"#" not in line for line in lines)
    assert not lines or holds(with_block(b"", HOME, lines), HOME, lines)


def test_the_form() -> None:
    """What people see in the file."""
    assert with_block(PLAIN, HOME, LINES) == PLAIN + (
        b"# BEGIN tazpod-net /workspace/.tazpod/net: names of the tailnet, kept up to date; "
        b"'tazpod-net hosts --remove' takes them out\n"
        b"100.64.0.2\tvault.example.ts.net vault\n"
        b"fd7a:115c:a1e0::2\tvault.example.ts.net vault\n"
        b"# END tazpod-net /workspace/.tazpod/net\n"
    )


def test_lines_end_as_those_of_the_file() -> None:
    """A file of CRLF stays one, also when an editor has changed the ends since."""
    windows = PLAIN.replace(b"\n", b"\r\n")
    new = with_block(windows, HOME, LINES)
    assert new.count(b"\n") == new.count(b"\r\n")
    assert outside(new, HOME) == windows
    assert outside(new.replace(b"\r\n", b"\n"), HOME) == PLAIN
    assert outside(with_block(PLAIN, HOME, LINES).replace(b"\n", b"\r\n"), HOME) == windows


def test_a_line_that_somebody_wrote_into_the_block_moves_out() -> None:
    """It is theirs: it stays in the file, and the name that it has is not ours any more."""
    data = with_block(PLAIN, HOME, LINES)
    theirs = b"100.64.0.2 vault # by hand\n"
    edited = data.replace(LINES[1] + b"\n", theirs + LINES[1] + b"\n")
    assert outside(edited, HOME) == PLAIN + theirs
    assert not holds(edited, HOME, LINES)
    again = plan([Machine("vault", "vault.example.ts.net", ("100.64.0.2",))], edited, HOME, "box")
    assert again.lines == (b"100.64.0.2\tvault.example.ts.net",)


def test_a_line_appended_after_a_file_without_a_last_newline() -> None:
    """The newline that came with the block stays when somebody has built upon it."""
    data = with_block(b"127.0.0.1 localhost", HOME, LINES) + b"10.0.0.5 db\n"
    assert outside(data, HOME) == b"127.0.0.1 localhost\n10.0.0.5 db\n"


def test_two_blocks_of_one_home_become_one() -> None:
    """As after `hosts | tee -a` by hand."""
    data = PLAIN + block(HOME, LINES) + b"10.0.0.5 db\n" + block(HOME, LINES[:1])
    assert not holds(data, HOME, LINES)
    assert with_block(data, HOME, LINES) == PLAIN + b"10.0.0.5 db\n" + block(HOME, LINES)


def test_the_tail_of_a_block_that_lost_its_head() -> None:
    """Lines of ours before a last mark of ours go with it."""
    assert outside(PLAIN + LINES[0] + b"\n# END tazpod-net " + HOME.encode() + b"\nx\n", HOME) == PLAIN + b"x\n"


VAULT = Machine("vault", "vault.example.ts.net", ("100.64.0.2", "fd7a:115c:a1e0::2"))


@pytest.mark.parametrize(
    ("machine", "data", "lines", "refused"),
    [
        (VAULT, PLAIN, LINES, {}),
        (Machine("localhost", "localhost.example.ts.net", ("100.64.0.3",)), b"",
         [b"100.64.0.3\tlocalhost.example.ts.net"], {"localhost": "is reserved"}),
        (Machine("ip6-localhost", "", ("100.64.0.3",)), b"", [], {"ip6-localhost": "is reserved"}),
        (Machine("box", "box.example.ts.net", ("100.64.0.3",)), b"",
         [b"100.64.0.3\tbox.example.ts.net"], {"box": "is this container's own name"}),
        (VAULT, PLAIN + b"10.0.0.7 VAULT.\r\n", [line.removesuffix(b" vault") for line in LINES],
         {"vault": "stands elsewhere in the file"}),
        (VAULT, PLAIN + b"# 10.0.0.7 vault\n", LINES, {}),
        (VAULT, b"\xef\xbb\xbf10.0.0.7 vault", [line.removesuffix(b" vault") for line in LINES],
         {"vault": "stands elsewhere in the file"}),
        (VAULT, block(OTHER, LINES), LINES, {}),
        (VAULT, block(OTHER, [b"100.64.9.9\tvault"]), [line.removesuffix(b" vault") for line in LINES],
         {"vault": "stands for another node in another home's block"}),
        (VAULT, block(HOME, [b"100.64.9.9\tvault"]), LINES, {}),
        (Machine("123", "a b", ("100.64.0.3",)), b"", [],
         {"a b": "is not a valid host name", "123": "is not a valid host name"}),
        (Machine("late", "late.example.ts.net", ()), b"", [],
         {"late.example.ts.net": "has no address", "late": "has no address"}),
        (Machine("odd", "", ("100.64.0.3\n10.0.0.1 x", "8.8.8.8")), b"", [], {}),
    ],
)  # fmt: skip
def test_names_that_are_refused(machine: Machine, data: bytes, lines: list[bytes], refused: dict[str, str]) -> None:
    """Reserved, this container's own, standing outside, not valid: each said, and the other name of the node stays."""
    made = plan([machine], data, HOME, "box")
    assert list(made.lines) == lines
    assert {each.name: each.why for each in made.refused} == refused


def test_two_nodes_of_one_name() -> None:
    """The first has it; a shared node has only its full name anyway."""
    made = plan([VAULT, Machine("vault", "", ("100.64.0.9",))], b"", HOME, "box")
    assert list(made.lines) == LINES
    assert [(each.name, each.why) for each in made.refused] == [("vault", "is the name of 100.64.0.2 too")]


def test_five_thousand_peers() -> None:
    """A big tailnet: all of them, and back."""
    known = [
        Machine(f"node-{n}", f"node-{n}.example.ts.net", (f"100.64.{n >> 8}.{n & 255}", f"fd7a:115c:a1e0::{n:x}"))
        for n in range(5000)
    ]
    made = plan(known, PLAIN, HOME, "box")
    data = with_block(PLAIN, HOME, made.lines)
    assert (len(made.lines), made.refused, data.count(b"\n")) == (10_000, (), 10_004)
    assert outside(data, HOME) == PLAIN
