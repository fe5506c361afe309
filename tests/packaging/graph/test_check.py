"""Inputs, outputs, batch, precision and memory: the graph against its manifest."""

from __future__ import annotations

import sys
from typing import Any, Dict, List

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edge_agent import manifest
from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.packaging.graph import memory, trt
from edge_agent.packaging.graph.check import check_onnxruntime, check_tensors
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.graph.memory import estimate
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.graphs import FLOAT, constant, errors, node, scorer, tensor, warnings

GPU = graphs.gpu("8.5.2")
SPEC = manifest.InputSpec(tensor="image", height=micro.SIZE, width=micro.SIZE)


def fixed(batch: int) -> bytes:
    made = onnx.load_model_from_string(micro.graph("classification"))
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("target", [graphs.CPU, GPU])
@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_a_sound_graph_has_nothing_to_complain_about(task: str, target: Any) -> None:
    assert warnings(micro.graph(task), target, task=task) == []


def test_without_onnx_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = micro.graph("classification")
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(InvalidConfiguration, match=r"pip install 'edge-agent\[package\]'"):
        Graph(content)


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(InvalidPackage, match=r"model\.onnx can't be parsed"):
        Graph(b"\x08\x08\xff\xff")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor": "picture"}, "inputs are 'image' uint8 (?, 64, 64, 3); the manifest names"),
        ({"height": 128}, "doesn't take NHWC images of 128x64, (N, 128, 64, 3)"),
        ({"layout": "NCHW"}, "doesn't take NCHW images of 64x64, (N, 3, 64, 64)"),
        ({"dtype": "float32"}, "'image' uint8 (?, 64, 64, 3) isn't float32"),
    ],
)
def test_an_input_other_than_the_manifests_is_refused(changes: Dict[str, Any], words: str) -> None:
    described = {"tensor": "image", "height": 64, "width": 64, **changes}

    (sentence,) = errors(micro.graph("classification"), input=described)

    assert words in sentence


def test_a_second_input_is_refused_but_a_stored_one_is_not() -> None:
    body = [node("Cast", ["image"], ["float"], to=FLOAT), node("Add", ["float", "b"], ["sum"]),
            node("ReduceMean", ["sum"], ["score"], axes=[1, 2, 3], keepdims=0)]  # fmt: skip
    inputs = [graphs.image(), tensor("b", FLOAT, [1])]
    outputs = [tensor("score", FLOAT, ["N"])]

    assert "there must be just one" in errors(graphs.model(body, inputs, outputs))[0]
    assert errors(graphs.model(body, inputs, outputs, [constant("b", [1.0])])) == []


@pytest.mark.parametrize(
    ("task", "outputs", "words"),
    [
        ("classification", {"score": "result"}, "no output 'result', which the manifest names as"),
        ("anomaly_map", {"map": "score"}, "'score' float32 (?) must be (?, ?, ?) or (?, 1, ?, ?)"),
        ("anomaly_map", {"map": "map", "score": "map"}, "must be (?) or (?, 1) (outputs.score)"),
    ],
)
def test_an_output_other_than_the_manifests_is_refused(
    task: str, outputs: Dict[str, str], words: str
) -> None:
    (sentence,) = errors(micro.graph(task), task=task, outputs=outputs)

    assert words in sentence


def test_class_maps_have_a_channel_for_each_class_and_the_background() -> None:
    (sentence,) = errors(
        micro.graph("segmentation"), task="segmentation", classes=micro.CLASSES[:1]
    )

    assert "'classes' float32 (?, 3, ?, ?) must be (?, 2, ?, ?)" in sentence


def test_an_output_of_another_type_than_float32_is_refused() -> None:
    body = [node("ReduceMax", ["image"], ["score"], axes=[1, 2, 3], keepdims=0)]
    content = graphs.model(body, [graphs.image()], [tensor("score", TensorProto.UINT8, ["N"])])

    assert "must be float32" in errors(content)[0]


def test_a_fixed_batch_must_be_the_manifests_on_a_gpu_and_is_filled_up_on_a_cpu() -> None:
    (sentence,) = errors(fixed(2), GPU)

    assert sentence == (
        "The graph computes batches of exactly 2; runtime.batch_sizes asks for 4. Export it with "
        "a free first axis, or set batch_sizes to [2]."
    )
    assert warnings(fixed(2)) == [f"{sentence} On this target every batch is filled up to 2."]
    assert warnings(fixed(2), GPU, runtime={"batch_sizes": [2]}) == []


def test_a_batch_that_is_free_in_name_only_is_found_by_trying() -> None:
    body = [node("Cast", ["image"], ["float"], to=FLOAT),
            node("Reshape", ["float", "flat"], ["row"]),
            node("ReduceMean", ["row"], ["score"], axes=[1], keepdims=0)]  # fmt: skip
    content = graphs.model(
        body, [graphs.image()], [tensor("score", FLOAT, ["N"])],
        [constant("flat", [1, -1], np.int64)],
    )  # fmt: skip

    (sentence,) = errors(content)

    assert "1 items for a batch of 2" in sentence
    assert "(a trial on this machine)" in sentence
    (doubt,) = warnings(content, GPU)
    assert "in TensorRT only" in doubt


def test_without_onnxruntime_the_graph_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    notes = graphs.report(micro.graph("classification")).of("note")

    assert "onnxruntime isn't installed here, so the graph wasn't tested." in notes


def quantised() -> bytes:
    zero = constant("zero", 0, np.int8)
    middle = [
        node("QuantizeLinear", ["float", "step", "zero"], ["small"]),
        node("DequantizeLinear", ["small", "step", "zero"], ["back"]),
    ]
    return scorer(middle, [constant("step", 2.0), zero], head="back")


@pytest.mark.parametrize(
    ("content", "calibration", "severity", "words"),
    [
        (micro.graph("classification"), 0, "error", "int8 needs the ranges"),
        (micro.graph("classification"), 20, "warning", "20 calibration pictures are few"),
        (micro.graph("classification"), 100, "", ""),
        (quantised(), 0, "", ""),
        (quantised(), 100, "note", "is quantised already"),
    ],
)
def test_int8_needs_a_quantised_graph_or_enough_pictures(
    content: bytes, calibration: int, severity: Any, words: str
) -> None:
    found = graphs.report(
        content, GPU, calibration=calibration, runtime={"batch_sizes": [4], "precision": "int8"}
    )

    told = {(kind, text) for kind in ("error", "warning") for text in found.of(kind)}
    if severity in ("error", "warning"):
        ((kind, sentence),) = told
        assert kind == severity
        assert words in sentence
    else:
        assert told == set()
        assert any(words in sentence for sentence in found.of("note"))


def test_precisions_of_a_gpu_are_told_on_a_cpu() -> None:
    for precision in ("fp16", "int8"):
        (doubt,) = warnings(micro.graph("classification"), runtime={"precision": precision})
        assert f"The precision {precision} is for NVIDIA targets" in doubt
    assert warnings(quantised(), runtime={"precision": "int8"}) == []


def test_calibration_pictures_nobody_uses_are_refused() -> None:
    (for_cpu,) = errors(micro.graph("classification"), calibration=5)
    (for_fp32,) = errors(micro.graph("classification"), GPU, calibration=5)

    assert "this one is a CPU" in for_cpu
    assert "which only int8 uses" in for_fp32


def test_a_quantised_graph_in_another_precision_is_told_on_a_gpu() -> None:
    (doubt,) = warnings(quantised(), GPU)

    assert "Use --precision int8." in doubt


def notes(content: bytes, **changes: Any) -> List[str]:
    return graphs.report(content, **changes).of("note")


def test_memory_is_weights_and_what_lives_at_once_at_the_largest_batch() -> None:
    pixels = 3 * micro.SIZE**2
    found = estimate(Graph(scorer()), SPEC, batch=8)

    assert found.weights == 0
    assert found.peak == 8 * (pixels + 4 * pixels)  # the image, and the same as float32
    assert (found.unknown, found.batch) == (0, 8)


def test_memory_follows_when_results_are_let_go() -> None:
    weights = constant("b", np.ones(1000))
    middle = [node("Add", ["float", "one"], ["x"]), node("Add", ["x", "one"], ["y"])]
    found = estimate(Graph(scorer(middle, [constant("one", [1.0]), weights], head="y")), SPEC, 1)

    assert found.weights == 4 * 1001
    assert found.peak == 2 * 4 * 3 * micro.SIZE**2  # two results of float32 at a time


def test_memory_of_a_fixed_batch_is_its_own_and_unknown_shapes_are_told() -> None:
    assert estimate(Graph(fixed(2)), SPEC, 8).batch == 2
    middle = [
        node("NonZero", ["float"], ["where"]),
        node("Cast", ["where"], ["w"], to=FLOAT),
        node("ReduceSum", ["w"], ["sum"], keepdims=0),
        node("Mul", ["float", "sum"], ["z"]),
    ]
    (told,) = (text for text in notes(scorer(middle, head="z")) if text.startswith("Memory"))

    assert "for a batch of 4, at least " in told
    assert told.endswith(" 2 results have no known shape.")


def test_the_memory_of_the_micro_model_is_told_in_a_sentence() -> None:
    (told,) = (text for text in notes(micro.graph("classification")) if text.startswith("Memory"))

    assert told.startswith("Memory of an inference unit: 0.0 KiB of weights and, for a batch of 4,")


def test_float16_input_is_refused_as_the_agent_can_not_feed_it() -> None:
    body = [node("Cast", ["image"], ["float"], to=FLOAT),
            node("ReduceMean", ["float"], ["score"], axes=[1, 2, 3], keepdims=0)]  # fmt: skip
    content = graphs.model(
        body, [graphs.image(TensorProto.FLOAT16)], [tensor("score", FLOAT, ["N"])]
    )
    described = {"tensor": "image", "height": 64, "width": 64, "dtype": "float32"}

    assert "the agent supplies uint8 and float32" in errors(content, input=described)[0]


def test_stored_tensors_are_read_from_constant_nodes_as_well() -> None:
    value = numpy_helper.from_array(np.array([7], np.int64), "any")
    middle = [node("Constant", [], ["seven"], value=value),
              node("Cast", ["seven"], ["f"], to=FLOAT),
              node("Mul", ["float", "f"], ["more"])]  # fmt: skip

    assert Graph(scorer(middle, head="more")).array("seven").tolist() == [7]


@pytest.mark.parametrize(
    ("stated", "kind"),
    [({"value_int": 7}, "int64"), ({"value_ints": [7, 8]}, "int64"),
     ({"value_float": 0.5}, "float32"), ({"value_floats": [0.5, 7.0]}, "float32")],
)  # fmt: skip
def test_constant_nodes_state_numbers_without_a_tensor_too(
    stated: Dict[str, Any], kind: str
) -> None:
    graph = Graph(scorer([node("Constant", [], ["it"], **stated)]))

    assert graph.array("it").tolist() == next(iter(stated.values()))
    assert graph.dtype("it") == kind


def test_what_the_caller_of_a_function_states_is_not_stored() -> None:
    stated = node("Constant", [], ["axes"])
    for name in ("value_ints", "value"):
        kind = onnx.AttributeProto.INTS if name == "value_ints" else onnx.AttributeProto.TENSOR
        stated.attribute.add(name=name, ref_attr_name="of_caller", type=kind)
    body = [stated, node("Squeeze", ["x", "axes"], ["y"])]
    function = onnx.helper.make_function(
        "plant", "Shrink", ["x"], ["y"], body, [onnx.helper.make_opsetid("", 13)], ["of_caller"]
    )
    content = scorer(domains=[("plant", 1)], functions=[function])

    assert "axes" not in Graph(content).constants


def test_memory_counts_the_manifests_size_where_the_graph_leaves_it_free() -> None:
    nodes = [node("ReduceMean", ["image"], ["score"], axes=[1, 2, 3], keepdims=0)]
    image = tensor("image", FLOAT, ["N", 3, "H", "W"])
    graph = Graph(graphs.model(nodes, [image], [tensor("score", FLOAT, ["N"])]))
    spec = SPEC.model_copy(update={"layout": "NCHW", "dtype": "float32"})

    assert estimate(graph, spec, 2).peak == 2 * 4 * (3 * micro.SIZE**2 + 1)


def test_what_a_loop_takes_from_outside_and_stores_counts() -> None:
    graph = Graph(micro.hanging())

    assert "one" in graph.constants  # of the loop's body
    assert {entry.op_type for entry in graph.nodes} >= {"Loop", "Identity"}


@given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_damaged_graph_is_judged_or_refused_with_a_sentence(wounds: List[Any]) -> None:
    content = bytearray(micro.graph("segmentation"))
    for place, bytes_ in wounds:
        start = int(place * (len(content) - 1))
        content[start : start + max(len(bytes_), 1)] = bytes_
    described = graphs.described(micro.graph("segmentation"), "segmentation")
    try:
        graph = Graph(bytes(content))
        found = [
            *check_tensors(graph, described, on_gpu=True),
            *trt.check(graph, described, "8.5.2"),
            *check_onnxruntime(graph),
            *memory.check(graph, described),
        ]
    except InvalidPackage:
        return
    assert all(finding.text.endswith(".") for finding in found)
