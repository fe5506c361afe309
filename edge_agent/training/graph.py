"""Writes ONNX graphs: operators are appended one by one and weights lie inside the file."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.errors import BackendUnavailable
from edge_agent.runtime.system import resources

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from onnx import NodeProto, TensorProto, ValueInfoProto

OPSET = 13  # TensorRT 8.5 and every onnxruntime in use read it
IR_VERSION = 8
IMAGE = "image"  # name of the input of models
BATCH = "N"  # name of the dynamic axis
RUN_BATCH = 4  # images of training in memory at a time

Shape = Sequence[object]  # ints and names of dynamic axes
Size = Tuple[int, int]  # height, width


def check_libraries() -> None:
    """Raise BackendUnavailable when what training needs is not installed."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"Training needs {' and '.join(missing)}; install: pip install 'edge-agent[train]'."
        )


class GraphBuilder:
    """A graph under construction; tensors are known by the names its methods return."""

    def __init__(self) -> None:
        self._nodes: List[NodeProto] = []
        self._constants: List[TensorProto] = []
        self._inputs: List[ValueInfoProto] = []
        self._outputs: List[ValueInfoProto] = []

    def input(self, name: str, dtype: DTypeLike, shape: Shape) -> str:
        """Declare a graph input of the numpy `dtype`."""
        self._inputs.append(_described(name, dtype, shape))
        return name

    def output(self, name: str, tensor: str, shape: Shape) -> None:
        """Publish the float32 `tensor` as graph output `name`."""
        self.add("Identity", tensor, name=name)
        self._outputs.append(_described(name, np.float32, shape))

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Store `value` inside the graph."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: object) -> str:
        """Append an operator with one output and return that output's name."""
        from onnx import helper

        output = name or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def conv(self, tensor: str, weights: NDArray[np.float32], **attributes: Any) -> str:
        """Append a convolution with `weights` of shape (out, in, height, width)."""
        return self.add("Conv", tensor, self.constant(weights), **attributes)

    def pad(self, tensor: str, margin: int) -> str:
        """Mirror `margin` pixels at each border of an NCHW tensor."""
        sides = [0, 0, margin, margin] * 2
        return self.add("Pad", tensor, self.constant(sides, np.int64), mode="reflect")

    def enlarge(self, tensor: str, factor: int) -> str:
        """Resize an NCHW tensor linearly by a whole factor (half-pixel centres, as OpenCV)."""
        scales = self.constant([1, 1, factor, factor])
        return self.add(
            "Resize", tensor, "", scales,
            mode="linear", coordinate_transformation_mode="half_pixel",
        )  # fmt: skip

    def top(self, tensor: str, count: int) -> str:
        """Append the `count` highest values along the last axis, in no order."""
        from onnx import helper

        output = f"topk_{len(self._nodes)}"
        inputs = [tensor, self.constant([count], np.int64)]
        self._nodes.append(
            helper.make_node("TopK", inputs, [output, f"{output}_places"], axis=-1, sorted=0)
        )
        return output

    def model(self) -> bytes:
        """Check the graph and return it as one self-contained file."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self._nodes, "edge_agent", self._inputs, self._outputs, self._constants
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, producer_name="edge-agent", ir_version=IR_VERSION, opset_imports=[opset]
        )
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _described(name: str, dtype: DTypeLike, shape: Shape) -> ValueInfoProto:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))


class Session:
    """A graph loaded for training, on all cores that this process may use."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = resources.cores()
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    def run_all(self, name: str, items: NDArray[np.generic]) -> Dict[str, NDArray[np.float32]]:
        """Feed `items` to input `name`, a few at a time; outputs by name, one row an item."""
        if not len(items):
            shapes = {output.name: output.shape for output in self._session.get_outputs()}
            return {name: np.empty((0, *shape[1:]), np.float32) for name, shape in shapes.items()}
        outputs = [output.name for output in self._session.get_outputs()]
        parts = [
            self._session.run(outputs, {name: items[start : start + RUN_BATCH]})
            for start in range(0, len(items), RUN_BATCH)
        ]
        return {key: np.concatenate(part) for key, part in zip(outputs, zip(*parts))}
