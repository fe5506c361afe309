"""The agent as a process: killed, started twice, terminated under load, and what it writes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, List, Set

import pytest

from edge_agent.types import ModelState
from tests.conftest import left_behind, there
from tests.contract.calls import OK, Caller, plain, until
from tests.contract.generations import RUNNING, STOPPED
from tests.fakes import micro
from tests.fakes.agent import Agent


def refusal(agent: Agent) -> str:
    """Start another process with the agent's own command; return why it ended with 2."""
    ended = subprocess.run(
        agent.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stdout
    return ended.stdout.decode()


def children(process_id: int) -> List[str]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def test_a_killed_agent_comes_back_with_its_autostart_models(tmp_path: Path) -> None:
    records = tmp_path / "models.d"
    records.mkdir()
    agent = Agent(tmp_path, "--records", str(records))
    micro.write(agent.models / "manual", "classification")
    micro.write(tmp_path / "automatic", "classification")
    values = {"model_component": "automatic", "package": str(tmp_path / "automatic")}
    (records / "automatic.json").write_text(json.dumps({**values, "autostart": True}))
    agent.start()
    agent.wait_for("automatic", ModelState.RUNNING)
    agent.run("manual")
    agent.kill()
    assert agent.socket.is_socket()
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        assert caller.wait("automatic", RUNNING)
        assert caller.detect("automatic", plain(255)).is_anomalous
        assert caller.describe("manual").status == STOPPED
        assert "left by an agent that has ended" in agent.log()


def test_autostart_starts_every_model_of_the_folder(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--autostart")
    for task in ("classification", "segmentation", "anomaly_map"):
        micro.write(agent.models / task, task)
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        for task in ("classification", "segmentation", "anomaly_map"):
            caller.wait(task, RUNNING)
            assert caller.detect(task, plain(255)).is_anomalous


def test_a_second_agent_on_the_same_socket_is_refused_and_takes_nothing(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        agent.run("cls")
        facts = agent.socket.stat()
        assert f"Another agent already serves at {agent.socket}" in refusal(agent)
        after = agent.socket.stat()
        assert (after.st_ino, after.st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)
        assert Caller(channel).detect("cls", plain(255)).is_anomalous
        with agent.channel() as fresh:
            assert Caller(fresh).detect("cls", plain(255)).is_anomalous


@pytest.mark.parametrize("kind", ["file", "link to a file"])
def test_what_lies_at_the_sockets_path_and_is_no_socket_stays(tmp_path: Path, kind: str) -> None:
    agent = Agent(tmp_path)
    if kind == "file":
        agent.socket.write_text("precious")
    else:
        (tmp_path / "precious").write_text("precious")
        agent.socket.symlink_to(tmp_path / "precious")
    before = agent.socket.lstat()
    assert f"{agent.socket} exists and isn't a socket; move it away" in refusal(agent)
    assert agent.socket.lstat().st_ino == before.st_ino
    assert agent.socket.read_text() == "precious"


def test_a_socket_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.address = f"unix://{tmp_path}/missing/agent.sock"
    assert "folder doesn't exist" in refusal(agent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_agent_ends_at_once_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    before = there()
    agent = Agent(tmp_path)
    began = time.monotonic()
    agent.start()
    starting_s = time.monotonic() - began
    assert agent.process is not None
    assert children(agent.process.pid) == []
    begin = time.monotonic()
    agent.process.send_signal(number)
    assert agent.process.wait(15) == 0
    assert time.monotonic() - begin < max(2.0, starting_s)  # which is longer on a busy machine
    assert not agent.socket.exists()
    assert left_behind(before) == set()


@pytest.mark.parametrize("model", ["cls", "slow"])
def test_a_termination_under_full_load_takes_five_seconds_at_most(
    tmp_path: Path, model: str
) -> None:
    """`slow` has more waiting than five seconds can compute; nobody waits for ever."""
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    content = micro.slow(64) if model == "slow" else None
    micro.write(agent.models / model, "classification", content, runtime={"batch_sizes": [1]})
    agent.start()
    assert agent.process is not None
    codes: Set[str] = set()
    calling = threading.Event()

    def call(client: Caller) -> None:
        while True:
            code = client.detect_later(model, plain(255, 640, 480)).code().name
            codes.add(code)
            if code in ("UNAVAILABLE", "CANCELLED"):
                return
            calling.set()

    with agent.channel() as channel:
        caller = Caller(channel)
        caller.run(model)
        threads = [threading.Thread(target=call, args=(caller,)) for _ in range(60)]
        for thread in threads:
            thread.start()
        assert calling.wait(20)
        assert children(agent.process.pid) == []
        begin = time.monotonic()
        code = agent.stop()
        took_s = time.monotonic() - begin
        for thread in threads:
            thread.join(20)
    assert code == 0, agent.log()
    assert took_s < 5.0
    assert codes <= {"OK", "UNAVAILABLE", "CANCELLED"}
    assert not agent.socket.exists()
    assert "Traceback" not in agent.log()


def test_an_agent_started_while_the_old_one_still_ends_keeps_its_socket(tmp_path: Path) -> None:
    """The old one has calls to finish; the new one takes its place as soon as it may."""
    old, new = Agent(tmp_path, "--set", "engine.threads=1"), Agent(tmp_path)
    once = {"batch_sizes": [1]}
    micro.write(new.models / "slow", "classification", micro.slow(64), runtime=once)
    with old, old.channel() as channel:
        caller = Caller(channel)
        caller.run("slow")
        calls = [caller.detect_later("slow", plain(255)) for _ in range(12)]
        calls[0].result()
        assert old.process is not None
        old.process.terminate()
        until(lambda: not old.socket.exists())
        with new:
            assert old.process.wait(20) == 0
            with new.channel() as fresh:
                assert Caller(fresh).describe("slow").status == STOPPED
            assert new.socket.is_socket()


def test_after_a_pause_of_the_whole_process_every_call_is_answered(tmp_path: Path) -> None:
    """Stopped for longer than an engine call may take, and than a caller for its message."""
    agent = Agent(
        tmp_path, "--set", "engine.hang_after_s=1", "--set", "engine.threads=1",
        "--set", "server.receive_within_s=1", "--set", "server.send_within_s=1",
    )  # fmt: skip
    micro.write(agent.models / "slow", "classification", micro.slow(steps=24))
    with agent, agent.channel() as channel:
        assert agent.process is not None
        agent.run("slow")
        caller = Caller(channel)
        calls = [caller.detect_later("slow", plain(255)) for _ in range(8)]
        calls[0].result(60)
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)  # nothing to wait for: it does not run
        agent.process.send_signal(signal.SIGCONT)
        assert all(call.result(60).detect_anomaly_result.is_anomalous for call in calls)
        for _ in range(5):
            assert caller.detect_later("slow", plain(255), timeout=2.0).code() == OK
        assert "stood still for" in agent.log()
        assert "hung" not in agent.log()


def test_every_line_of_the_log_is_one_object_and_no_frame_has_one(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "bad", "classification", b"no graph at all")
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.start("bad")
        agent.run("cls")
        before = agent.log()
        for red in range(100):
            caller.detect("cls", plain(red))
            caller.detect_later("cls", plain(red, 63, 64)).code()
            caller.detect_later("nope", plain(red)).code()
        assert agent.log() == before
        assert agent.stop() == 0
    lines = [json.loads(line) for line in agent.log().splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    messages = [line["message"] for line in lines]
    assert any("Model cls is RUNNING" in message for message in messages)
    (failed,) = [line for line in lines if "Model bad is FAILED" in line["message"]]
    assert failed["level"] == "ERROR"
    assert messages[-1] == "Stopped."


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("server.port=1", "server.port: unknown key"),
        ("server.socket_group=no-such-group", "no group no-such-group"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, setting: str, words: str) -> None:
    agent: Any = Agent(tmp_path, "--set", setting)
    assert words in refusal(agent)
    assert not agent.socket.exists()
