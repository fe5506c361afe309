"""Whole frames to the model's size on the GPU: the steps, and who starts the kernels for them.

The steps are those of `vision.preprocess`, and so are the pixels: every byte on x86-64. OpenCV has
arithmetic of its own for other processors; there some bytes differ by 1.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional

from edge_agent.manifest import InputSpec

if TYPE_CHECKING:
    from edge_agent.runtime.backends.cuda.driver import Driver

KERNELS = Path(__file__).parent / "cuda" / "resize.ptx"
BLOCK = (32, 8, 1)  # threads, each of which makes one pixel

# Where OpenCV leaves out shares of a thousandth of a pixel and less, the last bit of a double
# decides whether one of exactly that size counts. Halving these many columns or rows has some.
UNDECIDED = (2001, 4001)


class Step(NamedTuple):
    """One kernel run: its name in resize.cu, and the size that it makes."""

    kernel: str
    width: int
    height: int

    @property
    def size_bytes(self) -> int:
        """The size of what it makes."""
        return 3 * self.width * self.height


@dataclass(frozen=True)
class Resizing:
    """To which size frames come, and whether they are halved as often as possible before."""

    width: int
    height: int
    is_pyramid: bool

    @classmethod
    def of(cls, spec: InputSpec) -> Optional[Resizing]:
        """Return what a manifest asks for; None where the kernels have no such thing."""
        if (spec.dtype, spec.layout) != ("uint8", "NHWC") or spec.resize == "area":
            return None
        return cls(spec.width, spec.height, spec.resize == "pyramid")

    def can(self, width: int, height: int) -> bool:
        """Tell whether a frame of this size becomes what the CPU makes of it."""
        for step in self._halvings(width, height):
            if (width in UNDECIDED and step.width < width) or (
                height in UNDECIDED and step.height < height
            ):
                return False
            width, height = step.width, step.height
        return True

    def steps(self, width: int, height: int) -> List[Step]:
        """Return what is done to a frame, at least one thing."""
        steps = list(self._halvings(width, height))
        if steps:
            width, height = steps[-1].width, steps[-1].height
            if (width, height) == (self.width, self.height):
                return steps
        is_half = (width, height) == (2 * self.width, 2 * self.height)  # OpenCV takes the mean
        return [*steps, Step("halve" if is_half else "linear", self.width, self.height)]

    def _halvings(self, width: int, height: int) -> Iterator[Step]:
        while self.is_pyramid and (width > 2 * self.width or height > 2 * self.height):
            width = width // 2 if width > 2 * self.width else width
            height = height // 2 if height > 2 * self.height else height
            yield Step("halve", width, height)


class Resizer:
    """The kernels, and memory for what they make on the way; one for frames up to `frame_bytes`.

    Used within the driver's context; raises GpuFailed as the driver does.
    """

    def __init__(self, driver: Driver, resizing: Resizing, frame_bytes: int) -> None:
        self._driver, self._resizing = driver, resizing
        ptx = KERNELS.read_bytes()
        self._functions = {name: driver.load_function(ptx, name) for name in ("halve", "linear")}
        # Each step but the last at least halves what it gets: together they are smaller than it.
        self._scratch = driver.allocate(frame_bytes)

    def launch(self, source: int, width: int, height: int, target: int, stream: int) -> None:
        """Enqueue making the model's input at `target` of the frame at `source`.

        Device addresses: source uint8 RGB (height, width, 3) of at most `frame_bytes`, target uint8
        of the model's size. All launches of one Resizer go into the same stream.
        """
        *before, last = self._resizing.steps(width, height)
        place = self._scratch
        for step in before:
            self._launch(step, source, width, height, place, stream)
            source, width, height = place, step.width, step.height
            place += step.size_bytes
        self._launch(last, source, width, height, target, stream)

    def close(self) -> None:
        """Give the memory back; nothing launched may be under way."""
        self._driver.free(self._scratch)

    def _launch(
        self, step: Step, source: int, width: int, height: int, target: int, stream: int
    ) -> None:
        arguments: List[Any] = [
            ctypes.c_uint64(source), ctypes.c_int(width), ctypes.c_int(height),
            ctypes.c_uint64(target), ctypes.c_int(step.width), ctypes.c_int(step.height),
        ]  # fmt: skip
        if step.kernel == "linear":  # the scales, rounded as OpenCV's are
            arguments.append(ctypes.c_double(1 / (step.width / width)))
            arguments.append(ctypes.c_double(1 / (step.height / height)))
        grid = (_blocks(step.width, BLOCK[0]), _blocks(step.height, BLOCK[1]), 1)
        self._driver.launch(self._functions[step.kernel], grid, BLOCK, arguments, stream)


def _blocks(pixels: int, size: int) -> int:
    return -(-pixels // size)
