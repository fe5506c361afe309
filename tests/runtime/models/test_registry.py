from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Dict, Iterator, Set, Union

import pytest
from prometheus_client import generate_latest

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import InvalidRequest, ModelNotFound
from edge_agent.logs import printable
from edge_agent.runtime.engines.supply import ToBuild
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.models import load_attempt, running_models
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.models.running_models import RunningModels
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import ModelInfo, ModelState
from tests.fakes import micro
from tests.fakes.device import Device
from tests.runtime.results.outboxes import wait_until


def registrations(*names: str) -> Dict[str, Registration]:
    return {name: Registration(name, Path("/nowhere") / name, (1,)) for name in names}


def test_models_are_listed_by_name_and_go_when_they_arent_deployed_any_more() -> None:
    registry = Registry(ModelsSettings(), EngineSettings())
    registry.sync(registrations("b", "a", "c"))
    assert [info.name for info in registry.list()] == ["a", "b", "c"]
    registry.sync(registrations("c"))
    assert [info.name for info in registry.list()] == ["c"]
    registry.close(5.0)


def test_an_empty_name_and_an_unknown_one_get_different_errors() -> None:
    registry = Registry(ModelsSettings(), EngineSettings())
    with pytest.raises(InvalidRequest):
        registry.find("")
    with pytest.raises(ModelNotFound, match="Deployed models: none"):
        registry.find("x")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A package that can't be loaded and one that can."""
    micro.write(tmp_path / "packages" / "broken", "classification", b"no graph")
    micro.write(tmp_path / "packages" / "whole", "classification")
    with Device(tmp_path) as device:
        yield device


def deploy(device: Device, package: str, **values: Any) -> None:
    device.record("plates", package=str(device.packages / package), **values)


def test_a_failed_model_starts_with_the_update_that_mends_it(device: Device) -> None:
    deploy(device, "broken", autostart=True)
    device.wait("plates", ModelState.FAILED)
    assert device.registry.package_faults() == {"plates": device.packages / "broken"}
    (device.records / "plates.json").unlink()  # as between two versions of a component
    device.look()
    deploy(device, "whole", autostart=True)
    device.wait("plates", ModelState.RUNNING)
    assert not device.registry.package_faults()


def test_a_failed_model_starts_with_the_decision_that_mends_it(device: Device) -> None:
    deploy(device, "whole", autostart=True, decision={"threshold": 7})
    device.wait("plates", ModelState.FAILED)
    deploy(device, "whole", autostart=True, decision={"threshold": 0.7})
    device.wait("plates", ModelState.RUNNING)


def test_a_failed_model_that_does_not_start_by_itself_waits_to_be_started(device: Device) -> None:
    deploy(device, "broken")
    device.detector.start("plates")
    device.wait("plates", ModelState.FAILED)
    deploy(device, "whole")
    assert device.detector.describe("plates").state is ModelState.FAILED
    device.run("plates")


def test_a_stopped_model_starts_when_its_record_says_so_from_now_on(device: Device) -> None:
    deploy(device, "whole")
    assert device.detector.describe("plates").state is ModelState.STOPPED
    deploy(device, "whole", autostart=True)
    device.wait("plates", ModelState.RUNNING)


def test_a_model_that_was_stopped_stays_so_through_an_update(device: Device) -> None:
    deploy(device, "whole", autostart=True)
    device.wait("plates", ModelState.RUNNING)
    device.detector.stop("plates")
    micro.write(device.packages / "whole", "classification", version="2")
    device.look()
    assert device.detector.describe("plates").state is ModelState.STOPPED


@pytest.mark.parametrize("autostart", [True, False])
def test_a_model_that_is_replaced_while_it_is_loaded_is_not_failed_by_the_old_package(
    device: Device, monkeypatch: pytest.MonkeyPatch, autostart: bool
) -> None:
    replaced, load_model = threading.Event(), load_attempt.load_model

    def once_replaced(*args: Any) -> Union[LoadedModel, ToBuild]:
        assert replaced.wait(20.0)
        return load_model(*args)

    monkeypatch.setattr(load_attempt, "load_model", once_replaced)
    deploy(device, "broken", autostart=autostart)
    if not autostart:
        device.detector.start("plates")
    deploy(device, "whole", autostart=autostart)
    assert device.detector.describe("plates").state is ModelState.STARTING
    replaced.set()
    device.wait("plates", ModelState.RUNNING)


def test_models_that_ran_run_again_after_a_restart_unless_somebody_stopped_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "results" / "running.json"
    registrations = {
        name: Registration(name, micro.write(tmp_path / name, "classification"), (1,))
        for name in ("ran", "stopped", "idle")
    }

    def started(*run: str, stop: str = "") -> Set[str]:
        registry = Registry(ModelsSettings(), EngineSettings(threads=1), running=file)
        registry.sync(registrations)
        for name in run:
            registry.find(name).start()
        begun = {info.name for info in registry.list() if info.state is not ModelState.STOPPED}
        for name in begun:
            wait_until(lambda name=name: registry.find(name).info().state is ModelState.RUNNING)
        if stop:
            registry.find(stop).stop()
        registry.close(20.0)
        return begun

    assert started("ran", "stopped", stop="stopped") == {"ran", "stopped"}
    assert started() == {"ran"}
    file.write_text("{")
    assert started() == set()


def test_a_stop_is_on_disk_when_it_is_answered_and_names_are_kept_within_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "running.json"
    registration = Registration("bolts", micro.write(tmp_path / "m", "classification"), (1,))
    registry = Registry(ModelsSettings(), EngineSettings(threads=1), running=file)
    registry.sync({"bolts": registration})
    registry.find("bolts").start()
    wait_until(lambda: file.exists())
    assert "bolts" in RunningModels(file)
    wait_until(lambda: registry.find("bolts").info().state is ModelState.RUNNING)
    registry.find("bolts").stop()
    assert "bolts" not in RunningModels(file)  # as after a crash
    registry.close(20.0)

    monkeypatch.setattr(running_models, "MOST_REMOVED", 2)
    running = RunningModels(file)
    for name in ("deployed", "first", "second", "third"):
        running.note(ModelInfo(name, ModelState.RUNNING))
    running.store(["deployed"])
    known = RunningModels(file)
    assert [name in known for name in ("deployed", "first", "second", "third")] == [
        True, False, True, True,
    ]  # fmt: skip


def test_a_disk_that_is_full_costs_only_the_memory_of_what_ran(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("")  # no folder can be made there
    running = RunningModels(tmp_path / "results" / "running.json")
    running.note(ModelInfo("bolts", ModelState.RUNNING))
    running.store(["bolts"])
    running.store(["bolts"])
    assert "bolts" in running
    assert [record.levelname for record in caplog.records if "running" in record.message] == [
        "ERROR",
        "ERROR",
    ]


@pytest.mark.parametrize("file", ["bolts.json", "\udcff.json"])  # which isn't UTF-8 on the disk
def test_a_fault_is_in_the_metrics_as_long_as_it_lasts(file: str) -> None:
    metrics, fault = Metrics(), {"model": "bolts", "path": printable(f"/models.d/{file}")}
    metrics.has_faults([("bolts", Path("/models.d") / file)])
    assert b'path="/models.d/' in generate_latest(metrics.registry)
    assert metrics.registry.get_sample_value("edge_agent_DeploymentFault", fault) == 1.0
    metrics.has_faults([])
    assert metrics.registry.get_sample_value("edge_agent_DeploymentFault", fault) is None
