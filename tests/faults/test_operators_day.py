"""A day of an operator: a model is updated in every way there is, beside a line that runs.

A camera of another model calls 20 times a second, from the first minute to the last, and no call of
it fails, save while the agent itself is dead.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterator, List, Tuple

import grpc
import pytest

from edge_agent.errors import EdgeAgentError
from edge_agent.types import ModelState
from tests.contract.calls import Caller, plain, until
from tests.fakes import micro
from tests.fakes.agent import Agent

EVERY_S = 0.05
REMOVE_AFTER_S = 1.0
LONGER_S = 2.5  # than a removal takes


class Line:
    """The camera of the model that nobody touches."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failures: List[Tuple[float, str]] = []

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        frame = plain(255)
        with self._agent.channel() as channel:
            caller = Caller(channel)
            while not self._stop.wait(EVERY_S):
                try:
                    assert caller.detect("steady", frame).is_anomalous
                    self.answered += 1
                except grpc.RpcError as error:
                    self.failures.append((time.monotonic(), str(error)))


class Plant:
    """An agent with a model that serves, one in the folder that is worked on, one by a record."""

    def __init__(self, folder: Path) -> None:
        records = folder / "models.d"
        records.mkdir()
        settings = f"models.remove_after_s={REMOVE_AFTER_S:g}", "engine.threads=1"
        settings += "models.resume=true", f"results.folder={folder / 'results'}"
        parts = (part for each in settings for part in ("--set", each))
        self.agent = Agent(folder, "--records", str(records), *parts)
        self.package = self.agent.models / "worked-on"
        self.record = records / "by-record.json"
        self.version = 0
        for name in ("steady", "worked-on"):
            micro.write(self.agent.models / name, "classification")
        self.record.write_text(self.record_of(self.fresh("by-record")))

    def fresh(self, name: str) -> Path:
        """Write the next version of a package, away from the models, and return it."""
        self.version += 1
        package = self.agent.folder / "versions" / str(self.version) / name
        return micro.write(package, "classification", decision={"threshold": self.threshold})

    @property
    def threshold(self) -> float:
        """By which one tells the newest version."""
        return round(0.5 + 0.01 * self.version, 2)

    def record_of(self, package: Path) -> str:
        return json.dumps({"model_component": "by-record", "package": str(package)})

    def serves(self, name: str) -> bool:
        """Whether the newest version of the model serves."""
        with self.agent.client() as client, suppress(EdgeAgentError):
            return client.detect(name, plain(255)).threshold == pytest.approx(self.threshold)
        return False


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    with plant.agent as agent:
        for name in ("steady", "worked-on", "by-record"):
            agent.run(name)
            agent.wait_for(name, ModelState.RUNNING)
        yield plant


def copied_slowly(source: Path, target: Path) -> None:
    """As over a slow network: a file after the other, each in pieces, longer than a removal."""
    target.mkdir()
    pause_s = LONGER_S / 8
    for file in sorted(source.iterdir()):
        content = file.read_bytes()
        with (target / file.name).open("wb") as copy:
            for start in range(0, len(content), -(-len(content) // 4)):
                copy.write(content[start : start - (-len(content) // 4)])
                copy.flush()
                time.sleep(pause_s)


def over_copied(plant: Plant) -> str:
    shutil.copytree(plant.fresh("worked-on"), plant.package, dirs_exist_ok=True)
    return "worked-on"


def removed_and_copied_slowly(plant: Plant) -> str:
    fresh = plant.fresh("worked-on")
    shutil.rmtree(plant.package)
    copied_slowly(fresh, plant.package)
    return "worked-on"


def moved_away_for_long_and_replaced(plant: Plant) -> str:
    fresh = plant.fresh("worked-on")
    plant.package.rename(plant.agent.folder / "old")
    time.sleep(LONGER_S)  # it is removed, as asked for
    fresh.rename(plant.package)
    return "worked-on"


def record_edited_by_a_half_writing_editor(plant: Plant) -> str:
    content = plant.record_of(plant.fresh("by-record"))
    for end in (0, len(content) // 2, len(content)):
        plant.record.write_text(content[:end])
        time.sleep(LONGER_S / 2)
    return "by-record"


def package_of_a_record_missing_for_a_while(plant: Plant) -> str:
    package = Path(json.loads(plant.record.read_text())["package"])
    package.rename(plant.agent.folder / "elsewhere")
    time.sleep(LONGER_S)
    (plant.agent.folder / "elsewhere").rename(package)
    return "by-record"


def folder_away_and_back(plant: Plant) -> str:
    fresh = plant.fresh("worked-on")
    away = plant.agent.models.rename(plant.agent.folder / "away")
    time.sleep(LONGER_S)
    away.rename(plant.agent.models)
    shutil.copytree(fresh, plant.package, dirs_exist_ok=True)
    return "worked-on"


def socket_removed(plant: Plant) -> str:
    plant.agent.socket.unlink()
    until(plant.agent.socket.exists, 10.0)
    return over_copied(plant)


def test_the_line_runs_on_while_an_operator_works(plant: Plant) -> None:
    with Line(plant.agent) as line:
        for step in (
            over_copied,
            removed_and_copied_slowly,
            moved_away_for_long_and_replaced,
            record_edited_by_a_half_writing_editor,
            package_of_a_record_missing_for_a_while,
            folder_away_and_back,
            socket_removed,
        ):
            answered, name = line.answered, step(plant)
            until(lambda name=name: plant.serves(name))
            assert not line.failures, f"{step.__name__}: {line.failures[0]}"
            assert line.answered > answered, step.__name__
        began = time.monotonic()
        plant.agent.kill()
        plant.agent.start()
        answered = line.answered
        until(lambda: line.answered > answered)
        outage_s = time.monotonic() - began
        print(f"After the kill the line stood still for {outage_s:.1f} s.")  # noqa: T201
        failed = len(line.failures)
        until(lambda: plant.serves("worked-on"))
        assert len(line.failures) == failed
