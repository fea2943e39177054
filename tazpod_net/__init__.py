"""Supervisor of Tailscale's tailscaled for dev containers. Imports nothing, so that the launcher stays fast."""

__version__ = "0.1.0"
