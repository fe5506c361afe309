"""From frames an agent kept, through an engineer's corrections, to a new model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import List

import pytest

from edge_agent.cli import main
from edge_agent.client import images
from edge_agent.config import CaptureSettings
from edge_agent.demo import parts
from edge_agent.evaluation.evaluator import Predictor
from edge_agent.manifest import parse
from edge_agent.runtime.results.captures.capture import Capture
from edge_agent.runtime.results.captures.captured_frame import CapturedFrame
from edge_agent.training.trainer import train
from edge_agent.types import Frame
from tests.runtime.results.shots import NOON

GOOD, BAD = 14, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn parts, inspected by a model that was trained on a few others."""
    place = tmp_path_factory.mktemp("retraining")
    (place / "first" / "normal").mkdir(parents=True)
    for number in range(12):
        image = parts.draw(parts.training_seed(6, number), None).image
        images.save(place / "first" / "normal" / f"{number}.png", image)
    train(place / "first", place / "old", size=(96, 128), progress=lambda _: None)
    kept = place / "captures"
    settings = CaptureSettings(folder=kept, per_minute=100, sample=1.0, format="jpeg")
    capture = Capture(settings, random.Random(1))
    with Predictor(place / "old") as predictor:
        for number in range(GOOD + BAD):
            defect = "stain" if number >= GOOD else None
            image = parts.draw(parts.training_seed(5, number), defect).image
            prediction, _ = predictor.predict(Frame(image))
            reason = capture.choose("bolts", prediction)
            taken = CapturedFrame(
                f"{number:03}", "bolts", "1", NOON, reason, image, True, prediction, prediction.mask
            )
            assert capture.enqueue(taken)
    capture.close(60)
    assert capture.stored == GOOD + BAD
    return place


def correct(manifest: Path) -> Path:
    """Label a copy of the manifest as an engineer would."""
    lines: List[str] = []
    for text in manifest.read_text().splitlines():
        line = json.loads(text)
        good = int(line["edge-agent"]["id"]) < GOOD
        line["anomaly-label-metadata"]["class-name"] = "normal" if good else "anomaly"
        line["anomaly-label-metadata"]["human-annotated"] = "yes"
        lines.append(json.dumps(line))
    labels = manifest.with_name("labels.jsonl")
    labels.write_text("\n".join(lines))
    return labels


def test_corrected_captures_train_a_model_of_the_same_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = correct(folder / "captures" / "manifest.jsonl")
    package = tmp_path / "new"
    assert main(["train", str(labels), "--out", str(package), "--size", "96x128"]) == 0
    told = capsys.readouterr().out
    assert f"{GOOD} normal and {BAD} anomalous images" in told
    assert "confirmed" not in told
    assert parse((package / "manifest.json").read_bytes()).name == "bolts"
    assert main(["evaluate", str(package), str(labels), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["count_normal"], report["count_anomaly"]) == (GOOD, BAD)
    assert report["pixel_auroc"] is None  # the masks are the old model's, not the truth


def test_unconfirmed_labels_raise_one_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = folder / "captures" / "manifest.jsonl"
    main(["evaluate", str(folder / "old"), str(manifest)])
    told = capsys.readouterr().err
    assert told.count(f"{GOOD + BAD} of {GOOD + BAD} labels in") == 1


def test_list_shows_what_was_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["captures", "list", str(folder / "captures")]) == 0
    told = capsys.readouterr().out
    assert told.count("12:00:00") == GOOD + BAD
    for word in ("bolts 1", "anomaly", "2026-11-21/bolts-000.jpg"):
        assert word in told
    assert main(["captures", "list", str(folder / "captures"), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["edge-agent"]["id"] == "000"


def test_a_folder_without_captures_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["captures", "list", str(tmp_path)]) == 2
    assert "has no manifest.jsonl" in capsys.readouterr().err
