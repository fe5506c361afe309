"""Models that come, change and go while the agent runs and clients call."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import numpy as np
import pytest

from edge_agent import errors
from edge_agent.types import ModelState
from tests.contract.calls import NOT_FOUND, Caller, plain, refused, until
from tests.contract.generations import FAILED, RUNNING, STOPPED
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("deployment")
    records = folder / "models.d"
    records.mkdir()
    with Agent(folder, "--records", str(records), "--set", "engine.threads=1") as agent:
        yield agent
        assert agent.stop() == 0


@pytest.fixture
def caller(agent: Agent) -> Iterator[Caller]:
    with agent.channel() as channel:
        yield Caller(channel)


def names(caller: Caller) -> Set[str]:
    return {model.model_component for model in caller.list()}


def remove(package: Path) -> None:
    """As deployments do it: out of sight first, whole."""
    shutil.rmtree(package.rename(package.parent.parent / f"gone-{package.name}"))


def record(agent: Agent, name: str, **values: Any) -> Path:
    """Write a registration record for a package outside the folder of models."""
    values = {"model_component": name, "package": str(agent.folder / "packages" / name), **values}
    fresh = agent.folder / f"{name}.new"
    fresh.write_text(json.dumps(values))
    return fresh.rename(agent.folder / "models.d" / f"{name}.json")


def test_a_model_that_is_added_is_listed_and_can_be_started(agent: Agent, caller: Caller) -> None:
    assert "added" not in names(caller)
    micro.write(agent.models / "added", "classification")
    until(lambda: "added" in names(caller))
    assert caller.describe("added").status == STOPPED
    caller.run("added")
    assert caller.detect("added", plain(255)).is_anomalous


def test_a_model_that_is_removed_is_not_found_any_more(agent: Agent, caller: Caller) -> None:
    package = micro.write(agent.models / "leaving", "classification")
    until(lambda: "leaving" in names(caller))
    caller.run("leaving")
    remove(package)
    until(lambda: "leaving" not in names(caller))
    refused(NOT_FOUND, caller.detect, "leaving", plain(255))
    refused(NOT_FOUND, caller.start, "leaving")


def test_a_model_that_ran_when_it_left_runs_when_it_is_back(agent: Agent, caller: Caller) -> None:
    package = micro.write(agent.models / "away", "classification")
    until(lambda: "away" in names(caller))
    caller.run("away")
    elsewhere = package.rename(agent.folder / "elsewhere")
    until(lambda: "away" not in names(caller))
    elsewhere.rename(package)
    until(lambda: "away" in names(caller))
    caller.wait("away", RUNNING)
    caller.stop("away")
    package.rename(elsewhere)
    until(lambda: "away" not in names(caller))
    elsewhere.rename(package)
    until(lambda: "away" in names(caller))
    assert caller.describe("away").status == STOPPED
    remove(package)


def test_neither_a_slip_nor_a_folder_that_is_away_nor_a_slow_copy_costs_a_call(
    agent: Agent, caller: Caller
) -> None:
    """On the very model that they concern."""
    new = micro.write(agent.folder / "new", "classification", version="2")
    package = micro.write(agent.folder / "packages" / "busy", "classification", version="1")
    file = record(agent, "busy", autostart=True)
    until(lambda: "busy" in names(caller))
    caller.wait("busy", RUNNING)

    def serves_on(words: str) -> bool:
        assert caller.detect("busy", plain(255)).is_anomalous
        return words in caller.describe("busy").status_message

    good = file.read_text()
    file.write_text(good[:20])
    until(lambda: serves_on("can't be used: the whole document"))
    file.write_text(good)
    until(lambda: not serves_on("can't be used"))
    for folder in (file.parent, package):
        away = folder.rename(agent.folder / "elsewhere")
        until(lambda: serves_on("doesn't exist"))
        away.rename(folder)
        until(lambda: not serves_on("doesn't exist"))
    shutil.rmtree(package)
    package.mkdir()
    for name in ("manifest.json", "model.onnx"):
        content = (new / name).read_bytes()
        (package / name).write_bytes(content[:50])
        until(lambda: serves_on("is being copied"))
        (package / name).write_bytes(content)
    until(lambda: serves_on("Version 2,"))
    assert agent.log().count("busy.json can't be used: the whole document") == 1
    assert "busy was removed" not in agent.log()


def test_calls_in_flight_to_a_model_that_is_removed_are_answered(
    agent: Agent, caller: Caller
) -> None:
    once = {"batch_sizes": [1]}
    package = micro.write(agent.models / "going", "classification", micro.slow(), runtime=once)
    until(lambda: "going" in names(caller))
    caller.run("going")
    calls = [caller.detect_later("going", plain(255)) for _ in range(8)]
    calls[0].result()
    remove(package)
    assert all(call.result().detect_anomaly_result.is_anomalous for call in calls)
    until(lambda: "going" not in names(caller))


def test_a_model_that_is_removed_while_it_starts_comes_back_whole(
    agent: Agent, caller: Caller
) -> None:
    package = micro.write(agent.models / "hasty", "classification", micro.slow())
    until(lambda: "hasty" in names(caller))
    caller.start("hasty")
    remove(package)
    until(lambda: "hasty" not in names(caller))
    micro.write(agent.models / "hasty", "classification")
    until(lambda: "hasty" in names(caller))
    assert caller.describe("hasty").status == STOPPED
    caller.run("hasty")
    assert caller.detect("hasty", plain(255)).is_anomalous


def test_a_package_without_its_manifest_is_not_there_yet(agent: Agent, caller: Caller) -> None:
    folder = agent.models / "unfinished"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(micro.graph("classification"))
    micro.write(agent.models / "finished", "classification")
    until(lambda: "finished" in names(caller))
    assert "unfinished" not in names(caller)
    micro.write(folder, "classification")
    until(lambda: "unfinished" in names(caller))


def test_a_replaced_package_serves_without_a_failed_call(agent: Agent) -> None:
    """The new version is loaded and warm before the old one is let go.

    Version n has threshold n / 10, so that each answer tells by which manifest it was judged.
    """
    package = agent.models / "swapped"
    micro.write(package, "classification", version="1", decision={"threshold": 0.1})
    agent.wait_for("swapped", ModelState.STOPPED)
    agent.run("swapped")
    done = threading.Event()
    seen: Dict[str, float] = {}
    failures: List[str] = []

    def hammer() -> None:
        frame = plain(140)
        with agent.client() as client:
            while not done.is_set():
                try:
                    found = client.detect("swapped", frame)
                except errors.EdgeAgentError as error:
                    failures.append(repr(error))
                    return
                seen[found.model_version] = found.threshold
                right = found.threshold == np.float32(int(found.model_version) / 10)
                if not right or found.is_anomalous != (found.score >= found.threshold):
                    failures.append(repr(found))

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 9):
            micro.write(
                package, "classification", version=str(version),
                decision={"threshold": version / 10},
            )  # fmt: skip
            until(lambda version=version: str(version) in seen or failures)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(seen) == {str(version) for version in range(1, 9)}


def test_a_replaced_model_that_is_stopped_starts_with_its_new_version(
    agent: Agent, caller: Caller
) -> None:
    package = agent.models / "asleep"
    micro.write(package, "classification", version="1")
    until(lambda: "asleep" in names(caller))
    caller.run("asleep")
    caller.stop("asleep")
    micro.write(package, "classification", version="2")
    caller.run("asleep")
    until(lambda: "Version 2," in caller.describe("asleep").status_message)


def test_a_broken_newer_package_leaves_the_old_one_serving(agent: Agent, caller: Caller) -> None:
    package = agent.models / "steady"
    micro.write(package, "classification", version="1")
    until(lambda: "steady" in names(caller))
    caller.run("steady")
    micro.write(package, "classification", b"no graph at all", version="2")
    found = until(
        lambda: "refused" in caller.describe("steady").status_message and caller.describe("steady")
    )
    assert found.status == RUNNING
    assert "Version 1," in found.status_message
    assert "model.onnx isn't an ONNX file" in found.status_message
    assert caller.detect("steady", plain(255)).is_anomalous
    micro.write(package, "classification", version="3")
    until(lambda: caller.describe("steady").status_message.startswith("Version 3,"))
    assert caller.detect("steady", plain(255)).is_anomalous


def test_a_record_registers_a_package_elsewhere(agent: Agent, caller: Caller) -> None:
    micro.write(agent.folder / "packages" / "booked", "classification")
    arn = "arn:aws:lookoutvision:eu-west-1:123456789012:model/plates/7"
    record(agent, "booked", autostart=True, model_arn=arn)
    until(lambda: "booked" in names(caller))
    found = caller.wait("booked", RUNNING)
    assert found.lookout_vision_model_arn == arn
    assert caller.detect("booked", plain(255)).is_anomalous


def test_a_record_that_changes_its_threshold_changes_the_verdict(
    agent: Agent, caller: Caller
) -> None:
    micro.write(agent.folder / "packages" / "tuned", "classification")
    record(agent, "tuned", autostart=True)
    until(lambda: "tuned" in names(caller))
    caller.wait("tuned", RUNNING)
    frame = plain(102)  # score 0.4
    before = caller.detect("tuned", frame)
    assert (before.is_anomalous, before.anomaly_threshold) == (False, 0.5)
    record(agent, "tuned", autostart=True, decision={"threshold": 0.25})
    after = until(
        lambda: (found := caller.detect("tuned", frame)).anomaly_threshold == 0.25 and found
    )
    assert after.is_anomalous
    assert after.anomaly_score == before.anomaly_score


def test_a_record_that_goes_takes_its_model_along(agent: Agent, caller: Caller) -> None:
    micro.write(agent.folder / "packages" / "brief", "classification")
    file = record(agent, "brief", autostart=True)
    until(lambda: "brief" in names(caller))
    caller.wait("brief", RUNNING)
    file.unlink()
    until(lambda: "brief" not in names(caller))
    refused(NOT_FOUND, caller.describe, "brief")


BROKEN = {
    "not-json": "{",
    "not-an-object": "[]",
    "unknown-key": '{"model_component": "x", "package": "/x", "colour": 1}',
    "relative-path": '{"model_component": "x", "package": "x"}',
    "bad-name": '{"model_component": "a b", "package": "/x"}',
    "wrong-type": '{"model_component": "x", "package": "/x", "autostart": "yes"}',
    "no-package": '{"model_component": "x", "package": "/nowhere/at/all"}',
    "nested": '{"model_component": "x", "package": "/x", "decision": ' + "[" * 9999,
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_left_out_and_logged_once(
    agent: Agent, caller: Caller, kind: str
) -> None:
    file = agent.folder / "models.d" / f"{kind}.json"
    file.write_text(BROKEN[kind])
    micro.write(agent.folder / "packages" / f"beside-{kind}", "classification")
    record(agent, f"beside-{kind}")
    try:
        until(lambda: f"beside-{kind}" in names(caller))
        until(lambda: f"{file} is ignored" in agent.log())
        assert "x" not in names(caller)
    finally:
        file.unlink()
    assert agent.log().count(f"{file} is ignored") == 1


def test_a_record_with_a_decision_that_cannot_be_fails_with_its_reason(
    agent: Agent, caller: Caller
) -> None:
    micro.write(agent.folder / "packages" / "undecided", "classification")
    record(agent, "undecided", autostart=True, decision={"threshold": 7})
    until(lambda: "undecided" in names(caller))
    found = caller.wait("undecided", FAILED)
    assert "'undecided'" in found.status_message
    assert "decision.threshold" in found.status_message


def test_a_record_wins_over_a_folder_of_the_same_name(agent: Agent, caller: Caller) -> None:
    micro.write(agent.models / "twice", "classification", version="folder")
    until(lambda: "twice" in names(caller))
    caller.run("twice")
    micro.write(agent.folder / "packages" / "twice", "classification", version="record")
    file = record(agent, "twice")
    until(lambda: caller.describe("twice").status_message.startswith("Version record,"))
    file.unlink()
    until(lambda: caller.describe("twice").status_message.startswith("Version folder,"))
    assert caller.detect("twice", plain(255)).is_anomalous
