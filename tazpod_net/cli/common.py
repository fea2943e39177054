"""What every command needs: the one-line error, and the home that is meant."""

import argparse
import os
import sys

from tazpod_net import home


def complain(text: str) -> None:
    """The one-line error."""
    print(f"tazpod-net: {' '.join(text.split())}", file=sys.stderr)


def home_of(arguments: argparse.Namespace) -> str:
    """The home that the command line means."""
    return home.resolve(arguments.home, os.environ, os.geteuid())
