from __future__ import annotations

import json
import shutil
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
from edge_agent.training.calibration import QUARTILES_FILE, Quartiles
from edge_agent.training.robustness_file import ROBUSTNESS_FILE
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


def test_the_robustness_of_the_old_threshold_is_not_that_of_the_new_one(
    package: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated"
    assert main(["calibrate", str(package), str(site / "good"), "--out", str(out)]) == 0
    assert "`edge-agent evaluate --robustness` judges it" in capsys.readouterr().out
    before, after = (
        {entry.path for entry in Package(each).manifest.files} for each in (package, out)
    )
    assert {path for path in before - after if not path.startswith("golden/")} == {ROBUSTNESS_FILE}
    assert not (out / ROBUSTNESS_FILE).exists()
    assert evaluate(out, site).missed == 0


def test_few_pictures_are_refused(
    package: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [str(path) for path in sorted((site / "good").iterdir())[:9]]
    assert main(["calibrate", str(package), *few]) == 2
    assert "9 good pictures can be used; calibrating needs 10 or more" in capsys.readouterr().err


def test_the_scores_of_the_site_are_laid_on_those_of_the_training() -> None:
    random = np.random.default_rng(0)
    seen, raw = random.normal(-2, 0.7, 400), random.normal(5, 0.9, 400)
    fitted = site_calibration.moved(Calibration(scale=1.0, shift=0.0), raw, Quartiles.of(seen))
    logits = fitted.scale * raw + fitted.shift
    assert np.median(logits) == pytest.approx(np.median(seen), abs=1e-6)
    assert logits.std() == pytest.approx(seen.std(), rel=0.15)
    assert (calibration.apply(fitted, raw) < 0.5).mean() > 0.98


def test_the_training_s_own_pictures_change_nothing_and_pictures_alike_little() -> None:
    seen = np.random.default_rng(0).normal(-9.0, 1.0, 200)
    decided = Calibration(scale=2.0, shift=-8.0)
    same = site_calibration.moved(decided, seen, Quartiles.of(seen))
    assert (same.scale, same.shift) == pytest.approx((2.0, -8.0))
    alike = site_calibration.moved(decided, np.full(10, -9.0), Quartiles.of(seen))
    assert alike.scale <= 1.5 * decided.scale


def test_calibrating_once_more_by_the_same_pictures_changes_nothing(
    package: Path, site: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main(["calibrate", str(package), str(site / "good"), "--out", str(once)]) == 0
    assert main(["calibrate", str(once), str(site / "good"), "--out", str(twice)]) == 0
    first, second = (Package(each).manifest.decision for each in (once, twice))
    assert first.calibration is not None
    assert second.calibration is not None
    assert second.calibration.scale == pytest.approx(first.calibration.scale, rel=0.01)
    assert second.calibration.shift == pytest.approx(first.calibration.shift, rel=0.01)
    assert first.grey_band is not None


def test_a_package_without_the_scores_of_its_training_is_refused(
    package: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(package, old)
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["files"] = [each for each in manifest["files"] if each["path"] != QUARTILES_FILE]
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert main(["calibrate", str(old), str(site / "good")]) == 2
    assert "has no normal_scores.json" in capsys.readouterr().err


def test_overlays_and_masks_of_kept_frames_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.overlay.jpg", "a.mask.png"):
        assert cv2.imwrite(str(tmp_path / name), pictures.draw(1))
    assert site_calibration.good_pictures([tmp_path]) == (tmp_path / "a.jpg",)


@pytest.mark.parametrize(
    ("version", "after"), [("1", "2"), ("1.4.9", "1.4.10"), ("new", "new.1"), ("1.x", "1.x.1")]
)
def test_the_version_goes_up(version: str, after: str) -> None:
    assert site_calibration.next_version(version) == after
