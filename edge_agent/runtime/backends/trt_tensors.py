"""What goes into a TensorRT engine and comes out of it: names, shapes, dtypes, batches."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from edge_agent.errors import InvalidPackage
from edge_agent.runtime.backends.slot_layout import TensorBinding
from edge_agent.runtime.backends.trt_api import TrtContext, TrtEngine, TrtEnum, TrtModule

# TensorRT's DataType → NumPy's. Its own trt.nptype breaks in 8.5 with NumPy from 1.24 on.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}

Shape = Tuple[int, ...]


def inputs(trt: TrtModule, engine: TrtEngine) -> Tuple[TensorBinding, ...]:
    """Return the inputs. Raises InvalidPackage for what isn't a batch of one size of items."""
    return tuple(
        TensorBinding(name, _item(name, _ends(engine, name)), _dtype(trt, engine, name), True)
        for name in _names(trt, engine, trt.TensorIOMode.INPUT)
    )


def batches(engine: TrtEngine, inputs: Sequence[TensorBinding]) -> Tuple[int, ...]:
    """Return the largest batch of each profile, in TensorRT's order."""
    ends = [_ends(engine, tensor.name) for tensor in inputs]
    return tuple(min(high[0] for _, high in profile) for profile in zip(*ends))


def outputs(
    trt: TrtModule, engine: TrtEngine, context: TrtContext, batch: int
) -> Tuple[TensorBinding, ...]:
    """Return the outputs; `context` has its inputs' shapes set for `batch`.

    Raises InvalidPackage for shapes that depend on the picture, or without the batch.
    """
    found = []
    for name in _names(trt, engine, trt.TensorIOMode.OUTPUT):
        shape = tuple(context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise InvalidPackage(
                f"The size of the engine's output {name!r} depends on the picture ({shape}); "
                "only outputs of one size can be served. Export the graph without it."
            )
        if shape[:1] != (batch,):
            raise InvalidPackage(
                f"The engine's output {name!r} has shape {shape} for a batch of {batch}; "
                "its first axis must be the batch."
            )
        found.append(TensorBinding(name, shape[1:], _dtype(trt, engine, name), False))
    return tuple(found)


def _names(trt: TrtModule, engine: TrtEngine, mode: TrtEnum) -> List[str]:
    names = map(engine.get_tensor_name, range(engine.num_io_tensors))
    return [name for name in names if engine.get_tensor_mode(name) == mode]


def _ends(engine: TrtEngine, name: str) -> List[Tuple[Shape, Shape]]:
    """Return the smallest and the largest shape of an input in each profile."""
    profiles = range(engine.num_optimization_profiles)
    fixed = tuple(engine.get_tensor_shape(name))
    if -1 not in fixed:
        return [(fixed, fixed) for _ in profiles]
    shapes = [engine.get_tensor_profile_shape(name, index) for index in profiles]
    return [(tuple(low), tuple(high)) for low, _, high in shapes]


def _item(name: str, ends: Sequence[Tuple[Shape, Shape]]) -> Shape:
    items = {shape[1:] for pair in ends for shape in pair}
    if len(items) != 1 or not all(low for low, _ in ends):
        raise InvalidPackage(
            f"The engine's input {name!r} takes {' or '.join(map(str, sorted(items)))}; it must be "
            "a batch of items of one size."
        )
    return items.pop()


def _dtype(trt: TrtModule, engine: TrtEngine, name: str) -> str:
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise InvalidPackage(
            f"The engine wants {name!r} in the CPU's memory: it is a shape, and no picture."
        )
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in DTYPES:
        raise InvalidPackage(
            f"The engine's tensor {name!r} is {dtype}; expected one of {', '.join(DTYPES)}."
        )
    return DTYPES[dtype]
