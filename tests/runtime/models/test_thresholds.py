"""A threshold that changes while the model runs. Frames of `device.detect` score 0.4."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest

from edge_agent.errors import (
    AgentUnavailable,
    EdgeAgentError,
    InvalidPackage,
    InvalidRequest,
    ModelNotFound,
    WrongModelState,
)
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import Caller, Frame, ModelState, Prediction, StageTimes
from tests.fakes import micro
from tests.fakes.device import Device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    micro.write(tmp_path / "packages" / "plates", "classification")
    with Device(tmp_path, tmp_path / "thresholds.json") as device:
        device.record("plates")
        device.run("plates")
        yield device


def again(tmp_path: Path) -> Device:
    """The device after a restart."""
    return Device(tmp_path, tmp_path / "thresholds.json")


def threshold(device: Device) -> float:
    return device.detect("plates").threshold


def item(red: int) -> Item:
    frame = OpenFrame(Frame(np.full((64, 64, 3), (red, 40, 0), np.uint8)))
    return Item(frame, time.monotonic(), Caller(), StageTimes(), 0)


def test_the_next_answer_is_judged_by_a_threshold_just_set(device: Device) -> None:
    assert not device.detect("plates").is_anomalous
    device.detector.set_threshold("plates", 0.25, "hmi")
    found = device.detect("plates")
    assert (found.is_anomalous, found.threshold) == (True, 0.25)


def test_nothing_is_loaded_again_for_another_decision_arn_or_autostart(device: Device) -> None:
    serving = device.registry.find("plates").serving()
    device.record("plates", decision={"threshold": 0.3}, autostart=True, model_arn="arn:7")
    assert threshold(device) == 0.3
    assert device.detector.describe("plates").arn == "arn:7"
    device.detector.set_threshold("plates", 0.2, "hmi")
    assert device.registry.find("plates").serving() is serving


def test_log_and_message_name_the_threshold_and_who_set_it(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert "Threshold 0.5." in device.detector.describe("plates").message
    info = device.detector.set_threshold("plates", 0.25, "hmi")
    assert "Threshold 0.25." in info.message
    assert "Model plates uses the new decision: threshold 0.5 -> 0.25, set by hmi." in caplog.text
    device.record("plates", decision={"threshold": 0.75})
    assert "threshold 0.25 -> 0.75, set by its registration." in caplog.text


def test_calls_go_on_while_the_threshold_changes(device: Device) -> None:
    done = threading.Event()
    seen: List[Prediction] = []
    failures: List[EdgeAgentError] = []

    def hammer() -> None:
        while not done.is_set():
            try:
                seen.append(device.detect("plates"))
            except EdgeAgentError as error:
                failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for step in range(1, 100):
            device.detector.set_threshold("plates", step / 100, "hmi")
            assert threshold(device) == step / 100
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len({each.threshold for each in seen}) > 10
    assert all(each.is_anomalous == (each.score >= each.threshold) for each in seen)


def test_a_batch_is_judged_by_one_threshold(device: Device) -> None:
    unit = device.registry.find("plates").serving().selected.another()
    batch = [item(102) for _ in range(4)]
    batch[0].future.add_done_callback(
        lambda _: device.detector.set_threshold("plates", 0.25, "hmi")  # in the midst of the batch
    )
    unit.compute(batch)
    assert [each.future.result().threshold for each in batch] == [0.5] * 4
    late = item(102)
    unit.compute([late])
    unit.close()
    assert late.future.result().threshold == 0.25


def test_units_that_are_opened_later_judge_by_it(device: Device) -> None:
    device.detector.set_threshold("plates", 0.25, "hmi")
    serving = device.registry.find("plates").serving()
    serving.batcher.add(serving.selected.another())
    assert serving.batcher.remove()  # the one that was there before
    assert threshold(device) == 0.25


def test_a_decision_that_cannot_be_leaves_the_old_one_and_says_why(device: Device) -> None:
    device.record("plates", decision={"minimum_region_area": 7})
    found = device.detector.describe("plates")
    assert found.state is ModelState.RUNNING
    assert "A changed decision was refused" in found.message
    assert "decision.minimum_region_area" in found.message
    assert threshold(device) == 0.5
    with pytest.raises(InvalidPackage, match=r"decision\.minimum_region_area"):
        device.detector.set_threshold("plates", 0.6, "hmi")
    device.record("plates")
    assert "refused" not in device.detector.describe("plates").message


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_beyond_0_to_1_is_refused(device: Device, value: float) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        device.detector.set_threshold("plates", value, "hmi")
    assert threshold(device) == 0.5


def test_an_unknown_model_has_no_threshold(device: Device) -> None:
    with pytest.raises(ModelNotFound):
        device.detector.set_threshold("nuts", 0.5, "hmi")


def test_a_model_that_is_not_running_judges_by_it_when_it_is_started(device: Device) -> None:
    device.detector.stop("plates")
    info = device.detector.set_threshold("plates", 0.25, "hmi")
    assert info.state is ModelState.STOPPED
    device.look()
    device.run("plates")
    assert threshold(device) == 0.25


def test_it_survives_a_look_at_the_disk_and_a_restart(device: Device, tmp_path: Path) -> None:
    device.detector.set_threshold("plates", 0.25, "hmi")
    device.look()
    assert threshold(device) == 0.25
    with again(tmp_path) as later:
        later.run("plates")
        assert threshold(later) == 0.25


def test_it_survives_a_package_that_is_copied_again(device: Device, tmp_path: Path) -> None:
    device.detector.set_threshold("plates", 0.25, "hmi")
    package = device.packages / "plates"
    shutil.copytree(str(package), str(tmp_path / "copy"))
    shutil.rmtree(str(package))
    (tmp_path / "copy").rename(package)
    device.look()
    assert threshold(device) == 0.25


def test_it_ends_with_its_package(
    device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.detector.set_threshold("plates", 0.25, "hmi")
    micro.write(device.packages / "plates", "classification", version="2")
    device.look()
    assert threshold(device) == 0.5
    assert "The threshold 0.25 of model plates, set by hmi, ends" in caplog.text
    with again(tmp_path) as later:
        later.run("plates")
        assert threshold(later) == 0.5


def test_a_registration_that_decides_otherwise_ends_it(device: Device) -> None:
    device.detector.set_threshold("plates", 0.25, "hmi")
    device.record("plates", decision={"threshold": 0.75})
    assert threshold(device) == 0.75
    device.record("plates")
    assert threshold(device) == 0.5


def test_while_a_newer_package_is_refused_the_old_ones_threshold_stays(device: Device) -> None:
    micro.write(device.packages / "plates", "classification", b"no graph", version="2")
    device.look()
    with pytest.raises(WrongModelState, match="change to another package") as caught:
        device.detector.set_threshold("plates", 0.25, "hmi")
    assert "isn't an ONNX file" in str(caught.value)
    assert threshold(device) == 0.5


def test_a_package_refused_for_its_decision_serves_with_another_one(device: Device) -> None:
    micro.write(device.packages / "newer", "classification", version="2")
    newer = str(device.packages / "newer")
    device.record("plates", package=newer, decision={"threshold": 7})
    assert "A newer package was refused" in device.detector.describe("plates").message
    device.record("plates", package=newer, decision={"threshold": 0.3})
    assert device.detector.describe("plates").message.startswith("Version 2,")
    assert threshold(device) == 0.3


def test_a_threshold_that_cannot_be_kept_is_not_changed(device: Device, tmp_path: Path) -> None:
    (tmp_path / "thresholds.json.new").mkdir()
    with pytest.raises(AgentUnavailable, match="can't be stored"):
        device.detector.set_threshold("plates", 0.25, "hmi")
    device.look()
    assert threshold(device) == 0.5


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b'{"models": [{"model": "plates", "threshold": 7}]}',
        b'{"models": [], "colour": 1}',
        b'{"models": [{"model": "plates", "colour": 1}]}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_of_thresholds_is_left_out(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "thresholds.json").write_bytes(damaged)
    micro.write(tmp_path / "packages" / "plates", "classification")
    with again(tmp_path) as device:
        device.record("plates")
        device.run("plates")
        assert threshold(device) == 0.5
        assert "Thresholds set before are lost" in caplog.text
        device.detector.set_threshold("plates", 0.25, "hmi")
    with again(tmp_path) as later:
        later.run("plates")
        assert threshold(later) == 0.25
