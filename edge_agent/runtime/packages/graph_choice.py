"""Which of a package's graphs suits this machine: model.onnx, or one optimised for it beforehand.

An optimised graph holds what onnxruntime made of model.onnx for one instruction set, such as
weights in blocks of its vectors' width. Another release or processor may read it wrongly or not at
all, so both must be the very same.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import FrozenSet

from edge_agent.manifest import MODEL_FILE, Manifest

CPU_INFO = Path("/proc/cpuinfo")

# name, as in the target's mcpu → flags of /proc/cpuinfo that make it; the richest first
X86 = {
    "skylake-avx512": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "core-avx2": {"avx2", "fma"},
}
ARM = ("asimddp", "i8mm", "bf16", "sve")  # onnxruntime has kernels for each


@dataclass(frozen=True)
class GraphHost:
    """What loads the graph, and what it must be optimised for: engine version and processor."""

    engine_version: str
    instruction_set: str


def instruction_set(machine: str = platform.machine(), cpu_info: Path = CPU_INFO) -> str:
    """Return the processor's instruction set: skylake-avx512, core-avx2, arm64+asimddp, x86_64."""
    flags = _flags(cpu_info)
    if machine == "aarch64":
        return "+".join(("arm64", *(name for name in ARM if name in flags)))
    name = next((name for name, needed in X86.items() if needed <= flags), machine)
    partly = "avx512f" in flags and name != "skylake-avx512"
    return f"{name}+avx512f" if partly else name  # onnxruntime uses what there is of it


def choose_graph(manifest: Manifest, host: GraphHost) -> str:
    """Return the path, inside the package, of the graph that `host` should load."""
    optimised = manifest.optimised
    if optimised is None or (optimised.version, optimised.instruction_set) != (
        host.engine_version,
        host.instruction_set,
    ):
        return MODEL_FILE
    sources = [entry.sha256 for entry in manifest.files if entry.path == MODEL_FILE]
    return optimised.path if optimised.source in sources else MODEL_FILE


def _flags(cpu_info: Path) -> FrozenSet[str]:
    try:
        text = cpu_info.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def this_machine(engine: str) -> GraphHost:
    """Describe this machine to `choose_graph`; where `engine` isn't installed nothing fits it."""
    try:
        return GraphHost(version(engine), instruction_set())
    except PackageNotFoundError:
        return GraphHost("", "")
