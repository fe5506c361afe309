"""The results of a line of parts: the agent's verdicts beside the drawn truth, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from edge_agent.types import Prediction


@dataclass(frozen=True)
class InspectedPart:
    """One part after the camera. `defect` is the truth, None for a good part.

    `located` is whether the mask touches the drawn defect, None where there is nothing to
    locate. `thumbnail` is a JPEG of the marked frame. The prediction has no mask any more.
    """

    number: int
    defect: Optional[str]
    prediction: Prediction
    latency_ms: float
    located: Optional[bool]
    thumbnail: bytes

    @property
    def right(self) -> bool:
        """Whether the verdict agrees with the truth."""
        return self.prediction.is_anomalous == (self.defect is not None)

    @property
    def truth(self) -> str:
        """The truth in a word."""
        return self.defect or "good"

    @property
    def verdict(self) -> str:
        """The agent's word for it."""
        return "anomaly" if self.prediction.is_anomalous else "normal"


@dataclass(frozen=True)
class Summary:
    """Sums over a line of parts.

    `table[truth][verdict]` counts parts, False good or normal, True defective or anomalous.
    `caught`: for every defect (found anomalous, all). `located`: (mask on the defect, caught).
    """

    table: Tuple[Tuple[int, int], Tuple[int, int]]
    caught: Dict[str, Tuple[int, int]]
    located: Tuple[int, int]
    p50_ms: float
    p90_ms: float

    @property
    def right(self) -> int:
        """Parts with the right verdict."""
        return self.table[0][0] + self.table[1][1]

    @property
    def total(self) -> int:
        """All parts."""
        return sum(map(sum, self.table))


def summarise(line: Sequence[InspectedPart]) -> Summary:
    """Count a line of at least one part."""
    counts = [[0, 0], [0, 0]]
    for part in line:
        counts[part.defect is not None][part.prediction.is_anomalous] += 1
    found = [part for part in line if part.defect and part.prediction.is_anomalous]
    latencies = [part.latency_ms for part in line]
    return Summary(
        table=((counts[0][0], counts[0][1]), (counts[1][0], counts[1][1])),
        caught=_caught(line),
        located=(sum(bool(part.located) for part in found), len(found)),
        p50_ms=float(np.percentile(latencies, 50)),
        p90_ms=float(np.percentile(latencies, 90)),
    )


def _caught(line: Sequence[InspectedPart]) -> Dict[str, Tuple[int, int]]:
    verdicts: Dict[str, List[bool]] = {}
    for part in line:
        if part.defect:
            verdicts.setdefault(part.defect, []).append(part.prediction.is_anomalous)
    return {defect: (sum(found), len(found)) for defect, found in sorted(verdicts.items())}
