"""The FAKE driver is as strict as it says: tests over it can fail."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import numpy as np
import pytest

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from tests import ROOT
from tests.contract.calls import until
from tests.fakes import fake_cuda

PAGE = mmap.PAGESIZE
ORDERS = ("needed", "early", "random:1")
CALL_BACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Machine:
    """A driver with its context current, some pinned memory, two streams and two events."""

    def __init__(self, library: str) -> None:
        self.cuda = cuda = CtypesDriver(library)
        self.fake = ctypes.CDLL(library)
        self._context = cuda.context()
        self._context.__enter__()
        self._memory = mmap.mmap(-1, PAGE)
        self.host = np.frombuffer(self._memory, np.uint8)
        self.at = self.host.ctypes.data
        cuda.register(self.at, PAGE)
        self.device = cuda.allocate(PAGE)
        self.streams = cuda.stream(), cuda.stream()
        self.events = cuda.event(), cuda.event()
        self.done = cuda.event()

    def sync(self, stream: int) -> None:
        self.cuda.record(self.done, stream)
        self.cuda.synchronize(self.done)

    def enqueue(self, stream: int, call: Any) -> int:
        return int(self.fake.fake_enqueue(ctypes.c_void_p(stream), call, None))

    def close(self) -> None:
        for event in (*self.events, self.done):
            self.cuda.destroy_event(event)
        for stream in self.streams:
            self.cuda.destroy_stream(stream)
        self.cuda.free(self.device)
        self.cuda.unregister(self.at)
        self._context.__exit__(None, None, None)


@pytest.fixture(name="library")
def _library(tmp_path: Path) -> str:
    return fake_cuda.driver(tmp_path)


@pytest.fixture(name="machine")
def _machine(library: str) -> Iterator[Machine]:
    machine = Machine(library)
    yield machine
    machine.close()


def test_addresses_that_are_not_the_gpus_are_refused(machine: Machine) -> None:
    stream = machine.streams[0]
    for device in (machine.at, machine.device + 1, machine.device - 1, 0):
        with pytest.raises(GpuFailed, match=r"invalid argument \(1\)"):
            machine.cuda.copy_in(device, machine.at, PAGE, stream)
    with pytest.raises(GpuFailed, match=r"invalid argument \(1\)"):
        machine.cuda.copy_out(machine.at + 1, machine.device, PAGE, stream)


def test_only_whole_pages_can_be_pinned(machine: Machine) -> None:
    memory = mmap.mmap(-1, 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for at, size in ((address + 8, PAGE), (address, 100), (PAGE, PAGE)):
        with pytest.raises(GpuFailed, match=r"cuMemHostRegister failed, invalid argument"):
            machine.cuda.register(at, size)


@pytest.mark.parametrize("gone", ["device", "host"])
def test_memory_that_goes_while_work_needs_it_is_an_illegal_access(gone: str, library: str) -> None:
    machine = Machine(library)
    machine.cuda.copy_in(machine.device, machine.at, PAGE, machine.streams[0])
    if gone == "device":
        machine.cuda.free(machine.device)
    else:
        machine.cuda.unregister(machine.at)

    for _ in range(2):
        with pytest.raises(GpuFailed, match=r"illegal memory access.*\(700\)"):
            machine.sync(machine.streams[0])
    assert "1 illegal" in fake_cuda.left_words(library)


def test_what_writes_past_its_memory_is_found_when_that_is_freed(library: str) -> None:
    machine = Machine(library)
    ctypes.memset(machine.device, 0, PAGE + 1)
    machine.cuda.free(machine.device)  # silent, as always after a sticky error

    with pytest.raises(GpuFailed, match="illegal memory access"):
        machine.cuda.allocate(8)


@pytest.mark.parametrize(("order", "read"), [("needed", 1), ("early", 2)])
def test_early_work_overwrites_what_another_stream_has_not_read(
    order: str, read: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch goes where the first is, with no event that says it was read."""
    monkeypatch.setenv("FAKE_CUDA_ORDER", order)
    first, second = machine.streams
    machine.host[:8], machine.host[8:16] = 1, 2
    machine.cuda.copy_in(machine.device, machine.at, 8, first)
    machine.sync(first)
    machine.cuda.copy_out(machine.at + 16, machine.device, 8, first)
    machine.cuda.copy_in(machine.device, machine.at + 8, 8, second)
    machine.sync(first)

    assert set(machine.host[16:24]) == {read}
    machine.sync(second)


@pytest.mark.parametrize("order", ORDERS)
def test_calls_of_c_come_in_the_order_of_the_stream(
    order: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ORDER", order)
    seen: List[int] = []
    calls = [CALL_BACK(lambda _, index=index: seen.append(index)) for index in range(4)]
    stream = machine.streams[0]
    for call in calls[:2]:
        assert machine.enqueue(stream, call) == 0
    assert seen == []
    machine.sync(stream)
    machine.cuda.begin_capture(stream)
    for call in calls[2:]:
        assert machine.enqueue(stream, call) == 0
    graph = machine.cuda.end_capture(stream)
    machine.cuda.launch_graph(graph, stream)
    machine.cuda.launch_graph(graph, stream)
    machine.sync(stream)
    machine.cuda.destroy_graph(graph)

    assert seen == [0, 1, 2, 3, 2, 3]


def test_in_a_graph_too_a_forgotten_event_gives_wrong_bytes(machine: Machine) -> None:
    come, go = machine.streams
    machine.host[:8] = 1
    machine.cuda.begin_capture(come)
    machine.cuda.record(machine.events[0], come)
    machine.cuda.wait(go, machine.events[0])  # before the copy, not after it
    machine.cuda.copy_in(machine.device, machine.at, 8, come)
    machine.cuda.copy_out(machine.at + 8, machine.device, 8, go)
    machine.cuda.record(machine.events[1], go)
    machine.cuda.wait(come, machine.events[1])
    graph = machine.cuda.end_capture(come)
    machine.cuda.launch_graph(graph, come)
    machine.sync(come)
    machine.cuda.destroy_graph(graph)

    assert not (machine.host[8:16] == 1).any()


def test_streams_that_do_not_come_back_spoil_a_capture(machine: Machine) -> None:
    come, go = machine.streams
    machine.cuda.begin_capture(come)
    machine.cuda.record(machine.events[0], come)
    machine.cuda.wait(go, machine.events[0])
    machine.cuda.copy_in(machine.device, machine.at, 8, go)

    with pytest.raises(GpuFailed, match=r"unjoined work \(904\)"):
        machine.cuda.end_capture(come)


def test_a_capture_cannot_wait_for_work_outside(machine: Machine) -> None:
    machine.cuda.record(machine.events[0], machine.streams[1])
    machine.cuda.begin_capture(machine.streams[0])
    with pytest.raises(GpuFailed, match=r"\(905\)"):
        machine.cuda.wait(machine.streams[0], machine.events[0])
    with pytest.raises(GpuFailed, match=r"\(901\)"):
        machine.cuda.end_capture(machine.streams[0])


def test_an_event_of_a_capture_cannot_be_waited_for(machine: Machine) -> None:
    machine.cuda.begin_capture(machine.streams[0])
    machine.cuda.record(machine.events[0], machine.streams[0])
    with pytest.raises(GpuFailed, match=r"\(907\)"):
        machine.cuda.synchronize(machine.events[0])
    machine.cuda.destroy_graph(machine.cuda.end_capture(machine.streams[0]))


def test_what_is_not_given_back_is_counted_by_kind(library: str) -> None:
    machine = Machine(library)

    assert fake_cuda.left_words(library) == (
        "1 retained, 1 pushed, 1 allocation(s), 1 registered range(s), 2 stream(s), 3 event(s)"
    )
    assert fake_cuda.left(library) == 9
    machine.close()
    assert (fake_cuda.left_words(library), fake_cuda.left(library)) == ("", 0)


USE = """
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
cuda = CtypesDriver()
with cuda.context():
    cuda.free(cuda.allocate(8))
    cuda.allocate(8)
"""


def using(folder: Path, **options: str) -> subprocess.Popen[str]:
    """A process that allocates twice."""
    values = {f"FAKE_CUDA_{key}": value for key, value in options.items()}
    places = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **places, **values}
    words = [sys.executable, "-c", USE]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def used(folder: Path, **options: str) -> subprocess.CompletedProcess[str]:
    with using(folder, **options) as process:
        _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=errors)


def test_a_process_reports_what_is_left(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path)

    assert used(tmp_path, REPORT=str(tmp_path / "report")).returncode == 0
    process, told = (tmp_path / "report").read_text().split(": ")
    assert int(process) != os.getpid()
    assert told == "1 allocation(s)\n"


def test_the_nth_call_fails_crashes_or_hangs(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path, fault="cuMemAlloc:1=2")

    assert "cuMemAlloc failed, out of memory (2)" in used(tmp_path).stderr
    told = used(tmp_path, FAULT="cuMemGetInfo:1=1,cuMemAlloc:2=801").stderr  # not the file's
    assert "cuMemAlloc failed, operation not supported (801)" in told
    assert used(tmp_path, FAULT="cuMemAlloc:2=crash").returncode == -signal.SIGSEGV
    hanging = tmp_path / "hanging"
    with using(tmp_path, FAULT="cuMemAlloc:2=hang", HANGING=str(hanging)) as process:
        until(hanging.exists)
        assert process.poll() is None
        process.kill()
