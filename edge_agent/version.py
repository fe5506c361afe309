"""`edge-agent version`."""

from __future__ import annotations

import argparse
import sys

from edge_agent import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the version."""
    sys.stdout.write(f"edge-agent {__version__}\n")
    return 0
