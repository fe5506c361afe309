"""A worker process is kept alive, and ended. Over a STAND-IN for it: no GPU, no TensorRT."""

from __future__ import annotations

import json
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    EngineUnusable,
    GpuFailed,
    InferenceFailed,
    InvalidPackage,
)
from edge_agent.runtime.backends import gpu_worker
from edge_agent.runtime.backends.gpu_worker import GpuWorker
from edge_agent.runtime.backends.pending_requests import read_error
from edge_agent.runtime.processes import child_process
from edge_agent.runtime.processes.restart_policy import RestartPolicy
from tests import ROOT
from tests.conftest import children
from tests.fakes.standin_worker import CONTENT, SLOT_BYTES, Do

COMMAND = (sys.executable, str(ROOT / "tests/fakes/standin_worker.py"))


class Place:
    """Memory of a slot, and the slot."""

    def __init__(self, worker: GpuWorker) -> None:
        self.file = os.fdopen(os.memfd_create("test-slot"), "r+b", buffering=0)
        self.file.truncate(SLOT_BYTES)
        self.memory = mmap.mmap(self.file.fileno(), SLOT_BYTES)
        self.worker = worker
        try:
            self.slot = worker.open_slot(self.file.fileno())
        except BaseException:
            self.free()
            raise

    def run(self, what: int = Do.ADD) -> Tuple[int, int]:
        """Return process id and number of descriptors of the worker that answered."""
        CONTENT.pack_into(self.memory, 0, what, 0, 0)
        self.worker.run(self.slot, 1)
        return CONTENT.unpack_from(self.memory)[1:]

    @property
    def pid(self) -> int:
        """Of the worker that has begun the run; waits for it."""
        wait_until(lambda: CONTENT.unpack_from(self.memory)[1] > 0)
        return int(CONTENT.unpack_from(self.memory)[1])

    def close(self) -> None:
        self.worker.close_slot(self.slot)
        self.free()

    def free(self) -> None:
        self.memory.close()
        self.file.close()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = len(descriptors())
    yield
    assert not children("_worker")
    assert len(descriptors()) == before


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "engine"
    path.write_text("{}")
    return path


@pytest.fixture
def policy() -> RestartPolicy:
    """For ever, and without pauses; tests may bring another."""
    return RestartPolicy(pauses_s=(0.0,), within_s=0.0)


@pytest.fixture
def worker(engine: Path, policy: RestartPolicy) -> Iterator[GpuWorker]:
    made = GpuWorker(engine, command=COMMAND, policy=policy)
    yield made
    made.close()


@pytest.fixture
def place(worker: GpuWorker) -> Iterator[Place]:
    made = Place(worker)
    yield made
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def descriptors() -> Any:
    return list(Path("/proc/self/fd").iterdir())


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_when_up(place: Place) -> int:
    """Call until the worker is back, as the error asks callers to; return its process id."""
    end = time.monotonic() + 30.0
    while True:
        try:
            return place.run()[0]
        except AgentUnavailable:
            assert time.monotonic() < end
            assert not place.worker.failure
            time.sleep(0.005)


def test_a_run_is_computed_in_the_slots_memory(place: Place) -> None:
    first, _ = place.run()
    again, _ = place.run()
    assert first == again != os.getpid()


def test_runs_of_several_slots_are_in_flight_at_once(
    worker: GpuWorker, place: Place, pool: ThreadPoolExecutor
) -> None:
    others = [Place(worker) for _ in range(2)]
    held = [pool.submit(other.run, Do.HOLD) for other in others]
    for other in others:
        assert other.pid
    assert not any(each.done() for each in held)
    place.run()  # lets them go
    assert {each.result()[0] for each in held} == {place.pid}
    for other in others:
        other.close()


def test_an_error_fails_its_own_run_only(
    worker: GpuWorker, place: Place, pool: ThreadPoolExecutor
) -> None:
    neighbour = Place(worker)
    held = pool.submit(neighbour.run, Do.HOLD)
    assert neighbour.pid
    with pytest.raises(GpuFailed, match="a kernel failed") as caught:
        place.run(Do.FAIL)
    assert caught.value.code == 700
    assert held.result()[0] == place.run()[0]
    assert worker.restarts == 0
    neighbour.close()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (Do.CRASH, "was ended by SIGSEGV (Segmentation fault); its last line: about to crash"),
        (Do.LEAVE, "ended with exit status 3; its last line: bye"),
        (Do.LOSE, "was ended because of an error: the device is lost"),
    ],
)
def test_a_death_fails_all_in_flight_in_a_sentence_and_a_restart_follows(
    worker: GpuWorker, place: Place, pool: ThreadPoolExecutor, what: int, sentence: str
) -> None:
    neighbour = Place(worker)
    held = pool.submit(neighbour.run, Do.HOLD)
    assert neighbour.pid
    with pytest.raises(AgentUnavailable) as caught:
        place.run(what)
    assert str(caught.value) == f"The model's GPU worker {sentence}. Call again."
    with pytest.raises(AgentUnavailable, match=re.escape(sentence)):
        held.result()
    assert run_when_up(place) == run_when_up(neighbour)
    assert worker.restarts == 1
    neighbour.close()


@pytest.mark.parametrize("policy", [RestartPolicy((2.0,))])
def test_while_it_starts_again_calls_are_refused_at_once_and_new_slots_wait(
    worker: GpuWorker, place: Place
) -> None:
    with pytest.raises(AgentUnavailable):
        place.run(Do.CRASH)
    with pytest.raises(AgentUnavailable, match="is starting again; call again"):
        place.run()
    worker.interrupt(place.slot)  # nothing computes: nothing to end
    neighbour = Place(worker)  # waits
    assert worker.restarts == 1
    neighbour.run()
    with pytest.raises(AgentUnavailable, match="was given up"):
        place.run()
    neighbour.close()


@pytest.mark.parametrize("policy", [RestartPolicy()])
def test_who_dies_too_often_is_given_up(worker: GpuWorker, place: Place) -> None:
    for _ in range(4):
        run_when_up(place)
        with pytest.raises(AgentUnavailable):
            place.run(Do.CRASH)
    wait_until(lambda: bool(worker.failure))
    assert "died 4 times within 60 s of work and isn't started again" in worker.failure
    assert "Segmentation fault" in worker.failure
    assert worker.restarts == 3
    with pytest.raises(AgentUnavailable, match="died 4 times"):
        place.run()
    with pytest.raises(AgentUnavailable, match="died 4 times"):
        Place(worker)


@pytest.mark.parametrize("policy", [RestartPolicy((0.0, 0.0))])
def test_who_cant_start_again_is_given_up_with_the_reason(
    engine: Path, worker: GpuWorker, place: Place
) -> None:
    refusal = {"kind": "BackendUnavailable", "text": "no GPU.", "code": 0, "is_sticky": False}
    engine.write_text(json.dumps({"error": refusal}))
    with pytest.raises(AgentUnavailable):
        place.run(Do.CRASH)
    wait_until(lambda: bool(worker.failure))
    assert "because it can't open the engine: no GPU" in worker.failure


@pytest.mark.parametrize("policy", [RestartPolicy((0.0, 0.0))])
def test_who_cant_use_a_slot_again_is_given_up(
    engine: Path, worker: GpuWorker, place: Place
) -> None:
    engine.write_text(json.dumps({"refuses_slots": True}))
    with pytest.raises(AgentUnavailable):
        place.run(Do.CRASH)
    wait_until(lambda: bool(worker.failure))
    assert "because it can't use a slot again: no room" in worker.failure


def test_a_hung_run_is_ended_and_the_others_go_on(
    worker: GpuWorker, place: Place, pool: ThreadPoolExecutor
) -> None:
    neighbour, third = Place(worker), Place(worker)
    hung = pool.submit(neighbour.run, Do.HANG)
    before = neighbour.pid
    worker.interrupt(place.slot)  # which isn't the one that computes
    assert is_alive(before)
    assert not hung.done()
    worker.interrupt(neighbour.slot)
    with pytest.raises(AgentUnavailable, match="because it hung"):
        hung.result()
    assert not is_alive(before)
    assert run_when_up(third) != before
    with pytest.raises(AgentUnavailable, match="was given up"):
        neighbour.run()
    neighbour.close()
    third.close()


def test_an_interruption_of_nothing_ends_nothing(worker: GpuWorker, place: Place) -> None:
    idle, (pid, _) = Place(worker), place.run()
    worker.interrupt(idle.slot)
    for _ in range(20):
        assert place.run()[0] == pid
    assert worker.restarts == 0
    idle.close()


def test_a_replaced_or_deleted_engine_file_doesnt_matter(
    engine: Path, worker: GpuWorker, place: Place
) -> None:
    engine.unlink()
    engine.write_text("no engine")
    for _ in range(2):
        with pytest.raises(AgentUnavailable):
            place.run(Do.CRASH)
        run_when_up(place)


@pytest.mark.parametrize("what", [Do.HOLD, Do.HANG])
def test_closing_ends_a_run_in_flight_and_the_process(
    engine: Path, pool: ThreadPoolExecutor, what: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_worker, "ENDS_WITHIN_S", 0.3)
    worker = GpuWorker(engine, command=COMMAND)
    place = Place(worker)
    run = pool.submit(place.run, what)
    pid = place.pid
    worker.close_slot(place.slot)
    with pytest.raises(AgentUnavailable, match="was closed"):
        run.result()
    assert not is_alive(pid)
    worker.close()  # once more
    with pytest.raises(AgentUnavailable, match="is ending"):
        Place(worker)
    place.free()


def test_one_of_several_slots_closes_beside_a_run(
    worker: GpuWorker, place: Place, pool: ThreadPoolExecutor
) -> None:
    neighbour = Place(worker)
    held = pool.submit(neighbour.run, Do.HOLD)
    pid = neighbour.pid
    worker.close_slot(neighbour.slot)
    with pytest.raises(AgentUnavailable, match="was closed"):
        held.result()
    assert place.run()[0] == pid  # and the late answer hurts nobody
    neighbour.free()


def test_closing_doesnt_wait_for_a_pause(engine: Path, pool: ThreadPoolExecutor) -> None:
    worker = GpuWorker(engine, command=COMMAND, policy=RestartPolicy((1000.0,)))
    place = Place(worker)
    with pytest.raises(AgentUnavailable):
        place.run(Do.CRASH)
    waiting = pool.submit(Place, worker)
    time.sleep(0.05)  # enough for it to wait; it is refused all the same if it comes later
    place.close()
    with pytest.raises(AgentUnavailable, match="is ending"):
        waiting.result()


@pytest.mark.parametrize("kind", [BackendUnavailable, EngineUnusable, InvalidPackage, GpuFailed])
def test_what_hinders_the_first_start_is_raised(engine: Path, kind: Any) -> None:
    error = {"kind": kind.__name__, "text": "no way", "code": 2, "is_sticky": kind is GpuFailed}
    engine.write_text(json.dumps({"error": error}))
    with pytest.raises(kind, match=r"^no way$") as caught:
        GpuWorker(engine, command=COMMAND)
    assert type(caught.value) is kind


def test_an_engine_file_that_cant_be_opened_is_a_sentence(engine: Path) -> None:
    engine.unlink()
    with pytest.raises(BackendUnavailable, match=r"file can't be opened .*No such file.*engine"):
        GpuWorker(engine, command=COMMAND)


def test_only_errors_of_ours_say_anything_of_engine_or_model() -> None:
    assert type(read_error("InferenceFailed", "a bad batch", 0, False)) is InferenceFailed
    error = read_error("MemoryError", "met an unexpected MemoryError", 0, False)
    assert isinstance(error, GpuFailed)
    assert not error.is_sticky


def test_a_death_at_the_first_start_is_a_sentence(engine: Path) -> None:
    engine.write_text(json.dumps({"dies": True}))
    with pytest.raises(BackendUnavailable, match="exit status 1; its last line: no GPU today"):
        GpuWorker(engine, command=COMMAND)
    with pytest.raises(BackendUnavailable, match=r"can't be started .*No such file"):
        GpuWorker(engine, command=("/no/such/program",))


def test_a_start_that_hangs_is_ended(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_worker, "READY_WITHIN_S", 1.5)
    engine.write_text(json.dumps({"hangs": True}))
    with pytest.raises(BackendUnavailable, match=r"because it wasn't ready within 1.5 s"):
        GpuWorker(engine, command=COMMAND)


def test_a_start_that_hangs_and_says_much_is_ended_too(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_worker, "READY_WITHIN_S", 1.5)
    engine.write_text(json.dumps({"chatters": True}))
    with pytest.raises(BackendUnavailable, match=r"because it wasn't ready within 1.5 s"):
        GpuWorker(engine, command=COMMAND)


def test_a_run_that_nobody_interrupts_is_ended_after_a_while(
    worker: GpuWorker, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as soon:
        soon.setattr(gpu_worker, "RUN_WITHIN_S", 0.2)
        with pytest.raises(AgentUnavailable, match="because it hung"):
            place.run(Do.HANG)
    run_when_up(place)


def test_who_keeps_the_channel_open_after_the_end_holds_up_nobody(
    engine: Path, policy: RestartPolicy, pool: ThreadPoolExecutor
) -> None:
    engine.write_text(json.dumps({"stays": True}))
    worker = GpuWorker(engine, command=COMMAND, policy=policy)
    staying = [worker.ready["engine"]["stays"]]
    place = Place(worker)
    try:
        hung = pool.submit(place.run, Do.HANG)
        assert place.pid
        worker.interrupt(place.slot)
        with pytest.raises(AgentUnavailable, match="because it hung"):
            hung.result(30.0)
        neighbour = Place(worker)
        staying.append(worker.ready["engine"]["stays"])
        neighbour.run()
        neighbour.close()
        place.close()
    finally:
        for pid in staying:
            os.kill(pid, signal.SIGKILL)


def test_who_cant_be_killed_is_left_behind(
    worker: GpuWorker,
    place: Place,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a process is that the driver holds: SIGKILL stays without effect."""
    left: List[Any] = []
    hung = pool.submit(place.run, Do.HANG)
    pid = place.pid
    with monkeypatch.context() as driver:
        driver.setattr(subprocess.Popen, "kill", lambda process: left.append(process))
        driver.setattr(gpu_worker, "ENDS_WITHIN_S", 0.2)
        driver.setattr(child_process, "KILLED_WITHIN_S", 0.2)
        worker.interrupt(place.slot)
        with pytest.raises(AgentUnavailable, match=rf"can't be ended \(process {pid}\)"):
            hung.result(30.0)
    neighbour = Place(worker)
    assert neighbour.run()[0] != pid
    assert is_alive(pid)
    assert "It is left behind" in caplog.text
    left[0].kill()
    left[0].wait()
    neighbour.close()


def test_its_output_arrives_in_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AgentUnavailable):
        place.run(Do.LEAVE)
    lines = {(record.levelno, record.getMessage().partition(": ")[2]) for record in caplog.records}
    assert (logging.ERROR, "out of ideas\nTraceback ...\nOops") in lines
    assert (logging.WARNING, "bye") in lines


def test_fifty_deaths_leave_nothing(worker: GpuWorker, place: Place) -> None:
    neighbour = Place(worker)
    run_when_up(place)
    before, threads = len(descriptors()), threading.active_count()
    _, theirs = place.run()
    for _ in range(50):
        with pytest.raises(AgentUnavailable):
            place.run(Do.CRASH)
        run_when_up(place)
    assert worker.restarts == 50
    assert len(children("_worker")) == 1
    assert (len(descriptors()), threading.active_count()) == (before, threads)
    assert place.run()[1] == theirs
    neighbour.close()


def test_the_worker_has_no_descriptors_of_the_agent(place: Place) -> None:
    with open("/dev/null", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        with pytest.raises(AgentUnavailable):
            place.run(Do.CRASH)
        run_when_up(place)
        _, theirs = place.run()
    assert theirs == 6  # three standard ones, its channel, its slot, and that of counting them


KILLED = """
import sys, time
from pathlib import Path
from tests.runtime.backends.test_gpu_worker import COMMAND, Do, GpuWorker, Place
place = Place(GpuWorker(Path(sys.argv[1]), command=COMMAND))
import threading
threading.Thread(target=place.run, args=(Do.HANG,), daemon=True).start()
print(place.pid, flush=True)
time.sleep(1000)
"""


def test_the_worker_ends_with_its_agent_even_when_both_are_stuck(engine: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert is_alive(pid)
        agent.kill()
    wait_until(lambda: not is_alive(pid))


def start_together(calls: List[Callable[[], object]], pool: ThreadPoolExecutor) -> List[Any]:
    gate = threading.Barrier(len(calls))

    def go(call: Callable[[], object]) -> object:
        gate.wait()
        return call()

    return [pool.submit(go, call) for call in calls]


def test_deaths_closings_and_runs_may_come_in_any_order(
    engine: Path, policy: RestartPolicy, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_worker, "ENDS_WITHIN_S", 0.3)
    for turn in range(8):
        worker = GpuWorker(engine, command=COMMAND, policy=policy)
        places = [Place(worker) for _ in range(3)]

        calls: List[Callable[[], object]] = [
            partial(places[0].run, Do.CRASH),
            partial(places[1].run, Do.HANG if turn % 2 else Do.ADD),
            partial(worker.interrupt, places[1].slot),
            partial(worker.close_slot, places[2].slot),
            places[2].run,
        ]
        for call in start_together(calls, pool):
            if turn % 2:
                worker.interrupt(places[1].slot)  # the hung one, which else never ends
            assert isinstance(call.exception(20.0), (AgentUnavailable, type(None)))
        worker.close()
        for place in places:
            place.free()
