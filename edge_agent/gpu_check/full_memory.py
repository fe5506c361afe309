"""`full_memory ENGINE`: loads an engine while the GPU's memory is full; a process of its own.

Writes one JSON object: how much was `taken` (bytes), the sentence with which the engine was
`refused`, null when it wasn't, and whether it `works` when there is memory again.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, List, Tuple

from edge_agent.errors import EdgeAgentError, GpuFailed
from edge_agent.runtime.backends.cuda.driver import Driver, open_driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_engine import library
from edge_agent.runtime.backends.trt_loop import EngineLoop

SMALLEST = 16 * 1024


def main(arguments: List[str]) -> int:
    """Compute, fill the memory, try, free it, try again."""
    engine, driver, trt = Path(arguments[0]).read_bytes(), open_driver(), library()
    with driver.context():
        compute(trt, driver, engine)  # libraries then hold all that they ever do
        taken, refused = fill(driver), None
        total = sum(size for _, size in taken)
        try:
            compute(trt, driver, engine)
        except EdgeAgentError as error:
            refused = str(error)
        for address, _ in taken:
            driver.free(address)
        compute(trt, driver, engine)
    sys.stdout.write(json.dumps({"taken": total, "refused": refused, "works": True}) + "\n")
    return 0


def fill(driver: Driver) -> List[Tuple[int, int]]:
    """Allocate until nothing is left; returns (address, size) of each piece."""
    size = driver.free_bytes()
    taken: List[Tuple[int, int]] = []
    while size >= SMALLEST:
        try:
            taken.append((driver.allocate(size), size))
        except GpuFailed as error:
            if error.is_sticky:
                raise
            size //= 2
    return taken


def compute(trt: Any, driver: Driver, engine: bytes) -> None:
    """Load the engine and compute one batch of black pictures. Raises EdgeAgentError."""
    with ExitStack() as owned:
        loop = EngineLoop(trt, driver, engine)
        owned.callback(loop.close)
        layout = SlotLayout(loop.tensors, loop.max_batch)
        memory = owned.enter_context(mmap.mmap(-1, layout.size))
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        slot = loop.open_slot(address, layout)
        owned.callback(loop.close_slot, slot)
        loop.submit(slot, loop.max_batch)
        loop.wait(slot)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
