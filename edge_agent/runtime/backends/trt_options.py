"""What TensorRT can be asked for from 8.6 on: looked for in it, left out where it lacks it.

What is relied on, by NVIDIA's "Engine Compatibility" (docs.nvidia.com/deeplearning/tensorrt/latest/
inference-library/engine-compatibility.html), the comments of NvInfer.h, and trtexec's checks:
HardwareCompatibilityLevel.AMPERE_PLUS makes engines for compute capability 8.0 and newer, and isn't
supported on JetPack. VERSION_COMPATIBLE is for Volta and newer; it puts the lean runtime, code for
the CPU, into the engine. Both need the parser's own InstanceNormalization in place of the plugin.
"""

from __future__ import annotations

import logging
from typing import List, Optional

from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.trt_api import TrtModule, TrtObject
from edge_agent.targets import BuildSpec

log = logging.getLogger(__name__)

AMPERE = (8, 0)


def is_portable(gpu: Gpu) -> bool:
    """Whether engines built on `gpu` can be for other GPUs as well, and those of others for it."""
    return gpu.capability >= AMPERE and not gpu.is_integrated


def prepare(trt: TrtModule, parser: TrtObject, spec: BuildSpec) -> None:
    """Keep plugins out of the network, before it is parsed, where the engine can't have them."""
    if (spec.hardware_compatible or spec.version_compatible) and hasattr(trt, "OnnxParserFlag"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)


def set_options(
    trt: TrtModule, config: TrtObject, spec: BuildSpec, dla_core: Optional[int]
) -> None:
    """Ask for what `spec` wants; the log has what isn't possible, and the build goes on without.

    Engines of a DLA are for that very device.
    """
    missing: List[str] = []
    if spec.optimisation_level is not None:
        if hasattr(config, "builder_optimization_level"):
            config.builder_optimization_level = spec.optimisation_level
        else:
            missing.append("optimisation levels")
    if spec.hardware_compatible:
        if hasattr(config, "hardware_compatibility_level") and dla_core is None:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        else:
            missing.append("hardware compatibility")
    if spec.version_compatible:
        if hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE") and dla_core is None:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        else:
            missing.append("version compatibility")
    if missing:
        where = f"TensorRT {trt.__version__}" + ("" if dla_core is None else " on the DLA")
        log.warning("%s lacks %s; the engine is built without.", where, " and ".join(missing))
