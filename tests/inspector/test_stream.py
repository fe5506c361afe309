"""StreamDetect: ordered, side by side, with flow control."""

from __future__ import annotations

import queue
import re
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional

import grpc
import pytest

from edge_agent.wire import edge_agent_pb2 as contract
from edge_agent.wire import edge_agent_v1_pb2 as wire
from tests.contract.calls import INVALID_ARGUMENT, Caller, plain, until
from tests.fakes import micro
from tests.fakes.agent import Agent

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def frame(
    number: int, red: int = 255, model: str = "cls", options: Optional[wire.StreamOptions] = None
) -> wire.StreamDetectRequest:
    pixels = plain(red)
    bitmap = contract.Bitmap(width=64, height=64, byte_data=pixels.tobytes())
    request = contract.DetectAnomaliesRequest(model_component=model, bitmap=bitmap)
    return wire.StreamDetectRequest(frame_id=number, request=request, options=options)


def stream(channel: grpc.Channel, requests: Iterable[wire.StreamDetectRequest]) -> Any:
    call: Callable[..., Any] = channel.stream_stream(
        "/edge_agent.v1.Inspector/StreamDetect",
        request_serializer=wire.StreamDetectRequest.SerializeToString,
        response_deserializer=wire.StreamDetectResponse.FromString,
    )
    return call(iter(requests), timeout=60)


class Feed:
    """Requests that a test sends one by one; counts what gRPC has taken."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Optional[wire.StreamDetectRequest]] = queue.Queue()
        self.taken = 0

    def send(self, request: Optional[wire.StreamDetectRequest]) -> None:
        self._queue.put(request)

    def __iter__(self) -> Iterator[wire.StreamDetectRequest]:
        while True:
            request = self._queue.get(timeout=60)
            if request is None:
                return
            self.taken += 1
            yield request


def test_answers_come_in_the_order_of_the_frames(channel: grpc.Channel) -> None:
    models = ["slow", "cls", "map"]
    requests = [frame(n, 5 * n, models[n % 3]) for n in range(1, 40)]
    answers = list(stream(channel, requests))
    assert [answer.frame_id for answer in answers] == list(range(1, 40))
    for answer in answers:
        score = answer.result.result.anomaly_score
        assert score == pytest.approx(5 * answer.frame_id / 255, abs=0.01)
        assert answer.server_timing.startswith("receive;dur=")
    assert answers[1].result.result.anomaly_mask.width == 64  # map


def test_a_frame_that_fails_has_its_own_answer_and_the_stream_goes_on(
    channel: grpc.Channel,
) -> None:
    broken = frame(2)
    broken.request.bitmap.byte_data = b"short"
    answers = list(stream(channel, [frame(1), broken, frame(3, model="no-such"), frame(4)]))
    assert [answer.WhichOneof("outcome") for answer in answers] == [
        "result", "failure", "failure", "result",
    ]  # fmt: skip
    assert answers[1].failure.code == INVALID_ARGUMENT.value[0]
    assert "64*64*3 = 12288" in answers[1].failure.message
    assert answers[2].failure.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_no_more_frames_are_read_than_may_be_in_work(channel: grpc.Channel) -> None:
    """Frames of 2 MB, so that gRPC's own window holds few of them."""
    options = wire.StreamOptions(max_in_flight=2)
    feed, large = Feed(), plain(255, 1024, 682)
    for number in range(1, 31):
        bitmap = contract.Bitmap(width=1024, height=682, byte_data=large.tobytes())
        request = contract.DetectAnomaliesRequest(model_component="slow", bitmap=bitmap)
        feed.send(wire.StreamDetectRequest(frame_id=number, request=request, options=options))
    feed.send(None)
    answers, most_ahead = 0, 0
    for answer in stream(channel, feed):
        answers += 1
        assert answer.WhichOneof("outcome") == "result"
        most_ahead = max(most_ahead, feed.taken - answers)
    assert answers == 30
    assert most_ahead < 20


def test_the_newest_frame_wins_where_that_is_asked_for(channel: grpc.Channel) -> None:
    options = wire.StreamOptions(max_in_flight=1, newest_frame_wins=True)
    requests = [frame(n, model="slow", options=options) for n in range(1, 21)]
    answers = list(stream(channel, requests))
    assert [answer.frame_id for answer in answers] == list(range(1, 21))
    outcomes = [answer.WhichOneof("outcome") for answer in answers]
    assert outcomes[0] == outcomes[-1] == "result"
    assert outcomes.count("skipped") >= 10


@pytest.mark.parametrize(
    ("requests", "sentence"),
    [
        ([frame(2), frame(2)], "Frame id 2 came after 2; ids must rise."),
        (
            [frame(1, options=wire.StreamOptions(max_in_flight=65))],
            "options.max_in_flight is 65; expected at most 64.",
        ),
    ],
)
def test_a_stream_that_breaks_the_rules_ends_with_a_sentence(
    channel: grpc.Channel, requests: List[wire.StreamDetectRequest], sentence: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(channel, requests))
    error: Any = caught.value
    assert (error.code(), error.details()) == (INVALID_ARGUMENT, sentence)


def test_an_empty_stream_ends_well(channel: grpc.Channel) -> None:
    assert list(stream(channel, [])) == []


def test_a_client_that_leaves_in_the_middle_does_no_harm(agent: Agent) -> None:
    for _ in range(5):
        with agent.channel() as channel:
            feed = Feed()
            call = stream(channel, feed)
            for number in range(1, 9):
                feed.send(frame(number, model="slow"))
            assert next(call).frame_id == 1
            call.cancel()
            feed.send(None)
    assert agent.process is not None
    with agent.channel() as channel:
        assert Caller(channel).detect("slow", plain(255)).is_anomalous
    threads = Path(f"/proc/{agent.process.pid}/task")
    before = len(list(threads.iterdir()))
    assert before < 80


def test_a_stream_ends_with_a_retryable_status_when_the_agent_stops(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        agent.run("cls")
        feed = Feed()
        call = stream(channel, feed)
        feed.send(frame(1))
        assert next(call).frame_id == 1
        began = time.monotonic()
        stopper = threading.Thread(target=agent.stop)
        stopper.start()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        error: Any = caught.value
        assert error.code() is UNAVAILABLE
        feed.send(None)
        stopper.join(20)
        assert agent.process is not None
        assert agent.process.poll() == 0
        assert time.monotonic() - began < 5.0


def test_more_streams_than_allowed_are_refused(agent: Agent) -> None:
    feeds = [Feed() for _ in range(66)]
    with agent.channel() as channel:
        calls = [stream(channel, feed) for feed in feeds]
        ended = until(lambda: [call for call in calls if not call.is_active()])
        assert {call.code() for call in ended} == {UNAVAILABLE}
        assert re.match(r"\d+ streams are open; try again later\.", ended[0].details())
        for feed in feeds:
            feed.send(None)
        until(lambda: not any(call.is_active() for call in calls))
