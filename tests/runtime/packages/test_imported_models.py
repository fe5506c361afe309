"""Graphs made elsewhere: float planes, a fixed batch, own names, as anomalib exports them."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent import manifest as package
from edge_agent.errors import BackendUnavailable, InvalidPackage
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.models.inference_unit import InferenceUnit
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import Bitmap, Caller, Prediction

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def exported(batch: Any) -> bytes:
    """The red plane, normalisation undone, is the anomaly map; its maximum is the score."""
    nodes = [
        helper.make_node("Split", ["input", "ones"], ["r", "g", "b"], axis=1),
        helper.make_node("Mul", ["r", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map"], ["pred_score"], axes=[1, 2, 3], keepdims=0),
    ]
    constants = [
        helper.make_tensor("ones", TensorProto.INT64, [3], [1, 1, 1]),
        helper.make_tensor("std", TensorProto.FLOAT, [], [STD[0]]),
        helper.make_tensor("mean", TensorProto.FLOAT, [], [MEAN[0]]),
    ]
    tensor = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "exported",
            [tensor("input", TensorProto.FLOAT, [batch, 3, 64, 64])],
            [
                tensor("pred_score", TensorProto.FLOAT, [batch]),
                tensor("anomaly_map", TensorProto.FLOAT, [batch, 1, 64, 64]),
            ],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def manifest(model: bytes, **changes: Any) -> package.Manifest:
    values: Dict[str, Any] = {
        "name": "imported",
        "task": "anomaly_map",
        "input": {
            "tensor": "input", "height": 64, "width": 64, "layout": "NCHW", "dtype": "float32",
            "scale": 1 / 255, "mean": MEAN, "std": STD,
        },
        "outputs": {"score": "pred_score", "map": "anomaly_map"},
        "runtime": {"batch_sizes": [8]},
        "files": [package.FileEntry.of("model.onnx", model).model_dump()],
        **changes,
    }  # fmt: skip
    return package.parse(json.dumps(values).encode())


def judge(model: bytes, frames: List[Any]) -> List[Prediction]:
    own = manifest(model)
    unit = InferenceUnit(open_backend(["onnxruntime"], model, own, BackendOptions(1)), own)
    unit.warm_up()
    reader = FrameReader()
    items = [
        Item(reader.open(Bitmap(pixels.shape[1], pixels.shape[0], pixels.tobytes())), 0.0, Caller())
        for pixels in frames
    ]
    for start in range(0, len(items), unit.max_batch):
        unit.compute(items[start : start + unit.max_batch])
    unit.close()
    return [item.future.result(0) for item in items]


def frame(red: int, square: Any = 0) -> Any:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[square, square, 0] = red
    return pixels


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_float_planes_and_any_batch_axis_give_each_frame_its_own_answer(batch: Any) -> None:
    frames = [frame(255, slice(32, 64)), frame(0), frame(204, slice(0, 128))]
    first, second, third = judge(exported(batch), frames)
    assert [one.score for one in (first, second, third)] == pytest.approx([1.0, 0.0, 0.8], abs=1e-5)
    (region,) = first.regions
    assert (region.left, region.top, region.width, region.height) == (32, 32, 32, 32)
    assert second.regions == ()
    assert third.anomalies[1].area == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": {"map": "heat"}}, "no output heat; it has pred_score, anomaly_map"),
        ({"input": {"tensor": "x", "height": 64, "width": 64}}, "inputs are input; the manifest"),
        (
            {"input": {"tensor": "input", "height": 32, "width": 64, "layout": "NCHW"}},
            "shape ['N', 3, 64, 64]; the manifest says (N, 3, 32, 64)",
        ),
    ],
)
def test_a_graph_that_is_not_what_its_manifest_says_is_refused(
    changes: Dict[str, Any], words: str
) -> None:
    model = exported("N")
    with pytest.raises(InvalidPackage) as caught:
        open_backend(["onnxruntime"], model, manifest(model, **changes), BackendOptions())
    assert words in str(caught.value)


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    model = exported("N")
    with pytest.raises(BackendUnavailable, match=r"pip install 'edge-agent\[cpu\]'"):
        open_backend(["onnxruntime"], model, manifest(model), BackendOptions())
