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
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_agent.errors import BackendUnavailable, GpuFailed, InferenceFailed, InvalidPackage
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.slot_layout import SlotLayout, Tensor
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.backends.trt_loop import EngineLoop, FrameIn, Slot, Times
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
        return self.loop.open_slot(
            ctypes.addressof(ctypes.c_char.from_buffer(memory)), self.layout
        )

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


@pytest.mark.parametrize("order", ["needed", "early"])
@pytest.mark.parametrize("left_out", [0, 1])
def test_the_fake_gpu_shows_a_forgotten_wait(
    machine: Callable[..., Machine], order: str, left_out: int
) -> None:
    """Without it no test of this file could find one."""

    class Forgetful(CtypesDriver):
        waits = 0

        def wait(self, stream: int, event: int) -> None:
            self.waits += 1
            if self.waits % 2 != left_out:
                super().wait(stream, event)

    gpu = machine(order=order)
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


def test_small_batches_and_gaps_take_the_next_larger_profile(
    machine: Callable[..., Machine],
) -> None:
    gpu = machine()
    shapes: List[int] = []

    with bench(gpu, gpu.engine(ranges=((6, 8), (2, 3)))) as opened:
        assert (opened.loop.smallest, opened.loop.max_batch) == (2, 8)
        context = gpu.trt.IExecutionContext
        original = context.set_input_shape
        context.set_input_shape = lambda self, name, shape: (
            shapes.append(shape[0]) or original(self, name, shape)
        )
        for count in (1, 2, 3, 4, 5, 6, 7, 8):
            batch = pictures(count, count)
            check(opened.run(batch), batch)

    assert shapes == [2, 3, 6, 7, 8]


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
def test_a_batch_that_does_not_fit_is_refused(
    machine: Callable[..., Machine], count: int
) -> None:
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
