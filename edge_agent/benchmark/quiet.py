"""What batching costs a quiet line: one camera on a model with its batch sizes and on the same
model with batches of one, block by block."""  # noqa: D205, D209

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

import numpy as np

from edge_agent.benchmark.calls import BLOCK
from edge_agent.benchmark.served import MODEL, Camera, agent
from edge_agent.manifest import FILE_NAME


@dataclass(frozen=True)
class QuietLine:
    """Median ms of a call, over shared memory, and what batching adds to it."""

    batch_sizes: str
    with_batching_p50_ms: float
    without_p50_ms: float
    added_p50_ms: float


def quiet_line(package: Path, frame: Path, units: int, threads: int, rounds: int) -> QuietLine:
    """Measure `rounds` calls of each kind; `package` must be a folder."""
    image = np.load(frame)
    times_s: Dict[str, List[float]] = {"with": [], "without": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-agent-quiet-")))
        packages = {"with": package, "without": folder / "unbatched"}
        sizes = _unbatched(package, packages["without"])
        cameras = {}
        for kind, path in packages.items():
            address = stack.enter_context(agent(path, units, threads))
            cameras[kind] = stack.enter_context(Camera(address, MODEL, image))
        for block in range(1 + rounds // BLOCK):
            for kind, camera in cameras.items():
                for _ in range(BLOCK):
                    began_s = time.perf_counter()
                    camera.by_shared_memory()
                    if block:  # the first block warms caches and mappings
                        times_s[kind].append(time.perf_counter() - began_s)
    batched, unbatched = (1000 * float(np.median(times_s[kind])) for kind in ("with", "without"))
    return QuietLine(sizes, batched, unbatched, batched - unbatched)


def _unbatched(package: Path, copy: Path) -> str:
    """Copy `package` with batches of one only; return the batch sizes it had."""
    shutil.copytree(package, copy)
    manifest = json.loads((copy / FILE_NAME).read_text())
    runtime = manifest.setdefault("runtime", {})
    sizes = ", ".join(map(str, runtime.get("batch_sizes", [1])))
    runtime["batch_sizes"] = [1]
    (copy / FILE_NAME).write_text(json.dumps(manifest))
    return sizes
