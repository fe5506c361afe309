"""What TensorRT's parser asks of single operators, as far as a graph shows it.

Source: the column "Restrictions" of docs/operators.md in onnx/onnx-tensorrt for 8.5 and 10.15, and
its changelog, which tells when one was lifted; where the parser of 8.5.2 takes more than the column
says, the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Tuple

from edge_agent.packaging.graph.graph import Graph, attribute, dtype_name
from edge_agent.packaging.graph.trt_operators import TYPES_OF_8, TYPES_OF_9, Version

ALWAYS: Version = (99, 0)


@dataclass(frozen=True)
class Restriction:
    """A rule for some operators from version `since` on and before `until`.

    `breaks` says whether a node breaks it. Not fatal: the parser may fold what it needs.
    """

    operators: Tuple[str, ...]
    rule: str
    breaks: Callable[[Graph, Any], bool]
    until: Version = ALWAYS
    since: Version = (8, 5)
    fatal: bool = True


def input_is_computed(*places: int) -> Callable[[Graph, Any], bool]:
    """Whether an input at one of `places` is given and isn't stored in the graph."""

    def breaks(graph: Graph, node: Any) -> bool:
        given = [node.input[place] for place in places if place < len(node.input)]
        return any(name and name not in graph.constants for name in given)

    return breaks


def has_output(place: int) -> Callable[[Graph, Any], bool]:
    """Whether the node's optional output at `place` is wanted."""
    return lambda graph, node: len(node.output) > place and bool(node.output[place])


def is_one_of(name: str, *values: str) -> Callable[[Graph, Any], bool]:
    """Whether the attribute `name` has one of `values`."""
    return lambda graph, node: attribute(node, name) in values


def casts_to_other_than(*types: str) -> Callable[[Graph, Any], bool]:
    """Whether a Cast makes values of another type than `types`."""
    return lambda graph, node: _target(node) not in ("", *types)


def _target(node: Any) -> str:
    kind = attribute(node, "to")
    return "" if kind is None else dtype_name(kind)


def _computes_uint8(graph: Graph, node: Any) -> bool:
    if _target(node) != "uint8":
        return False
    ends = {entry.name for entry in graph.outputs if not graph.readers(entry.name)}
    return not ends.issuperset(node.output)


def _casts_image_to_other_than_float(graph: Graph, node: Any) -> bool:
    images = {entry.name for entry in graph.inputs if entry.dtype == "uint8"}
    floats = ("", "float32", "float16")
    return not images.isdisjoint(node.input) and _target(node) not in floats


def _dilated(graph: Graph, node: Any) -> bool:
    return any(step != 1 for step in attribute(node, "dilations", ()))


def _shifted(graph: Graph, node: Any) -> bool:
    if len(node.input) < 3 or node.input[2] not in graph.constants:
        return False
    return bool(graph.array(node.input[2]).any())


def _unsuited(*types: str) -> Callable[[Graph, Any], bool]:
    """Whether the quantised values are known to be of another type than `types`."""

    def breaks(graph: Graph, node: Any) -> bool:
        if len(node.input) > 2 and node.input[2]:
            kind = graph.dtype(node.input[2])
        elif node.op_type == "QuantizeLinear":
            stated = attribute(node, "output_dtype", 0)  # from opset 21 on
            kind = dtype_name(stated) if stated else "uint8"
        else:
            kind = graph.dtype(node.input[0])
        return kind not in ("", *types)

    return breaks


def _antialiased(graph: Graph, node: Any) -> bool:
    return bool(attribute(node, "antialias", 0))


def _cubic_beyond_two_axes(graph: Graph, node: Any) -> bool:
    scales = node.input[2] if len(node.input) > 2 else ""
    if attribute(node, "mode") != "cubic" or scales not in graph.constants:
        return False
    return bool((graph.array(scales).ravel()[:-2] != 1).any())


def _ellipsis(graph: Graph, node: Any) -> bool:
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    return "..." in "".join(terms) or any(len(set(term)) < len(term) for term in terms)


HOW = "quantise symmetrically with signed int8, biases left out"
_REDUCED = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
REDUCE = tuple(f"Reduce{kind}" for kind in _REDUCED.split())

RESTRICTIONS = (
    Restriction(
        ("Cast",), f"casts are to {', '.join(TYPES_OF_8)} only",
        casts_to_other_than(*TYPES_OF_8), until=(9, 0),
    ),
    Restriction(
        ("Cast",), f"casts are to {', '.join(TYPES_OF_9)} only",
        casts_to_other_than(*TYPES_OF_9), since=(9, 0),
    ),
    Restriction(
        ("Cast",), "nothing inside the graph can be uint8; cast to int32 instead",
        _computes_uint8,
    ),
    Restriction(
        ("Cast",), "a uint8 image can be cast to float32 or float16 only",
        _casts_image_to_other_than_float, until=(8, 6),
    ),
    Restriction(("AveragePool", "MaxPool", "LpPool"), "pooling has no dilations", _dilated),
    Restriction(("MaxPool",), "the output Indices isn't supported", has_output(1)),
    Restriction(
        ("QuantizeLinear", "DequantizeLinear"), f"the zero point must be 0; {HOW}", _shifted,
    ),
    Restriction(
        ("QuantizeLinear", "DequantizeLinear"), f"quantised values must be int8; {HOW}",
        _unsuited("int8"), until=(10, 0),
    ),
    Restriction(
        ("QuantizeLinear", "DequantizeLinear"),
        f"quantised values must be int8, int4, float8 or float4; {HOW}",
        _unsuited("int8", "int4", "float8e4m3fn", "float4e2m1"), since=(10, 0),
    ),
    Restriction(
        ("Resize",), "cubic resizing is over the last 2 axes only", _cubic_beyond_two_axes,
    ),
    Restriction(
        ("Resize",), "crop and resize isn't supported",
        is_one_of("coordinate_transformation_mode", "tf_crop_and_resize"),
    ),
    Restriction(("Resize",), "antialiasing isn't supported", _antialiased),
    Restriction(
        ("Einsum",), "ellipsis and diagonals aren't supported", _ellipsis, until=(10, 12),
    ),
    Restriction(("LayerNormalization",), "only the first output is supported", has_output(1)),
    Restriction(
        ("TopK",), "K should be stored in the graph", input_is_computed(1), until=(8, 6),
        fatal=False,
    ),
    Restriction(
        ("CumSum",), "the axis should be stored in the graph", input_is_computed(1),
        until=(10, 8), fatal=False,
    ),
    Restriction(
        ("Slice",), "the axes should be stored in the graph", input_is_computed(3),
        until=(10, 3), fatal=False,
    ),
    Restriction(
        ("Squeeze", "Unsqueeze"), "the axes should be stored in the graph", input_is_computed(1),
        until=(10, 7), fatal=False,
    ),
    Restriction(
        REDUCE, "the axes should be stored in the graph", input_is_computed(1), fatal=False,
    ),
    Restriction(
        ("InstanceNormalization",), "scale and bias should be stored in the graph",
        input_is_computed(1, 2), until=(10, 0), fatal=False,
    ),
    Restriction(
        ("If", "Loop", "Scan"), "branches and loops need shapes that don't change from round to "
        "round, which only the build on the device shows", lambda graph, node: True, fatal=False,
    ),
    Restriction(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        "seeds are ignored, so results differ from run to run", lambda graph, node: True,
        fatal=False,
    ),
)  # fmt: skip
