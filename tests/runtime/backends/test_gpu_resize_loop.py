"""Whole frames through an engine's loop and its worker, on FAKES of TensorRT and of the driver."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_agent.errors import GpuFailed
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.gpu_resize import Resizer, Resizing
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.backends.trt import TrtBackend
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.backends.trt_loop import FrameIn
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.models.inference_unit import DecisionInForce, InferenceUnit
from edge_agent.runtime.models.placement import REPEATS, Placement
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.targets import BuildSpec, Profile
from edge_agent.types import Caller, Frame, Prediction
from tests import ROOT
from tests.fakes import fake_cuda, micro, resize_on_cpu
from tests.fakes.loop_bench import Bench, Machine, expected, is_equal

SPEC = InputSpec(tensor="image", height=micro.SIZE, width=micro.SIZE)
FRAME_BYTES = 3 * 1280 * 720
ORDERS = ["needed", "early", "random:1", "random:2"]

Sizes = List[Tuple[int, int]]  # width, height; (0, 0): an item that the CPU has resized
MIXED: Sizes = [(1280, 720), (0, 0), (641, 483), (64, 64)]


@pytest.fixture(params=[0, 1], ids=["discrete", "integrated"])
def is_integrated(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def noise(width: int, height: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def fill(bench: Bench, place: int, sizes: Sizes, seed: int) -> Tuple[List[FrameIn], Any]:
    """Put frames and items into a slot; return what to submit, and the items that should come."""
    memory, wanted, frames = bench.memories[place], [], []
    items = bench.layout.view(memory, "image", len(sizes))
    for index, (width, height) in enumerate(sizes):
        slot = np.empty((micro.SIZE, micro.SIZE, 3), np.uint8)
        if width:
            frame = bench.layout.frame(memory, index, width, height)
            frame[:] = noise(width, height, seed + index)
            items[index] = 99  # left by a batch before
            frames.append(FrameIn(index, width, height))
            write_input(Frame(frame), SPEC, slot)
        else:
            items[index] = slot[:] = noise(micro.SIZE, micro.SIZE, seed + index)
        wanted.append(slot)
    return frames, np.stack(wanted)


def taken(bench: Bench, place: int, wanted: Any) -> bool:
    """Tell whether the batch in a slot came out as the items that should have come."""
    bench.loop.wait(bench.slots[place])
    seen = bench.layout.view(bench.memories[place], "image", len(wanted))
    return np.array_equal(seen, wanted) and is_equal(
        bench.results(len(wanted), place), expected(wanted)
    )


def opened(machine: Machine, slots: int = 1) -> Tuple[Bench, Resizer]:
    resizing = Resizing.of(SPEC)
    assert resizing is not None
    resizer = Resizer(machine.driver, resizing, FRAME_BYTES)
    engine = machine.engine()
    return Bench(machine, engine, slots, FRAME_BYTES, resizer=resizer), resizer


def machine(folder: Path, **options: Any) -> Machine:
    return Machine(folder, kernels=resize_on_cpu.kernels(), **options)


@pytest.mark.parametrize("order", ORDERS)
def test_items_made_of_frames_are_computed_and_lie_in_the_slot_afterwards(
    tmp_path: Path, order: str, is_integrated: int
) -> None:
    gpu = machine(tmp_path, order=order, integrated=is_integrated)
    with gpu.driver.context():
        bench, resizer = opened(gpu)
        for seed, sizes in enumerate([MIXED, MIXED[:1], MIXED[1:], MIXED[::-1]]):
            frames, wanted = fill(bench, 0, sizes, seed)
            bench.loop.submit(bench.slots[0], len(sizes), frames)
            assert taken(bench, 0, wanted)
        bench.loop.close()
        resizer.close()
    assert fake_cuda.left_words(gpu.library) == ""


@pytest.mark.parametrize("order", ORDERS)
def test_batches_in_flight_dont_share_what_lies_between_frame_and_item(
    tmp_path: Path, order: str, is_integrated: int
) -> None:
    gpu = machine(tmp_path, order=order, integrated=is_integrated)
    with gpu.driver.context():
        bench, resizer = opened(gpu, slots=3)
        for turn in range(3):
            wanted: Dict[int, Any] = {}
            for place in range(3):
                frames, wanted[place] = fill(bench, place, MIXED, 10 * turn + place)
                bench.loop.submit(bench.slots[place], len(MIXED), frames)
            assert all(taken(bench, place, wanted[place]) for place in range(3))
        bench.loop.close()
        resizer.close()


def test_a_kernel_that_cant_be_started_fails_its_batch_and_no_other(tmp_path: Path) -> None:
    gpu = machine(tmp_path)
    with gpu.driver.context():
        bench, resizer = opened(gpu)
        frames, wanted = fill(bench, 0, MIXED, 0)
        gpu.fail("cuLaunchKernel:2=801")
        with pytest.raises(GpuFailed, match="cuLaunchKernel"):
            bench.loop.submit(bench.slots[0], len(MIXED), frames)
        gpu.fail()
        bench.loop.submit(bench.slots[0], len(MIXED), frames)
        assert taken(bench, 0, wanted)
        bench.loop.close()
        resizer.close()
    assert fake_cuda.left_words(gpu.library) == ""


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuModuleGetFunction", "cuMemAlloc"])
def test_a_resizer_that_cant_be_made_keeps_nothing(tmp_path: Path, call: str) -> None:
    gpu = machine(tmp_path)
    with gpu.driver.context():
        gpu.fail(f"{call}:1=2")
        with pytest.raises(GpuFailed, match=call):
            opened(gpu)
    assert fake_cuda.left_words(gpu.library) == ""


def test_the_kernels_are_compiled_once_and_anew_in_a_new_context(tmp_path: Path) -> None:
    gpu = machine(tmp_path)
    resizing = Resizing.of(SPEC)
    assert resizing is not None
    for compiled in (1, 2):
        with gpu.driver.context():
            for _ in range(2):
                Resizer(gpu.driver, resizing, FRAME_BYTES).close()
        assert gpu.count("cuModuleLoadData") == compiled


class ForTheDevice:
    """A clock by which the CPU, measured first, takes longer than the device, again and again."""

    calls = 0
    now_s = 0.0

    def __call__(self) -> float:
        self.calls += 1
        if self.calls % 2 == 0:
            self.now_s += 2.0 if (self.calls // 2 - 1) % (2 * REPEATS) < REPEATS else 1.0
        return self.now_s


def judged(
    backend: Backend, manifest: Manifest, frames: List[Any], engine: str
) -> List[Prediction]:
    """What a unit on `backend` makes of frames, in one batch."""
    verdicts = DecisionInForce(manifest)
    verdicts.placement = Placement(ForTheDevice())
    unit = InferenceUnit(backend, manifest, verdicts)
    batch = [Item(OpenFrame(Frame(frame)), 0.0, Caller("left")) for frame in frames]
    with closing(unit):
        unit.warm_up()
        assert unit.engine == engine
        unit.compute(batch)
    return [item.future.result(0) for item in batch]


def build(folder: Path, model: bytes, item: Tuple[int, ...]) -> Path:
    """The fake engine of a model, in a file."""
    profile = Profile(tensor="image", minimum=(1, *item), optimum=(4, *item), maximum=(4, *item))
    spec = BuildSpec(precision="fp32", timing_cache="timing.cache", profiles=(profile,))
    engine = folder / "model.engine"
    engine.write_bytes(EngineBuilder(Machine(folder).trt).build(model, spec).engine)
    return engine


def mean_of_planes() -> bytes:
    """A model of float32 planes: the score is their mean."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *PLANES])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    nodes = [helper.make_node("ReduceMean", ["image"], ["score"], axes=[1, 2, 3], keepdims=0)]
    model = helper.make_model(
        helper.make_graph(nodes, "planes", [image], [score]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


PLANES = (3, micro.SIZE, micro.SIZE)
NUMBERS = {
    "layout": "NCHW", "dtype": "float32", "scale": 1 / 255, "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}  # fmt: skip
MODELS = {
    "uint8": (micro.graph("classification"), (micro.SIZE, micro.SIZE, 3), SPEC),
    "float32": (mean_of_planes(), PLANES, SPEC.model_copy(update=NUMBERS)),
}


@pytest.mark.parametrize(("model", "item", "image"), MODELS.values(), ids=MODELS)
def test_a_unit_hands_large_frames_to_the_worker_and_judges_them_as_ever(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: bytes,
    item: Tuple[int, ...],
    image: InputSpec,
) -> None:
    engine, report = build(tmp_path, model, item), tmp_path / "left"
    fake_cuda.driver(tmp_path, version=13000, kernels=resize_on_cpu.kernels())
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/fakes/fake_site'}:{ROOT}")
    monkeypatch.setenv("FAKE_CUDA_REPORT", str(report))
    described = micro.manifest("classification", model, input=image.model_dump())
    manifest, options = Manifest.model_validate(described), BackendOptions(1, cpu_batches=True)
    padded = noise(1284, 720, 3)[:, :1281]
    frames = [noise(1920, 1080, 1), noise(100, 100, 2), padded, np.zeros((720, 1280, 3), np.uint8)]

    there = "tensorrt on GPU Xavier, frames from 640x480 on resized there"
    found = judged(TrtBackend(engine, manifest, options), manifest, frames, there)
    here = OrtBackend(model, manifest, options)
    assert found == judged(here, manifest, frames, "onnxruntime on CPU")
    assert report.read_text().endswith("nothing left\n")
