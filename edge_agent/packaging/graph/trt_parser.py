"""What TensorRT's parser takes, by TensorRT version: operators, opsets and their restrictions.

Source: docs/operators.md of onnx/onnx-tensorrt for TensorRT 8.5 and 10.15, its column
"Restrictions", and its changelog for the versions between; where the parser of 8.5.2 takes more
than the column says, the parser. The opset limits: the same files; where they don't say, the opset
of the onnx release that the parser was built with. Opset 7 is where the parser itself begins to
warn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict, FrozenSet, Tuple

from edge_agent.packaging.graph.graph import Graph, attribute, dtype_name

if TYPE_CHECKING:
    import onnx

Version = Tuple[int, int]
Condition = Callable[[Graph, "onnx.NodeProto"], bool]

OLDEST_OPSET = 7
OLDEST_LISTED = 9  # the parser reads older ones, the files say nothing of them

# from this version on → newest opset
OPSETS: Dict[Version, int] = {
    (8, 5): 17,
    (8, 6): 17,
    (9, 0): 19,
    (10, 0): 20,
    (10, 6): 22,
    (10, 11): 23,
    (10, 15): 24,
    (11, 0): 25,
}

_IN_8_5 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
GridSample HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization IsNaN LRN LSTM
LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad
ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
IN_8_5 = frozenset(_IN_8_5.split())

# version → what it added
ADDED: Dict[Version, FrozenSet[str]] = {
    (8, 6): frozenset({"GroupNormalization", "IsInf", "LayerNormalization"}),
    (9, 2): frozenset({"Hardmax"}),
    (10, 1): frozenset({"DeformConv"}),
    (10, 4): frozenset({"BlackmanWindow", "HammingWindow", "HannWindow"}),
    (10, 5): frozenset({"STFT"}),
    (10, 14): frozenset({"Attention"}),
    (10, 15): frozenset({"RMSNormalization", "RotaryEmbedding", "TensorScatter"}),
}

# There in 10.15, but nothing says since when.
SOMETIME = frozenset({"CastLike", "Gelu", "Mish"})
SOMETIME_BETWEEN: Tuple[Version, Version] = ((8, 6), (10, 15))

NEWEST_TABLE = (10, 15)

TYPES_OF_8 = ("float32", "float16", "int8", "int32", "int64", "float64", "bool", "uint8")
TYPES_OF_9 = (*TYPES_OF_8, "bfloat16", "float8e4m3fn", "int4", "float4e2m1")


def newest_opset(version: Version) -> int:
    """Return the newest opset of the newest known version up to this one."""
    return OPSETS[max(known for known in OPSETS if known <= version)]


def operators(version: Version) -> FrozenSet[str]:
    """Return what surely can be parsed."""
    found = IN_8_5
    for since, added in ADDED.items():
        if since <= version:
            found |= added
    return found | SOMETIME if version >= SOMETIME_BETWEEN[1] else found


def since(operator: str) -> str:
    """Return "TensorRT 8.6" for an operator that came later, else an empty string."""
    if operator in SOMETIME:
        return "TensorRT {}.{}".format(*SOMETIME_BETWEEN[1])
    for version, added in ADDED.items():
        if operator in added:
            return "TensorRT {}.{}".format(*version)
    return ""


ALWAYS: Version = (99, 0)


@dataclass(frozen=True)
class Restriction:
    """A rule for some operators from version `since` on and before `until`.

    `breaks` returns whether a node breaks it. Not fatal: the parser may fold what it needs.
    """

    operators: Tuple[str, ...]
    rule: str
    breaks: Condition
    until: Version = ALWAYS
    since: Version = (8, 5)
    fatal: bool = True


def input_is_computed(*places: int) -> Condition:
    """Whether an input at one of `places` is given and isn't stored in the graph."""

    def breaks(graph: Graph, node: onnx.NodeProto) -> bool:
        given = [node.input[place] for place in places if place < len(node.input)]
        return any(name and name not in graph.constants for name in given)

    return breaks


def has_output(place: int) -> Condition:
    """Whether the node's optional output at `place` is wanted."""
    return lambda graph, node: len(node.output) > place and bool(node.output[place])


def is_one_of(name: str, *values: str) -> Condition:
    """Whether the attribute `name` has one of `values`."""
    return lambda graph, node: attribute(node, name, "") in values


def casts_to_other_than(*types: str) -> Condition:
    """Whether a Cast makes values of another type than `types`."""
    return lambda graph, node: _target(node) not in ("", *types)


def _target(node: onnx.NodeProto) -> str:
    kind = attribute(node, "to", -1)
    return "" if kind < 0 else dtype_name(kind)


def _computes_uint8(graph: Graph, node: onnx.NodeProto) -> bool:
    if _target(node) != "uint8":
        return False
    ends = {entry.name for entry in graph.outputs if not graph.consumers(entry.name)}
    return not ends.issuperset(node.output)


def _casts_image_to_other_than_float(graph: Graph, node: onnx.NodeProto) -> bool:
    images = {entry.name for entry in graph.inputs if entry.dtype == "uint8"}
    floats = ("", "float32", "float16")
    return not images.isdisjoint(node.input) and _target(node) not in floats


def _dilated(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(step != 1 for step in attribute(node, "dilations", [1]))


def _shifted(graph: Graph, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3 or node.input[2] not in graph.constants:
        return False
    return bool(graph.array(node.input[2]).any())


def _unsuited(*types: str) -> Condition:
    """Whether the quantised values are known to be of another type than `types`."""

    def breaks(graph: Graph, node: onnx.NodeProto) -> bool:
        if len(node.input) > 2 and node.input[2]:
            kind = graph.dtype(node.input[2])
        elif node.op_type == "QuantizeLinear":
            stated = attribute(node, "output_dtype", 0)  # from opset 21 on
            kind = dtype_name(stated) if stated else "uint8"
        else:
            kind = graph.dtype(node.input[0])
        return kind not in ("", *types)

    return breaks


def _antialiased(graph: Graph, node: onnx.NodeProto) -> bool:
    return attribute(node, "antialias", 0) != 0


def _cubic_beyond_two_axes(graph: Graph, node: onnx.NodeProto) -> bool:
    scales = node.input[2] if len(node.input) > 2 else ""
    if attribute(node, "mode", "") != "cubic" or scales not in graph.constants:
        return False
    return bool((graph.array(scales).ravel()[:-2] != 1).any())


def _ellipsis(graph: Graph, node: onnx.NodeProto) -> bool:
    equation = attribute(node, "equation", "").replace(" ", "")
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
