"""The variant of a graph with float16: what is rounded, what isn't, and what it changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FileEntry, Manifest
from edge_agent.packaging import archive
from edge_agent.packaging.draft import PackageDraft, open_draft
from edge_agent.packaging.graph import half
from edge_agent.packaging.graph.findings import GraphFinding
from edge_agent.packaging.graph.half import in_float32
from edge_agent.packaging.preparation import Preparation
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.picture_files import read_png
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.training.trainer import train
from tests import ROOT
from tests.fakes import golden, micro
from tests.packaging import graphs
from tests.packaging.graphs import constant, node

DATA = ROOT.parent / "shared" / "data"
FP16 = Preparation(precision="fp16")
HALF = TensorProto.FLOAT16
TOLERANCE = 0.05
IMAGES = 40  # of a data set's test images


def halved(content: bytes, **changes: Any) -> Tuple[Any, GraphFinding]:
    """The model that halve made of a micro graph without golden samples, parsed."""
    made, finding = half.halve(content, graphs.described(content, **changes), [])
    return made and onnx.load_model_from_string(made), finding


def types(model: Any) -> Dict[str, int]:
    """Tensor → its type, of all that is computed."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def convolving(scale: float = 1.0) -> bytes:
    """Planes, a convolution of a pixel by `scale`, its square, a square root, the mean."""
    nodes = [
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weights"], ["gray"]),
        node("Relu", ["gray"], ["positive"]),
        node("Resize", ["positive", "", "scales"], ["larger"], mode="nearest"),
        node("Log", ["larger"], ["log"]),
        node("Conv", ["larger", "one"], ["same"]),
        node("Concat", ["log", "same"], ["both"], axis=1),
    ]
    constants = [
        constant("weights", np.full((1, 3, 1, 1), scale / 3 / 255)),
        constant("one", np.ones((1, 1, 1, 1))),
        constant("scales", [1, 1, 2, 2]),
    ]
    return graphs.scorer(nodes, constants, head="both")


def test_convolutions_and_what_follows_them_are_float16_and_nothing_else() -> None:
    model, finding = halved(convolving())

    kinds = types(model)
    made_half = {name for name, kind in kinds.items() if kind == HALF}
    assert made_half == {
        "planes/half", "gray/half", "positive/half", "larger/half", "same/half"
    }  # fmt: skip
    assert kinds["log"] == kinds["both"] == kinds["score"] == TensorProto.FLOAT
    stored = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert stored == {
        "weights/half": HALF, "one/half": HALF, "scales": TensorProto.FLOAT
    }  # fmt: skip
    assert [(entry.name, entry.type.tensor_type.elem_type) for entry in model.graph.input] == [
        ("image", TensorProto.UINT8)
    ]
    assert finding.severity == "note"
    assert "float16 in 4 of 9 nodes" in finding.text


@pytest.mark.parametrize(("scale", "is_half"), [(4000.0, True), (5000.0, False)])
def test_what_may_come_near_the_limit_of_float16_stays(scale: float, is_half: bool) -> None:
    model, _ = halved(convolving(scale))

    assert (model is not None) == is_half


def test_what_the_cpu_makes_of_it_is_what_float16_would_be(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    values = numbers.normal(size=100000) * 10.0 ** numbers.uniform(-9, 3.5, 100000)
    wide = np.concatenate([values, [0.0, 6e-8, -3e-8, 2.0**-14, 4094.0]]).astype(np.float32)
    nodes = [node("Cast", ["x"], ["x/half"], to=HALF), node("Cast", ["x/half"], ["y"], to=1)]
    vector = (graphs.tensor(name, TensorProto.FLOAT, ["N"]) for name in "xy")
    content = in_float32(graphs.model(nodes, [next(vector)], [next(vector)]))

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (rounded,) = session.run(None, {"x": wide})

    assert np.array_equal(rounded, wide.astype(np.float16).astype(np.float32))


def test_every_float16_tensor_is_rounded_on_the_cpu() -> None:
    made, _ = half.halve(convolving(), graphs.described(convolving()), [])
    assert made is not None
    model = onnx.load_model_from_string(in_float32(made))

    assert HALF not in types(model).values()
    onnx.checker.check_model(model, full_check=True)
    rounded = {found.output[0] for found in model.graph.node if found.op_type == "Where"}
    assert rounded == {
        "planes/half", "gray/half", "positive/half", "larger/half", "same/half"
    }  # fmt: skip


def test_numbers_that_would_be_lost_are_found_out_by_the_golden_samples(tmp_path: Path) -> None:
    """A difference of large numbers: float16 has steps of 1/2 at 1000."""
    nodes = [
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "red", "thousand"], ["shifted"]),
        node("Sub", ["shifted", "back"], ["r"]),
    ]
    red = np.array([1 / 255, 0, 0], np.float32).reshape(1, 3, 1, 1)
    constants = [constant("red", red), constant("thousand", [1000]), constant("back", [1000])]
    content = graphs.scorer(nodes, constants, head="r")
    manifest, pictures = judged(content)

    made, finding = half.halve(content, manifest, pictures)

    assert made is None
    assert finding.severity == "warning"
    assert "other results than the model's own for" in finding.text


def test_a_model_that_takes_floats_is_rounded_from_its_input_on() -> None:
    nodes = [
        node("Conv", ["image", "weights"], ["gray"]),
        node("ReduceMean", ["gray"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    floats = graphs.tensor("image", TensorProto.FLOAT, ["N", 3, micro.SIZE, micro.SIZE])
    score = graphs.tensor("score", TensorProto.FLOAT, ["N"])
    content = graphs.model(nodes, [floats], [score], [constant("weights", np.ones((1, 3, 1, 1)))])
    size = {"tensor": "image", "height": micro.SIZE, "width": micro.SIZE}

    model, _ = halved(content, input={**size, "dtype": "float32", "layout": "NCHW"})

    assert [found.op_type for found in model.graph.node] == ["Cast", "Conv", "Cast", "ReduceMean"]
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_result_that_is_float16_leaves_the_graph_as_float32() -> None:
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weights"], ["gray"]),
        node("ReduceMax", ["gray"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    weights = constant("weights", np.full((1, 3, 1, 1), 1 / 3))
    score = graphs.tensor("score", TensorProto.FLOAT, ["N"])
    content = graphs.model(nodes, [graphs.image()], [score], [weights])

    model, _ = halved(content)

    assert types(model)["score/half"] == HALF
    assert types(model)["score"] == TensorProto.FLOAT
    onnx.checker.check_model(model, full_check=True)


def test_a_graph_that_onnxruntime_cannot_load_has_no_variant() -> None:
    content = graphs.scorer([node("Nonsense", ["float"], ["r"])], head="r")

    made, finding = halved(content)

    assert made is None
    assert "No graph with float16 could be made. onnxruntime: " in finding.text


def judged(content: bytes) -> Tuple[Manifest, List[Any]]:
    """A manifest with golden samples of evenly red pictures, and the pictures."""
    pictures = [np.full((micro.SIZE, micro.SIZE, 3), red, np.uint8) for red in (80, 170)]
    manifest = graphs.described(content, runtime={"parity_tolerance": TOLERANCE})
    backend = OrtBackend(content, manifest, BackendOptions())
    samples = tuple(
        golden_check.GoldenResult.of(outputs, index, manifest).to_sample(f"golden/{number}.png")
        for number, (outputs, index) in enumerate(golden_check.run(backend, manifest, pictures, 1))
    )
    return manifest.model_copy(update={"golden": samples}), pictures


def test_of_a_quantised_graph_there_is_none() -> None:
    nodes = [
        node("QuantizeLinear", ["float", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
    ]
    constants = [constant("scale", 1.0), constant("zero", 0, np.uint8)]

    made, finding = halved(graphs.scorer(nodes, constants, head="r"))

    assert made is None
    assert finding.severity == "note"


def test_a_graph_without_anything_to_round_is_told() -> None:
    made, finding = halved(micro.graph("classification"))

    assert made is None
    assert "nothing that may be rounded" in finding.text


def test_a_branch_sees_what_it_takes_from_outside_in_float32() -> None:
    value = graphs.tensor
    branch = [
        helper.make_graph([node("Identity", ["gray"], [out])], out,
                          [], [value(out, TensorProto.FLOAT, None)])
        for out in ("then", "else")
    ]  # fmt: skip
    nodes = [
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weights"], ["gray"]),
        helper.make_node("If", ["yes"], ["r"], then_branch=branch[0], else_branch=branch[1]),
    ]
    constants = [constant("weights", np.ones((1, 3, 1, 1))), constant("yes", True, np.bool_)]
    content = graphs.scorer(nodes, constants, head="r")

    made, _ = half.halve(content, graphs.described(content), [])

    assert made is not None
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (score,) = session.run(None, {"image": np.ones((1, micro.SIZE, micro.SIZE, 3), np.uint8)})
    assert score == pytest.approx([3.0])


def prepared(
    package: Path, version: str, preparation: Preparation = FP16
) -> Tuple[PackageDraft, Any]:
    told: List[GraphFinding] = []
    draft = preparation.apply(open_draft(package, None), graphs.gpu(version), told.append)
    return draft, draft.manifest.build


@pytest.mark.parametrize(
    ("version", "preparation"),
    [("8.5.2", FP16), ("10.16.1", FP16), ("11.4.0", Preparation(precision="fp32"))],
)
def test_only_tensorrt_that_takes_the_graph_at_its_word_gets_one(
    tmp_path: Path, version: str, preparation: Preparation
) -> None:
    package = micro.write(tmp_path / "model", "classification", micro.slow(2, 8))

    draft, build = prepared(package, version, preparation)

    assert build.half is None
    assert half.FILE_NAME not in {entry.path for entry in draft.manifest.files}


def test_it_travels_with_the_package_which_must_list_it(tmp_path: Path) -> None:
    package = micro.write(tmp_path / "model", "classification", micro.slow(2, 8))

    draft, build = prepared(package, "11.4.0")
    archive.write(tmp_path / "model.zip", draft)

    read = Package(tmp_path / "model.zip")
    assert build.half == half.FILE_NAME
    assert read.manifest.build == build
    assert read.read_model(half.FILE_NAME) == draft.read(half.FILE_NAME)
    missing = draft.manifest.model_copy(update={"files": draft.manifest.files[:1]})
    with pytest.raises(ValueError, match=f"files must list {half.FILE_NAME}"):
        Manifest.model_validate(missing.model_dump())


def test_a_golden_picture_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "model", "anomaly_map")
    (package / "golden/0.png").write_bytes(b"no picture")
    entry = FileEntry.of("golden/0.png", b"no picture").model_dump()
    values = json.loads((package / "manifest.json").read_text())
    values["files"] = [entry if one["path"] == entry["path"] else one for one in values["files"]]
    (package / "manifest.json").write_text(json.dumps(values))

    with pytest.raises(InvalidPackage, match="golden samples can't be used: "):
        prepared(package, "11.4.0")


@pytest.fixture(name="trained", scope="module", params=["cookies"])
def _trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tuple[Path, PackageDraft]:
    """A model of real images, and the package made of it for TensorRT 11."""
    images = DATA / request.param
    if not images.is_dir():
        pytest.skip(f"no real images here: {images} doesn't exist")
    out = tmp_path_factory.mktemp("half") / request.param
    train(images / "train", out, normal_only=True, progress=lambda _: None)
    return images, prepared(out, "11.4.0")[0]


def results(
    content: bytes, manifest: Manifest, pictures: List[Any]
) -> Iterator[golden_check.GoldenResult]:
    backend = OrtBackend(content, manifest, BackendOptions())
    for outputs, index in golden_check.run(backend, manifest, pictures, 1):
        yield golden_check.GoldenResult.of(outputs, index, manifest)


def test_on_real_images_verdicts_stay_and_scores_nearly(trained: Tuple[Path, PackageDraft]) -> None:
    images, draft = trained
    manifest = draft.manifest
    paths = sorted(path for path in (images / "test").rglob("*.*") if path.suffix != ".json")
    shape = (manifest.input.height, manifest.input.width, 3)
    pictures = [
        write_input(PictureReader().frame(path), manifest.input, np.empty(shape, np.uint8))
        for path in paths[:: len(paths) // IMAGES + 1]
    ]
    half_graph = in_float32(draft.read(half.FILE_NAME))

    was = list(results(draft.read_model(), manifest, pictures))
    now = list(results(half_graph, manifest, pictures))

    apart = [abs(one.score - other.score) for one, other in zip(was, now)]
    assert max(apart) < TOLERANCE / 2
    assert [one.anomalous for one in was] == [one.anomalous for one in now]
    assert max(apart) > 0.0, "nothing was rounded"


# Of raw scores, in deviations of good images: each layer of a backbone rounds its sums.
DEEP_ROUNDING = 0.05


@pytest.mark.skipif(sys.version_info < (3, 9), reason="this onnx takes minutes to resize")
def test_the_reference_of_onnx_that_really_has_float16_computes_the_same(
    trained: Tuple[Path, PackageDraft],
) -> None:
    _, draft = trained
    content, spec = draft.read(half.FILE_NAME), draft.manifest.input
    sample = read_png(draft.read(draft.manifest.golden[0].image), spec.width, spec.height)[None]

    wanted = ReferenceEvaluator(onnx.load_model_from_string(content)).run(None, {"image": sample})

    session = onnxruntime.InferenceSession(in_float32(content), providers=["CPUExecutionProvider"])
    for reference, rounded in zip(wanted, session.run(None, {"image": sample})):
        assert reference == pytest.approx(rounded, abs=DEEP_ROUNDING)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_the_parser_of_tensorrt_takes_it_and_builds_it_with_float16(
    trained: Tuple[Path, PackageDraft],
) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx isn't installed here")
    _, draft = trained
    content, build = draft.read(half.FILE_NAME), draft.manifest.build
    assert build is not None

    assert EngineBuilder(rtx).build(content, build).engine
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    assert parser.parse(content)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = [layer.get_output(0).dtype for layer in layers if layer.type != rtx.LayerType.CONSTANT]
    assert types.count(rtx.DataType.HALF) >= 59
    assert {network.get_output(index).dtype for index in range(network.num_outputs)} == {
        rtx.DataType.FLOAT
    }
