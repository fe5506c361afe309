"""Micro models with golden samples, and engines that compute them wrongly, one fault each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Dict, List

import numpy as np
import onnx
from onnx import numpy_helper

from edge_agent.errors import BackendUnavailable, InferenceFailed
from edge_agent.manifest import MODEL_FILE, FileEntry, Manifest
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.training import golden
from tests.fakes import micro

Outputs = Dict[str, np.ndarray]


def draw(red: int, blue: int) -> np.ndarray:
    """A dark frame with a red and a blue spot of these values."""
    random = np.random.default_rng(red)
    picture = random.integers(20, 40, (micro.SIZE, micro.SIZE, 3), dtype=np.uint8)
    picture[8:30, 10:50, 0] = red
    picture[36:60, 4:30, 2] = blue
    return picture


GOOD, BAD = draw(70, 50), draw(230, 60)


def draw_even(red: int) -> np.ndarray:
    """A frame of one colour; classification scores it red / 255."""
    return np.full((micro.SIZE, micro.SIZE, 3), (red, 90, 0), np.uint8)


PICTURES = {
    "classification": [draw_even(80), draw_even(170)],
    "anomaly_map": [GOOD, BAD],
    "segmentation": [GOOD, BAD],
}


def write(folder: Path, task: str, **changes: Any) -> Path:
    """Write a package with golden samples; `changes` are in the manifest before they are made."""
    model = micro.graph(task)
    plain = Manifest.model_validate(micro.manifest(task, model, **changes))
    samples, pictures = golden.samples(model, plain, PICTURES[task])
    for path, content in pictures.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    files = {MODEL_FILE: model, **pictures}
    changes["golden"] = [sample.model_dump() for sample in samples]
    changes["files"] = [FileEntry.of(*file).model_dump() for file in files.items()]
    return micro.write(folder, task, model, **changes)


class Faulty(OrtBackend):
    """Counts what was opened and closed, by class."""

    opened: ClassVar[List[str]] = []
    closed: ClassVar[List[str]] = []

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        super().__init__(model, manifest, options)
        self.opened.append(type(self).__name__)

    def _close(self) -> None:
        self.closed.append(type(self).__name__)
        super()._close()


class Swapped(Faulty):
    """Takes red for blue."""

    name = "swapped"

    def _run(self, batch: np.ndarray) -> Outputs:
        return super()._run(np.ascontiguousarray(batch[..., ::-1]))


class Unscaled(Faulty):
    """Normalises wrongly."""

    name = "unscaled"

    def _run(self, batch: np.ndarray) -> Outputs:
        return super()._run(batch // 2)


class Coarse(Faulty):
    """Has INT8 ranges that don't fit: 16 steps are left of the outputs."""

    name = "coarse"

    def _run(self, batch: np.ndarray) -> Outputs:
        outputs = super()._run(batch)
        return {name: (np.floor(values * 16) / 16) for name, values in outputs.items()}


class Quantised(Faulty):
    """Keeps all weights in INT8, with one range for each tensor."""

    name = "quantised"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        graph = onnx.load_from_string(model)
        for tensor in graph.graph.initializer:
            weights = numpy_helper.to_array(tensor)
            if weights.dtype == np.float32 and weights.ndim > 1 and weights.any():
                step = np.abs(weights).max() / 127
                coarse = (np.rint(weights / step) * step).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
        super().__init__(graph.SerializeToString(), manifest, options)


class Half(Faulty):
    """Computes in FP16, as well as that goes."""

    name = "half"

    def _run(self, batch: np.ndarray) -> Outputs:
        outputs = super()._run(batch)
        return {key: each.astype(np.float16).astype(np.float32) for key, each in outputs.items()}


class Moved(Faulty):
    """Finds the right score at the wrong place."""

    name = "moved"

    def _run(self, batch: np.ndarray) -> Outputs:
        outputs = super()._run(batch)
        return {key: np.roll(each, 8, -1) if each.ndim > 1 else each
                for key, each in outputs.items()}  # fmt: skip


class Mixed(Faulty):
    """Answers the frames of a batch in another order."""

    name = "mixed"

    def _run(self, batch: np.ndarray) -> Outputs:
        return {name: values[::-1] for name, values in super()._run(batch).items()}


class Numberless(Faulty):
    """Overflows."""

    name = "numberless"

    def _run(self, batch: np.ndarray) -> Outputs:
        outputs = super()._run(batch)
        return {key: np.full_like(each, np.nan) for key, each in outputs.items()}


class Failing(Faulty):
    """Opens and can't compute."""

    name = "failing"

    def _run(self, batch: np.ndarray) -> Outputs:
        raise InferenceFailed("The engine is out of its mind.")


class Missing(Faulty):
    """Isn't installed."""

    name = "missing"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        raise BackendUnavailable("Its library isn't installed.")


ENGINES = {
    engine.name: f"{__name__}:{engine.__name__}"
    for engine in (
        Swapped, Unscaled, Coarse, Quantised, Half, Moved, Mixed, Numberless, Failing, Missing,
    )
}  # fmt: skip
