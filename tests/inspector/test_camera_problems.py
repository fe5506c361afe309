"""What is wrong with a picture itself, in the answer and beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import grpc
import numpy as np
import pytest

from edge_agent.client import Client, convert
from edge_agent.errors import FaultyPicture
from edge_agent.runtime.rpc import metadata
from edge_agent.runtime.rpc.convert import inspect_response
from edge_agent.types import CameraProblem, Prediction, StageTimes
from edge_agent.wire import edge_agent_pb2 as contract
from edge_agent.wire import edge_agent_v1_pb2 as wire
from tests.contract.calls import Caller, plain, striped
from tests.fakes import micro
from tests.fakes.agent import Agent

BLACK = np.zeros((64, 64, 3), np.uint8)
METHODS = {
    "/AWS.LookoutVision.EdgeAgent/DetectAnomalies": contract.DetectAnomaliesResponse,
    "/edge_agent.v1.Inspector/Inspect": wire.InspectResponse,
}


def beside(channel: grpc.Channel, method: str, frame: Any, camera: str) -> Dict[str, str]:
    """The trailing metadata of one call."""
    height, width = frame.shape[:2]
    bitmap = contract.Bitmap(width=width, height=height, byte_data=frame.tobytes())
    call: Any = channel.unary_unary(
        method,
        request_serializer=contract.DetectAnomaliesRequest.SerializeToString,
        response_deserializer=METHODS[method].FromString,
    )
    request = contract.DetectAnomaliesRequest(model_component="cls", bitmap=bitmap)
    _, done = call.with_call(request, timeout=20, metadata=[("camera-id", camera)])
    return dict(done.trailing_metadata())


@pytest.mark.parametrize("method", METHODS)
def test_both_services_tell_problems_beside_the_answer_and_only_when_there_are_any(
    channel: grpc.Channel, method: str
) -> None:
    white = plain(255) * 0 + 255
    assert beside(channel, method, white, "one")["camera-problems"] == "bright, blank"
    assert beside(channel, method, BLACK, "one")["camera-problems"] == "black"
    assert set(beside(channel, method, striped(1), "one")) == {"server-timing"}


def test_a_camera_that_repeats_itself_is_frozen_and_its_neighbours_are_not(agent: Agent) -> None:
    told: Dict[str, List[Any]] = {"stuck": [], "live": []}
    with Client(agent.address, camera_id="stuck") as stuck, Client(
        agent.address, camera_id="live"
    ) as live:
        for turn in range(11):
            told["stuck"].append(stuck.detect("map", striped(9)).camera_problems)
            told["live"].append(live.detect("map", striped(turn)).camera_problems)
    assert told["stuck"] == [()] * 9 + [(CameraProblem.FROZEN,)] * 2
    assert told["live"] == [()] * 11


def test_a_frozen_camera_is_followed_model_by_model(agent: Agent) -> None:
    with Client(agent.address, camera_id="two models") as client:
        for _ in range(9):
            assert client.detect("cls", striped(7)).camera_problems == ()
        assert client.detect("map", striped(7)).camera_problems == ()
        assert client.detect("cls", striped(7)).camera_problems == (CameraProblem.FROZEN,)


def test_a_running_model_compares_with_what_its_own_training_saw(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    saw = {"brightness": [60.0, 70.0], "sharpness": [20000.0, 30000.0]}
    micro.write(agent.models / "cls", "classification", statistics=saw)
    soft = plain(51)
    soft[:32, :, 1] = 120
    with agent, agent.client() as client:
        client.start("cls")
        frames = (striped(51), striped(51) // 2, striped(51) + 55, soft)
        found = [client.detect("cls", frame).camera_problems for frame in frames]
    assert found == [
        (),
        (CameraProblem.DARK,),
        (CameraProblem.BRIGHT,),
        (CameraProblem.BLURRED,),
    ]


def test_the_answers_of_a_stream_tell_problems(agent: Agent) -> None:
    with agent.client() as client:
        answers = list(client.stream("cls", [striped(1), BLACK, plain(1), striped(2)]))
    found = [answer.prediction.camera_problems for answer in answers if answer.prediction]
    assert found == [(), (CameraProblem.BLACK,), (CameraProblem.BLANK,), ()]


def test_problems_and_the_result_id_pass_the_wire_unchanged() -> None:
    sent = Prediction(
        is_anomalous=True,
        confidence=0.75,
        score=0.75,
        threshold=0.5,
        camera_problems=tuple(CameraProblem),
        result_id="0190-7",
    )
    reply = wire.InspectResponse.FromString(inspect_response(sent, None).SerializeToString())
    assert convert.prediction(reply, None) == sent
    told = dict(metadata.of_answer(sent, StageTimes()))
    assert told["camera-problems"] == "black, dark, bright, blank, blurred, frozen"
    assert told["result-id"] == "0190-7"


def test_a_problem_only_later_agents_know_hurts_no_client() -> None:
    reply = wire.InspectResponse(camera_problems=["upside-down", "dark"])
    assert convert.prediction(reply, None).camera_problems == (CameraProblem.DARK,)


ALL_WAYS = ("bytes", "shared_memory", "stream", "contract")
WHITE = BLACK + 255
FRAMES = {"black": BLACK, "bright": WHITE, "blank": plain(128)}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent with the settings' own defaults, but that it refuses frozen pictures."""
    own = {"EDGE_AGENT_DECISION__CAMERA_PROBLEM": '{"frozen": "refuse"}'}
    agent = Agent(tmp_path_factory.mktemp("strict"), environment=own)
    micro.write(agent.models / "cls", "classification", decision={"threshold": 1.0})
    micro.write(agent.models / "map", "anomaly_map")
    micro.write(agent.models / "seg", "segmentation", runtime={"batch_sizes": [4]})
    with agent:
        for name in ("cls", "map", "seg"):
            agent.run(name)
        yield agent


def judged(agent: Agent, way: str, model: str, frame: Any) -> Any:
    """The verdict on a frame, with its mask, that came one of ALL_WAYS."""
    if way == "contract":
        with agent.channel() as channel:
            reply = contract.DetectAnomalyResult.FromString(
                Caller(channel).detect(model, frame).SerializeToString()
            )
        return convert.prediction(wire.InspectResponse(result=reply), None)
    with agent.client() as client:
        if way != "stream":
            return client.detect(model, frame, way)
        (answer,) = client.stream(model, [frame])
        return answer.prediction


@pytest.mark.parametrize("way", ALL_WAYS)
@pytest.mark.parametrize("problem", FRAMES)
def test_a_picture_without_a_part_is_anomalous_for_certain(
    strict: Agent, way: str, problem: str
) -> None:
    for model in ("cls", "map", "seg"):
        found = judged(strict, way, model, FRAMES[problem])
        assert (found.is_anomalous, found.confidence, found.score) == (True, 1.0, 1.0)
        if model == "cls":
            assert (found.anomalies, found.mask) == ((), None)
            continue
        assert [(each.name, each.area) for each in found.anomalies] == [
            ("background", 0.0), (problem, 1.0)
        ]  # fmt: skip
        assert (found.mask == (255, 0, 0)).all()


def test_only_the_frames_with_a_problem_are_answered_so(strict: Agent) -> None:
    frames = [striped(51), BLACK, striped(51), plain(51)] * 3
    with strict.client() as client:
        answers = [each.prediction for each in client.stream("seg", frames)]
    found = [(each.is_anomalous, len(each.anomalies)) for each in answers if each]
    assert found == [(False, 1), (True, 2), (False, 1), (True, 2)] * 3


def test_a_threshold_set_afterwards_changes_nothing_of_it(strict: Agent) -> None:
    assert judged(strict, "bytes", "cls", striped(254)).is_anomalous is False
    found = judged(strict, "bytes", "cls", BLACK)
    assert (found.is_anomalous, found.threshold) == (True, 1.0)


def test_a_refused_picture_is_an_error_of_its_own(strict: Agent) -> None:
    with Client(strict.address, camera_id="stuck") as client:
        for _ in range(9):
            client.detect("cls", striped(1))
        with pytest.raises(FaultyPicture, match="The picture is frozen: the camera") as caught:
            client.detect("cls", striped(1))
        assert caught.value.problems == "frozen"
        (answer,) = client.stream("cls", [striped(1)])
        assert isinstance(answer.error, FaultyPicture)
    told = dict(metadata.of_error(FaultyPicture.showing(["dark", "blank"])))
    assert told == {"error-name": "FaultyPicture", "camera-problems": "dark, blank"}
