"""What this machine has for models on a GPU, found out in a short process of its own.

Neither the driver nor TensorRT is ever loaded into the agent for this: they take memory, and they
may crash or hang. `python -m edge_agent.runtime.engines.machine` is that process; it tells each
fact as soon as it knows it, so that what it found before it died isn't lost.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from edge_agent.errors import ModelError
from edge_agent.runtime.backends.cuda.driver import L4T, Gpu, open_driver
from edge_agent.runtime.backends.trt_engine import library
from edge_agent.targets import MACHINES

MODULE = "edge_agent.runtime.engines.machine"
RELEASE = Path("/etc/nv_tegra_release")  # of L4T, there on every Jetson
SYSTEM_PACKAGES = Path("/usr/lib")  # where apt puts Python's: python3.8/dist-packages
ENDING_S = 5.0  # a killed process may still wait for the driver

Facts = Dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Facts, and sentences that name what brings the missing ones.

    arch: ARM64 or X86_64, else the kernel's own word. gpu: the first; None: `no_gpu` says why not.
    tensorrt: its version; empty: `no_tensorrt` says why not. cuda_package: through what CUDA is
    called. has_fp16_flag: TensorRT itself rounds a float32 graph; else the graph must have float16.
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
    lines, trouble = _ask(timeout_s)
    told: Facts = {"no_gpu": trouble, "no_tensorrt": trouble}
    for line in lines:
        told.update(_read(line))
    here = platform.machine()
    names = {machine: arch for arch, machine in MACHINES.items()}
    return Machine(arch=names.get(here, here), jetson=_jetson(), **told)


def _ask(timeout_s: float) -> Tuple[List[str], str]:
    """Return what the process told, and why it told no more."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
        ending = _ending(process.returncode)
    except subprocess.TimeoutExpired:
        output, errors = _end(process)
        ending = f"didn't finish within {timeout_s:g} s; the driver may hang, see dmesg"
    lines = errors.decode(errors="replace").strip().splitlines()
    reason = f": {lines[-1][:300]}" if lines else ""
    return output.decode(errors="replace").splitlines(), (
        f"The process that looks for the GPU and TensorRT {ending}{reason}. "
        f"Try it by hand: {sys.executable} -m {MODULE}"
    )


def _end(process: subprocess.Popen[bytes]) -> Tuple[bytes, bytes]:
    """Kill it; one that waits inside the driver ends only when the driver answers."""
    process.kill()
    try:
        return process.communicate(timeout=ENDING_S)
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", error.stderr or b""


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _read(line: str) -> Facts:
    """Return the facts of a line; none when it is something that a library printed."""
    try:
        facts = json.loads(line)
        if "gpu" in facts:
            facts["gpu"]["capability"] = tuple(facts["gpu"]["capability"])
            facts["gpu"] = Gpu(**facts["gpu"])
        Machine("", **facts)
    except (ValueError, TypeError, KeyError):
        return {}
    return dict(facts)


def _jetson(release: Path = RELEASE) -> str:
    try:
        found = L4T.match(release.read_text())
    except OSError:
        return ""
    return "R{}.{}".format(*found.groups()) if found else "R?"


def main() -> None:
    """Tell the facts, a JSON object a line; what libraries print goes to stderr."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        looks: Tuple[Callable[[], Facts], ...] = (_gpu, _tensorrt)
        for each in looks:
            out.write(json.dumps(each()) + "\n")
            out.flush()


def _gpu() -> Facts:
    try:
        driver = open_driver()
        return {"gpu": asdict(driver.gpu()), "no_gpu": "", "cuda_package": driver.name}
    except ModelError as error:
        return {"no_gpu": str(error)}


def _tensorrt() -> Facts:
    if find_spec("tensorrt") is None:
        return {"no_tensorrt": _bringer(_jetson())}
    try:
        trt = library()
    except ModelError as error:
        return {"no_tensorrt": str(error)}
    has_flag = hasattr(trt.BuilderFlag, "FP16")
    return {"tensorrt": str(trt.__version__), "no_tensorrt": "", "has_fp16_flag": has_flag}


def _bringer(jetson: str, packages: Path = SYSTEM_PACKAGES) -> str:
    """Say what brings TensorRT."""
    if not jetson:
        return (
            "TensorRT isn't installed; pip install tensorrt-cu12 (or -cu13, as the driver's CUDA) "
            "brings it from NVIDIA's package index."
        )
    found = sorted(packages.glob("python3*/dist-packages/tensorrt"))
    if found:
        return (
            f"TensorRT is installed, but for the system's {found[-1].parts[-3]}, and this Python "
            f"{platform.python_version()} doesn't see it. Make the environment anew: "
            f"{found[-1].parts[-3]} -m venv --system-site-packages."
        )
    return (
        "TensorRT isn't installed; sudo apt install python3-libnvinfer brings it, and "
        "nvidia-jetpack all of JetPack. Environments see it when made with --system-site-packages."
    )


if __name__ == "__main__":
    main()
