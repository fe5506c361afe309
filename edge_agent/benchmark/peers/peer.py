"""A peer: what is installed for it, how its server is started and how it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Tuple

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Launch:
    """Where and with what a peer's server runs; `python` is that of its own environment."""

    python: Path
    folder: Path  # a working directory of its own
    package: Path
    cores: int
    ports: Tuple[int, int, int]  # the first is the one that clients call


@dataclass(frozen=True)
class Peer:
    """One other server. `prepare` writes its configuration and returns the command to start it."""

    name: str  # also its folder here
    distribution: str  # on the package index
    kinds: Tuple[str, ...]  # of targets.KINDS
    prepare: Callable[[Launch], List[str]]

    @property
    def requirements(self) -> Path:
        """What is installed, versions pinned."""
        return FOLDER / self.name / "requirements.txt"

    @property
    def version(self) -> str:
        """The version that the requirements pin."""
        pins = dict(line.split("==") for line in self.requirements.read_text().split())
        return pins[self.distribution]
