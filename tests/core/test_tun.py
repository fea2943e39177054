"""Verdicts, sentences and fixes about TUN, and the mode that follows from them."""

import errno
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tazpod_net.core.tun import (
    Address,
    Facts,
    Full,
    Holder,
    Node,
    Step,
    Verdict,
    choose_mode,
    findings,
    fingerprint,
    foreign_sentence,
    judge,
    with_full,
)

NODE = Node(kind="char", major=10, minor=200, mode=0o666)
# A container in which everything is as it should be.
GOOD = Facts(
    node=NODE,
    cap_net_admin=True,
    cap_net_admin_bounding=True,
    cap_dac_override=True,
    in_initial_userns=True,
    netns=4026532177,
    userns=4026531837,
    boot_id="b",
)
STEPS = tuple(Step(name) for name in ("socket", "rule", "device", "address", "up"))
ON_TAILSCALE0 = Address("tailscale0", "100.64.0.9")
FOREIGN = "another tailscaled owns this network namespace (tailscale0, 100.64.0.9)"


def but(facts: Facts = GOOD, **changes: object) -> Facts:
    """The facts with some fields replaced."""
    return msgspec.structs.replace(facts, **changes)


def failing(name: str, code: int) -> Full:
    """A full probe in which this step failed and those before it worked."""
    names = [step.name for step in STEPS]
    before = STEPS[: names.index(name)]  # type: ignore[arg-type]
    return Full(steps=(*before, Step(name, code)))  # type: ignore[arg-type]


NO_CAP = but(cap_net_admin=False, tunsetiff_errno=errno.EPERM)
LOAD_FIRST = (
    "load the host's tun module (modprobe tun), then start the container with --device /dev/net/tun instead of -v"
)
HARMLESS = "2 ip rules (5210-5270) and 3 routes in table 52 of an earlier tailscaled: harmless without its interface"
CASES: list[tuple[str, Facts, str, str, str]] = [
    (
        "missing node",
        but(node=None, stat_errno=errno.ENOENT),
        "no-device",
        "/dev/net/tun is missing",
        "start the container with --device /dev/net/tun",
    ),
    (
        "missing node and no NET_ADMIN to be had: both flags at once",
        but(node=None, stat_errno=errno.ENOENT, cap_net_admin=False, cap_net_admin_bounding=False),
        "no-device",
        "/dev/net/tun is missing",
        "start the container with --device /dev/net/tun --cap-add NET_ADMIN",
    ),
    (
        "node gone between stat and open",
        but(open_errno=errno.ENOENT),
        "no-device",
        "/dev/net/tun is missing",
        "start the container with --device /dev/net/tun",
    ),
    (
        "/dev/net not searchable",
        but(node=None, stat_errno=errno.EACCES, uid=1000),
        "device-mode",
        "/dev/net/tun may not be reached by uid 1000",
        "run it as root (sudo), or give the host's node mode 0666 (chmod 0666 /dev/net/tun on the host)",
    ),
    (
        "directory made by -v",
        but(node=Node(kind="directory")),
        "not-a-device",
        "/dev/net/tun is a directory, not a TUN device",
        LOAD_FIRST,
    ),
    (
        "regular file",
        but(node=Node(kind="other")),
        "not-a-device",
        "/dev/net/tun is not a TUN device",
        "remove it and start the container with --device /dev/net/tun",
    ),
    (
        "another character device",
        but(tunsetiff_errno=errno.ENOTTY),
        "not-a-device",
        "/dev/net/tun is not a TUN device",
        "remove it and start the container with --device /dev/net/tun",
    ),
    *(
        (
            f"no driver ({errno.errorcode[code]})",
            but(open_errno=code),
            "no-driver",
            "/dev/net/tun has no driver behind it",
            "load it on the host: modprobe tun",
        )
        for code in (errno.ENODEV, errno.ENXIO)
    ),
    (
        "device cgroup",
        but(open_errno=errno.EPERM),
        "device-cgroup",
        "/dev/net/tun may not be opened (device cgroup)",
        "start the container with --device /dev/net/tun",
    ),
    (
        "plain user, node 0600",
        but(open_errno=errno.EACCES, uid=1000, cap_dac_override=False, node=Node(kind="char", mode=0o600)),
        "device-mode",
        "/dev/net/tun may not be opened by uid 1000 (mode 0600, owner 0)",
        "run it as root (sudo), or give the host's node mode 0666 (chmod 0666 /dev/net/tun on the host)",
    ),
    (
        "root of a user namespace that does not map the node's owner",
        but(
            open_errno=errno.EACCES,
            in_initial_userns=False,
            node=Node(kind="char", mode=0o600, uid=65534, gid=65534),
        ),
        "device-mode",
        "/dev/net/tun may not be opened by uid 0 (mode 0600, owner 65534)",
        "give the host's node mode 0666 (chmod 0666 /dev/net/tun on the host)",
    ),
    (
        "mount option nodev",
        but(open_errno=errno.EACCES, node=Node(kind="char", mode=0o666, nodev=True)),
        "device-nodev",
        "/dev/net/tun may not be opened (its mount has the option nodev)",
        "start the container with --device /dev/net/tun instead of a bind mount",
    ),
    (
        "node on a filesystem of a user namespace",
        but(open_errno=errno.EACCES, in_initial_userns=False),
        "device-nodev",
        "/dev/net/tun may not be opened (made inside a user namespace)",
        "bind-mount the host's node instead of making one in the container",
    ),
    (
        "security module at open",
        but(open_errno=errno.EACCES),
        "security",
        "/dev/net/tun may not be opened (a security module or seccomp forbids it)",
        "start the container with --security-opt label=disable (SELinux) or apparmor=unconfined (AppArmor)",
    ),
    (
        "open fails in a way that nobody foresaw",
        but(open_errno=errno.EMFILE),
        "refused",
        "/dev/net/tun cannot be opened (too many open files)",
        'set daemon.mode = "userspace"',
    ),
    (
        "root without NET_ADMIN",
        but(NO_CAP, cap_net_admin_bounding=False),
        "no-net-admin",
        "a TUN device may not be made (no CAP_NET_ADMIN)",
        "start the container with --cap-add NET_ADMIN",
    ),
    (
        "plain user where root would have NET_ADMIN",
        but(NO_CAP, uid=1000),
        "no-net-admin",
        "a TUN device may not be made (no CAP_NET_ADMIN)",
        "run it as root (sudo)",
    ),
    (
        "plain user where root would not have it either",
        but(NO_CAP, uid=1000, cap_net_admin_bounding=False),
        "no-net-admin",
        "a TUN device may not be made (no CAP_NET_ADMIN)",
        "start the container with --cap-add NET_ADMIN",
    ),
    (
        "a kernel that grants what the capability forbids is not believed",
        but(cap_net_admin=False, cap_net_admin_bounding=False),
        "no-net-admin",
        "a TUN device may not be made (no CAP_NET_ADMIN)",
        "start the container with --cap-add NET_ADMIN",
    ),
    (
        "foreign user namespace",
        but(tunsetiff_errno=errno.EPERM, in_initial_userns=False),
        "user-namespace",
        "a TUN device may not be made (the network namespace belongs to another user namespace)",
        "give the container a network of its own, or no user namespace (--userns=host)",
    ),
    *(
        (
            f"security module at TUNSETIFF ({errno.errorcode[code]})",
            but(tunsetiff_errno=code),
            "security",
            "a TUN device may not be made (a security module or seccomp forbids it)",
            "start the container with --security-opt label=disable (SELinux) or apparmor=unconfined (AppArmor)",
        )
        for code in (errno.EPERM, errno.EACCES)
    ),
    (
        "TUNSETIFF fails in a way that nobody foresaw",
        but(tunsetiff_errno=errno.ENOMEM),
        "refused",
        "the kernel makes no TUN device (cannot allocate memory)",
        'set daemon.mode = "userspace"',
    ),
    (
        "name taken by a bridge",
        but(name_state="not-tun"),
        "busy",
        "the name tailscale0 is taken by another kind of device",
        "set daemon.interface to a free name",
    ),
    (
        "name held by a program that is no tailscaled",
        but(name_state="held", interface="tun0"),
        "busy",
        "another program holds tun0 (device or resource busy)",
        'stop it, set daemon.interface to a free name, or set daemon.mode = "userspace"',
    ),
    (
        "its holder known",
        but(name_state="held", interface="tun0", full=Full(holder=Holder(77, "openvpn"))),
        "busy",
        "openvpn (pid 77) holds tun0 (device or resource busy)",
        'stop it, set daemon.interface to a free name, or set daemon.mode = "userspace"',
    ),
    (
        "a tailscaled under another name",
        but(addresses=(Address("tailscale1", "100.64.0.9"),)),
        "foreign",
        "another tailscaled owns this network namespace (tailscale1, 100.64.0.9)",
        "use that one, or '--mode userspace'",
    ),
    (
        "no netlink socket",
        but(full=failing("socket", errno.EPERM)),
        "no-netlink",
        "a TUN device can be made, but not configured (netlink socket: operation not permitted)",
        "allow AF_NETLINK sockets (seccomp profile, RestrictAddressFamilies=)",
    ),
    (
        "netlink may not write",
        but(full=failing("rule", errno.EPERM)),
        "no-netlink",
        "a TUN device can be made, but not configured (netlink rule: operation not permitted)",
        "allow AF_NETLINK sockets (seccomp profile, RestrictAddressFamilies=)",
    ),
    (
        "the real device refused although the quick probe said yes",
        but(full=failing("device", errno.EINVAL)),
        "refused",
        "the kernel makes no TUN device (invalid argument)",
        'set daemon.mode = "userspace"',
    ),
]


@pytest.mark.parametrize(
    ("facts", "cause", "text", "fix"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_cause_is_named_with_its_fix(facts: Facts, cause: str, text: str, fix: str) -> None:
    """A trouble has one code, one sentence, and the flag that fixes it."""
    verdict = judge(facts)
    assert (verdict.cause, verdict.text, verdict.fix) == (cause, text, fix)
    assert not verdict.possible


@pytest.mark.parametrize(
    "facts",
    [
        GOOD,
        but(cap_net_admin=None, cap_net_admin_bounding=None, cap_dac_override=None, in_initial_userns=None),
        but(name_state="left-over"),
        but(name_state="ours", addresses=(ON_TAILSCALE0,)),
        but(full=Full(steps=STEPS)),
        but(full=failing("device", errno.EOPNOTSUPP)),
        but(full=failing("device", errno.EBUSY)),
        but(full=failing("rule", errno.EOPNOTSUPP)),
        but(full=failing("address", errno.ENODEV)),
        but(full=failing("up", errno.ENODEV)),
        but(in_initial_userns=False),
    ],
    ids=[
        "everything there",
        "no /proc",
        "left-over device",
        "our own device",
        "full probe agrees",
        "pyroute2 does not know the machine",
        "scratch name taken",
        "no policy routing",
        "scratch device gone before its address",
        "scratch device gone before it was up",
        "own user and network namespace",
    ],
)
def test_what_proves_nothing_against_tun_leaves_the_yes(facts: Facts) -> None:
    """Only a real obstacle makes the verdict a no."""
    assert judge(facts) == Verdict(possible=True, cause="ok", text="TUN works here")


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (but(name_state="held", addresses=(ON_TAILSCALE0,)), FOREIGN),
        (
            but(
                addresses=(
                    Address("tailscale1", "100.64.0.7"),
                    Address("tailscale0", "fd7a:115c:a1e0::9"),
                    ON_TAILSCALE0,
                )
            ),
            FOREIGN,
        ),
        (but(name_state="held"), "another tailscaled owns this network namespace (tailscale0)"),
        (
            but(name_state="held", interface="vpn", full=Full(holder=Holder(77, "tailscaled"))),
            "another tailscaled owns this network namespace (vpn)",
        ),
        (but(name_state="held", full=Full(holder=Holder(77, "openvpn"))), None),
        (but(name_state="held", interface="tun0"), None),
        (but(name_state="left-over", addresses=(ON_TAILSCALE0,)), None),
        (but(name_state="ours", addresses=(ON_TAILSCALE0,)), None),
        (but(addresses=(Address("tailscale1", "100.64.0.9", idle=True),)), None),
        (but(addresses=(Address("eth0", "100.64.0.9", tunnel=False),)), None),
        (
            but(
                addresses=(Address("tailscale1", "100.64.0.1"), Address("tailscale1", "fd7a:115c:a1e0::1")),
                own_addresses=("100.64.0.1",),
            ),
            None,
        ),
    ],
    ids=[
        "held, with an address",
        "wanted interface and IPv4 first",
        "held, not logged in",
        "holder is a tailscaled under another name",
        "holder is none",
        "held under a name of its own",
        "left-over device with its old address",
        "our own living daemon",
        "nobody has the tunnel open",
        "CGNAT address of an Ethernet",
        "one of our two addresses known",
    ],
)
def test_another_tailscaled_is_told_from_look_alikes(facts: Facts, sentence: str | None) -> None:
    """A living tunnel with a tailnet address not ours is a foreign tailscaled; left-overs and CGNAT are not."""
    assert foreign_sentence(facts) == sentence
    assert judge(facts).foreign == sentence


def test_addresses_of_the_foreign_one_are_listed() -> None:
    """`foreign_addresses` leaves out our own and those that are no tailnet's."""
    facts = but(
        addresses=(ON_TAILSCALE0, Address("tailscale1", "100.64.0.1"), Address("eth0", "100.70.0.1", tunnel=False)),
        own_addresses=("100.64.0.1",),
    )
    assert facts.foreign_addresses == ("100.64.0.9",)
    assert not facts.interface_present
    assert but(name_state="held").interface_present


NO_DEVICE = judge(but(node=None, stat_errno=errno.ENOENT))
HELD = judge(but(name_state="held", addresses=(ON_TAILSCALE0,)))
HOST_NETWORK_WITHOUT_DEVICE = judge(but(node=None, stat_errno=errno.ENOENT, addresses=(ON_TAILSCALE0,)))
ADD_SECOND = "programs here use it already; '--mode userspace' adds a second node"


@pytest.mark.parametrize(
    ("configured", "verdict", "mode", "reason", "fix"),
    [
        ("auto", judge(GOOD), "tun", "TUN works here", ""),
        ("tun", judge(GOOD), "tun", "TUN works here", ""),
        ("auto", NO_DEVICE, "userspace", NO_DEVICE.text, NO_DEVICE.fix),
        ("userspace", judge(GOOD), "userspace", 'daemon.mode is "userspace"', ""),
        ("userspace", HELD, "userspace", 'daemon.mode is "userspace"', ""),
    ],
)
def test_mode_follows_configuration_and_verdict(
    configured: str, verdict: Verdict, mode: str, reason: str, fix: str
) -> None:
    """`auto` falls back and keeps the reason; `userspace` asks nobody."""
    choice = choose_mode(configured, verdict)  # type: ignore[arg-type]
    assert (choice.mode, choice.reason, choice.fix, choice.refused) == (mode, reason, fix, None)


@pytest.mark.parametrize("configured", ["auto", "tun"])
@pytest.mark.parametrize("verdict", [HELD, HOST_NETWORK_WITHOUT_DEVICE], ids=["device", "no device"])
def test_a_foreign_tailscaled_is_refused_in_auto_and_tun(configured: str, verdict: Verdict) -> None:
    """Beside another tailscaled nothing starts by itself, whether or not TUN could be had."""
    choice = choose_mode(configured, verdict)  # type: ignore[arg-type]
    assert choice.mode is None
    assert choice.refused == (FOREIGN, ADD_SECOND)


def test_tun_that_cannot_be_had_is_refused_with_cause_and_fix() -> None:
    """`daemon.mode = "tun"` fails clearly instead of falling back."""
    choice = choose_mode("tun", NO_DEVICE)
    assert choice.mode is None
    assert choice.refused == (
        '/dev/net/tun is missing, daemon.mode is "tun"',
        "start the container with --device /dev/net/tun",
    )


@pytest.mark.parametrize(
    "changed",
    [
        but(node=None, stat_errno=errno.ENOENT),
        but(node=Node(kind="char", major=10, minor=200, mode=0o600)),
        but(node=Node(kind="char", major=10, minor=200, mode=0o666, inode=7)),
        but(open_errno=errno.EPERM),
        but(tunsetiff_errno=errno.EPERM),
        but(cap_net_admin=False),
        but(uid=1000),
        but(netns=1),
        but(userns=1),
        but(boot_id="c"),
    ],
)
def test_fingerprint_changes_with_what_a_verdict_depends_on(changed: Facts) -> None:
    """A remembered verdict is dropped when device, rights, namespaces or boot are others."""
    assert fingerprint(changed) != fingerprint(GOOD)


def test_fingerprint_is_one_readable_line_without_the_passing_facts() -> None:
    """Interfaces come and go: they are looked at anew by the quick probe of each start."""
    assert fingerprint(but(addresses=(ON_TAILSCALE0,), name_state="held", full=Full())) == fingerprint(GOOD)
    assert fingerprint(GOOD) == (
        "node=('char',0,0,10,200) rights=('0o666',0,0,False) errnos=(None,None,None) caps=(True,True,True) "
        "uid=0 netns=4026532177 userns=4026531837 boot=b"
    )
    assert fingerprint(but(node=None)).startswith("node=None rights=None ")


def test_full_answer_is_added_to_the_facts_and_survives_the_wire() -> None:
    """What the child prints is what the parent judges."""
    full = Full(steps=STEPS, rules=(5210,), routes=2, swept=("tzp9",), holder=Holder(77, "tailscaled"))
    assert msgspec.json.decode(msgspec.json.encode(full), type=Full) == full
    assert with_full(GOOD, full).full == full


def test_steps_are_true_false_or_not_tried() -> None:
    """`worked` tells a failed step from one that was never reached."""
    full = failing("device", errno.EPERM)
    assert [full.worked(name) for name in ("rule", "device", "address")] == [True, False, None]


def lines(facts: Facts) -> list[tuple[str, bool | None, str, str]]:
    """The findings as tuples."""
    return [(f.name, f.ok, f.text, f.fix) for f in findings(facts)]


def test_findings_of_a_good_place_are_all_good() -> None:
    """`probe` shows every fact, each true."""
    assert lines(but(full=Full(steps=STEPS))) == [
        ("device", True, "/dev/net/tun: 10:200, mode 0666, owner 0", ""),
        ("open", True, "/dev/net/tun can be opened", ""),
        ("create", True, "a TUN device may be made", ""),
        ("capability", True, "CAP_NET_ADMIN is there", ""),
        ("user namespace", None, "user namespace: the initial one", ""),
        ("interface", True, "the name tailscale0 is free", ""),
        ("try socket", True, "netlink socket", ""),
        ("try rule", True, "ip rule", ""),
        ("try device", True, "scratch TUN device", ""),
        ("try address", True, "address on it", ""),
        ("try up", True, "brought up", ""),
    ]


def test_findings_of_a_bad_place_carry_their_fixes() -> None:
    """`probe` goes on after the first trouble, so that every missing flag is seen at once."""
    facts = but(
        open_errno=errno.EPERM,
        cap_net_admin=False,
        cap_net_admin_bounding=False,
        in_initial_userns=False,
        name_state="held",
        addresses=(ON_TAILSCALE0, Address("eth0", "100.70.0.1", tunnel=False)),
        full=Full(steps=(Step("socket"), Step("rule", errno.EPERM)), swept=("tzp9",), kept=("tzp8",)),
    )
    device_flags = "start the container with --device /dev/net/tun --cap-add NET_ADMIN"
    assert lines(facts) == [
        ("device", True, "/dev/net/tun: 10:200, mode 0666, owner 0", ""),
        ("open", False, "/dev/net/tun may not be opened (device cgroup)", device_flags),
        ("capability", False, "CAP_NET_ADMIN is missing", "start the container with --cap-add NET_ADMIN"),
        ("user namespace", None, "user namespace: a container's own", ""),
        (
            "interface",
            False,
            "another program holds tailscale0 (device or resource busy)",
            'stop it, set daemon.interface to a free name, or set daemon.mode = "userspace"',
        ),
        ("foreign", False, FOREIGN, "use that one, or '--mode userspace'"),
        (
            "range",
            None,
            "eth0 has 100.70.0.1: by TUN, tailscaled drops what comes in there from 100.64.0.0/10",
            "",
        ),
        ("try socket", True, "netlink socket", ""),
        ("try rule", False, "ip rule: operation not permitted", ""),
        ("swept", None, "removed what a killed probe left: tzp9", ""),
        ("kept", False, "not removed: tzp8", "ip link del, ip rule del"),
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            but(node=None, stat_errno=errno.ENOENT),
            ("device", False, "/dev/net/tun is missing", "start the container with --device /dev/net/tun"),
        ),
        (
            but(tunsetiff_errno=errno.ENOMEM),
            (
                "create",
                False,
                "the kernel makes no TUN device (cannot allocate memory)",
                'set daemon.mode = "userspace"',
            ),
        ),
        (but(cap_net_admin=None), ("capability", None, "CAP_NET_ADMIN: not known", "")),
        (but(in_initial_userns=None), ("user namespace", None, "user namespace: not known", "")),
        (
            but(name_state="left-over"),
            ("interface", True, "tailscale0 is left over, nobody has it open: it is used again", ""),
        ),
        (but(name_state="ours"), ("interface", True, "tailscale0 is this home's own", "")),
        (
            but(full=failing("rule", errno.EOPNOTSUPP)),
            ("try rule", None, "ip rule: operation not supported", ""),
        ),
        (
            but(full=Full(rules=(5210, 5230), routes=3)),
            (
                "left-overs",
                None,
                HARMLESS,
                "",
            ),
        ),
    ],
)
def test_single_findings(facts: Facts, expected: tuple[str, bool | None, str, str]) -> None:
    """Each fact has its own line."""
    assert expected in lines(facts)


@pytest.mark.parametrize("facts", [but(name_state="ours"), but(addresses=(ON_TAILSCALE0,))])
def test_rules_of_a_living_daemon_are_no_left_overs(facts: Facts) -> None:
    """While a tailscaled runs, its rules are where they belong."""
    shown = findings(with_full(facts, Full(rules=(5210,), routes=1)))
    assert "left-overs" not in [finding.name for finding in shown]


codes = st.none() | st.sampled_from(sorted(errno.errorcode))
maybe = st.none() | st.booleans()
any_facts = st.builds(
    Facts,
    interface=st.sampled_from(["tailscale0", "tun0"]),
    uid=st.sampled_from([0, 1000]),
    node=st.none()
    | st.builds(
        Node,
        kind=st.sampled_from(["char", "directory", "other"]),
        mode=st.integers(0, 0o777),
        uid=st.sampled_from([0, 1000, 65534]),
        nodev=st.booleans(),
    ),
    stat_errno=codes,
    open_errno=codes,
    tunsetiff_errno=codes,
    cap_net_admin=maybe,
    cap_net_admin_bounding=maybe,
    cap_dac_override=maybe,
    in_initial_userns=maybe,
    name_state=st.sampled_from(["absent", "left-over", "held", "not-tun", "ours"]),
    addresses=st.lists(
        st.builds(
            Address,
            interface=st.sampled_from(["tailscale0", "tailscale1"]),
            address=st.sampled_from(["100.64.0.1", "100.64.0.9", "fd7a:115c:a1e0::9"]),
            tunnel=st.booleans(),
            idle=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    own_addresses=st.sampled_from([(), ("100.64.0.1",)]),
    full=st.none()
    | st.builds(
        Full,
        steps=st.lists(
            st.builds(Step, name=st.sampled_from(["socket", "rule", "device", "address", "up"]), errno=codes),
            max_size=5,
        ).map(tuple),
        holder=st.none() | st.just(Holder(7, "tailscaled")),
    ),
)


@given(any_facts)
def test_every_no_has_a_sentence_and_a_fix_and_every_yes_has_neither_foreign_nor_fix(facts: Facts) -> None:
    """Whatever the probes saw, the verdict is whole, and is the same when asked again."""
    verdict = judge(facts)
    assert verdict.possible == (verdict.cause == "ok")
    assert verdict.text
    assert bool(verdict.fix) == (not verdict.possible)
    assert verdict.foreign is None or not verdict.possible
    assert judge(facts) == verdict
    assert all(finding.text for finding in findings(facts))


@given(any_facts, st.sampled_from(["auto", "tun", "userspace"]))
def test_tun_is_never_chosen_beside_a_foreign_tailscaled_nor_against_the_verdict(facts: Facts, configured: str) -> None:
    """The safety of the choice: TUN only on a yes, a refusal exactly when there is no mode."""
    verdict = judge(facts)
    choice = choose_mode(configured, verdict)  # type: ignore[arg-type]
    assert choice.mode != "tun" or (verdict.possible and not facts.foreign_addresses)
    assert (choice.mode is None) == (choice.refused is not None)
    assert choice.reason


def test_manual_has_every_cause() -> None:
    """The table of docs/probe.md lists exactly the codes that a verdict can have."""
    manual = Path(__file__).parents[2] / "docs" / "probe.md"
    rows = [line.split("`")[1] for line in manual.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted({case[2] for case in CASES})
