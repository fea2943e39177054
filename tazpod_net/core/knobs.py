"""tailscaled's environment knobs that end the daemon when their value cannot be read.

Owns their names and how Go reads them. The names are those that `envknob` is asked for in the packages linked
into `cmd/tailscaled` on Linux, tailscale.com v1.102.5 (and logtail/logtail.go:96, which does the same by hand).
A value that Go cannot read is `log.Fatalf` (envknob/envknob.go:233-404): at once for a registered knob, at its
first use for the others, when the daemon has looked well for a while.
"""

from collections.abc import Callable

from tazpod_net.core.durations import parse_go_duration
from tazpod_net.core.govalues import go_bool, go_int


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEANS = _names(
    """
    IN_TS_TEST TAILSCALE_USE_WIP_CODE
    TS_ALLOW_ADMIN_CONSOLE_REMOTE_UPDATE TS_ALLOW_SELF_INGRESS TS_ASSUME_NETWORK_UP_FOR_TEST TS_BE_CLI
    TS_CONN25_DATAPATH_DEBUG TS_DEBUG_ACME TS_DEBUG_ACME_FORCE_RENEWAL TS_DEBUG_ALWAYS_USE_DERP
    TS_DEBUG_CONNECT_FAILURES TS_DEBUG_CRASH_ON_UNEXPECTED TS_DEBUG_DERP TS_DEBUG_DERP_WS_CLIENT
    TS_DEBUG_DISABLE_LIKELY_HOME_ROUTER_IP_SELF TS_DEBUG_DISABLE_PORTLIST TS_DEBUG_DISABLE_UDP_GRO
    TS_DEBUG_DISABLE_UDP_GSO TS_DEBUG_DISCO TS_DEBUG_DNS_CACHE TS_DEBUG_DNS_FORWARD_SEND
    TS_DEBUG_DNS_FORWARD_USE_ROUTES TS_DEBUG_ENABLE_PMTUD TS_DEBUG_ENABLE_SILENT_DISCO
    TS_DEBUG_EXIT_NODE_DNS_NET_PKG TS_DEBUG_FORCE_ALL_IPV6_ENDPOINTS
    TS_DEBUG_FORCE_CLIENT_SIDE_REACHABILITY_ROUTECHECK TS_DEBUG_FORCE_H1_LOGS TS_DEBUG_LOGTAIL
    TS_DEBUG_LOGTAIL_WAKES TS_DEBUG_LOG_SSH TS_DEBUG_LOG_TIME TS_DEBUG_MAGICSOCK_BIND_SOCKET
    TS_DEBUG_MAGICSOCK_PEERMAP TS_DEBUG_MAGIC_DNS_DUAL_STACK TS_DEBUG_NETCHECK TS_DEBUG_NETLINK
    TS_DEBUG_NETSTACK TS_DEBUG_NETSTACK_SUBNETS TS_DEBUG_NEVER_DIRECT_UDP TS_DEBUG_NOISE_DIAL
    TS_DEBUG_OMIT_LOCAL_ADDRS TS_DEBUG_PANIC_MACHINE_KEY TS_DEBUG_PATCHIFY_PEER TS_DEBUG_PATCHIFY_PEER_MISS
    TS_DEBUG_PERMIT_HTTP_C2N TS_DEBUG_PMTUD TS_DEBUG_PREFER_IPV6_USERDIAL TS_DEBUG_PROFILES
    TS_DEBUG_PROXY_DNS TS_DEBUG_RAW_DISCO TS_DEBUG_RAW_WGLOG TS_DEBUG_REGISTER TS_DEBUG_RESTUN_STOP_ON_IDLE
    TS_DEBUG_ROUTECHECK TS_DEBUG_SEND_CALLME_UNKNOWN_PEER TS_DEBUG_SSH_IGNORE_TAILNET_POLICY
    TS_DEBUG_SSH_VLOG TS_DEBUG_STRIP_CAPS TS_DEBUG_STRIP_ENDPOINTS TS_DEBUG_STRIP_HOME_DERP
    TS_DEBUG_TLS_DIAL TS_DEBUG_TPM TS_DEBUG_USE_DERP_HTTP TS_DEBUG_USE_IP_COMMAND TS_DEBUG_WEB_CLIENT_DEV
    TS_DEBUG_WHOIS TS_DISABLE_PORTMAPPER TS_DISABLE_SSH_SERVER TS_DISABLE_TAILDROP TS_DISABLE_UPNP
    TS_DNS_FORWARD_SKIP_TCP_RETRY TS_ENABLE_RAW_DISCO TS_FAKE_SYNOLOGY TS_FORCE_ALLOW_TSAPP_UPDATE
    TS_FORCE_LINUX_BIND_TO_DEVICE TS_FORCE_NOISE_443 TS_NO_LOGS_NO_SUPPORT TS_PANIC_IF_HIT_MAIN_CONTROL
    TS_PLEASE_PANIC TS_PORTLIST TS_SSH_DISABLE_FORWARDING TS_SSH_DISABLE_PTY TS_SSH_DISABLE_SFTP
    TS_TUN_DISABLE_TCP_GRO TS_TUN_DISABLE_UDP_GRO TS_UNSAFE_SKIP_NKS_VERIFICATION
    TS_UPDATE_SKIP_VERSION_CHECK TS_USE_CACHED_NETMAP TS_USE_CONTROL_DIAL_PLAN
    """
)
INTEGERS = _names(
    """
    TS_DEBUG_BACKEND_DELAY_SEC TS_DEBUG_MAGICSOCK_RING_BUFFER_MAX_SIZE_BYTES TS_DEBUG_MAP
    TS_DEBUG_NETSTACK_LOOPBACK_PORT TS_LOG_VERBOSITY TS_PARENT_DEATH_FD
    """
)
UNSIGNED = _names("TS_DEBUG_MTU")  # 32 bits, net/tstun/mtu.go:134
DURATIONS = _names(
    """
    TS_DEBUG_LOGTAIL_FLUSHDELAY TS_DISCO_PONG_IPV4_DELAY TS_NETSTACK_KEEPALIVE_IDLE
    TS_NETSTACK_KEEPALIVE_INTERVAL
    """
)


def _unsigned(text: str) -> int:
    if text.startswith(("+", "-")) or go_int(text) >= 1 << 32:
        raise ValueError(f"{text!r} is not an unsigned number of 32 bits")
    return go_int(text)


_RULES: tuple[tuple[frozenset[str], Callable[[str], object], str], ...] = (
    (BOOLEANS, go_bool, "is not a boolean, tailscaled would exit: write true or false, or unset it"),
    (INTEGERS, go_int, "is not a whole number, tailscaled would exit: write digits only, or unset it"),
    (UNSIGNED, _unsigned, "is not a size in bytes, tailscaled would exit: write 1280 for example, or unset it"),
    (DURATIONS, parse_go_duration, "is not a duration, tailscaled would exit: write 30s for example, or unset it"),
)


def complaint(name: str, value: str) -> str:
    """What is wrong with a variable, and the fix; empty if tailscaled can live with it."""
    for names, read, text in _RULES:
        if name not in names or not value:  # empty is as good as unset for every knob
            continue
        try:
            read(value)
        except ValueError:
            return text
    return ""
