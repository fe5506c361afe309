"""For which machine a component was made and how an engine is built there: parts of the manifest.

`edge-agent package` writes them; a package straight from training has none.
"""

from __future__ import annotations

from typing import Optional, Tuple

from pydantic import Field, model_validator
from typing_extensions import Annotated, Literal

from edge_agent.fields import Strict

Precision = Literal["fp32", "fp16", "int8"]
Shape = Tuple[Annotated[int, Field(ge=1)], ...]

MACHINES = {"X86_64": "x86_64", "ARM64": "aarch64"}  # a target's arch → the kernel's word for it


class TargetSpec(Strict):
    """The machine, in the words of the packaging API.

    device: TargetDevice, such as jetson_xavier; empty when a platform was named. os, arch,
    accelerator: TargetPlatform. The others are CompilerOptions, with the defaults put in: gpu_code
    (sm_72), trt_ver (8.5.2) and cuda_ver (11.4) of NVIDIA targets, mcpu (core-avx2) and mattr
    (+neon) of CPU targets.
    """

    device: str = ""
    os: Literal["LINUX"]
    arch: Literal["ARM64", "X86_64"]
    accelerator: Optional[Literal["NVIDIA"]] = None
    gpu_code: Optional[str] = None
    trt_ver: Optional[str] = None
    cuda_ver: Optional[str] = None
    mcpu: Optional[str] = None
    mattr: Tuple[str, ...] = ()


class Profile(Strict):
    """Shapes of one input that an engine is built for: TensorRT's optimisation profile.

    Whole shapes, the batch first: (4, 256, 256, 3). Every batch between minimum and maximum can be
    computed, that of the optimum fastest.
    """

    tensor: str
    minimum: Shape
    optimum: Shape
    maximum: Shape

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        axes = list(zip(self.minimum, self.optimum, self.maximum))
        lengths = {len(self.minimum), len(self.optimum), len(self.maximum)}
        if len(lengths) > 1 or any(not low <= best <= high for low, best, high in axes):
            raise ValueError("minimum, optimum and maximum must be shapes in rising order")
        return self


class BuildSpec(Strict):
    """How the device builds its engine from model.onnx.

    precision: the smallest that layers may use. quantised: the graph says its int8 ranges itself,
    in QuantizeLinear and DequantizeLinear. calibration: else paths of pictures in the package (PNG,
    RGB, the model's input size) to find the int8 ranges with. profiles: one a batch size, in rising
    order; every batch up to the largest fits exactly one. timing_cache: name of the file in which
    the device keeps what it measured; models for the same GPU and TensorRT share it. half: path in
    the package of the same graph with float16 inside, for TensorRT that takes its precision from
    the graph alone (from 11 on).

    From TensorRT 8.6 on; others build without. optimisation_level: how long it looks for fast
    kernels, None: its own choice. hardware_compatible: for every GPU of compute capability 8.0 and
    newer, Jetson's apart. version_compatible: for later releases of the same major version as well.
    """

    precision: Precision
    quantised: bool = False
    calibration: Tuple[str, ...] = ()
    profiles: Annotated[Tuple[Profile, ...], Field(min_length=1)]
    timing_cache: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    half: Optional[str] = None
    optimisation_level: Optional[Annotated[int, Field(ge=0, le=5)]] = None
    hardware_compatible: bool = False
    version_compatible: bool = False


class OptimisedGraph(Strict):
    """A second graph, for one engine and processor; model.onnx serves wherever it doesn't fit.

    path: in the package. version: the engine's. instruction_set: as `runtime/graph_choice.py`
    names the machine's. source: sha-256 of the model.onnx it was made of.
    """

    path: str
    engine: Literal["onnxruntime"] = "onnxruntime"
    version: Annotated[str, Field(min_length=1)]
    instruction_set: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
