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
