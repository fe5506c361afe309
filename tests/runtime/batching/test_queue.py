"""Decisions of the queue, without threads or clocks."""

from __future__ import annotations

import random
from typing import Dict, List, Set

import pytest

from edge_agent.errors import DeadlineExceeded, Overloaded
from edge_agent.runtime.batching.batch import BatchDurations, Item, Queue
from edge_agent.types import Caller, Priority

INSPECTION, RESCORING = Priority.INSPECTION, Priority.RESCORING


def item(work: int, caller: str = "a", held_bytes: int = 0, **more: object) -> Item:
    return Item(work, 0.0, Caller(caller, **more), held_bytes=held_bytes)  # type: ignore[arg-type]


def queue_of(*items: Item, capacity: int = 100, capacity_bytes: int = 1000) -> Queue:
    queue = Queue(capacity, capacity_bytes)
    for one in items:
        queue.offer(one, 0.0)
    return queue


def works(items: List[Item]) -> List[int]:
    return [one.work for one in items]


def test_one_caller_is_served_in_order() -> None:
    queue = queue_of(*(item(n) for n in range(5)))
    assert works(queue.take(0.0, 3)) == [0, 1, 2]
    assert works(queue.take(0.0, 3)) == [3, 4]
    assert len(queue) == 0


def test_callers_take_turns() -> None:
    flood = [item(n, "flood") for n in range(6)]
    queue = queue_of(*flood, item(10, "b"), item(20, "c"), item(11, "b"))
    assert works(queue.take(0.0, 4)) == [0, 10, 20, 1]
    assert works(queue.take(0.0, 9)) == [11, 2, 3, 4, 5]


def test_a_caller_that_comes_back_waits_its_turn() -> None:
    queue = queue_of(item(0, "a"), item(10, "b"))
    assert works(queue.take(0.0, 1)) == [0]
    queue.offer(item(1, "a"), 0.0)
    assert works(queue.take(0.0, 2)) == [10, 1]


def test_inspection_goes_before_rescoring() -> None:
    queue = queue_of(item(1, priority=RESCORING), item(2), item(3, priority=RESCORING), item(4))
    assert works(queue.take(0.0, 3)) == [2, 4, 1]


def test_a_full_queue_refuses_at_once_and_says_how_long_it_is_and_when_to_return() -> None:
    queue = queue_of(item(1), item(2), capacity=2)
    with pytest.raises(Overloaded, match=r"2 frames are waiting.*after 50 ms") as caught:
        queue.offer(item(3), frame_s=0.025)
    assert (caught.value.waiting, caught.value.retry_after_s) == (2, 0.05)
    assert works(queue.take(0.0, 10)) == [1, 2]


def test_a_full_queue_drops_the_newest_of_the_caller_that_floods_it() -> None:
    flood = [item(n, "flood") for n in range(4)]
    queue = queue_of(*flood, capacity=4)
    queue.offer(item(10, "polite"), 0.0)
    with pytest.raises(Overloaded):
        flood[3].future.result(0)
    with pytest.raises(Overloaded):
        queue.offer(item(4, "flood"), 0.0)
    assert works(queue.take(0.0, 9)) == [0, 10, 1, 2]


def test_equal_callers_refuse_the_newcomer() -> None:
    queue = queue_of(item(0, "a"), item(10, "b"), item(1, "a"), item(11, "b"), capacity=4)
    with pytest.raises(Overloaded):
        queue.offer(item(2, "a"), 0.0)


def test_inspection_takes_the_place_of_rescoring_and_never_the_other_way() -> None:
    kept = [item(n, "store", priority=RESCORING) for n in range(2)]
    queue = queue_of(*kept, capacity=2)
    queue.offer(item(10, "line"), 0.0)
    with pytest.raises(Overloaded):
        kept[1].future.result(0)
    queue.offer(item(11, "line"), 0.0)
    with pytest.raises(Overloaded):
        queue.offer(item(2, "other store", priority=RESCORING), 0.0)
    assert works(queue.take(0.0, 9)) == [10, 11]


def test_frames_held_in_memory_are_bounded_by_their_bytes() -> None:
    queue = queue_of(item(1, held_bytes=600), item(2, held_bytes=400))
    with pytest.raises(Overloaded):
        queue.offer(item(3, held_bytes=1), 0.0)
    queue.offer(item(4), 0.0)  # in shared memory
    assert works(queue.take(0.0, 1)) == [1]
    queue.offer(item(5, held_bytes=600), 0.0)


def test_a_single_frame_larger_than_the_bound_may_still_wait() -> None:
    assert works(queue_of(item(1, held_bytes=5000)).take(0.0, 1)) == [1]


def test_a_late_item_is_never_computed() -> None:
    late, timely = item(1, deadline=5.0), item(2, deadline=7.0)
    queue = queue_of(late, timely)
    assert queue.take(now=6.0, limit=1) == [timely]
    with pytest.raises(DeadlineExceeded, match="0 ms are left after 6000 ms"):
        late.future.result(0)


def test_an_item_whose_deadline_cannot_be_met_costs_no_slot() -> None:
    tight, easy = item(1, deadline=6.5), item(2, deadline=8.0)
    queue = queue_of(tight, easy)
    assert queue.take(now=6.0, limit=1, needed_s=1.0) == [easy]
    with pytest.raises(DeadlineExceeded, match=r"500 ms are left .* takes 1000 ms"):
        tight.future.result(0)


def test_a_cancelled_item_costs_no_slot() -> None:
    items = [item(n) for n in range(4)]
    queue = queue_of(*items)
    assert items[0].future.cancel()
    assert works(queue.take(0.0, 2)) == [1, 2]


def test_cancelled_items_make_room() -> None:
    items = [item(n) for n in range(3)]
    queue = queue_of(*items, capacity=3)
    assert items[1].future.cancel()
    queue.offer(item(3), 0.0)
    assert works(queue.take(0.0, 9)) == [0, 2, 3]


class Simulation:
    """A random schedule of arrivals, cancellations, failures and units, on a simulated clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.queue = Queue(self.random.randint(1, 12), self.random.randint(1, 40))
        self.limit = self.random.randint(1, 5)
        self.needed_s = self.random.choice((0.0, 0.5))
        self.now = 0.0
        self.items: List[Item] = []
        self.refused: Set[int] = set()
        self.computed: Dict[int, float] = {}
        self.working: List[List[Item]] = []

    def run(self) -> None:
        steps = (self.arrive, self.arrive, self.begin, self.finish, self.cancel)
        for _ in range(60):
            self.now += self.random.random()
            self.random.choice(steps)()
        while len(self.queue) or self.working:
            self.begin()
            self.finish()

    def arrive(self) -> None:
        number = len(self.items)
        deadline = self.random.choice((None, self.now - 0.1, self.now + 3 * self.random.random()))
        caller = Caller(self.random.choice("abcd"), self.random.choice(list(Priority)), deadline)
        one = Item(number, self.now, caller, held_bytes=self.random.randint(0, 9))
        self.items.append(one)
        try:
            self.queue.offer(one, 0.1)
        except Overloaded:
            self.refused.add(number)

    def begin(self) -> None:
        batch = self.queue.take(self.now, self.limit, self.needed_s)
        assert len(batch) <= self.limit
        for one in batch:
            assert one.work not in self.computed, "computed twice"
            self.computed[one.work] = self.now
        if batch:
            self.working.append(batch)

    def finish(self) -> None:
        if self.working:
            batch = self.working.pop(self.random.randrange(len(self.working)))
            for one in batch:
                if self.random.random() < 0.2:
                    one.fail(ValueError(str(one.work)))
                else:
                    one.resolve(one.work * 10)

    def cancel(self) -> None:
        if self.items:
            self.random.choice(self.items).future.cancel()

    def check(self) -> None:
        for one in self.items:
            number, future = one.work, one.future
            if number in self.refused:
                assert number not in self.computed
                assert not future.done() or future.cancelled()
            elif future.cancelled():
                assert number not in self.computed
            else:
                self.check_answer(one)

    def check_answer(self, one: Item) -> None:
        number, error = one.work, one.future.exception(0)
        if error is None:
            assert one.future.result(0) == number * 10
        elif isinstance(error, ValueError):
            assert str(error) == str(number)
        elif isinstance(error, DeadlineExceeded):
            assert one.caller.deadline is not None
            assert number not in self.computed
            return
        else:
            assert isinstance(error, Overloaded), "another caller's error"
            assert number not in self.computed
            return
        began = self.computed[number]
        assert one.caller.deadline is None or one.caller.deadline > began + self.needed_s


@pytest.mark.parametrize("block", range(10))
def test_in_random_schedules_no_result_is_lost_doubled_or_given_to_another(block: int) -> None:
    """10,000 schedules: every item ends in exactly one of computed, refused, late, cancelled."""
    for seed in range(1000 * block, 1000 * (block + 1)):
        simulation = Simulation(seed)
        simulation.run()
        simulation.check()


def durations(*seconds: float) -> BatchDurations:
    """Know batches of two frames, one every 20 s until now, which is 0."""
    known = BatchDurations()
    for index, one in enumerate(seconds, 1 - len(seconds)):
        known.add(20.0 * index, one, 2)
    return known


@pytest.mark.parametrize("place", [0, 5, 9])
def test_one_slow_batch_changes_neither_the_usual_time_nor_the_least(place: int) -> None:
    times = [0.2] * 10
    times[place] = 100.0
    known = durations(*times)
    assert (known.frame_s, known.least_s(0.0)) == (0.1, 0.2)


def test_only_the_last_batches_count() -> None:
    assert durations(*[100.0, 0.001] * 20, *[0.2] * 32).least_s(0.0) == 0.2
    assert durations(*[0.2] * 32, *[5.0] * 32).frame_s == 2.5


@pytest.mark.parametrize(
    ("batches", "after_s", "least_s"),
    [(0, 0.0, 0.0), (1, 0.9, 3.0), (1, 1.1, 0.0), (4, 3.9, 3.0), (20, 9.9, 3.0), (20, 10.1, 0.0)],
)
def test_what_few_batches_show_is_believed_for_a_short_time(
    batches: int, after_s: float, least_s: float
) -> None:
    assert durations(*[3.0] * batches).least_s(after_s) == least_s
