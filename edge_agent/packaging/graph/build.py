"""Settings with which an NVIDIA device builds its engine from the graph."""

from __future__ import annotations

from typing import Sequence, Tuple

from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.graph.precision import is_quantised
from edge_agent.packaging.target import GpuOptions
from edge_agent.runtime.vision.preprocess import item_shape
from edge_agent.targets import BuildSpec, Profile


def build_spec(
    graph: Graph, manifest: Manifest, options: GpuOptions, calibration: Sequence[str]
) -> BuildSpec:
    """Derive the settings; `calibration` names pictures in the package."""
    quantised = is_quantised(graph)
    return BuildSpec(
        precision=manifest.runtime.precision,
        quantised=quantised,
        calibration=() if quantised else tuple(calibration),
        profiles=_profiles(graph, manifest),
        timing_cache=f"timing-{options.gpu_code}-{options.trt_ver}.cache",
    )


def _profiles(graph: Graph, manifest: Manifest) -> Tuple[Profile, ...]:
    """Return one profile a batch size: the kernels of each are chosen for that very size."""
    spec = manifest.input
    item = item_shape(spec)
    (image,) = graph.inputs
    fixed = image.shape[0] if image.shape else None
    profiles, smallest = [], fixed or 1
    for batch in sorted(set(manifest.runtime.batch_sizes)):
        profiles.append(
            Profile(
                tensor=spec.tensor,
                minimum=(smallest, *item),
                optimum=(batch, *item),
                maximum=(batch, *item),
            )
        )
        smallest = batch + 1
    return tuple(profiles)
