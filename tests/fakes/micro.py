"""Micro ONNX models, one property each, so that every answer can be worked out by hand.

All take uint8 NHWC RGB of 64x64. With r, g, b the channel values / 255:
  classification  score = mean(r)
  anomaly_map     map = r at half the size (2x2 mean), score = max(map)
  segmentation    class maps: background 0.5, scratch r, dent b; score = max(r, b)
  hanging()       classification that hangs on blue
  slow()          classification that takes its time and as much memory as asked for
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
CLASSES = [{"name": "scratch", "color": "#2CA02C"}, {"name": "dent", "color": "#1F77B4"}]


def graph(task: str, size: int = SIZE, extra_nodes: Optional[List[Any]] = None) -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "c255"], ["unit"]),
        helper.make_node("Split", ["unit", "ones"], ["r", "g", "b"], axis=1),
        *(extra_nodes or []),
        *_HEADS[task],
    ]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])]
    if task == "anomaly_map":
        outputs.append(
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, None, None])
        )
    if task == "segmentation":
        outputs.append(
            helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 3, None, None])
        )
    constants = [
        helper.make_tensor("c255", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("ones", TensorProto.INT64, [3], [1, 1, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])
    model = helper.make_model(
        helper.make_graph(nodes, task, [image], outputs, constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


_HEADS = {
    "classification": [
        helper.make_node("ReduceMean", ["r"], ["score"], axes=[1, 2, 3], keepdims=0)
    ],
    "anomaly_map": [
        helper.make_node("AveragePool", ["r"], ["map"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMax", ["map"], ["score"], axes=[1, 2, 3], keepdims=0),
    ],
    "segmentation": [
        helper.make_node("Mul", ["g", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "half"], ["background"]),
        helper.make_node("Concat", ["background", "r", "b"], ["classes"], axis=1),
        helper.make_node("Max", ["r", "b"], ["strongest"]),
        helper.make_node("ReduceMax", ["strongest"], ["score"], axes=[1, 2, 3], keepdims=0),
    ],
}


def slow(steps: int = 16, channels: int = 64, stride: int = 1) -> bytes:
    """Classification, score = mean(r), after `steps` convolutions that change nothing.

    A step has channels^2 * 36 bytes of weights and takes about 4 ms with 64 channels on one core;
    with a stride of 8 hardly any time.
    """
    model = onnx.load_from_string(graph("classification"))
    nodes, constants = list(model.graph.node), model.graph.initializer
    head = nodes.pop()
    nodes[-1].output[0], value = "red", "red"
    widths = [1, *[channels] * steps, 1]
    random = np.random.default_rng(0)
    for step, (inward, outward) in enumerate(zip(widths, widths[1:])):
        weights = random.normal(0, 0.1, (outward, inward, 3, 3)).astype(np.float32)
        weights *= outward > 1  # the last step leaves zeros
        constants.append(numpy_helper.from_array(weights, f"weights{step}"))
        inputs, value = [value, f"weights{step}"], f"step{step}"
        strides = [1 if step else stride] * 2
        nodes.append(helper.make_node("Conv", inputs, [value], pads=[1] * 4, strides=strides))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["nothing"]))
    nodes.append(helper.make_node("Add", ["red", "nothing"], ["r"]))
    del model.graph.node[:]
    model.graph.node.extend([*nodes, head])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def hanging() -> bytes:
    """Classification, score = mean(r), that computes for days when a frame has any blue."""
    model = onnx.load_from_string(graph("classification"))
    nodes, constants = list(model.graph.node), model.graph.initializer
    head = nodes.pop()
    nodes[-1].output[0] = "red"
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Mul", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [
            info("round", TensorProto.INT64, []),
            info("go_in", TensorProto.BOOL, []),
            info("sum_in", TensorProto.FLOAT, []),
        ],
        [info("go_out", TensorProto.BOOL, []), info("sum_out", TensorProto.FLOAT, [])],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    constants.append(helper.make_tensor("days", TensorProto.FLOAT, [], [1e15]))
    constants.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
    nodes += [
        helper.make_node("ReduceMax", ["b"], ["blue"], keepdims=0),
        helper.make_node("Mul", ["blue", "days"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "go", "zero"], ["nothing"], body=body),
        helper.make_node("Add", ["red", "nothing"], ["r"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, head])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def manifest(task: str, model: bytes, **changes: Any) -> Dict[str, Any]:
    from edge_agent.manifest import FileEntry

    outputs = {
        "classification": {"score": "score"},
        "anomaly_map": {"score": "score", "map": "map"},
        "segmentation": {"score": "score", "class_maps": "classes"},
    }[task]
    values: Dict[str, Any] = {
        "format": 1,
        "name": task,
        "version": "1",
        "task": task,
        "input": {"tensor": "image", "height": SIZE, "width": SIZE},
        "outputs": outputs,
        "decision": {"threshold": 0.5},
        "classes": CLASSES if task == "segmentation" else [],
        "runtime": {"batch_sizes": [4]},
        "files": [FileEntry.of("model.onnx", model).model_dump()],
    }
    values.update(changes)
    return values


def write(folder: Path, task: str, model: Optional[bytes] = None, **changes: Any) -> Path:
    """Write a package folder and return it; the manifest comes last, whole."""
    content = graph(task) if model is None else model
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("model.onnx", content),
        ("manifest.json", json.dumps(manifest(task, content, **changes)).encode()),
    ):
        fresh = folder / f".{name}.new"
        fresh.write_bytes(data)
        fresh.rename(folder / name)
    return folder
