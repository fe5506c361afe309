"""The two files that tell how a model did on its test images, as the original wrote them.

See the developer guide, "Performance metrics". The manifest has the test images' lines with what
the model found in them; the result has the figures of all of them together.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, NamedTuple, Optional, Tuple

from edge_agent.evaluation.label_words import ANOMALY, NORMAL

if TYPE_CHECKING:
    from edge_agent.evaluation.evaluator import EvaluationReport
    from edge_agent.service.work.anomaly_masks import PixelMetrics
    from edge_agent.types import Prediction

MANIFEST, RESULT = FILES = ("EvaluationManifest", "EvaluationResult")
DETECTED = "anomaly-label-detected"
MOST_NAME = 200  # characters of the project's name in a key: a file's name is limited to 255


class Evaluated(NamedTuple):
    """Which model was evaluated, and when (UTC)."""

    arn: str
    project: str
    version: str
    ended: datetime

    @property
    def timestamp(self) -> str:
        """The time as the files have it."""
        return self.ended.replace(tzinfo=None).isoformat()


def key(kind: str, prefix: str, project: str, version: str) -> str:
    """Return the key of MANIFEST or RESULT below the prefix of the output."""
    folder, name = prefix.rstrip("/"), f"{kind}-{project[:MOST_NAME]}-{version}.json"
    return f"{folder}/{name}" if folder else name


def write_manifest(
    file: Path, model: Evaluated, found: Iterable[Tuple[Dict[str, Any], Prediction]]
) -> None:
    """Write a line for each image: that of its dataset with the verdict added."""
    with file.open("w") as manifest:
        for line, prediction in found:
            manifest.write(json.dumps({**line, **_detected(model, prediction)}) + "\n")


def _detected(model: Evaluated, prediction: Prediction) -> Mapping[str, object]:
    metadata = {
        "class-name": ANOMALY if prediction.is_anomalous else NORMAL,
        "confidence": round(prediction.confidence, 6),
        "type": "groundtruth/image-classification",
        "human-annotated": "no",
        "creation-date": model.timestamp,
        "job-name": "training-job/anomaly-detection",
        "model-arn": model.arn,
        "project-name": model.project,
        "model-version": model.version,
    }
    return {DETECTED: int(prediction.is_anomalous), f"{DETECTED}-metadata": metadata}


def write_result(
    file: Path,
    model: Evaluated,
    trained: int,
    report: EvaluationReport,
    pixels: Optional[PixelMetrics],
) -> None:
    """Write the figures; `trained`: how many images the model was trained with.

    `pixels`: None where no test image has a mask.
    """
    details = {
        "ModelArn": model.arn,
        "EvaluationEndTimestamp": model.timestamp,
        "NumberOfTrainingImages": trained,
        "NumberOfTestingImages": report.count_normal + report.count_anomaly,
    }
    figures: Dict[str, object] = {
        "ROCAUC": report.image_auroc,
        "AveragePrecision": report.average_precision,
        "Precision": report.precision,
        "Recall": report.recall,
        "F1Score": report.f1,
    }
    if pixels is not None:
        figures["PixelAnomalyClassMetrics"] = [pixels.to_json()]
    content = {
        "Version": 1,
        "EvaluationDetails": details,
        "AggregatedEvaluationResults": {"Metrics": figures},
    }
    file.write_text(json.dumps(content))
