"""A second graph with onnxruntime's optimisations done beforehand, for one instruction set.

It lays out weights for the vectors of the processor it is made on, so it can only be made on one
that has exactly the target's. The same model gives the same bytes each time: onnxruntime numbers
what it adds in a random order, so every name is replaced by a digest of what it stands for.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Callable, Dict, MutableSequence, Set, Tuple

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.packaging.graph.graph import library, replace, subgraphs
from edge_agent.packaging.target import CpuOptions, Target
from edge_agent.runtime.packages.graph_choice import instruction_set
from edge_agent.runtime.system import resources
from edge_agent.targets import MACHINES, OptimisedGraph

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from google.protobuf.message import Message

FILE_NAME = "model.optimised.onnx"
ERRORS_ONLY = 3  # onnxruntime's severity


def optimise(model: bytes, target: Target) -> Tuple[bytes, OptimisedGraph]:
    """Return the optimised graph and what the manifest says of it.

    Raises InvalidConfiguration when this machine isn't like the target, InvalidPackage when
    onnxruntime can't load the graph or it has branches or loops.
    """
    here = _check_machine(target)
    ort = _onnxruntime()
    content = canonical(_optimised(ort, model))
    as_it_is = ort.SessionOptions()
    as_it_is.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    _load(ort, content, as_it_is, "the graph it has optimised; leave --optimise out")
    source = hashlib.sha256(model).hexdigest()
    return content, OptimisedGraph(
        path=FILE_NAME, version=ort.__version__, instruction_set=here, source=source
    )


def canonical(content: bytes) -> bytes:
    """Rename every tensor but the graph's inputs and outputs, and order nodes by their names."""
    model = library().load_model_from_string(content)
    graph = model.graph
    if any(True for node in graph.node for _ in subgraphs(node)):
        raise InvalidPackage(
            "A graph with branches or loops (If, Loop, Scan) can't be optimised beforehand; leave "
            "--optimise out."
        )
    outputs = {entry.name for entry in graph.output}
    names = {name: name for name in (*(entry.name for entry in graph.input), *outputs)}
    for entry in graph.initializer:
        if entry.name in names:  # the default of an input, or an output computed beforehand
            continue
        entry.name, old = "", entry.name
        names[old] = entry.name = _digest(entry.SerializeToString(deterministic=True))
    _rename(graph.node, names, outputs)
    _sort(graph.initializer, lambda entry: entry.name)
    _sort(model.opset_import, lambda entry: entry.domain)
    del graph.value_info[:]
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _rename(
    nodes: MutableSequence[onnx.NodeProto], names: Dict[str, str], outputs: Set[str]
) -> None:
    """Name nodes and tensors by what computes them; the nodes stay in an order that can be run."""
    depths: Dict[str, int] = {}
    placed: Dict[str, Tuple[int, onnx.NodeProto]] = {}
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        results = list(node.output)
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        node.name = node.doc_string = ""
        for place, name in enumerate(results):
            node.output[place] = name if name in outputs else ""
        node.name = _digest(node.SerializeToString(deterministic=True))
        for place, name in enumerate(results):
            if name:
                depths[name] = depth
                names[name] = node.output[place] = (
                    name if name in outputs else f"{node.name}_{place}"
                )
        placed[node.name] = (depth, node)  # of two that compute the same one is enough
    ordered = sorted(placed.values(), key=lambda entry: (entry[0], entry[1].name))
    replace(nodes, [node for _, node in ordered])


def _sort(entries: MutableSequence[Message], key: Callable[[Message], str]) -> None:
    unique = {key(entry): entry for entry in entries}
    replace(entries, [unique[name] for name in sorted(unique)])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _check_machine(target: Target) -> str:
    """Return this machine's instruction set if the target has the same."""
    if not isinstance(target.options, CpuOptions):
        raise InvalidConfiguration(
            "--optimise is for CPU targets; an NVIDIA device builds its own engine from the graph."
        )
    here, machine = instruction_set(), platform.machine()
    wanted = MACHINES[target.platform.Arch]
    if machine != wanted:
        raise InvalidConfiguration(
            f"--optimise for {target.platform.Arch} needs a machine of that architecture; this one "
            f"is {machine} ({here}). Package there, or leave --optimise out."
        )
    mcpu = target.options.mcpu
    if machine == "x86_64" and mcpu != here:
        raise InvalidConfiguration(
            f"--optimise for {mcpu} needs a machine with exactly that instruction set; this one "
            f"has {here}. Package on such a machine, name "
            f'--compiler-options \'{{"mcpu": "{here}"}}\' if the target has it too, or leave '
            "--optimise out."
        )
    return here


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise InvalidConfiguration(
            "--optimise needs onnxruntime: pip install 'edge-agent[package]'."
        ) from None
    module: ModuleType = onnxruntime
    return module


def _optimised(ort: ModuleType, model: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, FILE_NAME)
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(file)
        _load(ort, model, options, "the graph")
        return file.read_bytes()


def _load(ort: ModuleType, model: bytes, options: onnxruntime.SessionOptions, what: str) -> None:
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = resources.cores()
    try:
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InvalidPackage(f"onnxruntime can't load {what}: {reason}") from None
