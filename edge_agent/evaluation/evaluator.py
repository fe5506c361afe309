"""Inspects labelled images with a package, exactly as the agent with default settings serves it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import cv2
import numpy as np

from edge_agent.config import CameraProblemSettings
from edge_agent.errors import InvalidConfiguration, InvalidFrame
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ALL, ANOMALY, NORMAL, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages, holds
from edge_agent.evaluation.masks import Masks
from edge_agent.manifest import Manifest
from edge_agent.pictures import listing
from edge_agent.pictures.listing import LeftOut
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.models.inference_unit import DecisionInForce
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.camera_problem_rule import CameraProblemRule
from edge_agent.runtime.vision.light import measure
from edge_agent.runtime.vision.preprocess import check_size, item_shape, write_input
from edge_agent.types import Frame, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKENDS = ("onnxruntime",)


@dataclass(frozen=True)
class EvaluationReport:
    """How well a package does on labelled images.

    Scores are calibrated; precision, recall and f1 are of the verdicts as served, best_f1 is what
    the best threshold would give. pixel_auroc needs masks. latency_ms: median of one image on one
    thread, without reading the file. camera_problems: images in which the agent finds one.
    left_out: files that weren't inspected.
    """

    model: str
    version: str
    count_normal: int
    count_anomaly: int
    image_auroc: float
    average_precision: float
    threshold: float
    precision: float
    recall: float
    f1: float
    best_f1: float
    best_threshold: float
    false_alarms: int
    missed: int
    pixel_auroc: Optional[float]
    latency_ms: float
    camera_problems: int = 0
    left_out: Tuple[LeftOut, ...] = ()

    def to_dict(self) -> Dict[str, object]:
        """Return the figures as JSON has them, and the images that couldn't be inspected."""
        refused = [item for item in self.left_out if item.is_picture]
        images = [{"image": str(item.path), "reason": item.reason} for item in refused]
        return {**asdict(self), "left_out": images}


@dataclass(frozen=True)
class _Inspected:
    path: Path
    prediction: Prediction
    values: Optional[NDArray[np.float32]]  # raw anomaly map (h, w)
    latency_ms: float


class Predictor:
    """A package opened for one frame at a time; a context manager that frees the engine."""

    def __init__(self, package: Path) -> None:
        opened = Package(package)
        self.manifest: Manifest = opened.manifest
        self._backend: Backend = open_backend(
            BACKENDS, opened.read_model(), self.manifest, BackendOptions(threads=1)
        )
        self._in_force = DecisionInForce(self.manifest, golden_check.read_pictures(opened))
        self._on_problem = CameraProblemRule(CameraProblemSettings())
        spec = self.manifest.input
        self._batch = np.empty((1, *item_shape(spec)), np.dtype(spec.dtype))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend.close()

    def predict(self, frame: Frame) -> Tuple[Prediction, Mapping[str, NDArray[np.float32]]]:
        """Return the verdict as served and the raw outputs it was made of."""
        pixels = write_input(frame, self.manifest.input, self._batch[0])
        problems = self._in_force.input_check.judge(measure(pixels), camera="")
        outputs = self._backend.run(self._batch)
        judged = self._in_force.postprocessor.predict(outputs, 0, frame.width, frame.height)
        answer = self._on_problem.apply(replace(judged, camera_problems=problems), judged.mask)
        return answer, outputs


def evaluate(
    package: Path,
    source: Path,
    options: ManifestOptions = ALL,
    on_remark: Callable[[str], None] = lambda _: None,
    on_prediction: Callable[[Path, Prediction], None] = lambda *_: None,
) -> EvaluationReport:
    """Inspect `source`/normal and `source`/anomaly, or what a label manifest names, with `package`.

    on_remark: gets remarks about labels and images. on_prediction: gets each image's verdict.
    Images that can't be used are left out. Raises InvalidConfiguration when there are no images of
    one kind, and what opening a package raises.
    """
    found = LabelledImages.of(source, options)
    for remark in found.remarks:
        on_remark(remark)
    _check(source, len(found.normal), len(found.anomaly), found.findings)
    with Predictor(package) as predictor:
        reader = PictureReader(
            (*found.normal, *found.anomaly),
            lambda item: on_remark(str(item)),
            predictor.manifest.statistics.image_bits,
        )
        normal = list(_inspected(predictor, reader, found.normal, on_prediction))
        anomaly = list(_inspected(predictor, reader, found.anomaly, on_prediction))
        findings = (*found.findings, listing.sentence(reader.left_out))
        _check(source, len(normal), len(anomaly), findings)
        masks = Masks.of(source, [item.path for item in anomaly], on_remark)
        report = _report(predictor.manifest, normal, anomaly, masks)
    for remark in (*reader.remarks, *_on_cameras((*normal, *anomaly))):
        on_remark(remark)
    return replace(report, left_out=(*found.left_out, *reader.left_out))


def _check(source: Path, normal: int, anomaly: int, findings: Iterable[str]) -> None:
    """Raise InvalidConfiguration when a label has no images: the findings may explain it."""
    for label, count in ((NORMAL, normal), (ANOMALY, anomaly)):
        if not count:
            needed = "evaluation needs normal and anomalous ones."
            raise InvalidConfiguration(
                " ".join((f"{holds(source, label, count)}; {needed}", *filter(None, findings)))
            )


def _inspected(
    predictor: Predictor,
    reader: PictureReader,
    paths: Iterable[Path],
    on_prediction: Callable[[Path, Prediction], None],
) -> Iterator[_Inspected]:
    """Inspect what can be read and what the agent would take."""
    for path, frame in reader.frames(paths):
        try:
            check_size(frame.width, frame.height, predictor.manifest.input)
        except InvalidFrame as error:
            reader.refuse(path, str(error).rstrip("."))
        else:
            item = _inspect(predictor, path, frame)
            on_prediction(path, item.prediction)
            # Thousands of masks would fill the memory.
            yield replace(item, prediction=replace(item.prediction, mask=None))


def _inspect(predictor: Predictor, path: Path, frame: Frame) -> _Inspected:
    began = time.perf_counter()
    prediction, outputs = predictor.predict(frame)
    latency_ms = (time.perf_counter() - began) * 1000.0
    name = predictor.manifest.outputs.map if predictor.manifest.task == "anomaly_map" else None
    values = outputs[name][0] if name else None
    return _Inspected(
        path, prediction, None if values is None else values.reshape(values.shape[-2:]), latency_ms
    )


def _report(
    manifest: Manifest, normal: List[_Inspected], anomaly: List[_Inspected], masks: Masks
) -> EvaluationReport:
    good, bad = _scores(normal), _scores(anomaly)
    alarms, found = _alarms(normal), _alarms(anomaly)
    served = metrics.precision_recall(alarms, found)
    best, best_threshold = metrics.best_f1(good, bad)
    return EvaluationReport(
        model=manifest.name,
        version=manifest.version,
        count_normal=len(normal),
        count_anomaly=len(anomaly),
        image_auroc=metrics.auroc(good, bad),
        average_precision=metrics.average_precision(good, bad),
        threshold=manifest.decision.threshold,
        precision=served.precision,
        recall=served.recall,
        f1=served.f1,
        best_f1=best,
        best_threshold=best_threshold,
        false_alarms=sum(alarms),
        missed=len(found) - sum(found),
        pixel_auroc=_pixel_auroc(anomaly, masks),
        latency_ms=float(np.median([item.latency_ms for item in (*normal, *anomaly)])),
        camera_problems=len(_with_problems((*normal, *anomaly))),
    )


def _with_problems(inspected: Iterable[_Inspected]) -> List[_Inspected]:
    return [item for item in inspected if item.prediction.camera_problems]


def _on_cameras(inspected: Iterable[_Inspected]) -> Iterator[str]:
    """Yield what the agent says of the pictures themselves, if anything."""
    found = _with_problems(inspected)
    kinds = Counter(kind.value for item in found for kind in item.prediction.camera_problems)
    if found:
        yield (
            f"The agent finds camera problems in {len(found)} of the images "
            f"({', '.join(f'{kind}: {count}' for kind, count in kinds.items())}), in "
            f"{listing.shown(found[0].path)} first. Of these it calls black, dark, bright and "
            "blank ones anomalous, unless decision.camera_problem says otherwise."
        )


def _scores(inspected: Sequence[_Inspected]) -> List[float]:
    return [item.prediction.score for item in inspected]


def _alarms(inspected: Sequence[_Inspected]) -> List[bool]:
    return [item.prediction.is_anomalous for item in inspected]


def _pixel_auroc(anomaly: Sequence[_Inspected], masks: Masks) -> Optional[float]:
    """Rank the map's values at the map's size."""
    good: List[NDArray[np.float32]] = []
    bad: List[NDArray[np.float32]] = []
    for item in anomaly:
        mask = None if item.values is None else masks.of_image(item.path)
        if mask is None or item.values is None:
            continue
        height, width = item.values.shape
        defect = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 127
        good.append(item.values[~defect])
        bad.append(item.values[defect])
    if not sum(values.size for values in bad) or not sum(values.size for values in good):
        return None
    return metrics.auroc(np.concatenate(good), np.concatenate(bad))
