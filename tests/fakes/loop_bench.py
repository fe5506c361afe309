"""A loop over a TensorRT engine, on a FAKE of TensorRT over a FAKE of the CUDA driver."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import onnx
import onnxruntime as ort

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.backends.trt_loop import EngineLoop, Slot
from edge_agent.targets import BuildSpec, Profile
from tests.fakes import fake_cuda, fake_tensorrt, fake_tensorrt_runtime, micro

ITEM = (micro.SIZE, micro.SIZE, 3)
MAPS = micro.graph("anomaly_map")
OTHER = 801  # a CUresult after which the process can go on: not supported
ILLEGAL = 700  # one after which it can't

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

    def __init__(self, machine: Machine, engine: bytes, slots: int = 1, **options: Any) -> None:
        self.loop = EngineLoop(machine.trt, machine.driver, engine, **options)
        try:
            self.layout = SlotLayout(self.loop.tensors, self.loop.max_batch)
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


Make = Callable[..., Machine]


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[Make]:
    """Make machines in `folder`; afterwards nothing may be left on them."""
    made: List[Machine] = []

    def make(*arguments: Any, **options: Any) -> Machine:
        made.append(Machine(folder, *arguments, **options))
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
