"""The TensorRT engine, built beforehand on a machine that is exactly like the target.

Builders measure what is fastest, so an engine isn't the same bytes each time. It is built in the
packaging process itself; should TensorRT bring that down, the job is FAILED on the next look.
"""

from __future__ import annotations

import platform
from typing import Callable, Dict, Mapping, Tuple

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.manifest import InputSpec
from edge_agent.packaging.graph.findings import Finding, note, warning
from edge_agent.runtime.backends import trt_options
from edge_agent.runtime.backends.cuda.driver import Driver, Gpu, open_driver
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import EngineBuilder, library
from edge_agent.runtime.engines.make import make
from edge_agent.runtime.engines.plan import release
from edge_agent.targets import MACHINES, BuildSpec, TargetSpec

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
) -> Tuple[Files, Finding]:
    """Return the files to add to the package, and what there is to tell of it.

    The files are engines/ID.engine and engines/ID.json, its fingerprint; none unless this machine
    has the target's processor family, GPU generation and TensorRT. calibration: the package's
    pictures by path. Takes seconds to many minutes. Raises InvalidPackage when TensorRT can't read
    the graph, which it won't on the target either.
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
    unlike = _unlike(gpu, trt.__version__, target, is_portable)
    if unlike:
        return {}, note(f"The device builds its engine itself: {unlike}.")
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


def _unlike(gpu: Gpu, tensorrt: str, target: TargetSpec, is_portable: bool) -> str:
    """Say in what this machine isn't the target; empty when it is."""
    machine, wanted = platform.machine(), MACHINES[target.arch]
    if machine != wanted:
        return f"this machine is {machine}, the target {wanted}"
    if gpu.code != target.gpu_code and not is_portable:
        return f"this machine's {gpu.name} is {gpu.code}, the target {target.gpu_code}"
    if release(tensorrt) != target.trt_ver:
        return f"this machine has TensorRT {tensorrt}, the target {target.trt_ver}"
    return ""
