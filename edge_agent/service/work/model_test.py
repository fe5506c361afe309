"""Tests a model on the images that are for it: each image's verdict, and the figures of all."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from edge_agent.errors import EdgeAgentError, InvalidPicture
from edge_agent.evaluation.label_words import NORMAL
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.work.anomaly_masks import (
    AnomalyMask,
    PixelMetrics,
    only_anomaly,
    truth_of,
)
from edge_agent.service.work.training_images import TEST, Fetched, Image

if TYPE_CHECKING:
    from edge_agent.evaluation.evaluator import EvaluationReport
    from edge_agent.types import Pixels, Prediction

WHITE = 255  # pixels of a model's mask where nothing is wrong

log = logging.getLogger(__name__)


@dataclass
class ModelTest:
    """What a model finds in the test images, each with the line of its dataset."""

    images: Fetched
    fetch_mask: Callable[[str], Path]  # of an s3://bucket/key; raises ValidationFailed
    found: List[Tuple[Dict[str, Any], Prediction]] = field(default_factory=list)
    pixels: Optional[PixelMetrics] = None

    def run(self, package: Path, folder: Path) -> EvaluationReport:
        """Inspect all of them; `folder` is for files meanwhile.

        Raises InvalidConfiguration: why they can't be used.
        """
        from edge_agent.evaluation.evaluator import evaluate

        lines = [image.line for image in self.images.images.values()]
        if any(map(AnomalyMask.of, lines)):
            self.pixels = PixelMetrics(*(only_anomaly(lines) or ())[:1])
        manifest = folder / "test.manifest"
        self.images.write_manifest(manifest)
        try:
            return evaluate(package, manifest, on_remark=log.info, on_prediction=self._keep)
        except EdgeAgentError as error:
            raise self.images.failure(error, manifest, TEST) from None

    def _keep(self, path: Path, prediction: Prediction) -> None:
        image = self.images.images[path]
        self.found.append((image.line, replace(prediction, mask=None)))
        if self.pixels is not None and prediction.mask is not None:
            try:
                self._compare(self.pixels, image, prediction.mask)
            except (ValidationFailed, InvalidPicture) as error:
                log.info("An image is counted without its mask: %s", error)

    def _compare(self, pixels: PixelMetrics, image: Image, marked: Pixels) -> None:
        """Count the pixels of an image whose mask is known; a good one has none marked."""
        from edge_agent.pictures.reader import read_samples

        mask = AnomalyMask.of(image.line)
        found = (marked != WHITE).any(axis=2)
        if mask is not None:
            truth = truth_of(read_samples(self.fetch_mask(mask.source)), mask)
            if truth.shape == found.shape:
                pixels.add(truth, found)
        elif image.label == NORMAL:
            pixels.add(found & False, found)
