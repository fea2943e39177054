"""Which name this node asks for. Pure."""

import os


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
