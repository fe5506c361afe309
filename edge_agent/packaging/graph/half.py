"""The same graph with float16 inside, for TensorRT that takes its precision from the graph alone.

What may be rounded is found out by looking: no number that golden pictures bring about, or pictures
as hard as can be, may come near float16's limit, and the golden samples must keep their results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import BackendUnavailable, InferenceFailed, InvalidPackage, ModelError
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.packaging.graph.findings import Finding, note, warning
from edge_agent.packaging.graph.graph import Graph, library
from edge_agent.packaging.graph.half_rewriting import ADDING, CONVOLVING, MULTIPLYING, Rewriting
from edge_agent.packaging.graph.half_rounding import in_float32
from edge_agent.packaging.graph.precision import is_quantised
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

FILE_NAME = "model.half.onnx"
STRONGLY_TYPED = 11  # TensorRT rounds float32 graphs itself before
PEAK = "/peak"
MARGIN = 0.5  # of the tolerance may be used up here; the rest is for kernels that add otherwise
# What is tried one after the other: operators that begin with float16, or go on with it.
STEPS: Tuple[Tuple[FrozenSet[str], FrozenSet[str]], ...] = (
    (CONVOLVING | MULTIPLYING, ADDING),
    (CONVOLVING, ADDING),
    (CONVOLVING, frozenset()),
)


def is_needed(trt_ver: str) -> bool:
    """Whether this TensorRT uses float16 only where the graph has it."""
    return int(trt_ver.split(".")[0]) >= STRONGLY_TYPED


def halve(
    model: bytes, manifest: Manifest, golden: Sequence[Picture]
) -> Tuple[Optional[bytes], Finding]:
    """Return the graph, None where float16 isn't to be had, and what there is to tell.

    golden: pictures of the manifest's golden samples, in their order; without any, only what is
    safest is rounded.
    """
    graph = Graph(model)
    if is_quantised(graph):
        return None, note("The graph is quantised, so there is no variant of it with float16.")
    try:
        peaks = _peaks(graph, manifest.input, [*golden, *_hard(manifest.input)])
    except ModelError as error:
        return None, warning(f"No graph with float16 could be made. {error}")
    reason = "It has nothing that may be rounded."
    for beginning, going_on in STEPS if golden else STEPS[-1:]:
        rewriting = Rewriting(graph, peaks, beginning, going_on)
        if not rewriting.count:
            continue
        content = rewriting.model()
        try:
            _check(content, manifest, golden)
        except ModelError as error:
            reason = str(error)
            continue
        return content, note(
            f"The package has a variant of the graph for TensorRT 11, with float16 in "
            f"{rewriting.count} of {len(graph.nodes)} nodes."
        )
    return None, warning(
        f"There is no variant of the graph with float16, so TensorRT 11 will use float32. {reason}"
    )


def _hard(spec: InputSpec) -> Iterator[Picture]:
    """Yield pictures with the highest contrasts: black, white, noise, lines and squares."""
    shape = (spec.height, spec.width, 3)
    yield np.zeros(shape, np.uint8)
    yield np.full(shape, 255, np.uint8)
    yield np.random.default_rng(0).integers(0, 2, shape, np.uint8) * 255
    rows, columns = np.indices(shape[:2])
    for step in (1, 2, 4, 16):
        for sign in (columns // step, rows // step, rows // step + columns // step):
            yield np.repeat((sign % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def _peaks(graph: Graph, spec: InputSpec, pictures: Sequence[Picture]) -> Dict[str, float]:
    """Return the largest absolute value of each float32 tensor. Raises ModelError."""
    session, names = _session(graph)
    (image,) = graph.inputs
    batch = np.empty(((image.shape or (None,))[0] or 1, *item_shape(spec)), spec.dtype)
    highest = np.zeros(len(names))
    for picture in pictures:
        for slot in batch:
            write_input(Frame(picture), spec, slot)
        try:
            values = session.run([name + PEAK for name in names], {spec.tensor: batch})
        except Exception as error:
            raise InferenceFailed(f"onnxruntime: {str(error).splitlines()[0]}") from None
        highest = np.maximum(highest, np.array(values, np.float64))  # one that isn't a number stays
    return dict(zip(names, highest.tolist()))


def _session(graph: Graph) -> Tuple[Any, List[str]]:
    """Load the graph so that it gives the largest value of each of these tensors."""
    onnx = library()
    try:
        import onnxruntime as ort
    except ImportError:
        raise BackendUnavailable(
            "It needs onnxruntime: pip install 'edge-agent[package]'."
        ) from None
    model = onnx.shape_inference.infer_shapes(graph.model)
    float32 = onnx.TensorProto.FLOAT
    computed = {name for node in model.graph.node for name in node.output} - set(graph.constants)
    computed |= {entry.name for entry in graph.inputs}
    described = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    names = [
        value.name
        for value in described
        if value.name in computed and value.type.tensor_type.elem_type == float32
    ]
    del model.graph.output[:]
    for name in names:
        model.graph.node.extend([
            onnx.helper.make_node("Abs", [name], [f"{name}/abs"]),
            onnx.helper.make_node("ReduceMax", [f"{name}/abs"], [name + PEAK], keepdims=0),
        ])  # fmt: skip
        model.graph.output.append(onnx.helper.make_tensor_value_info(name + PEAK, float32, []))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(content, options, providers=providers), names
    except Exception as error:
        raise InvalidPackage(f"onnxruntime: {str(error).splitlines()[0]}") from None


def _check(content: bytes, manifest: Manifest, golden: Sequence[Picture]) -> None:
    """Raise ModelError unless it can be run and the golden samples keep their results."""
    tolerance = manifest.runtime.parity_tolerance * MARGIN
    runtime = manifest.runtime.model_copy(update={"parity_tolerance": tolerance})
    strict = manifest.model_copy(update={"runtime": runtime})
    for graph in (content, in_float32(content)):
        backend = open_backend(("onnxruntime",), graph, strict, BackendOptions())
        try:
            golden_check.check(backend, strict, golden)
        finally:
            backend.close()
