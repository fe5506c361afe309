"""The agent's life as a component, with a real process and a fake nucleus."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest

from edge_agent.config import Settings
from edge_agent.errors import AgentUnavailable, ModelNotFound
from edge_agent.runtime.host.component import GreengrassComponent
from edge_agent.runtime.host.greengrass import SOCKET
from edge_agent.runtime.host.last_good import LastGood
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.broker import free_port
from tests.fakes.fake_nucleus import FakeNucleus
from tests.fakes.nucleus.configuration import of_yaml
from tests.fakes.nucleus.updates import UPDATES
from tests.runtime.host.serving import FRAME, ComponentAgent, burst, frames_coming
from tests.runtime.results.outboxes import wait_until

CHANGES = "SubscribeToConfigurationUpdate"
WITHIN_S = 60.0


def follows(nucleus: FakeNucleus, operation: str = CHANGES) -> bool:
    return any(one.operation == operation for one in nucleus.subscriptions)


# Start


def test_the_nucleus_hears_that_the_agent_runs_and_clients_are_answered(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, nucleus) as agent:
        with agent.running() as client:
            assert client.detect("bolts", FRAME).score == pytest.approx(0.4, abs=1e-4)
        nucleus.until(lambda: nucleus.states == ["RUNNING"])
        assert agent.stop() == 0
    assert "Traceback" not in agent.log()


def test_values_of_a_yaml_recipe_are_what_they_mean(lite: FakeNucleus, tmp_path: Path) -> None:
    lite.configure(
        of_yaml(
            {
                "log_level": "DEBUG",
                "models": {"memory_limit_mib": None, "thresholds": {"bolts": 0.75}},
                "engine": {"min_inference_units": 2, "cpu_batches": True, "threads": 1},
                "results": {"lines": "", "mqtt": {"port": 443}},
            }
        )
    )
    with ComponentAgent(tmp_path, lite) as agent, agent.running() as client:
        assert client.detect("bolts", FRAME).threshold == pytest.approx(0.75)
        assert "2 inference units" in agent.wait_for("bolts", ModelState.RUNNING).message


def test_results_and_commands_go_through_the_same_connection(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    greengrass = {"topic": "cell/{model}/{kind}", "local_topic": "cell/{verdict}"}
    commands = {"allow": {"hmi": ["describe"]}, "topic": "commands", "response_topic": "responses"}
    nucleus.configure(
        {"results": {"greengrass": greengrass, "commands": commands, "summary": "none"}}
    )
    with ComponentAgent(tmp_path, nucleus) as agent, agent.running() as client:
        client.detect("bolts", FRAME)
        nucleus.until(lambda: bool(nucleus.published and nucleus.published_locally))
        nucleus.until(lambda: follows(nucleus, "SubscribeToIoTCore"))
        nucleus.deliver("commands/hmi", b'{"command": "describe"}')
        nucleus.until(lambda: nucleus.published[-1].topic == "responses/hmi")
        assert nucleus.connections() == 1
    assert nucleus.published[0].topic == "cell/bolts/result"
    assert (agent.work / "results").is_dir()


def test_the_command_line_and_the_environment_win(nucleus: FakeNucleus, tmp_path: Path) -> None:
    nucleus.configure({"results": {"lines": "/nowhere/at/all", "thing": "told"}, "log_level": "X"})
    lines = tmp_path / "lines.jsonl"
    agent = ComponentAgent(tmp_path, nucleus, "--set", f"results.lines={lines}")
    agent.environment["EDGE_AGENT_LOG_LEVEL"] = "INFO"
    with agent, agent.running() as client:
        client.detect("bolts", FRAME)
        wait_until(lambda: lines.exists() and bool(lines.read_bytes()))
    assert json.loads(lines.read_text().splitlines()[0])["thing"] == "told"


def test_a_wrong_configuration_ends_the_start_with_a_sentence(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    nucleus.configure({"engine": {"threads": "many"}, "log_levl": "INFO"})
    agent = ComponentAgent(tmp_path, nucleus)
    assert agent.code() == 2
    assert "engine.threads" in agent.log()
    assert "log_levl: unknown key; known here: decision, engine, log_level" in agent.log()
    assert "Traceback" not in agent.log()
    assert not nucleus.states


def test_a_first_start_waits_for_a_nucleus_that_is_slow_to_come(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    agent = ComponentAgent(tmp_path, nucleus)
    agent.environment["SVCUID"] = "not known yet"
    nucleus.in_unit = False
    with ThreadPoolExecutor(1) as other:
        start = other.submit(agent.start)
        wait_until((tmp_path / "agent.log").exists)
        wait_until(lambda: "refuses this component" in agent.log())
        nucleus.token = "not known yet"
        start.result(WITHIN_S)
    with agent.running() as client:
        client.detect("bolts", FRAME)
    agent.stop()
    assert "Traceback" not in agent.log()
    assert "not known yet" not in agent.log()


def test_without_the_nucleus_the_agent_starts_as_it_last_did(
    lite: FakeNucleus, tmp_path: Path
) -> None:
    lite.configure({"models": {"thresholds": {"bolts": 0.75}}})
    with ComponentAgent(tmp_path, lite) as agent:
        with agent.running():
            agent.stop()
        lite.silent = lite.in_unit = False
        lite.token, token = "another one", lite.token
        agent.start()
        with agent.running() as client:
            assert client.detect("bolts", FRAME).threshold == pytest.approx(0.75)
            lite.configure({"models": {"thresholds": {"bolts": 0.25}}})
            lite.token = token
            wait_until(lambda: client.detect("bolts", FRAME).threshold == pytest.approx(0.25))
    assert len(agent.lines("The agent starts with the settings of its last good start")) == 1


WRONG: Dict[str, Dict[str, Any]] = {
    "results.publish": {"results": {"publish": "no"}},
    "models.trusted_keys": {"models": {"trusted_keys": "/nowhere/keys.pem"}},
    "/nowhere/agent.sock": {"Socket": "unix:///nowhere/agent.sock"},
    # Found when the other addresses are taken already.
    "/nowhere/operators.sock": {"server": {"operator_socket": "unix:///nowhere/operators.sock"}},
    "server.metrics": {"server": {"metrics": "203.0.113.1:9100"}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_restart_with_wrong_settings_runs_on_the_last_good_ones(
    lite: FakeNucleus, tmp_path: Path, name: str
) -> None:
    lite.configure({"results": {"greengrass": {"topic": "a"}, "publish": "all"}})
    lite.configure({"server": {"tcp": f"localhost:{free_port()}"}})
    with ComponentAgent(tmp_path, lite) as agent:
        with agent.running() as client:
            assert client.detect("bolts", FRAME).threshold == pytest.approx(0.5)
        agent.stop()
        good = lite.configuration
        lite.configuration = copy.deepcopy(good)
        lite.configure({"models": {"thresholds": {"bolts": 0.75}}})
        lite.configure(WRONG[name])
        agent.start()
        with agent.running() as client:
            assert client.detect("bolts", FRAME).threshold == pytest.approx(0.5)
            wait_until(lambda: name in agent.status().get("settings", ""))
            assert name in agent.wait_for_line("runs with the settings of its last good start")
            lite.configuration = good
            lite.configure({"models": {"thresholds": {"bolts": 0.25}}})
            wait_until(lambda: client.detect("bolts", FRAME).threshold == pytest.approx(0.25))
            wait_until(lambda: agent.status()["settings"] == "")
    assert "Traceback" not in agent.log()


def test_settings_that_newer_ones_have_overtaken_are_not_kept_as_the_last_good(
    tmp_path: Path,
) -> None:
    component = GreengrassComponent(tmp_path, {SOCKET: "/nowhere"}, [])
    older: Dict[str, object] = {"log_level": "INFO"}
    newer: Dict[str, object] = {"log_level": "ERROR"}
    used: List[Settings] = []
    component._change(used.append, older)
    component._settings(newer)  # on the scheduler's thread, while the agent applies the older ones
    component.in_force(used[0])
    assert LastGood(tmp_path).configuration is None
    component._change(used.append, newer)
    component.in_force(used[1])
    assert LastGood(tmp_path).configuration == newer
    component.close(0.0)


def test_the_settings_of_a_deployment_can_be_checked_before_anything_is_stopped(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    agent = ComponentAgent(tmp_path, nucleus)
    assert agent.code("--check") == 0
    nucleus.configure({"results": {"publish": "no"}})
    assert agent.code("--check") == 2
    assert "results.publish: input should be 'all', 'anomalies' or 'changes'" in agent.log()
    assert "(it is 'no')" in agent.log()
    nucleus.configure(
        {"results": {"publish": "all", "thing": "a#b", "greengrass": {"topic": "x/{thing}"}}}
    )
    assert agent.code("--check") == 2
    assert "results.thing" in agent.log()
    nucleus.token, nucleus.in_unit = "another one", False
    assert agent.code("--check") == 0  # nobody knows them
    assert not nucleus.states


def test_outside_greengrass_there_is_no_component() -> None:
    command = [sys.executable, "-m", "edge_agent", "serve", "--greengrass", "/tmp"]
    ran = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60)
    assert ran.returncode == 2
    assert b"no Greengrass nucleus started this process" in ran.stderr


def test_a_component_without_any_configuration_has_the_defaults(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    agent = ComponentAgent(tmp_path, nucleus, "--socket", f"unix://{tmp_path / 'agent.sock'}")
    nucleus.configuration = None
    with agent, agent.running() as client:
        client.detect("bolts", FRAME)
        agent.wait_for_line("Configuration changes are not noticed immediately")


# Changes


def test_a_burst_of_changes_is_one_change_and_no_call_fails(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, nucleus) as agent, frames_coming(agent) as line:
        nucleus.until(lambda: follows(nucleus))
        nucleus.configure(burst(30))
        wait_until(lambda: line.latest["bolts"].threshold == pytest.approx(0.25))
        told = agent.wait_for_line("In force from now on")
        assert "results.publish = 'anomalies'" in told
        answered = line.answers
        wait_until(lambda: line.answers > answered + 20)
    assert not line.failures
    assert line.thresholds == {0.5, 0.25}
    assert len(agent.lines("In force from now on")) == 1


def test_a_wrong_value_is_named_and_everything_stays_as_it_was(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    nucleus.configure({"models": {"thresholds": {"bolts": 0.75}}})
    with ComponentAgent(tmp_path, nucleus) as agent, frames_coming(agent) as line:
        nucleus.until(lambda: follows(nucleus))
        nucleus.configure({"models": {"thresholds": {"bolts": 7}}, "results": {"publish": "no"}})
        told = agent.wait_for_line("The settings stay as they were")
        assert "models.thresholds.bolts" in told
        assert "results.publish" in told
        nucleus.configure({"models": {"thresholds": {"bolts": 0.3}}, "results": {"publish": "all"}})
        wait_until(lambda: line.latest["bolts"].threshold == pytest.approx(0.3))
    assert line.thresholds == {0.75, 0.3}
    assert not line.failures
    assert len(agent.lines("The settings stay as they were")) == 1


def test_what_waits_for_a_restart_is_named(nucleus: FakeNucleus, tmp_path: Path) -> None:
    with ComponentAgent(tmp_path, nucleus) as agent, agent.running() as client:
        nucleus.until(lambda: follows(nucleus))
        nucleus.configure({"Socket": "unix:///tmp/other", "log_level": "DEBUG"})
        assert agent.wait_for_line("applied at the next restart").endswith(": server.socket.")
        assert "log_level = 'DEBUG'" in agent.wait_for_line("In force from now on")
        client.detect("bolts", FRAME)


def test_changes_are_heard_again_when_the_nucleus_has_ended_to_tell_them(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, nucleus) as agent, frames_coming(agent) as line:
        nucleus.until(lambda: follows(nucleus))
        nucleus.end_subscriptions()
        nucleus.configure({"models": {"thresholds": {"bolts": 0.25}}})  # tells nobody
        nucleus.until(lambda: follows(nucleus))
        wait_until(lambda: line.latest["bolts"].threshold == pytest.approx(0.25))


# Updates


def test_an_update_goes_ahead_at_once_while_nothing_is_inspected(
    classic: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, classic) as agent, agent.running():
        classic.until(lambda: follows(classic, UPDATES))
        deployment = classic.deploy("d1")
        assert deployment.went.wait(WITHIN_S)
    assert deployment.answers == [0]


def test_an_update_waits_until_the_line_is_quiet(classic: FakeNucleus, tmp_path: Path) -> None:
    classic.configure({"updates": {"quiet_s": 3.0, "defer_at_most_s": 600}})
    with ComponentAgent(tmp_path, classic) as agent:
        classic.until(lambda: follows(classic, UPDATES))
        with frames_coming(agent) as line:
            deployment = classic.deploy("d1")
            classic.until(lambda: len(deployment.answers) >= 3, within_s=60.0)
            assert not deployment.went.is_set()
            assert not line.failures
        assert deployment.went.wait(WITHIN_S)
        assert deployment.answers[-1] == 0
        assert all(after_ms >= 3000 for after_ms in deployment.answers[:-1])
        assert len(agent.lines("Deployment d1 waits")) == 1
        agent.wait_for_line("Deployment d1 may go ahead")


def test_an_update_waits_no_longer_than_allowed_though_frames_come(
    classic: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, classic) as agent, frames_coming(agent) as line:
        classic.until(lambda: follows(classic, UPDATES) and follows(classic))
        classic.configure({"updates": {"quiet_s": 2.0, "defer_at_most_s": 3.0}})
        agent.wait_for_line("updates.defer_at_most_s = 3.0")
        deployment = classic.deploy("d1")
        assert deployment.went.wait(WITHIN_S)
        assert deployment.answers[0] == 2000
        assert 0 < deployment.answers[1] <= 1000  # the rest of the 3 s
        assert deployment.answers[-1] == 0
        assert not line.failures


def test_calls_of_a_model_that_is_not_there_yet_do_not_hold_up_its_deployment(
    classic: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, classic) as agent, agent.running() as client:
        classic.until(lambda: follows(classic, UPDATES))
        with pytest.raises(ModelNotFound):
            client.detect("caps", FRAME)
        deployment = classic.deploy("d1")
        assert deployment.went.wait(WITHIN_S)
    assert deployment.answers == [0]


def test_an_update_that_cannot_be_deferred_is_let_go(classic: FakeNucleus, tmp_path: Path) -> None:
    with ComponentAgent(tmp_path, classic) as agent, frames_coming(agent):
        classic.until(lambda: follows(classic, UPDATES))
        assert classic.deploy(None, timeout_s=0.5).went.wait(WITHIN_S)
        agent.wait_for_line("without an ID")
        late = classic.deploy("late", timeout_s=0.0)
        agent.wait_for_line("answer to the nucleus came too late")
        assert late.answers == []


# Loss, refusals, end


def test_the_agent_outlives_the_loss_of_its_nucleus_and_comes_back_with_all_it_had(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    commands = {"allow": {"hmi": ["describe"]}, "topic": "commands", "response_topic": "responses"}
    greengrass = {"topic": "cell/{kind}"}
    nucleus.configure(
        {"results": {"greengrass": greengrass, "commands": commands, "summary": "none"}}
    )
    subscribed = 2 if nucleus.kind == "lite" else 3

    def results() -> Set[str]:
        sent = [json.loads(one.payload) for one in nucleus.published if one.topic == "cell/result"]
        return {one["id"] for one in sent}

    agent = ComponentAgent(tmp_path, nucleus)
    with agent, frames_coming(agent) as line:
        nucleus.until(lambda: len(nucleus.subscriptions) == subscribed)
        nucleus.in_unit, token = False, nucleus.token
        nucleus.drop()
        wait_until(lambda: "refuses this component" in agent.status().get("nucleus", ""))
        answered, arrived = line.answers, len(nucleus.published)
        wait_until(lambda: line.answers > answered + 20)

        nucleus.in_unit, nucleus.token = True, "another one" if nucleus.kind == "lite" else token
        nucleus.until(lambda: len(nucleus.subscriptions) == subscribed)
        nucleus.until(lambda: len(nucleus.published) > arrived + 20)
        nucleus.configure({"models": {"thresholds": {"bolts": 0.25}}})
        wait_until(lambda: line.latest["bolts"].threshold == pytest.approx(0.25))
        nucleus.deliver("commands/hmi", b'{"command": "describe"}')
        nucleus.until(lambda: any(one.topic == "responses/hmi" for one in nucleus.published))
        wait_until(lambda: agent.status()["nucleus"] == "")
        nucleus.until(lambda: nucleus.states == ["RUNNING", "RUNNING"])
        if nucleus.kind == "classic":
            nucleus.until(lambda: len(nucleus.metrics) > 0)
        line.stop()
        nucleus.until(lambda: len(results()) == line.answers)
    assert not line.failures
    assert len(agent.troubles()) <= 2, "away, then refused: once each"
    assert "Traceback" not in agent.log()


def test_a_nucleus_that_was_killed_starts_an_agent_in_the_place_of_the_one_it_left(
    classic: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, classic) as agent, agent.running() as client:
        left = agent.process
        classic.drop()
        agent.environment.update(classic.environment)
        agent.start()
        assert left is not None
        assert left.wait(WITHIN_S) == 0
        wait_until(lambda: len(agent.lines("listens on")) == 2)
        agent.wait_for("bolts", ModelState.RUNNING)
        client.detect("bolts", FRAME)
        agent.wait_for_line(f"An agent that outlived its nucleus, process {left.pid}")
    assert "Traceback" not in agent.log()


def test_an_agent_serves_on_without_what_the_nucleus_refuses(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    nucleus.component = "com.example.EdgeAgent"  # may not give metrics, on classic either
    with ComponentAgent(tmp_path, nucleus) as agent, frames_coming(agent) as line:
        agent.wait_for_line("Component metrics are only for")
        if nucleus.kind == "lite":
            agent.wait_for_line("Component updates don't wait")
        answered = line.answers
        wait_until(lambda: line.answers > answered + 20)
        assert not line.failures
    assert not agent.troubles()
    assert len(agent.lines("Component metrics are only for")) == 1
    assert nucleus.refusals == (2 if nucleus.kind == "lite" else 1)
    assert not agent.lines("offline or busy")  # it is neither


def test_the_counts_begin_at_zero(classic: FakeNucleus, tmp_path: Path) -> None:
    with ComponentAgent(tmp_path, classic):
        classic.until(lambda: bool(classic.metrics))
    assert set(classic.metrics[0].values()) == {0.0}


def test_an_agent_that_is_told_to_stop_finishes_its_calls(
    nucleus: FakeNucleus, tmp_path: Path
) -> None:
    with ComponentAgent(tmp_path, nucleus) as agent, frames_coming(agent) as line:
        assert agent.stop() == 0
        wait_until(lambda: bool(line.failures))
    assert "Traceback" not in agent.log()
    assert not agent.socket.exists()


def test_an_agent_ends_before_the_nucleus_kills_it_though_its_engine_hangs(
    classic: FakeNucleus, tmp_path: Path
) -> None:
    agent = ComponentAgent(tmp_path, classic)
    micro.write(tmp_path / "packages" / "bolts", "classification", micro.hanging())
    with agent, agent.running() as client, ThreadPoolExecutor(1) as caller:
        call = caller.submit(client.detect, "bolts", FRAME)  # which has blue
        with pytest.raises(NotDone):
            call.result(0.5)
        assert agent.process is not None
        agent.process.terminate()
        assert agent.process.wait(5.0) == 0
        with pytest.raises(AgentUnavailable):
            call.result(WITHIN_S)
