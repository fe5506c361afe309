"""A worker whose GPU context breaks on demand: `faulty_worker FILE ...`, the rest as `trt_worker`.

As soon as FILE is there, it is deleted and a kernel that writes to address 0 comes before the next
batch, as a faulty kernel of a library would.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar, List, Sequence

from edge_agent.runtime.backends import trt_worker
from edge_agent.runtime.backends.trt_loop import EngineLoop, FrameIn, Slot

ONE = (1, 1, 1)
NAME = "write_to_zero"
KERNEL = b"""
.version 6.0
.target sm_60
.address_size 64
.visible .entry write_to_zero()
{
    .reg .b64 %address;
    .reg .b32 %value;
    mov.b64 %address, 0;
    mov.b32 %value, 1;
    st.global.b32 [%address], %value;
    ret;
}
"""


class FaultyLoop(EngineLoop):
    """The loop, with the fault."""

    trigger: ClassVar[Path]

    def submit(self, slot: Slot, count: int, frames: Sequence[FrameIn] = ()) -> None:
        """Enqueue the batch, behind the fault when it is triggered."""
        if self.trigger.exists():
            self.trigger.unlink()
            fault = self._driver.load_function(KERNEL, NAME)
            self._driver.launch(fault, ONE, ONE, (), self._compute)
        super().submit(slot, count, frames)


def main(arguments: List[str]) -> int:
    """Serve as `trt_worker` does, with a loop that can break."""
    FaultyLoop.trigger = Path(arguments[0])
    trt_worker.EngineLoop = FaultyLoop  # type: ignore[attr-defined]
    return trt_worker.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
