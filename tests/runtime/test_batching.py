from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from typing import Callable, List, Optional

import pytest

from edge_agent.errors import DeadlineExceeded, Overloaded, WrongModelState
from edge_agent.runtime.batching.batch import Item, Queue
from edge_agent.runtime.batching.batcher import Batcher, Retired
from edge_agent.types import Caller


class Gate:
    """An instance that computes only while its gate is open: item n → n * 10."""

    def __init__(self, max_batch: int = 4) -> None:
        self.max_batch = max_batch
        self.entered = threading.Event()
        self.open = threading.Event()
        self.batches: List[List[int]] = []
        self.threads: List[int] = []
        self.closed = False

    def compute(self, batch: List[Item]) -> None:
        self.batches.append([item.work for item in batch])
        self.threads.append(threading.get_ident())
        self.entered.set()
        assert self.open.wait(10)
        for item in batch:
            if item.work < 0:
                item.future.set_exception(ValueError("negative"))
            else:
                item.future.set_result(item.work * 10)

    def close(self) -> None:
        self.closed = True


def item(work: int, deadline: Optional[float] = None) -> Item:
    return Item(work, 0.0, Caller(deadline))


def test_cancel_one_of_three_and_the_other_two_finish() -> None:
    gate = Gate()
    batcher = Batcher([gate], capacity=10)
    blocker = batcher.submit(0, Caller())
    assert gate.entered.wait(10)
    first, second, third = (batcher.submit(n, Caller()) for n in (1, 2, 3))
    assert second.cancel()
    gate.open.set()
    assert (blocker.result(10), first.result(10), third.result(10)) == (0, 10, 30)
    assert batcher.close(10)
    assert gate.batches == [[0], [1, 3]]
    assert gate.closed


def test_one_failing_item_does_not_touch_its_neighbours() -> None:
    gate = Gate()
    gate.open.set()
    batcher = Batcher([gate], capacity=10)
    good, bad, fine = (
        batcher.submit(1, Caller()),
        batcher.submit(-1, Caller()),
        batcher.submit(2, Caller()),
    )
    assert good.result(10) == 10
    with pytest.raises(ValueError, match="negative"):
        bad.result(10)
    assert fine.result(10) == 20
    assert batcher.close(10)


def test_an_idle_instance_takes_an_item_at_once_and_busy_ones_let_them_gather() -> None:
    gate = Gate(max_batch=3)
    batcher = Batcher([gate], capacity=10)
    futures = [batcher.submit(0, Caller())]
    assert gate.entered.wait(10)
    futures += [batcher.submit(n, Caller()) for n in range(1, 6)]
    gate.open.set()
    assert [future.result(10) for future in futures] == [0, 10, 20, 30, 40, 50]
    assert gate.batches == [[0], [1, 2, 3], [4, 5]]
    assert batcher.close(10)


def test_on_a_quiet_line_the_caller_computes_itself() -> None:
    gate = Gate()
    gate.open.set()
    batcher = Batcher([gate], capacity=10)
    assert [batcher.run(n, Caller()) for n in (1, 2)] == [10, 20]
    assert gate.threads == [threading.get_ident()] * 2
    assert batcher.close(10)
    assert gate.closed


def test_frames_that_gathered_behind_a_caller_are_computed_by_the_instance_itself() -> None:
    gate = Gate()
    batcher = Batcher([gate], capacity=10)
    results: List[int] = []
    caller = threading.Thread(target=lambda: results.append(batcher.run(0, Caller())))
    caller.start()
    assert gate.entered.wait(10)
    behind = [batcher.submit(n, Caller()) for n in (1, 2)]
    gate.open.set()
    assert [future.result(10) for future in behind] == [10, 20]
    caller.join(10)
    assert results == [0]
    assert gate.batches == [[0], [1, 2]]
    assert gate.threads[0] != gate.threads[1]
    assert batcher.close(10)


def test_a_caller_that_goes_while_its_frame_waits_is_told_and_costs_no_slot() -> None:
    gate = Gate()
    batcher = Batcher([gate], capacity=10)
    blocker = batcher.submit(0, Caller())
    assert gate.entered.wait(10)
    leave: List[Callable[[], object]] = []

    def when_gone(action: Callable[[], object]) -> bool:
        leave.append(action)
        return True

    told: List[bool] = []

    def wait() -> None:
        with pytest.raises(CancelledError):
            batcher.run(1, Caller(when_gone=when_gone))
        told.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    _until(lambda: bool(leave))
    leave[0]()
    waiting.join(10)
    with pytest.raises(CancelledError):  # gone before it was queued
        batcher.run(2, Caller(when_gone=lambda _action: False))
    gate.open.set()
    assert blocker.result(10) == 0
    assert batcher.close(10)
    assert (told, gate.batches) == ([True], [[0]])


def test_a_caller_whose_deadline_passed_is_never_computed() -> None:
    gate = Gate()
    batcher = Batcher([gate], capacity=10, clock=lambda: 7.0)
    with pytest.raises(DeadlineExceeded):
        batcher.run(1, Caller(deadline=7.0))
    assert batcher.close(10)
    assert gate.batches == []


def test_a_full_queue_refuses_at_once_and_says_how_long_it_is() -> None:
    queue = Queue(capacity=2)
    queue.offer(item(1))
    queue.offer(item(2))
    with pytest.raises(Overloaded, match="2 frames are waiting"):
        queue.offer(item(3))
    assert [taken.work for taken in queue.take(0.0, 10)] == [1, 2]


def test_a_late_item_is_never_computed() -> None:
    queue = Queue(capacity=10)
    late, timely = item(1, deadline=5.0), item(2, deadline=7.0)
    queue.offer(late)
    queue.offer(timely)
    assert queue.take(now=6.0, limit=1) == [timely]
    with pytest.raises(DeadlineExceeded, match="6000 ms"):
        late.future.result(0)


def test_a_cancelled_item_costs_no_slot() -> None:
    queue = Queue(capacity=10)
    items = [item(n) for n in range(4)]
    for one in items:
        queue.offer(one)
    assert items[0].future.cancel()
    assert [taken.work for taken in queue.take(0.0, 2)] == [1, 2]


def test_closing_finishes_what_waits_and_refuses_what_comes() -> None:
    gate = Gate()
    batcher = Batcher([gate], capacity=10)
    futures = [batcher.submit(n, Caller()) for n in range(3)]
    closed: List[bool] = []
    closer = threading.Thread(target=lambda: closed.append(batcher.close(10)))
    closer.start()
    _until(lambda: _refuses(batcher))
    gate.open.set()
    closer.join(10)
    assert closed == [True]
    assert [future.result(0) for future in futures] == [0, 10, 20]


def test_closing_gives_up_on_an_instance_that_hangs() -> None:
    gate = Gate(max_batch=1)
    batcher = Batcher([gate], capacity=10)
    running = batcher.submit(1, Caller())
    assert gate.entered.wait(10)
    waiting = batcher.submit(2, Caller())
    assert not batcher.close(0.05)
    with pytest.raises(WrongModelState):
        waiting.result(0)
    gate.open.set()
    assert running.result(10) == 10


def _refuses(batcher: Batcher) -> bool:
    try:
        batcher.submit(99, Caller())
    except Retired:
        return True
    return False


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.001)
