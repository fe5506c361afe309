"""Options that several commands share: --out, NAME=VALUE, and the AWS account."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Dict, List, Tuple

from edge_agent.errors import InvalidConfiguration


def check_free(out: Path) -> None:
    """Raise InvalidConfiguration when the folder of --out exists."""
    if out.exists() or out.is_symlink():
        raise InvalidConfiguration(f"{out} exists already; choose another --out or remove it.")


def add_account_arguments(parser: argparse.ArgumentParser) -> None:
    """Define which account and region are used, and how long to wait."""
    parser.add_argument("--region", help="(default: the environment's or profile's)")
    parser.add_argument("--profile", help="of the AWS configuration (default: the environment's)")
    parser.add_argument(
        "--wait-s", type=float, default=600, metavar="SECONDS",
        help="how long to wait for the end; 0: don't (default: 600)",
    )  # fmt: skip


def pairs(option: str, given: List[str]) -> List[Tuple[str, str]]:
    """Split every NAME=VALUE. Raises InvalidConfiguration."""
    split = [word.partition("=") for word in given]
    for name, equals, _ in split:
        if not name or not equals:
            raise InvalidConfiguration(f"{option} {name!r}: expected NAME=VALUE.")
    return [(name, value) for name, _, value in split]


def table(option: str, given: List[str]) -> Dict[str, str]:
    """Split every NAME=VALUE, each name once. Raises InvalidConfiguration."""
    found = pairs(option, given)
    values = dict(found)
    if len(values) < len(found):
        raise InvalidConfiguration(f"{option}: give every name once.")
    return values
