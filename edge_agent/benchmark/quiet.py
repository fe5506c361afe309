"""What batching costs a quiet line: one camera on an agent that batches and on one that doesn't,
block by block."""  # noqa: D205, D209

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

import numpy as np

from edge_agent.benchmark.calls import BLOCK
from edge_agent.benchmark.served import MODEL, Camera, agent
from edge_agent.runtime.packages.package import Package


@dataclass(frozen=True)
class QuietLine:
    """Median ms of a call, over shared memory, and what batching adds to it."""

    batch_sizes: str
    with_batching_p50_ms: float
    without_p50_ms: float
    added_p50_ms: float


def quiet_line(package: Path, frame: Path, units: int, threads: int, rounds: int) -> QuietLine:
    """Measure `rounds` calls of each kind."""
    image = np.load(frame)
    times_s: Dict[str, List[float]] = {"true": [], "false": []}
    with ExitStack() as stack:
        cameras = {}
        for batches in times_s:
            served = agent(package, units, threads, f"engine.cpu_batches={batches}")
            camera = Camera(stack.enter_context(served), MODEL, image)
            cameras[batches] = stack.enter_context(camera)
        for block in range(1 + rounds // BLOCK):
            for batches, camera in cameras.items():
                for _ in range(BLOCK):
                    began_s = time.perf_counter()
                    camera.by_shared_memory()
                    if block:  # the first block warms caches and mappings
                        times_s[batches].append(time.perf_counter() - began_s)
    on_ms, off_ms = (1000 * float(np.median(times)) for times in times_s.values())
    sizes = Package(package).manifest.runtime.batch_sizes
    return QuietLine(", ".join(map(str, sizes)), on_ms, off_ms, on_ms - off_ms)
