"""What an ONNX file refers to, read without the onnx package and before an engine sees it."""

from __future__ import annotations

from itertools import chain
from typing import Iterable, Iterator, Union

from google.protobuf.message import DecodeError

from edge_agent.errors import InvalidPackage
from edge_agent.wire import onnx_references_pb2 as onnx

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


def check(model: bytes) -> None:
    """Raise InvalidPackage unless `model` is an ONNX graph that holds all its tensors itself.

    An engine resolves external tensor data as file names, which could name any file of the device.
    """
    try:
        graph_file = onnx.Model.FromString(model)
    except DecodeError:
        raise InvalidPackage("model.onnx isn't an ONNX file: it can't be parsed.") from None
    if not graph_file.HasField("graph") or not graph_file.opset_import:
        raise InvalidPackage("model.onnx isn't an ONNX file: it has no graph or no opset.")
    for holder in (graph_file.graph, *graph_file.functions):
        for tensor in _tensors(holder):
            if tensor.data_location == _EXTERNAL or tensor.external_data:
                where = {entry.key: entry.value for entry in tensor.external_data}
                raise InvalidPackage(
                    f"model.onnx keeps tensor {tensor.name[:200]!r} in another file "
                    f"({where.get('location', 'unnamed')[:200]!r}); save the model as one file."
                )


def _tensors(holder: Union[onnx.Graph, onnx.Function]) -> Iterator[onnx.Tensor]:
    """Yield each tensor of a graph or function, those of nested graphs included."""
    yield from getattr(holder, "initializer", ())
    yield from _parts(getattr(holder, "sparse_initializer", ()))
    defaults = getattr(holder, "attribute_proto", ())
    for attribute in chain(defaults, chain.from_iterable(node.attribute for node in holder.node)):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        yield from _parts(attribute.sparse_tensors)
        if attribute.HasField("sparse_tensor"):
            yield from _parts([attribute.sparse_tensor])
        if attribute.HasField("g"):
            yield from _tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _tensors(graph)


def _parts(sparse: Iterable[onnx.SparseTensor]) -> Iterator[onnx.Tensor]:
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)
