"""What passes when, and what becomes of what doesn't."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Optional

import pytest

from edge_agent.runtime.results import delivery, delivery_cursor
from edge_agent.runtime.results.sink import (
    Message,
    MessageRefused,
    MessageRejected,
    NotAnswered,
    SinkUnavailable,
)
from edge_agent.runtime.results.spool.database import DiskError
from tests.runtime.results.outboxes import CommandedSink, Delivering, make, open_outbox, wait_until


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(delivery, "LONGEST_BACKOFF_S", 0.02)


def arrives(message: Message) -> Optional[Exception]:
    return None


def test_events_arrive_in_order_and_are_gone_from_disk(tmp_path: Path) -> None:
    sink = CommandedSink(arrives)
    events = [make(f"model-{n % 3}") for n in range(600)]
    with Delivering(tmp_path, sink) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: len(sink.arrived) == 600)

    for model in ("model-0", "model-1", "model-2"):
        arrived = [message.id for message in sink.arrived if message.model == model]
        assert arrived == [event.id for event in events if event.model == model]
    outbox = open_outbox(tmp_path)
    assert not outbox.last_sequences()
    outbox.close(5)


def test_nothing_is_lost_while_the_sink_comes_and_goes(tmp_path: Path) -> None:
    calls = [0]

    def behave(message: Message) -> Optional[Exception]:
        calls[0] += 1
        return SinkUnavailable("away") if calls[0] % 100 < 60 else None

    sink = CommandedSink(behave)
    events = [make(f"model-{n % 2}") for n in range(500)]
    with Delivering(tmp_path, sink, drain_per_s=100_000) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {event.id for event in events} <= set(sink.ids()))

    assert not delivering.dead


def test_connections_lost_in_the_middle_of_a_round_cost_no_order(tmp_path: Path) -> None:
    """What was sent after the loss is lost as well, until the connection is made anew."""
    events = [make() for _ in range(500)]
    sent, lost_at = [0], [0]

    def behave(message: Message) -> Optional[Exception]:
        sent[0] += 1
        if not lost_at[0] and sent[0] % 37 == 0:
            lost_at[0] = sent[0]
        elif lost_at[0] and sent[0] > lost_at[0] + 50 and message.id == head():
            lost_at[0] = 0
        return SinkUnavailable("lost") if lost_at[0] else None

    def head() -> str:
        arrived = {message.id for message in sink.arrived}
        return next(event.id for event in events if event.id not in arrived)

    sink = CommandedSink(behave)
    with Delivering(tmp_path, sink, drain_per_s=100_000) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {event.id for event in events} <= set(sink.ids()))

    assert [m.id for m in sink.arrived if m.model == "bolts"] == [event.id for event in events]


def test_a_poisonous_message_goes_to_the_dead_letters_and_the_rest_goes_on(tmp_path: Path) -> None:
    events = [make("bolts" if n % 2 else "nuts") for n in range(60)]
    poison = events[21].id

    def behave(message: Message) -> Optional[Exception]:
        return SinkUnavailable("no reason given") if message.id == poison else None

    sink = CommandedSink(behave, window=4)
    with Delivering(tmp_path, sink, tries=4, drain_per_s=100_000) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {e.id for e in events} - set(sink.ids()) == {poison})
        wait_until(lambda: bool(delivering.dead))

    assert [entry.id for entry, _ in delivering.dead] == [poison]
    assert delivering.dead[0][1] == "no reason given"
    assert sum(message.id == poison for message in sink.tried) >= 4
    assert poison not in sink.ids()


def test_a_message_that_kills_the_connection_is_found_out_though_it_takes_all_others_along(
    tmp_path: Path,
) -> None:
    """As a broker does that answers an unwelcome message by disconnecting."""
    events = [make("only-model") for _ in range(10)]
    poison, refusals = events[4].id, [0]

    def behave(message: Message) -> Optional[Exception]:
        if message.id == poison:
            refusals[0] = 3  # itself and the next two
        if refusals[0] == 0:
            return None
        refusals[0] -= 1
        return SinkUnavailable("disconnected")

    sink = CommandedSink(behave, window=3)
    with Delivering(tmp_path, sink, tries=3, drain_per_s=100_000) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {e.id for e in events} - set(sink.ids()) == {poison})
        wait_until(lambda: bool(delivering.dead))

    assert [entry.id for entry, _ in delivering.dead] == [poison]
    assert delivering.stalls >= 1  # it was asked whether anything passes


def test_an_outage_makes_no_message_poisonous(tmp_path: Path) -> None:
    up = threading.Event()

    def behave(message: Message) -> Optional[Exception]:
        return None if up.is_set() else SinkUnavailable("offline")

    sink = CommandedSink(behave, window=4)
    with Delivering(tmp_path, sink, tries=2, drain_per_s=100_000) as delivering:
        events = [make(f"model-{n % 3}") for n in range(30)]
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: len(sink.tried) > 100)
        assert delivering.delivery.problem == "offline"
        up.set()
        sink.wait_for(lambda: {e.id for e in events} <= set(sink.ids()))
        wait_until(lambda: not delivering.delivery.problem)

    assert not delivering.dead


def test_a_refused_topic_holds_only_its_own_model_and_loses_nothing(tmp_path: Path) -> None:
    allowed = threading.Event()

    def behave(message: Message) -> Optional[Exception]:
        if message.model == "secret" and not allowed.is_set():
            return MessageRefused("not authorised to publish on x/secret")
        return None

    sink = CommandedSink(behave)
    with Delivering(tmp_path, sink, tries=2, drain_per_s=100_000) as delivering:
        for n in range(100):
            delivering.outbox.offer(make("secret" if n % 2 else "bolts"))
        sink.wait_for(lambda: len(sink.arrived) == 50)
        assert "not authorised" in delivering.delivery.problem
        wait_until(lambda: sum(m.model == "secret" for m in sink.tried) > 10)
        allowed.set()
        sink.wait_for(lambda: len(sink.arrived) == 100)

    assert not delivering.dead


def test_a_rejected_message_is_given_up_after_its_tries(tmp_path: Path) -> None:
    sink = CommandedSink(lambda m: MessageRejected("too large") if m.model == "big" else None)
    with Delivering(tmp_path, sink, tries=3) as delivering:
        delivering.outbox.offer(make("big"))
        for _ in range(20):
            delivering.outbox.offer(make("bolts"))
            time.sleep(0.02)  # others keep passing
        wait_until(lambda: bool(delivering.dead))
        sink.wait_for(lambda: len(sink.arrived) == 20)

    assert Counter(m.model for m in sink.tried) == {"big": 3, "bolts": 20}


def test_live_results_go_first_while_a_backlog_drains_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_cursor, "FRESH_S", 0.1)
    monkeypatch.setattr(delivery, "FRESH_S", 0.1)
    up = threading.Event()
    sink = CommandedSink(lambda _: None if up.is_set() else SinkUnavailable("offline"))
    with Delivering(tmp_path, sink, drain_per_s=200.0) as delivering:
        backlog = [make() for _ in range(400)]
        for event in backlog:
            delivering.outbox.offer(event)
        wait_until(lambda: delivering.outbox.waiting("test") == 400)
        time.sleep(0.3)  # until they are stale
        up.set()
        live = []
        for _ in range(20):
            live.append(make())
            delivering.outbox.offer(live[-1])
            sink.wait_for(lambda: live[-1].id in sink.ids())
        assert len(sink.arrived) < 400  # the live ones didn't wait for the backlog
        sink.wait_for(lambda: {event.id for event in backlog} <= set(sink.ids()))
        after = make()
        delivering.outbox.offer(after)
        sink.wait_for(lambda: after.id in sink.ids())

    bodies = [body for body in sink.bodies() if body["model"] == "bolts"]
    arrived = [body["id"] for body in bodies]
    for events in (backlog, [*live, after]):
        ids = [event.id for event in events]
        assert [id_ for id_ in arrived if id_ in ids] == ids
    late = 0
    for number, body in enumerate(bodies):
        overtaken = any(earlier["sequence"] > body["sequence"] for earlier in bodies[:number])
        assert body.get("late", False) == overtaken
        late += overtaken
    assert late > 300


def test_what_was_overtaken_is_marked_late_after_a_restart_too(tmp_path: Path) -> None:
    first, later = make(), make()
    sink = CommandedSink(lambda m: SinkUnavailable("no") if m.id == first.id else None)
    with Delivering(tmp_path, sink) as delivering:
        delivering.outbox.offer(first)
        delivering.outbox.offer(later)
        sink.wait_for(lambda: later.id in sink.ids())

    sink = CommandedSink(arrives)
    with Delivering(tmp_path, sink):
        sink.wait_for(lambda: first.id in sink.ids())
    assert [body.get("late") for body in sink.bodies() if body["id"] == first.id] == [True]


def test_two_models_with_a_poisonous_message_each_block_nothing(tmp_path: Path) -> None:
    events = [make(f"model-{n % 2}") for n in range(20)]
    poison = {events[0].id, events[1].id}
    sink = CommandedSink(lambda m: SinkUnavailable("no reason") if m.id in poison else None, 4)
    sink.window_per_model = 1
    with Delivering(tmp_path, sink, tries=3) as delivering:
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {e.id for e in events} - set(sink.ids()) == poison)
        wait_until(lambda: len(delivering.dead) == 2)

    assert {entry.id for entry, _ in delivering.dead} == poison


def test_a_disk_that_cannot_be_read_for_a_moment_makes_no_event_skipped(tmp_path: Path) -> None:
    sink = CommandedSink(arrives)
    with Delivering(tmp_path, sink) as delivering:
        real, failing = delivering.outbox.read, [3]

        def read(*words: Any) -> Any:
            if failing[0]:
                failing[0] -= 1
                raise DiskError("disk I/O error")
            return real(*words)

        delivering.outbox.read = read  # type: ignore[method-assign]
        for _ in range(50):
            delivering.outbox.offer(make())
        sink.wait_for(lambda: len(sink.arrived) == 50)


def test_a_connection_on_which_nothing_is_acknowledged_is_made_anew(tmp_path: Path) -> None:
    sink = CommandedSink(lambda _: NotAnswered("no answer") if not sink.resets else None)
    with Delivering(tmp_path, sink) as delivering:
        delivering.outbox.offer(make())
        sink.wait_for(lambda: len(sink.arrived) == 1)

    assert sink.resets == 1


def test_a_sink_that_raises_anything_at_all_stops_nothing(tmp_path: Path) -> None:
    calls = [0]

    def behave(message: Message) -> Optional[Exception]:
        calls[0] += 1
        if calls[0] == 1:
            raise ZeroDivisionError
        return None

    sink = CommandedSink(behave)
    with Delivering(tmp_path, sink) as delivering:
        delivering.outbox.offer(make())
        sink.wait_for(lambda: len(sink.arrived) == 1)
