"""Parts of the acceptance run, each made to fail alone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import numpy as np
import onnxruntime
import pytest

from edge_agent.gpu_check import memory, models, serving, speed
from edge_agent.gpu_check.report import Failed, Skipped
from edge_agent.gpu_check.site import MIB
from edge_agent.manifest import parse
from tests.fakes import micro

STILL = memory.ResourceUsage(0, 0, 0, 0)


@pytest.fixture
def site() -> Any:
    """What the rounds need of one: a GPU whose memory nobody takes."""
    driver = SimpleNamespace(
        free_bytes=lambda: 1 << 30, gpu=lambda: SimpleNamespace(is_integrated=False)
    )
    return SimpleNamespace(driver=driver)


def test_a_python_without_sqlite_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(Skipped, match="needs modules that are missing: sqlite3"):
        serving.serve(tmp_path, {}).__enter__()


def test_a_round_that_leaves_a_file_open_fails(tmp_path: Path, site: Any) -> None:
    left: List[Any] = []

    def step(_: Any) -> None:
        left.append((tmp_path / "file").open("w"))

    try:
        with pytest.raises(Failed, match="files are left open"):
            memory._rounds(site, step, 4, 1)
    finally:
        for file in left:
            file.close()


def test_a_round_that_leaves_a_thread_fails(site: Any) -> None:
    end, left = threading.Event(), []  # type: ignore[var-annotated]

    def step(_: Any) -> None:
        left.append(threading.Thread(target=end.wait))
        left[-1].start()

    try:
        with pytest.raises(Failed, match="threads are left"):
            memory._rounds(site, step, 4, 1)
    finally:
        end.set()
        for thread in left:
            thread.join()


def test_rounds_that_give_all_back_pass(site: Any) -> None:
    step: Callable[[Any], None] = lambda _: None  # noqa: E731
    assert "open files +0, threads +0" in memory._rounds(site, step, 4, 1)


def test_what_is_taken_once_is_no_leak_and_what_goes_on_is_one() -> None:
    once = memory.ResourceUsage(20 * MIB, 20 * MIB, 1, 1)
    assert memory._leak(once, STILL, 1) == ""
    growing = memory.ResourceUsage(6 * MIB, 0, 0, 0)
    assert memory._leak(growing, growing, 1) == "memory use grows with each round"
    assert memory._leak(memory.ResourceUsage(40 * MIB, 0, 0, 0), STILL, 1) == (
        "more than 32 MiB aren't given back"
    )


def test_the_turn_in_the_middle_counts() -> None:
    turns = [speed.Turn(100.0, "plain", loop) for loop in (97.0, 50.0, 99.0)]
    assert speed._median(turns, lambda turn: turn.share).loop == 97.0


@pytest.mark.parametrize("task", ["classification", "anomaly_map", "segmentation"])
def test_the_front_is_measured_with_the_outputs_of_the_model(tmp_path: Path, task: str) -> None:
    like = parse((micro.write(tmp_path / "model", task) / "manifest.json").read_bytes())
    folder = models.write_noop(tmp_path / "front", like)
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    picture = np.full((3, micro.SIZE, micro.SIZE, 3), 255, np.uint8)
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, {"image": picture})))
    assert values["score"].tolist() == [0.0] * 3
    channels = {"map": 1, "classes": 3}
    assert {name: value.shape[:2] for name, value in values.items() if name != "score"} == {
        name: (3, channels[name]) for name in names if name != "score"
    }
    assert parse((folder / "manifest.json").read_bytes()).golden == ()
