"""What TensorRT of the target, and every onnxruntime the agent runs on, make of a graph."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge_agent.errors import InvalidPackage
from edge_agent.packaging.graph import trt_parser
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.graphs import FLOAT, constant, errors, gpu, node, scorer, tensor, warnings

MICRO = micro.graph("classification")


def only_trt(content: bytes, version: str, severity: Any) -> List[str]:
    """Sentences about TensorRT; whether the graph runs here is another matter."""
    found = graphs.report(content, gpu(version)).of(severity)
    return [text for text in found if "trial on this machine" not in text]


def no_float(name: str, *inputs: str, outputs: Sequence[str] = ("x",), **attributes: Any) -> bytes:
    """One operator between the image and the score."""
    made = node(name, inputs or ["float"], outputs, name="it", **attributes)
    return scorer([made], CONSTANTS, head="x")


CONSTANTS = [
    constant("half", 0.5), constant("zero", 0, np.int8), constant("offset", 3, np.int8),
    constant("ubyte", 0, np.uint8), constant("axis", [1], np.int64),
    constant("many", [2.0] * 4), constant("sizes", [1, 64, 64, 3], np.int64),
    constant("planes", [1.0, 2.0, 2.0, 1.0]), constant("rows", [1.0, 1.0, 2.0, 2.0]),
]  # fmt: skip


def test_every_opset_is_from_a_known_version_and_they_rise() -> None:
    assert list(trt_parser.OPSETS) == sorted(trt_parser.OPSETS)
    assert list(trt_parser.OPSETS.values()) == sorted(trt_parser.OPSETS.values())
    assert trt_parser.newest_opset((8, 5)) == 17
    assert trt_parser.newest_opset((10, 3)) == 20
    assert trt_parser.newest_opset((12, 0)) == 25


def test_every_operator_of_the_table_is_one_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    of_caffe = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # once experimental
    newest = {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"}
    added = frozenset().union(*trt_parser.ADDED.values())

    table = trt_parser.IN_8_5 | added | trt_parser.SOMETIME
    assert table - of_caffe - newest <= known
    assert not trt_parser.IN_8_5 & (added | trt_parser.SOMETIME)


@pytest.mark.parametrize(
    ("version", "opset", "newest"),
    [("8.5.2", 18, 17), ("8.6.1", 18, 17), ("10.3.0", 21, 20), ("8.5.2", 6, 17)],
)
def test_an_opset_out_of_the_range_of_tensorrt_is_refused(
    version: str, opset: int, newest: int
) -> None:
    told = only_trt(graphs.altered(MICRO, opset=opset), version, "error")

    short = version.rpartition(".")[0]
    assert told == [
        f"The graph has opset {opset}; TensorRT {short} takes 7 to {newest}. Export it with opset "
        "17, or convert it with onnx.version_converter."
    ]


@pytest.mark.parametrize("opset", [7, 8])
def test_an_old_opset_the_parser_reads_is_a_doubt_only(opset: int) -> None:
    content = graphs.altered(MICRO, opset=opset)

    assert only_trt(content, "8.5.2", "error") == []
    assert only_trt(content, "8.5.2", "warning") == [
        f"The graph has opset {opset}; TensorRT 8.5 reads it, but officially supports 9 to 17 "
        "only. Export it with opset 17, or convert it with onnx.version_converter."
    ]


def test_an_operator_that_came_later_is_refused_with_the_version_that_has_it() -> None:
    content = graphs.altered(no_float("LayerNormalization", "float", "many"), opset=17)

    (told,) = only_trt(content, "8.5.2", "error")

    assert "TensorRT 8.5 doesn't have the operators LayerNormalization" in told
    assert "(LayerNormalization since TensorRT 8.6)" in told
    assert only_trt(content, "8.6.1", "error") == []


@pytest.mark.parametrize(
    ("version", "severity", "words"),
    [
        ("8.6.1", "error", "doesn't have the operators Gelu (Gelu since TensorRT 10.15)"),
        ("10.3.0", "warning", "It isn't known whether TensorRT 10.3 has Gelu"),
        ("10.15.0", "warning", ""),
    ],
)
def test_an_operator_of_unknown_age_is_a_doubt_only(
    version: str, severity: Any, words: str
) -> None:
    content = graphs.altered(no_float("Gelu"), opset=17)  # as if; the table alone decides

    assert [text for text in only_trt(content, version, severity) if words in text] != [] or (
        not words and only_trt(content, version, severity) == []
    )


def test_an_operator_tensorrt_never_had_is_named() -> None:
    middle = [node("Unique", ["float"], ["u"]), node("Sum", ["float", "u"], ["x"])]

    (told,) = only_trt(scorer(middle, head="x"), "10.15.0", "error")

    assert "TensorRT 10.15 doesn't have the operators Unique. Export" in told


def test_a_newer_tensorrt_than_the_table_is_compared_with_the_newest_known() -> None:
    found = graphs.report(MICRO, gpu("11.2.0"))

    assert found.of("error") == []
    assert (
        "TensorRT 11.2 isn't known here; the graph was compared with TensorRT 10.15."
        in found.of("note")
    )


def test_foreign_operators_are_refused_on_both() -> None:
    gelu = node("Gelu", ["float"], ["x"], domain="com.microsoft")
    mine = node("Mine", ["float"], ["x"], domain="plant")
    of_microsoft = scorer([gelu], head="x", domains=[("com.microsoft", 1)])
    of_mine = scorer([mine], head="x", domains=[("plant", 1)])

    assert "aren't ONNX's own: com.microsoft.Gelu" in only_trt(of_microsoft, "10.3.0", "error")[0]
    assert errors(of_microsoft) == []
    (told,) = errors(of_mine)
    assert "the domain 'plant' (Mine), which onnxruntime doesn't have" in told


def test_functions_of_the_graph_are_refused_by_tensorrt_8() -> None:
    double = helper.make_function(
        "plant", "Double", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 13)],
    )  # fmt: skip
    call = node("Double", ["float"], ["x"], domain="plant")
    content = scorer([call], head="x", domains=[("plant", 1)], functions=[double])

    assert "functions of its own (Double)" in only_trt(content, "8.6.1", "error")[0]
    assert only_trt(content, "10.3.0", "error") == []
    assert errors(content) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (no_float("MaxPool", kernel_shape=[1, 1], outputs=("x", "at")), "output Indices isn't"),
        (no_float("MaxPool", kernel_shape=[1, 1], dilations=[2, 2]), "pooling has no dilations"),
        (no_float("QuantizeLinear", "float", "half", "offset"), "zero point must be 0"),
        (no_float("QuantizeLinear", "float", "half", "ubyte"), "must be int8"),
        (no_float("QuantizeLinear", "float", "half"), "must be int8"),
        (no_float("Resize", "float", "", "planes", mode="cubic"), "over the last 2 axes only"),
        (no_float("Resize", "float", "", "many", antialias=1), "antialiasing isn't supported"),
        (no_float("Einsum", "float", equation="...a->...a"), "ellipsis and diagonals"),
        (no_float("Einsum", "float", equation="aa->a"), "ellipsis and diagonals"),
    ],
)
def test_what_tensorrt_8_5_refuses_of_an_operator_is_told_with_the_node(
    content: bytes, words: str
) -> None:
    told = only_trt(content, "8.5.2", "error")

    assert any(text.startswith("TensorRT 8.5: ") and words in text for text in told), told
    assert all("'it'" in text for text in told)


@pytest.mark.parametrize(
    "content",
    [
        no_float("MaxPool", kernel_shape=[1]),
        no_float("Resize", "float", "", "rows", mode="cubic"),
        no_float("Resize", "float", "", "", "sizes", mode="cubic"),
        no_float("Einsum", "float", equation="n h w c -> n c h w"),
        no_float("TopK", "float", "axis", sorted=0, outputs=("x", "at")),
    ],
)
@pytest.mark.parametrize("version", ["8.5.2", "10.15.0"])
def test_what_its_parser_takes_is_not_refused(content: bytes, version: str) -> None:
    assert only_trt(content, version, "error") == []
    assert only_trt(content, version, "warning") == []


def cast_and_back(kind: int) -> bytes:
    middle = [node("Cast", ["float"], ["y"], name="it", to=kind),
              node("Cast", ["y"], ["x"], to=FLOAT)]  # fmt: skip
    return scorer(middle, head="x")


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
@pytest.mark.parametrize("kind", ["UINT16", "INT16", "UINT32", "UINT64", "STRING", "FLOAT8E5M2"])
def test_a_cast_to_a_type_tensorrt_does_not_have_is_refused(version: str, kind: str) -> None:
    (told,) = only_trt(cast_and_back(TensorProto.DataType.Value(kind)), version, "error")

    assert ": casts are to float32, float16, int8, int32, int64, float64, bool" in told
    assert told.endswith(" only. The graph breaks this in Cast 'it'.")


def test_casts_tensorrt_has_are_taken() -> None:
    for kind in ("FLOAT", "FLOAT16", "INT8", "INT32", "INT64", "BOOL", "DOUBLE"):
        assert only_trt(cast_and_back(TensorProto.DataType.Value(kind)), "8.5.2", "error") == []
    bfloat = cast_and_back(TensorProto.BFLOAT16)

    assert "casts are to float32" in only_trt(bfloat, "8.6.1", "error")[0]
    assert only_trt(bfloat, "10.3.0", "error") == []


@pytest.mark.parametrize("version", ["8.5.2", "10.15.0"])
def test_uint8_comes_out_of_a_graph_but_is_not_computed_with(version: str) -> None:
    (told,) = only_trt(cast_and_back(TensorProto.UINT8), version, "error")
    assert "nothing inside the graph can be uint8; cast to int32 instead" in told

    made = onnx.load_model_from_string(MICRO)
    made.graph.node.append(node("Cast", ["score"], ["grey"], to=TensorProto.UINT8))
    made.graph.output.append(tensor("grey", TensorProto.UINT8, ["N"]))
    assert only_trt(made.SerializeToString(), version, "error") == []
    made.graph.node.append(node("Cast", ["grey"], ["unread"], to=FLOAT))
    assert "can be uint8" in only_trt(made.SerializeToString(), version, "error")[0]


def test_tensorrt_8_5_casts_a_uint8_image_to_floats_only() -> None:
    made = onnx.load_model_from_string(scorer())
    made.graph.node[0].CopyFrom(node("Cast", ["image"], ["whole"], to=TensorProto.INT32))
    made.graph.node.insert(1, node("Cast", ["whole"], ["float"], to=FLOAT))
    content = made.SerializeToString()

    (told,) = only_trt(content, "8.5.2", "error")

    assert "can be cast to float32 or float16 only. The graph breaks this in Cast 'whole'" in told
    assert only_trt(content, "8.6.1", "error") == []


def test_restrictions_end_with_the_version_that_lifted_them() -> None:
    einsum = no_float("Einsum", "float", equation="...a->...a")
    unsigned = no_float("QuantizeLinear", "float", "half", "ubyte")

    assert only_trt(einsum, "10.11.0", "error") != []
    assert only_trt(einsum, "10.12.0", "error") == []
    assert "must be int8; quantise" in only_trt(unsigned, "8.5.2", "error")[0]
    assert "must be int8, int4, float8" in only_trt(unsigned, "10.3.0", "error")[0]


def test_weights_stored_as_int8_need_no_zero_point() -> None:
    middle = [node("DequantizeLinear", ["zero", "half"], ["w"]), node("Mul", ["float", "w"], ["x"])]
    biased = [node("DequantizeLinear", ["bias", "half"], ["w"]), node("Mul", ["float", "w"], ["x"])]
    stored = [*CONSTANTS, constant("bias", 7, np.int32)]

    assert only_trt(scorer(middle, CONSTANTS, head="x"), "8.5.2", "error") == []
    assert "must be int8" in only_trt(scorer(biased, stored, head="x"), "8.5.2", "error")[0]


def test_what_the_parser_may_fold_is_a_warning() -> None:
    middle = [node("Shape", ["float"], ["shape"]), node("Gather", ["shape", "axis"], ["k"]),
              node("TopK", ["float", "k"], ["x", "at"], name="it", axis=1)]  # fmt: skip
    content = scorer(middle, CONSTANTS, head="x")

    (told,) = only_trt(content, "8.5.2", "warning")
    assert told == (
        "TensorRT 8.5: K should be stored in the graph. The graph breaks this in TopK 'it'."
    )
    assert only_trt(content, "8.6.1", "warning") == []
    assert only_trt(no_float("TopK", "float", "axis"), "8.5.2", "warning") == []


def test_branches_and_loops_are_told_as_only_the_device_can_say() -> None:
    (told,) = only_trt(micro.hanging(), "8.5.2", "warning")

    assert "shapes that don't change from round to round" in told
    assert "Loop 'nothing'" in told


def test_random_numbers_are_told() -> None:
    middle = [
        node("RandomUniformLike", ["float"], ["noise"]),
        node("Add", ["float", "noise"], ["x"]),
    ]

    (told,) = only_trt(scorer(middle, head="x"), "8.5.2", "warning")

    assert "seeds are ignored" in told


def test_tensorrt_takes_a_uint8_image_into_a_cast_only() -> None:
    turned = [node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
              node("Cast", ["planes"], ["float"], to=FLOAT),
              node("ReduceMean", ["float"], ["score"], axes=[1, 2, 3], keepdims=0)]  # fmt: skip
    content = graphs.model(turned, [graphs.image()], [tensor("score", FLOAT, ["N"])])

    (told,) = errors(content, gpu("8.5.2"))

    assert "goes into Transpose 'planes'; TensorRT 8.5 can only cast uint8" in told
    assert errors(content) == []


def test_numbers_too_large_for_int32_and_double_precision_are_told() -> None:
    middle = [
        node("Cast", ["large"], ["f"], to=FLOAT),
        node("Mul", ["float", "f"], ["y"]),
        node("Cast", ["double"], ["d"], to=FLOAT),
        node("Mul", ["y", "d"], ["x"]),
    ]
    stored = [constant("large", [2**40], np.int64), constant("double", [1.0], np.float64)]
    content = scorer(middle, stored, head="x")

    assert only_trt(content, "8.5.2", "warning") == [
        "TensorRT 8.5 computes float64 as float32: double.",
        "TensorRT 8.5 casts int64 to int32, so values of large will be clamped.",
    ]
    assert only_trt(content, "10.3.0", "warning") == [
        "TensorRT 10.3 computes float64 as float32: double."
    ]


def test_a_cast_to_float64_is_told() -> None:
    assert only_trt(cast_and_back(TensorProto.DOUBLE), "10.3.0", "warning") == [
        "TensorRT 10.3 computes float64 as float32: Cast 'it'."
    ]


@pytest.mark.parametrize(("end", "step"), [(2**63 - 1, 1), (-(2**63), -1)])
def test_a_slice_to_the_very_end_loses_nothing_as_int32(end: int, step: int) -> None:
    values = {"from": -1, "end": end, "axis": 1, "step": step}
    stored = [constant(name, [value], np.int64) for name, value in values.items()]
    middle = [node("Slice", ["float", *values], ["x"])]

    assert only_trt(scorer(middle, stored, head="x"), "8.5.2", "warning") == []


def test_the_end_of_a_slice_that_is_computed_with_as_well_is_clamped() -> None:
    stored = [constant("from", [0], np.int64), constant("end", [2**63 - 1], np.int64)]
    middle = [node("Slice", ["float", "from", "end"], ["y"]),
              node("Cast", ["end"], ["z"], to=FLOAT), node("Mul", ["y", "z"], ["x"])]  # fmt: skip

    assert only_trt(scorer(middle, stored, head="x"), "8.5.2", "warning") == [
        "TensorRT 8.5 casts int64 to int32, so values of end will be clamped."
    ]


def test_axes_in_constant_nodes_are_stored_in_the_graph() -> None:
    middle = [node("Constant", [], ["last"], value_ints=[3]),
              node("Constant", [], ["first"], value=constant("", [0], np.int64)),
              node("Unsqueeze", ["float", "last"], ["y"]), node("Squeeze", ["y", "last"], ["z"]),
              node("ReduceSum", ["z", "last"], ["x"], keepdims=1)]  # fmt: skip

    assert only_trt(scorer(middle, head="x"), "8.5.2", "warning") == []


def test_weights_of_a_type_tensorrt_8_does_not_know_are_refused() -> None:
    stored = helper.make_tensor("w", TensorProto.BFLOAT16, [1], [1.0])
    content = scorer([node("Cast", ["w"], ["f"], to=FLOAT), node("Mul", ["float", "f"], ["x"])],
                     [stored], head="x")  # fmt: skip

    assert "can't read weights such as w (bfloat16)" in only_trt(content, "8.6.1", "error")[0]
    assert only_trt(content, "10.3.0", "error") == []


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_weights_of_a_type_no_tensorrt_knows_are_refused(version: str) -> None:
    stored = constant("w", [1], np.uint32)
    content = scorer([node("Cast", ["w"], ["f"], to=FLOAT), node("Mul", ["float", "f"], ["x"])],
                     [stored], head="x")  # fmt: skip

    assert "can't read weights such as w (uint32)" in only_trt(content, version, "error")[0]


def test_the_limits_of_onnxruntime_are_those_of_its_oldest_release() -> None:
    """1.19, which the tests with CPython 3.8 run on, takes the limits and nothing above."""
    limit = graphs.altered(MICRO, ir=10)
    assert errors(limit) == []
    assert "IR version 11; onnxruntime 1.19" in errors(graphs.altered(MICRO, ir=11))[0]
    newest = [graphs.altered(MICRO, opset=22), graphs.altered(MICRO, ir=11)]
    if onnxruntime.__version__.startswith("1.19."):
        for content in newest:
            with pytest.raises(Exception, match=r"(?i)opset|ir.version"):
                onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [6, 22])
def test_an_opset_out_of_the_range_of_onnxruntime_is_refused(opset: int) -> None:
    (told,) = errors(graphs.altered(MICRO, opset=opset))

    assert f"The graph has opset {opset}; onnxruntime 1.19, the oldest the agent runs on" in told
    assert "takes 7 to 21" in told


def test_a_graph_onnxruntime_can_not_load_is_refused_with_its_words() -> None:
    strange = scorer([node("Nonsense", ["float"], ["x"])], head="x")

    (told,) = errors(strange)

    assert "onnxruntime can't load the graph: " in told
    assert "Nonsense" in told


def test_a_graph_of_one_processor_is_refused() -> None:
    made = onnx.load_model_from_string(micro.slow(2, 16))
    conv = next(entry for entry in made.graph.node if entry.op_type == "Conv")
    conv.domain = "com.microsoft.nchwc"
    made.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))

    (told,) = errors(made.SerializeToString())

    assert "optimised by onnxruntime for one processor" in told


def test_a_graph_with_a_damaged_shape_is_an_invalid_package_not_a_fault() -> None:
    with pytest.raises(InvalidPackage):
        graphs.report(MICRO[:-40])


def test_a_good_graph_for_a_gpu_warns_of_nothing() -> None:
    assert warnings(micro.slow(2, 16), gpu("8.5.2")) == []
