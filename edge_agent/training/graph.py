"""Writes ONNX graphs: operators are appended one by one and weights lie inside the file.

The same operator on the same tensors is there once: parts of a model that need the same figures
needn't know of each other.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Sequence, Tuple

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
RUN_BATCH = 4  # images of training in memory at a time, at most
RUN_BYTES = 4 << 20  # of them

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
        self._nodes: Dict[object, NodeProto] = {}  # by what they do
        self._constants: Dict[object, TensorProto] = {}  # by what they hold
        self._inputs: List[ValueInfoProto] = []
        self._outputs: List[Tuple[NodeProto, ValueInfoProto]] = []

    def input(self, name: str, dtype: DTypeLike, shape: Shape) -> str:
        """Declare a graph input of the numpy `dtype`."""
        self._inputs.append(_described(name, dtype, shape))
        return name

    def output(self, name: str, tensor: str, shape: Shape) -> None:
        """Publish the float32 `tensor` as graph output `name`."""
        from onnx import helper

        self._outputs.append(
            (helper.make_node("Identity", [tensor], [name]), _described(name, np.float32, shape))
        )

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Store `value` inside the graph."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype, order="C")
        content = (array.dtype.str, array.shape, array.tobytes())
        if content not in self._constants:
            name = f"weight_{len(self._constants)}"
            self._constants[content] = numpy_helper.from_array(array, name)
        return str(self._constants[content].name)

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Append an operator with one output and return that output's name."""
        from onnx import helper

        return self._append(helper.make_node(operator, list(inputs), [], **attributes), 1)[0]

    def insert(
        self, nodes: Iterable[NodeProto], weights: Mapping[str, TensorProto], given: Dict[str, str]
    ) -> Dict[str, str]:
        """Append the `nodes` of another graph, in order, with those of its `weights` they use.

        given: names here of the tensors that it is fed with, by those there. Returns the names here
        of all its tensors, in the same way.
        """
        from onnx import NodeProto, numpy_helper

        names = dict(given)
        for node in nodes:
            for name in node.input:
                if name in weights and name not in names:
                    array = numpy_helper.to_array(weights[name])
                    names[name] = self.constant(array, array.dtype)
            renamed = NodeProto(op_type=node.op_type, attribute=node.attribute)
            renamed.input.extend(names[name] if name else "" for name in node.input)
            outputs = self._append(renamed, len(node.output))
            names.update(zip(node.output, outputs))
        return names

    def _append(self, node: NodeProto, outputs: int) -> List[str]:
        """Append a node that has no outputs yet, if it isn't there, and return their names."""
        content = (node.SerializeToString(deterministic=True), outputs)
        if content not in self._nodes:
            first = f"{node.op_type.lower()}_{len(self._nodes)}"
            node.output.extend([first, *(f"{first}_{index}" for index in range(1, outputs))])
            self._nodes[content] = node
        return list(self._nodes[content].output)

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

        inputs = [tensor, self.constant([count], np.int64)]
        return self._append(helper.make_node("TopK", inputs, [], axis=-1, sorted=0), 2)[0]

    def model(self) -> bytes:
        """Check the graph and return it as one self-contained file."""
        import onnx
        from onnx import helper

        named, outputs = zip(*self._outputs)
        graph = helper.make_graph(
            [*self._nodes.values(), *named],
            "edge_agent",
            self._inputs,
            outputs,
            list(self._constants.values()),
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
        some = int(np.clip(RUN_BYTES // items[0].nbytes, 1, RUN_BATCH))
        parts = [
            self._session.run(outputs, {name: items[start : start + some]})
            for start in range(0, len(items), some)
        ]
        return {key: np.concatenate(part) for key, part in zip(outputs, zip(*parts))}
