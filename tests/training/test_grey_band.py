"""From training with a limit of overkill to what is told of a part that the model isn't sure of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import cv2
import jsonschema
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.client import Client
from edge_agent.errors import InvalidPackage
from edge_agent.evaluation.evaluator import Predictor
from edge_agent.manifest import FILE_NAME, GREY_BAND_FILE
from edge_agent.packaging import archive
from edge_agent.packaging.draft import open_draft
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.types import Frame, ModelState
from tests.conftest import made_once
from tests.contract.calls import Caller
from tests.fakes.agent import Agent
from tests.runtime.results.outboxes import wait_until
from tests.runtime.results.test_event import SCHEMA
from tests.training import pictures


@pytest.fixture(scope="session")
def sorter(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package trained with --max-overkill."""

    def make(out: Path) -> None:
        arguments = ["--max-overkill", "5%", "--size", "96x128", "--normal-only"]
        assert main(["train", str(parts), "--out", str(out), *arguments]) == 0

    return made_once(tmp_path_factory, "sorter", make)


@pytest.fixture(scope="session")
def doubtful(sorter: Path) -> np.ndarray:
    """A part with so faint a stain that the model isn't sure."""
    clean, stained = (pictures.draw(77, stained).astype(np.float64) for stained in (False, True))
    least, most = 0.0, 1.0
    with Predictor(sorter) as predictor:
        for _ in range(30):
            middle = (least + most) / 2.0
            drawn = np.rint(clean + middle * (stained - clean)).astype(np.uint8)
            picture = np.ascontiguousarray(drawn[..., ::-1])  # OpenCV draws blue first
            judged, _ = predictor.predict(Frame(picture))
            if judged.is_unsure:
                return picture
            least, most = (least, middle) if judged.is_anomalous else (middle, most)
    raise AssertionError("no such part was found")


def test_older_agents_find_nothing_in_the_manifest_that_they_do_not_know(sorter: Path) -> None:
    decision = json.loads((sorter / FILE_NAME).read_bytes())["decision"]
    assert "grey_band" not in decision
    band = json.loads((sorter / GREY_BAND_FILE).read_bytes())
    opened = Package(sorter).manifest.decision.grey_band
    assert opened is not None
    assert (opened.low, opened.high) == (band["low"], band["high"])
    assert band["low"] < 0.5 < band["high"]


def test_a_component_has_the_band_as_well(sorter: Path, tmp_path: Path) -> None:
    archive.write(tmp_path / "plates.zip", open_draft(sorter, None))
    component = Package(tmp_path / "plates.zip")
    component.verify()
    assert component.manifest.decision == Package(sorter).manifest.decision


def test_a_damaged_band_is_said_to_be(sorter: Path, tmp_path: Path) -> None:
    shutil.copytree(sorter, tmp_path / "plates")
    (tmp_path / "plates" / GREY_BAND_FILE).write_text('{"low": 0.1, "high": 0.2}\n')
    with pytest.raises(InvalidPackage, match=r"grey_band\.json was altered or damaged"):
        Package(tmp_path / "plates")
    manifest = Package(sorter).manifest
    with pytest.raises(InvalidPackage, match="high is below low"):
        manifest.with_grey_band(b'{"low": 0.3, "high": 0.2}')


def test_a_threshold_outside_the_band_ends_it(sorter: Path, doubtful: np.ndarray) -> None:
    manifest = Package(sorter).manifest
    with Predictor(sorter) as predictor:
        _, outputs = predictor.predict(Frame(doubtful))
    size = (manifest.input.width, manifest.input.height)
    for changed, is_unsure in (
        ({}, True),
        ({"threshold": 0.99}, False),
        ({"verdict": "mask"}, False),
        ({"grey_band": None}, False),
    ):
        decision = manifest.decision.model_copy(update=changed)
        judge = Postprocessor(manifest.model_copy(update={"decision": decision}))
        assert judge.predict(outputs, 0, *size).is_unsure == is_unsure


@pytest.mark.parametrize("answer", ["threshold", "normal", "anomalous"])
def test_an_unsure_part_is_told_as_such_and_a_client_of_the_contract_hears_what_is_set(
    answer: str,
    sorter: Path,
    doubtful: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results.jsonl"
    agent = Agent(
        tmp_path,
        *("--set", f"results.lines={results}"),
        *("--set", f"results.folder={tmp_path / 'state'}"),
        *("--set", "results.outbox.commit_every_s=0.05"),
        *("--set", f"decision.unsure={answer}"),
    )
    shutil.copytree(sorter, agent.models / "plates")

    def events() -> List[Dict[str, Any]]:
        lines = results.read_bytes().splitlines() if results.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == "result"]

    with agent, Client(agent.address, 30.0) as client:
        agent.run("plates")
        agent.wait_for("plates", ModelState.RUNNING)
        told = client.detect("plates", doubtful)
        with agent.channel() as channel:  # as a client of the original agent calls
            heard = Caller(channel).detect("plates", doubtful)
        assert cv2.imwrite(str(tmp_path / "part.png"), doubtful[..., ::-1])
        assert main(["detect", str(tmp_path / "part.png"), "--address", agent.address]) == 0
        wait_until(lambda: len(events()) == 3)

    assert told.is_unsure
    assert "1 of them unsure" in capsys.readouterr().out
    assert heard.is_anomalous == told.is_anomalous
    assert heard.is_anomalous == (heard.anomaly_score >= heard.anomaly_threshold)
    if answer != "threshold":
        assert heard.is_anomalous == (answer == "anomalous")
    for event in events():
        jsonschema.validate(event, SCHEMA)
        assert event["verdict"] == "unsure"
        assert event["is_anomalous"] == told.is_anomalous
