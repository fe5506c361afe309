"""Whether the target's TensorRT can build the graph: opset, operators, and who takes the image.

The engine itself is built on the device; what only the builder knows shows there.
"""

from __future__ import annotations

from typing import Iterator, List, Tuple

from edge_agent.manifest import Manifest
from edge_agent.packaging.graph import trt_parser
from edge_agent.packaging.graph.findings import GraphFinding, error, names, note, warning
from edge_agent.packaging.graph.graph import DEFAULT_DOMAIN, Graph, attribute, dtype_name, label
from edge_agent.packaging.graph.trt_parser import (
    RESTRICTIONS,
    SOMETIME,
    SOMETIME_BETWEEN,
    TYPES_OF_8,
    TYPES_OF_9,
    Restriction,
    Version,
)

OWN_FUNCTIONS_SINCE = (9, 0)
INT64_SINCE = (9, 0)
INT32_RANGE = (-(2**31), 2**31 - 1)
# operator → inputs where a number out of int32 means "all there is", clamped or not
LIMITS = {"Slice": (1, 2), "Loop": (0,)}


def check(graph: Graph, manifest: Manifest, trt_ver: str) -> Iterator[GraphFinding]:
    """Find what TensorRT `trt_ver` ("8.5.2") would refuse or change."""
    version = _version(trt_ver)
    engine = "TensorRT {}.{}".format(*version)
    if version > trt_parser.NEWEST_TABLE:
        newest = "{}.{}".format(*trt_parser.NEWEST_TABLE)
        yield note(f"{engine} isn't known here; the graph was compared with TensorRT {newest}.")
    yield from _opset(graph, version, engine)
    yield from _operators(graph, version, engine)
    for restriction in RESTRICTIONS:
        if restriction.since <= version < restriction.until:
            yield from _restriction(graph, restriction, engine)
    yield from _image(graph, manifest, engine)
    yield from _types(graph, version, engine)


def _version(text: str) -> Version:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _opset(graph: Graph, version: Version, engine: str) -> Iterator[GraphFinding]:
    opset, newest = graph.opsets.get(DEFAULT_DOMAIN, 0), trt_parser.newest_opset(version)
    oldest, listed = trt_parser.OLDEST_OPSET, trt_parser.OLDEST_LISTED
    advice = f"Export it with opset {min(17, newest)}, or convert it with onnx.version_converter."
    if not oldest <= opset <= newest:
        yield error(f"The graph has opset {opset}; {engine} takes {oldest} to {newest}. {advice}")
    elif opset < listed:
        yield warning(
            f"The graph has opset {opset}; {engine} reads it, but officially supports {listed} to "
            f"{newest} only. {advice}"
        )


def _operators(graph: Graph, version: Version, engine: str) -> Iterator[GraphFinding]:
    known = trt_parser.operators(version)
    used = graph.operators()
    own = graph.model.functions
    if own and version < OWN_FUNCTIONS_SINCE:
        functions = names([entry.name for entry in own])
        yield error(
            f"The graph calls functions of its own ({functions}), which {engine} can't expand; "
            "inline them with onnx.inliner.inline_local_functions."
        )
    foreign = [f"{domain}.{name}" for domain, name in used if domain != DEFAULT_DOMAIN]
    if foreign:
        yield error(
            f"The graph has operators that aren't ONNX's own: {names(foreign)}. {engine} would "
            "need a plugin for each and the agent has none; export the graph without them."
        )
    missing = [name for domain, name in used if domain == DEFAULT_DOMAIN and name not in known]
    unsure = [name for name in missing if name in SOMETIME and version > SOMETIME_BETWEEN[0]]
    if unsure:
        yield warning(f"It isn't known whether {engine} has {names(unsure)}; try on the device.")
    yield from _missing([name for name in missing if name not in unsure], engine)


def _missing(missing: List[str], engine: str) -> Iterator[GraphFinding]:
    if missing:
        later = sorted({f"{name} since {trt_parser.since(name)}" for name in missing
                        if trt_parser.since(name)})  # fmt: skip
        hint = f" ({', '.join(later)})" if later else ""
        yield error(
            f"{engine} doesn't have the operators {names(missing)}{hint}. Export the graph "
            "without them, with a lower opset perhaps, or name a newer TensorRT."
        )


def _restriction(graph: Graph, restriction: Restriction, engine: str) -> Iterator[GraphFinding]:
    hit = [
        label(node)
        for node in graph.of_type(*restriction.operators)
        if restriction.breaks(graph, node)
    ]
    if hit:
        sentence = f"{engine}: {restriction.rule}. The graph breaks this in {names(hit, 3)}."
        yield error(sentence) if restriction.fatal else warning(sentence)


def _image(graph: Graph, manifest: Manifest, engine: str) -> Iterator[GraphFinding]:
    """TensorRT takes uint8 as a network's input only if a cast comes first."""
    if manifest.input.dtype != "uint8":
        return
    consumers = graph.consumers(manifest.input.tensor)
    others = [label(node) for node in consumers if node.op_type != "Cast"]
    if others:
        yield error(
            f"The uint8 input {manifest.input.tensor!r} goes into {names(others, 3)}; {engine} "
            "can only cast uint8. Put a Cast to float32 right behind the input."
        )


def _types(graph: Graph, version: Version, engine: str) -> Iterator[GraphFinding]:
    kinds: List[Tuple[str, str]] = [
        (dtype_name(entry.data_type), name) for name, entry in graph.constants.items()
    ]
    doubles = [name for kind, name in kinds if kind == "float64"]
    doubles += [
        label(node)
        for node in graph.of_type("Cast")
        if dtype_name(attribute(node, "to", 0)) == "float64"
    ]
    if doubles:
        yield warning(f"{engine} computes float64 as float32: {names(doubles, 3)}.")
    known = TYPES_OF_8 if version < INT64_SINCE else TYPES_OF_9
    strange = [f"{name} ({kind})" for kind, name in kinds if kind not in known]
    if strange:
        yield error(f"{engine} can't read weights such as {names(strange, 3)}; use float32.")
    if version < INT64_SINCE:
        clamped = [name for kind, name in kinds if kind == "int64" and _is_clamped(graph, name)]
        if clamped:
            yield warning(
                f"{engine} casts int64 to int32, so values of {names(clamped, 3)} will be clamped."
            )


def _is_clamped(graph: Graph, name: str) -> bool:
    """Whether a stored tensor means something else once its values are those of an int32."""
    values = graph.array(name)
    if not values.size or (INT32_RANGE[0] <= values.min() and values.max() <= INT32_RANGE[1]):
        return False
    return any(
        taken == name and place not in LIMITS.get(node.op_type, ())
        for node in graph.consumers(name)
        for place, taken in enumerate(node.input)
    )
