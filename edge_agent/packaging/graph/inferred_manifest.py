"""A manifest for a bare ONNX file: what the graph contains, and a JSON object with the rest.

Known exports: anomalib 2 (output names of its InferenceBatch: pred_score, anomaly_map; calibrated,
0 to 1) and anomalib 1 (`output`, uncalibrated); both take `input`, float32 NCHW of 0 to 1, and
normalise inside the graph. Source: to_onnx in anomalib's export_mixin.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.manifest import MODEL_FILE, FileEntry, Manifest, parse
from edge_agent.packaging import json_document
from edge_agent.packaging.graph.adapt import picture_among
from edge_agent.packaging.graph.check import check_onnxruntime
from edge_agent.packaging.graph.findings import names
from edge_agent.packaging.graph.graph import Graph, GraphTensor
from edge_agent.packaging.json_document import Document
from edge_agent.types import PALETTE

# key of outputs → names it goes by, the surest first
NAMES = {
    "score": ("score", "pred_score", "anomaly_score"),
    "map": ("map", "anomaly_map"),
    "class_maps": ("class_maps", "classes"),
}
ANOMALIB_OUTPUTS = {"pred_score", "anomaly_map"}
TASKS = {"class_maps": "segmentation", "map": "anomaly_map", "score": "classification"}
CHANNELS = 3
LONGEST_EXAMPLE = 4  # numbers
DEFAULT_BATCHES = [1]  # of a graph that takes any
DTYPES = ("uint8", "float32")  # that the agent can feed

# key that a graph may not contain → how it could be given
EXAMPLES: Document = {
    "name": "bolts",
    "input.tensor": "image",
    "input.height": 256,
    "input.width": 256,
    "input.layout": "NCHW",
    "input.scale": 0.00392157,
}


def manifest_for(model: bytes, given: Document) -> Manifest:
    """Complete `given`, which wins over the graph. Raises InvalidConfiguration: missing keys."""
    graph = Graph(model)
    image = {**_input(graph, given), **_group(given, "input")}
    outputs = _group(given, "outputs") or _outputs(graph, _classes(given))
    tasks = [task for key, task in TASKS.items() if key in outputs]
    values: Document = {
        **({"task": tasks[0]} if tasks else {}),
        **given,
        "input": image,
        "outputs": outputs,
        "runtime": {**_runtime(picture_among(graph.inputs, given)), **_group(given, "runtime")},
        "files": [FileEntry.of(MODEL_FILE, model).model_dump()],
    }
    missing = ([] if "name" in given else ["name"]) + _missing(image)
    picture = picture_among(graph.inputs, given)
    if picture is None or not _is_picture(picture):  # no key of the manifest helps
        missing = [key for key in missing if not key.startswith("input.")]
    shown = {} if outputs else _example_outputs(graph)
    problems = [*_input_problems(graph, given), *_output_problems(graph, outputs, bool(shown))]
    if missing or problems:
        raise InvalidConfiguration(_refusal(graph, {**example(missing), **shown}, problems))
    try:
        return parse(json.dumps(values).encode())
    except InvalidPackage as error:
        raise InvalidConfiguration(f"--manifest: {error}") from None


def read_given(path: Optional[Path]) -> Document:
    """Read the file of --manifest. Raises InvalidConfiguration when it's no JSON object."""
    return json_document.read(path, "--manifest ") if path else {}


def _group(given: Document, name: str) -> Document:
    group = given.get(name, {})
    if not isinstance(group, dict):
        raise InvalidConfiguration(f"--manifest: {name} must be an object, not {group!r}.")
    return group


def _classes(given: Document) -> int:
    classes = given.get("classes", [])
    if not isinstance(classes, list):
        raise InvalidConfiguration(f"--manifest: classes must be a list, not {classes!r}.")
    return len(classes)


def _refusal(graph: Graph, missing: Document, problems: Sequence[str]) -> str:
    """Return everything that is missing, of which an example is given, or wrong at once."""
    there = ", ".join(map(str, (*graph.inputs, *graph.outputs)))
    sentences = [*problems, *(finding.text for finding in check_onnxruntime(graph))]
    if not missing:
        return " ".join([*sentences, f"The graph has {there}."])
    return " ".join(
        [
            f"The graph doesn't have {', '.join(_paths(missing))}; put them into --manifest FILE, "
            f"for example {json.dumps(missing)}. The graph has {there}.",
            *sentences,
        ]
    )


def _paths(values: Document) -> List[str]:
    """Return the keys in the words of sentences: name, input.scale, outputs."""
    image = _group(values, "input")
    return [
        path
        for key in values
        for path in ([f"input.{inner}" for inner in image] if key == "input" else [key])
    ]


def _input_problems(graph: Graph, given: Document) -> Iterator[str]:
    """Yield what else must be said, or changed, so that there is one input, a picture."""
    picture = picture_among(graph.inputs, given)
    others = [entry for entry in graph.inputs if entry != picture]
    if not graph.inputs:
        yield "The graph takes nothing; export it with an input, the picture."
    elif picture is None:
        named = _group(given, "input").get("tensor")
        which = f"No input is {named!r}" if named else "It isn't clear which input is the picture"
        yield (
            f"{which}: name it as input.tensor, one of {names([each.name for each in others])}; "
            'the values of the others as {"constants": {NAME: VALUE}}.'
        )
    elif not _is_picture(picture):
        yield (
            f"Input {picture} isn't a picture: (N, 3, height, width) and (N, height, width, 3) "
            "are, also with 1 channel or without N. Export the graph with such an input."
        )
    if picture is not None and others:
        constants = {entry.name: _example_value(entry) for entry in others}
        yield (
            f"The picture is {picture.name!r}, and the agent supplies nothing else; say which "
            f"value {' and '.join(map(str, others))} always has, for example "
            f"{json.dumps({'constants': constants})}."
        )


def _is_picture(entry: GraphTensor) -> bool:
    shape = entry.shape
    return shape is None or (
        len(shape) == 4 and any(shape[axis] in (None, CHANNELS) for axis in (1, 3))
    )


def _example_value(entry: GraphTensor) -> object:
    """Return 0 in the tensor's shape; by itself, which stands for all, where that is long."""
    zeros = np.zeros([axis or 1 for axis in entry.shape or ()], int)
    return zeros.tolist() if zeros.size <= LONGEST_EXAMPLE else 0


def _output_problems(
    graph: Graph, outputs: Mapping[str, object], has_example: bool
) -> Iterator[str]:
    there = {entry.name for entry in graph.outputs}
    wrong = [name for name in outputs.values() if name is not None and name not in there]
    if wrong:
        yield (
            f"There is no output {names(list(map(str, wrong)))}; outputs names some of "
            f"{names(sorted(there))}."
        )
    if outputs and not wrong:
        return
    yield (
        "An output of float32 can be a score (N) or (N, 1), a score for each class (N, classes), "
        "a map (N, h, w) or (N, 1, h, w), or maps of classes (N, classes + 1, h, w) with the names "
        f"of the classes. {'Name one of these, or export' if has_example or wrong else 'Export'} "
        "the graph with one."
    )
    for entry in graph.outputs:
        count = _score_classes(entry)
        if count:
            yield (
                f"{entry.name!r} holds {count} classes: "
                f'{{"outputs": {{"score": "{entry.name}[1]"}}}} takes the second one, if that is '
                "the anomalous one."
            )


def _score_classes(entry: GraphTensor) -> int:
    """Return of how many classes it holds a score, (N, classes) or (N, classes, 1, 1); 0: none."""
    classes, *rest = (entry.shape or ())[1:] or (0,)
    is_scores = entry.dtype == "float32" and all(axis == 1 for axis in rest)
    return classes if is_scores and classes and classes > 1 else 0


def _example_outputs(graph: Graph) -> Document:
    """Return how one of the outputs could be named; empty when none can be used."""
    floats = [entry for entry in graph.outputs if entry.dtype == "float32"]
    for key in ("score", "map"):
        for entry in floats:
            if _is(entry, key, 0):
                return {"outputs": {key: entry.name}}
    for entry in floats:
        if _score_classes(entry):
            return {"outputs": {"score": f"{entry.name}[1]"}}
        if entry.shape is None or len(entry.shape) == 2:  # a run will show
            return {"outputs": {"score": entry.name}}
        classes = _example_classes(entry.shape)
        if classes:
            return {"outputs": {"class_maps": entry.name}, "classes": classes}
    return {}


def _example_classes(shape: Sequence[Optional[int]]) -> List[Document]:
    """Return classes for maps (N, classes + 1, h, w), or with the channels last."""
    axes = shape[1::2] if len(shape) == 4 else ()
    channels = next((axis for axis in axes if axis and axis <= len(PALETTE)), 0)
    colors = enumerate(PALETTE[1:channels], 1)
    return [{"name": f"class{number}", "color": color} for number, color in colors]


def _input(graph: Graph, given: Document) -> Document:
    image = picture_among(graph.inputs, given)
    if image is None:
        return {}
    if image.dtype not in DTYPES:
        raise InvalidConfiguration(
            f"The agent can't supply the graph's input {image}; export the graph with "
            f"{' or '.join(DTYPES)}."
        )
    found: Document = {"tensor": image.name, "dtype": image.dtype}
    shape = image.shape or ()
    if len(shape) == 4:
        layouts = {"NHWC": (shape[3], shape[1:3]), "NCHW": (shape[1], shape[2:4])}
        fitting = [name for name, (channels, _) in layouts.items() if channels == CHANNELS]
        if len(fitting) == 1:
            height, width = layouts[fitting[0]][1]
            found.update(layout=fitting[0], height=height, width=width)
    if image.dtype == "float32" and _is_anomalib(graph):
        found["scale"] = 1 / 255
    return {key: value for key, value in found.items() if value is not None}


def _is_anomalib(graph: Graph) -> bool:
    return {entry.name for entry in graph.outputs} >= ANOMALIB_OUTPUTS


def _outputs(graph: Graph, classes: int) -> Dict[str, str]:
    """Find outputs by their names, the others by their shapes if just one fits."""
    found = {
        key: entry.name
        for key, known in NAMES.items()
        for entry in graph.outputs
        if entry.name in known and entry.dtype == "float32"
    }
    rest = [
        entry
        for entry in graph.outputs
        if entry.name not in found.values() and entry.dtype == "float32"
    ]
    for key in NAMES:
        fitting = [entry.name for entry in rest if key not in found and _is(entry, key, classes)]
        if len(fitting) == 1:
            found[key] = fitting[0]
    return found


def _is(entry: GraphTensor, key: str, classes: int) -> bool:
    shape = entry.shape or ()
    if key == "score":
        return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if key == "map":
        return len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)
    return len(shape) == 4 and bool(classes) and shape[1] == classes + 1


def _runtime(picture: Optional[GraphTensor]) -> Document:
    shape = picture.shape if picture else None
    fixed = shape[0] if shape else None
    return {"batch_sizes": [fixed] if fixed else DEFAULT_BATCHES}


def _missing(image: Document) -> List[str]:
    """Return the keys without which the agent can't feed the model."""
    needed = ["tensor", "height", "width", "layout"]
    if image.get("dtype") == "float32":
        needed.append("scale")
    return [f"input.{key}" for key in needed if key not in image]


def example(missing: Sequence[str]) -> Document:
    """Return an object that gives the keys `missing`."""
    values: Document = {}
    image: Document = {}
    for key in missing:
        if key.startswith("input."):
            values["input"], image[key[len("input.") :]] = image, EXAMPLES[key]
        else:
            values[key] = EXAMPLES[key]
    return values


def assumptions(manifest: Manifest) -> Tuple[str, ...]:
    """Return sentences about what was taken for granted."""
    outputs = manifest.outputs
    names = {outputs.score, outputs.map}
    if manifest.decision.calibration is None and not names & ANOMALIB_OUTPUTS:
        return (
            "The outputs are taken as calibrated, from 0 to 1; if they aren't, give "
            "decision.calibration with scale and shift in --manifest.",
        )
    return ()
