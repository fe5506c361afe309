"""Masks that a dataset's lines name: which anomaly they show, how well a model finds its pixels.

A model marks anomalous pixels of one kind. When the masks know one anomaly alone, such as cracked,
it bears that name, in the model too; else all of them count as `anomaly`. Names and colours count,
as the manifests of the original have them: the numbers in `internal-color-map` mean nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from edge_agent.evaluation.label_words import ANOMALY, METADATA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SOURCE, REFERENCE = "source-ref", "-ref"
BACKGROUND = "background"
COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
MOST_NAME = 256  # characters of an anomaly's name in a package


class AnomalyMask(NamedTuple):
    """A picture (s3://bucket/key) in which each anomaly has a colour, #RRGGBB by its name."""

    source: str
    colors: Mapping[str, str]

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Optional[AnomalyMask]:
        """Return the mask that a line names; None: there is none, or none with an anomaly."""
        for key, source in line.items():
            metadata = line.get(key + METADATA)
            if key.endswith(REFERENCE) and key != SOURCE and isinstance(metadata, dict):
                colors = dict(_colors(metadata.get("internal-color-map")))
                return cls(str(source), colors) if colors else None
        return None


def _colors(entries: object) -> Iterable[Tuple[str, str]]:
    for entry in entries.values() if isinstance(entries, dict) else ():
        if isinstance(entry, dict):
            name, color = _text(entry.get("class-name")), _text(entry.get("hex-color"))
            if name and name.lower() != BACKGROUND and COLOR.fullmatch(color):
                yield name[:MOST_NAME], color.upper()


def _text(value: object) -> str:
    """Return a text without halves of characters, which JSON can have and a package can't."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def only_anomaly(lines: Iterable[Mapping[str, Any]]) -> Optional[Tuple[str, str]]:
    """Return name and colour of the anomaly, where the masks of all lines know one alone."""
    known: Dict[str, str] = {}
    for mask in map(AnomalyMask.of, lines):
        known.update(mask.colors if mask else {})
    return known.popitem() if len(known) == 1 else None


@dataclass
class PixelMetrics:
    """Counts pixels over the images, `name`d as in the evaluation result."""

    name: str = ANOMALY
    right: int = 0
    false_alarms: int = 0
    missed: int = 0
    overlaps: List[float] = field(default_factory=list)  # intersection over union of each image

    def add(self, truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
        """Count one image, both (height, width)."""
        both, either = int((truth & found).sum()), int((truth | found).sum())
        self.right += both
        self.false_alarms += int(found.sum()) - both
        self.missed += int(truth.sum()) - both
        if truth.any():
            self.overlaps.append(both / either)

    def to_json(self) -> Mapping[str, object]:
        """Return an entry of PixelAnomalyClassMetrics."""
        precision = self.right / max(self.right + self.false_alarms, 1)
        recall = self.right / max(self.right + self.missed, 1)
        return {
            "Precision": precision,
            "Recall": recall,
            "F1Score": 2.0 * precision * recall / max(precision + recall, 1e-12),
            "AIOU": sum(self.overlaps) / max(len(self.overlaps), 1),
            "ClassName": self.name,
        }


def truth_of(pixels: NDArray[np.integer[Any]], mask: AnomalyMask) -> NDArray[np.bool_]:
    """Return where a mask's picture (height, width, 3) shows an anomaly."""
    import numpy as np

    truth = np.zeros(pixels.shape[:2], bool)
    for color in mask.colors.values():
        truth |= (pixels == np.array(list(bytes.fromhex(color[1:])))).all(axis=2)
    return truth
