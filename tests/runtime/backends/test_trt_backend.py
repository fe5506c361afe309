"""TensorRT's backend when things go wrong in its worker. TensorRT and the GPU are FAKES.

The worker process, its loop and the packages for CUDA are the real ones: see engine_bench.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import pytest

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    EngineUnusable,
    GpuFailed,
    ModelError,
)
from edge_agent.runtime.backends import gpu_worker
from edge_agent.runtime.backends.cuda.by_ctypes import CALLS
from edge_agent.runtime.backends.gpu_worker import GpuWorker
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding
from edge_agent.runtime.backends.trt import TrtBackend
from tests import ROOT
from tests.conftest import children
from tests.fakes.engine_bench import MAPS, OPTIONS, SITE, TENSORRT, Bench, check, pictures
from tests.packaging.graphs import described

OTHER, ILLEGAL = 801, 700  # after the first the process can go on, after the second it can't
GIVING_BACK = {
    "cuMemFree", "cuMemHostUnregister", "cuStreamDestroy", "cuEventDestroy", "cuGraphExecDestroy",
    "cuGraphDestroy",
}  # fmt: skip
HEAVY = {"grpc", "cv2", "onnx", "onnxruntime", "awsiot", "prometheus_client", "rich"}


@pytest.fixture(name="bench", params=[TENSORRT[0]])
def _bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path, monkeypatch)
    yield made
    made.close()
    assert not children("_worker")
    assert made.may_leave or set(made.left) <= {"nothing left"}


def worker_pid() -> int:
    (child,) = children("_worker")
    return int(child.split()[1].rstrip(":"))


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def run_until_it_fails(backend: Any) -> Exception:
    for turn in range(20):
        batch = pictures(2, seed=turn)
        try:
            found = backend.run(batch)
        except Exception as error:
            return error
        check(found, MAPS, batch)
    raise AssertionError("it never failed")


def run_when_up(backend: Any) -> None:
    """Call again, as the sentence says, until there is an answer, which must be right."""
    batch, end = pictures(3), time.monotonic() + 60.0
    while time.monotonic() < end:
        try:
            found = backend.run(batch)
        except AgentUnavailable:
            time.sleep(0.01)
        else:
            check(found, MAPS, batch)
            return
    raise AssertionError("it never came back")


# Where cuStreamEndCapture fails, the fake goes on capturing, which no driver does.
@pytest.mark.parametrize("call", sorted(set(CALLS) - {"cuStreamEndCapture"}))
def test_a_call_that_fails_once_is_reported_or_survived(bench: Bench, call: str) -> None:
    """Loading may fail, in a sentence; so may one run. Whatever is answered is right."""
    bench.break_gpu(f"{call}:1={OTHER}")
    bench.may_leave = call in GIVING_BACK
    try:
        backend = bench.open()
    except ModelError as error:
        told = [str(error)]
    else:
        told = [each for turn in range(8) for each in failures(backend, turn)]
        assert backend.restarts == 0
    assert len(told) <= 1
    expected = call, "can't work on this machine", "can't load the engine: out of memory"
    assert all(any(words in each for words in expected) for each in told), told


def failures(backend: Any, turn: int) -> Iterator[str]:
    batch = pictures(4 if turn % 7 else 1, seed=turn)
    try:
        found = backend.run(batch)
    except GpuFailed as error:
        yield str(error)
    else:
        check(found, MAPS, batch)


@pytest.mark.parametrize(
    "fault",
    [
        f"cuMemcpyHtoDAsync:4={ILLEGAL}",
        f"cuEventSynchronize:4={ILLEGAL}",
        f"cuGraphLaunch:2={ILLEGAL}",
        "cuEventRecord:30=crash",
    ],
)
def test_after_a_deadly_error_another_process_goes_on(bench: Bench, fault: str) -> None:
    bench.break_gpu(fault)
    backend = bench.open()
    neighbour = bench.another(backend)
    bench.break_gpu("")
    error = run_until_it_fails(backend)
    assert isinstance(error, AgentUnavailable)
    assert "Call again." in str(error)
    what = "Segmentation fault" if "crash" in fault else "an illegal memory access was encountered"
    assert what in str(error)
    run_when_up(backend)
    run_when_up(neighbour)
    assert backend.restarts == neighbour.restarts == 1
    assert backend.failure == ""


def test_a_gpu_that_stays_broken_is_given_up(bench: Bench) -> None:
    backend = bench.open()
    bench.break_gpu(f"cuStreamCreate:1={ILLEGAL}")
    os.kill(worker_pid(), signal.SIGKILL)
    wait_until(lambda: bool(backend.failure))
    assert "can't open the engine: The GPU can't be used: cuStreamCreate" in backend.failure
    with pytest.raises(AgentUnavailable, match="died 4 times"):
        backend.run(pictures(1))
    with pytest.raises(AgentUnavailable, match="died 4 times"):
        backend.another()


def test_a_call_that_hangs_is_ended_by_an_interruption(bench: Bench) -> None:
    hanging = bench.folder / "hanging"
    bench.break_gpu("cuEventSynchronize:6=hang", hanging=hanging)
    backend = bench.open()
    neighbour = bench.another(backend)
    bench.break_gpu("")
    before = worker_pid()
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(run_until_it_fails, backend)
        wait_until(hanging.exists)
        backend.interrupt()
        assert "because it hung" in str(hung.result())
    run_when_up(neighbour)
    assert worker_pid() != before
    with pytest.raises(AgentUnavailable, match="was given up"):
        backend.run(pictures(1))


def test_a_worker_that_hangs_while_it_closes_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_worker, "ENDS_WITHIN_S", 0.5)
    bench.break_gpu("cuMemHostUnregister:1=hang")
    backend = bench.open()
    backend.run(pictures(1))
    bench.close()
    assert not children("_worker")


def test_memory_that_cant_be_pinned_and_graphs_that_cant_be_made_are_remarked(
    bench: Bench,
) -> None:
    bench.break_gpu(f"cuMemHostRegister:0={OTHER},cuStreamBeginCapture:0={OTHER}")
    backend = bench.open()
    for turn in range(6):
        batch = pictures(4, seed=turn)
        check(backend.run(batch), MAPS, batch)
    pinning, graphs = backend.remarks
    assert "cuMemHostRegister" in pinning
    assert "don't overlap" in pinning
    assert "cuStreamBeginCapture" in graphs


def test_slots_that_come_and_go_leave_nothing_in_the_worker(bench: Bench) -> None:
    backend = bench.open()
    held = held_by(worker_pid())
    for turn in range(20):
        neighbour = backend.another()
        batch = pictures(4, seed=turn)
        check(neighbour.run(batch), MAPS, batch)
        neighbour.close()
    check(backend.run(batch), MAPS, batch)  # comes after the closing
    assert held_by(worker_pid()) == held


def held_by(pid: int) -> Tuple[int, int]:
    """Descriptors of a process, and its mappings of slots."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), maps.count("edge-agent-slot")


def test_a_worker_that_is_ended_with_open_slots_gives_them_back(bench: Bench) -> None:
    """Memory is unpinned before it is unmapped; the fake driver refuses it afterwards."""
    worker = GpuWorker(bench.build(MAPS))
    tensors = tuple(map(TensorBinding.from_json, worker.ready["tensors"]))
    layout = SlotLayout(tensors, worker.ready["max_batch"])
    with os.fdopen(os.memfd_create("edge-agent-slot"), "r+b", buffering=0) as memory:
        memory.truncate(layout.size)
        for _ in range(2):
            worker.open_slot(memory.fileno())
        worker.close()
    assert bench.left == ["nothing left"]


def test_the_worker_ends_with_its_last_backend_and_the_model_is_opened_again_then(
    bench: Bench,
) -> None:
    first = bench.open()
    second = first.another()
    bench.close()
    check(second.run(pictures(2)), MAPS, pictures(2))
    third = first.another()  # as long as one is there
    second.close()
    check(third.run(pictures(2)), MAPS, pictures(2))
    third.close()
    assert not children("_worker")
    assert third.another() is None


def test_a_workers_lack_of_memory_says_nothing_of_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = bench.folder / "site"
    site.mkdir()
    (site / "tensorrt.py").write_text(
        f"import sys\nsys.path.insert(0, {str(SITE)!r})\ndel sys.modules['tensorrt']\n"
        "import tensorrt\n"
        "def fail(*_):\n    raise MemoryError\n"
        "tensorrt.Runtime.deserialize_cuda_engine = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    with pytest.raises(GpuFailed, match="unexpected MemoryError; see the log") as caught:
        bench.open()
    assert not caught.value.is_sticky
    assert "line 6, fail" in caplog.text
    assert "MemoryError" in caplog.text


def test_on_a_jetson_host_and_gpu_share_the_slots(bench: Bench) -> None:
    bench.break_gpu(f"cuMemcpyHtoDAsync:0={ILLEGAL}", integrated=1, name="Orin")
    backend = bench.open()
    assert backend.device == "GPU Orin"
    for turn in range(3):
        backend.slots()[:] = batch = pictures(4, seed=turn)
        check(backend.run(backend.slots()), MAPS, batch)


def test_signals_to_the_whole_group_are_the_agents(bench: Bench) -> None:
    backend = bench.open()
    pid = worker_pid()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
        check(backend.run(pictures(1)), MAPS, pictures(1))
    assert worker_pid() == pid
    assert os.getsid(pid) == pid


def test_what_is_missing_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, manifest = bench.build(MAPS), described(MAPS, "anomaly_map")
    with monkeypatch.context() as without:
        without.setenv("PYTHONPATH", str(ROOT))
        with pytest.raises(BackendUnavailable, match="TensorRT isn't installed"):
            TrtBackend(engine, manifest, OPTIONS)
    with monkeypatch.context() as without:
        without.setenv("LD_LIBRARY_PATH", "")
        with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
            TrtBackend(engine, manifest, OPTIONS)
    with pytest.raises(BackendUnavailable, match="There is no DLA core 1"):
        TrtBackend(engine, manifest, OPTIONS, dla_core=1)


def test_an_engine_of_another_tensorrt_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench.build(MAPS)
    monkeypatch.setenv("FAKE_TENSORRT", "8.6.1")
    with pytest.raises(EngineUnusable, match=r"another TensorRT than this 8\.6\.1"):
        TrtBackend(engine, described(MAPS, "anomaly_map"), OPTIONS)


def test_the_worker_imports_nothing_heavy() -> None:
    script = "import sys, edge_agent.runtime.backends.trt_worker; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout.decode()
    assert not HEAVY & set(said.split())
