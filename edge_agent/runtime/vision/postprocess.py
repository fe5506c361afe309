"""Raw outputs + decision settings → Prediction: score, verdict, mask, areas, regions. Pure.

Rules: the original agent's contract. A frame is anomalous when its score reaches the threshold; the
confidence is that of the verdict given; the mask has the frame's size and a white background; areas
are shares of the mask's pixels, background first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Iterator, List, Mapping, Optional, Tuple

import cv2
import numpy as np

from edge_agent.errors import NotNumbers
from edge_agent.manifest import Calibration, Manifest, Zone
from edge_agent.types import BACKGROUND_COLOR, BACKGROUND_NAME, Anomaly, Prediction, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Labels = NDArray[np.uint8]

LEAST_CONFIDENCE = 1e-6  # old clients read exactly 0 as "no answer"


@dataclass(frozen=True)
class Spread:
    """How `n` map pixels spread over an axis of the frame when resized to nearest.

    weights: (n,) frame pixels each map pixel covers; starts: (n + 1,) where each one begins.
    """

    weights: NDArray[np.int64]
    starts: NDArray[np.int64]


@lru_cache(maxsize=64)
def spread(map_size: int, frame_size: int) -> Spread:
    """Ask OpenCV's own nearest resize, so that areas and boxes agree with the painted mask."""
    line = np.arange(map_size, dtype=np.float32).reshape(1, map_size)
    sources = cv2.resize(line, (frame_size, 1), interpolation=cv2.INTER_NEAREST)
    counts = np.bincount(sources.ravel().astype(np.int64), minlength=map_size)
    return Spread(counts, np.concatenate(([0], counts.cumsum())))


class Postprocessor:
    """Turns one frame's outputs into its Prediction, by the rules of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._decision = manifest.decision
        self._threshold = np.float32(manifest.decision.threshold)
        self._raw_pixel_threshold = _inverse(
            manifest.decision.calibration, manifest.decision.pixel_threshold
        )
        self._classes = manifest.anomaly_classes
        colors = [BACKGROUND_COLOR, *(entry.color for entry in self._classes)]
        self._colors: Labels = np.array([_rgb(color) for color in colors], np.uint8)

    @property
    def gives_mask(self) -> bool:
        """Whether predictions of this model carry a mask."""
        return self._manifest.task != "classification"

    def predict(
        self,
        outputs: Mapping[str, Floats],
        index: int,
        width: int,
        height: int,
        mask_out: Optional[Labels] = None,
    ) -> Prediction:
        """Judge frame `index` of the batch, `width` x `height` pixels before resizing.

        outputs: tensors by name, shapes as in `manifest.OutputSpec`. mask_out: where to paint the
        mask (height, width, 3); None: into a new array, the prediction's `mask`. Raises
        NotNumbers on values that are not numbers.
        """
        name = self._manifest.outputs.score
        raw = float(outputs[name][index].reshape(())) if name else None
        if not self.gives_mask:
            return self._verdict(self._score(raw, None, None), found=None)
        map_, labels = self._read_map(outputs, index)
        regions = sorted(
            self._regions(labels, map_, width, height), key=lambda region: -region.area
        )
        mask = np.empty((height, width, 3), np.uint8) if mask_out is None else mask_out
        self._paint(labels, mask)
        return replace(
            self._verdict(self._score(raw, map_, labels), found=bool(regions)),
            anomalies=self._areas(labels, width, height),
            regions=tuple(regions),
            mask=mask if mask_out is None else None,
            mask_size=(width, height),
        )

    def _read_map(self, outputs: Mapping[str, Floats], index: int) -> Tuple[Floats, Labels]:
        """Return the values (h, w) and the class indices (h, w) of one frame."""
        names = self._manifest.outputs
        if self._manifest.task == "segmentation":
            return self._classify_pixels(outputs[names.class_maps or ""][index])
        values = outputs[names.map or ""][index]
        return self._threshold_map(values.reshape(values.shape[-2:]))

    def _threshold_map(self, map_: Floats) -> Tuple[Floats, Labels]:
        if self._decision.ignore_zones:
            map_ = map_.copy()
            for zone in self._decision.ignore_zones:
                map_[_slices(zone, map_.shape)] = -np.inf
        return map_, (map_ >= self._raw_pixel_threshold).view(np.uint8)

    def _classify_pixels(self, class_maps: Floats) -> Tuple[Floats, Labels]:
        labels = class_maps.argmax(axis=0).astype(np.uint8)
        for zone in self._decision.ignore_zones:
            labels[_slices(zone, labels.shape)] = 0
        return class_maps.max(axis=0), labels

    def _score(
        self, raw: Optional[float], map_: Optional[Floats], labels: Optional[Labels]
    ) -> float:
        """Return the calibrated score; without a score output, the map's peak or mask's mean."""
        if map_ is not None and self._manifest.task == "anomaly_map":
            if raw is None or self._decision.ignore_zones:
                raw = float(map_.max())
        elif raw is None and labels is not None:
            return float(np.count_nonzero(labels)) / labels.size
        return _calibrated(self._decision.calibration, raw if raw is not None else math.nan)

    def _regions(self, labels: Labels, map_: Floats, width: int, height: int) -> Iterator[Region]:
        """Yield the connected anomalous areas, in pixels of the frame.

        Pixels of regions smaller than the decision's minimum are set to 0 in `labels`.
        """
        columns, rows = spread(labels.shape[1], width), spread(labels.shape[0], height)
        for label in filter(None, np.unique(labels)):
            count, components, boxes, _ = cv2.connectedComponentsWithStats(
                (labels == label).view(np.uint8), connectivity=8
            )
            for index in range(1, count):
                left, top, box_width, box_height = (int(value) for value in boxes[index][:4])
                window = np.s_[top : top + box_height, left : left + box_width]
                inside = components[window] == index
                covered = rows.weights[window[0]] @ inside @ columns.weights[window[1]]
                area = float(covered) / (width * height)
                if area < self._decision.minimum_region_area or not covered:
                    labels[window][inside] = 0
                    continue
                x, y = int(columns.starts[left]), int(rows.starts[top])
                yield Region(
                    self._classes[label - 1].name,
                    x,
                    y,
                    int(columns.starts[left + box_width]) - x,
                    int(rows.starts[top + box_height]) - y,
                    area,
                    self._peak(float(map_[window][inside].max())),
                )

    def _peak(self, raw: float) -> float:
        if self._manifest.task == "anomaly_map":
            return _calibrated(self._decision.calibration, raw)
        return min(max(raw, 0.0), 1.0)

    def _verdict(self, score: float, found: Optional[bool]) -> Prediction:
        if math.isnan(score):
            raise NotNumbers("The model's score isn't a number (NaN); check the model.")
        anomalous = self._is_anomalous(bool(np.float32(score) >= self._threshold), found)
        confidence = score if anomalous else 1.0 - score
        return Prediction(
            is_anomalous=anomalous,
            confidence=max(confidence, LEAST_CONFIDENCE),
            score=score,
            threshold=self._decision.threshold,
            model_version=self._manifest.version,
            is_unsure=self._is_unsure(score, found),
        )

    def _is_anomalous(self, by_score: bool, found: Optional[bool]) -> bool:
        return {
            "score": by_score,
            "mask": by_score if found is None else found,
            "either": by_score or bool(found),
            "both": by_score and found is not False,
        }[self._decision.verdict]

    def _is_unsure(self, score: float, found: Optional[bool]) -> bool:
        """Whether the score lies in the grey band, and the verdict depends on it.

        A threshold that was moved out of the band has left it: the band is that of another one.
        """
        band = self._decision.grey_band
        if band is None or not band.low <= self._decision.threshold <= band.high:
            return False
        depends = self._is_anomalous(True, found) != self._is_anomalous(False, found)
        return depends and band.low <= score < band.high

    def _areas(self, labels: Labels, width: int, height: int) -> Tuple[Anomaly, ...]:
        columns, rows = spread(labels.shape[1], width), spread(labels.shape[0], height)
        areas: List[Anomaly] = []
        for label, entry in enumerate(self._classes, start=1):
            pixels = float(rows.weights @ (labels == label) @ columns.weights)
            if pixels:
                areas.append(Anomaly(entry.name, pixels / (width * height), entry.color))
        rest = 1.0 - sum(anomaly.area for anomaly in areas)
        return (Anomaly(BACKGROUND_NAME, max(rest, 0.0), BACKGROUND_COLOR), *areas)

    def _paint(self, labels: Labels, mask: Labels) -> None:
        """Fill `mask` (height, width, 3) with the class colours, white where nothing was found.

        Only rows with a finding are written twice; a mask is mostly white.
        """
        height, width = mask.shape[:2]
        columns, rows = spread(labels.shape[1], width), spread(labels.shape[0], height)
        mask.fill(255)
        for row in np.flatnonzero(labels.any(axis=1)):
            line = np.repeat(self._colors[labels[row]], columns.weights, axis=0)
            mask[rows.starts[row] : rows.starts[row + 1]] = line


def _calibrated(calibration: Optional[Calibration], raw: float) -> float:
    if calibration is None:
        return min(max(raw, 0.0), 1.0) if not math.isnan(raw) else raw
    exponent = -(calibration.scale * raw + calibration.shift)
    return 1.0 / (1.0 + math.exp(min(exponent, 700.0)))


def _inverse(calibration: Optional[Calibration], value: float) -> float:
    """Return the raw value that calibration turns into `value`."""
    if calibration is None:
        return value
    if value in (0.0, 1.0):
        return math.copysign(math.inf, value - 0.5)
    return (math.log(value / (1.0 - value)) - calibration.shift) / calibration.scale


def _slices(zone: Zone, shape: Tuple[int, ...]) -> Tuple[slice, slice]:
    height, width = shape
    return (
        slice(math.floor(zone.top * height), math.ceil((zone.top + zone.height) * height)),
        slice(math.floor(zone.left * width), math.ceil((zone.left + zone.width) * width)),
    )


def _rgb(color: str) -> Tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
