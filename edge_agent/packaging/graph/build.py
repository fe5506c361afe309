"""Settings with which an NVIDIA device builds its engine from the graph."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Sequence

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.graph.precision import is_quantised
from edge_agent.packaging.target import GpuOptions, Target
from edge_agent.runtime.engines.spec import profiles
from edge_agent.targets import BuildSpec

FIRST_TENSORRT = (8, 6)
# Jetson Orin, Thor (CUDA 12 and 13): NVIDIA supports hardware compatibility there in no JetPack
JETSON = ("sm_87", "sm_101", "sm_110")
AMPERE, VOLTA = 80, 70


@dataclass(frozen=True)
class Tuning:
    """What TensorRT offers from 8.6 on, as `BuildSpec` and the options of the same names have it.

    What may be combined with which machine: see `runtime/backends/trt_options.py`.
    """

    optimisation_level: Optional[int] = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def to_api(self) -> Dict[str, Any]:
        """Return what is set, under keys of our own."""
        return {
            "OptimisationLevel": self.optimisation_level,
            "HardwareCompatible": self.hardware_compatible or None,
            "VersionCompatible": self.version_compatible or None,
        }

    def check(self, target: Target) -> None:
        """Raise InvalidConfiguration when the target can't do what is set."""
        asked = [
            f"--{name.replace('_', '-')}"
            for name, value in asdict(self).items()
            if value is not None and value is not False
        ]
        why = self._obstacle(target) if asked else ""
        if why:
            raise InvalidConfiguration(f"{' and '.join(asked)} can't be used: {why}.")

    def _obstacle(self, target: Target) -> str:
        options = target.options
        if not isinstance(options, GpuOptions):
            return "only NVIDIA targets build a TensorRT engine; leave it out"
        if tuple(map(int, options.trt_ver.split(".")))[:2] < FIRST_TENSORRT:
            return f"the target's trt-ver is {options.trt_ver}, and TensorRT has it from 8.6 on"
        generation = int(re.sub(r"\D", "", options.gpu_code))
        if self.hardware_compatible and (generation < AMPERE or options.gpu_code in JETSON):
            return (
                f"engines of {options.gpu_code} fit that GPU only; TensorRT builds hardware-"
                "compatible ones for compute capability 8.0 and newer, and not on Jetson"
            )
        if self.version_compatible and generation < VOLTA:
            return f"the target is {options.gpu_code}, and TensorRT does it from sm_70 on"
        return ""


PLAIN = Tuning()


def build_spec(
    graph: Graph,
    manifest: Manifest,
    options: GpuOptions,
    calibration: Sequence[str],
    tuning: Tuning = PLAIN,
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
        **asdict(tuning),
    )
