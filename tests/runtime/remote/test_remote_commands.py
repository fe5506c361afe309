"""Commands from afar, on real models; the transport is not in play."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import pytest

from edge_agent.config import CommandsSettings
from edge_agent.runtime.remote.remote_commands import LIMIT_BYTES, RemoteCommands
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.device import Device

EVERYTHING = ("start", "stop", "describe", "set-threshold", "last-capture")
ALLOW = {"hmi": EVERYTHING, "board": ("describe",), "nobody": ()}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    micro.write(tmp_path / "packages" / "plates", "classification")
    with Device(tmp_path) as device:
        device.record("plates", model_arn="arn:plates")
        yield device


class Captures:
    """What is known of the latest kept frames."""

    def __init__(self) -> None:
        self.known: Dict[str, Any] = {}

    def last(self, model: str) -> Optional[Dict[str, Any]]:
        return self.known.get(model)


@pytest.fixture
def captures() -> Captures:
    return Captures()


@pytest.fixture
def commands(device: Device, captures: Captures) -> RemoteCommands:
    settings = CommandsSettings(allow=ALLOW)
    return RemoteCommands(device.detector, settings, captures.last)


def ask(commands: RemoteCommands, requester: str = "hmi", **command: Any) -> Any:
    command.setdefault("time", time.time())
    return send(commands, json.dumps(command).encode(), requester)


def send(commands: RemoteCommands, payload: bytes, requester: str = "hmi") -> Any:
    answer = commands.answer(requester, payload)
    assert len(answer) <= LIMIT_BYTES
    return json.loads(answer)


def refusal(answer: Any) -> Any:
    assert answer["ok"] is False
    assert set(answer) == {"ok", "id", "error"}
    return answer["error"]["status"], answer["error"]["message"]


def test_a_model_is_started_described_tuned_and_stopped(
    device: Device, commands: RemoteCommands
) -> None:
    started = ask(commands, command="start", model="plates", id=7)
    assert (started["ok"], started["id"]) == (True, 7)
    assert started["model"]["state"] in ("STARTING", "RUNNING")
    device.wait("plates", ModelState.RUNNING)
    assert ask(commands, command="describe", model="plates")["model"] == {
        "name": "plates",
        "state": "RUNNING",
        "message": device.detector.describe("plates").message,
        "arn": "arn:plates",
        "inference_units": 1,
        "desired_units": 1,
        "least_units": 1,
        "most_units": 1,
    }
    tuned = ask(commands, command="set-threshold", model="plates", threshold=0.25)
    assert "Threshold 0.25." in tuned["model"]["message"]
    assert device.detect("plates").threshold == 0.25
    assert ask(commands, command="stop", model="plates")["model"]["state"] == "STOPPED"


def test_describe_without_a_model_tells_of_all(device: Device, commands: RemoteCommands) -> None:
    micro.write(device.packages / "bolts", "classification")
    device.record("bolts")
    answer = ask(commands, "board", command="describe")
    assert [model["name"] for model in answer["models"]] == ["bolts", "plates"]
    assert "cut" not in answer


def test_too_many_models_are_cut_and_the_answer_says_so(
    device: Device, commands: RemoteCommands
) -> None:
    micro.write(device.packages / "plates", "classification")
    for number in range(100):
        device.record(f"model-{number:03}", package=str(device.packages / "plates"))
    answer = ask(commands, command="describe", id="i" * 250)
    shown = len(answer["models"])
    assert 10 < shown < 101
    assert answer["cut"] == f"{101 - shown} more models; describe them by name."


def test_an_answer_fits_however_long_its_sentences_are(
    device: Device, commands: RemoteCommands
) -> None:
    device.record("plates", model_arn="\x01" * 5000, decision={"\x02" * 5000: 1})
    ask(commands, command="start", model="plates")
    device.wait("plates", ModelState.FAILED)
    for _ in range(2):
        send(commands, b'{"command": "describe", "id": "' + b"\\u0001" * 41 + b'"}')
        ask(commands, command="describe", model="plates")
        ask(commands, "\x01" * 5000, command="describe")
        ask(commands, command="\x01" * 3000)


@pytest.mark.parametrize("id_", ["a-1", 7, 1.5, None, True, ["a"], {"a": 1}])
def test_the_id_is_echoed_in_answers_and_refusals(commands: RemoteCommands, id_: Any) -> None:
    assert ask(commands, command="describe", id=id_)["id"] == id_
    assert ask(commands, command="dance", id=id_)["id"] == id_
    assert ask(commands, "stranger", command="describe", id=id_)["id"] == id_


def test_a_long_id_is_refused(commands: RemoteCommands) -> None:
    status, message = refusal(ask(commands, command="describe", id="i" * 300))
    assert status == "INVALID_ARGUMENT"
    assert "id: at most 256 bytes" in message


@pytest.mark.parametrize("requester", ["stranger", "nobody", ""])
def test_a_stranger_is_denied_and_logged(
    commands: RemoteCommands, requester: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, message = refusal(ask(commands, requester, command="describe"))
    assert status == "PERMISSION_DENIED"
    assert "may not send commands to this device" in message
    assert "PERMISSION_DENIED" in caplog.text


def test_a_requester_has_only_its_own_commands(device: Device, commands: RemoteCommands) -> None:
    status, message = refusal(ask(commands, "board", command="start", model="plates"))
    assert (status, message) == ("PERMISSION_DENIED", "'board' may not start, only describe.")
    assert device.detector.describe("plates").state is ModelState.STOPPED


WRONG = [
    (b"", "whole document"),
    (b"{", "whole document"),
    (b"\xff\xfe", "whole document"),
    (b"[]", "whole document"),
    (b"[" * 4000, "whole document"),
    (b'{"id": ' + b"[" * 2000, "whole document"),
    (b" " * 5000, "at most 4096 bytes"),
    (b"{}", "command: "),
    (b'{"command": "dance"}', "command: "),
    (b'{"command": "start"}', "command start needs a model"),
    (b'{"command": "start", "model": 7}', "model: "),
    (b'{"command": "start", "model": ""}', "model: "),
    (b'{"command": "start", "model": "plates", "threshold": 0.5}', "threshold belongs to"),
    (b'{"command": "set-threshold", "model": "plates"}', "threshold belongs to"),
    (b'{"command": "set-threshold", "model": "plates", "threshold": 1.1}', "threshold: "),
    (b'{"command": "set-threshold", "model": "plates", "threshold": NaN}', "'NaN' isn't finite"),
    (b'{"command": "set-threshold", "model": "plates", "threshold": "0.5"}', "threshold: "),
    (b'{"command": "describe", "id": NaN}', "'NaN' isn't finite"),
    (b'{"command": "describe", "colour": 1}', "known here: command, id, model, threshold, time"),
]


@pytest.mark.parametrize(("payload", "sentence"), WRONG)
def test_what_is_no_command_is_refused_with_a_sentence(
    commands: RemoteCommands, payload: bytes, sentence: str
) -> None:
    status, message = refusal(send(commands, payload))
    assert status == "INVALID_ARGUMENT"
    assert sentence in message


def test_what_the_agent_refuses_comes_back_with_its_status_and_sentence(
    commands: RemoteCommands,
) -> None:
    status, message = refusal(ask(commands, command="stop", model="plates"))
    assert status == "FAILED_PRECONDITION"
    assert message == "Model 'plates' can't be stopped now. The model is STOPPED."
    status, message = refusal(ask(commands, command="describe", model="nuts"))
    assert status == "NOT_FOUND"
    assert "Deployed models: plates." in message


def test_the_latest_kept_frame_is_told(commands: RemoteCommands, captures: Captures) -> None:
    captures.known["plates"] = {"capture": "c1", "score": 0.7, "thumbnail": "t" * 5000}
    answer = ask(commands, command="last-capture", model="plates")
    assert answer["capture"] == captures.known["plates"]
    assert "cut" not in answer


def test_a_thumbnail_too_large_is_left_out(commands: RemoteCommands, captures: Captures) -> None:
    captures.known["plates"] = {"capture": "c1", "thumbnail": "t" * 7000}
    answer = ask(commands, command="last-capture", model="plates", id="i" * 250)
    assert answer["capture"] == {"capture": "c1"}
    assert answer["cut"] == "The thumbnail is too large to send."
    captures.known["plates"] = {"capture": "c" * 7000}
    status, _ = refusal(ask(commands, command="last-capture", model="plates"))
    assert status == "RESOURCE_EXHAUSTED"


def test_where_no_frame_is_kept_the_answer_says_so(commands: RemoteCommands) -> None:
    status, message = refusal(ask(commands, command="last-capture", model="plates"))
    assert (status, message) == ("NOT_FOUND", "No frame of model 'plates' is stored.")
    status, message = refusal(ask(commands, command="last-capture", model="nuts"))
    assert (status, "isn't deployed" in message) == ("NOT_FOUND", True)


@pytest.mark.parametrize("fault", [{"password": object()}, {"password": float("nan")}])
def test_an_unexpected_fault_shows_an_id_and_keeps_its_details_in_the_log(
    commands: RemoteCommands,
    captures: Captures,
    fault: Dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    captures.known["plates"] = fault
    status, message = refusal(ask(commands, command="last-capture", model="plates", id=7))
    assert status == "INTERNAL"
    number = message.split()[2].rstrip(".")
    assert message == f"Internal error {number}. See the agent's log."
    assert f"Internal error {number} in a command of 'hmi'" in caplog.text
    assert "Traceback" in caplog.text


def test_who_commanded_what_stands_in_the_log(
    commands: RemoteCommands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ask(commands, command="set-threshold", model="plates", threshold=0.25)
    assert "Command of 'hmi' done: set-threshold plates 0.25" in caplog.text
    assert "set by hmi" in caplog.text
    ask(commands, command="start", model="nuts")
    assert "Command of 'hmi' refused: NOT_FOUND" in caplog.text
