"""Engines made with a FAKE of TensorRT; with the real ones where they are installed."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import onnx
import pytest

from edge_agent.errors import BackendUnavailable, InvalidPackage
from edge_agent.runtime.backends import cuda_device, fingerprint
from edge_agent.runtime.backends.cuda_device import Cuda, Gpu
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import Built, EngineBuilder, library
from edge_agent.targets import BuildSpec, Profile
from tests import micro
from tests.packaging import graphs
from tests.runtime import fake_cuda, fake_tensorrt
from tests.runtime.fake_tensorrt import STRONG, VERSIONS, WEAK, asked

MODEL = micro.graph("classification")
ITEM = (micro.SIZE, micro.SIZE, 3)
XAVIER = Gpu("Xavier", (7, 2), "11.4", "R35.3.1")
HALF = onnx.TensorProto.FLOAT16


def profile(low: int, high: int) -> Profile:
    return Profile(
        tensor="image", minimum=(low, *ITEM), optimum=(high, *ITEM), maximum=(high, *ITEM)
    )


def settings(**changes: Any) -> BuildSpec:
    values: Dict[str, Any] = {"precision": "fp32", "timing_cache": "timing.cache"}
    values["profiles"] = (profile(1, 1), profile(2, 4))
    return BuildSpec(**{**values, **changes})


def build(trt: Any, model: bytes = MODEL, spec: Any = None, **options: Any) -> Built:
    return EngineBuilder(trt).build(model, spec or settings(), **options)


def fake_build(version: str, model: bytes = MODEL, spec: Any = None, **options: Any) -> Any:
    return asked(build(fake_tensorrt.tensorrt(version), model, spec, **options).engine)


def quantised() -> bytes:
    nodes = [
        graphs.node("QuantizeLinear", ["float", "scale", "zero"], ["small"]),
        graphs.node("DequantizeLinear", ["small", "scale", "zero"], ["back"]),
    ]
    constants = [graphs.constant("scale", 0.5), graphs.constant("zero", 0, np.int8)]
    return graphs.scorer(nodes, constants, head="back")


def in_half() -> bytes:
    nodes = [
        graphs.node("Cast", ["float"], ["half"], to=HALF),
        graphs.node("Mul", ["half", "two"], ["double"]),
        graphs.node("Cast", ["double"], ["back"], to=onnx.TensorProto.FLOAT),
    ]
    return graphs.scorer(nodes, [graphs.constant("two", 2, np.float16)], head="back")


def refused(operator: str = "Nonsense") -> bytes:
    made = onnx.load_model_from_string(MODEL)
    made.graph.node[1].op_type, made.graph.node[1].name = operator, "odd"
    return bytes(made.SerializeToString())


@pytest.fixture(name="cuda")
def _cuda(tmp_path: Path) -> Iterator[Cuda]:
    path = fake_cuda.driver(tmp_path)
    yield Cuda(path)
    gc.collect()
    assert fake_cuda.left(path) == 0, "contexts or buffers were kept"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gets_the_profiles_and_the_workspace(version: str) -> None:
    told = fake_build(version, workspace_bytes=1 << 28)

    assert told["profiles"] == [
        {"image": [[1, *ITEM], [1, *ITEM], [1, *ITEM]]},
        {"image": [[2, *ITEM], [4, *ITEM], [4, *ITEM]]},
    ]
    assert told["limits"] == {"WORKSPACE": 1 << 28}


@pytest.mark.parametrize("version", VERSIONS)
def test_fp32_is_not_rounded_to_tf32(version: str) -> None:
    assert fake_build(version)["flags"] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_of_one_size_gets_no_profile(version: str) -> None:
    made = onnx.load_model_from_string(MODEL)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    told = fake_build(version, made.SerializeToString(), settings(profiles=(profile(4, 4),)))

    assert told["profiles"] == []


@pytest.mark.parametrize("version", WEAK)
def test_until_10_a_flag_allows_float16(version: str) -> None:
    assert "FP16" in fake_build(version, spec=settings(precision="fp16"))["flags"]


@pytest.mark.parametrize("version", STRONG)
def test_from_11_float16_must_be_in_the_graph(version: str) -> None:
    spec = settings(precision="fp16")

    assert fake_build(version, in_half(), spec)["flags"] == ["TF32"]
    with pytest.raises(BackendUnavailable, match=r"model\.onnx has no float16\. Export"):
        fake_build(version, MODEL, spec)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_quantised_graph_needs_no_calibration(version: str) -> None:
    told = fake_build(version, quantised(), settings(precision="int8", quantised=True))

    assert "calibrated" not in told
    assert ("INT8" in told["flags"]) == (version in WEAK)


@pytest.mark.parametrize("version", WEAK)
def test_a_quantised_graph_is_built_whatever_precision_is_named(version: str) -> None:
    assert "INT8" in fake_build(version, quantised(), settings(quantised=True))["flags"]


@pytest.mark.parametrize("version", STRONG)
def test_from_11_pictures_do_not_calibrate(version: str) -> None:
    with pytest.raises(BackendUnavailable, match="takes no calibration pictures; int8 needs"):
        fake_build(version, spec=settings(precision="int8"))


@pytest.mark.parametrize("version", WEAK)
def test_int8_sees_every_picture_in_whole_batches(version: str, cuda: Cuda) -> None:
    """Batches of four of ten pictures: the last is filled up with its own."""
    pictures = [np.full(ITEM, index, np.uint8) for index in range(10)]
    spec = settings(precision="int8", profiles=(profile(1, 4),))

    with cuda.context():
        told = fake_build(version, spec=spec, calibration=cuda.batches(pictures, 4))

    wanted = [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 8, 9)]
    assert told["calibrated"] == [
        hashlib.sha256(b"".join(pictures[index].tobytes() for index in batch)).hexdigest()
        for batch in wanted
    ]
    assert {"FP16", "INT8"} <= set(told["flags"])


def test_a_fault_during_the_calibration_is_not_an_engine(tmp_path: Path) -> None:
    cuda = Cuda(fake_cuda.driver(tmp_path, largest=1000))
    pictures = [np.zeros(ITEM, np.uint8)]
    spec = settings(precision="int8")

    with cuda.context(), pytest.raises(BackendUnavailable, match=r"out of memory \(2\)"):
        fake_build("8.5.2.2", spec=spec, calibration=cuda.batches(pictures, 1))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_measured_serves_the_next_build(version: str) -> None:
    trt = fake_tensorrt.tensorrt(version)
    first = build(trt)
    second = build(trt, timing_cache=first.timing_cache)

    assert asked(first.engine)["cached"] == ""
    assert asked(second.engine)["cached"] == f"timed with {version}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("content", [b"rubbish", b"timed with 7.1"])
def test_a_timing_cache_that_does_not_fit_is_left_aside(version: str, content: bytes) -> None:
    built = build(fake_tensorrt.tensorrt(version), timing_cache=content)

    assert asked(built.engine)["cached"] == ""
    assert built.timing_cache == f"timed with {version}".encode()


def test_libraries_of_hundreds_of_mib_are_used_by_plugins_only() -> None:
    plain = fake_build("8.5.2.2")["sources"]
    nodes = [
        graphs.node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        graphs.node("InstanceNormalization", ["planes", "ones", "zeros"], ["normal"]),
    ]
    constants = [graphs.constant("ones", np.ones(3)), graphs.constant("zeros", np.zeros(3))]

    assert plain == ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]
    with_plugin = fake_build("8.5.2.2", graphs.scorer(nodes, constants, head="normal"))
    assert {"CUDNN", "CUBLAS"} < set(with_plugin["sources"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_that_the_parser_refuses_is_told_by_node_operator_and_reason(version: str) -> None:
    with pytest.raises(InvalidPackage) as caught:
        fake_build(version, refused())

    name = " (odd)" if version >= "10" and not version.startswith("8") else ""
    assert str(caught.value) == (
        f"TensorRT {version} can't read model.onnx, node 1, Nonsense{name}: "
        f"{fake_tensorrt.NO_PLUGIN}."
    )


def test_a_failed_build_gives_the_reason_without_places_in_the_source() -> None:
    failure = (
        "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any "
        "implementation for node Conv_3 due to insufficient workspace. See verbose log.)"
    )
    with pytest.raises(BackendUnavailable) as caught:
        build(fake_tensorrt.tensorrt("8.5.2.2", failure=failure))

    assert str(caught.value) == (
        "TensorRT 8.5.2.2 can't build the engine: Could not find any implementation for node "
        "Conv_3 due to insufficient workspace."
    )


def test_profiles_that_are_refused_are_named() -> None:
    falling = Profile.model_construct(
        tensor="image", minimum=(4, *ITEM), optimum=(2, *ITEM), maximum=(1, *ITEM)
    )
    with pytest.raises(InvalidPackage, match="refuses the batches 4 to 1"):
        fake_build("8.5.2.2", spec=settings().model_copy(update={"profiles": (falling,)}))


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_driver_there_is_a_sentence(version: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        EngineBuilder(fake_tensorrt.tensorrt(version, has_driver=False))

    assert str(caught.value) == (
        f"TensorRT {version} can't work on this machine: CUDA initialization failure with error: "
        "35. It needs an NVIDIA GPU and a driver that is new enough for it."
    )


def test_the_package_that_brings_tensorrt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(BackendUnavailable, match=r"JetPack's package python3-libnvinfer.*pip inst"):
        library()


def test_a_library_that_tensorrt_misses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "libcublas.so.11: cannot open shared object file: No such file or directory"
    (tmp_path / "tensorrt.py").write_text(f"raise ImportError({text!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    with pytest.raises(BackendUnavailable, match=r"can't be loaded: libcublas\.so\.11"):
        library()


def test_a_tensorrt_without_uint8_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.tensorrt("8.4.1"))

    with pytest.raises(BackendUnavailable, match=r"8\.4\.1 is too old.*JetPack 5\.1"):
        library()


def test_the_driver_says_which_gpu_there_is(
    cuda: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref\n# more\n")
    monkeypatch.setattr(cuda_device, "RELEASES", (tmp_path / "none", release))

    assert cuda.gpu() == XAVIER
    assert cuda.gpu().code == "sm_72"
    with cuda.context():
        assert cuda.free_bytes() == 6 << 30


@pytest.mark.parametrize(
    ("content", "told"), [("535.104.05\n", "535.104.05"), ("", ""), (None, "")]
)
def test_the_release_of_the_driver_is_told_where_the_system_tells_it(
    content: Any, told: str, cuda: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(cuda_device, "RELEASES", (file,))

    assert cuda.gpu().driver == told


def test_a_machine_without_driver_or_gpu_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA driver \(libcuda\.so\.1\)"):
        Cuda(str(tmp_path / "libcuda.so.1"))
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU that the driver can use"):
        Cuda(fake_cuda.driver(tmp_path, init=100))


def test_a_call_that_fails_is_named_with_the_reason_of_the_driver(cuda: Cuda) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        cuda.free_bytes()  # outside of any context

    assert str(caught.value) == (
        "The GPU can't be used: cuMemGetInfo_v2 failed, invalid device context (201)."
    )


def engine_of(**changes: Any) -> Fingerprint:
    made = Fingerprint.of("8.5.2.2", XAVIER, b"model", settings())
    return made.model_copy(update=changes)


def test_a_fingerprint_is_read_back_as_it_was_written() -> None:
    pictures = Fingerprint.of("8.5.2.2", XAVIER, b"model", settings(), [b"one", b"two"])

    for made in (engine_of(), pictures, engine_of(dla_core=1)):
        assert fingerprint.parse(made.to_json()) == made


def test_the_id_is_the_same_in_every_release() -> None:
    """Files on devices have it in their names."""
    assert engine_of().id == "f07330c5c22f8d33"


OTHERS = [
    ({"tensorrt": "8.6.1"}, "TensorRT 8.5.2.2 → 8.6.1"),
    ({"gpu": "Orin", "compute_capability": "8.7"},
     "GPU Xavier → Orin, compute capability 7.2 → 8.7"),
    ({"cuda": "12.6"}, "CUDA 11.4 → 12.6"),
    ({"driver": ""}, "driver R35.3.1 → unknown"),
    ({"precision": "fp16"}, "precision fp32 → fp16"),
    ({"dla_core": 0}, "DLA core none → 0"),
    ({"model": "0" * 64}, "another model.onnx"),
    ({"calibration": "0" * 64}, "other calibration pictures"),
    ({"profiles": (profile(1, 2),)}, "other batch sizes"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), OTHERS)
def test_a_difference_is_told_and_gives_another_id(changes: Dict[str, Any], told: str) -> None:
    before, after = engine_of(), engine_of(**changes)

    assert before.differences(after) == told
    assert before.id != after.id
    assert after.differences(after) == ""


def test_every_field_of_a_fingerprint_has_words() -> None:
    assert {*fingerprint.NAMED, *fingerprint.UNNAMED} == set(Fingerprint.model_fields)
    assert {key for changes, _ in OTHERS for key in changes} == set(Fingerprint.model_fields)


CLASSES = ("IBuilderConfig", "INetworkDefinition", "OnnxParser", "Builder", "ParserError",
           "BuilderFlag", "DataType", "NetworkDefinitionCreationFlag", "TacticSource",
           "MemoryPoolType", "LayerType", "ILogger", "IInt8EntropyCalibrator2")  # fmt: skip


OURS = ("is_ready", "name")  # of the fake


def surface(trt: Any) -> List[Tuple[str, str]]:
    names = [(name, part) for name in CLASSES for part in dir(getattr(trt, name))]
    return [(name, part) for name, part in names if not part.startswith("_") and part not in OURS]


@pytest.fixture(name="real")
def _real() -> Any:
    reason = "TensorRT isn't installed here"
    return pytest.importorskip("tensorrt", reason=reason, exc_type=ImportError)


def test_every_call_of_the_fake_exists_in_the_real_8_5(real: Any) -> None:
    if not real.__version__.startswith("8.5."):
        pytest.skip(f"this is TensorRT {real.__version__}")

    assert set(surface(fake_tensorrt.tensorrt("8.5.2.2"))) <= set(surface(real))


def test_the_real_one_without_a_driver_is_a_sentence(real: Any) -> None:
    with contextlib.suppress(BackendUnavailable):
        pytest.skip(f"here is a GPU, {Cuda().gpu().name}")

    with pytest.raises(BackendUnavailable, match=r"can't work on this machine: .*CUDA"):
        EngineBuilder(library())


@pytest.fixture(name="rtx", scope="module")
def _rtx() -> Any:
    reason = "TensorRT-RTX, which builds without a GPU, isn't installed here"
    return pytest.importorskip("tensorrt_rtx", reason=reason)


# Its timing cache does nothing, and says so.
@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
class TestWithTheRealTensorRtForRtx:
    @pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
    def test_an_engine_is_built(self, rtx: Any, task: str) -> None:
        assert build(rtx, micro.graph(task)).engine

    def test_weights_are_still_there_when_the_engine_is_built(self, rtx: Any) -> None:
        model = micro.slow(steps=8)
        engines = [build(rtx, model).engine for _ in range(2)]

        assert len(engines[0]) > len(build(rtx).engine) + 8 * 64 * 64 * 9
        assert len(engines[0]) == len(engines[1])

    def test_float16_is_taken_where_the_graph_has_it(self, rtx: Any) -> None:
        spec = settings(precision="fp16")

        assert build(rtx, in_half(), spec).engine
        with pytest.raises(BackendUnavailable, match="has no float16"):
            build(rtx, MODEL, spec)

    def test_a_quantised_graph_is_taken_as_int8(self, rtx: Any) -> None:
        spec = settings(precision="int8", quantised=True)

        assert build(rtx, quantised(), spec).engine

    def test_the_parser_names_what_it_refuses(self, rtx: Any) -> None:
        words = r"node 1, Nonsense \(odd\): creator && \"Plugin not found"
        with pytest.raises(InvalidPackage, match=words):
            build(rtx, refused())

    def test_rubbish_is_no_graph(self, rtx: Any) -> None:
        with pytest.raises(InvalidPackage, match=r"can't read model\.onnx: .*ONNX"):
            build(rtx, b"rubbish")

    def test_a_profile_for_another_tensor_is_a_sentence(self, rtx: Any) -> None:
        other = profile(1, 1).model_copy(update={"tensor": "other"})
        with pytest.raises(BackendUnavailable, match=r"can't build the engine: \w+"):
            build(rtx, MODEL, settings(profiles=(other,)))
