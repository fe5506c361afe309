from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.manifest import Calibration
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.training import calibration, site_calibration
from tests.training import pictures


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same parts under a lamp that is brighter: good and bad ones."""
    folder = pictures.write(tmp_path_factory.mktemp("site"), 32, anomaly=8, first_seed=700)
    for path in folder.glob("*/*.png"):
        picture = cv2.imread(str(path)).astype(float) * 1.12
        assert cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8))
    for path in sorted((folder / "normal").iterdir())[:20]:
        (folder / "good").mkdir(exist_ok=True)
        path.rename(folder / "good" / path.name)
    return folder


def test_good_pictures_of_the_site_end_its_false_alarms(
    package: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated"
    assert main(["calibrate", str(package), str(site / "good"), "--out", str(out)]) == 0
    assert "Of 20 good pictures 20 are called anomalous before, " in capsys.readouterr().out
    before, after = evaluate(package, site), evaluate(out, site)
    assert before.false_alarms == 12
    assert after.false_alarms <= 3
    assert after.missed == 0
    assert (before.version, after.version) == ("1", "2")


def test_a_dry_run_writes_nothing(
    package: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = sorted(package.parent.iterdir())
    assert main(["calibrate", str(package), str(site / "good"), "--dry-run"]) == 0
    assert f"{package.name}-2 would hold version 2" in capsys.readouterr().out
    assert sorted(package.parent.iterdir()) == there


def test_the_new_version_knows_the_light_of_the_site_and_keeps_the_graph(
    package: Path, site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated"
    assert main(["calibrate", str(package), str(site / "good"), "--out", str(out)]) == 0
    old, new = Package(package), Package(out)
    assert new.read_model() == old.read_model()
    assert new.manifest.golden
    assert len(golden_check.read_pictures(new)) == len(new.manifest.golden)
    assert old.manifest.statistics.brightness is not None
    assert new.manifest.statistics.brightness is not None
    assert new.manifest.statistics.brightness[0] > old.manifest.statistics.brightness[1]
    assert new.manifest.statistics.normal_scores is not None
    assert sum(new.manifest.statistics.normal_scores.counts) == 20


def test_few_pictures_are_refused(
    package: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [str(path) for path in sorted((site / "good").iterdir())[:9]]
    assert main(["calibrate", str(package), *few]) == 2
    assert "9 good pictures can be used; calibrating needs 10 or more" in capsys.readouterr().err


def test_the_scores_of_the_site_are_laid_on_those_of_the_training() -> None:
    random = np.random.default_rng(0)
    seen, raw = random.normal(-2, 0.7, 400), random.normal(5, 0.2, 400)
    fitted = site_calibration.moved(Calibration(scale=1.0, shift=0.0), raw, seen)
    logits = fitted.scale * raw + fitted.shift
    assert np.median(logits) == pytest.approx(np.median(seen), abs=1e-6)
    assert logits.std() == pytest.approx(seen.std(), rel=0.15)
    assert (calibration.apply(fitted, raw) < 0.5).mean() > 0.98


@pytest.mark.parametrize(
    ("version", "after"), [("1", "2"), ("1.4.9", "1.4.10"), ("new", "new.1"), ("1.x", "1.x.1")]
)
def test_the_version_goes_up(version: str, after: str) -> None:
    assert site_calibration.next_version(version) == after
