"""All checks of one graph for one target: tensors, precision, memory, and what its engine takes.

Source of onnxruntime's limits: its table of compatible versions; 1.19 is the last one for CPython
3.8 and the oldest the agent supports.
"""

from __future__ import annotations

from typing import Dict, Iterator, Optional, Sequence, Tuple

from edge_agent.errors import BackendUnavailable, ModelError
from edge_agent.manifest import Manifest
from edge_agent.packaging.graph import memory, trt
from edge_agent.packaging.graph.findings import (
    GraphFinding,
    GraphReport,
    error,
    names,
    note,
    warning,
)
from edge_agent.packaging.graph.graph import DEFAULT_DOMAIN, Axis, Graph, GraphTensor, axis_name
from edge_agent.packaging.target import GpuOptions, Target
from edge_agent.runtime.vision.preprocess import item_shape
from edge_agent.targets import Precision

ENOUGH_CALIBRATION = 100  # fewer pictures seldom show all of a line's light and parts
TRIAL_BATCH = 2  # the smallest that shows a graph whose free batch isn't
# of onnxruntime
OLDEST = "1.19"
NEWEST_IR = 10
OLDEST_OPSET = 7
NEWEST_OPSETS = {DEFAULT_DOMAIN: 21, "ai.onnx.ml": 5, "com.microsoft": 1}
OF_ONE_MACHINE = "com.microsoft.nchwc"

Shapes = Tuple[Tuple[Axis, ...], ...]


def check(model: bytes, manifest: Manifest, target: Target, calibration: int = 0) -> GraphReport:
    """Find what the target will make of `model`, an ONNX file that holds all its tensors.

    calibration: how many pictures for int8 are given. Raises InvalidPackage when the file can't be
    read, InvalidConfiguration when onnx isn't installed.
    """
    graph = Graph(model)
    findings = list(_static(graph, manifest, target, calibration))
    if not any(finding.severity == "error" for finding in findings):
        findings.extend(_trial(model, manifest, _on_gpu(target)))
    return GraphReport(tuple(findings))


def _static(
    graph: Graph, manifest: Manifest, target: Target, calibration: int
) -> Iterator[GraphFinding]:
    on_gpu = _on_gpu(target)
    yield from check_tensors(graph, manifest, on_gpu)
    if isinstance(target.options, GpuOptions):
        yield from trt.check(graph, manifest, target.options.trt_ver)
    else:
        yield from check_onnxruntime(graph)
    yield from check_precision(graph, manifest.runtime.precision, on_gpu, calibration)
    yield from memory.check(graph, manifest)


def _on_gpu(target: Target) -> bool:
    return isinstance(target.options, GpuOptions)


def check_tensors(graph: Graph, manifest: Manifest, on_gpu: bool) -> Iterator[GraphFinding]:
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
    batch = taken.shape[0] if taken and taken.shape else None
    yield from _outputs(graph.outputs, manifest, batch)


def _input(found: GraphTensor, manifest: Manifest) -> Iterator[GraphFinding]:
    spec = manifest.input
    if found.dtype != spec.dtype:
        yield error(
            f"The graph's input {found} isn't {spec.dtype}, as the manifest says (input.dtype); "
            "the agent supplies uint8 and float32. Correct the manifest, or export the graph again."
        )
    item = item_shape(spec)
    if not _fits(found.shape, (None, *item)):
        yield error(
            f"The graph's input {found} doesn't take {spec.layout} images of {spec.height}x"
            f"{spec.width}, (N, {', '.join(map(str, item))}), as the manifest says. "
            "Correct input.height, input.width or input.layout."
        )


def _batch(found: GraphTensor, manifest: Manifest, on_gpu: bool) -> Iterator[GraphFinding]:
    fixed = found.shape[0] if found.shape else None
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


def _outputs(
    outputs: Sequence[GraphTensor], manifest: Manifest, batch: Axis
) -> Iterator[GraphFinding]:
    for key, allowed in _allowed_shapes(batch, len(manifest.classes) + 1).items():
        name = getattr(manifest.outputs, key)
        if name is None:
            continue
        found = next((entry for entry in outputs if entry.name == name), None)
        if found is None:
            yield error(
                f"The graph has no output {name!r}, which the manifest names as outputs.{key}; "
                f"it has {', '.join(map(str, outputs))}."
            )
        else:
            yield from _output(found, key, allowed)


def _output(found: GraphTensor, key: str, allowed: Shapes) -> Iterator[GraphFinding]:
    if found.dtype == "bool":
        yield error(
            f"Output {found} is a verdict; name the score that it is made of, a float32 output "
            f"(outputs.{key})."
        )
    elif found.dtype != "float32":
        yield error(f"Output {found} must be float32 (outputs.{key}); add a Cast to the graph.")
    if not any(_fits(found.shape, shape) for shape in allowed):
        wanted = " or ".join(f"({', '.join(map(axis_name, shape))})" for shape in allowed)
        is_classes = key == "score" and len(found.shape or ()) == 2
        classes = f", or take one class, {found.name}[1]" if is_classes else ""
        yield error(
            f"Output {found} must be {wanted} (outputs.{key}); reshape it in the graph{classes}."
        )


def _allowed_shapes(batch: Axis, channels: int) -> Dict[str, Shapes]:
    """Return the shapes an output may have, by its key in the manifest; None is a free axis."""
    return {
        "score": ((batch,), (batch, 1)),
        "map": ((batch, None, None), (batch, 1, None, None)),
        "class_maps": ((batch, channels, None, None),),
    }


def _fits(found: Optional[Sequence[Axis]], wanted: Sequence[Axis]) -> bool:
    """Whether the shapes can be the same; a free axis fits every length."""
    if found is None:
        return True
    return len(found) == len(wanted) and all(
        axis is None or length is None or axis == length for axis, length in zip(found, wanted)
    )


def check_precision(
    graph: Graph, precision: Precision, on_gpu: bool, calibration: int
) -> Iterator[GraphFinding]:
    """Compare the precision with the target and the graph; `calibration` pictures are given."""
    if not on_gpu:
        yield from _on_cpu(graph, precision, calibration)
    elif precision == "int8":
        yield from _int8(graph, calibration)
    elif calibration:
        yield error(
            f"{calibration} calibration pictures are given, which only int8 uses; the precision is "
            f"{precision}. Use --precision int8, or leave --calibration-images out."
        )
    elif graph.is_quantised:
        yield warning(
            "The graph is quantised (QuantizeLinear), which TensorRT builds as int8 only; the "
            f"precision is {precision}. Use --precision int8."
        )


def _on_cpu(graph: Graph, precision: Precision, calibration: int) -> Iterator[GraphFinding]:
    if calibration:
        yield error(
            "Calibration pictures are for int8 on NVIDIA targets; this one is a CPU. Leave "
            "--calibration-images out."
        )
    if precision != "fp32" and not (precision == "int8" and graph.is_quantised):
        yield warning(
            f"The precision {precision} is for NVIDIA targets; on this CPU the graph is computed "
            "as it is. For int8 here quantise the graph itself (onnxruntime.quantization)."
        )


def _int8(graph: Graph, calibration: int) -> Iterator[GraphFinding]:
    if graph.is_quantised and calibration:
        yield note("The graph is quantised already; the calibration pictures won't be used.")
    elif not graph.is_quantised and not calibration:
        yield error(
            "int8 needs the ranges of all results: a graph with QuantizeLinear and "
            "DequantizeLinear, or pictures of normal production, --calibration-images FOLDER. "
            "Or choose --precision fp16."
        )
    elif 0 < calibration < ENOUGH_CALIBRATION:
        yield warning(
            f"{calibration} calibration pictures are few; int8 ranges of "
            f"{ENOUGH_CALIBRATION} or more are steadier."
        )


def check_onnxruntime(graph: Graph) -> Iterator[GraphFinding]:
    """Compare file version, opsets and domains with what onnxruntime 1.19 reads."""
    if graph.ir_version > NEWEST_IR:
        yield error(
            f"The graph has IR version {graph.ir_version}; onnxruntime {OLDEST}, the oldest the "
            f"agent runs on, reads up to {NEWEST_IR}. Save it with ir_version={NEWEST_IR}."
        )
    used = {domain for domain, _ in graph.operators()}
    if OF_ONE_MACHINE in used:
        yield error(
            "The graph was optimised by onnxruntime for one processor (operators of "
            f"{OF_ONE_MACHINE}); package the graph it was made of, with --optimise if you like."
        )
    for domain in sorted(used - {OF_ONE_MACHINE}):
        yield from _opset(domain, graph)


def _opset(domain: str, graph: Graph) -> Iterator[GraphFinding]:
    opset, newest = graph.opsets.get(domain, 1), NEWEST_OPSETS.get(domain)
    if newest is None:
        operators = names([name for owner, name in graph.operators() if owner == domain])
        yield error(
            f"The graph needs operators of the domain {domain!r} ({operators}), which onnxruntime "
            "doesn't have. Export it without them."
        )
    elif opset > newest or (domain == DEFAULT_DOMAIN and opset < OLDEST_OPSET):
        oldest = f"{OLDEST_OPSET} to " if domain == DEFAULT_DOMAIN else "up to "
        yield error(
            f"The graph has opset {opset}{domain and f' of {domain}'}; onnxruntime {OLDEST}, the "
            f"oldest the agent runs on, takes {oldest}{newest}. Export it with opset "
            f"{min(17, newest)}, which every target takes."
        )


def _trial(model: bytes, manifest: Manifest, on_gpu: bool) -> Iterator[GraphFinding]:
    """Load the graph as the agent does and compute black frames; for a GPU it's only a fallback."""
    try:
        yield from _run(model, manifest)
    except BackendUnavailable:
        yield note("onnxruntime isn't installed here, so the graph wasn't tested.")
    except ModelError as caught:
        problem = f"{caught} (a trial on this machine)"
        if on_gpu:
            yield warning(f"{problem} The target can run the model in TensorRT only.")
        else:
            yield error(problem)


def _run(model: bytes, manifest: Manifest) -> Iterator[GraphFinding]:
    """Compute one frame and a batch; compare what comes with the manifest. Raises ModelError."""
    from edge_agent.runtime.backends.base import BackendOptions
    from edge_agent.runtime.backends.catalog import open_backend
    from edge_agent.runtime.models.inference_unit import InferenceUnit

    batch = min(TRIAL_BATCH, max(manifest.runtime.batch_sizes))
    runtime = manifest.runtime.model_copy(update={"batch_sizes": (batch,)})
    tried = manifest.model_copy(update={"runtime": runtime})
    options = BackendOptions(threads=1, cpu_batches=True)
    backend = open_backend(["onnxruntime"], model, tried, options)
    try:
        outputs = backend.try_out(backend.slots()[:1])
        computed = [
            GraphTensor(name, values.dtype.name, values.shape) for name, values in outputs.items()
        ]
        wrong = list(_outputs(computed, tried, 1))
        yield from wrong
        if not wrong:
            InferenceUnit(backend, tried).warm_up()
    finally:
        backend.close()
