"""Where each tensor lies in the memory of a slot: the same in the agent, the worker and the GPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Tuple

import numpy as np

from edge_agent.runtime.processes.channel import Message

if TYPE_CHECKING:
    from mmap import mmap

    from edge_agent.runtime.backends.base import Array

ALIGNMENT = 4096  # a page; TensorRT wants 256 bytes


@dataclass(frozen=True)
class TensorBinding:
    """An input or output of an engine. item: its shape without the batch. dtype: NumPy's name."""

    name: str
    item: Tuple[int, ...]
    dtype: str
    is_input: bool

    @property
    def item_bytes(self) -> int:
        """The size of one item."""
        return prod(self.item) * np.dtype(self.dtype).itemsize

    def to_json(self) -> Message:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Message) -> TensorBinding:
        """Read what `to_json` wrote."""
        return cls(**{**values, "item": tuple(values["item"])})


@dataclass(frozen=True)
class SlotLayout:
    """Areas for `max_batch` items of each tensor; each area begins on a page of its own."""

    tensors: Tuple[TensorBinding, ...]
    max_batch: int

    @property
    def size(self) -> int:
        """How many bytes a slot takes."""
        return sum(map(self._area, self.tensors))

    def tensor(self, name: str) -> TensorBinding:
        """Return the tensor of that name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def offset(self, name: str) -> int:
        """Return where the items of the tensor begin."""
        before = self.tensors[: self.tensors.index(self.tensor(name))]
        return sum(map(self._area, before))

    def view(self, buffer: mmap, name: str, count: int) -> Array:
        """Return the first `count` items of the tensor in a slot's memory, not copied."""
        tensor = self.tensor(name)
        values = np.frombuffer(buffer, tensor.dtype, count * prod(tensor.item), self.offset(name))
        return values.reshape(count, *tensor.item)

    def _area(self, tensor: TensorBinding) -> int:
        return -(-tensor.item_bytes * self.max_batch // ALIGNMENT) * ALIGNMENT
