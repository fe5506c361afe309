"""How much memory one inference unit will need: weights, and results that live at the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, AbstractSet, Dict, Iterable, Iterator, Mapping, Tuple

from edge_agent.manifest import InputSpec, Manifest
from edge_agent.packaging.graph.findings import GraphFinding, note
from edge_agent.packaging.graph.graph import Graph, all_inputs, dtype_name, library, tensor
from edge_agent.runtime.vision.preprocess import item_shape

if TYPE_CHECKING:
    import onnx

MIB = 1024 * 1024
HALF_BYTES = ("int4", "uint4")


@dataclass(frozen=True)
class Estimate:
    """In bytes, without the engine itself; `unknown` tensors have no shape and count nothing."""

    weights: int
    peak: int  # of inputs, outputs and intermediate results, computed in the file's order
    unknown: int
    batch: int


def check(graph: Graph, manifest: Manifest) -> Iterator[GraphFinding]:
    """Estimate it for the largest batch."""
    found = estimate(graph, manifest.input, max(manifest.runtime.batch_sizes))
    least = "at least " if found.unknown else ""
    rest = f" {found.unknown} results have no known shape." if found.unknown else ""
    yield note(
        f"Memory of an inference unit: {_size(found.weights)} of weights and, for a batch of "
        f"{found.batch}, {least}{_size(found.peak)} of results that live at the same time; engines "
        f"take as much again for their own work.{rest}"
    )


def estimate(graph: Graph, spec: InputSpec, batch: int) -> Estimate:
    """Walk the graph at the manifest's size and a batch of `batch`, or the graph's own."""
    model = library().ModelProto()
    model.CopyFrom(graph.model)
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name == spec.tensor and len(axes) == 4:
            batch = axes[0].dim_value or batch
            for axis, length in zip(axes, (batch, *item_shape(spec))):
                axis.dim_value = length
    for value in model.graph.output:  # or their free axes win over what is inferred
        value.type.tensor_type.ClearField("shape")
    sizes = _sizes(model)
    peak, unknown = _peak(model.graph, sizes, set(graph.constants))
    weights = sum(_bytes(entry.data_type, entry.dims) for entry in graph.constants.values())
    return Estimate(weights, peak, unknown, batch)


def _sizes(model: onnx.ModelProto) -> Dict[str, int]:
    """Return the bytes of every tensor whose shape is known."""
    try:
        graph = library().shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of a graph that onnx can't walk, only the given shapes are known
        graph = model.graph
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        known = tensor(value)
        if known.shape is not None and None not in known.shape:
            kind = value.type.tensor_type.elem_type
            sizes[value.name] = _bytes(kind, [axis or 1 for axis in known.shape])
    return sizes


def _peak(
    graph: onnx.GraphProto, sizes: Mapping[str, int], constant: AbstractSet[str]
) -> Tuple[int, int]:
    """Return the most bytes alive at once and how many results have no size."""
    last_use = {name: index for index, node in enumerate(graph.node) for name in all_inputs(node)}
    kept = {value.name for value in graph.output}
    alive = {value.name: sizes.get(value.name, 0) for value in graph.input}
    alive = {name: size for name, size in alive.items() if name not in constant}
    peak = sum(alive.values())
    unknown = 0
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and name not in constant:
                unknown += name not in sizes
                alive[name] = sizes.get(name, 0)
        peak = max(peak, sum(alive.values()))
        for name in [name for name in alive if last_use.get(name, -1) <= index]:
            if name not in kept:
                del alive[name]
    return peak, unknown


def _bytes(kind: int, shape: Iterable[int]) -> int:
    count: int = math.prod(shape)
    return math.ceil(count / 2) if dtype_name(kind) in HALF_BYTES else count * _itemsize(kind)


def _itemsize(kind: int) -> int:
    try:
        return int(library().helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):
        return 1


def _size(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / 1024:.1f} KiB"
