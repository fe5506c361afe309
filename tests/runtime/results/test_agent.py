"""From a client's frame to what is published, with a real agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import jsonschema
import numpy as np
import pytest

from edge_agent.client import Client
from edge_agent.errors import UserError
from edge_agent.types import CameraProblem, ModelState
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.runtime.results.conftest import journals
from tests.runtime.results.outboxes import wait_until
from tests.runtime.results.test_disk import disk_free, small_disk
from tests.runtime.results.test_event import SCHEMA

SIZE = 128


def frame(red: int, noise: int = 40) -> Any:
    pixels = np.random.default_rng(red).integers(0, noise, (SIZE, SIZE, 3)).astype(np.uint8)
    pixels[..., 0] = np.clip(red + pixels[..., 0].astype(int) - noise // 2, 0, 255)
    pixels[::8, :, 1] = 200  # noise alone would be a blank picture
    return pixels


class Line:
    """An agent with a model, which writes its results to a file."""

    def __init__(self, folder: Path, *settings: str, task: str = "anomaly_map") -> None:
        self.results = folder / "results.jsonl"
        assignments = (
            f"results.lines={self.results}", f"results.folder={folder / 'state'}",
            "results.thing=press-4", "results.outbox.commit_every_s=0.05", *settings,
        )  # fmt: skip
        arguments = [part for setting in assignments for part in ("--set", setting)]
        self.agent = Agent(folder, *arguments)
        micro.write(self.agent.models / "bolts", task)

    def events(self, kind: str = "result") -> List[Dict[str, Any]]:
        lines = self.results.read_bytes().splitlines() if self.results.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def wait_for(self, count: int, kind: str = "result") -> List[Dict[str, Any]]:
        wait_until(lambda: len(self.events(kind)) >= count)
        return self.events(kind)

    def running(self) -> Client:
        self.agent.run("bolts")
        self.agent.wait_for("bolts", ModelState.RUNNING)
        return Client(self.agent.address, 30.0, camera_id="left")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path, f"results.capture.folder={tmp_path / 'kept'}")
    with made.agent:
        yield made


def test_a_verdict_is_published_with_all_that_is_known_of_it(line: Line) -> None:
    with line.running() as client:
        verdict = client.detect("bolts", frame(220))

    event = line.wait_for(1)[0]
    jsonschema.validate(event, SCHEMA)
    assert event["id"] == verdict.result_id
    assert event["thing"] == "press-4"
    assert event["model"] == "bolts"
    assert event["camera"] == "left"
    assert event["is_anomalous"] is True
    assert event["anomaly_score"] == pytest.approx(verdict.score, abs=1e-6)
    assert event["anomalies"]["anomaly"]["area"] == pytest.approx(
        verdict.anomalies[1].area, abs=1e-6
    )
    assert event["regions"][0]["width"] == verdict.regions[0].width
    assert event["frame_time"] <= event["result_time"]
    assert event["timings_ms"]["compute"] > 0.0


def test_at_debug_the_log_says_what_was_decided_for_each_call_and_why(tmp_path: Path) -> None:
    line = Line(tmp_path, "log_level=DEBUG", "results.publish=anomalies", "results.heartbeat_s=0")
    with line.agent, line.running() as client:
        for red in (220, 60):
            client.detect("bolts", frame(red))
        for model in ("none", ""):
            with pytest.raises(UserError):
                client.detect(model, frame(60))
        with pytest.raises(UserError):
            client.stop("none")
    said = [json.loads(text) for text in line.agent.log().splitlines() if text[:1] == "{"]
    debug = "\n".join(each["message"] for each in said if each["level"] == "DEBUG")
    for part in (
        "Model 'bolts', camera 'left', 128x128 in shared memory: anomalous: score",
        "reaches the threshold 0.5", "is below the threshold 0.5", "camera problems: none",
        "Model 'bolts': published; not captured.",
        "Model 'bolts': not published, by results.publish", "ms: receive ",
        "Model 'none', camera 'left', 128x128 in shared memory: refused with NOT_FOUND",
        "refused with INVALID_ARGUMENT: model_component is empty",
        "StopModel: refused with NOT_FOUND",
    ):  # fmt: skip
        assert part in debug, debug


def test_an_anomaly_is_kept_and_the_event_says_where(line: Line, tmp_path: Path) -> None:
    with line.running() as client:
        client.detect("bolts", frame(220))
        client.detect("bolts", frame(60))

    bad, good = line.wait_for(2)
    assert good["capture"] is None
    wait_until(lambda: (tmp_path / "kept" / "manifest.jsonl").exists())
    kept = json.loads((tmp_path / "kept" / "manifest.jsonl").read_text().splitlines()[0])
    assert kept["source-ref"] == bad["capture"]
    assert (tmp_path / "kept" / bad["capture"]).exists()


def test_black_warm_up_frames_of_old_clients_are_answered_and_not_published(line: Line) -> None:
    with line.running() as client:
        for _ in range(5):
            verdict = client.detect("bolts", np.zeros((720, 1280, 3), np.uint8))
            assert verdict.camera_problems == (CameraProblem.BLACK,)
            assert not verdict.result_id
        client.detect("bolts", frame(60))
        assert len(line.wait_for(1)) == 1
        for _ in range(14):
            client.detect("bolts", np.zeros((128, 128, 3), np.uint8))
        client.detect("bolts", frame(61))

    events = line.wait_for(3)  # a camera that stays black is told once
    assert [event["camera_problems"] for event in events] == [[], ["black"], []]


def test_black_frames_are_anomalous_and_yet_no_results_of_parts(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.agent.environment["EDGE_AGENT_DECISION__CAMERA_PROBLEM"] = "anomalous"
    with line.agent, line.running() as client:
        for _ in range(5):
            verdict = client.detect("bolts", np.zeros((720, 1280, 3), np.uint8))
            assert (verdict.is_anomalous, verdict.confidence) == (True, 1.0)
            assert not verdict.result_id
        client.detect("bolts", np.full((SIZE, SIZE, 3), 128, np.uint8))
    event = line.wait_for(1)[0]
    assert (event["camera_problems"], event["is_anomalous"]) == (["blank"], True)
    assert event["anomalies"] == {"blank": {"area": 1.0, "color": "#FF0000"}}
    jsonschema.validate(event, SCHEMA)


def test_a_camera_problem_is_flagged(line: Line) -> None:
    with line.running() as client:
        verdict = client.detect("bolts", np.full((SIZE, SIZE, 3), 128, np.uint8))

    assert CameraProblem.BLANK in verdict.camera_problems
    assert "blank" in line.wait_for(1)[0]["camera_problems"]


def test_results_of_an_agent_killed_right_after_its_answer_are_published_by_the_next(
    line: Line,
) -> None:
    ids = []
    for _ in range(3):
        with line.running() as client:
            ids += [client.detect("bolts", frame(n)).result_id for n in range(20, 60)]
        line.agent.kill()
        line.agent.start()

    events = line.wait_for(len(ids))
    published = [event["id"] for event in events]
    assert set(published) == set(ids)
    assert list(dict.fromkeys(published)) == ids


def test_a_results_file_that_cannot_be_written_stops_no_answer(tmp_path: Path) -> None:
    line = Line(tmp_path, f"results.lines={tmp_path}/no-folder/results.jsonl")
    with line.agent, line.running() as client:
        for n in range(20):
            assert client.detect("bolts", frame(n + 60)).result_id
        line.results = tmp_path / "no-folder" / "results.jsonl"
        wait_until(lambda: "can't be written" in line.agent.log())
        (tmp_path / "no-folder").mkdir()
        line.wait_for(20)


@pytest.mark.parametrize("options", ["size=2m", "size=2m,ro"])
def test_an_agent_whose_disk_refuses_everything_answers_and_delivers(
    tmp_path: Path, options: str
) -> None:
    with small_disk(tmp_path / "disk", options) as disk:
        if "ro" not in options:
            (disk / "filler").write_bytes(b"x" * disk_free(disk))
        settings = f"results.folder={disk / 'state'}", f"results.capture.folder={disk / 'kept'}"
        line = Line(tmp_path, *settings)
        with line.agent, line.running() as client:
            ids = [client.detect("bolts", frame(n)).result_id for n in range(60, 240, 3)]
            line.wait_for(len(ids))
        assert [event["id"] for event in line.events()] == ids
        assert "results.outbox" in line.agent.log()  # says what is wrong


def test_a_second_agent_on_the_same_folder_is_refused_with_a_sentence(
    line: Line, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = Agent(
        other, "--set", f"results.folder={tmp_path / 'state'}", "--set", "results.lines=-"
    )

    with pytest.raises(AssertionError, match="in use by another agent"):
        second.start()


def test_stopping_leaves_nothing_unsaid_and_no_journal(line: Line) -> None:
    with line.running() as client:
        for n in range(50):
            client.detect("bolts", frame(n))
    assert line.agent.stop() == 0
    assert not journals(line.agent.folder)
    line.agent.start()

    assert len(line.wait_for(50)) == 50
    assert "Traceback" not in line.agent.log(), line.agent.log()
