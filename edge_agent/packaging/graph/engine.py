"""The TensorRT engine of an NVIDIA target: its build settings; the engine, if it can be built here.

Builders measure what is fastest, so an engine isn't the same bytes each time. It is built in the
packaging process itself; if TensorRT ends that process, the job is FAILED at the next look.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

from edge_agent.errors import BackendUnavailable, GpuFailed, InvalidConfiguration
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.packaging.graph.findings import GraphFinding, note, warning
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.target import GpuOptions, Target
from edge_agent.runtime.backends import trt_options
from edge_agent.runtime.backends.cuda.driver import Driver, Gpu, open_driver
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import EngineBuilder, library
from edge_agent.runtime.engines.make import make
from edge_agent.runtime.engines.plan import release
from edge_agent.runtime.engines.spec import profiles
from edge_agent.targets import MACHINES, BuildSpec, TargetSpec

FIRST_TENSORRT = (8, 6)
# Jetson Orin, Thor (CUDA 12 and 13): NVIDIA supports hardware compatibility there in no JetPack
JETSON = ("sm_87", "sm_101", "sm_110")
AMPERE, VOLTA = 80, 70


@dataclass(frozen=True)
class Tuning:
    """What TensorRT offers from 8.6 on, as `BuildSpec` and the options of the same names have it.

    What can be combined with which machine: see `runtime/backends/trt_options.py`.
    """

    optimisation_level: Optional[int] = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def to_api(self) -> Dict[str, Optional[int]]:
        """Return what is set, under keys of our own."""
        return {
            "OptimisationLevel": self.optimisation_level,
            "HardwareCompatible": self.hardware_compatible or None,
            "VersionCompatible": self.version_compatible or None,
        }

    def check(self, target: Target) -> None:
        """Raise InvalidConfiguration when the target can't do what is set."""
        options = [
            f"--{name.replace('_', '-')}"
            for name, value in asdict(self).items()
            if value is not None and value is not False
        ]
        obstacle = self._obstacle(target) if options else ""
        if obstacle:
            raise InvalidConfiguration(f"{' and '.join(options)} can't be used: {obstacle}.")

    def _obstacle(self, target: Target) -> str:
        options = target.options
        if not isinstance(options, GpuOptions):
            return "only NVIDIA targets build a TensorRT engine; leave it out"
        if tuple(map(int, options.trt_ver.split(".")))[:2] < FIRST_TENSORRT:
            return f"the target's trt-ver is {options.trt_ver}, and TensorRT has it since 8.6"
        generation = int(re.sub(r"\D", "", options.gpu_code))
        if self.hardware_compatible and (generation < AMPERE or options.gpu_code in JETSON):
            return (
                f"engines of {options.gpu_code} fit that GPU only; TensorRT builds hardware-"
                "compatible ones for compute capability 8.0 and newer, and not on Jetson"
            )
        if self.version_compatible and generation < VOLTA:
            return f"the target is {options.gpu_code}, and TensorRT supports it since sm_70"
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
    quantised = graph.is_quantised
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


FOLDER = "engines"
MIB = 1024 * 1024

Files = Dict[str, bytes]


def build_here(
    model: bytes,
    image: InputSpec,
    build: BuildSpec,
    target: TargetSpec,
    calibration: Mapping[str, bytes],
    open_cuda: Callable[[], Driver] = open_driver,
) -> Tuple[Files, GraphFinding]:
    """Return the files to add to the package, and what was built or why not.

    The files are engines/ID.engine and engines/ID.json, its fingerprint; none unless this machine
    has the target's processor family, GPU generation and TensorRT. calibration: the package's
    pictures by path. Takes seconds to many minutes. Raises InvalidPackage when TensorRT can't read
    the graph, as it can't on the target either.
    """
    if build.version_compatible:
        return {}, note(
            "The device builds its engine itself: a version-compatible one has code for the CPU "
            "inside, which a device only runs when it was built there."
        )
    try:
        cuda, trt = open_cuda(), library()
        gpu = cuda.gpu()
    except BackendUnavailable as error:
        return {}, note(f"The device builds its engine itself. {error}")
    is_portable = build.hardware_compatible and trt_options.is_portable(gpu)
    difference = _difference(gpu, trt.__version__, target, is_portable)
    if difference:
        return {}, note(f"The device builds its engine itself: {difference}.")
    pictures = [calibration[path] for path in build.calibration]
    try:
        with cuda.context():
            built = make(EngineBuilder(trt), cuda, model, image, build, pictures)
    except (BackendUnavailable, GpuFailed) as error:
        return {}, warning(f"The engine can't be built here; the device will try. {error}")
    fingerprint = Fingerprint.of(trt.__version__, gpu, model, build, pictures)
    name = f"{FOLDER}/{fingerprint.id}"
    files = {f"{name}.engine": built.engine, f"{name}.json": fingerprint.to_json()}
    return files, note(
        f"The package has an engine for {gpu.name} with TensorRT {trt.__version__}, "
        f"{len(built.engine) / MIB:.1f} MiB; other devices build their own"
        + (", unless their GPU is of compute capability 8.0 or newer." if is_portable else ".")
    )


def _difference(gpu: Gpu, tensorrt: str, target: TargetSpec, is_portable: bool) -> str:
    """Return how this machine differs from the target; empty when it doesn't."""
    machine, wanted = platform.machine(), MACHINES[target.arch]
    if machine != wanted:
        return f"this machine is {machine}, the target {wanted}"
    if gpu.code != target.gpu_code and not is_portable:
        return f"this machine's {gpu.name} is {gpu.code}, the target {target.gpu_code}"
    if release(tensorrt) != target.trt_ver:
        return f"this machine has TensorRT {tensorrt}, the target {target.trt_ver}"
    return ""
