"""Golden samples as training makes them: away from the threshold, and given back by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from edge_agent.errors import ParityFailed
from edge_agent.manifest import Decision, Manifest
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.backends import catalog
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.training import golden
from edge_agent.training.trainer import train
from tests.fakes import golden as engines
from tests.fakes import micro
from tests.training import pictures


def check(package: Path, engine: str) -> None:
    opened = Package(package)
    options = BackendOptions(threads=2, cpu_batches=True)
    backend = catalog.open_named(engine, opened.read_model(), opened.manifest, options)
    try:
        golden_check.check(backend, opened.manifest, golden_check.read_pictures(opened))
    finally:
        backend.close()


def micro_samples(pictures: List[np.ndarray], task: str = "classification", **changes: Any) -> Any:
    model = micro.graph(task)
    manifest = Manifest.model_validate(micro.manifest(task, model, **changes))
    return golden.samples(model, manifest, pictures)


def test_a_trained_package_holds_samples_of_both_verdicts_and_lists_their_pictures(
    package: Path,
) -> None:
    manifest = Package(package).manifest
    assert [sample.anomalous for sample in manifest.golden] == [False, True, False, True]
    listed = {entry.path for entry in manifest.files}
    paths = {f"golden/{index}.png" for index in range(4)}
    tables = {"grey_band.json", "normal_scores.json", "robustness.json"}
    assert listed == {"model.onnx", *tables, *paths}
    threshold = manifest.decision.threshold
    assert all(abs(each.score - threshold) >= golden.MARGIN for each in manifest.golden)


def test_a_trained_package_gives_its_results_back(package: Path) -> None:
    check(package, "onnxruntime")


@pytest.mark.parametrize("engine", ["swapped", "unscaled", "quantised", "mixed"])
def test_an_engine_that_computes_a_trained_model_wrongly_is_refused(
    engine: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.CLASSES, engine, engines.ENGINES[engine])
    with pytest.raises(ParityFailed):
        check(package, engine)


def test_training_again_gives_the_same_package_byte_for_byte(
    parts: Path, package: Path, tmp_path: Path
) -> None:
    train(parts, tmp_path / "again", normal_only=True, size=pictures.SIZE, progress=lambda _: None)
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (package, tmp_path / "again")
    )
    assert first == second


def test_labelled_anomalies_are_samples_themselves(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(parts, out, size=pictures.SIZE, progress=lambda _: None)
    stained = [PictureReader().frame(path).pixels for path in (parts / "anomaly").iterdir()]
    golden_pictures = golden_check.read_pictures(Package(out))
    known = [any(np.array_equal(each, one) for one in stained) for each in golden_pictures]
    assert known == [False, True, False, True]


def test_pathsnear_the_threshold_are_left_out() -> None:
    reds = [90, 110, 140, 170]  # / 255: 0.35, 0.43, 0.55, 0.67
    samples, files = micro_samples([engines.draw_even(red) for red in reds])
    assert [round(255 * sample.score) for sample in samples] == [90, 170]
    assert list(files) == ["golden/0.png", "golden/1.png"]


def test_the_nearest_pathsare_taken_first_and_both_verdicts_in_turn() -> None:
    reds = [10, 60, 90, 30, 160, 240, 200]
    samples, _ = micro_samples([engines.draw_even(red) for red in reds])
    assert [round(255 * sample.score) for sample in samples] == [90, 160, 60, 200, 30, 240, 10]


def test_no_picture_far_enough_away_gives_no_samples() -> None:
    assert micro_samples([engines.draw_even(128)]) == ((), {})


def test_a_mask_that_hangs_on_the_pixel_threshold_is_left_out() -> None:
    decision = Decision(verdict="mask", threshold=0.1, pixel_threshold=0.5).model_dump()
    faint, clear = engines.draw(red=140, blue=0), engines.draw(red=230, blue=0)
    samples, _ = micro_samples([faint, clear], "anomaly_map", decision=decision)
    assert [sample.anomalous for sample in samples] == [True]
    assert samples[0].score == pytest.approx(230 / 255)


def test_candidates_are_the_same_for_one_seed_and_others_for_another() -> None:
    normal = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    one, same, other = (golden.candidates(normal, normal[:0], seed) for seed in (1, 1, 2))
    assert len(one) == 2 * golden.CANDIDATES
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
