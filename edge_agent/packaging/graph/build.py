"""Settings with which an NVIDIA device builds its engine from the graph."""

from __future__ import annotations

from typing import Sequence

from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.graph.precision import is_quantised
from edge_agent.packaging.target import GpuOptions
from edge_agent.runtime.engines.spec import profiles
from edge_agent.targets import BuildSpec


def build_spec(
    graph: Graph, manifest: Manifest, options: GpuOptions, calibration: Sequence[str]
) -> BuildSpec:
    """Derive the settings; `calibration` names pictures in the package."""
    quantised = is_quantised(graph)
    (image,) = graph.inputs
    fixed_batch = image.shape[0] if image.shape else None
    return BuildSpec(
        precision=manifest.runtime.precision,
        quantised=quantised,
        calibration=() if quantised else tuple(calibration),
        profiles=profiles(manifest, fixed_batch),
        timing_cache=f"timing-{options.gpu_code}-{options.trt_ver}.cache",
    )
