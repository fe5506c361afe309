"""A worker whose GPU context breaks on demand: `faulty_worker FILE ...`, the rest as `trt_worker`.

As soon as FILE is there, it is deleted and a kernel that writes to address 0 comes before the next
batch, as a faulty kernel of a library would.
"""

from __future__ import annotations

import sys
from ctypes import CDLL, byref, c_uint, c_void_p
from pathlib import Path
from typing import ClassVar, List

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends import trt_worker
from edge_agent.runtime.backends.cuda.by_ctypes import LIBRARY
from edge_agent.runtime.backends.trt_loop import EngineLoop, Slot

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

    def submit(self, slot: Slot, count: int) -> None:
        """Enqueue the batch, behind the fault when it is triggered."""
        if self.trigger.exists():
            self.trigger.unlink()
            launch_fault(self._compute)
        super().submit(slot, count)


def launch_fault(stream: int) -> None:
    """Put the kernel into `stream`, in the current context. Raises GpuFailed."""
    cuda, module, function = CDLL(LIBRARY), c_void_p(), c_void_p()
    one, nothing = c_uint(1), c_uint(0)
    code = (
        cuda.cuModuleLoadData(byref(module), KERNEL)
        or cuda.cuModuleGetFunction(byref(function), module, b"write_to_zero")
        or cuda.cuLaunchKernel(
            function, one, one, one, one, one, one, nothing, c_void_p(stream), None, None
        )
    )
    if code:
        raise GpuFailed.after(f"The faulty kernel can't be launched ({code}).", code, False)


def main(arguments: List[str]) -> int:
    """Serve as `trt_worker` does, with a loop that can break."""
    FaultyLoop.trigger = Path(arguments[0])
    trt_worker.EngineLoop = FaultyLoop  # type: ignore[attr-defined]
    return trt_worker.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
