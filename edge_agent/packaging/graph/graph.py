"""An ONNX file as the checks see it: versions, tensors, constants, every node, nested or not."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Dict,
    Iterator,
    List,
    MutableSequence,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
    cast,
)

import numpy as np

from edge_agent.errors import InvalidConfiguration, InvalidPackage

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message
    from numpy.typing import NDArray

DEFAULT_DOMAIN = ""  # also written "ai.onnx"

T = TypeVar("T")
Axis = Optional[int]  # None: free

if TYPE_CHECKING:
    Scope = Union[onnx.GraphProto, onnx.FunctionProto]

# attribute of a Constant node → its field and what the numbers are
NUMBERS = {
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
}


@dataclass(frozen=True)
class GraphTensor:
    """An input or output; `dtype` as numpy has it, "uint8"; no shape: the file doesn't say."""

    name: str
    dtype: str
    shape: Optional[Tuple[Axis, ...]]

    def __str__(self) -> str:
        axes = "?" if self.shape is None else ", ".join(map(axis_name, self.shape))
        return f"{self.name!r} {self.dtype} ({axes})"


class Graph:
    """Reads the file once. Raises InvalidPackage when it isn't one, InvalidConfiguration without
    the onnx package.
    """  # noqa: D205

    def __init__(self, content: bytes) -> None:
        self.model: onnx.ModelProto = parsed(content)
        graph = self.model.graph
        self.ir_version = int(self.model.ir_version)
        self.opsets: Dict[str, int] = {}
        for holder in (self.model, *self.model.functions):
            for entry in holder.opset_import:
                domain = _domain(entry.domain)
                self.opsets[domain] = max(int(entry.version), self.opsets.get(domain, 0))
        found = list(scopes(self.model))
        self.nodes: List[onnx.NodeProto] = [node for scope in found for node in scope.node]
        _check_text(found, self.nodes)
        self.constants = _constants(found, self.nodes)
        self.inputs = [tensor(value) for value in graph.input if value.name not in self.constants]
        self.outputs = [tensor(value) for value in graph.output]

    def operators(self) -> Set[Tuple[str, str]]:
        """Return domain and operator of all nodes but the calls of the file's own functions."""
        own = {(_domain(entry.domain), entry.name) for entry in self.model.functions}
        return {(_domain(node.domain), node.op_type) for node in self.nodes} - own

    def of_type(self, *operators: str) -> List[onnx.NodeProto]:
        """Return the nodes of ONNX's own `operators`."""
        return [
            node
            for node in self.nodes
            if node.op_type in operators and _domain(node.domain) == DEFAULT_DOMAIN
        ]

    def array(self, name: str) -> NDArray[np.generic]:
        """Return the stored tensor `name` as a numpy array."""
        try:
            array: NDArray[np.generic] = library().numpy_helper.to_array(self.constants[name])
        except (ValueError, TypeError) as error:
            raise InvalidPackage(f"model.onnx: tensor {name!r} is damaged: {error}") from None
        return array

    def dtype(self, name: str) -> str:
        """Return the type of a stored tensor, empty for one that is computed."""
        stored = self.constants.get(name)
        return dtype_name(stored.data_type) if stored is not None else ""

    def consumers(self, name: str) -> List[onnx.NodeProto]:
        """Return the nodes that take the tensor `name`."""
        return [node for node in self.nodes if name in node.input]

    @property
    def is_quantised(self) -> bool:
        """Whether the graph has its int8 ranges itself."""
        return bool(self.of_type("QuantizeLinear")) and bool(self.of_type("DequantizeLinear"))


def parsed(content: bytes) -> onnx.ModelProto:
    """Read an ONNX file. Raises InvalidPackage when it isn't one, InvalidConfiguration as above."""
    parse = library().load_model_from_string
    try:
        model: onnx.ModelProto = parse(content)
    except Exception as error:
        raise InvalidPackage(
            f"model.onnx can't be parsed, it isn't an ONNX file: {error}"
        ) from None
    return model


def scopes(model: onnx.ModelProto) -> Iterator[Scope]:
    """Yield the graph, the file's functions, and the graphs of their branches and loops."""
    for outer in (model.graph, *model.functions):
        yield from nested(outer)


def replace(field: MutableSequence[Message], entries: Sequence[Message]) -> None:
    """Make a repeated field of protobuf hold copies of `entries`, which may be parts of it."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)


def axis_name(axis: Axis) -> str:
    """Return an axis as sentences have it: its length, or ? for a free one."""
    return "?" if axis is None else str(axis)


def library() -> ModuleType:
    """Return the module onnx. Raises InvalidConfiguration: what to install."""
    try:
        import onnx
    except ImportError:
        raise InvalidConfiguration(
            "Packaging needs onnx to check graphs: pip install 'edge-agent[package]'."
        ) from None
    module: ModuleType = onnx
    return module


def tensor(value: onnx.ValueInfoProto) -> GraphTensor:
    """Read a ValueInfoProto."""
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(axis.dim_value or None for axis in kind.shape.dim)
    return GraphTensor(value.name, dtype_name(kind.elem_type), shape)


def dtype_name(kind: int) -> str:
    """Return "float32" for TensorProto.FLOAT."""
    kinds = library().TensorProto.DataType
    name = kinds.Name(kind).lower() if kind in kinds.values() else f"type {kind}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def attribute(node: onnx.NodeProto, name: str, default: T) -> T:
    """Return a node's attribute, of the default's type; that where a function's caller gives it."""
    for entry in node.attribute:
        if entry.name == name and not entry.ref_attr_name:
            value = library().helper.get_attribute_value(entry)
            return cast("T", value.decode() if isinstance(value, bytes) else value)
    return default


def all_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors a node takes, also those that its branches or loops take from outside."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from all_inputs(inner)


def label(node: onnx.NodeProto) -> str:
    """Return what to call a node in a sentence."""
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r}"


def _domain(name: str) -> str:
    return DEFAULT_DOMAIN if name == "ai.onnx" else name


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs of a node's branches and loops."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def nested(scope: Scope) -> Iterator[Scope]:
    """Yield a graph or function and the graphs of its branches and loops, at every depth."""
    yield scope
    for node in scope.node:
        for graph in subgraphs(node):
            yield from nested(graph)


def _check_text(scopes: Sequence[Scope], nodes: Sequence[onnx.NodeProto]) -> None:
    """Raise InvalidPackage for names that aren't UTF-8, which protobuf hands over as bytes."""
    texts: List[object] = []
    for scope in scopes:
        for field in ("input", "output", "initializer"):
            texts.extend(getattr(entry, "name", entry) for entry in getattr(scope, field, ()))
    for node in nodes:
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
    if any(isinstance(text, bytes) for text in texts):
        raise InvalidPackage("model.onnx is damaged: a name in it isn't text.")


def _constants(
    scopes: Sequence[Scope], nodes: Sequence[onnx.NodeProto]
) -> Dict[str, onnx.TensorProto]:
    """Return the tensors stored in the file, by name; those of Constant nodes as well."""
    found = {entry.name: entry for scope in scopes for entry in getattr(scope, "initializer", ())}
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            value = _constant_value(node)
            if value is not None:
                found[node.output[0]] = value
    return found


def _constant_value(node: onnx.NodeProto) -> Optional[onnx.TensorProto]:
    """Return the tensor of a Constant node; None where it's text, sparse or a function's."""
    for entry in node.attribute:
        if entry.name == "value" and entry.HasField("t"):
            return entry.t
        if entry.name in NUMBERS and not entry.ref_attr_name:
            field, kind = NUMBERS[entry.name]
            return library().numpy_helper.from_array(np.array(getattr(entry, field), kind))
    return None
