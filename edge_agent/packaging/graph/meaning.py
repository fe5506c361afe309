"""Do the outputs mean what the manifest says? The graph is run on pictures, and its values read.

A wrong meaning fails no call: every part is anomalous, or none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence

import numpy as np

from edge_agent.errors import ModelError, ParityFailed
from edge_agent.evaluation import metrics
from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.findings import GraphFinding, error, note, warning
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.vision.postprocess import Postprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Values = NDArray[np.float32]

ROUNDING = 1e-3  # by so much calibrated values may leave 0 to 1
FEWEST = 4  # pictures that show something by giving the same
REVERSED = 0.3  # AUROC of labelled pictures; a coin has 0.5
SPAN = 8.0  # of the sigmoid: from 0.02 to 0.98
SYNTHETIC = "synthetic pictures"


@dataclass(frozen=True)
class SamplePictures:
    """Pictures of the model's input size, uint8 RGB; whether each is anomalous, None: unknown."""

    pictures: Sequence[Picture]
    anomalous: Sequence[Optional[bool]]
    what: str  # for people: "synthetic pictures"

    @property
    def is_real(self) -> bool:
        """Whether a camera took them."""
        return self.what != SYNTHETIC

    @property
    def shows_both(self) -> bool:
        """Whether normal ones and anomalous ones are known to be among them."""
        return {True, False} <= set(self.anomalous)


def synthetic(height: int, width: int) -> SamplePictures:
    """Draw pictures as different as can be."""
    random = np.random.default_rng(0)
    levels = np.linspace(0, 255, width, dtype=np.uint8)
    ramp = np.broadcast_to(levels[:, None], (height, width, 3))
    rows, columns = np.indices((height, width))
    squares = (((rows // 8 + columns // 8) % 2) * 255).astype(np.uint8)
    colors = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (120, 128, 136)]
    pictures = [
        *(np.full((height, width, 3), color, np.uint8) for color in colors),
        np.ascontiguousarray(ramp),
        np.repeat(squares[..., None], 3, axis=2),
        random.integers(0, 256, (height, width, 3), np.uint8),
        random.integers(100, 156, (height, width, 3), np.uint8),
    ]
    return SamplePictures(pictures, [None] * len(pictures), SYNTHETIC)


def check(model: bytes, manifest: Manifest, samples: SamplePictures) -> Iterator[GraphFinding]:
    """Yield what the outputs and the manifest disagree in; nothing where the graph can't run."""
    try:
        found = _run(model, manifest, samples.pictures)
    except ParityFailed as fault:
        yield error(f"{fault} Make the golden samples again, or package the graph they are of.")
        return
    except ModelError as fault:
        yield note(f"What the outputs mean wasn't tested: {fault}")
        return
    what = f"{len(samples.pictures)} {samples.what}"
    broken = [name for name, values in found.outputs.items() if not np.isfinite(values).all()]
    if broken:
        named, isnt = _named(broken), "aren't numbers" if broken[1:] else "isn't a number"
        yield error(
            f"{named} {isnt} (NaN or infinite) on some of {what}; look for a division by 0 or a "
            "logarithm of 0 in the graph."
        )
        return
    if manifest.decision.calibration is None:
        yield from _uncalibrated(found.outputs, manifest, what, samples.is_real)
    yield from _same(model, manifest, samples, found.scores, what)
    yield from _labelled(found, samples, manifest)


@dataclass(frozen=True)
class _Found:
    """Raw values of each output by name, (n, ...); calibrated scores (n,)."""

    outputs: Dict[str, Values]
    scores: Values
    anomalous: List[bool]


def _run(model: bytes, manifest: Manifest, pictures: Sequence[Picture]) -> _Found:
    spec, names = manifest.input, manifest.outputs
    wanted = [name for name in (names.score, names.map, names.class_maps) if name]
    outputs: Dict[str, List[Values]] = {name: [] for name in wanted}
    scores, anomalous = [], []
    postprocessor = Postprocessor(manifest)
    backend = open_backend(["onnxruntime"], model, manifest, BackendOptions(threads=1))
    try:
        if manifest.golden:  # these are its pictures then
            golden_check.check(backend, manifest, pictures)
        for values, index in golden_check.run(backend, manifest, pictures, count=1):
            for name in wanted:
                outputs[name].append(values[name][index].copy())
            if all(np.isfinite(outputs[name][-1]).all() for name in wanted):
                verdict = postprocessor.predict(values, index, spec.width, spec.height)
                scores.append(verdict.score)
                anomalous.append(verdict.is_anomalous)
    finally:
        backend.close()
    arrays = {name: np.stack(values) for name, values in outputs.items()}
    return _Found(arrays, np.array(scores, np.float32), anomalous)


def _uncalibrated(
    outputs: Dict[str, Values], manifest: Manifest, what: str, is_real: bool
) -> Iterator[GraphFinding]:
    """Compare with 0 to 1; say which declaration fits."""
    read = [manifest.outputs.score]
    if manifest.task == "anomaly_map":  # classes are compared with each other
        read.append(manifest.outputs.map)
    names = [name for name in read if name is not None]
    outside = [name for name in names if not _is_calibrated(outputs[name])]
    if not outside:
        return
    low = min(float(outputs[name].min()) for name in outside)
    high = max(float(outputs[name].max()) for name in outside)
    gives = "give" if outside[1:] else "gives"
    sentences = [
        f"{_named(outside)} {gives} {low:.4g} to {high:.4g} on {what}; without "
        "decision.calibration the manifest says that all values lie between 0 and 1, so nearly "
        f"every part would get the same verdict. {_declaration(low, high)}"
    ]
    inside = [name for name in names if name not in outside]
    if inside:
        sentences.append(
            f"One calibration holds for all outputs, and {inside[0]!r} gives 0 to 1 already: name "
            "only one of them in outputs (score with task classification, or map)."
        )
    if not is_real:
        sentences.append(
            "If pictures of real parts give 0 to 1, show it with --golden-images FOLDER."
        )
    yield error(" ".join(sentences))


def _named(outputs: Sequence[str]) -> str:
    return f"Output{'s' if outputs[1:] else ''} {' and '.join(map(repr, outputs))}"


def _is_calibrated(values: Values) -> bool:
    return bool(values.min() >= -ROUNDING and values.max() <= 1.0 + ROUNDING)


def _declaration(low: float, high: float) -> str:
    limit, scale = (low + high) / 2.0, SPAN / (high - low) if high > low else 1.0
    logits = f"{_calibration(1.0, 0.0)} for logits, which are 0 at the limit; " if low < 0 else ""
    return (
        f"Declare in the manifest what they mean: {logits}{_calibration(scale, -scale * limit)} if "
        f"parts are anomalous from {limit:.4g} on (for another limit L the shift is "
        f"-{scale:.4g} x L)."
    )


def _calibration(scale: float, shift: float) -> str:
    numbers = {"scale": float(f"{scale:.4g}"), "shift": float(f"{shift:.4g}")}
    return json.dumps({"decision": {"calibration": numbers}})


def _differ(model: bytes, manifest: Manifest, score: float) -> bool:
    """Whether synthetic pictures get another score than `score`."""
    pictures = synthetic(manifest.input.height, manifest.input.width).pictures
    found = _run(model, manifest.model_copy(update={"golden": ()}), pictures)
    return bool((found.scores != score).any())


def _same(
    model: bytes, manifest: Manifest, samples: SamplePictures, scores: Values, what: str
) -> Iterator[GraphFinding]:
    """Find a score that says nothing, or only the verdict."""
    different = np.unique(scores)
    if len(scores) < FEWEST or len(different) > 2:
        return
    if len(different) == 1:
        names = manifest.outputs
        name = names.score or names.map or names.class_maps
        sentence = f"The score, of output {name!r}, is {scores[0]:.4g} on all of {what}"
        is_clipped = scores[0] in (0.0, 1.0)
        if is_clipped and not samples.is_real:
            yield warning(f"{sentence}; show with --golden-images FOLDER that real ones differ.")
        elif is_clipped and not samples.shows_both and _differ(model, manifest, float(scores[0])):
            yield warning(
                f"{sentence}. That is right if all are good parts, or all bad ones; pictures of "
                "both, in FOLDER/normal and FOLDER/anomaly, show whether it tells them apart."
            )
        else:
            yield error(
                f"{sentence}: it doesn't depend on the picture. Name another output in outputs, "
                "or export the graph again."
            )
    elif set(different.tolist()) == {0.0, 1.0}:
        yield warning(
            f"The scores are only 0 or 1 on {what}: if that is so on real parts, the graph gives "
            "verdicts, and no threshold changes them. Better name the output before its threshold."
        )


def _labelled(found: _Found, samples: SamplePictures, manifest: Manifest) -> Iterator[GraphFinding]:
    """Compare with what is known of the pictures."""
    labels = np.array([-1 if each is None else int(each) for each in samples.anomalous])
    normal, bad = found.scores[labels == 0], found.scores[labels == 1]
    name = manifest.outputs.score or manifest.outputs.map or manifest.outputs.class_maps
    if len(normal) and len(bad) and metrics.auroc(normal, bad) < REVERSED:
        yield error(
            f"The score, of output {name!r}, is higher on normal pictures (mean "
            f"{normal.mean():.3f}) than on anomalous ones ({bad.mean():.3f}): it says how normal a "
            "part is. For an "
            f'ONNX file declare in --manifest {{"outputs": {{"score": "1-{name}"}}}}, or of two '
            f'classes the other one, "{name}[0]" or "{name}[1]".'
        )
    elif (
        samples.is_real
        and len(samples.pictures) >= FEWEST
        and all(found.anomalous)
        and not all(samples.anomalous)
    ):
        yield warning(
            f"All of {len(samples.pictures)} {samples.what} are anomalous at the threshold "
            f"{manifest.decision.threshold:g}. If there are normal ones among them, correct "
            "decision.threshold or decision.calibration."
        )
