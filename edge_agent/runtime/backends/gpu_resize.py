"""Whole frames to the model's size on the GPU: the steps, and who starts the kernels for them.

The steps are those of `vision.preprocess`, and so are the pixels: every byte on x86-64. OpenCV has
arithmetic of its own for other processors; there some bytes differ by 1.
"""

from __future__ import annotations

from ctypes import c_double, c_float, c_int, c_uint64
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from edge_agent.manifest import InputSpec

if TYPE_CHECKING:
    from edge_agent.runtime.backends.cuda.driver import Driver

KERNELS = Path(__file__).parent / "cuda" / "resize.ptx"
NAMES = ("halve", "linear", "lay_out")
BLOCK = (32, 8, 1)  # threads, each of which makes one pixel

# Where OpenCV leaves out shares of a thousandth of a pixel and less, the last bit of a double
# decides whether one of exactly that size counts. Halving these many columns or rows has some.
UNDECIDED = (2001, 4001)

Rgb = Tuple[float, float, float]


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
    """The size that frames come to, and the form in which a model takes them.

    is_pyramid: halved as often as possible before. is_planar: the channels lie one after the other.
    factors: the model takes float32, pixel * factor - offset of each channel; None: the pixels.
    """

    width: int
    height: int
    is_pyramid: bool
    is_planar: bool = False
    factors: Optional[Rgb] = None
    offsets: Rgb = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, spec: InputSpec) -> Optional[Resizing]:
        """Return what a manifest asks for; None where the kernels have no such thing."""
        if spec.resize == "area":
            return None
        size = (spec.width, spec.height, spec.resize == "pyramid", spec.layout == "NCHW")
        if spec.dtype == "uint8":
            return cls(*size)
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        factors, offsets = (np.float32(spec.scale) / std).tolist(), (mean / std).tolist()
        return cls(*size, tuple(factors), tuple(offsets))

    def to_json(self) -> Dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Dict[str, Any]) -> Resizing:
        """Read what `to_json` wrote."""
        factors = values["factors"]
        numbers = {"factors": factors and tuple(factors), "offsets": tuple(values["offsets"])}
        return cls(**{**values, **numbers})

    @property
    def is_picture(self) -> bool:
        """Whether the model takes the resized picture as it is."""
        return self.factors is None and not self.is_planar

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
        self._functions = {name: driver.load_function(ptx, name) for name in NAMES}
        # Each step but the last at least halves what it gets: together they are smaller than it.
        self._scratch = driver.allocate(frame_bytes + 3 * resizing.width * resizing.height)

    def launch(self, source: int, width: int, height: int, target: int, stream: int) -> None:
        """Enqueue making the model's input at `target` of the frame at `source`.

        Device addresses: source uint8 RGB (height, width, 3) of at most `frame_bytes`, target one
        item of the model's input. All launches of one Resizer go into the same stream.
        """
        wanted, place = self._resizing, self._scratch
        steps = wanted.steps(width, height)
        for step in steps:
            to = target if step is steps[-1] and wanted.is_picture else place
            self._resize(step, source, width, height, to, stream)
            source, width, height = to, step.width, step.height
            place += step.size_bytes
        if not wanted.is_picture:
            self._lay_out(source, target, stream)

    def close(self) -> None:
        """Give the memory back; nothing launched may be under way."""
        self._driver.free(self._scratch)

    def _resize(
        self, step: Step, source: int, width: int, height: int, target: int, stream: int
    ) -> None:
        arguments: List[Any] = [
            c_uint64(source), c_int(width), c_int(height),
            c_uint64(target), c_int(step.width), c_int(step.height),
        ]  # fmt: skip
        if step.kernel == "linear":  # the scales, rounded as OpenCV's are
            arguments.append(c_double(1 / (step.width / width)))
            arguments.append(c_double(1 / (step.height / height)))
        self._launch(step.kernel, step.width, step.height, arguments, stream)

    def _lay_out(self, source: int, target: int, stream: int) -> None:
        wanted = self._resizing
        numbers = (*(wanted.factors or (1.0, 1.0, 1.0)), *wanted.offsets)
        arguments = [
            c_uint64(source), c_int(wanted.width), c_int(wanted.height), c_uint64(target),
            c_int(wanted.is_planar), c_int(wanted.factors is not None), *map(c_float, numbers),
        ]  # fmt: skip
        self._launch("lay_out", wanted.width, wanted.height, arguments, stream)

    def _launch(
        self, kernel: str, width: int, height: int, arguments: List[Any], stream: int
    ) -> None:
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), 1)
        self._driver.launch(self._functions[kernel], grid, BLOCK, arguments, stream)
