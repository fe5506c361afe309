"""Score, threshold, verdict and confidence, and that every generation of client reads the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.contract import generations
from tests.contract.calls import Caller, Segment, defective, plain
from tests.fakes.agent import Agent

LEVELS = [0, 1, 50, 52, 76, 127, 128, 200, 254, 255]


@pytest.mark.parametrize("red", LEVELS)
@pytest.mark.parametrize(("model", "threshold"), [("cls", 0.5), ("low", 0.2), ("one", 1.0)])
def test_a_frame_is_anomalous_from_the_threshold_on(
    send: Any, model: str, threshold: float, red: int
) -> None:
    """Row 36; the score is given for normal frames too."""
    result = send(model, plain(red))
    assert result.anomaly_score == pytest.approx(red / 255, abs=1e-5)
    assert result.anomaly_threshold == np.float32(threshold)
    assert result.is_anomalous == (result.anomaly_score >= result.anomaly_threshold)
    assert result.is_anomalous == (red / 255 >= threshold)


@pytest.mark.parametrize("red", LEVELS)
@pytest.mark.parametrize("model", ["cls", "low", "one", "seg", "fifth"])
def test_the_confidence_is_that_of_the_verdict(caller: Caller, model: str, red: int) -> None:
    """Section 2.5; it may be below one half."""
    result = caller.detect(model, plain(red))
    score = result.anomaly_score
    expected = score if result.is_anomalous else 1.0 - score
    assert result.confidence == pytest.approx(expected, abs=2e-6)
    assert 0.0 <= result.confidence <= 1.0


def test_a_score_exactly_at_the_threshold_is_anomalous(caller: Caller) -> None:
    """Row 36, where single precision could go wrong: 51 / 255 = 0.2."""
    at = caller.detect("fifth", plain(51))
    assert at.anomaly_score == at.anomaly_threshold
    assert at.is_anomalous
    assert caller.detect("one", plain(255)).is_anomalous
    assert not caller.detect("one", plain(254)).is_anomalous


def test_a_segmentation_model_judges_by_its_score_unless_told_otherwise(caller: Caller) -> None:
    """Section 8: red 0.45 is over the threshold of `fifth`, and no pixel is a scratch."""
    result = caller.detect("fifth", plain(115))
    assert result.is_anomalous
    assert [entry.name for entry in result.anomalies] == ["background"]


@pytest.mark.parametrize("transport", ["bytes", "shared_memory"])
@pytest.mark.parametrize("model", ["cls", "seg", "heat"])
@pytest.mark.parametrize("generation", generations.GENERATIONS)
def test_every_generation_reads_the_same_answer(
    agent: Agent, caller: Caller, generation: str, model: str, transport: str
) -> None:
    """Row 37 and section 2.1."""
    messages = generations.GENERATIONS[generation]
    with agent.channel() as channel:
        old = Caller(channel, messages)
        for frame in (defective(640, 480), plain(51, 640, 480)):
            expected = caller.detect(model, frame)
            with Segment(frame.nbytes) as segment:
                segment.write(frame)
                in_segment = old.shared(frame, segment)
                found = old.detect(model, frame if transport == "bytes" else in_segment)
            known = {field.name for field in found.DESCRIPTOR.fields}
            for name in known - {"anomalies", "anomaly_mask"}:
                assert getattr(found, name) == getattr(expected, name)
            # What is unknown to an old client is skipped and kept, byte for byte.
            again = caller.messages.DetectAnomalyResult.FromString(found.SerializeToString())
            assert again == expected


@pytest.mark.parametrize("generation", generations.GENERATIONS)
def test_every_generation_reads_the_same_list_and_description(
    agent: Agent, caller: Caller, generation: str
) -> None:
    with agent.channel() as channel:
        old = Caller(channel, generations.GENERATIONS[generation])
        assert [model.SerializeToString() for model in old.list()] == [
            model.SerializeToString() for model in caller.list()
        ]
        assert old.describe("cls").SerializeToString() == caller.describe("cls").SerializeToString()
        assert old.describe("cls").status == generations.RUNNING


def test_classification_and_segmentation_answer_in_turn(send: Any) -> None:
    """Row 40."""
    for red in (255, 0, 255, 0):
        frame = plain(red)
        cls, seg = send("cls", frame), send("seg", frame)
        assert cls.is_anomalous is seg.is_anomalous is (red == 255)
        assert not cls.HasField("anomaly_mask")
        assert seg.HasField("anomaly_mask")
        assert len(seg.anomalies) == (2 if red else 1)
