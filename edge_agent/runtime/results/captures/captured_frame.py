"""A frame to capture, and its line in the manifest of the captures.

The line is one of a Lookout for Vision manifest (the developer guide's "Defining JSON lines for
image segmentation" and "... image classification"), so that whatever reads those reads captures as
well. The label is the model's own verdict until a person corrects it; a frame of a faulty camera
has none. The agent's own facts are under the key `edge-agent`. Names of files are
relative to the manifest's folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Dict, Optional

from edge_agent.types import BACKGROUND_NAME, Prediction

if TYPE_CHECKING:
    from edge_agent.types import Pixels

ANOMALY = "anomaly"
NEAR_THRESHOLD = "near-threshold"
SAMPLE = "sample"
CAMERA_PROBLEM = "camera-problem"

OWN_KEY = "edge-agent"
IMAGE_KEY, MASK_KEY = "source-ref", "anomaly-mask-ref"
LABEL_KEY = "anomaly-label-metadata"

Line = Dict[str, Any]  # of the manifest: a JSON object that other programs may have changed


@dataclass(frozen=True)
class CapturedFrame:
    """A frame with its verdict, `pixels` (height, width, 3) uint8 RGB, and why it is captured.

    `id` is of letters, digits and dashes; `time` is in Unix seconds. `shared`: the pixels are a
    view of memory that may change as soon as the call returns. `mask` is like the pixels,
    None for classification models.
    """

    id: str
    model: str
    model_version: str
    time: float
    reason: str
    pixels: Pixels
    shared: bool
    prediction: Prediction
    mask: Optional[Pixels] = None
    camera_id: str = ""

    @property
    def stem(self) -> str:
        """The path of its files without suffixes: "2026-11-21/bolts-ID"."""
        return f"{self._created:%Y-%m-%d}/{self.model}-{self.id}"

    @property
    def held_bytes(self) -> int:
        """The memory it takes."""
        return self.pixels.nbytes + (0 if self.mask is None else self.mask.nbytes)

    @property
    def needs_mask(self) -> bool:
        """Whether its mask marks anything of the part; a white one isn't stored."""
        of_part = len(self.prediction.anomalies) > 1 and not self.prediction.camera_problems
        return self.mask is not None and of_part

    def owned(self) -> CapturedFrame:
        """Return a copy of what others may change, without an empty mask."""
        mask = self.mask if self.needs_mask else None
        if mask is not None and not mask.flags.owndata:
            mask = mask.copy()
        pixels = self.pixels.copy() if self.shared else self.pixels
        prediction = replace(self.prediction, mask=None)
        return replace(self, pixels=pixels, mask=mask, prediction=prediction, shared=False)

    def line(self, image: str, overlay: str, mask: Optional[str]) -> Line:
        """Return the manifest's entry; the arguments name files."""
        source = {
            "human-annotated": "no",
            "job-name": f"edge-agent/{self.model}/{self.model_version}",
            "creation-date": self._created.replace(tzinfo=None).isoformat(timespec="microseconds"),
        }
        line: Line = {IMAGE_KEY: image}
        if not self.prediction.camera_problems:  # else the verdict says nothing about the part
            line["anomaly-label"] = int(self.prediction.is_anomalous)
            line[LABEL_KEY] = {
                "class-name": self._verdict,
                "confidence": round(self.prediction.confidence, 6),
                "type": "groundtruth/image-classification",
                **source,
            }
        if mask is not None:
            line[MASK_KEY] = mask
            line[f"{MASK_KEY}-metadata"] = {
                "internal-color-map": self._colors(),
                "type": "groundtruth/semantic-segmentation",
                **source,
            }
        return {**line, OWN_KEY: {**self._facts(), "overlay": overlay}}

    @property
    def _verdict(self) -> str:
        return "anomaly" if self.prediction.is_anomalous else "normal"

    @property
    def _created(self) -> datetime:
        return datetime.fromtimestamp(self.time, timezone.utc)

    def _colors(self) -> Dict[str, Dict[str, object]]:
        """Entry "0" is the background, as the format asks."""
        found = [entry for entry in self.prediction.anomalies if entry.name != BACKGROUND_NAME]
        named = [("BACKGROUND", "#ffffff"), *((entry.name, entry.color.lower()) for entry in found)]
        return {
            str(index): {"class-name": name, "hex-color": color, "confidence": 0.0}
            for index, (name, color) in enumerate(named)
        }

    def _facts(self) -> Dict[str, object]:
        return {
            "id": self.id,
            "model": self.model,
            "version": self.model_version,
            "reason": self.reason,
            "verdict": self._verdict,
            "score": round(self.prediction.score, 6),
            "threshold": self.prediction.threshold,
            "camera": self.camera_id,
            "time": self.time,
            "camera-problems": [problem.value for problem in self.prediction.camera_problems],
        }
