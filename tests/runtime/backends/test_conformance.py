"""What every engine must do, on each. TensorRT and the GPU are FAKES: see engine_bench.py."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from edge_agent.errors import EdgeAgentError, InferenceFailed, InvalidPackage, ModelError
from edge_agent.runtime.backends import trt
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Frame
from tests.conftest import children
from tests.fakes import micro
from tests.fakes.engine_bench import (
    ENGINES,
    ITEM,
    LARGEST,
    MAPS,
    TENSORRT,
    Bench,
    check,
    pictures,
)
from tests.packaging.graphs import described

SOME = (*ENGINES[:2], TENSORRT[0], TENSORRT[-1])  # the oldest TensorRT and the newest
FEW = SOME[:3]  # for what TensorRT's version has no part in


def on(engines: Any) -> Any:
    return pytest.mark.parametrize("engine", engines)


@pytest.fixture(name="bench")
def _bench(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    gc.collect()  # errors keep what the frames that they came through refer to
    before = held()
    made = Bench(engine, tmp_path, monkeypatch)
    yield made
    made.close()
    gc.collect()
    assert held() == before
    assert set(made.left) <= {"nothing left"}


def held() -> List[str]:
    """Processes, memory of slots, and descriptors, save those of libraries."""
    kinds = "socket:", "pipe:", "/memfd:edge-agent", "/tmp"
    maps = Path("/proc/self/maps").read_text().splitlines()
    slots = [line for line in maps if "memfd:edge-agent-slot" in line]
    found = [os.readlink(entry) for entry in entries()]
    return sorted(
        [*children("_worker"), *slots, *(each for each in found if each.startswith(kinds))]
    )


def entries() -> List[Path]:
    return [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@on(ENGINES)
@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_every_tail_of_a_batch_is_what_onnxruntime_computes(bench: Bench, task: str) -> None:
    model = micro.graph(task)
    backend = bench.open(model, task)
    assert backend.max_batch == LARGEST
    assert backend.failure == ""
    for count in (1, 2, 3, 4, 4, 3, 1, 1):
        batch = pictures(count, seed=count)
        check(backend.run(batch), model, batch)


@on(SOME)
def test_a_batch_in_the_slots_is_taken_from_there(bench: Bench) -> None:
    backend = bench.open()
    slots = backend.slots()
    assert slots.shape == (LARGEST, *ITEM)
    assert slots.dtype == np.uint8
    for turn in range(3):
        slots[:] = pictures(LARGEST, seed=turn)
        kept = slots.copy()
        for count in (LARGEST, 2):
            check(backend.run(slots[:count]), MAPS, kept[:count])
        assert np.array_equal(slots, kept)
        batch = pictures(2, seed=99)
        check(backend.run(batch), MAPS, batch)  # from elsewhere
        check(backend.run(batch[::-1]), MAPS, batch[::-1])  # not contiguous
        batch = slots[::2].copy()
        check(backend.run(slots[::2]), MAPS, batch)  # at their begin, but not contiguous
        batch = slots[1:3].copy()
        check(backend.run(slots[1:3]), MAPS, batch)  # in the slots, but not at their begin


@on(SOME)
def test_several_of_one_model_compute_at_the_same_time(bench: Bench) -> None:
    first = bench.open()
    ring = [first, *(bench.another(first) for _ in range(2))]
    gate = threading.Barrier(len(ring))

    def work(place: int) -> None:
        gate.wait()
        slots = ring[place].slots()
        for turn in range(12):
            count = 1 + (turn + place) % LARGEST
            slots[:count] = batch = pictures(count, seed=100 * place + turn)
            check(ring[place].run(slots[:count]), MAPS, batch)

    with ThreadPoolExecutor(len(ring)) as pool:
        list(pool.map(work, range(len(ring))))


@on(FEW)
def test_a_result_stays_until_the_same_instance_runs_again(bench: Bench) -> None:
    first = bench.open()
    second = bench.another(first)
    batch, other = pictures(3, seed=1), pictures(3, seed=2)
    found = first.run(batch)
    second.run(other)
    check(found, MAPS, batch)
    bench.close()
    check(found, MAPS, batch)


@on(FEW)
def test_a_wrong_batch_is_refused_and_the_next_computed(bench: Bench) -> None:
    backend = bench.open()
    batch = pictures(LARGEST)
    for wrong in (
        batch[:0],
        pictures(LARGEST + 1),
        batch.astype(np.float32),
        batch[:, :32],
        batch.reshape(LARGEST, -1),
    ):
        with pytest.raises(InferenceFailed):
            backend.run(wrong)
        check(backend.run(batch), MAPS, batch)


@on(FEW)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input": {"tensor": "picture", "height": 64, "width": 64}}, "manifest names 'picture'"),
        ({"input": {"tensor": "image", "height": 32, "width": 64}}, "has shape"),
        ({"outputs": {"score": "score", "map": "heat"}}, "no output heat"),
    ],
)
def test_a_graph_that_isnt_the_manifests_is_refused(
    bench: Bench, change: Dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidPackage, match=sentence):
        bench.open(**change)


@on(SOME)
def test_rubbish_is_refused_in_a_sentence(bench: Bench) -> None:
    with pytest.raises(ModelError, match=r"\.$"):
        bench.serve(b"rubbish", described(MAPS, "anomaly_map"))


@on(SOME)
def test_a_hung_run_ends_when_it_is_interrupted(bench: Bench) -> None:
    model = micro.hanging()
    backend = bench.open(model, "classification")
    batch = np.zeros((1, *ITEM), np.uint8)
    backend.run(batch)
    began = threading.Event()

    def hang() -> None:
        began.set()
        backend.run(batch + np.uint8(255))

    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(hang)
        began.wait()
        while not hung.done():  # an interruption that comes before the run ends the run as well
            backend.interrupt()
        assert isinstance(hung.exception(), EdgeAgentError)


@on(FEW)
def test_a_whole_frame_becomes_what_the_cpu_makes_of_it_or_is_refused(bench: Bench) -> None:
    backend = bench.open()
    spec = described(MAPS, "anomaly_map").input
    slots = backend.slots()
    for turn, (width, height) in enumerate([(1920, 1080), (640, 480), (64, 64), (100, 37)]):
        frame = np.random.default_rng(turn).integers(0, 256, (height, width, 3), np.uint8)
        slots[:] = pictures(LARGEST, seed=turn)
        wanted = slots.copy()
        if not backend.place(1, frame):
            assert not bench.is_tensorrt
            continue
        write_input(Frame(frame), spec, wanted[1])
        found = backend.run(slots[:3])
        assert np.abs(slots.astype(int) - wanted).max() <= 1
        check(found, MAPS, slots[:3])
        slots[:] = batch = pictures(LARGEST, seed=100 + turn)
        check(backend.run(slots[:3]), MAPS, batch[:3])  # holds for one run only
    assert not backend.place(0, np.zeros((2160, 3840, 3), np.uint8))


def room(backend: Any) -> int:
    """Bytes for whole frames that are pinned."""
    layout = backend._layout
    return int(layout.size - layout.frames_offset)


def used(backend: Any) -> int:
    """Bytes of the slot that really take memory."""
    return os.fstat(backend._memory.fileno()).st_blocks * 512


@on([TENSORRT[0]])
def test_whole_frames_take_memory_only_where_and_while_there_are_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "UNUSED_RUNS", 5)
    first = bench.open()
    ring = [first, bench.another(first)]
    spec, slots = described(MAPS, "anomaly_map").input, first.slots()
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    for turn in range(2):
        slots[:] = wanted = pictures(LARGEST, seed=turn)
        assert list(map(room, ring)) == [0, 0]
        before = used(first)
        assert first.place(1, frame)
        assert room(first) >= LARGEST * frame.nbytes
        found = first.run(slots[:3])
        write_input(Frame(frame), spec, wanted[1])
        assert np.abs(slots.astype(int) - wanted).max() <= 1  # the others are as they were
        check(found, MAPS, slots[:3])
        assert used(first) >= before + frame.nbytes
        for count in (1, 2, 3, 4, 1):
            assert room(first) > 0
            batch = pictures(count, seed=10 * turn + count)
            check(first.run(batch), MAPS, batch)
        assert used(first) < before + frame.nbytes // 10  # but for the pages of its outputs
    assert not bench.another(first).place(0, np.zeros((2160, 3840, 3), np.uint8))


@on([TENSORRT[0]])
def test_frames_are_left_to_the_cpu_where_the_gpu_has_no_room_for_them(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.break_gpu("", free=LARGEST * trt.FRAME_BYTES)
    backend = bench.open()
    slots = backend.slots()
    slots[:] = batch = pictures(LARGEST)
    for _ in range(2):
        assert not backend.place(0, np.zeros((1080, 1920, 3), np.uint8))
        check(backend.run(slots), MAPS, batch)
    assert caplog.text.count("There is no other room for whole frames") == 1
    assert "out of memory" in caplog.text


@on([TENSORRT[0]])
def test_large_batches_of_frames_are_left_to_the_cpu(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "MOST_FRAMES_BYTES", LARGEST * trt.FRAME_BYTES - 1)
    backend = bench.open()
    assert not backend.place(0, np.zeros((1080, 1920, 3), np.uint8))
    assert room(backend) == 0
