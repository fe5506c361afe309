"""What goes wrong in the loop over a TensorRT engine: sentences, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Iterator

import onnx
import pytest

from edge_agent.errors import (
    BackendUnavailable,
    EngineUnusable,
    GpuFailed,
    InferenceFailed,
    InvalidPackage,
)
from tests.fakes import fake_cuda
from tests.fakes.fake_tensorrt import VERSIONS
from tests.fakes.loop_bench import (
    ILLEGAL,
    OTHER,
    Make,
    bench,
    check,
    machines,
    pictures,
)
from tests.packaging import graphs


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Iterator[Make]:
    with machines(tmp_path) as make:
        yield make


def changed(engine: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(engine), **changes}).encode()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (
            {"version": "9.9.9"},
            EngineUnusable,
            r"another TensorRT than this {}\. Build it again",
        ),
        ({"capability": "8.7"}, EngineUnusable, r"built on another GPU\. Build it again here"),
    ],
)
def test_an_engine_for_another_machine_is_a_sentence(
    machine: Make, version: str, change: Any, error: Any, reason: str
) -> None:
    gpu = machine(version)

    with pytest.raises(error, match=reason.format(version)), bench(
        gpu, changed(gpu.engine(), **change)
    ):
        pass


@pytest.mark.parametrize("content", [b"x" * 1000, b"{"])
def test_a_damaged_engine_is_a_sentence(machine: Make, content: bytes) -> None:
    gpu = machine()

    with pytest.raises(
        EngineUnusable, match=r"The engine is damaged or no engine\. Build it again"
    ), bench(gpu, content):
        pass


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file "
            "is not compatible with this version of TensorRT, expecting library version 10.3.0.26 "
            "got 10.0.1.6, please rebuild.)",
            "The engine was built by another TensorRT than this 10.3.0. Build it again here (The",
        ),
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Internal Error (Failed due to an old "
            "deserialization call on a newer plan file. This might happen when the plan file was "
            "built from an older TensorRT version. In deserializeEngine at /_src/engine.cpp:1679)",
            "The engine was built by another TensorRT than this 10.3.0.",
        ),
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
            "/_src/cudaResources.cpp:25 (cudaError 35: CUDA driver version is insufficient for "
            "CUDA runtime version))",
            "TensorRT 10.3.0 can't load the engine: cudaError 35: CUDA driver version is insuf",
        ),
        ("", "TensorRT 10.3.0 can't load the engine: it doesn't say why."),
    ],
)
def test_what_tensorrt_says_of_an_engine_becomes_a_sentence(
    machine: Make, told: str, reason: str
) -> None:
    gpu = machine("10.3.0")

    def refuse(runtime: Any, content: bytes) -> None:
        if told:
            runtime._error(told)

    gpu.trt.Runtime.deserialize_cuda_engine = refuse
    with pytest.raises(BackendUnavailable) as caught, bench(gpu):
        pass
    assert str(caught.value).startswith(reason)


NOT_READY = "TensorRT 8.5.2.2 can't make the engine ready to compute: no further. If the GPU's"


@pytest.mark.parametrize(
    ("nth", "error", "reason"),
    [
        (1, BackendUnavailable, "TensorRT 8.5.2.2 can't load the engine: out of memory"),
        (2, BackendUnavailable, NOT_READY),
        (3, GpuFailed, "The GPU can't be used: cuMemAlloc failed, out of memory (2). Stop other"),
        (4, BackendUnavailable, NOT_READY),
    ],
)
def test_no_room_for_the_engine_is_a_sentence(
    machine: Make, nth: int, error: Any, reason: str
) -> None:
    gpu = machine()
    engine = gpu.engine()
    gpu.fail(f"cuMemAlloc:{nth}=2")

    with pytest.raises(error) as caught, bench(gpu, engine):
        pass
    assert str(caught.value).startswith(reason)


def test_without_a_driver_for_it_tensorrt_says_so(machine: Make) -> None:
    gpu = machine()
    engine = gpu.engine()
    gpu.trt._has_driver = False

    with pytest.raises(
        BackendUnavailable, match=r"can't work on this machine: CUDA init.*error: 35"
    ), bench(gpu, engine):
        pass


def test_a_dla_core_is_chosen_for_the_engine(machine: Make) -> None:
    gpu = machine(dla_cores=2)

    with bench(gpu, dla_core=1) as opened:
        assert opened.loop._runtime.DLA_core == 1
        assert opened.loop.device == "GPU Xavier, DLA core 1"


def test_a_dla_core_that_is_not_there_is_a_sentence(machine: Make) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"There is no DLA core 0; this GPU has 0 of them"
    ), bench(machine(), dla_core=0):
        pass


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_code_for_the_cpu_in_an_engine_stays_refused(machine: Make, version: str) -> None:
    with bench(machine(version)) as opened:
        assert opened.loop._runtime.engine_host_code_allowed is False


def odd(kind: str) -> bytes:
    image = graphs.image()
    nodes = [graphs.node("Cast", ["image"], ["float"], to=graphs.FLOAT)]
    outputs = {
        "data dependent": (graphs.node("NonZero", ["float"], ["odd"]), onnx.TensorProto.INT64),
        "no batch": (graphs.node("ReduceMax", ["float"], ["odd"], keepdims=0), graphs.FLOAT),
        "bfloat16": (
            graphs.node("Cast", ["image"], ["odd"], to=onnx.TensorProto.BFLOAT16),
            onnx.TensorProto.BFLOAT16,
        ),
    }
    last, dtype = outputs[kind]
    return graphs.model([*nodes, last], [image], [graphs.tensor("odd", dtype, None)])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("data dependent", r"output 'odd' depends on the picture \(\(4, -1\)\)"),
        ("no batch", r"output 'odd' has shape \(\) for a batch of 1; its first axis must be"),
        ("bfloat16", r"tensor 'odd' is BF16; expected one of FLOAT, HALF"),
    ],
)
def test_an_engine_that_cannot_be_served_is_refused(machine: Make, kind: str, reason: str) -> None:
    gpu = machine("10.3.0")

    with pytest.raises(InvalidPackage, match=reason), bench(gpu, gpu.engine(odd(kind))):
        pass


def test_an_input_that_is_a_shape_is_refused(machine: Make) -> None:
    gpu = machine()

    with pytest.raises(InvalidPackage, match="wants 'image' in the CPU's memory"), bench(
        gpu, changed(gpu.engine(), host=["image"])
    ):
        pass


def test_profiles_for_items_of_several_sizes_are_refused(machine: Make) -> None:
    gpu = machine()
    wide = [[1, 64, 128, 3], [1, 64, 128, 3], [1, 64, 128, 3]]
    profiles = json.loads(gpu.engine())["profiles"]

    with pytest.raises(
        InvalidPackage, match=r"takes \(64, 64, 3\) or \(64, 128, 3\); it must be"
    ), bench(gpu, changed(gpu.engine(), profiles=[*profiles, {"image": wide}])):
        pass


def test_a_slot_takes_one_batch_at_a_time(machine: Make) -> None:
    with bench(machine()) as opened:
        slot = opened.slots[0]
        with pytest.raises(InferenceFailed, match="no batch to wait for"):
            opened.loop.wait(slot)
        opened.submit(pictures(4))
        with pytest.raises(InferenceFailed, match="last batch isn't done yet"):
            opened.loop.submit(slot, 4)
        opened.loop.wait(slot)
        check(opened.results(4), pictures(4))


OPENING = (
    "cuStreamCreate",
    "cuMemAlloc",
    "cuMemGetInfo",
    "cuMemHostGetDevicePointer",
    "cuEventCreate",
    "cuDeviceGetName",
)


@pytest.mark.parametrize("call", OPENING)
def test_nothing_is_left_when_a_call_fails_at_opening(machine: Make, call: str) -> None:
    gpu = machine()
    engine = gpu.engine()

    for nth in range(1, 40):
        gpu.fail(f"{call}:{nth}={OTHER}")
        with contextlib.suppress(BackendUnavailable, GpuFailed), bench(gpu, engine, slots=2):
            pass
        assert fake_cuda.left_words(gpu.library) == ""
        if gpu.count(call) < nth:
            break
    assert nth > 1


RUNNING = (
    "cuEventRecord",
    "cuMemcpyHtoDAsync",
    "cuStreamWaitEvent",
    "fake_enqueue",
    "cuMemcpyDtoHAsync",
    "cuEventSynchronize",
    "cuEventElapsedTime",
)


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("call", RUNNING)
def test_a_batch_that_fails_does_not_spoil_the_next(
    machine: Make, call: str, is_plain: bool
) -> None:
    """Each call of a run fails once; the neighbour in flight and the batch after it are right."""
    gpu = machine()
    failed = 0

    with bench(gpu, slots=2) as opened:
        if is_plain:
            gpu.fail(f"cuStreamBeginCapture:1={OTHER}")
            check(opened.run(pictures(4)), pictures(4))
            check(opened.run(pictures(4)), pictures(4))
        for nth in range(1, 12):
            if not is_plain:
                for place in (0, 1, 0):
                    opened.run(pictures(4), place)
            neighbour = pictures(4, 100 + nth)
            opened.submit(neighbour, 1)
            gpu.fail(f"{call}:{nth}={OTHER}")
            try:
                opened.run(pictures(4, nth))
            except InferenceFailed:
                failed += 1
            gpu.fail()
            opened.loop.wait(opened.slots[1])
            check(opened.results(4, 1), neighbour)
            batch = pictures(4, nth)
            check(opened.run(batch), batch)

    assert failed > 0 or (call, is_plain) == ("fake_enqueue", False)


@pytest.mark.parametrize("call", [*RUNNING, "cuGraphLaunch"])
def test_a_lost_gpu_is_reported_whatever_call_meets_it(machine: Make, call: str) -> None:
    gpu = machine()
    gpu.is_lost = True

    with bench(gpu) as opened:
        opened.run(pictures(4))
        gpu.fail(f"{call}:1={ILLEGAL}")
        with pytest.raises(GpuFailed) as caught:
            opened.run(pictures(4))
        assert caught.value.is_sticky
        assert caught.value.code == ILLEGAL
        opened.loop._unload()


def test_a_run_that_tensorrt_refuses_is_a_sentence(machine: Make) -> None:
    gpu = machine()
    refuse = gpu.trt.IExecutionContext._refuse

    with bench(gpu) as opened:
        gpu.trt.IExecutionContext._not_ready = lambda self: "the moon is full"
        with pytest.raises(InferenceFailed, match=r"TensorRT refuses the run: .*the moon is full"):
            opened.run(pictures(2))
        del gpu.trt.IExecutionContext._not_ready
        batch = pictures(2)
        check(opened.run(batch), batch)
    assert refuse


def test_a_slot_can_be_closed_while_others_go_on(machine: Make) -> None:
    gpu = machine()

    with bench(gpu, slots=2) as opened:
        opened.submit(pictures(4, 1), 1)
        before = fake_cuda.left(gpu.library)
        opened.loop.close_slot(opened.slots[0])
        opened.loop.wait(opened.slots[1])
        check(opened.results(4, 1), pictures(4, 1))
        allocation, mapping, events = 1, 1, 6
        assert before - fake_cuda.left(gpu.library) == allocation + mapping + events


@pytest.mark.parametrize("is_integrated", [0, 1])
def test_what_is_in_flight_is_done_before_its_memory_goes(
    machine: Make, is_integrated: int
) -> None:
    gpu = machine(integrated=is_integrated)

    with bench(gpu, slots=3) as opened:
        for place in range(3):
            opened.submit(pictures(4, place), place)
        opened.loop.close_slot(opened.slots[0])
        opened.loop.wait(opened.slots[1])
        check(opened.results(4, 1), pictures(4, 1))
