"""Which name this node asks for. Pure."""

import os

from tazpod_net.core.status import IdentityPart, Note


def looks_like_container_id(hostname: str) -> bool:
    """Docker and podman name a container after the first 12 hex digits of its id."""
    return len(hostname) == 12 and all(c in "0123456789abcdef" for c in hostname)  # noqa: PLR2004


def choose_hostname(configured: str, hostname: str, folder: str, *, host_network: bool) -> str:
    """`login.hostname`, or for `auto` the machine's own name; a container id or the host's name says nothing about
    this container, so it becomes `tazpod-<folder>`."""  # noqa: D205, D209 - one sentence
    if configured != "auto":
        return configured
    if not hostname or hostname == "localhost" or looks_like_container_id(hostname) or host_network:
        return dns_label(f"tazpod-{os.path.basename(folder.rstrip('/')) or 'dev'}")
    return dns_label(hostname.split(".", 1)[0])


def dns_label(name: str) -> str:
    """A name that control accepts as a DNS label: lower case, digits, hyphens, 63 at most (RFC 1123)."""
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
    while "--" in kept:
        kept = kept.replace("--", "-")
    return kept.strip("-")[:63].strip("-") or "tazpod"


def identity_risk(identity: IdentityPart, *, in_container: bool) -> Note | None:
    """The note for an identity that is meant to last and lies where it will not."""
    if identity.kind != "persist":
        return None
    if identity.store == "tmpfs":
        text = f"the identity is kept in memory ({identity.path} is on tmpfs): a restart makes a new node"
    elif identity.store == "container layer" and in_container:
        text = f"the identity is kept on the container's own layer ({identity.path}): removing it makes a new node"
    else:
        return None
    return Note("identity-at-risk", text, f'mount a volume at {identity.path}, or set daemon.state = "ephemeral"')
