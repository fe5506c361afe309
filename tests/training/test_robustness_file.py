"""The table of robustness in a trained package: of which images it is, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import pytest

from edge_agent.evaluation import robustness
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.evaluation.robustness import RobustnessTable
from edge_agent.evaluation.steps import Steps
from edge_agent.fields import read_json
from edge_agent.manifest import InputSpec
from edge_agent.runtime.packages.package import Package
from edge_agent.training import package as packages
from edge_agent.training import robustness_file
from edge_agent.training.robustness_file import ROBUSTNESS_FILE
from edge_agent.training.trainer import train
from tests.training import pictures


def table_of(package: Path) -> RobustnessTable:
    return read_json(RobustnessTable, Package(package).read(ROBUSTNESS_FILE))


def added(package: Path, out: Path, trained: LabelledImages, tested: LabelledImages) -> List[str]:
    """Add the table to a package again; return what is said."""
    opened, said = Package(package), []  # type: Package, List[str]
    kept = [entry for entry in opened.manifest.files if entry.path != ROBUSTNESS_FILE]
    files = {entry.path: opened.read(entry.path) for entry in kept}
    manifest = opened.manifest.model_copy(update={"files": tuple(kept)})
    packages.write(
        out, *robustness_file.added(manifest, files, trained, tested, said.append, Steps())
    )
    return said


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = tmp_path_factory.mktemp("unseen")
    return LabelledImages.of(pictures.write(folder, 6, anomaly=4, first_seed=300))


def test_a_package_says_how_its_verdicts_hold_on_the_images_of_its_training(package: Path) -> None:
    table = table_of(package)
    assert (table.images, table.count_anomaly) == ("training", 0)
    assert table.count_normal == robustness_file.MOST
    assert "were trained on, which flatters" in table.remark
    assert len(table.rows) == 34
    assert {row.escape for row in table.rows} == {None}


def test_images_of_the_test_are_taken_where_there_are_some(
    parts: Path,
    package: Path,
    unseen: LabelledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(robustness_file, "MOST", 5)
    out = tmp_path / "out"
    said = added(package, out, LabelledImages.of(parts), unseen)
    table = table_of(out)
    assert (table.images, table.count_normal, table.count_anomaly) == ("test", 5, 4)
    assert "were not trained on" in table.remark
    assert said[0].endswith("on 5 good and 4 bad images of the test:")
    assert len([line for line in said if line.startswith("  ")]) == 11
    assert said[-1] == table.advice()
    assert not any("Without bad images" in line for line in said)
    again = robustness.measure(out, robustness_file.some(unseen.normal, 5), unseen.anomaly)
    assert again.rows == table.rows


def test_a_test_without_bad_images_says_less_than_a_training_with_them(
    parts: Path, package: Path, unseen: LabelledImages, tmp_path: Path
) -> None:
    found = LabelledImages.of(parts)
    trained = LabelledImages(found.normal[:3], found.anomaly[:2])
    good = LabelledImages(unseen.normal[:3], ())
    said = added(package, tmp_path / "out", trained, good)
    assert table_of(tmp_path / "out").images == "training"
    assert table_of(tmp_path / "out").count_anomaly == 2
    assert any("which flatters" in line for line in said)
    said = added(package, tmp_path / "other", LabelledImages(trained.normal, ()), good)
    assert table_of(tmp_path / "other").images == "test"
    assert "Without bad images nobody knows how many more escape." in said
    assert said[1].split()[-1].endswith("/-")


def test_training_judges_by_the_test_beside_it_and_says_so(tmp_path: Path) -> None:
    pictures.write(tmp_path / "train", 12)
    pictures.write(tmp_path / "test", 3, anomaly=2, first_seed=300)
    said: List[str] = []
    out = tmp_path / "out"
    train(tmp_path / "train", out, size=(64, 80), progress=said.append)
    table = table_of(out)
    assert (table.images, table.count_normal, table.count_anomaly) == ("test", 3, 2)
    assert any(line.startswith("Robustness: by how many points") for line in said)
    assert table.advice() in said


def test_images_are_chosen_evenly() -> None:
    paths = [Path(str(number)) for number in range(100)]
    chosen = [int(path.name) for path in robustness_file.some(paths, 12)]
    assert chosen == list(range(0, 100, 9))
    assert robustness_file.some(paths[:3], 12) == paths[:3]
    assert robustness_file.some([], 12) == []


@pytest.mark.parametrize(
    ("size", "most"), [((64, 80), 12), ((256, 256), 12), ((256, 512), 6), ((1024, 1024), 3)]
)
def test_fewer_images_of_a_larger_input_are_judged(size: Tuple[int, int], most: int) -> None:
    spec = InputSpec(tensor="image", height=size[0], width=size[1])
    assert robustness_file.most_of(spec) == most
