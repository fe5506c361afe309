"""Listing and describing models, and the answers to names that lead nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from tests.contract import generations
from tests.contract.calls import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    Caller,
    plain,
    refused,
)
from tests.contract.conftest import ARN
from tests.fakes import micro
from tests.fakes.agent import Agent

CALLS: Dict[str, Callable[[Caller, str], Any]] = {
    "DetectAnomalies": lambda caller, name: caller.detect(name, plain(10)),
    "StartModel": lambda caller, name: caller.start(name),
    "StopModel": lambda caller, name: caller.stop(name),
    "DescribeModel": lambda caller, name: caller.describe(name),
}


def test_models_that_were_not_started_are_listed_as_stopped(tmp_path: Path) -> None:
    """Row 4."""
    agent = Agent(tmp_path)
    for name in ("b-model", "a.model", "C_model"):
        micro.write(agent.models / name, "classification")
    with agent, agent.channel() as channel:
        models = Caller(channel).list()
    listed = [(model.model_component, model.status) for model in models]
    assert listed == [
        ("C_model", generations.STOPPED),
        ("a.model", generations.STOPPED),
        ("b-model", generations.STOPPED),
    ]


def test_an_agent_without_models_lists_none(tmp_path: Path) -> None:
    """Row 5."""
    with Agent(tmp_path) as agent, agent.channel() as channel:
        assert list(Caller(channel).list()) == []


def test_models_are_listed_by_name(caller: Caller) -> None:
    names = [model.model_component for model in caller.list()]
    assert names == ["cls", "fifth", "heat", "idle", "low", "one", "seg", "strict"]


@pytest.mark.parametrize("name", ["cls", "idle"])
def test_describe_echoes_the_name_and_agrees_with_the_list(caller: Caller, name: str) -> None:
    """Row 6."""
    described = caller.describe(name)
    (listed,) = [model for model in caller.list() if model.model_component == name]
    assert described.model_component == name
    assert described.SerializeToString() == listed.SerializeToString()


def test_the_arn_is_that_of_the_manifest_or_empty(caller: Caller) -> None:
    assert caller.describe("cls").lookout_vision_model_arn == ARN
    assert caller.describe("seg").lookout_vision_model_arn == ""


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_model_is_not_found(caller: Caller, call: str) -> None:
    """Row 7."""
    details = refused(NOT_FOUND, CALLS[call], caller, "nope")
    assert "nope" in details
    assert "cls" in details  # what there is


@pytest.mark.parametrize("call", CALLS)
def test_an_empty_name_is_an_invalid_argument(caller: Caller, call: str) -> None:
    """Row 8."""
    assert "model_component is empty" in refused(INVALID_ARGUMENT, CALLS[call], caller, "")


@pytest.mark.parametrize("name", ["../cls", "cls/", "CLS", "cls ", "\0", "köln"])
def test_a_name_that_is_almost_one_is_not_found(caller: Caller, name: str) -> None:
    """Row 7."""
    for call in CALLS.values():
        refused(NOT_FOUND, call, caller, name)


@pytest.mark.parametrize("call", CALLS)
def test_a_very_long_name_is_not_found_either(caller: Caller, call: str) -> None:
    """Row 7; the sentence must stay short enough for gRPC's trailers, 8 KiB by default."""
    refused(NOT_FOUND, CALLS[call], caller, "x" * 100_000)


def test_a_missing_name_is_noticed_before_a_missing_frame(caller: Caller) -> None:
    """Check order: name, existence, state, bitmap."""
    assert "model_component" in refused(INVALID_ARGUMENT, caller.detect, "", None)


def test_an_unknown_name_is_noticed_before_a_missing_frame(caller: Caller) -> None:
    refused(NOT_FOUND, caller.detect, "nope", None)


def test_the_wrong_state_is_noticed_before_a_missing_frame(caller: Caller) -> None:
    details = refused(FAILED_PRECONDITION, caller.detect, "idle", None)
    assert details.endswith("The model is STOPPED.")
