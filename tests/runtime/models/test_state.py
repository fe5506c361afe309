"""The table of a model's life, complete and as the contract has it."""

from __future__ import annotations

import itertools

import pytest

from edge_agent.runtime.models.state import TRANSITIONS, ModelEvent
from edge_agent.types import ModelState

S, E = ModelState, ModelEvent


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ModelState, ModelEvent)))
def test_start_works_from_stopped_and_failed_only_and_stop_from_running_only(
    state: ModelState, event: ModelEvent
) -> None:
    expected = {
        E.START: {S.STOPPED: S.STARTING, S.FAILED: S.STARTING},
        E.LOADED: {S.STARTING: S.RUNNING},
        E.LOAD_FAILED: {S.STARTING: S.FAILED},
        E.STOP: {S.RUNNING: S.STOPPING},
        E.FREED: {S.STOPPING: S.STOPPED},
    }[event].get(state)
    assert TRANSITIONS.get((state, event)) is expected


def test_the_states_have_the_numbers_of_the_wire() -> None:
    assert [(state.name, state.value) for state in ModelState] == [
        ("STOPPED", 0), ("STARTING", 1), ("RUNNING", 2), ("FAILED", 3), ("STOPPING", 4),
    ]  # fmt: skip
