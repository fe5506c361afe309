"""Who computes what, in which thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Callable, Iterator, List

import pytest

from edge_agent.errors import AgentUnavailable, DeadlineExceeded, Overloaded, WrongModelState
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.batching.batcher import Batcher, BatchingOptions, Retired
from edge_agent.types import Caller

ANYBODY = Caller()


class Gate:
    """An instance that computes only while its gate is open: item n → n * 10.

    It is an engine that can be interrupted (as onnxruntime) or can't.
    """

    def __init__(self, max_batch: int = 4, can_interrupt: bool = True) -> None:
        self.max_batch = max_batch
        self.can_interrupt = can_interrupt
        self.interrupted = False
        self.entered = threading.Event()
        self.open = threading.Event()
        self.batches: List[List[int]] = []
        self.threads: List[int] = []
        self.closed = threading.Event()

    def compute(self, batch: List[Item]) -> None:
        self.batches.append([item.work for item in batch])
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.open.wait(10)
        for item in batch:
            if item.work < 0:
                item.fail(ValueError("negative"))
            else:
                item.resolve(item.work * 10)

    def interrupt(self) -> None:
        self.interrupted = True
        self.open.set()

    def close(self) -> None:
        self.closed.set()


class Line:
    """A batcher with one gate, and callers in threads of their own."""

    def __init__(self, gate: Gate, options: BatchingOptions) -> None:
        self.gate = gate
        self.batcher = Batcher([gate], options)
        self._callers = ThreadPoolExecutor(16)

    def call(self, work: int, caller: Caller = ANYBODY) -> Future[int]:
        """Call as a caller does, and return when its frame is computed or waits."""
        before = self._seen()
        future = self._callers.submit(self.batcher.run, Item(work, time.monotonic(), caller))
        until(lambda: self._seen() > before or future.done())
        return future

    def end(self) -> None:
        self.gate.open.set()
        assert self.batcher.close(10)
        self._callers.shutdown()

    def _seen(self) -> int:
        return sum(map(len, self.gate.batches)) + len(self.batcher._queue)


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """A line with a closed gate; parametrize with (gate, options) for another."""
    gate, options = getattr(request, "param", (Gate(), BatchingOptions()))
    made = Line(gate, options)
    yield made
    made.end()
    assert gate.closed.wait(10)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.001)


def test_cancel_one_of_three_and_the_other_two_finish(line: Line) -> None:
    leave: List[Callable[[], object]] = []

    def on_cancel(action: Callable[[], object]) -> bool:
        leave.append(action)
        return True

    blocker, first = line.call(0), line.call(1)
    second, third = line.call(2, Caller(on_cancel=on_cancel)), line.call(3)
    until(lambda: bool(leave))
    leave[0]()
    with pytest.raises(CancelledError):
        second.result(10)
    line.gate.open.set()
    assert (blocker.result(10), first.result(10), third.result(10)) == (0, 10, 30)
    assert line.gate.batches == [[0], [1, 3]]


def test_one_failing_item_does_not_touch_its_neighbours(line: Line) -> None:
    blocker, good, bad, fine = (line.call(n) for n in (0, 1, -1, 2))
    line.gate.open.set()
    assert (blocker.result(10), good.result(10), fine.result(10)) == (0, 10, 20)
    with pytest.raises(ValueError, match="negative"):
        bad.result(10)
    assert line.gate.batches == [[0], [1, -1, 2]]


@pytest.mark.parametrize("line", [(Gate(max_batch=3), BatchingOptions())], indirect=True)
def test_while_the_instance_is_busy_frames_gather_to_batches(line: Line) -> None:
    futures = [line.call(n) for n in range(6)]
    line.gate.open.set()
    assert [future.result(10) for future in futures] == [0, 10, 20, 30, 40, 50]
    assert line.gate.batches == [[0], [1, 2, 3], [4, 5]]


def test_on_a_quiet_line_the_caller_computes_itself(line: Line) -> None:
    line.gate.open.set()
    for work in (1, 2):
        assert line.batcher.run(Item(work, time.monotonic(), Caller())) == 10 * work
    assert line.gate.threads == [threading.get_ident()] * 2


def test_frames_behind_a_caller_are_computed_by_the_instances_own_thread(line: Line) -> None:
    futures = [line.call(n) for n in range(2)]
    line.gate.open.set()
    assert [future.result(10) for future in futures] == [0, 10]
    own = line.batcher._threads[0].ident
    assert line.gate.threads[0] != own
    assert line.gate.threads[1] == own


@pytest.mark.parametrize("line", [(Gate(can_interrupt=False), BatchingOptions())], indirect=True)
def test_an_engine_that_cannot_be_interrupted_never_runs_in_a_callers_thread(line: Line) -> None:
    line.gate.open.set()
    assert line.batcher.run(Item(1, time.monotonic(), Caller())) == 10
    assert line.gate.threads == [line.batcher._threads[0].ident]


@pytest.mark.parametrize(
    "line", [(Gate(max_batch=3), BatchingOptions(gather_s=5.0))], indirect=True
)
def test_with_a_gathering_window_an_idle_instance_waits_for_a_full_batch(line: Line) -> None:
    line.gate.open.set()
    futures = [line.call(n) for n in range(3)]
    assert [future.result(4) for future in futures] == [0, 10, 20]
    assert line.gate.batches == [[0, 1, 2]]


@pytest.mark.parametrize(
    "line", [(Gate(max_batch=3), BatchingOptions(gather_s=0.02))], indirect=True
)
def test_the_gathering_window_ends(line: Line) -> None:
    line.gate.open.set()
    assert line.call(4).result(10) == 40


def test_a_caller_that_is_gone_already_is_not_computed(line: Line) -> None:
    blocker = line.call(0)
    with pytest.raises(CancelledError):
        line.call(1, Caller(on_cancel=lambda _action: False)).result(10)
    line.gate.open.set()
    assert blocker.result(10) == 0


def test_a_caller_whose_deadline_passed_is_never_computed(line: Line) -> None:
    with pytest.raises(DeadlineExceeded):
        line.batcher.run(Item(1, time.monotonic(), Caller(deadline=0.0)))
    assert line.gate.batches == []


def test_a_deadline_shorter_than_the_engine_takes_is_refused_while_that_is_known() -> None:
    clock = [100.0]
    gate = Gate()
    gate.open.set()
    batcher = Batcher([gate], BatchingOptions(), clock=lambda: clock[0])
    gate.entered.set()
    original = gate.compute

    def slow(batch: List[Item]) -> None:
        clock[0] += 2.0
        original(batch)

    gate.compute = slow  # type: ignore[method-assign]
    assert batcher.run(Item(1, clock[0], Caller())) == 10
    with pytest.raises(DeadlineExceeded, match="a frame takes 2000 ms"):
        batcher.run(Item(2, clock[0], Caller(deadline=clock[0] + 1.0)))
    clock[0] += 60.0  # what was so a minute ago may have changed
    assert batcher.run(Item(3, clock[0], Caller(deadline=clock[0] + 1.0))) == 30
    assert batcher.close(10)


class Timed:
    """A batcher whose clock a frame moves on, and how long the process stood still of that."""

    def __init__(self) -> None:
        self.now_s, self.still_s, self.takes_s = 100.0, 0.0, 0.1
        self.gate = Gate()
        self.gate.open.set()
        self._compute = self.gate.compute
        self.gate.compute = self.compute  # type: ignore[method-assign]
        self.batcher = Batcher(
            [self.gate], BatchingOptions(), lambda: self.now_s, lambda _since: self.still_s
        )

    def compute(self, batch: List[Item]) -> None:
        self.now_s += self.takes_s
        self._compute(batch)

    def call(self, within_s: float) -> None:
        self.batcher.run(Item(1, self.now_s, Caller(deadline=self.now_s + within_s)))


@pytest.mark.parametrize("before", [0, 1, 40])
def test_a_frame_during_which_the_process_stood_still_is_no_evidence(before: int) -> None:
    line = Timed()
    for _ in range(before):
        line.call(1.0)
    line.now_s += 30.0
    line.takes_s = line.still_s = 100.0
    line.call(1.0)
    line.takes_s, line.still_s = 0.1, 0.0
    line.call(1.0)
    assert line.batcher._durations.frame_s == pytest.approx(0.1)
    assert line.batcher.close(10)


def test_an_instance_does_not_hang_while_the_process_stands_still(line: Line) -> None:
    still_s = [1e6]
    line.batcher._stood_still_s = lambda _since: still_s[0]
    stuck = line.call(1)
    assert line.batcher.give_up_hung(limit_s=0.0) == 0
    still_s[0] = 0.0
    assert line.batcher.give_up_hung(limit_s=0.0) == 1
    with pytest.raises(AgentUnavailable):
        stuck.result(10)


@pytest.mark.parametrize("line", [(Gate(), BatchingOptions(queue_length=1))], indirect=True)
def test_a_full_queue_refuses_at_once(line: Line) -> None:
    waiting = [line.call(0), line.call(1)]
    with pytest.raises(Overloaded, match="1 frames are waiting"):
        line.call(2).result(10)
    line.gate.open.set()
    assert [future.result(10) for future in waiting] == [0, 10]


def test_closing_finishes_what_waits_and_refuses_what_comes(line: Line) -> None:
    futures = [line.call(n) for n in range(3)]
    closed: List[bool] = []
    closer = threading.Thread(target=lambda: closed.append(line.batcher.close(10)))
    closer.start()
    until(lambda: line.batcher._closing)
    with pytest.raises(Retired):
        line.batcher.run(Item(9, time.monotonic(), Caller()))
    line.gate.open.set()
    closer.join(10)
    assert closed == [True]
    assert [future.result(10) for future in futures] == [0, 10, 20]


def test_closing_gives_up_on_an_instance_that_takes_too_long(line: Line) -> None:
    running, waiting = line.call(1), line.call(2)
    assert not line.batcher.close(0.05)
    with pytest.raises(WrongModelState):
        waiting.result(10)
    line.gate.open.set()
    assert running.result(10) == 10


@pytest.mark.parametrize("can_interrupt", [True, False])
def test_a_hung_instance_is_given_up_and_its_callers_may_try_again(can_interrupt: bool) -> None:
    hung, spare = Gate(can_interrupt=can_interrupt), Gate()
    spare.open.set()
    line = Line(hung, BatchingOptions())
    stuck = line.call(1)
    assert hung.entered.wait(10)
    waiting = line.call(2)
    assert line.batcher.give_up_hung(limit_s=60.0) == 0
    until(lambda: line.batcher.give_up_hung(limit_s=0.01) == 1)
    with pytest.raises(AgentUnavailable, match=r"didn't answer for 0\.01 s"):
        stuck.result(10)
    assert hung.interrupted is can_interrupt
    assert line.batcher.instances == 0
    line.batcher.add(spare)
    assert waiting.result(10) == 20
    assert spare.batches == [[2]]
    line.end()  # joins no thread of the one that was given up
    assert hung.closed.wait(10)


def test_instances_come_and_go(line: Line) -> None:
    more = Gate()
    line.batcher.add(more)
    items = [Item(n, time.monotonic(), Caller()) for n in (1, 2)]
    futures = [line._callers.submit(line.batcher.run, item) for item in items]
    assert line.gate.entered.wait(10)
    assert more.entered.wait(10)
    line.gate.open.set()
    more.open.set()
    assert [future.result(10) for future in futures] == [10, 20]
    until(lambda: line.batcher.remove())
    assert not line.batcher.remove()  # one stays
    until(lambda: line.gate.closed.is_set() or more.closed.is_set())
    assert line.batcher.instances == 1


def busy_beside(line: Line, other: Gate) -> List[Future[int]]:
    """Calls 1 and 2, computed by the line's gate and by `other`, which is added."""
    first = line.call(1)
    assert line.gate.entered.wait(10)
    line.batcher.add(other)
    second = line._callers.submit(line.batcher.run, Item(2, time.monotonic(), ANYBODY))
    assert other.entered.wait(10)
    return [first, second]


def test_a_busy_instance_that_is_one_too_many_goes_after_its_batch(line: Line) -> None:
    other = Gate()
    taken = busy_beside(line, other)
    waiting = line.call(3)
    assert line.batcher.remove()
    assert line.batcher.instances == 1
    assert not line.batcher.remove()  # one stays
    line.gate.open.set()
    assert line.gate.closed.wait(10)
    assert not waiting.done()
    other.open.set()
    assert [future.result(10) for future in (*taken, waiting)] == [10, 20, 30]
    assert other.batches == [[2], [3]]


@pytest.mark.parametrize("can_interrupt", [True, False])
def test_an_instance_that_hangs_goes_before_one_that_is_idle(can_interrupt: bool) -> None:
    line = Line(Gate(can_interrupt=can_interrupt), BatchingOptions())
    idle = Gate(can_interrupt=can_interrupt)
    idle.open.set()
    stuck = line.call(1)
    assert line.gate.entered.wait(10)
    line.batcher.add(idle)
    assert line.batcher.remove()
    assert not line.batcher.remove()  # one stays
    assert line.call(2).result(10) == 20
    assert not stuck.done()
    line.end()
    assert stuck.result(10) == 10
    assert line.gate.closed.wait(10)


def test_of_two_busy_instances_the_one_longest_at_its_batch_goes() -> None:
    line, other = Line(Gate(), BatchingOptions()), Gate()
    original = line.gate.compute

    def compute(batch: List[Item]) -> None:
        """Shut the gate again behind each batch."""
        original(batch)
        line.gate.open.clear()

    line.gate.compute = compute  # type: ignore[method-assign]
    first, second = busy_beside(line, other)
    third = line.call(3)
    line.gate.open.set()
    assert first.result(10) == 10
    until(lambda: line.gate.batches == [[1], [3]])
    assert line.batcher.remove()
    other.open.set()
    assert second.result(10) == 20
    assert other.closed.wait(10)
    line.gate.open.set()
    assert third.result(10) == 30
    line.end()


@pytest.mark.parametrize("can_interrupt", [True, False])
def test_a_busy_instance_that_is_to_go_may_still_hang(can_interrupt: bool) -> None:
    line, other = Line(Gate(can_interrupt=can_interrupt), BatchingOptions()), Gate()
    stuck, last = busy_beside(line, other)
    assert line.batcher.remove()
    other.open.set()
    assert last.result(10) == 20
    until(lambda: line.batcher.give_up_hung(limit_s=0.01) == 1)
    with pytest.raises(AgentUnavailable):
        stuck.result(10)
    assert line.batcher.instances == 1
    line.end()
    assert line.gate.closed.wait(10)


def test_the_load_tells_how_busy_the_instances_were() -> None:
    clock = [0.0]
    gate = Gate()
    line = Line(gate, BatchingOptions())
    line.batcher._clock = lambda: clock[0]
    line.batcher.load()
    first, second = line.call(1), line.call(2)
    clock[0] += 4.0
    load = line.batcher.load()
    assert (load.instances, load.waiting, load.waited) == (1, 1, 1)
    assert load.busy == pytest.approx(1.0)
    gate.open.set()
    assert first.result(10) + second.result(10) == 30
    until(lambda: bool(line.batcher._idle))
    clock[0] += 4.0
    load = line.batcher.load()
    assert (load.waiting, load.waited, load.busy) == (0, 0, pytest.approx(0.0))
    line.end()
