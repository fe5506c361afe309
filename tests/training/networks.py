"""Small networks as ONNX files, written as various tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Union

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Dims = Sequence[Union[int, str]]
CHANNELS = 6


class Writer:
    """Collects nodes and weights of one network."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self._random = np.random.default_rng(7)
        self._dtype = dtype
        self.nodes: List[NodeProto] = []
        self.weights: List[TensorProto] = []

    def weight(self, *shape: int) -> str:
        values = self._random.normal(0, shape[-1] ** -0.5, shape).astype(self._dtype)
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def conv(self, tensor: str, inputs: int, stride: int) -> str:
        kernels = self.weight(CHANNELS, inputs, 3, 3)
        answer = self.add("Conv", tensor, kernels, pads=[1] * 4, strides=[stride] * 2)
        return self.add("Relu", answer)

    def model(
        self, shape: Dims, output: str, opset: int = 13, kind: int = TensorProto.FLOAT
    ) -> ModelProto:
        graph = helper.make_graph(
            self.nodes, "network",
            [helper.make_tensor_value_info("pictures", kind, shape)],
            [helper.make_tensor_value_info(output, kind, None)],
            self.weights,
        )  # fmt: skip
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7
        )


def convolutional(
    shape: Dims, opset: int = 13, dtype: Any = np.float32, channels_last: bool = False
) -> ModelProto:
    """Five layers that halve the size, and a classifier."""
    writer = Writer(dtype)
    tensor = "pictures"
    if channels_last:
        tensor = writer.add("Transpose", tensor, perm=[0, 3, 1, 2])
    for index in range(5):
        tensor = writer.conv(tensor, CHANNELS if index else 3, 2)
    pooled = writer.add("GlobalAveragePool", tensor)
    writer.add("MatMul", writer.add("Flatten", pooled), writer.weight(CHANNELS, 10))
    kind = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    return writer.model(shape, writer.nodes[-1].output[0], opset, kind)


def transformer(
    size: int = 64, patch: int = 16, batch: Union[int, str] = "N", opset: int = 13
) -> ModelProto:
    """Patches, a token of the class, places, and four blocks that mix the tokens.

    From opset 17 on with a normalisation in each block.
    """
    writer = Writer()
    count = (size // patch) ** 2
    kernels = writer.weight(CHANNELS, 3, patch, patch)
    planes = writer.add("Conv", "pictures", kernels, strides=[patch] * 2)
    lead = batch if isinstance(batch, int) else 0
    shape = writer.constant(np.array([lead, CHANNELS, -1]))
    kwargs = {"allowzero": 0} if opset >= 14 else {}
    flat = writer.add("Reshape", planes, shape, **kwargs)
    tokens = writer.add("Transpose", flat, perm=[0, 2, 1])
    if opset >= 18:
        first = writer.add("ReduceMean", tokens, writer.constant(np.array([1])))
    else:
        first = writer.add("ReduceMean", tokens, axes=[1], keepdims=1)
    tokens = writer.add("Concat", first, tokens, axis=1)
    tokens = writer.add("Add", tokens, writer.weight(1, count + 1, CHANNELS))
    for _ in range(4):
        if opset >= 17:
            scale, offset = writer.weight(CHANNELS), writer.weight(CHANNELS)
            tokens = writer.add("LayerNormalization", tokens, scale, offset, epsilon=1e-3)
        keys = writer.add(
            "Transpose",
            writer.add("MatMul", tokens, writer.weight(CHANNELS, CHANNELS)),
            perm=[0, 2, 1],
        )
        shares = writer.add("Softmax", writer.add("MatMul", tokens, keys), axis=-1)
        tokens = writer.add("Add", tokens, writer.add("MatMul", shares, tokens))
    return writer.model((batch, 3, size, size), writer.nodes[-1].output[0], opset)


def save(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
