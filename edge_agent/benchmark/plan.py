"""What a run measures, checked and counted before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

from edge_agent.benchmark import board
from edge_agent.benchmark.calls import BLOCK

if TYPE_CHECKING:
    from edge_agent.benchmark.results import Load

LONGEST_TURN_S = 2.0
LONGEST_OPEN_TURN_S = 10.0  # shorter than a process of the benchmark gets to end
FEWEST_TURNS = 4


@dataclass(frozen=True)
class Plan:
    """What to measure. `package` None: no raw engine; `rounds`: single calls of each kind.

    seconds: of each load on the agent, and as much on the raw engine, in turns.
    """

    address: str
    model: str
    package: Optional[Path]
    units: int
    threads: int
    loads: Tuple[Load, ...]
    sizes: Tuple[Tuple[int, int], ...]
    seconds: float
    rounds: int
    compare: Optional[str] = None  # a KServe V2 server with the same model

    @property
    def turns(self) -> int:
        """How often a closed loop and a raw engine have their turn."""
        return max(FEWEST_TURNS, math.ceil(self.seconds / LONGEST_TURN_S))

    def turns_of(self, load: Load) -> int:
        """How often `load` has its turn; open loops seldom, because their queues must grow."""
        if load.rate_fps is None:
            return self.turns
        return math.ceil(self.seconds / LONGEST_OPEN_TURN_S)

    @property
    def blocks(self) -> int:
        """How many blocks of single calls there are."""
        return math.ceil(self.rounds / BLOCK)

    @property
    def splits(self) -> List[Tuple[int, int]]:
        """Units and threads that share the cores in other ways than the one served."""
        cores = int(board.machine()["cores"])
        if self.package is None:
            return []
        units = [2**power for power in range(cores.bit_length())]
        splits = [(count, cores // count) for count in units if count <= cores]
        return [split for split in splits if split != (self.units, self.threads)]

    @property
    def steps(self) -> int:
        """How often `Run` reports a step."""
        a_size = sum(self.turns_of(load) for load in self.loads) + self.blocks
        return len(self.sizes) * a_size + len(self.splits) * self.turns
