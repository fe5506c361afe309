"""A model that computes next to nothing: its agent is as fast as all around the engine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from onnx import TensorProto, helper

from edge_agent.manifest import MODEL_FILE, Decision, FileEntry, Manifest, Statistics
from edge_agent.runtime.vision.preprocess import item_shape
from edge_agent.training import package as package_folder

OPSET = 13
MAP_STEP = 4  # pixels of the input to one of the map, as trained models have it


def write(out: Path, like: Manifest) -> Path:
    """Write a package with the inputs and outputs of `like`, which finds every picture good."""
    model = _graph(like)
    fresh: Dict[str, Any] = {
        "decision": Decision(), "statistics": Statistics(), "golden": (), "target": None,
        "build": None, "optimised": None, "files": (FileEntry.of(MODEL_FILE, model),),
    }  # fmt: skip
    package_folder.write(out, like.model_copy(update=fresh), {MODEL_FILE: model})
    return out


def _graph(like: Manifest) -> bytes:
    """Return zeros of the shapes of all outputs, made of one value of each picture."""
    spec, node, names = like.input, helper.make_node, like.outputs
    height, width = (max(1, size // MAP_STEP) for size in (spec.height, spec.width))
    maps = {names.map: (1, 1, height, width)}
    maps[names.class_maps] = (1, 1 + len(like.classes), height, width)
    nodes = [
        node("Slice", [spec.tensor, "begin", "end", "axes"], ["corner"]),
        node("Cast", ["corner"], ["value"], to=TensorProto.FLOAT),
        node("Mul", ["value", "zero"], ["nothing"]),
    ]
    outputs: List[Any] = []
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        *(_numbers(*each) for each in (("begin", [0] * 3), ("end", [1] * 3), ("axes", [1, 2, 3]))),
    ]
    if names.score is not None:
        nodes.append(node("ReduceMax", ["nothing"], [names.score], axes=[1, 2, 3], keepdims=0))
        outputs.append(helper.make_tensor_value_info(names.score, TensorProto.FLOAT, ["N"]))
    for name, shape in maps.items():
        if name is not None:
            constants.append(_numbers(f"shape of {name}", shape))
            nodes.append(node("Expand", ["nothing", f"shape of {name}"], [name]))
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape[1:]])
            outputs.append(info)
    kind = TensorProto.UINT8 if spec.dtype == "uint8" else TensorProto.FLOAT
    image = helper.make_tensor_value_info(spec.tensor, kind, ["N", *item_shape(spec)])
    graph = helper.make_graph(nodes, "nothing", [image], outputs, constants)
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def _numbers(name: str, values: Any) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
