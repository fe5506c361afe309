"""What a graph with float16 computes, in float32: every float16 tensor is rounded by hand.

onnxruntime has few kernels for float16 on CPUs, and between others it leaves the rounding out, so a
graph that is run as it is seems better than it will be on a GPU.
"""

from __future__ import annotations

from typing import Any, List

import numpy as np

from edge_agent.packaging.graph.graph import attribute, library
from edge_agent.packaging.graph.half_rewriting import SUFFIX

EXACT = "/exact"
# Below 2^-14 float16 has multiples of 2^-24; float32 has them near 0.75.
CONSTANTS = {"split": 8193.0, "shift": 0.75, "normal": 2.0**-14}


def in_float32(content: bytes) -> bytes:
    """Return what `half_rewriting` wrote, to be computed on a CPU with the GPU's rounding."""
    onnx = library()
    model = onnx.load_model_from_string(content)
    nodes = [made for node in model.graph.node for made in _rounding(node)]
    stored = [*map(_widened, model.graph.initializer), *_constants()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    result: bytes = model.SerializeToString()
    return result


def _rounding(node: Any) -> List[Any]:
    """Return what stands for a node: itself, and the rounding of what was float16."""
    onnx = library()
    if node.op_type == "Cast" and attribute(node, "to") == onnx.TensorProto.FLOAT16:
        return _rounded(node.input[0], node.output[0])
    made = type(node)()
    made.CopyFrom(node)
    if node.op_type == "Cast" and node.input[0].endswith(SUFFIX):
        made = onnx.helper.make_node("Identity", list(node.input), list(node.output))
    nodes = [made]
    for place, name in enumerate(node.output):
        if name.endswith(SUFFIX):
            made.output[place] = name + EXACT
            nodes += _rounded(name + EXACT, name)
    return nodes


def _rounded(name: str, rounded: str) -> List[Any]:
    """Return nodes that keep 11 bits: x * 8193 - (x * 8193 - x) is Veltkamp's splitting."""
    make = library().helper.make_node
    steps = [
        ("Mul", [name, "rounding/split"], "much"),
        ("Sub", [f"{rounded}/much", name], "rest"),
        ("Sub", [f"{rounded}/much", f"{rounded}/rest"], "near"),
        ("Add", [name, "rounding/shift"], "up"),
        ("Sub", [f"{rounded}/up", "rounding/shift"], "small"),
        ("Abs", [name], "size"),
        ("Less", [f"{rounded}/size", "rounding/normal"], "is_small"),
    ]
    choice = [f"{rounded}/{part}" for part in ("is_small", "small", "near")]
    nodes = [make(kind, taken, [f"{rounded}/{given}"]) for kind, taken, given in steps]
    return [*nodes, make("Where", choice, [rounded])]


def _constants() -> List[Any]:
    make = library().numpy_helper.from_array
    return [
        make(np.array(value, np.float32), f"rounding/{one}") for one, value in CONSTANTS.items()
    ]


def _widened(entry: Any) -> Any:
    """Return a stored tensor, in float32 when it is float16."""
    onnx = library()
    if entry.data_type != onnx.TensorProto.FLOAT16:
        return type(entry).FromString(entry.SerializeToString())
    array = onnx.numpy_helper.to_array(entry).astype(np.float32)
    return onnx.numpy_helper.from_array(array, entry.name)
