"""What the known clients do, call by call, and what a client that errs is told."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any, Iterator, List

import cv2
import grpc
import numpy as np
import pytest

from tests.contract import generations
from tests.contract.calls import (
    FAILED_PRECONDITION,
    Caller,
    Segment,
    defective,
    plain,
    refused,
)
from tests.contract.generations import (
    FAILED,
    FIRST,
    LAST,
    MASK_AT_2,
    MASK_AT_3,
    RUNNING,
    SERVICE,
    STATUSES,
    Stub,
)
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Agent]:
    """An agent on which nothing was started yet."""
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "seg", "segmentation")
    micro.write(agent.models / "bad", "classification", b"no graph at all")
    with agent:
        yield agent


@pytest.mark.parametrize("method", generations.CALLS)
def test_bytes_that_are_no_message_are_an_internal_error(
    channel: grpc.Channel, method: str
) -> None:
    """Row 43."""
    call = channel.unary_unary(SERVICE + method, lambda raw: raw, lambda raw: raw)
    invalid_text = [] if method == "ListModels" else [b"\x0a\x02\xff\xfe"]
    for content in (b"\xff", b"\x0a\x05abc", *invalid_text):
        with pytest.raises(grpc.RpcError) as caught:
            call(content, timeout=10)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert f"AWS.LookoutVision.{method}Request" in caught.value.details()


@pytest.mark.parametrize(
    "path", [SERVICE + "DetectEverything", "/AWS.LookoutVision.Edge/ListModels"]
)
def test_an_unknown_method_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    """Row 43."""
    call = channel.unary_unary(path, lambda raw: raw, lambda raw: raw)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("messages", [FIRST, LAST], ids=["first", "last"])
def test_the_developer_guides_loop_runs_to_its_end(fresh: Agent, messages: Any) -> None:
    """Row 45: describe, start when stopped, poll while starting, detect, print."""
    with fresh.channel() as channel:
        stub: Any = Stub(channel, messages)

        def describe(name: str) -> Any:
            request = messages.DescribeModelRequest(model_component=name)
            return stub.DescribeModel(request).model_description

        def start_and_wait(name: str) -> str:
            if describe(name).status == generations.STOPPED:
                stub.StartModel(messages.StartModelRequest(model_component=name))
            while True:
                found = describe(name)
                if found.status == generations.STARTING:
                    time.sleep(0.01)
                    continue
                if found.status == FAILED:
                    raise RuntimeError(found.status_message)
                return STATUSES[found.status]

        assert start_and_wait("cls") == "RUNNING"
        bitmap = messages.Bitmap(width=640, height=480, byte_data=plain(255, 640, 480).tobytes())
        request = messages.DetectAnomaliesRequest(model_component="cls", bitmap=bitmap)
        answer = stub.DetectAnomalies(request).detect_anomaly_result
        assert answer.is_anomalous
        assert answer.confidence == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(RuntimeError, match="isn't an ONNX file"):
            start_and_wait("bad")
        stopped = stub.StopModel(messages.StopModelRequest(model_component="cls"))
        assert STATUSES[stopped.status] == "STOPPED"


def test_the_samples_file_client_blends_the_mask_over_its_picture(agent: Agent) -> None:
    """Row 45: mask handle in field 3, mask by bytes, reshaped, blended, areas printed."""
    picture = cv2.cvtColor(defective(640, 480), cv2.COLOR_RGB2BGR)
    with agent.channel() as channel:
        stub: Any = Stub(channel, MASK_AT_3)
        rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        bitmap = MASK_AT_3.Bitmap(width=640, height=480, byte_data=rgb.tobytes())
        request = MASK_AT_3.DetectAnomaliesRequest(model_component="seg", bitmap=bitmap)
        result = stub.DetectAnomalies(request).detect_anomaly_result
    assert result.is_anomalous
    assert result.anomaly_mask.byte_data, "SHM functionality not implemented"
    shape = (result.anomaly_mask.height, result.anomaly_mask.width, 3)
    mask = np.frombuffer(result.anomaly_mask.byte_data, np.uint8).reshape(shape)
    blended = cv2.addWeighted(picture, 0.5, cv2.cvtColor(mask, cv2.COLOR_RGB2BGR), 0.5, 0.0)
    assert blended.shape == picture.shape
    lines = [
        f"{anomaly.name} {anomaly.pixel_anomaly.total_percentage_area:.1%}"
        for anomaly in result.anomalies
        if anomaly.name != "background"
    ]
    assert lines == ["scratch 25.0%", "dent 6.2%"]


@pytest.mark.parametrize("messages", [FIRST, MASK_AT_2], ids=["old_build", "new_build"])
def test_the_gstreamer_element_sends_frame_after_frame_through_one_segment(
    fresh: Agent, messages: Any
) -> None:
    """Row 45: made once with 1920*1920*3 bytes, leading slash, grown when a frame needs more."""
    name = f"/gstreamer-lookoutvision-bitmap-{uuid.uuid4().hex}"
    sizes = [(640, 480), (1921, 64), (1920, 1080), (2560, 1920), (65, 67)]
    printed: List[str] = []
    with fresh.channel() as channel, Segment(1920 * 1920 * 3, name, mode=0o644) as segment:
        element = Caller(channel, messages)
        element.start("cls")
        refused(FAILED_PRECONDITION, element.start, "cls")  # which the element takes as harmless
        element.wait("cls", RUNNING)
        for count, (width, height) in enumerate(sizes):
            frame = plain(255 * (count % 2), width, height)
            mapped = np.zeros((height, (width * 3 + 3) // 4 * 4), np.uint8)
            mapped[:, : width * 3] = frame.reshape(height, -1)
            if mapped.nbytes > os.fstat(segment.descriptor).st_size:
                segment.resize(mapped.nbytes)
            segment.write(mapped)
            result = element.detect("cls", element.shared(frame, segment, 0, mapped.nbytes))
            printed.append(
                f"Is Anomalous? {int(result.is_anomalous)}, Confidence: {result.confidence:.3f}"
            )
        assert segment.path.exists()
    expected = [f"Is Anomalous? {count % 2}, Confidence: 1.000" for count in range(len(sizes))]
    assert printed == expected


def test_the_successors_client_reads_score_and_threshold(agent: Agent) -> None:
    """Row 45: last generation, label from the verdict, score kept beside the confidence."""
    with agent.channel() as channel:
        result = Caller(channel, LAST).detect("cls", plain(51, 640, 480))
    assert not result.is_anomalous
    assert result.anomaly_score < result.anomaly_threshold
    assert result.confidence == pytest.approx(1.0 - result.anomaly_score, abs=1e-6)


@pytest.mark.parametrize("model", ["seg", "cls", "strict"])
def test_five_black_warm_up_frames_of_another_size_do_no_harm(agent: Agent, model: str) -> None:
    """Row 46: the accelerator's plug-in ignores their status, and goes on at the model's size."""
    options = [("grpc.max_receive_message_length", 4000 * 4000 * 4)]
    black = plain(0, 1280, 720)
    with grpc.insecure_channel(agent.address, options) as channel:
        plugin = Caller(channel, MASK_AT_3)
        for _ in range(5):
            call = plugin.detect_later(model, black)
            expected = "INVALID_ARGUMENT" if model == "strict" else "OK"
            assert call.code().name == expected
        assert plugin.detect(model, plain(255)).is_anomalous
    assert agent.process is not None
    assert agent.process.poll() is None
