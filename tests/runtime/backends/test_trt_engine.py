"""Engines made with a FAKE of TensorRT; with the real ones where they are installed."""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np
import onnx
import pytest

from edge_agent.errors import BackendUnavailable, BuildFailed, GpuFailed, InvalidPackage
from edge_agent.runtime import backends
from edge_agent.runtime.backends import fingerprint
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import Built, EngineBuilder, library
from edge_agent.runtime.backends.trt_progress import LayerCounter, Phases
from edge_agent.targets import Profile
from tests.fakes import fake_cuda, fake_tensorrt, micro
from tests.fakes.engines import ITEM, XAVIER, engine_of, profile, settings
from tests.fakes.fake_tensorrt import STRONG, VERSIONS, WEAK, asked
from tests.packaging import graphs

MODEL = micro.graph("classification")
HALF = onnx.TensorProto.FLOAT16


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
def _cuda(tmp_path: Path) -> Iterator[CtypesDriver]:
    path = fake_cuda.driver(tmp_path)
    yield CtypesDriver(path)
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
def test_int8_sees_every_picture_in_whole_batches(version: str, cuda: CtypesDriver) -> None:
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
    cuda = CtypesDriver(fake_cuda.driver(tmp_path, largest=1000))
    pictures = [np.zeros(ITEM, np.uint8)]
    spec = settings(precision="int8")

    with cuda.context(), pytest.raises(GpuFailed, match=r"out of memory \(2\)"):
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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_accelerator_leaves_to_the_gpu_what_it_lacks(version: str, precision: str) -> None:
    model = in_half() if precision == "fp16" else quantised()
    spec = settings(precision=precision, quantised=precision == "int8")

    told = asked(build(with_cores(version), model, spec, dla_core=1).engine)

    assert (told["device"], told["dla_core"]) == ("DLA", 1)
    assert "GPU_FALLBACK" in told["flags"]
    plain = asked(build(with_cores(version), model, spec).engine)
    assert (plain["device"], plain["dla_core"]) == ("GPU", -1)
    assert "GPU_FALLBACK" not in plain["flags"]


def with_cores(version: str) -> Any:
    return fake_tensorrt.tensorrt(version, dla_cores=2)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_accelerator_computes_no_fp32(version: str) -> None:
    with pytest.raises(BackendUnavailable, match="DLA core 0 computes float16 and int8 only"):
        build(with_cores(version), dla_core=0)


@pytest.mark.parametrize("cores", [0, 2])
def test_an_accelerator_that_is_not_there_is_a_sentence(cores: int) -> None:
    trt = fake_tensorrt.tensorrt("8.5.2.2", dla_cores=cores)
    with pytest.raises(BackendUnavailable, match=rf"no DLA core 2; this machine has {cores},"):
        build(trt, spec=settings(precision="fp16"), dla_core=2)


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_rises_from_nothing_to_all(version: str) -> None:
    seen: List[float] = []

    build(fake_tensorrt.tensorrt(version), on_progress=seen.append)

    assert seen[0] == 0.0
    assert seen == sorted(set(seen))
    assert len(seen) >= 6
    assert seen[-1] == 1.0


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_reported_while_the_engine_is_built(version: str) -> None:
    seen: List[float] = []
    middle: List[float] = []
    trt = fake_tensorrt.tensorrt(version, while_building=lambda: middle.append(seen[-1]))

    build(trt, on_progress=seen.append)

    assert 0.0 < middle[0] < 0.6
    assert len(middle) == 1


SAID = """
Original: 32 layers
After dead-layer removal: 32 layers
Graph construction completed in 0.000398764 seconds.
After Myelin optimization: 15 layers
After vertical fusions: 2 layers
After concat removal: 2 layers
Constructing optimization profile number 0 [1/2].
=============== Computing reformatting costs
=============== Computing costs for /features/features.0/Conv + /features/features.1/Relu
*************** Autotuning format combination: Float(4,2,1) -> Float(8,2,1) ***************
--------------- Timing Runner: /features/features.0/Conv (CaskConvolution[0x80000009])
Fastest Tactic: 0x0000000000000000 Time: 0.352631
=============== Computing costs for
=============== Computing costs for
Constructing optimization profile number 1 [2/2].
=============== Computing costs for
=============== Computing costs for
Formats and tactics selection completed in 8.9389e-05 seconds.
"""


def test_layers_and_profiles_are_counted_in_what_8_5_says() -> None:
    """Lines of builders, one layer more than announced in the first profile."""
    seen: List[float] = []
    messages = LayerCounter(seen.append)

    for line in SAID.splitlines():
        messages.read(line)

    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_messages_in_other_words_give_no_progress_and_no_error() -> None:
    seen: List[float] = []
    messages = LayerCounter(seen.append)

    for line in ("=============== Computing costs for x", "After concat removal: no layers", ""):
        messages.read(line)

    assert seen == []


def test_a_phase_within_another_fills_a_step_of_it() -> None:
    seen: List[float] = []
    phases = Phases(seen.append)

    phases.start("outer", None, 2)
    phases.step("outer", 0)
    phases.start("inner", "outer", 5)
    phases.step("inner", 0)
    phases.step("inner", 2)  # two threads, one is ahead
    phases.step("inner", 1)
    phases.finish("inner")
    phases.step("inner", 4)  # of no phase any more
    phases.step("outer", 1)
    phases.finish("outer")
    phases.finish("outer")

    assert seen == pytest.approx([0.5, 0.6, 0.8, 1.0])


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
def test_a_graph_that_the_parser_refuses_is_named_by_node_operator_and_reason(version: str) -> None:
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


def test_a_gpu_without_memory_may_build_it_later() -> None:
    failure = (
        "2: [virtualMemoryBuffer.cpp::nvinfer1::StdVirtualMemoryBufferImpl::resizePhysical::140] "
        "Error Code 2: OutOfMemory (no further information)"
    )
    with pytest.raises(BuildFailed, match=r"can't build the engine: the GPU's memory ran out\."):
        build(fake_tensorrt.tensorrt("8.5.2.2", failure=failure))


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
    ({"optimisation_level": 0}, "optimisation level none → 0"),
    ({"hardware_compatible": True}, "hardware compatibility no → yes"),
    ({"version_compatible": True}, "version compatibility no → yes"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), OTHERS)
def test_a_difference_is_named_and_gives_another_id(changes: Dict[str, Any], told: str) -> None:
    before, after = engine_of(), engine_of(**changes)

    assert before.differences(after) == told
    assert before.id != after.id
    assert after.differences(after) == ""


def test_every_field_of_a_fingerprint_has_words() -> None:
    assert {*fingerprint.NAMED, *fingerprint.UNNAMED} == set(Fingerprint.model_fields)
    assert {key for changes, _ in OTHERS for key in changes} == set(Fingerprint.model_fields)


CLASSES = ("IBuilderConfig", "INetworkDefinition", "OnnxParser", "Builder", "ParserError",
           "BuilderFlag", "DataType", "NetworkDefinitionCreationFlag", "TacticSource",
           "MemoryPoolType", "LayerType", "ILogger", "DeviceType")  # fmt: skip
FROM_8_6 = ("OnnxParserFlag", "HardwareCompatibilityLevel")
UNTIL_10, FROM_10 = "IInt8EntropyCalibrator2", "IProgressMonitor"
OURS = ("is_ready", "name")  # of the fake


def surface(trt: Any, *more: str) -> List[Tuple[str, str]]:
    kinds = {name: getattr(trt, name) for name in (*CLASSES, *more)}
    names = [
        (name, part)
        for name, kind in kinds.items()
        for part in getattr(kind, "__members__", None) or dir(kind)
    ]
    return [(name, part) for name, part in names if not part.startswith("_") and part not in OURS]


def named_by_the_code() -> Set[str]:
    """What modules of the runtime take from the module `trt`."""
    folder = Path(backends.__file__).parent
    return {
        node.attr
        for path in [*folder.glob("*.py"), *(folder.parent / "engines").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in ("trt", "_trt")
    }


@pytest.fixture(name="real")
def _real() -> Any:
    return real_one()


def real_one() -> Any:
    """TensorRT, or a skip that says whether it isn't there or lacks a library."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        pytest.skip(f"TensorRT can't be imported here: {error}")


def test_a_real_one_that_lacks_a_library_is_skipped_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.8: not found')\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"libnvinfer\.so\.8: not found"):
        real_one()


def test_every_call_of_the_fake_exists_in_the_real_8_5(real: Any) -> None:
    if not real.__version__.startswith("8.5."):
        pytest.skip(f"this is TensorRT {real.__version__}")

    fake = fake_tensorrt.tensorrt("8.5.2.2")
    assert set(surface(fake, UNTIL_10)) <= set(surface(real, UNTIL_10))
    missing = {name for name in named_by_the_code() if not hasattr(real, name)}
    assert missing <= {FROM_10, *FROM_8_6}


def test_the_real_one_without_a_driver_is_a_sentence(real: Any) -> None:
    with contextlib.suppress(BackendUnavailable):
        pytest.skip(f"here is a GPU, {CtypesDriver().gpu().name}")

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

    def test_every_call_of_the_fake_11_exists_in_it(self, rtx: Any) -> None:
        fake = fake_tensorrt.tensorrt("11.4.0")

        assert set(surface(fake, FROM_10, *FROM_8_6)) <= set(surface(rtx, FROM_10, *FROM_8_6))
        missing = {name for name in named_by_the_code() if not hasattr(rtx, name)}
        assert missing <= {UNTIL_10}

    def test_progress_rises_through_its_phases(self, rtx: Any) -> None:
        seen: List[float] = []

        build(rtx, micro.slow(steps=4), on_progress=seen.append)

        assert seen == sorted(set(seen))
        assert len(seen) > 10
        assert 0.8 < seen[-1] <= 1.0  # it leaves out the last step of "Building engine"

    def test_no_accelerator_is_a_sentence(self, rtx: Any) -> None:
        with pytest.raises(BackendUnavailable, match="no DLA core 0; this machine has 0,"):
            build(rtx, in_half(), settings(precision="fp16"), dla_core=0)

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
