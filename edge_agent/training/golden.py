"""Golden samples: pictures with their results, that every engine must reproduce on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.manifest import Decision, GoldenSample, Manifest
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.vision.picture_files import png
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.training import synthetic_defects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

BACKENDS = ("onnxruntime",)
FOLDER = "golden"
MOST = 16  # samples in a package
CANDIDATES = 12  # pictures of each kind to choose from
MARGIN = 0.1  # by so much a threshold may be moved without another verdict


@dataclass(frozen=True)
class _Candidate:
    picture: Pixels
    result: golden_check.GoldenResult
    stable: bool  # an engine that is nearly right gives the same verdict


def samples(
    model: bytes, manifest: Manifest, pictures: Sequence[Pixels], most: int = MOST
) -> Tuple[Tuple[GoldenSample, ...], Dict[str, bytes]]:
    """Return `manifest.golden` and the files it names by path, of `most` pictures or fewer.

    pictures: uint8 RGB (H, W, 3) of the model's input size. Those left out are so near a threshold
    that a good engine might give the other verdict. Among the others normal and anomalous ones are
    taken in turn, the nearest to the threshold first: there the score matters most. The results are
    made by the same steps as in the agent. Raises ModelError.
    """
    stable = [each for each in _inspect(model, manifest, pictures) if each.stable]
    chosen = _choose(stable, manifest.decision.threshold, most)
    paths = [f"{FOLDER}/{index}.png" for index in range(len(chosen))]
    golden = tuple(each.result.to_sample(path) for path, each in zip(paths, chosen))
    return golden, {path: png(each.picture) for path, each in zip(paths, chosen)}


def candidates(normal: Pixels, anomaly: Pixels, seed: int) -> List[Pixels]:
    """Draw some training images (n, H, W, 3) of each kind; artificial defects where none is bad."""
    random = np.random.default_rng(seed)
    bad = anomaly if len(anomaly) else synthetic_defects.add_defects(normal, random)[0]
    return [*_draw(normal, random), *_draw(bad, random)]


def _draw(images: Pixels, random: np.random.Generator) -> Pixels:
    count = min(len(images), CANDIDATES)
    return images[np.sort(random.choice(len(images), count, replace=False))]


def _inspect(model: bytes, manifest: Manifest, pictures: Sequence[Pixels]) -> List[_Candidate]:
    backend = open_backend(BACKENDS, model, manifest, BackendOptions(threads=1))
    try:
        return [
            _Candidate(
                picture,
                golden_check.GoldenResult.of(outputs, index, manifest),
                _is_stable(outputs, index, manifest),
            )
            for picture, (outputs, index) in zip(
                pictures, golden_check.run(backend, manifest, pictures, count=1)
            )
        ]
    finally:
        backend.close()


def _is_stable(outputs: golden_check.Outputs, index: int, manifest: Manifest) -> bool:
    """Whether the verdict stays when both thresholds move by MARGIN either way."""
    verdicts = set()
    for shift in (-MARGIN, MARGIN):
        moved = manifest.model_copy(update={"decision": _moved(manifest.decision, shift)})
        spec = manifest.input
        prediction = Postprocessor(moved).predict(outputs, index, spec.width, spec.height)
        verdicts.add(prediction.is_anomalous)
    return len(verdicts) == 1


def _moved(decision: Decision, shift: float) -> Decision:
    names = ("threshold", "pixel_threshold")
    values = {name: min(max(getattr(decision, name) + shift, 0.0), 1.0) for name in names}
    return decision.model_copy(update=values)


def _choose(stable: Sequence[_Candidate], threshold: float, most: int) -> List[_Candidate]:
    nearest = sorted(stable, key=lambda each: abs(each.result.score - threshold))
    normal = [each for each in nearest if not each.result.anomalous]
    anomalous = [each for each in nearest if each.result.anomalous]
    few = min(len(normal), len(anomalous))
    in_turn = [each for pair in zip(normal, anomalous) for each in pair]
    return [*in_turn, *normal[few:], *anomalous[few:]][:most]
