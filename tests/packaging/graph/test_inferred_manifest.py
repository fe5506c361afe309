"""A manifest for a bare ONNX file: from the graph, and from what --manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import pytest
from onnx import TensorProto

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.packaging.draft import open_draft
from edge_agent.packaging.graph.inferred_manifest import (
    EXAMPLES,
    assumptions,
    example,
    manifest_for,
)
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.graphs import FLOAT, node, tensor

NAMED = {"name": "bolts"}
ANOMALIB_2 = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


def anomalib(size: Optional[int] = 256, outputs: Sequence[str] = ANOMALIB_2) -> bytes:
    """A graph with the inputs and outputs of an anomalib export."""
    shapes: Dict[str, Any] = {
        "pred_score": (FLOAT, ["batch_size", 1]),
        "pred_label": (TensorProto.BOOL, ["batch_size", 1]),
        "anomaly_map": (FLOAT, ["batch_size", 1, size, size]),
        "pred_mask": (TensorProto.BOOL, ["batch_size", 1, size, size]),
        "output": (FLOAT, ["batch_size", 1, size, size]),
        "1234": (FLOAT, ["batch_size"]),
    }
    image = tensor("input", FLOAT, ["batch_size", 3, size or "height", size or "width"])
    nodes = [node("ReduceMean", ["input"], ["map"], axes=[1]),
             node("ReduceMax", ["map"], ["most"], axes=[2, 3], keepdims=0)]  # fmt: skip
    sources = {"pred_score": "most", "1234": "most", "pred_label": "most"}
    for name in outputs:
        kind = shapes[name][0]
        nodes.append(node("Cast", [sources.get(name, "map")], [name], to=kind))
    return graphs.model(nodes, [image], [tensor(name, *shapes[name]) for name in outputs], opset=14)


def refusal(content: bytes, rest: Dict[str, Any]) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        manifest_for(content, rest)
    return str(caught.value)


@pytest.mark.parametrize("task", ["classification", "anomaly_map"])
def test_the_graph_of_a_package_tells_what_its_manifest_said(task: str) -> None:
    content = micro.graph(task)
    packaged = graphs.described(content, task)

    found = manifest_for(content, {"name": task, "runtime": {"batch_sizes": [4]}})

    assert found == packaged


def test_a_segmentation_needs_its_classes_and_then_finds_their_maps() -> None:
    content = micro.graph("segmentation")
    rest = {"name": "segmentation", "runtime": {"batch_sizes": [4]}, "classes": micro.CLASSES}

    assert manifest_for(content, rest) == graphs.described(content, "segmentation")
    assert "must name its classes" in refusal(content, NAMED)


def test_an_export_of_anomalib_2_needs_no_more_than_a_name() -> None:
    found = manifest_for(anomalib(), NAMED)

    assert found.task == "anomaly_map"
    assert (found.outputs.score, found.outputs.map) == ("pred_score", "anomaly_map")
    spec = found.input
    assert (spec.tensor, spec.layout, spec.height, spec.width) == ("input", "NCHW", 256, 256)
    assert (spec.dtype, spec.scale) == ("float32", 1 / 255)
    assert assumptions(found) == ()


def test_an_export_of_anomalib_1_is_read_by_its_shapes_and_needs_the_scale() -> None:
    content = anomalib(outputs=("output", "1234"))

    assert "The graph doesn't have input.scale; " in refusal(content, NAMED)
    found = manifest_for(content, {**NAMED, "input": {"scale": 1 / 255}})
    assert (found.outputs.score, found.outputs.map) == ("1234", "output")
    (doubt,) = assumptions(found)
    assert "decision.calibration" in doubt


def test_an_export_without_a_size_needs_height_and_width() -> None:
    sentence = refusal(anomalib(size=None), NAMED)

    assert "The graph doesn't have input.height, input.width; put them into --manifest" in sentence
    assert "'input' float32 (?, 3, ?, ?)" in sentence
    sized = {**NAMED, "input": {"height": 128, "width": 96}}
    assert manifest_for(anomalib(size=None), sized).input.width == 96


def test_every_missing_key_is_named_with_an_example_that_gives_just_these() -> None:
    sentence = refusal(anomalib(None, ["pred_label"]), {})

    missing = "name, input.height, input.width, input.scale"
    shown = {"name": "bolts", "input": {"height": 256, "width": 256, "scale": 0.00392157}}
    assert sentence.startswith(
        f"The graph doesn't have {missing}; put them into --manifest FILE, for example "
        f"{json.dumps(shown)}. The graph has 'input' float32 (?, 3, ?, ?), 'pred_label' bool (?, 1)"
    )
    assert sentence.endswith("Export the graph with one.")  # no output can be named


@pytest.mark.parametrize(
    ("shapes", "outputs"),
    [
        ({"probs": ["N", 2]}, {"score": "probs[1]"}),
        ({"probs": [2]}, {"score": "probs[1]"}),
        ({"probs": ["N", 3, 1, 1]}, {"score": "probs[1]"}),
        ({"first": ["N"], "second": ["N"]}, {"score": "first"}),
        ({"heat": ["N", 8, 8], "raw": ["N", 8, 8]}, {"map": "heat"}),
        ({"scores": ["N", "k"]}, {"score": "scores"}),
        ({"plain": None}, {"score": "plain"}),
        ({"parts": ["N", 3, 8, 8]}, {"class_maps": "parts"}),
        ({"parts": ["N", 8, 8, 3]}, {"class_maps": "parts"}),
    ],
)
def test_the_example_names_outputs_of_the_graph_and_is_taken_as_it_is(
    tmp_path: Path, shapes: Dict[str, Any], outputs: Dict[str, str]
) -> None:
    size: List[Any] = [3, 8, 8] if shapes.get("probs") == [2] else ["N", 3, 8, 8]
    nodes = [node("Identity", ["image"], [name]) for name in shapes]
    made = [tensor(name, FLOAT, shape) for name, shape in shapes.items()]
    (tmp_path / "parts.onnx").write_bytes(graphs.model(nodes, [tensor("image", FLOAT, size)], made))
    with pytest.raises(InvalidConfiguration) as caught:
        open_draft(tmp_path / "parts.onnx", None)

    offered = str(caught.value).split("for example ")[1]
    rest, _ = json.JSONDecoder().raw_decode(offered)
    assert rest["outputs"] == outputs
    (tmp_path / "rest.json").write_text(json.dumps(rest))
    open_draft(tmp_path / "parts.onnx", tmp_path / "rest.json")


def test_an_example_can_be_used_as_it_is() -> None:
    found = manifest_for(anomalib(size=None), example(["name", "input.height", "input.width"]))

    assert (found.name, found.input.height) == ("bolts", 256)
    assert set(example(list(EXAMPLES))["input"]) == {"tensor", "height", "width", "layout", "scale"}


def test_an_input_of_a_type_the_agent_does_not_have_is_refused() -> None:
    nodes = [node("ReduceMean", ["image"], ["score"], axes=[1, 2, 3], keepdims=0)]
    content = graphs.model(
        nodes, [graphs.image(TensorProto.FLOAT16)], [tensor("score", TensorProto.FLOAT16, ["N"])]
    )

    assert "float16 (?, 64, 64, 3); export the graph with uint8" in refusal(content, NAMED)


def test_an_image_whose_channels_can_not_be_told_needs_its_layout() -> None:
    nodes = [node("ReduceMean", ["image"], ["score"], axes=[1, 2, 3], keepdims=0)]
    image = tensor("image", FLOAT, ["N", 3, 64, 3])
    content = graphs.model(nodes, [image], [tensor("score", FLOAT, ["N"])])

    assert "input.height, input.width, input.layout, input.scale" in refusal(content, NAMED)


def test_what_is_given_wins_over_the_graph() -> None:
    given = {
        **NAMED, "version": "7", "task": "classification", "outputs": {"score": "pred_score"},
        "input": {"scale": 1.0}, "runtime": {"batch_sizes": [1, 8]},
    }  # fmt: skip

    found = manifest_for(anomalib(), given)

    assert (found.version, found.task, found.outputs.map) == ("7", "classification", None)
    assert found.input.scale == 1.0
    assert found.runtime.batch_sizes == (1, 8)


def test_a_fixed_batch_is_the_batch_size() -> None:
    nodes = [node("Cast", ["image"], ["float"], to=FLOAT),
             node("ReduceMean", ["float"], ["score"], axes=[1, 2, 3], keepdims=0)]  # fmt: skip
    content = graphs.model(nodes, [graphs.image(batch=3)], [tensor("score", FLOAT, [3])])

    assert manifest_for(content, NAMED).runtime.batch_sizes == (3,)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ({**NAMED, "colour": 1}, "--manifest: manifest.json: colour: unknown key"),
        ({**NAMED, "input": [1]}, "--manifest: input must be an object, not [1]"),
        ({**NAMED, "classes": 3}, "--manifest: classes must be a list, not 3."),
        ({"name": "a b"}, "name: string should match pattern"),
    ],
)
def test_a_wrong_key_is_named(rest: Dict[str, Any], words: str) -> None:
    assert words in refusal(micro.graph("classification"), rest)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read: No such file"),
        ("{", "isn't JSON"),
        ("[]", "one JSON object, not a list"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(
    tmp_path: Path, content: Optional[str], words: str
) -> None:
    (tmp_path / "bolts.onnx").write_bytes(micro.graph("classification"))
    if content is not None:
        (tmp_path / "rest.json").write_text(content)

    with pytest.raises(InvalidConfiguration, match=words):
        open_draft(tmp_path / "bolts.onnx", tmp_path / "rest.json")


def test_a_draft_of_an_onnx_file_is_the_package_of_it(tmp_path: Path) -> None:
    (tmp_path / "bolts.ONNX").write_bytes(micro.graph("classification"))
    (tmp_path / "rest.json").write_text(json.dumps(NAMED))

    draft = open_draft(tmp_path / "bolts.ONNX", tmp_path / "rest.json")

    assert draft.read_model() == micro.graph("classification")
    assert [entry.path for entry in draft.manifest.files] == ["model.onnx"]


def test_a_package_has_its_manifest_already(tmp_path: Path) -> None:
    package = micro.write(tmp_path / "bolts", "classification")

    with pytest.raises(InvalidConfiguration, match="--manifest is for ONNX files"):
        open_draft(package, tmp_path / "rest.json")


def test_a_file_that_is_missing_or_no_graph_is_an_invalid_package(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")

    with pytest.raises(InvalidPackage, match="No such file"):
        open_draft(tmp_path / "none.onnx", None)
    with pytest.raises(InvalidPackage, match="isn't an ONNX file"):
        open_draft(tmp_path / "text.onnx", None)
