"""Does an engine give back what the model gave when it was made? Asked before it serves.

A package's golden samples are some of the model's own pictures with the results they had. Score and
verdict are compared, and the anomaly map in 64 parts, where an engine goes wrong that still finds
the same peak. Measured on trained models: releases of onnxruntime, its optimisations and numbers of
threads differ by 0.0001 of a score at most, FP16 in every tensor by 0.03. Exchanged colours, a
wrong normalisation or one INT8 range for each tensor change a score or a part of a map by 0.25 and
more.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidPackage, NotNumbers, ParityFailed
from edge_agent.manifest import GoldenSample, Manifest
from edge_agent.runtime.backends.base import Backend
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.picture_files import read_png
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Outputs = Mapping[str, NDArray[Any]]

PARTS = 8  # of a map, each way
STEPS = 255  # a part's mean is stored as one byte
MOST_NAMED = 5  # differences in a message; the log has all
HALF_A_STEP = 0.5 / STEPS  # how far a stored mean is from the true one at most


@dataclass(frozen=True)
class GoldenResult:
    """What an engine makes of one picture; `grids` (n, PARTS, PARTS), 0 to 1, n = 0 for none."""

    score: float
    anomalous: bool
    grids: NDArray[np.float64]

    @classmethod
    def of(cls, outputs: Outputs, index: int, manifest: Manifest) -> GoldenResult:
        """Judge picture `index` of a batch. Raises NotNumbers when something is no number."""
        spec = manifest.input
        prediction = Postprocessor(manifest).predict(outputs, index, spec.width, spec.height)
        grids = _grids(outputs, index, manifest)
        if np.isnan(grids).any():
            raise NotNumbers("The model's map isn't made of numbers (NaN); check the model.")
        return cls(prediction.score, prediction.is_anomalous, grids)

    @classmethod
    def of_sample(cls, sample: GoldenSample) -> GoldenResult:
        """Read what is wanted."""
        values = np.frombuffer(sample.grids, np.uint8)
        return cls(sample.score, sample.anomalous, values.reshape(-1, PARTS, PARTS) / STEPS)

    def to_sample(self, image: str) -> GoldenSample:
        """Make it the reference for the picture that lies at `image` in the package."""
        values = np.rint(self.grids * STEPS).astype(np.uint8).tobytes()
        encoded = base64.b64encode(values).decode() or None
        return GoldenSample(image=image, score=self.score, anomalous=self.anomalous, map=encoded)


@dataclass(frozen=True)
class Difference:
    """One line of the table; `size` is how far apart the two are, 1.0 for another verdict."""

    image: str
    what: str
    wanted: str
    got: str
    tolerance: float
    size: float

    @classmethod
    def of_numbers(
        cls, image: str, what: str, wanted: float, got: float, tolerance: float
    ) -> Difference:
        """Describe two numbers that are too far apart."""
        apart = abs(float(got - wanted))
        return cls(image, what, f"{wanted:.4f}", f"{got:.4f}", tolerance, apart)

    def __str__(self) -> str:
        return f"{self.what} of {self.image} is {self.got}, not {self.wanted}"


def read_pictures(package: Package) -> List[Pixels]:
    """Return the golden samples' pictures. Raises InvalidPackage: which one can't be used."""
    spec, pictures = package.manifest.input, []
    for sample in package.manifest.golden:
        try:
            picture = read_png(package.read(sample.image), spec.width, spec.height)
        except ValueError as error:
            raise InvalidPackage(
                f"{package.path}: the golden sample {sample.image} can't be used: {error}."
            ) from None
        pictures.append(picture)
    return pictures


def run(
    backend: Backend, manifest: Manifest, pictures: Sequence[Pixels], count: int
) -> Iterator[Tuple[Outputs, int]]:
    """Compute the pictures, `count` at a time; yield the outputs and the place of each picture.

    pictures: uint8 RGB of the model's input size.
    """
    spec = manifest.input
    for start in range(0, len(pictures), count):
        some = pictures[start : start + count]
        batch = np.empty((len(some), *item_shape(spec)), spec.dtype)
        for picture, slot in zip(some, batch):
            write_input(Frame(picture), spec, slot)
        outputs = backend.try_out(batch)
        for index in range(len(some)):
            yield outputs, index


def check(backend: Backend, manifest: Manifest, pictures: Sequence[Pixels]) -> None:
    """Let the engine judge the golden samples one at a time, and in its largest batches.

    manifest: the package's own, without a registration's decision. Raises ParityFailed, which
    names the worst differences and has all of them in its table, NotNumbers.
    """
    found: List[Difference] = []
    for count in sorted({1, backend.max_batch}):
        where = " in a batch" if count > 1 else ""
        places = run(backend, manifest, pictures, count)
        for sample, place in zip(manifest.golden, places):
            found += _differences(sample, GoldenResult.of(*place, manifest), manifest, where)
    if found:
        raise _failure(f"{backend.name} on {backend.device}", found, len(manifest.golden))


def _differences(
    sample: GoldenSample, got: GoldenResult, manifest: Manifest, where: str
) -> Iterator[Difference]:
    wanted, tolerance = GoldenResult.of_sample(sample), manifest.runtime.parity_tolerance
    if got.anomalous != wanted.anomalous:
        verdicts = (_verdict(wanted.anomalous), _verdict(got.anomalous))
        yield Difference(sample.image, f"verdict{where}", *verdicts, 0.0, 1.0)
    if abs(got.score - wanted.score) > tolerance:
        what = f"score{where}"
        yield Difference.of_numbers(sample.image, what, wanted.score, got.score, tolerance)
    for index, (was, now) in enumerate(zip(wanted.grids, got.grids)):
        apart = np.abs(now - was)
        row, column = np.unravel_index(int(apart.argmax()), apart.shape)
        if apart[row, column] > tolerance + HALF_A_STEP:
            name = manifest.anomaly_classes[index].name
            what = f"map of {name}{where}, row {row + 1}, column {column + 1}"
            yield Difference.of_numbers(
                sample.image, what, was[row, column], now[row, column], tolerance + HALF_A_STEP
            )


def _verdict(anomalous: bool) -> str:
    return "anomalous" if anomalous else "normal"


def _grids(outputs: Outputs, index: int, manifest: Manifest) -> NDArray[np.float64]:
    if manifest.task == "classification":
        return np.empty((0, PARTS, PARTS))
    names, calibration = manifest.outputs, manifest.decision.calibration
    if manifest.task == "segmentation":
        maps = outputs[names.class_maps or ""][index][1:].astype(np.float64)  # no background
    else:
        map_ = outputs[names.map or ""][index].astype(np.float64)
        maps = map_.reshape(1, *map_.shape[-2:])
        if calibration is not None:  # the sigmoid, in a form that can't overflow
            maps = 0.5 + 0.5 * np.tanh(0.5 * (calibration.scale * maps + calibration.shift))
    return _pooled(_pooled(np.clip(maps, 0.0, 1.0), 1), 2)


def _pooled(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the means of PARTS parts along an axis; a shorter axis counts values repeatedly."""
    edges = np.arange(PARTS + 1) * values.shape[axis] // PARTS
    counts = np.maximum(np.diff(edges), 1)  # of an empty part, reduceat returns its first value
    sums = np.add.reduceat(values, edges[:-1], axis)
    return np.asarray(sums / counts.reshape([-1 if each == axis else 1 for each in range(3)]))


def _failure(engine: str, found: Sequence[Difference], samples: int) -> ParityFailed:
    failed = {each.image for each in found}
    worst = sorted(found, key=lambda each: -each.size)[:MOST_NAMED]
    more = f"; and {len(found) - len(worst)} more; the log has all" if found[MOST_NAMED:] else ""
    return ParityFailed.showing(
        f"{engine} gives other results than the model's own for {len(failed)} of {samples} golden "
        f"samples: {'; '.join(map(str, worst))}{more}.",
        _table(found),
    )


def _table(found: Sequence[Difference]) -> str:
    rows: List[Tuple[str, ...]] = [("sample", "what", "reference", "got", "tolerance")]
    rows += [
        (each.image, each.what, each.wanted, each.got, f"{each.tolerance:g}") for each in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )
