"""What travels beside the messages: timing of the stages, lanes, hints when there is too much."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict

import grpc
import pytest

from tests.contract.calls import INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, Caller, plain, until
from tests.contract.generations import LAST
from tests.fakes import micro
from tests.fakes.agent import Agent

STAGES = ["receive", "queue", "preprocess", "compute", "postprocess", "publish", "send"]


def request(model: str, frame: Any) -> Any:
    height, width = frame.shape[:2]
    bitmap = LAST.Bitmap(width=width, height=height, byte_data=frame.tobytes())
    return LAST.DetectAnomaliesRequest(model_component=model, bitmap=bitmap)


def trailers(call: Any) -> Dict[str, str]:
    return dict(call.trailing_metadata())


def timing(text: str) -> Dict[str, float]:
    parts = [part.partition(";dur=") for part in text.split(", ")]
    return {name: float(milliseconds) for name, _, milliseconds in parts}


def test_every_answer_tells_how_long_each_stage_took(channel: grpc.Channel) -> None:
    stub = Caller(channel).stub
    began = time.monotonic()
    _, call = stub.DetectAnomalies.with_call(request("slow", plain(255)), timeout=20)
    round_trip_ms = 1000 * (time.monotonic() - began)
    stages = timing(trailers(call)["server-timing"])
    assert list(stages) == STAGES
    assert all(milliseconds >= 0 for milliseconds in stages.values())
    assert stages["compute"] == max(stages.values())
    assert stages["compute"] < sum(stages.values()) < round_trip_ms


def test_time_in_the_queue_is_told(channel: grpc.Channel) -> None:
    stub = Caller(channel).stub
    calls = [stub.DetectAnomalies.future(request("slow", plain(255))) for _ in range(3)]
    stages = [timing(trailers(call)["server-timing"]) for call in calls]
    waits = sorted(stage["queue"] for stage in stages)
    assert waits[0] < waits[1] < waits[2]


def test_a_lane_that_does_not_exist_is_refused_with_those_that_do(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        Caller(channel).stub.DetectAnomalies(
            request("cls", plain(1)), metadata=(("lane", "fast"),), timeout=20
        )
    error: Any = caught.value
    assert error.code() is INVALID_ARGUMENT
    assert error.details() == "Metadata lane is 'fast'; expected inspection, rescoring."


def test_inspection_overtakes_rescoring(channel: grpc.Channel) -> None:
    stub, done = Caller(channel).stub, []  # type: Any, List[str]
    calls = []
    for lane in ["rescoring"] * 6 + ["inspection"] * 2:
        call = stub.DetectAnomalies.future(
            request("slow", plain(255)), metadata=(("lane", lane),), timeout=20
        )
        call.add_done_callback(lambda _, lane=lane: done.append(lane))
        calls.append(call)
    for call in calls:
        call.result()
    until(lambda: len(done) == len(calls))
    assert done.index("inspection") < 4
    assert done[-2:] == ["rescoring"] * 2


def test_a_refusal_tells_the_queue_and_when_to_come_back(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "engine.queue_length=2", "--set", "engine.threads=1")
    once = {"batch_sizes": [1]}
    micro.write(agent.models / "slow", "classification", micro.slow(32), runtime=once)
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("slow")
        caller.detect("slow", plain(255))
        calls = [
            caller.stub.DetectAnomalies.future(request("slow", plain(255)), timeout=20)
            for _ in range(8)
        ]
        refused = [call for call in calls if call.code() is RESOURCE_EXHAUSTED]
        assert {call.code() for call in calls} == {OK, RESOURCE_EXHAUSTED}
        told = trailers(refused[0])
        assert told["queue-length"] == "2"
        frame_ms = 0.5 * float(told["grpc-retry-pushback-ms"])
        assert frame_ms > 0
        assert f"retry after {told['grpc-retry-pushback-ms']} ms" in refused[0].details()


def test_a_camera_that_floods_does_not_starve_the_others(channel: grpc.Channel) -> None:
    stub, done = Caller(channel).stub, []  # type: Any, List[str]
    calls = []
    for camera in ["flood"] * 12 + ["a", "b"]:
        call = stub.DetectAnomalies.future(
            request("slow", plain(255)), metadata=(("camera-id", camera),), timeout=20
        )
        call.add_done_callback(lambda _, camera=camera: done.append(camera))
        calls.append(call)
    for call in calls:
        call.result()
    until(lambda: len(done) == len(calls))
    assert set(done[8:]) == {"flood"}
