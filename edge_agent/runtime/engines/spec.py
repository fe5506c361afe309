"""How the engine of a package is built: what packaging wrote, or what its batch sizes say."""

from __future__ import annotations

from typing import Optional, Tuple

from edge_agent.manifest import Manifest
from edge_agent.runtime.vision.preprocess import item_shape
from edge_agent.targets import BuildSpec, Precision, Profile

TIMING_CACHE = "timing.cache"
# what is tried one after the other
STEPS: Tuple[Precision, ...] = ("int8", "fp16", "fp32")


def build_spec(manifest: Manifest) -> BuildSpec:
    """Return the package's own settings, else those of a model straight from training.

    Such a model has no calibration pictures: int8 can only be its graph's own.
    """
    if manifest.build is not None:
        return manifest.build
    precision = manifest.runtime.precision
    return BuildSpec(
        precision=precision,
        quantised=precision == "int8",
        profiles=profiles(manifest, None),
        timing_cache=TIMING_CACHE,
    )


def profiles(manifest: Manifest, fixed_batch: Optional[int]) -> Tuple[Profile, ...]:
    """Return one profile a batch size: the kernels of each are chosen for that very size.

    fixed_batch: the graph's, None where it is free.
    """
    spec = manifest.input
    item = item_shape(spec)
    found, smallest = [], fixed_batch or 1
    for batch in sorted(set(manifest.runtime.batch_sizes)):
        found.append(
            Profile(
                tensor=spec.tensor,
                minimum=(smallest, *item),
                optimum=(batch, *item),
                maximum=(batch, *item),
            )
        )
        smallest = batch + 1
    return tuple(found)


def ladder(spec: BuildSpec) -> Tuple[BuildSpec, ...]:
    """Return `spec` and those with more and more exact numbers, which are tried when it fails."""
    return tuple(_at(spec, precision) for precision in STEPS[STEPS.index(spec.precision) :])


def _at(spec: BuildSpec, precision: Precision) -> BuildSpec:
    calibration = spec.calibration if precision == "int8" else ()
    half = spec.half if precision == "fp16" else None
    changes = {"precision": precision, "calibration": calibration, "half": half}
    return spec.model_copy(update=changes)
