"""What happens to models meanwhile: new versions, full memory, dead workers, wrong packages.

On a FAKE GPU with a FAKE TensorRT.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Union

import pytest

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.runtime.engines.supply import EngineSupply, ToBuild
from edge_agent.runtime.models import engine_upgrade, load_attempt
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import ModelState
from tests.fakes import fake_cuda, golden
from tests.fakes.device import Device
from tests.fakes.gpu_machine import GpuMachine
from tests.runtime.models.test_engine_upgrade import (
    NAME,
    WITHIN_S,
    on,
    package,
    running,
    until,
    workers,
)

Accepts = Callable[[str], bool]
Outcome = Union[LoadedModel, ToBuild]


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuMachine:
    return GpuMachine(tmp_path, monkeypatch)


def deploy_second(machine: GpuMachine, device: Device) -> None:
    """Register version 2, which lies in another folder, as a component's update does."""
    runtime = {"batch_sizes": [1, 4], "precision": "fp32", "parity_tolerance": 0.05}
    folder = golden.write(
        machine.folder / "packages" / "v2", "classification", runtime=runtime, version="2"
    )
    record = {"model_component": NAME, "package": str(folder)}
    (device.records / f"{NAME}.json").write_text(json.dumps(record))


def is_version_2_on_tensorrt(info: Any) -> bool:
    return bool(info.message.startswith("Version 2,") and on("tensorrt")(info))


def serve(machine: GpuMachine) -> None:
    """Have the engine built and kept."""
    with running(machine, wait_for_engine=True):
        pass


def reset_gpu(machine: GpuMachine, **options: Any) -> None:
    fake_cuda.driver(machine.site, name="Fake Xavier", **options)


def hold_open(monkeypatch: pytest.MonkeyPatch, when: Callable[[LoadedModel, Accepts], bool]) -> Any:
    """Let the first `load_model` that gives what `when` says wait; returns (came, go)."""
    came, go, real = threading.Event(), threading.Event(), load_attempt.load_model

    def slow(
        registration: Registration,
        models: ModelsSettings,
        engine: EngineSettings,
        supply: EngineSupply,
        accepts: Accepts,
    ) -> Outcome:
        new = real(registration, models, engine, supply, accepts)
        if isinstance(new, LoadedModel) and when(new, accepts) and not came.is_set():
            came.set()
            assert go.wait(WITHIN_S)
        return new

    monkeypatch.setattr(load_attempt, "load_model", slow)
    return came, go


def test_a_new_version_takes_over_where_nothing_but_tensorrt_may_serve(
    machine: GpuMachine,
) -> None:
    package(machine)
    with running(machine, wait_for_engine=True) as device:
        deploy_second(machine, device)
        device.look()
        until(device, is_version_2_on_tensorrt)


def test_a_new_version_ends_the_build_for_the_old_one_that_is_starting(
    machine: GpuMachine,
) -> None:
    package(machine)
    machine.say("hold")
    with machine.device(wait_for_engine=True) as device:
        device.record(NAME)
        device.detector.start(NAME)
        until(device, lambda info: "(fp16) is being built" in info.message)
        deploy_second(machine, device)
        device.look()
        until(device, lambda info: "(fp32) is being built" in info.message)
        machine.unsay("hold")
        until(device, is_version_2_on_tensorrt)
    assert len(machine.kept()) == 1


def test_a_new_version_isn_t_lost_when_the_built_engine_takes_over_while_it_loads(
    machine: GpuMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(machine)
    machine.say("hold")
    came, go = hold_open(
        monkeypatch, lambda new, accepts: accepts("onnxruntime") and new.packaged.version == "2"
    )
    with running(machine) as device:
        until(device, lambda info: "is being built" in info.message)
        deploy_second(machine, device)
        device.registry.sync(device.store.scan())
        assert came.wait(WITHIN_S)
        machine.unsay("hold")
        end = time.monotonic() + WITHIN_S
        while not machine.kept():  # the first version's engine is there, and wants to take over
            assert time.monotonic() < end
            time.sleep(0.01)
        go.set()
        until(device, is_version_2_on_tensorrt)


def test_stopping_ends_the_new_version_s_build_though_the_old_one_still_opens_its_engine(
    machine: GpuMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(machine)
    machine.say("wrong", "fp16")
    came, go, real = threading.Event(), threading.Event(), load_attempt.load_model

    def slow(*arguments: Any) -> Outcome:
        found = real(*arguments)
        if isinstance(found, ToBuild) and not came.is_set():  # fp16 is refused, fp32 is next
            came.set()
            assert go.wait(WITHIN_S)
        return found

    monkeypatch.setattr(load_attempt, "load_model", slow)
    with running(machine) as device:
        assert came.wait(WITHIN_S)
        machine.say("hold")
        deploy_second(machine, device)
        device.look()
        until(device, lambda info: info.message.startswith("Version 2") and info.build is not None)
        until(device, lambda info: "is being built" in info.message)
        go.set()
        device.detector.stop(NAME)
        end = time.monotonic() + WITHIN_S
        while list(machine.cache.glob("build-*")):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_full_memory_costs_no_engine_and_builds_none(machine: GpuMachine) -> None:
    package(machine)
    serve(machine)
    kept = machine.kept()
    reset_gpu(machine, fault="cuMemAlloc:0=2")
    with running(machine) as device:
        info = device.detector.describe(NAME)
        assert on("onnxruntime on CPU")(info)
        assert "Not on tensorrt: " in info.message
        assert "out of memory" in info.message
        assert info.build is None
    reset_gpu(machine)
    serve(machine)
    assert machine.kept() == kept
    assert machine.builds == 1


def test_a_model_serves_with_fewer_units_when_there_is_memory_for_no_more(
    machine: GpuMachine,
) -> None:
    package(machine)
    serve(machine)
    units: List[int] = []
    for nth in range(4, 9):  # those before are the engine's own
        reset_gpu(machine, fault=f"cuMemAlloc:{nth}=2")
        with running(machine, wait_for_engine=False) as device:
            info = device.detector.describe(NAME)
            if on("tensorrt")(info):
                units.append(info.inference_units)
                assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)
    assert set(units) & {1, 2}
    assert machine.builds == 1


def test_an_engine_is_tried_again_when_it_is_judged_otherwise(machine: GpuMachine) -> None:
    package(machine)
    machine.say("wrong", "fp16")
    serve(machine)
    machine.unsay("wrong")
    runtime = {"batch_sizes": [1, 4], "precision": "fp16", "parity_tolerance": 0.06}
    golden.write(machine.folder / "packages" / NAME, "classification", runtime=runtime)
    with running(machine, wait_for_engine=True) as device:
        assert device.detector.describe(NAME).engine.endswith(", fp16")


def test_why_no_better_engine_serves_stays_in_the_message(machine: GpuMachine) -> None:
    package(machine)
    machine.say("kill")
    with running(machine) as device:
        until(device, lambda info: "SIGKILL" in info.message)
        device.registry.set_threshold(NAME, 0.4, "me")
        assert "SIGKILL" in device.detector.describe(NAME).message


def test_where_only_tensorrt_may_serve_a_dead_worker_is_started_again_after_a_pause(
    machine: GpuMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_upgrade, "PAUSES_S", (0.5,))
    package(machine)
    with running(machine, wait_for_engine=True) as device:
        first = device.registry.find(NAME).serving()
        end = time.monotonic() + WITHIN_S
        while not first.failure:
            assert time.monotonic() < end
            for worker in workers(os.getpid()):
                os.kill(worker, signal.SIGKILL)
            time.sleep(0.05)
        until(device, lambda info: device.registry.find(NAME).serving() is not first)
        assert on("tensorrt")(device.detector.describe(NAME))
        assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)


def test_a_package_that_is_wrong_fails_at_once_and_builds_nothing(machine: GpuMachine) -> None:
    folder = package(machine)
    manifest = json.loads((folder / "manifest.json").read_text())
    for sample in manifest["golden"]:
        sample.update(score=0.9, anomalous=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with machine.device() as device:
        device.record(NAME)
        device.detector.start(NAME)
        device.wait(NAME, ModelState.FAILED)
    assert machine.builds == 0
