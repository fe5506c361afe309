"""Overload, a flood and a quiet line, on a real agent with a micro model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator, Tuple

import numpy as np
import pytest

from edge_agent.benchmark import stress, stress_command
from edge_agent.benchmark.served import MODEL, agent
from tests.fakes import micro


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "TURN_S", 0.3)
    monkeypatch.setattr(stress, "TURNS", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[str, str]]:
    """Address and frame file of an agent that has room for twelve frames."""
    folder = tmp_path_factory.mktemp("stress")
    package = micro.write(folder / "slow", "classification", micro.slow(8))
    frame = folder / "frame.npy"
    np.save(frame, np.full((64, 64, 3), 255, np.uint8))
    with agent(package, 1, 1, "engine.queue_length=12") as address:
        yield address, str(frame)


def test_an_overload_is_refused_while_probes_are_answered(place: Tuple[str, str]) -> None:
    address, frame = place
    found = stress.overload(address, MODEL, frame, 1.5)
    assert found.offered_fps == pytest.approx(stress.OVERLOAD * found.capacity_fps)
    assert set(found.outcomes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert found.refusal_p50_ms > 0
    assert found.question_max_ms >= found.question_p99_ms > 0
    assert found.rss_last_mib > 10
    assert found.recovered > 0


def test_polite_cameras_are_answered_beside_a_flood(place: Tuple[str, str]) -> None:
    address, frame = place
    found = stress.flood(address, MODEL, frame, 4)
    assert found.polite_fps > 0
    assert found.ratio == pytest.approx(found.beside_p99_ms / found.alone_p99_ms)


def test_the_command_prints_one_object_a_scenario(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "map", "anomaly_map")
    words = ["--package", str(package), "--scenario", "quiet", "--rounds", "20", "--json"]
    assert stress_command.main(words) == 0
    found = json.loads(capsys.readouterr().out)["quiet"]
    added_ms = found["with_batching_p50_ms"] - found["without_p50_ms"]
    assert found["added_p50_ms"] == pytest.approx(added_ms)
    assert found["batch_sizes"] == "4"


def test_publishing_is_measured_beside_no_publishing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "map", "anomaly_map")
    words = ["--package", str(package), "--scenario", "publishing", "--turns", "1", "--json"]
    assert stress_command.main(words) == 0
    found = json.loads(capsys.readouterr().out)["publishing"]
    assert found["ratio"] == pytest.approx(found["with_publishing_fps"] / found["without_fps"])
    assert found["events"] > 0
    assert 0 < found["bytes_an_event"] <= 7000
    assert found["publish_p99_us"] >= found["publish_p50_us"] > 0


def test_a_package_that_is_none_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stress_command.main(["--package", str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err
