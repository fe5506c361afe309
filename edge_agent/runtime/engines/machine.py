"""What this machine has for models on a GPU, found out in a short process of its own.

Neither the driver nor TensorRT is ever loaded into the agent for this: they take memory, and they
may crash or hang. `python -m edge_agent.runtime.engines.machine` is that process.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

from edge_agent.errors import GpuFailed, ModelError
from edge_agent.runtime.backends import trt_loading
from edge_agent.runtime.backends.cuda.by_ctypes import LIBRARY, NO_DRIVER
from edge_agent.runtime.backends.cuda.driver import L4T, Gpu, open_driver
from edge_agent.runtime.backends.trt_api import TrtModule
from edge_agent.runtime.backends.trt_engine import library
from edge_agent.runtime.processes.channel import Message
from edge_agent.runtime.processes.inquiry import ask
from edge_agent.runtime.processes.parent import answering
from edge_agent.targets import MACHINES

MODULE = "edge_agent.runtime.engines.machine"
LINKER_CACHE = Path("/etc/ld.so.cache")  # names of all libraries in it, as ldconfig found them
LINKER_FOLDERS = [
    f"{root}/{folder}"
    for root in ("", "/usr")
    for folder in ("lib", "lib64", f"lib/{platform.machine()}-linux-gnu")
]
RELEASE = Path("/etc/nv_tegra_release")  # of L4T, there on every Jetson
SYSTEM_PACKAGES = Path("/usr/lib")  # where apt puts Python's: python3.8/dist-packages


@dataclass(frozen=True)
class Machine:
    """Facts, and sentences that say how to get the missing ones.

    arch: ARM64 or X86_64, else the kernel's own word. gpu: the first; None: `no_gpu` says why not.
    tensorrt: its version; empty: `no_tensorrt` says why not, be it that it doesn't work with this
    driver, which only a GPU shows. cuda_package: through what CUDA is called. has_fp16_flag:
    TensorRT itself rounds a float32 graph; else the graph must have float16.
    jetson: release of L4T, "R35.3.1", empty elsewhere.
    """

    arch: str
    gpu: Optional[Gpu] = None
    no_gpu: str = ""
    tensorrt: str = ""
    no_tensorrt: str = ""
    cuda_package: str = ""
    has_fp16_flag: bool = False
    jetson: str = ""


def look(timeout_s: float = 60.0) -> Machine:
    """Ask what is here; raises nothing: that the process failed is a sentence as well."""
    reported, ending = ask(MODULE, "looks for the GPU and TensorRT", timeout_s)
    facts: Message = {"no_gpu": ending, "no_tensorrt": ending}
    for each in reported:
        facts.update(each)
    if "gpu" in facts:
        capability = tuple(facts["gpu"]["capability"])
        facts["gpu"] = Gpu(**{**facts["gpu"], "capability": capability})
    return Machine(arch=_arch(), jetson=_jetson(), **facts)


def look_briefly() -> Machine:
    """As `look`, which takes half a second, but at once where no driver is installed."""
    if has_driver():
        return look()
    return Machine(arch=_arch(), no_gpu=NO_DRIVER, jetson=_jetson())


def has_driver(linker_cache: Path = LINKER_CACHE) -> bool:
    """Whether the dynamic linker knows the driver's library; True when that isn't known."""
    named = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    if any((Path(folder) / LIBRARY).exists() for folder in (*named, *LINKER_FOLDERS)):
        return True
    try:
        return LIBRARY.encode() in linker_cache.read_bytes()
    except OSError:
        return True


def _arch() -> str:
    here = platform.machine()
    return {machine: arch for arch, machine in MACHINES.items()}.get(here, here)


def _jetson(release: Path = RELEASE) -> str:
    try:
        found = L4T.match(release.read_text())
    except OSError:
        return ""
    return "R{}.{}".format(*found.groups()) if found else "R?"


def main() -> None:
    """Report the facts."""
    with answering() as report:
        gpu = _gpu()
        report(gpu)
        report(_tensorrt(has_gpu="gpu" in gpu))


def _gpu() -> Message:
    try:
        driver = open_driver()
        return {"gpu": asdict(driver.gpu()), "no_gpu": "", "cuda_package": driver.name}
    except ModelError as error:
        return {"no_gpu": str(error)}


def _tensorrt(has_gpu: bool) -> Message:
    if find_spec("tensorrt") is None:
        return {"no_tensorrt": _how_to_install(_jetson())}
    try:
        trt = library()
        if has_gpu:
            _try(trt)
    except ModelError as error:
        return {"no_tensorrt": str(error)}
    has_flag = hasattr(trt.BuilderFlag, "FP16")
    return {"tensorrt": str(trt.__version__), "no_tensorrt": "", "has_fp16_flag": has_flag}


def _try(trt: TrtModule) -> None:
    """Raise BackendUnavailable when it was loaded, but can't work with this driver."""
    with suppress(GpuFailed), open_driver().context():  # a GPU that fails says nothing of TensorRT
        trt_loading.runtime(trt, None)


def _how_to_install(jetson: str, packages: Path = SYSTEM_PACKAGES) -> str:
    """Say how to install TensorRT."""
    if not jetson:
        return (
            "TensorRT isn't installed. Install it from NVIDIA's package index: pip install "
            "tensorrt-cu12 (or -cu13, as the driver's CUDA)."
        )
    found = sorted(packages.glob("python3*/dist-packages/tensorrt"))
    if found:
        return (
            f"TensorRT is installed, but for the system's {found[-1].parts[-3]}, and this Python "
            f"{platform.python_version()} doesn't see it. Create the environment again: "
            f"{found[-1].parts[-3]} -m venv --system-site-packages."
        )
    return (
        "TensorRT isn't installed. Install it with sudo apt install python3-libnvinfer (or all of "
        "JetPack: nvidia-jetpack), and make Python environments with --system-site-packages."
    )


if __name__ == "__main__":
    main()
