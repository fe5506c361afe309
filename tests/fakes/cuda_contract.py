"""What each adapter of the CUDA layer must do, over the FAKE driver.

`test_cuda_adapters` runs it in a process for each adapter, since packages load a driver only once:
CUDA_ADAPTER names the adapter, LD_LIBRARY_PATH leads to the fake.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.runtime.backends.cuda.driver import Driver, open_driver

ADAPTER = os.environ["CUDA_ADAPTER"]
FAKE = ctypes.CDLL("libcuda.so.1")
FAKE.fake_left_words.restype = ctypes.c_char_p
PAGE = mmap.PAGESIZE
ORDERS = ("needed", "early", "random:1", "random:2", "random:3")
SHARED = pytest.mark.parametrize("order", ORDERS)

# Kernels of fake PTX in C, as fake_cuda calls them.
IN_C = """
void fake_scale(const unsigned *grid, const unsigned *block, void **arguments)
{
  unsigned char *values = *(unsigned char **)arguments[0];
  float factor = *(float *)arguments[2];
  for (unsigned at = 0; at < *(unsigned *)arguments[1]; at++)
    values[at] = values[at] * factor + *(unsigned char *)arguments[3] + grid[1] + block[2];
}
"""
PTX = b""".version 7.0
.target sm_72
.visible .entry scale(
  .param .u64 scale_param_0, .param .u32 scale_param_1, .param .f32 scale_param_2,
  .param .u8 scale_param_3
) { ret; }
"""


def fault(text: str) -> None:
    FAKE.fake_fault(text.encode())


@pytest.fixture(name="driver")
def _driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.delenv("FAKE_CUDA_FAULT", raising=False)
    FAKE.fake_reset()
    driver = open_driver(ADAPTER)
    yield driver
    assert FAKE.fake_left_words() == b"", "something wasn't given back"


@pytest.fixture(name="cuda")
def _cuda(driver: Driver) -> Iterator[Driver]:
    with driver.context():
        yield driver


class Lane:
    """Pinned pages, memory of the GPU, streams and an event: in, twice over, and out."""

    def __init__(self, cuda: Driver, size: int = 1000) -> None:
        self.cuda, self.size = cuda, size
        self.memory = mmap.mmap(-1, 2 * PAGE)
        self.given = np.frombuffer(self.memory, np.uint8, size)
        self.got = np.frombuffer(self.memory, np.uint8, size, offset=PAGE)
        self.host = self.given.ctypes.data
        self.mapped = cuda.register(self.host, 2 * PAGE)
        self.device = cuda.allocate(size)
        self.streams = [cuda.stream(), cuda.stream()]
        self.events = [cuda.event(), cuda.event()]

    def submit(self, is_ordered: bool = True) -> None:
        (come, go), (is_in, is_out) = self.streams, self.events
        self.cuda.copy_in(self.device, self.host, self.size, come)
        self.cuda.record(is_in, come)
        if is_ordered:
            self.cuda.wait(go, is_in)
        self.cuda.copy_out(self.host + PAGE, self.device, self.size, go)
        self.cuda.record(is_out, go)

    def wait(self) -> None:
        self.cuda.synchronize(self.events[1])

    def close(self) -> None:
        for event in self.events:
            self.cuda.destroy_event(event)
        for stream in self.streams:
            self.cuda.destroy_stream(stream)
        self.cuda.free(self.device)
        self.cuda.unregister(self.host)


@pytest.fixture(name="lane")
def _lane(cuda: Driver) -> Iterator[Lane]:
    lane = Lane(cuda)
    yield lane
    lane.close()


def test_the_gpu_and_the_package_are_named(driver: Driver) -> None:
    gpu = driver.gpu()

    assert (gpu.name, gpu.capability, gpu.code) == ("Xavier", (7, 2), "sm_72")
    assert gpu.cuda == "13.0"
    assert not gpu.is_integrated
    assert driver.name.split()[0] in ("pycuda", "cuda-bindings", "cuda-python", "libcuda.so.1")


def test_a_gpu_in_the_machines_memory_says_so(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_INTEGRATED", "1")

    assert driver.gpu().is_integrated


def test_without_a_gpu_the_adapter_cannot_be_opened(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_INIT", "100")

    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU that the driver can use"):
        open_driver(ADAPTER)


def test_a_driver_that_does_not_start_says_what_to_do(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_INIT", "803")

    with pytest.raises(BackendUnavailable, match=r"\(803\)\. .*restart the machine"):
        open_driver(ADAPTER)


def test_memory_is_counted(cuda: Driver) -> None:
    free = cuda.free_bytes()
    address = cuda.allocate(1 << 20)

    assert (free, cuda.total_bytes()) == (6 << 30, 8 << 30)
    assert cuda.free_bytes() == free - (1 << 20)
    cuda.free(address)
    assert cuda.free_bytes() == free


def test_too_large_a_request_says_what_to_do(cuda: Driver) -> None:
    with pytest.raises(GpuFailed) as caught:
        cuda.allocate(7 << 30)

    assert str(caught.value) == (
        "The GPU can't be used: cuMemAlloc failed, out of memory (2). Stop other models or "
        "programs that use the GPU, or use smaller batches."
    )
    assert (caught.value.code, caught.value.is_sticky) == (2, False)


@SHARED
def test_events_order_what_streams_do(
    lane: Lane, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ORDER", order)
    for value in range(1, 6):
        lane.given[:] = value
        lane.submit()
        lane.wait()
        assert (lane.got == value).all()


@SHARED
def test_slots_of_a_ring_do_not_mix(
    cuda: Driver, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ORDER", order)
    lanes = [Lane(cuda, size=64 + index) for index in range(3)]
    for turn in range(9):
        lane = lanes[turn % 3]
        if turn >= 3:
            lane.wait()
            assert (lane.got == turn - 3).all()
        lane.given[:] = turn
        lane.submit()
    for lane in lanes:
        lane.wait()
        lane.close()


def test_the_fake_shows_a_forgotten_event(lane: Lane) -> None:
    """Otherwise the tests above could not fail."""
    lane.given[:] = 7
    lane.submit(is_ordered=False)
    lane.wait()

    assert not (lane.got == 7).any()
    lane.submit()
    lane.wait()


def test_what_is_pinned_has_an_address_of_the_gpu(lane: Lane) -> None:
    """As on a Jetson: what the GPU writes there is in the host's memory."""
    other = np.full(50, 9, np.uint8)
    lane.cuda.copy_in(lane.mapped + PAGE, other.ctypes.data, 50, lane.streams[1])
    lane.cuda.record(lane.events[1], lane.streams[1])
    lane.wait()

    assert (lane.got[:50] == 9).all()


def test_memory_that_is_not_pinned_can_be_copied_too(cuda: Driver) -> None:
    stream, event, device = cuda.stream(), cuda.event(), cuda.allocate(100)
    given, got = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    cuda.copy_in(device, given.ctypes.data, 100, stream)
    cuda.copy_out(got.ctypes.data, device, 100, stream)
    cuda.record(event, stream)
    cuda.synchronize(event)
    cuda.free(device)
    cuda.destroy_event(event)
    cuda.destroy_stream(stream)

    assert (got == given).all()


def test_what_cannot_be_pinned_is_not_half_pinned(lane: Lane) -> None:
    with pytest.raises(GpuFailed, match=r"already mapped \(712\)"):
        lane.cuda.register(lane.host, PAGE)
    fault("cuMemHostGetDevicePointer:0=801")
    other = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(other))
    with pytest.raises(GpuFailed, match=r"cuMemHostGetDevicePointer failed, .*\(801\)"):
        lane.cuda.register(address, PAGE)


def test_an_event_with_time_measures_what_lies_between(lane: Lane) -> None:
    begin, end = lane.cuda.event(timed=True), lane.cuda.event(timed=True)
    lane.cuda.record(begin, lane.streams[0])
    lane.cuda.copy_in(lane.device, lane.host, 8, lane.streams[0])
    lane.cuda.record(end, lane.streams[0])
    lane.cuda.synchronize(end)

    assert lane.cuda.elapsed_ms(begin, end) == 0.5  # each work of the fake takes half a ms
    lane.submit()
    lane.wait()
    with pytest.raises(GpuFailed, match=r"cuEventElapsedTime failed, invalid resource handle"):
        lane.cuda.elapsed_ms(begin, lane.events[1])
    lane.cuda.destroy_event(begin)
    lane.cuda.destroy_event(end)


def test_other_threads_run_while_one_waits(lane: Lane) -> None:
    FAKE.fake_hold(ctypes.c_void_p(lane.streams[0]))  # until a thread of Python lets it go
    lane.given[:] = 5
    lane.submit()
    threading.Timer(0.05, FAKE.fake_let_go).start()
    lane.wait()

    assert (lane.got == 5).all()


def test_a_copy_that_waits_does_not_stop_other_threads(lane: Lane) -> None:
    """Copies to memory that isn't pinned wait for the GPU."""
    got = np.zeros(lane.size, np.uint8)
    FAKE.fake_hold(ctypes.c_void_p(lane.streams[0]))
    threading.Timer(0.05, FAKE.fake_let_go).start()
    lane.cuda.copy_out(got.ctypes.data, lane.device, lane.size, lane.streams[0])

    assert (got == 0xA5).all()  # what the fake's memory starts with


def in_thread(act: Callable[[], object]) -> None:
    failed: List[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_each_thread_has_its_context(lane: Lane) -> None:
    """What one thread submitted another waits for, and gives back."""

    def wait() -> None:
        with lane.cuda.context():
            lane.wait()
            lane.cuda.destroy_event(lane.cuda.event())

    lane.given[:] = 3
    lane.submit()
    in_thread(wait)
    assert (lane.got == 3).all()
    with pytest.raises(GpuFailed, match=r"invalid device context \(201\)"):
        in_thread(lane.cuda.free_bytes)


def test_the_last_thread_to_leave_gives_the_context_back(driver: Driver) -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with driver.context():
            inside.set()
            leave.wait(10)

    with driver.context():
        thread = threading.Thread(target=stay)
        thread.start()
        assert inside.wait(10)
    assert FAKE.fake_left_words() == b"1 retained, 1 pushed"
    leave.set()
    thread.join()


def test_contexts_lie_in_each_other(driver: Driver) -> None:
    with driver.context():
        with driver.context():
            inner = driver.stream()
        driver.destroy_stream(inner)
    with driver.context():
        assert driver.free_bytes()


@SHARED
def test_a_graph_does_again_what_was_noted(
    lane: Lane, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ORDER", order)
    cuda, come = lane.cuda, lane.streams[0]
    cuda.begin_capture(come)
    lane.submit()
    cuda.wait(come, lane.events[1])
    graph = cuda.end_capture(come)
    done = cuda.event()

    assert not (lane.got == 1).any(), "noted work isn't done"
    for value in (1, 2, 3):
        lane.given[:] = value
        cuda.launch_graph(graph, come)
        cuda.record(done, come)
        cuda.synchronize(done)
        assert (lane.got == value).all()
    cuda.destroy_graph(graph)
    cuda.destroy_event(done)


def test_while_one_thread_captures_another_waits(cuda: Driver) -> None:
    lane, other = Lane(cuda), Lane(cuda)

    def work() -> None:
        with cuda.context():
            other.given[:] = 4
            other.submit()
            other.wait()

    cuda.begin_capture(lane.streams[0])
    in_thread(work)
    cuda.copy_in(lane.device, lane.host, 8, lane.streams[0])
    cuda.destroy_graph(cuda.end_capture(lane.streams[0]))

    assert (other.got == 4).all()
    lane.close()
    other.close()


def test_a_capture_that_fails_leaves_the_stream_usable(lane: Lane) -> None:
    lane.cuda.begin_capture(lane.streams[0])
    with pytest.raises(GpuFailed, match=r"cuMemAlloc failed, .*when stream is capturing \(900\)"):
        lane.cuda.allocate(8)
    with pytest.raises(GpuFailed, match=r"cuStreamEndCapture failed, .*\(901\)"):
        lane.cuda.end_capture(lane.streams[0])

    lane.given[:] = 6
    lane.submit()
    lane.wait()
    assert (lane.got == 6).all()


def test_a_graph_that_cannot_be_instantiated_is_given_back(lane: Lane) -> None:
    fault("cuGraphInstantiate:1=801")
    lane.cuda.begin_capture(lane.streams[0])

    with pytest.raises(GpuFailed, match=r"cuGraphInstantiate failed, operation not supported"):
        lane.cuda.end_capture(lane.streams[0])


@pytest.fixture(name="kernels")
def _kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, library = tmp_path / "kernels.c", tmp_path / "kernels.so"
    source.write_text(IN_C)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    monkeypatch.setenv("FAKE_CUDA_KERNELS", str(library))


@pytest.mark.usefixtures("kernels")
def test_a_kernel_gets_its_arguments_as_they_were_when_it_was_launched(lane: Lane) -> None:
    scale = lane.cuda.load_function(PTX, "scale")
    arguments: List[Any] = [
        ctypes.c_uint64(lane.device), ctypes.c_uint32(lane.size),
        ctypes.c_float(2.5), ctypes.c_uint8(3),
    ]  # fmt: skip
    lane.given[:] = 4
    lane.cuda.copy_in(lane.device, lane.host, lane.size, lane.streams[0])
    lane.cuda.launch(scale, (1, 20, 1), (32, 1, 2), arguments, lane.streams[0])
    arguments[2].value = 0.0
    lane.cuda.copy_out(lane.host + PAGE, lane.device, lane.size, lane.streams[0])
    lane.cuda.record(lane.events[1], lane.streams[0])
    lane.wait()

    assert (lane.got == 4 * 2.5 + 3 + 20 + 2).all()


@pytest.mark.usefixtures("kernels")
def test_what_is_no_kernel_is_a_sentence(cuda: Driver) -> None:
    with pytest.raises(GpuFailed, match=r"device kernel image is invalid.*\(200\)"):
        cuda.load_function(b"rubbish", "scale")
    with pytest.raises(GpuFailed, match=r"cuModuleGetFunction failed, named symbol not found"):
        cuda.load_function(PTX, "other")


def test_batches_lie_in_the_gpus_memory(lane: Lane) -> None:
    items = [np.full(4, index, np.uint8) for index in range(3)]
    seen = []
    for address in lane.cuda.batches(items, 2):
        lane.cuda.copy_out(lane.host + PAGE, address, 8, lane.streams[0])
        lane.cuda.record(lane.events[1], lane.streams[0])
        lane.wait()
        seen.append(lane.got[:8:4].tolist())

    assert seen == [[0, 1], [2, 2]]


def everything(cuda: Driver) -> None:
    """Use each call once, and give back what can be."""
    with cuda.context(), contextlib.ExitStack() as stack:
        lane = Lane(cuda)
        stack.callback(lane.close)
        begin, end = cuda.event(timed=True), cuda.event(timed=True)
        stack.callback(cuda.destroy_event, begin)
        stack.callback(cuda.destroy_event, end)
        cuda.record(begin, lane.streams[0])
        lane.submit()
        lane.wait()
        cuda.record(end, lane.streams[1])
        cuda.synchronize(end)
        cuda.elapsed_ms(begin, end)
        cuda.free_bytes()


CALLS = ("cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuMemGetInfo", "cuMemAlloc",
         "cuMemHostRegister", "cuMemHostGetDevicePointer", "cuStreamCreate", "cuStreamWaitEvent",
         "cuEventCreate", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime",
         "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_is_named_with_the_driver_s_reason(driver: Driver, call: str) -> None:
    fault(f"{call}:1=1")
    with pytest.raises(GpuFailed) as caught:
        everything(driver)
    FAKE.fake_reset()  # what the failure kept the test from giving back

    assert str(caught.value) == (
        f"The GPU can't be used: {call} failed, invalid argument (1). If it happens again, "
        "restart the machine, and report it with the agent's log."
    )
    assert (caught.value.code, caught.value.is_sticky) == (1, False)


STICKY = [("cuEventSynchronize", 214), ("cuEventSynchronize", 700), ("cuEventRecord", 719),
          ("cuEventRecord", 721)]  # fmt: skip


@pytest.mark.parametrize(("call", "code"), STICKY)
def test_after_a_sticky_error_giving_back_is_silent(driver: Driver, call: str, code: int) -> None:
    """721 is younger than some packages."""
    fault(f"{call}:1={code}")
    with pytest.raises(GpuFailed) as caught:
        everything(driver)
    FAKE.fake_reset()

    assert caught.value.is_sticky
    assert f"{call} failed" in str(caught.value)
    assert str(caught.value).endswith(
        f"({code}). This process can't use the GPU any more; another one can."
    )


def test_everything_is_given_back(driver: Driver) -> None:
    for _ in range(20):
        everything(driver)
