"""An ONNX file as the checks see it: versions, tensors, constants, every node, nested or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration, InvalidPackage

DEFAULT_DOMAIN = ""  # also written "ai.onnx"

Axis = Optional[int]  # None: free

# attribute of a Constant node → its field and what the numbers are
NUMBERS = {
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
}


@dataclass(frozen=True)
class Tensor:
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
        onnx = library()
        try:
            self.model = onnx.load_model_from_string(content)
        except Exception as error:
            raise InvalidPackage(f"model.onnx can't be parsed: {error}") from None
        graph = self.model.graph
        self.ir_version = int(self.model.ir_version)
        self.opsets: Dict[str, int] = {}
        for entry in _imports(self.model):
            domain = _domain(entry.domain)
            self.opsets[domain] = max(int(entry.version), self.opsets.get(domain, 0))
        holders = [inner for outer in (graph, *self.model.functions) for inner in _holders(outer)]
        self.nodes: List[Any] = [node for holder in holders for node in holder.node]
        _check_text(holders, self.nodes)
        self.constants = _constants(holders, self.nodes)
        self.inputs = [tensor(value) for value in graph.input if value.name not in self.constants]
        self.outputs = [tensor(value) for value in graph.output]

    def operators(self) -> Dict[Tuple[str, str], int]:
        """Count nodes by domain and operator; calls of the file's own functions aren't counted."""
        own = {(_domain(entry.domain), entry.name) for entry in self.model.functions}
        counts: Dict[Tuple[str, str], int] = {}
        for node in self.nodes:
            key = (_domain(node.domain), node.op_type)
            if key not in own:
                counts[key] = counts.get(key, 0) + 1
        return counts

    def of_type(self, *operators: str) -> List[Any]:
        """Return the nodes of ONNX's own `operators`."""
        return [
            node
            for node in self.nodes
            if node.op_type in operators and _domain(node.domain) == DEFAULT_DOMAIN
        ]

    def array(self, name: str) -> Any:
        """Return the stored tensor `name` as a numpy array."""
        try:
            return library().numpy_helper.to_array(self.constants[name])
        except (ValueError, TypeError) as error:
            raise InvalidPackage(f"model.onnx: tensor {name!r} is damaged: {error}") from None

    def dtype(self, name: str) -> str:
        """Return the type of a stored tensor, empty for one that is computed."""
        stored = self.constants.get(name)
        return dtype_name(stored.data_type) if stored is not None else ""

    def readers(self, name: str) -> List[Any]:
        """Return the nodes that take the tensor `name`."""
        return [node for node in self.nodes if name in node.input]


def axis_name(axis: Axis) -> str:
    """Return an axis as sentences have it: its length, or ? for a free one."""
    return "?" if axis is None else str(axis)


def library() -> Any:
    """Return the module onnx. Raises InvalidConfiguration: what to install."""
    try:
        import onnx
    except ImportError:
        raise InvalidConfiguration(
            "Packaging needs onnx to check graphs: pip install 'edge-agent[package]'."
        ) from None
    return onnx


def tensor(value: Any) -> Tensor:
    """Read a ValueInfoProto."""
    kind = value.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(axis.dim_value or None for axis in kind.shape.dim)
    return Tensor(value.name, dtype_name(kind.elem_type), shape)


def dtype_name(kind: int) -> str:
    """Return "float32" for TensorProto.FLOAT."""
    kinds = library().TensorProto.DataType
    name = kinds.Name(kind).lower() if kind in kinds.values() else f"type {kind}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute; the default where a function's caller gives it."""
    for entry in node.attribute:
        if entry.name == name and not entry.ref_attr_name:
            value = library().helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def needs(node: Any) -> Iterator[str]:
    """Yield the tensors a node takes, those that its branches or loops take from outside too."""
    yield from node.input
    for entry in node.attribute:
        for graph in ([entry.g] if entry.HasField("g") else []) + list(entry.graphs):
            for inner in graph.node:
                yield from needs(inner)


def label(node: Any) -> str:
    """Return what to call a node in a sentence."""
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r}"


def _imports(model: Any) -> Iterator[Any]:
    yield from model.opset_import
    for function in model.functions:
        yield from function.opset_import


def _domain(name: str) -> str:
    return DEFAULT_DOMAIN if name == "ai.onnx" else name


def _holders(holder: Any) -> Iterator[Any]:
    """Yield a graph or function and the graphs of its branches and loops, at every depth."""
    yield holder
    for node in holder.node:
        for entry in node.attribute:
            for graph in ([entry.g] if entry.HasField("g") else []) + list(entry.graphs):
                yield from _holders(graph)


def _check_text(holders: List[Any], nodes: List[Any]) -> None:
    """Raise InvalidPackage for names that aren't UTF-8, which protobuf hands over as bytes."""
    texts: List[Any] = []
    for holder in holders:
        for field in ("input", "output", "initializer"):
            texts.extend(getattr(entry, "name", entry) for entry in getattr(holder, field, ()))
    for node in nodes:
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
    if any(isinstance(text, bytes) for text in texts):
        raise InvalidPackage("model.onnx is damaged: a name in it isn't text.")


def _constants(holders: List[Any], nodes: List[Any]) -> Dict[str, Any]:
    """Return the tensors stored in the file, by name; those of Constant nodes as well."""
    found = {
        entry.name: entry for holder in holders for entry in getattr(holder, "initializer", ())
    }
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            value = _stated(node)
            if value is not None:
                found[node.output[0]] = value
    return found


def _stated(node: Any) -> Any:
    """Return the tensor of a Constant node; None where it's text, sparse or a function's."""
    for entry in node.attribute:
        if entry.name == "value" and entry.HasField("t"):
            return entry.t
        if entry.name in NUMBERS and not entry.ref_attr_name:
            field, kind = NUMBERS[entry.name]
            return library().numpy_helper.from_array(np.array(getattr(entry, field), kind))
    return None
