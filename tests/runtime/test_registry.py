from __future__ import annotations

from pathlib import Path
from typing import Dict, List

import pytest

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import InvalidRequest, ModelNotFound
from edge_agent.runtime.registry import Registry
from edge_agent.runtime.store import Registration


def registrations(*names: str) -> Dict[str, Registration]:
    return {name: Registration(name, Path("/nowhere") / name, (1,)) for name in names}


def after(*rounds: Dict[str, Registration], remove_after_s: float = 0.0) -> List[str]:
    """Names that are deployed after these looks at the disk."""

    registry = Registry(ModelsSettings(remove_after_s=remove_after_s), EngineSettings())
    for found in rounds:
        registry.sync(found)
    names = [info.name for info in registry.list()]
    registry.close(5.0)
    return names


def test_models_are_listed_by_name() -> None:
    assert after(registrations("b", "a", "c")) == ["a", "b", "c"]


def test_a_model_goes_when_it_is_missing_twice_in_a_row() -> None:
    both, one = registrations("a", "b"), registrations("a")
    assert after(both, one) == ["a", "b"]
    assert after(both, one, one) == ["a"]
    assert after(both, one, both, one) == ["a", "b"]


def test_a_model_stays_for_the_moment_between_two_versions_of_its_component() -> None:
    both, one = registrations("a", "b"), registrations("a")
    assert after(both, one, one, one, remove_after_s=3600.0) == ["a", "b"]


def test_an_empty_name_and_an_unknown_one_are_told_apart() -> None:
    registry = Registry(ModelsSettings(), EngineSettings())
    with pytest.raises(InvalidRequest):
        registry.find("")
    with pytest.raises(ModelNotFound, match="Deployed models: none"):
        registry.find("x")
