from __future__ import annotations

import uuid

from edge_agent.runtime.results.ids import Ids

NOW = 1_800_000_000.0


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    id_ = uuid.UUID(Ids(lambda: NOW).new())

    assert id_.version == 7
    assert id_.variant == uuid.RFC_4122
    assert id_.int >> 80 == int(NOW * 1000)


def test_ids_of_one_millisecond_sort_as_they_were_given() -> None:
    ids = Ids(lambda: NOW)

    given = [ids.new() for _ in range(20_000)]  # more than the counter of one millisecond holds

    assert given == sorted(given)
    assert len(set(given)) == len(given)


def test_ids_rise_when_the_clock_is_set_back_and_over_a_restart() -> None:
    clock = [NOW]
    ids = Ids(lambda: clock[0])
    before = ids.new()

    clock[0] -= 86_400.0
    after = ids.new()
    after_restart = Ids(lambda: clock[0], after).new()

    assert before < after < after_restart
