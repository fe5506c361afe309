"""The comparison with anomalib, without anomalib: what it measures, what it says of a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge_agent.training import scoreboard
from scripts.peers import accuracy
from scripts.peers.accuracy import Limits
from scripts.peers.anomalib.methods import METHODS
from tests.fakes import micro
from tests.training import pictures

REQUIREMENTS = Path(accuracy.__file__).parent / "anomalib" / "requirements.txt"


def test_every_requirement_is_pinned() -> None:
    lines = REQUIREMENTS.read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    assert any(line.startswith("anomalib==2.7") for line in lines)


def test_scores_threshold_and_files_of_a_model_make_its_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(micro.graph("classification"))
    (tmp_path / "model.onnx.data").write_bytes(bytes(2_000_000))
    found = {
        "normal": [0.1, 0.2, 0.6],
        "anomaly": [0.5, 0.7],  # at the threshold is normal still
        "threshold": 0.5,
        "training_s": 12.0,
        "cpu_s": 20.0,
    }
    score = accuracy.score_of(found, tmp_path)
    assert score.auroc == pytest.approx(5 / 6)
    assert (score.overkill, score.escape) == (pytest.approx(1 / 3), 0.5)
    assert score.latency_ms > 0
    cells = accuracy.Row("plates", "PaDiM", score).cells
    named = dict(zip(scoreboard.COLUMNS, cells))
    assert len(cells) == len(scoreboard.COLUMNS)
    assert (named["AUROC"], named["overkill %"], named["escape %"]) == ("0.833", "33.3", "50.0")
    assert (named["train s"], named["CPU s"], named["MB"]) == ("12.0", "20.0", "2.0")


# Stands in for the interpreter that has anomalib: it only does what a training does to the machine.
FAKE = """#!{python}
import os, sys, time
from pathlib import Path
*_, images, method, folder = sys.argv
Path(images, "pid").write_text(str(os.getpid()))
memory = b"x" * {allocated}
time.sleep({seconds})
sys.exit("It broke.")
"""


@pytest.mark.parametrize(
    ("allocated", "seconds", "limits", "reason"),
    [
        (300_000_000, 600, Limits(minutes=10, gigabytes=0.2), "over 0.2 GB"),
        (1, 600, Limits(minutes=0.005, gigabytes=8), "over 0.005 min"),
        (1, 0, Limits(minutes=10, gigabytes=8), "failed: It broke."),
    ],
)
def test_a_training_without_a_result_is_named_and_gone(
    allocated: int, seconds: int, limits: Limits, reason: str, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(python=sys.executable, allocated=allocated, seconds=seconds))
    fake.chmod(0o755)
    row = accuracy.anomalibs(tmp_path, tmp_path, "PaDiM", fake, limits)
    assert (row.score, row.reason) == (None, reason)
    assert row.cells[-1] == reason.split(":")[0]
    pid = tmp_path / "pid"
    assert not (pid.exists() and Path("/proc", pid.read_text()).exists())


def test_an_unknown_set_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.write(tmp_path / "plates" / "test", normal=1)
    monkeypatch.setattr(sys, "argv", ["accuracy", str(tmp_path), sys.executable, "plate"])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert f"no set plate in {tmp_path}, but plates." in capsys.readouterr().err


def test_ours_are_measured_and_a_training_that_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.write(tmp_path / "plates" / "train", normal=12)
    pictures.write(tmp_path / "plates" / "test", normal=3, anomaly=3, first_seed=100)
    pictures.write(tmp_path / "left_out" / "test", normal=1)
    monkeypatch.setattr(sys, "argv", ["accuracy", str(tmp_path), sys.executable, "plates"])
    monkeypatch.setattr(accuracy, "WAYS", accuracy.WAYS[:1])  # the fast one
    assert accuracy.main() == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert [line.split()[0] for line in lines] == ["plates"] * (len(accuracy.WAYS) + len(METHODS))
    assert lines[0].startswith("plates  ours, normals  1.000")
    assert "No module named 'anomalib'" in lines[-1]
    assert printed.out.count("failed") == len(METHODS)
    assert "left_out" not in printed.out
