"""The loop over a TensorRT engine, on a FAKE of TensorRT over a FAKE of the CUDA driver.

The driver does queued work as late and in as odd an order as its streams and events allow; what
comes out must be what onnxruntime computes.
"""

from __future__ import annotations

import ctypes
import json
import random
import threading
from pathlib import Path
from queue import Queue
from typing import Any, Iterator, List

import numpy as np
import onnx
import pytest

from edge_agent.errors import InferenceFailed
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding
from edge_agent.runtime.backends.trt_loop import GpuTimes
from tests.fakes import fake_cuda, fake_tensorrt_runtime, micro
from tests.fakes.fake_tensorrt import VERSIONS
from tests.fakes.loop_bench import (
    ITEM,
    OTHER,
    Make,
    Ranges,
    bench,
    check,
    expected,
    fixed,
    is_equal,
    machines,
    pictures,
)
from tests.packaging import graphs

ITEM_BYTES = ITEM[0] * ITEM[1] * ITEM[2]


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Iterator[Make]:
    with machines(tmp_path) as make:
        yield make


# Results


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_every_tail_of_a_batch_is_what_onnxruntime_computes(
    machine: Make, version: str, task: str
) -> None:
    gpu, model = machine(version), micro.graph(task)

    with bench(gpu, gpu.engine(model, ((1, 1), (2, 4), (5, 8)))) as opened:
        for count in (*range(1, 9), *range(8, 0, -1)):
            batch = pictures(count, count)
            check(opened.run(batch), batch, model)


def test_outputs_keep_their_dtypes(machine: Make) -> None:
    gpu, types = machine("10.3.0"), onnx.TensorProto
    kinds = [types.FLOAT16, types.INT8, types.INT32, types.INT64, types.BOOL, types.UINT8]
    model = graphs.model(
        [graphs.node("Cast", ["image"], [f"as {kind}"], to=kind) for kind in kinds],
        [graphs.image()],
        [graphs.tensor(f"as {kind}", kind, ["N", *ITEM]) for kind in kinds],
    )

    with bench(gpu, gpu.engine(model)) as opened:
        for count in (1, 3, 4):
            batch = pictures(count) // 2
            found = opened.run(batch)
            check(found, batch, model)
            assert {values.dtype for values in found.values()} == set(
                map(np.dtype, ("float16", "int8", "int32", "int64", "bool", "uint8"))
            )


@pytest.mark.parametrize("order", ["needed", "early", *(f"random:{seed}" for seed in range(6))])
@pytest.mark.parametrize("is_integrated", [0, 1])
def test_slots_in_flight_keep_their_batches_apart(
    machine: Make, order: str, is_integrated: int
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
def test_the_fake_gpu_shows_a_forgotten_wait(machine: Make, left_out: int) -> None:
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


def test_an_engine_of_one_batch_is_filled_up(machine: Make) -> None:
    gpu = machine()

    with bench(gpu, gpu.engine(fixed(4))) as opened:
        assert opened.loop.max_batch == 4
        for count in (4, 1, 3):
            batch = pictures(count, count)
            check(opened.run(batch), batch)


@pytest.mark.parametrize("is_integrated", [0, 1])
def test_what_fills_a_batch_up_was_put_there_once_and_never_comes_out(
    machine: Make, is_integrated: int
) -> None:
    """The agent's memory begins with zeros, the GPU's own with anything."""
    gpu, filled = machine(integrated=is_integrated), []
    execute = gpu.trt.IExecutionContext.execute_async_v3

    def watched(context: Any, stream: int) -> bool:
        opened.loop._drain()
        filled.append(ctypes.string_at(context._addresses["image"] + ITEM_BYTES, 3 * ITEM_BYTES))
        return bool(execute(context, stream))

    gpu.trt.IExecutionContext.execute_async_v3 = watched
    with bench(gpu, gpu.engine(fixed(4))) as opened:
        outputs = opened.layout.view(opened.memories[0], "score", 4)
        outputs[:] = 77
        batch = pictures(1)
        check(opened.run(batch), batch)
        assert filled == [bytes(3 * ITEM_BYTES)]
        if not is_integrated:
            assert outputs[1:].tolist() == [77] * 3


@pytest.mark.parametrize(
    ("ranges", "computed"),
    [
        (((1, 1), (2, 4), (5, 8)), [1, 4, 4, 4, 8, 8, 8, 8]),
        (((6, 8), (2, 3)), [3, 3, 3, 8, 8, 8, 8, 8]),
        (((1, 8),), [8, 8, 8, 8, 8, 8, 8, 8]),
    ],
)
def test_a_batch_is_filled_up_to_the_largest_one_of_the_next_profile(
    machine: Make, ranges: Ranges, computed: List[int]
) -> None:
    gpu = machine()
    shapes: List[int] = []
    execute = gpu.trt.IExecutionContext.execute_async_v3

    def watched(context: Any, stream: int) -> bool:
        shapes.append(context.get_tensor_shape("image")[0])
        return bool(execute(context, stream))

    gpu.trt.IExecutionContext.execute_async_v3 = watched
    with bench(gpu, gpu.engine(ranges=ranges)) as opened:
        assert opened.loop.max_batch == 8
        gpu.fail(f"cuStreamBeginCapture:0={OTHER}")  # so that each run is seen
        for count in range(1, 9):
            batch = pictures(count, count)
            check(opened.run(batch), batch)

    assert shapes == computed


@pytest.mark.parametrize("version", VERSIONS)
def test_each_profile_has_a_context_that_stays_on_it(machine: Make, version: str) -> None:
    gpu = machine(version)

    with bench(gpu, gpu.engine(ranges=((1, 1), (2, 4), (5, 8)))) as opened:
        assert fake_tensorrt_runtime.alive == {"runtime": 1, "engine": 1, "context": 3}
        gpu.trt.IExecutionContext.set_optimization_profile_async = None
        for count in (8, 1, 4, 8):
            batch = pictures(count)
            check(opened.run(batch), batch)


@pytest.mark.parametrize("version", VERSIONS)
def test_contexts_share_the_memory_that_they_compute_in(machine: Make, version: str) -> None:
    gpu = machine(version)

    with bench(gpu, gpu.engine(ranges=((1, 1), (2, 4), (5, 8)))) as opened:
        contexts = [context._context for context in opened.loop._contexts]
        assert {context._own for context in contexts} == {0}
        (place,) = {context._scratch for context in contexts}
        assert gpu.cuda.fake_is_device(ctypes.c_uint64(place), fake_tensorrt_runtime.SCRATCH)
        for count in (8, 1, 4):
            batch = pictures(count)
            check(opened.run(batch), batch)
        contexts.clear()


def test_where_tensorrt_offers_no_sharing_each_context_has_its_own(machine: Make) -> None:
    gpu = machine()
    del gpu.trt.ICudaEngine.create_execution_context_without_device_memory

    with bench(gpu) as opened:
        assert len({context._context._own for context in opened.loop._contexts} - {0}) == 2
        batch = pictures(3)
        check(opened.run(batch), batch)


def test_an_engine_that_needs_no_memory_gets_none(machine: Make) -> None:
    gpu = machine()
    gpu.trt.ICudaEngine.device_memory_size = 0

    with bench(gpu) as opened:
        assert {context._context._scratch for context in opened.loop._contexts} == {0}


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_that_does_not_fit_is_refused(machine: Make, count: int) -> None:
    gpu = machine()

    with bench(gpu) as opened, pytest.raises(
        InferenceFailed, match=f"got a batch of {count}; expected 1 to 4"
    ):
        opened.loop.submit(opened.slots[0], count)


def test_the_engine_names_its_tensors_and_the_gpu(machine: Make) -> None:
    with bench(machine(name="Orin", capability=(8, 7))) as opened:
        assert opened.loop.tensors == (
            TensorBinding("image", ITEM, "uint8", True),
            TensorBinding("score", (), "float32", False),
            TensorBinding("map", (1, 32, 32), "float32", False),
        )
        assert opened.loop.device == "GPU Orin"
        assert opened.loop.remarks == []


# What happens on the GPU


def test_shared_memory_is_used_where_it_is(machine: Make) -> None:
    gpu = machine(integrated=1)

    with bench(gpu) as opened:
        for count in (1, 4, 4, 3):
            batch = pictures(count)
            check(opened.run(batch), batch)
        weights, contexts, scratch = 1, 2, 1
        assert gpu.count("cuMemAlloc") == weights + contexts + scratch
        assert gpu.count("cuMemcpyHtoDAsync") == gpu.count("cuMemcpyDtoHAsync") == 0
        assert gpu.count("cuStreamCreate") == 1


def test_neighbours_are_copied_while_a_batch_is_computed(machine: Make) -> None:
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


def test_only_the_items_of_a_batch_are_copied(machine: Make) -> None:
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
        sizes.clear()
        opened.run(pictures(3))

    assert sizes == [3 * 64 * 64 * 3, 3 * 4, 3 * 32 * 32 * 4]


@pytest.mark.parametrize("is_integrated", [0, 1])
def test_memory_that_cannot_be_pinned_is_copied_with_a_remark(
    machine: Make, is_integrated: int
) -> None:
    gpu = machine(integrated=is_integrated)
    gpu.fail(f"cuMemHostRegister:0={OTHER}")

    with bench(gpu, slots=2) as opened:
        (remark,) = opened.loop.remarks
        assert remark.startswith("Batches are copied slowly, from memory that isn't pinned, and ")
        assert "cuMemHostRegister" in remark
        for place in (0, 1, 0):
            batch = pictures(4, place)
            check(opened.run(batch, place), batch)


def test_a_batch_says_how_long_each_step_took(machine: Make) -> None:
    """The fake clock goes on by 0.5 ms with each copy and each run."""
    with bench(machine()) as opened:
        opened.submit(pictures(2))
        assert opened.loop.wait(opened.slots[0]) == GpuTimes(0.5, 0.5, 1.0)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_but_the_first_run_of_a_profile_are_graphs(machine: Make, version: str) -> None:
    """Whatever batches come: one graph a slot and profile, captured once."""
    gpu, chance = machine(version), random.Random(version)

    with bench(gpu, gpu.engine(ranges=((1, 1), (2, 4), (5, 8))), slots=3) as opened:
        for number in range(60):
            count = (1, 3, 7)[number // 3 % 3] if number < 18 else chance.randint(1, 8)
            batch = pictures(count, number)
            check(opened.run(batch, number % 3), batch)
        assert gpu.count("cuGraphLaunch") == 60 - 3
        assert gpu.count("cuGraphInstantiate") == 3 * 3
        assert opened.loop.remarks == []


def test_graphs_go_with_their_slot(machine: Make) -> None:
    gpu = machine()

    with bench(gpu, slots=2) as opened:
        for place in (0, 1, 0, 1):
            opened.run(pictures(4), place)
        assert "2 instantiated graph(s)" in fake_cuda.left_words(gpu.library)
        opened.loop.close_slot(opened.slots[0])
        assert "1 instantiated graph(s)" in fake_cuda.left_words(gpu.library)
        check(opened.run(pictures(4), 1), pictures(4))


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
    machine: Make, fault: str, reason: str
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
        for number in range(4):
            batch = pictures(4, number)
            batch[..., 2] = 0  # with blue it hangs
            check(opened.run(batch), batch, model)
        assert gpu.count("cuGraphLaunch") == ("cuGraphLaunch" in fault)
        assert gpu.count("cuStreamBeginCapture") == 1
        (remark,) = opened.loop.remarks
        assert remark.startswith("CUDA graphs aren't used: ")
        assert reason in remark


# The memory of a slot


def test_areas_begin_on_pages_and_hold_all_items() -> None:
    tensors = (
        TensorBinding("image", ITEM, "uint8", True),
        TensorBinding("score", (), "float32", False),
    )
    layout = SlotLayout(tensors, 3)

    assert layout.offset("image") == 0
    assert layout.offset("score") == 9 * 4096  # 3 * 64 * 64 * 3 bytes
    assert layout.size == 10 * 4096
    memory = bytearray(layout.size)
    layout.view(memory, "score", 3)[:] = (1, 2, 3)
    assert layout.view(memory, "score", 2).tolist() == [1, 2]


def test_a_tensor_survives_json() -> None:
    tensor = TensorBinding("image", ITEM, "uint8", True)

    assert TensorBinding.from_json(json.loads(json.dumps(tensor.to_json()))) == tensor
