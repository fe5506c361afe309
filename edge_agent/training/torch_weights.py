"""Reads weights out of a file of PyTorch's format of before 1.6, without PyTorch.

Layout: five pickles (magic, protocol, system, tensors by name, keys of storages in order), then of
each storage its length and content (torch/serialization.py, `_legacy_save`). A pickle may run
anything; these are only disassembled.
"""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = Dict[str, NDArray[np.float32]]

COUNTER = ".num_batches_tracked"  # int64, of no use here


class _Layout(NamedTuple):
    """Where a tensor's values lie: key of its storage, shape, strides in values."""

    storage: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]

    @property
    def reach(self) -> int:
        """How many values the storage must have."""
        return 1 + sum((count - 1) * step for count, step in zip(self.shape, self.strides))


def read(path: Path) -> Weights:
    """Return the float32 tensors by name.

    Raises InvalidConfiguration when it isn't such a file, or ends early.
    """
    try:
        return dict(_tensors(path.read_bytes()))
    except (ValueError, KeyError, IndexError, EOFError, OverflowError) as error:
        raise InvalidConfiguration(
            f"{path} can't be read as PyTorch weights: {error}. Install the package again."
        ) from None


def _tensors(content: bytes) -> Iterator[Tuple[str, NDArray[np.float32]]]:
    file = io.BytesIO(content)
    for _ in range(3):
        _disassembled(file)
    layouts = _layouts(_disassembled(file))
    keys = [str(value) for name, value in _disassembled(file) if name == "BINUNICODE"]
    names = {layout.storage: name for name, layout in layouts.items()}
    for key in keys:
        name, layout = names[key], layouts[names[key]]
        count = int.from_bytes(file.read(8), "little")
        if name.endswith(COUNTER):
            file.seek(8 * count, io.SEEK_CUR)
            continue
        values = np.frombuffer(file.read(4 * count), "<f4")
        if min((*layout.shape, *layout.strides), default=1) < 1 or layout.reach > len(values):
            raise ValueError(f"{name} has {len(values)} values for shape {layout.shape}")
        steps = [4 * step for step in layout.strides]
        tensor = np.lib.stride_tricks.as_strided(values, layout.shape, steps, writeable=False)
        yield name, tensor.copy()


def _disassembled(file: io.BytesIO) -> List[Tuple[str, object]]:
    return [(operation.name, value) for operation, value, _ in pickletools.genops(file)]


def _layouts(operations: List[Tuple[str, object]]) -> Dict[str, _Layout]:
    found: Dict[str, _Layout] = {}
    name = key = ""
    for place, (operation, value) in enumerate(operations):
        if operation == "BINPERSID":  # a storage ends; offset in it, shape and strides follow
            found[name] = _Layout(key, *_tuples(operations[place + 2 :]))
        elif operation == "BINUNICODE" and str(value).isdigit():
            key = str(value)
        elif operation == "BINUNICODE" and "." in str(value):
            name = str(value)
    return found


def _tuples(operations: Iterable[Tuple[str, object]]) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Return the next two tuples of integers."""
    values: List[int] = []
    shape: Optional[Tuple[int, ...]] = None
    for operation, value in operations:
        if operation.startswith("BININT"):
            values.append(int(str(value)))
        elif operation.startswith("TUPLE"):
            if shape is not None:
                return shape, tuple(values)
            shape, values = tuple(values), []
    raise ValueError("a tensor has no strides")
