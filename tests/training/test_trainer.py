from __future__ import annotations

from pathlib import Path
from typing import List

import cv2
import numpy as np
import onnx
import pytest

from edge_agent.cli import main
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.manifest import Manifest, parse
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.packages.package import Package
from edge_agent.training.trainer import train
from tests import ROOT
from tests.training import pictures
from tests.training.pictures import SIZE

DATA = ROOT.parent / "shared" / "data"
# Image AUROC, normals only.
TARGETS = {"aliens": 0.93, "ballscrew": 0.94, "cookies": 0.92, "deeppcb": 0.9}


def silent(_: str) -> None:
    pass


def test_a_package_holds_one_self_contained_graph_that_old_engines_read(package: Path) -> None:
    model = onnx.load(str(package / "model.onnx"), load_external_data=False)
    assert model.ir_version <= 8
    assert [opset.version <= 17 for opset in model.opset_import] == [True]
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert sum(file.stat().st_size for file in package.rglob("*")) < 5_000_000
    assert Package(package).read_model() == model.SerializeToString(deterministic=True)


def test_the_manifest_reads_back_and_tells_what_was_trained(package: Path) -> None:
    content = (package / "manifest.json").read_bytes()
    manifest = parse(content)
    assert b"image_bits" not in content  # only for files of 16 bits: older agents don't know it
    assert (manifest.name, manifest.task) == ("plates", "anomaly_map")
    assert (manifest.input.height, manifest.input.width) == (96, 128)
    assert manifest.decision.calibration is not None
    assert manifest.statistics.normal_scores is not None
    assert sum(manifest.statistics.normal_scores.counts) == 15
    assert manifest.statistics.anomaly_scores is None
    assert manifest.statistics.brightness is not None
    low, high = manifest.statistics.brightness
    assert 100 < low <= high < 200
    assert len(manifest.source_digest) == 64


def test_a_batch_gives_what_single_images_give(package: Path) -> None:
    opened = Package(package)
    images = np.stack([pictures.draw(seed, stained=seed % 2 == 1) for seed in range(50, 54)])
    backend = open_backend(
        ["onnxruntime"], opened.read_model(), opened.manifest, BackendOptions(1, cpu_batches=True)
    )
    together = backend.run(images)
    for index in range(len(images)):
        alone = backend.run(images[index : index + 1])
        for name in ("score", "map"):
            np.testing.assert_allclose(alone[name][0], together[name][index], rtol=0, atol=1e-4)
    assert together["map"].shape == (4, 1, 24, 32)
    np.testing.assert_array_equal(together["map"].max(axis=(1, 2, 3)), together["score"])
    backend.close()


def test_stained_parts_are_told_from_good_ones(package: Path, tmp_path: Path) -> None:
    report = evaluate(package, pictures.write(tmp_path, normal=12, anomaly=12, first_seed=500))
    assert report.image_auroc == 1.0
    assert report.recall == 1.0
    assert report.false_alarms <= 2  # a tenth is expected


def test_one_seed_gives_the_same_model_and_another_seed_another(
    parts: Path, package: Path, tmp_path: Path
) -> None:
    again = train(parts, tmp_path / "a", normal_only=True, size=SIZE, progress=silent)
    other = train(parts, tmp_path / "b", normal_only=True, size=SIZE, seed=1, progress=silent)
    model = (package / "model.onnx").read_bytes()
    assert (tmp_path / "a" / "model.onnx").read_bytes() == model
    assert again.source_digest == other.source_digest
    assert (tmp_path / "b" / "model.onnx").read_bytes() != model


def test_labelled_anomalies_place_the_threshold(parts: Path, tmp_path: Path) -> None:
    said: List[str] = []
    manifest = train(parts, tmp_path / "out", size=SIZE, progress=said.append)
    assert manifest.statistics.anomaly_scores is not None
    assert sum(manifest.statistics.anomaly_scores.counts) == 8
    assert sum(manifest.statistics.anomaly_scores.counts[10:]) == 8  # from 0.5 on
    assert any("AUROC 1.000" in text for text in said)


def test_a_classification_model_has_a_score_and_no_map(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = train(
        parts, out, task="classification", normal_only=True, size=(64, 80), progress=silent
    )
    model = onnx.load(str(out / "model.onnx"))
    assert [output.name for output in model.graph.output] == ["score"]
    assert manifest.outputs.map is None
    assert manifest.task == "classification"


def test_an_earlier_package_is_replaced_and_nothing_is_left_beside_it(
    parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for version in ("1", "2"):
        train(parts, out, normal_only=True, size=(64, 80), version=version, progress=silent)
    assert Package(out).manifest.version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_package_is_left_alone(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InvalidConfiguration, match=r"isn't a model package"):
        train(parts, tmp_path, normal_only=True, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("out", ["/proc/out", "{file}/out"])
def test_a_place_that_takes_no_folder_is_named_before_training(
    out: str, parts: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said: List[str] = []
    with pytest.raises(InvalidConfiguration, match=r"can't be made in .*(/proc|file)"):
        train(parts, Path(out.format(file=tmp_path / "file")), progress=said.append)
    assert said == []


def test_the_command_trains_with_a_given_size_and_name(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["train", str(parts), "--out", str(out), "--normal-only", "--size", "64x80"]
    assert main([*words, "--name", "plate-7", "--version", "3"]) == 0
    manifest: Manifest = Package(out).manifest
    assert (manifest.name, manifest.version) == ("plate-7", "3")
    assert (manifest.input.height, manifest.input.width) == (64, 80)
    assert "15 normal and 0 anomalous images" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["64", "60x64", "64x2048", "0x0"])
def test_an_impossible_size_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "folder", "--out", "out", "--size", size])
    assert "multiples of 16" in capsys.readouterr().err


def test_the_depth_of_the_images_is_part_of_the_package(parts: Path, tmp_path: Path) -> None:
    for path in sorted((parts / "normal").iterdir())[:10]:
        deep = cv2.imread(str(path)).astype(np.uint16) * 4  # 10 bits, of a camera of 12
        (tmp_path / "normal").mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "normal" / f"{path.stem}.png"), deep)
    for words, bits in (([], 10), (["--bits", "12"], 12)):
        out = tmp_path / f"out-{bits}"
        assert main(["train", str(tmp_path), "--out", str(out), "--size", "64x80", *words]) == 0
        assert Package(out).manifest.statistics.image_bits == bits


def test_an_impossible_name_is_refused(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="letters, digits"):
        train(parts, tmp_path / "out", name="two words", progress=silent)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("images", sorted(TARGETS))
def test_normal_images_alone_rank_real_defects(images: str, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real images here: {DATA} doesn't exist")
    train(DATA / images / "train", tmp_path / "out", normal_only=True, progress=silent)
    assert evaluate(tmp_path / "out", DATA / images / "test").image_auroc >= TARGETS[images]
