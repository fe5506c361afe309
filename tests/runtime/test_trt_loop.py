"""The loop over a TensorRT engine, on a FAKE of TensorRT over a FAKE of the CUDA driver.

The driver does queued work as late and in as odd an order as its streams and events allow; what
comes out must be what onnxruntime computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_agent.errors import BackendUnavailable, GpuFailed, InferenceFailed, InvalidPackage
from edge_agent.runtime.backends import trt_loading
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.slot_layout import SlotLayout, Tensor
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.backends.trt_lane import PLAIN_RUNS
from edge_agent.runtime.backends.trt_loop import EngineLoop, FrameIn, Slot, Times
from edge_agent.runtime.backends.trt_news import listener
from edge_agent.targets import BuildSpec, Profile
from tests import micro
from tests.packaging import graphs
from tests.runtime import fake_cuda, fake_tensorrt, fake_tensorrt_runtime
from tests.runtime.fake_tensorrt import VERSIONS

ITEM = (micro.SIZE, micro.SIZE, 3)
MAPS = micro.graph("anomaly_map")
OTHER = 801  # a CUresult after which the process can go on: not supported
ILLEGAL = 700  # one after which it can't
ROOT = Path(__file__).parents[2]

Values = Dict[str, np.ndarray]
Ranges = Sequence[Tuple[int, int]]


class Machine:
    """A fake GPU, and a fake TensorRT on it."""

    def __init__(self, folder: Path, version: str = "8.5.2.2", **options: Any) -> None:
        dla_cores = options.pop("dla_cores", 0)
        self.library = fake_cuda.driver(folder, **options)
        self.trt = fake_tensorrt_runtime.add_runtime(
            fake_tensorrt.tensorrt(version, dla_cores=dla_cores), self.library
        )
        self.driver = CtypesDriver(self.library)
        self.cuda = ctypes.CDLL(self.library)
        self.is_lost = False  # left behind on purpose

    def engine(self, model: bytes = MAPS, ranges: Ranges = ((1, 1), (2, 4))) -> bytes:
        profiles = tuple(
            Profile(
                tensor="image", minimum=(low, *ITEM), optimum=(high, *ITEM), maximum=(high, *ITEM)
            )
            for low, high in ranges
        )
        spec = BuildSpec(precision="fp32", timing_cache="timing.cache", profiles=profiles)
        return EngineBuilder(self.trt).build(model, spec).engine

    def fail(self, *faults: str) -> None:
        """CALL:NTH=CODE, counted from now on."""
        self.cuda.fake_fault(",".join(faults).encode())

    def count(self, call: str) -> int:
        return int(self.cuda.fake_count(call.encode()))


class Bench:
    """A loop with slots in this process's own memory."""

    def __init__(
        self, machine: Machine, engine: bytes, slots: int = 1, frame_bytes: int = 0, **options: Any
    ) -> None:
        self.loop = EngineLoop(machine.trt, machine.driver, engine, **options)
        try:
            self.layout = SlotLayout.of(self.loop.tensors, self.loop.max_batch, frame_bytes)
            self.memories = [mmap.mmap(-1, self.layout.size) for _ in range(slots)]
            self.slots = [self.open(memory) for memory in self.memories]
        except GpuFailed:
            self.loop.close()
            raise

    def open(self, memory: mmap.mmap) -> Slot:
        return self.loop.open_slot(ctypes.addressof(ctypes.c_char.from_buffer(memory)), self.layout)

    def submit(self, batch: np.ndarray, place: int = 0) -> None:
        self.layout.view(self.memories[place], "image", len(batch))[:] = batch
        self.loop.submit(self.slots[place], len(batch))

    def results(self, count: int, place: int = 0) -> Values:
        outputs = [tensor.name for tensor in self.loop.tensors if not tensor.is_input]
        memory = self.memories[place]
        return {name: self.layout.view(memory, name, count).copy() for name in outputs}

    def run(self, batch: np.ndarray, place: int = 0) -> Values:
        self.submit(batch, place)
        self.loop.wait(self.slots[place])
        return self.results(len(batch), place)


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    made: List[Machine] = []

    def make(*arguments: Any, **options: Any) -> Machine:
        made.append(Machine(tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.fail()
    gc.collect()
    faults, fake_tensorrt_runtime.faults[:] = fake_tensorrt_runtime.faults[:], []
    if not any(one.is_lost for one in made):
        assert [fake_cuda.left_words(one.library) for one in made] == [""] * len(made)
        assert faults == []
    assert set(fake_tensorrt_runtime.alive.values()) == {0}


@contextlib.contextmanager
def bench(machine: Machine, engine: bytes = b"", **options: Any) -> Iterator[Bench]:
    with machine.driver.context():
        opened = Bench(machine, engine or machine.engine(), **options)
        try:
            yield opened
        finally:
            if not machine.is_lost:
                opened.loop.close()


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *ITEM), np.uint8)


def expected(batch: np.ndarray, model: bytes = MAPS) -> Values:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": batch})))


def is_equal(found: Values, wanted: Values) -> bool:
    return found.keys() == wanted.keys() and all(
        np.allclose(found[name], wanted[name], rtol=0, atol=1e-6) for name in wanted
    )


def check(found: Values, batch: np.ndarray, model: bytes = MAPS) -> None:
    assert is_equal(found, expected(batch, model))


def fixed(batch: int) -> bytes:
    model = onnx.load_model_from_string(MAPS)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    return bytes(model.SerializeToString())


# Results


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_every_tail_of_a_batch_is_what_onnxruntime_computes(
    machine: Callable[..., Machine], version: str, task: str
) -> None:
    gpu, model = machine(version), micro.graph(task)

    with bench(gpu, gpu.engine(model, ((1, 1), (2, 4), (5, 8)))) as opened:
        for count in (*range(1, 9), *range(8, 0, -1)):
            batch = pictures(count, count)
            check(opened.run(batch), batch, model)


@pytest.mark.parametrize("order", ["needed", "early", *(f"random:{seed}" for seed in range(6))])
@pytest.mark.parametrize("is_integrated", [0, 1])
def test_slots_in_flight_keep_their_batches_apart(
    machine: Callable[..., Machine], order: str, is_integrated: int
) -> None:
    """Submitted on one thread, waited for on another, in the order of submission."""
    gpu, chance = machine(order=order, integrated=is_integrated), random.Random(order)
    flying: Queue[Any] = Queue()
    free: Queue[int] = Queue()
    wrong: List[int] = []

    def receive() -> None:
        with gpu.driver.context():
            for place, batch in iter(flying.get, None):
                opened.loop.wait(opened.slots[place])
                if not is_equal(opened.results(len(batch), place), expected(batch)):
                    wrong.append(len(batch))
                free.put(place)

    with bench(gpu, slots=3) as opened:
        for place in range(3):
            free.put(place)
        receiver = threading.Thread(target=receive)
        receiver.start()
        for number in range(40):
            batch = pictures(chance.choice((1, 2, 3, 4, 4, 4, 4)), number)
            place = free.get(timeout=30)
            opened.submit(batch, place)
            flying.put((place, batch))
        flying.put(None)
        receiver.join(60)

    assert not receiver.is_alive()
    assert wrong == []


@pytest.mark.parametrize("left_out", [0, 1])
def test_the_fake_gpu_shows_a_forgotten_wait(
    machine: Callable[..., Machine], left_out: int
) -> None:
    """Without it no test of this file could find one."""

    class Forgetful(CtypesDriver):
        waits = 0

        def wait(self, stream: int, event: int) -> None:
            self.waits += 1
            if self.waits % 2 != left_out:
                super().wait(stream, event)

        def elapsed_ms(self, begin: int, end: int) -> float:
            return 0.0  # what isn't waited for may not have begun

    gpu = machine()
    gpu.driver = Forgetful(gpu.library)

    with bench(gpu, slots=3) as opened:
        batches = [pictures(4, number) for number in range(3)]
        for place, batch in enumerate(batches):
            opened.submit(batch, place)
        for slot in opened.slots:
            opened.loop.wait(slot)
        right = [is_equal(opened.results(4, place), expected(batches[place])) for place in range(3)]

    assert not all(right)


# Profiles and batches


def test_an_engine_of_one_batch_is_filled_up(machine: Callable[..., Machine]) -> None:
    gpu = machine()

    with bench(gpu, gpu.engine(fixed(4))) as opened:
        assert (opened.loop.smallest, opened.loop.max_batch) == (4, 4)
        for count in (4, 1, 3):
            batch = pictures(count, count)
            check(opened.run(batch), batch)
        assert not opened.layout.view(opened.memories[0], "image", 4)[3].any()


@pytest.mark.parametrize(
    ("ranges", "computed"),
    [
        (((1, 1), (2, 4), (5, 8)), [1, 2, 3, 4, 5, 6, 7, 8]),
        (((6, 8), (2, 3)), [2, 2, 3, 6, 6, 6, 7, 8]),
        (((3, 3), (1, 8)), [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_a_batch_takes_the_profile_that_computes_the_fewest_items(
    machine: Callable[..., Machine], ranges: Ranges, computed: List[int]
) -> None:
    gpu = machine()
    shapes: List[int] = []
    execute = gpu.trt.IExecutionContext.execute_async_v3

    def watched(context: Any, stream: int) -> bool:
        shapes.append(context.get_tensor_shape("image")[0])
        return bool(execute(context, stream))

    gpu.trt.IExecutionContext.execute_async_v3 = watched
    with bench(gpu, gpu.engine(ranges=ranges)) as opened:
        assert (opened.loop.smallest, opened.loop.max_batch) == (computed[0], 8)
        for count in range(1, 9):
            batch = pictures(count, count)
            check(opened.run(batch), batch)

    assert shapes == computed


@pytest.mark.parametrize("version", VERSIONS)
def test_each_profile_has_a_context_that_stays_on_it(
    machine: Callable[..., Machine], version: str
) -> None:
    gpu = machine(version)

    with bench(gpu, gpu.engine(ranges=((1, 1), (2, 4), (5, 8)))) as opened:
        assert fake_tensorrt_runtime.alive == {"runtime": 1, "engine": 1, "context": 3}
        gpu.trt.IExecutionContext.set_optimization_profile_async = None
        for count in (8, 1, 4, 8):
            batch = pictures(count)
            check(opened.run(batch), batch)


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_that_does_not_fit_is_refused(machine: Callable[..., Machine], count: int) -> None:
    gpu = machine()

    with bench(gpu) as opened, pytest.raises(
        InferenceFailed, match=f"got a batch of {count}; expected 1 to 4"
    ):
        opened.loop.submit(opened.slots[0], count)


def test_the_engine_names_its_tensors_and_the_gpu(machine: Callable[..., Machine]) -> None:
    with bench(machine(name="Orin", capability=(8, 7))) as opened:
        assert opened.loop.tensors == (
            Tensor("image", ITEM, "uint8", True),
            Tensor("score", (), "float32", False),
            Tensor("map", (1, 32, 32), "float32", False),
        )
        assert opened.loop.device == "GPU Orin"
        assert opened.loop.remarks == []


# What happens on the GPU


def test_shared_memory_is_used_where_it_is(machine: Callable[..., Machine]) -> None:
    gpu = machine(integrated=1)

    with bench(gpu) as opened:
        for count in (1, 4, 4, 3):
            batch = pictures(count)
            check(opened.run(batch), batch)
        weights_and_contexts = 3
        assert gpu.count("cuMemAlloc") == weights_and_contexts
        assert gpu.count("cuMemcpyHtoDAsync") == gpu.count("cuMemcpyDtoHAsync") == 0
        assert gpu.count("cuStreamCreate") == 1


def test_neighbours_are_copied_while_a_batch_is_computed(machine: Callable[..., Machine]) -> None:
    """What computes is held; the batch before still comes out, the one after still goes in."""
    gpu = machine()

    with bench(gpu, slots=2) as opened:
        before, after = pictures(4, 0), pictures(4, 1)
        opened.submit(before, 0)
        gpu.cuda.fake_hold(ctypes.c_void_p(opened.loop._compute))
        opened.submit(after, 1)

        opened.loop.wait(opened.slots[0])
        gpu.driver.synchronize(opened.slots[1]._events["arrived"])
        check(opened.results(4, 0), before)

        gpu.cuda.fake_let_go()
        opened.loop.wait(opened.slots[1])
        check(opened.results(4, 1), after)


def test_only_the_items_of_a_batch_are_copied(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    sizes: List[int] = []

    class Watched(CtypesDriver):
        def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
            sizes.append(size)
            super().copy_in(device, host, size, stream)

        def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
            sizes.append(size)
            super().copy_out(host, device, size, stream)

    gpu.driver = Watched(gpu.library)
    with bench(gpu) as opened:
        opened.run(pictures(3))

    assert sizes == [3 * 64 * 64 * 3, 3 * 4, 3 * 32 * 32 * 4]


@pytest.mark.parametrize("is_integrated", [0, 1])
def test_memory_that_cannot_be_pinned_is_copied_with_a_remark(
    machine: Callable[..., Machine], is_integrated: int
) -> None:
    gpu = machine(integrated=is_integrated)
    gpu.fail(f"cuMemHostRegister:0={OTHER}")

    with bench(gpu, slots=2) as opened:
        (remark,) = opened.loop.remarks
        assert remark.startswith("Batches are copied slowly, from memory that isn't pinned: The ")
        assert "cuMemHostRegister" in remark
        for place in (0, 1, 0):
            batch = pictures(4, place)
            check(opened.run(batch, place), batch)


def test_a_batch_says_how_long_each_step_took(machine: Callable[..., Machine]) -> None:
    """The fake clock goes on by 0.5 ms with each copy and each run."""
    with bench(machine()) as opened:
        opened.submit(pictures(2))
        assert opened.loop.wait(opened.slots[0]) == Times(0.5, 0.5, 1.0)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_that_stays_is_replayed_as_a_graph(
    machine: Callable[..., Machine], version: str
) -> None:
    """Each slot has a graph of its own; the first runs of a batch are plain ones."""
    gpu = machine(version)

    with bench(gpu, slots=2) as opened:
        for number in range(9):
            batch = pictures(4, number)
            check(opened.run(batch, number % 2), batch)
        assert gpu.count("cuGraphLaunch") == 9 - PLAIN_RUNS
        assert gpu.count("cuGraphInstantiate") == 2
        assert opened.loop.remarks == []


def test_a_graph_is_not_replayed_after_another_batch(machine: Callable[..., Machine]) -> None:
    """That is undefined; the fake gives garbage then."""
    gpu = machine()

    with bench(gpu, slots=2) as opened:
        for number, count in enumerate((4, 4, 4, 4, 4, 3, 4, 4, 3, 3, 3, 3, 4, 4, 4, 4, 4)):
            batch = pictures(count, number)
            check(opened.run(batch, number % 2), batch)
        assert gpu.count("cuGraphLaunch") == 2 + 1 + 2


def test_the_only_batch_of_a_profile_keeps_its_graphs(machine: Callable[..., Machine]) -> None:
    gpu = machine()

    with bench(gpu) as opened:
        for number, count in enumerate((1, 1, 4, 1, 3, 1, 2, 1)):
            batch = pictures(count, number)
            check(opened.run(batch), batch)
        assert gpu.count("cuGraphLaunch") == 5 - PLAIN_RUNS
        assert gpu.count("cuGraphInstantiate") == 1


def test_a_graph_that_is_not_used_any_more_is_given_back(machine: Callable[..., Machine]) -> None:
    gpu = machine()

    with bench(gpu) as opened:
        for count in (4, 3, 2):
            for _ in range(PLAIN_RUNS + 1):
                opened.run(pictures(count))
        assert "1 instantiated graph(s)" in fake_cuda.left_words(gpu.library)


REFUSED = "TensorRT refuses the run: "


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("loop", REFUSED + "operation not permitted when stream is capturing"),
        ("spoilt", REFUSED + "error 901"),
        (f"cuStreamBeginCapture:1={OTHER}", "cuStreamBeginCapture failed, operation not supp"),
        (f"cuGraphInstantiate:1={OTHER}", "cuGraphInstantiate failed, operation not supported"),
        ("cuGraphLaunch:1=2", "cuGraphLaunch failed, out of memory"),
    ],
)
def test_without_graphs_batches_are_computed_all_the_same(
    machine: Callable[..., Machine], fault: str, reason: str
) -> None:
    gpu, model = machine(), micro.graph("classification")

    class Spoiling(CtypesDriver):
        def begin_capture(self, stream: int) -> None:
            super().begin_capture(stream)
            gpu.cuda.cuCtxSynchronize()  # isn't allowed now

    if fault == "loop":
        model = micro.hanging()
    if fault == "spoilt":
        gpu.driver = Spoiling(gpu.library)

    with bench(gpu, gpu.engine(model)) as opened:
        gpu.fail(fault)
        for number in range(PLAIN_RUNS + 3):
            batch = pictures(4, number)
            batch[..., 2] = 0  # with blue it hangs
            check(opened.run(batch), batch, model)
        assert gpu.count("cuGraphLaunch") == ("cuGraphLaunch" in fault)
        assert gpu.count("cuStreamBeginCapture") == 1
        (remark,) = opened.loop.remarks
        assert remark.startswith("CUDA graphs aren't used: ")
        assert reason in remark


# Whole frames


class Filling:
    """A resizer that makes items of the frame's first pixel, as work of the stream."""

    def __init__(self, gpu: Machine) -> None:
        self._gpu, self._kept = gpu, []  # type: Tuple[Machine, List[Any]]

    def launch(self, source: int, width: int, height: int, target: int, stream: int) -> None:
        def fill(_: Any) -> None:
            content = ctypes.string_at(source, width * height * 3)
            ctypes.memmove(target, content[-3:] * (ITEM[0] * ITEM[1]), ITEM[0] * ITEM[1] * 3)

        assert self._gpu.cuda.fake_is_device(ctypes.c_uint64(target), ITEM[0] * ITEM[1] * 3)
        call = fake_tensorrt_runtime.JOB(fill)
        self._kept.append(call)
        self._gpu.cuda.fake_enqueue(ctypes.c_void_p(stream), call, None)


@pytest.mark.parametrize("is_integrated", [0, 1])
@pytest.mark.parametrize("order", ["needed", "early", "random:1"])
def test_items_are_made_of_whole_frames(
    machine: Callable[..., Machine], is_integrated: int, order: str
) -> None:
    gpu, size = machine(integrated=is_integrated, order=order), (100, 80)

    with bench(gpu, frame_bytes=100 * 80 * 3, resizer=Filling(gpu)) as opened:
        memory = opened.memories[0]
        for number, framed in enumerate(((), (1,), (0, 1, 2), (2, 0), ())):
            batch = pictures(3, number)
            opened.layout.view(memory, "image", 3)[:] = batch
            for index in framed:
                batch[index] = (number, 40 * index, 7)
                opened.layout.frame(memory, index, *size)[:] = batch[index, 0, 0]
            frames = [FrameIn(index, *size) for index in framed]
            opened.loop.submit(opened.slots[0], 3, frames)
            opened.loop.wait(opened.slots[0])

            check(opened.results(3), batch)
            assert np.array_equal(opened.layout.view(memory, "image", 3), batch)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (FrameIn(3, 10, 10), "Frame 3 isn't in a batch of 3"),
        (FrameIn(0, 100, 101), "100x101 pixels has 30300 bytes; the slot has room for 30000"),
        (FrameIn(0, 100, 100), "Whole frames can't be computed here"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(
    machine: Callable[..., Machine], frame: FrameIn, reason: str
) -> None:
    gpu = machine()

    with bench(gpu, frame_bytes=30000) as opened:
        with pytest.raises(InferenceFailed, match=reason):
            opened.loop.submit(opened.slots[0], 3, [frame])
        batch = pictures(3)
        check(opened.run(batch), batch)


# What goes wrong


def changed(engine: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(engine), **changes}).encode()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (
            {"version": "9.9.9"},
            BackendUnavailable,
            r"another TensorRT than this {}\. Build it anew",
        ),
        ({"capability": "8.7"}, BackendUnavailable, r"built on another GPU\. Build it anew here"),
    ],
)
def test_an_engine_for_another_machine_is_a_sentence(
    machine: Callable[..., Machine], version: str, change: Any, error: Any, reason: str
) -> None:
    gpu = machine(version)

    with pytest.raises(error, match=reason.format(version)), bench(
        gpu, changed(gpu.engine(), **change)
    ):
        pass


@pytest.mark.parametrize("content", [b"x" * 1000, b"{"])
def test_a_damaged_engine_is_a_sentence(machine: Callable[..., Machine], content: bytes) -> None:
    gpu = machine()

    with pytest.raises(
        InvalidPackage, match=r"The engine is damaged or no engine\. Build it anew"
    ), bench(gpu, content):
        pass


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file "
            "is not compatible with this version of TensorRT, expecting library version 10.3.0.26 "
            "got 10.0.1.6, please rebuild.)",
            "The engine was built by another TensorRT than this 10.3.0. Build it anew here (The",
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
    machine: Callable[..., Machine], told: str, reason: str
) -> None:
    gpu = machine("10.3.0")

    def refuse(runtime: Any, content: bytes) -> None:
        if told:
            runtime._error(told)

    gpu.trt.Runtime.deserialize_cuda_engine = refuse
    with pytest.raises(BackendUnavailable) as caught, bench(gpu):
        pass
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("nth", "reason"),
    [
        (1, "TensorRT 8.5.2.2 can't load the engine: out of memory"),
        (2, "TensorRT 8.5.2.2 can't make the engine ready to compute: no further. If the GPU's"),
        (3, "TensorRT 8.5.2.2 can't make the engine ready to compute: no further. If the GPU's"),
    ],
)
def test_no_room_for_the_engine_is_a_sentence(
    machine: Callable[..., Machine], nth: int, reason: str
) -> None:
    gpu = machine()
    engine = gpu.engine()
    gpu.fail(f"cuMemAlloc:{nth}=2")

    with pytest.raises(BackendUnavailable) as caught, bench(gpu, engine):
        pass
    assert str(caught.value).startswith(reason)


def test_without_a_driver_for_it_tensorrt_says_so(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    engine = gpu.engine()
    gpu.trt._has_driver = False

    with pytest.raises(
        BackendUnavailable, match=r"can't work on this machine: CUDA init.*error: 35"
    ), bench(gpu, engine):
        pass


def test_a_dla_core_is_chosen_for_the_engine(machine: Callable[..., Machine]) -> None:
    gpu = machine(dla_cores=2)

    with bench(gpu, dla_core=1) as opened:
        assert opened.loop._runtime.DLA_core == 1
        assert opened.loop.device == "GPU Xavier, DLA core 1"


def test_a_dla_core_that_is_not_there_is_a_sentence(machine: Callable[..., Machine]) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"There is no DLA core 0; this GPU has 0 of them"
    ), bench(machine(), dla_core=0):
        pass


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_code_for_the_cpu_in_an_engine_stays_refused(
    machine: Callable[..., Machine], version: str
) -> None:
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
def test_an_engine_that_cannot_be_served_is_refused(
    machine: Callable[..., Machine], kind: str, reason: str
) -> None:
    gpu = machine("10.3.0")

    with pytest.raises(InvalidPackage, match=reason), bench(gpu, gpu.engine(odd(kind))):
        pass


def test_an_input_that_is_a_shape_is_refused(machine: Callable[..., Machine]) -> None:
    gpu = machine()

    with pytest.raises(InvalidPackage, match="wants 'image' in the CPU's memory"), bench(
        gpu, changed(gpu.engine(), host=["image"])
    ):
        pass


def test_profiles_for_items_of_several_sizes_are_refused(machine: Callable[..., Machine]) -> None:
    gpu = machine()
    wide = [[1, 64, 128, 3], [1, 64, 128, 3], [1, 64, 128, 3]]
    profiles = json.loads(gpu.engine())["profiles"]

    with pytest.raises(
        InvalidPackage, match=r"takes \(64, 64, 3\) or \(64, 128, 3\); it must be"
    ), bench(gpu, changed(gpu.engine(), profiles=[*profiles, {"image": wide}])):
        pass


def test_a_slot_takes_one_batch_at_a_time(machine: Callable[..., Machine]) -> None:
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
def test_nothing_is_left_when_a_call_fails_at_opening(
    machine: Callable[..., Machine], call: str
) -> None:
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
    machine: Callable[..., Machine], call: str, is_plain: bool
) -> None:
    """Each call of a run fails once; the neighbour in flight and the batch after it are right."""
    gpu = machine()
    failed = 0

    with bench(gpu, slots=2) as opened:
        for nth in range(1, 12):
            if not is_plain:
                for place in range(PLAIN_RUNS + 2):
                    opened.run(pictures(4), place % 2)
            neighbour = pictures(4, 100 + nth)
            opened.submit(neighbour, 1)
            gpu.fail(f"{call}:{nth}={OTHER}")
            try:
                opened.run(pictures(3 if is_plain else 4, nth))
            except InferenceFailed:
                failed += 1
            gpu.fail()
            opened.loop.wait(opened.slots[1])
            check(opened.results(4, 1), neighbour)
            batch = pictures(4, nth)
            check(opened.run(batch), batch)

    assert failed > 0 or (call, is_plain) == ("fake_enqueue", False)


@pytest.mark.parametrize("call", [*RUNNING, "cuGraphLaunch"])
def test_a_lost_gpu_is_told_whatever_call_meets_it(
    machine: Callable[..., Machine], call: str
) -> None:
    gpu = machine()
    gpu.is_lost = True

    with bench(gpu) as opened:
        for _ in range(PLAIN_RUNS):
            opened.run(pictures(4))
        gpu.fail(f"{call}:1={ILLEGAL}")
        with pytest.raises(GpuFailed) as caught:
            opened.run(pictures(4))
        assert caught.value.is_sticky
        assert caught.value.code == ILLEGAL
        opened.loop._unload()


def test_a_run_that_tensorrt_refuses_is_a_sentence(machine: Callable[..., Machine]) -> None:
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


def test_a_slot_can_be_closed_while_others_go_on(machine: Callable[..., Machine]) -> None:
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
    machine: Callable[..., Machine], is_integrated: int
) -> None:
    gpu = machine(integrated=is_integrated)

    with bench(gpu, slots=3) as opened:
        for place in range(3):
            opened.submit(pictures(4, place), place)
        opened.loop.close_slot(opened.slots[0])
        opened.loop.wait(opened.slots[1])
        check(opened.results(4, 1), pictures(4, 1))


# The fake itself


@contextlib.contextmanager
def contexts(gpu: Machine, count: int = 1) -> Iterator[Tuple[Any, List[Any]]]:
    """The listener, and so many execution contexts."""
    news = listener(gpu.trt)
    with gpu.driver.context():
        engine = gpu.trt.Runtime(news).deserialize_cuda_engine(gpu.engine())
        yield news, [engine.create_execution_context() for _ in range(count)]
        del engine
        gc.collect()


def ready(context: Any) -> Any:
    context.set_optimization_profile_async(1, 0)
    context.set_input_shape("image", (2, *ITEM))
    for name in ("image", "score", "map"):
        context.set_tensor_address(name, 4096)
    return context


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda one: one.set_input_shape("image", (5, *ITEM)), "maximum dimension in profile is 4"),
        (lambda one: one.set_input_shape("image", (1, *ITEM)), "minimum dimension in profile is 2"),
        (lambda one: one.set_input_shape("image", (2, 9, 9, 3)), "exceed min ~ max range at ind"),
        (lambda one: one.set_input_shape("picture", (2, *ITEM)), "picture is no input"),
        (lambda one: one.set_tensor_address("picture", 1), "picture is no tensor"),
        (lambda one: one.set_optimization_profile_async(2, 0), "profile index is out of range"),
        (
            lambda one: one.set_tensor_address("map", 0) and one.execute_async_v3(0),
            "Address is not set for output tensor map",
        ),
        (
            lambda one: one.set_optimization_profile_async(0, 0) and one.execute_async_v3(0),
            "the shape of image isn't set",
        ),
        (lambda one: one.execute_async_v3(12345), "error 400"),
    ],
)
def test_the_fake_refuses_what_tensorrt_refuses(
    machine: Callable[..., Machine], spoil: Callable[[Any], bool], reason: str
) -> None:
    with contexts(machine()) as (news, made):
        assert not spoil(ready(made[0]))
        assert reason in news.errors[-1]
        made.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_before_10_a_profile_belongs_to_one_context(
    machine: Callable[..., Machine], version: str
) -> None:
    with contexts(machine(version), 2) as (news, made):
        is_shared = version.startswith("1")
        assert made[1].set_optimization_profile_async(0, 0) == is_shared
        assert ("Profile 0 has been chosen" in str(news.errors)) != is_shared
        assert made[1].set_optimization_profile_async(1, 0)
        made.clear()


def test_the_fake_needs_a_current_context(machine: Callable[..., Machine]) -> None:
    gpu = machine()

    with contexts(gpu) as (news, made):
        ready(made[0])
        gpu.cuda.cuCtxPopCurrent_v2(None)
        assert not made[0].execute_async_v3(0)
        assert "no context of CUDA is current" in news.errors[-1]
        with pytest.raises(TypeError, match="returned nullptr"):
            gpu.trt.Runtime(news)
        gpu.cuda.cuCtxPushCurrent_v2(retained(gpu))
        made.clear()


def retained(gpu: Machine) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    gpu.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    gpu.cuda.cuDevicePrimaryCtxRelease_v2(0)
    return context


@pytest.mark.parametrize(
    ("version", "kind", "missing"),
    [
        ("8.5.2.2", "Runtime", "engine_host_code_allowed"),
        ("8.5.2.2", "ICudaEngine", "device_memory_size_v2"),
        ("10.16.1", "IExecutionContext", "execute_async_v2"),
        ("11.4.0", "ICudaEngine", "device_memory_size"),
        ("11.4.0", "ICudaEngine", "num_bindings"),
    ],
)
def test_a_call_that_a_version_lacks_is_not_there(
    machine: Callable[..., Machine], version: str, kind: str, missing: str
) -> None:
    gpu = machine(version)

    assert not hasattr(getattr(gpu.trt, kind), missing)
    with gpu.driver.context():
        runtime = gpu.trt.Runtime(listener(gpu.trt))
        with pytest.raises(AttributeError, match=f"TensorRT {version} has no moon"):
            runtime.moon = True
        del runtime


# Other processes


CHILD = """
import ctypes, mmap, sys
import tensorrt
from edge_agent.runtime.backends.cuda.driver import open_driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_lane import PLAIN_RUNS
from edge_agent.runtime.backends.trt_loop import EngineLoop

driver = open_driver(sys.argv[1])
with driver.context():
    loop = EngineLoop(tensorrt, driver, sys.stdin.buffer.read(), dla_core=0)
    layout = SlotLayout.of(loop.tensors, loop.max_batch)
    memory = mmap.mmap(-1, layout.size)
    layout.view(memory, "image", 2)[1] = 255
    slot = loop.open_slot(ctypes.addressof(ctypes.c_char.from_buffer(memory)), layout)
    loop.submit(slot, 2)
    loop.wait(slot)
    print(tensorrt.__version__, layout.view(memory, "score", 2).tolist())
    loop.close()
"""


@pytest.mark.parametrize(
    ("version", "package"),
    [*((version, "libcuda") for version in VERSIONS), ("8.5.2.2", "cuda-bindings")],
)
def test_a_child_process_finds_the_fakes(
    machine: Callable[..., Machine], tmp_path: Path, version: str, package: str
) -> None:
    if package == "cuda-bindings":
        pytest.importorskip("cuda", reason="cuda-bindings isn't installed here")
    gpu, report = machine(version), tmp_path / "left"
    places = [str(Path(__file__).parent / "fake_site"), str(ROOT)]
    settings = {
        "PYTHONPATH": os.pathsep.join(places), "LD_LIBRARY_PATH": str(tmp_path),
        "FAKE_TENSORRT": version, "FAKE_TENSORRT_DLA": "1", "FAKE_CUDA_REPORT": str(report),
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", CHILD, package],
        input=gpu.engine(), env={**os.environ, **settings}, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert done.stderr.decode() == ""
    assert done.stdout.decode().strip() == f"{version} [0.0, 1.0]"
    assert report.read_text().endswith("nothing left\n")


# The memory of a slot


def test_areas_begin_on_pages_and_hold_all_items() -> None:
    tensors = (Tensor("image", ITEM, "uint8", True), Tensor("score", (), "float32", False))
    layout = SlotLayout.of(tensors, 3, frame_bytes=5000)

    assert layout.offset("image") == 0
    assert layout.offset("score") == 9 * 4096  # 3 * 64 * 64 * 3 bytes
    assert layout.frames_offset == 10 * 4096
    assert layout.size == 14 * 4096
    memory = bytearray(layout.size)
    layout.view(memory, "score", 3)[:] = (1, 2, 3)
    layout.frame(memory, 1, 10, 20)[19, 9] = 7
    assert layout.view(memory, "score", 2).tolist() == [1, 2]
    assert memory[10 * 4096 + 5000 + 599] == 7


def test_a_tensor_survives_json() -> None:
    tensor = Tensor("image", ITEM, "uint8", True)

    assert Tensor.from_json(json.loads(json.dumps(tensor.to_json()))) == tensor


# The real ones


def calls_of(module: Any) -> List[str]:
    kinds = ("Runtime", "ICudaEngine", "IExecutionContext", "TensorIOMode", "TensorLocation")
    return [
        f"{kind}.{name}"
        for kind in kinds
        for base in (getattr(module, kind), *getattr(module, kind).__mro__[1:2])
        for name in vars(base)
        if not name.startswith("_")
    ]


def real() -> Any:
    try:
        import tensorrt
    except ImportError:
        return pytest.importorskip("tensorrt_rtx", reason="no TensorRT is installed here")
    return tensorrt


def test_every_call_of_the_fake_exists_in_the_real_one(machine: Callable[..., Machine]) -> None:
    module = real()
    newest = module.__name__ == "tensorrt_rtx"
    gpu = machine("11.4.0" if newest else "8.5.2.2")

    for path in calls_of(gpu.trt):
        kind, _, name = path.partition(".")
        assert hasattr(getattr(module, kind), name), path


# Its timing cache does nothing, and says so.
@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
def test_the_real_one_calls_a_cut_engine_damaged() -> None:
    """A builder was there before; TensorRT goes on telling its listener."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed here")
    one = Profile(tensor="image", minimum=(1, *ITEM), optimum=(1, *ITEM), maximum=(1, *ITEM))
    spec = BuildSpec(
        precision="fp32",
        timing_cache="timing.cache",
        profiles=(one,),
    )
    engine = EngineBuilder(trt).build(MAPS, spec).engine
    news = listener(trt)
    runtime = trt_loading.runtime(trt, news, None)

    for content in (engine[: len(engine) // 2], b"x" * 1000, b""):
        with pytest.raises(InvalidPackage, match=r"The engine is damaged or no engine\. Build it"):
            trt_loading.engine(trt, news, runtime, content)
