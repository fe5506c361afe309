"""ONNX operators that TensorRT's parser takes, by TensorRT version.

Source: docs/operators.md of onnx/onnx-tensorrt for TensorRT 8.5 and 10.15, and its changelog for
the versions between. The opset limits: the same files; where they don't say, the opset of the onnx
release that the parser was built with. Opset 7 is where the parser itself begins to warn.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Tuple

Version = Tuple[int, int]

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
