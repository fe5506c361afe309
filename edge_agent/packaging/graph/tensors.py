"""Inputs, outputs and batch of the graph against the manifest."""

from __future__ import annotations

from typing import Dict, Iterator, Optional, Sequence, Tuple

from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.findings import Finding, error, warning
from edge_agent.packaging.graph.graph import Axis, Graph, Tensor, axis_name
from edge_agent.runtime.vision.preprocess import item_shape

Form = Tuple[Tuple[Axis, ...], ...]


def check(graph: Graph, manifest: Manifest, on_gpu: bool) -> Iterator[Finding]:
    """Compare names, types and shapes, each with the sentence of what doesn't fit."""
    taken = next((entry for entry in graph.inputs if entry.name == manifest.input.tensor), None)
    if taken is None or len(graph.inputs) != 1:
        there = ", ".join(map(str, graph.inputs)) or "none"
        yield error(
            f"The graph's inputs are {there}; the manifest names {manifest.input.tensor!r} "
            "(input.tensor) and there must be just one. Export the graph with one input."
        )
    else:
        yield from _input(taken, manifest)
        yield from _batch(taken, manifest, on_gpu)
    yield from _outputs(graph, manifest)


def _input(came: Tensor, manifest: Manifest) -> Iterator[Finding]:
    spec = manifest.input
    if came.dtype != spec.dtype:
        yield error(
            f"The graph's input {came} isn't {spec.dtype}, as the manifest says (input.dtype); "
            "the agent can feed uint8 and float32. Correct the manifest or export the graph anew."
        )
    item = item_shape(spec)
    if not _fits(came.shape, (None, *item)):
        yield error(
            f"The graph's input {came} doesn't take {spec.layout} images of {spec.height}x"
            f"{spec.width}, (N, {', '.join(map(str, item))}), as the manifest says. "
            "Correct input.height, input.width or input.layout."
        )


def _batch(came: Tensor, manifest: Manifest, on_gpu: bool) -> Iterator[Finding]:
    fixed = came.shape[0] if came.shape else None
    others = [size for size in manifest.runtime.batch_sizes if size != fixed]
    if fixed is None or not others:
        return
    sentence = (
        f"The graph computes batches of exactly {fixed}; runtime.batch_sizes asks for "
        f"{', '.join(map(str, others))}. Export it with a free first axis, or set batch_sizes to "
        f"[{fixed}]."
    )
    if on_gpu:
        yield error(sentence)
    else:
        yield warning(f"{sentence} On this target every batch is filled up to {fixed}.")


def _outputs(graph: Graph, manifest: Manifest) -> Iterator[Finding]:
    for key, form in _forms(len(manifest.classes) + 1).items():
        name = getattr(manifest.outputs, key)
        if name is None:
            continue
        came = next((entry for entry in graph.outputs if entry.name == name), None)
        if came is None:
            yield error(
                f"The graph has no output {name!r}, which the manifest names as outputs.{key}; "
                f"it has {', '.join(map(str, graph.outputs))}."
            )
        else:
            yield from _output(came, key, form)


def _output(came: Tensor, key: str, form: Form) -> Iterator[Finding]:
    if came.dtype != "float32":
        yield error(f"Output {came} must be float32 (outputs.{key}); add a Cast to the graph.")
    if not any(_fits(came.shape, shape) for shape in form):
        wanted = " or ".join(f"({', '.join(map(axis_name, shape))})" for shape in form)
        yield error(f"Output {came} must be {wanted} (outputs.{key}); reshape it in the graph.")


def _forms(channels: int) -> Dict[str, Form]:
    """Return the shapes an output may have, by its key in the manifest; None is a free axis."""
    return {
        "score": ((None,), (None, 1)),
        "map": ((None, None, None), (None, 1, None, None)),
        "class_maps": ((None, channels, None, None),),
    }


def _fits(came: Optional[Sequence[Axis]], wanted: Sequence[Axis]) -> bool:
    """Whether the shapes can be the same; a free axis fits every length."""
    if came is None:
        return True
    return len(came) == len(wanted) and all(
        axis is None or length is None or axis == length for axis, length in zip(came, wanted)
    )
