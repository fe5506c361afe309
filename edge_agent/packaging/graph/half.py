"""The same graph with float16 inside, for TensorRT that takes its precision from the graph alone.

What may be rounded is measured: no number that golden pictures produce, or pictures with the
highest contrasts, may come near float16's limit, and the golden samples must keep their results.

In the new graph a tensor keeps its name in float32; in float16 it is called NAME/half. Where a node
needs the one and there is only the other, a Cast is put before it. Inputs and outputs of the graph
stay.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    AbstractSet,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from edge_agent.errors import BackendUnavailable, InferenceFailed, InvalidPackage, ModelError
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.packaging.graph.findings import GraphFinding, note, warning
from edge_agent.packaging.graph.graph import (
    DEFAULT_DOMAIN,
    Graph,
    all_inputs,
    attribute,
    library,
    replace,
)
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.system import resources
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

FILE_NAME = "model.half.onnx"
STRONGLY_TYPED = 11  # TensorRT rounds float32 graphs itself before
MARGIN = 0.5  # of the tolerance may be used up here; the rest is for kernels that add otherwise
SAFE = 65504.0 / 16  # float16's largest number, and room for pictures harder than any seen
PEAK, HALF, EXACT = "/peak", "/half", "/exact"  # suffixes of tensors

CONVOLVING = frozenset({"Conv", "ConvTranspose", "Gemm"})  # kernels add up in float32
MULTIPLYING = frozenset({"MatMul"})
ADDING = frozenset({"Add", "BatchNormalization", "Mul", "Sub"})
# These move numbers or choose among them: float16 when all that they take is.
_PASSING = """
    AveragePool Clip Concat DepthToSpace Elu Flatten Gather GlobalAveragePool GlobalMaxPool
    HardSigmoid HardSwish Identity LeakyRelu Max MaxPool Min Neg PRelu Pad ReduceMax ReduceMin Relu
    Reshape Resize Sigmoid Slice SpaceToDepth Split Squeeze Tanh Tile Transpose Unsqueeze
"""
PASSING = frozenset(_PASSING.split())
ONLY_FIRST = frozenset({"Resize"})  # the scales have their own type
# What is tried one after the other: operators that begin with float16, or go on with it.
STEPS: Tuple[Tuple[FrozenSet[str], FrozenSet[str]], ...] = (
    (CONVOLVING | MULTIPLYING, ADDING),
    (CONVOLVING, ADDING),
    (CONVOLVING, frozenset()),
)
# Below 2^-14 float16 has multiples of 2^-24; float32 has them near 0.75.
ROUNDING = {"split": 8193.0, "shift": 0.75, "normal": 2.0**-14}


def is_needed(trt_ver: str) -> bool:
    """Whether this TensorRT uses float16 only where the graph has it."""
    return int(trt_ver.split(".")[0]) >= STRONGLY_TYPED


def halve(
    model: bytes, manifest: Manifest, golden: Sequence[Picture]
) -> Tuple[Optional[bytes], GraphFinding]:
    """Return the graph, None where float16 can't be used, and what was done or why not.

    golden: pictures of the manifest's golden samples, in their order; without any, only what is
    safest is rounded.
    """
    graph = Graph(model)
    if graph.is_quantised:
        return None, note("The graph is quantised, so there is no variant of it with float16.")
    try:
        peaks = _peaks(graph, manifest.input, [*golden, *_high_contrast(manifest.input)])
    except ModelError as error:
        return None, warning(f"No graph with float16 could be made. {error}")
    reason = "It has nothing that may be rounded."
    for starting, continuing in STEPS if golden else STEPS[-1:]:
        rewriting = Rewriting(graph, peaks, starting, continuing)
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


def _high_contrast(spec: InputSpec) -> Iterator[Picture]:
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


def _session(graph: Graph) -> Tuple[onnxruntime.InferenceSession, List[str]]:
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
    options.intra_op_num_threads = resources.cores()
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
        backend = open_backend(("onnxruntime",), graph, strict, BackendOptions(resources.cores()))
        try:
            golden_check.check(backend, strict, golden)
        finally:
            backend.close()


class Rewriting:
    """`graph` with float16 in `count` nodes.

    peaks: name → largest absolute value of each float32 tensor that is computed; what may come near
    float16's limit stays. starting: operators that use float16 wherever they can; continuing: when
    all that they take is float16 already.
    """

    def __init__(
        self,
        graph: Graph,
        peaks: Mapping[str, float],
        starting: AbstractSet[str],
        continuing: AbstractSet[str],
    ) -> None:
        self.count = 0
        self._graph, self._starting, self._continuing = graph, starting, continuing | PASSING
        self._peaks: Dict[str, float] = {**_stored(graph), **peaks}
        self._nodes: List[onnx.NodeProto] = []
        self._constants: List[onnx.TensorProto] = []
        self._halves: Set[str] = set()  # tensors that are float16 where they are made
        self._cast: Set[str] = set()  # tensors that are there in both
        for node in graph.model.graph.node:
            self._add(node)
        for output in graph.outputs:
            self._ensure_float32(output.name)

    def model(self) -> bytes:
        """Return the file."""
        made = library().ModelProto()
        made.CopyFrom(self._graph.model)
        used = {name for node in self._nodes for name in all_inputs(node)}
        used |= {output.name for output in self._graph.outputs}
        kept = [entry for entry in made.graph.initializer if entry.name in used]
        nodes = [
            node for node in self._nodes if node.op_type != "Constant" or node.output[0] in used
        ]
        for field, entries in (
            (made.graph.node, nodes),
            (made.graph.initializer, [*kept, *self._constants]),
            (made.graph.value_info, []),
        ):
            replace(field, entries)
        content: bytes = made.SerializeToString(deterministic=True)
        return content

    def _add(self, node: onnx.NodeProto) -> None:
        taken = self._taken(node)
        if not self._can_halve(node, taken):
            for name in all_inputs(node):
                self._ensure_float32(name)
            self._nodes.append(node)
            return
        made = type(node)()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in taken:
                made.input[place] = self._halved(name)
        for place, name in enumerate(node.output):
            if name:
                made.output[place] = name + HALF
                self._halves.add(name)
        self.count += 1
        self._nodes.append(made)

    def _taken(self, node: onnx.NodeProto) -> List[str]:
        """Return the float32 tensors that a node computes with."""
        names: Sequence[str] = node.input[:1] if node.op_type in ONLY_FIRST else node.input
        return [name for name in names if name in self._peaks]

    def _can_halve(self, node: onnx.NodeProto, taken: Sequence[str]) -> bool:
        """Whether a node can use float16."""
        if node.domain not in (DEFAULT_DOMAIN, "ai.onnx") or not taken:
            return False
        given = [name for name in node.output if name]
        if not all(self._peaks.get(name, np.inf) <= SAFE for name in (*taken, *given)):
            return False
        computed = [name for name in taken if name not in self._graph.constants]
        continues = bool(computed) and all(name in self._halves for name in computed)
        kind = node.op_type
        return kind in self._starting or (kind in self._continuing and continues)

    def _halved(self, name: str) -> str:
        """Return what the tensor is called in float16, having made it."""
        if name not in self._halves | self._cast:
            self._cast.add(name)
            if name in self._graph.constants:
                array = self._graph.array(name).astype(np.float16)
                self._constants.append(library().numpy_helper.from_array(array, name + HALF))
            else:
                self._convert(name, name + HALF, library().TensorProto.FLOAT16)
        return name + HALF

    def _ensure_float32(self, name: str) -> None:
        """Make sure that the tensor is there in float32."""
        if name in self._halves - self._cast:
            self._cast.add(name)
            self._convert(name + HALF, name, library().TensorProto.FLOAT)

    def _convert(self, old: str, new: str, kind: int) -> None:
        self._nodes.append(library().helper.make_node("Cast", [old], [new], f"to {new}", to=kind))


def _stored(graph: Graph) -> Dict[str, float]:
    """Return the largest absolute value of each float32 constant."""
    return {
        name: float(np.abs(graph.array(name)).max(initial=0.0))
        for name in graph.constants
        if graph.dtype(name) == "float32"
    }


def in_float32(content: bytes) -> bytes:
    """Return a graph with float16 for the CPU: in float32, each float16 tensor rounded by hand.

    onnxruntime has few kernels for float16 on CPUs, and between others it leaves the rounding out,
    so a graph that is run as it is seems better than it will be on a GPU.
    """
    onnx = library()
    model = onnx.load_model_from_string(content)
    nodes = [made for node in model.graph.node for made in _rounding(node)]
    stored = [*map(_widened, model.graph.initializer), *_rounding_constants()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    result: bytes = model.SerializeToString()
    return result


def _rounding(node: onnx.NodeProto) -> List[onnx.NodeProto]:
    """Return what stands for a node: itself, and the rounding of what was float16."""
    onnx = library()
    if node.op_type == "Cast" and attribute(node, "to", 0) == onnx.TensorProto.FLOAT16:
        return _rounded(node.input[0], node.output[0])
    made = type(node)()
    made.CopyFrom(node)
    if node.op_type == "Cast" and node.input[0].endswith(HALF):
        made = onnx.helper.make_node("Identity", list(node.input), list(node.output))
    nodes = [made]
    for place, name in enumerate(node.output):
        if name.endswith(HALF):
            made.output[place] = name + EXACT
            nodes += _rounded(name + EXACT, name)
    return nodes


def _rounded(name: str, rounded: str) -> List[onnx.NodeProto]:
    """Return nodes that keep 11 bits: x * 8193 - (x * 8193 - x) is Veltkamp's splitting."""
    make = library().helper.make_node
    steps = [
        ("Mul", [name, "rounding/split"], "much"),
        ("Sub", [f"{rounded}/much", name], "rest"),
        ("Sub", [f"{rounded}/much", f"{rounded}/rest"], "near"),
        ("Add", [name, "rounding/shift"], "up"),
        ("Sub", [f"{rounded}/up", "rounding/shift"], "small"),
        ("Abs", [name], "size"),
        ("Less", [f"{rounded}/size", "rounding/normal"], "is_small"),
    ]
    choice = [f"{rounded}/{part}" for part in ("is_small", "small", "near")]
    nodes = [make(kind, taken, [f"{rounded}/{given}"]) for kind, taken, given in steps]
    return [*nodes, make("Where", choice, [rounded])]


def _rounding_constants() -> List[onnx.TensorProto]:
    make = library().numpy_helper.from_array
    return [make(np.array(value, np.float32), f"rounding/{one}") for one, value in ROUNDING.items()]


def _widened(entry: onnx.TensorProto) -> onnx.TensorProto:
    """Return a stored tensor, in float32 when it is float16."""
    onnx = library()
    if entry.data_type != onnx.TensorProto.FLOAT16:
        return type(entry).FromString(entry.SerializeToString())
    array = onnx.numpy_helper.to_array(entry).astype(np.float32)
    return onnx.numpy_helper.from_array(array, entry.name)
