"""Micro models whose score is the mean of red, on images of one red each, with a stripe of blue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

import cv2
import numpy as np
import pytest

from edge_agent import manifest
from edge_agent.cli import main
from edge_agent.client import images
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.evaluator import evaluate
from tests.fakes import micro

RED = {"normal": (0.0, 0.2, 0.6), "anomaly": (0.4, 0.8, 1.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, values in RED.items():
        (tmp_path / "images" / label).mkdir(parents=True)
        for index, value in enumerate(values):
            image = np.zeros((80, 100, 3), np.uint8)
            image[..., 2] = round(255 * value)  # OpenCV writes blue, green, red
            image[30:50, :, 0] = 255
            assert cv2.imwrite(str(tmp_path / "images" / label / f"{index}.png"), image)
    return tmp_path / "images"


def test_figures_are_those_of_the_verdicts_as_served(folder: Path, tmp_path: Path) -> None:
    report = evaluate(micro.write(tmp_path / "model", "classification"), folder)
    assert (report.count_normal, report.count_anomaly, report.threshold) == (3, 3, 0.5)
    assert report.image_auroc == pytest.approx(8 / 9)
    # from 0.5 on: 0.6 is a false alarm, 0.4 is missed
    assert (report.false_alarms, report.missed) == (1, 1)
    assert (report.precision, report.recall, report.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert report.best_f1 == pytest.approx(6 / 7)
    assert report.best_threshold == pytest.approx(0.4, abs=1e-4)
    assert report.pixel_auroc is None
    assert report.latency_ms > 0


def test_an_image_without_a_part_counts_as_the_agent_calls_it(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "normal").iterdir():
        images.save(path, np.full((80, 100, 3), 60, np.uint8))
    remarks: List[str] = []
    package = micro.write(tmp_path / "model", "anomaly_map")
    report = evaluate(package, folder, on_remark=remarks.append)
    assert (report.false_alarms, report.camera_problems) == (3, 3)
    assert "3 of the images (blank: 3)" in remarks[-1]
    assert "normal/0.png" in remarks[-1]


def test_masks_beside_the_images_rank_the_pixels(folder: Path, tmp_path: Path) -> None:
    half = np.zeros((80, 100, 3), np.uint8)
    half[:, :50, 2] = 255
    assert cv2.imwrite(str(folder / "anomaly" / "2.png"), half)
    masks = folder.parent / "masks"
    masks.mkdir()
    assert cv2.imwrite(str(masks / "2.png"), half[..., 2])
    report = evaluate(micro.write(tmp_path / "model", "anomaly_map"), folder)
    assert report.pixel_auroc == 1.0


def test_16_bits_are_read_as_training_read_them_and_masks_as_they_are(
    folder: Path, tmp_path: Path
) -> None:
    half = np.zeros((80, 100), np.uint16)
    half[:, :50] = 1016
    assert cv2.imwrite(str(folder / "anomaly" / "2.png"), cv2.merge([half * 0, half * 0, half]))
    (folder.parent / "masks").mkdir()
    assert cv2.imwrite(str(folder.parent / "masks" / "2.png"), np.uint16(half > 0))
    package = micro.write(tmp_path / "model", "anomaly_map")
    remarks: List[str] = []
    assert evaluate(package, folder, on_remark=remarks.append).missed == 1  # 0.4; 1016 is bright
    assert "1 of the images has 16 bits a channel" in remarks[0]
    parsed = manifest.parse((package / "manifest.json").read_bytes())
    known = parsed.model_copy(update={"statistics": manifest.Statistics(image_bits=12)})
    (package / "manifest.json").write_bytes(known.to_json())
    report = evaluate(package, folder)
    assert (report.missed, report.pixel_auroc) == (2, 1.0)


def test_masks_follow_the_paths_of_their_images(folder: Path, tmp_path: Path) -> None:
    half = np.zeros((80, 100, 3), np.uint8)
    half[:, :50, 2] = 255
    for name, picture in (("dent", half), ("scratch", half[:, ::-1])):
        for place in (folder / "anomaly" / name, folder.parent / "masks" / name):
            place.mkdir(parents=True)
        images.save(folder / "anomaly" / name / "7.png", picture[..., ::-1])
        images.save(folder.parent / "masks" / name / "7.png", (picture > 0).astype(np.uint8))
    package = micro.write(tmp_path / "model", "anomaly_map")
    assert evaluate(package, folder).pixel_auroc == 1.0
    (folder.parent / "masks" / "dent" / "7.png").rename(folder.parent / "masks" / "7.png")
    remarks: List[str] = []
    evaluate(package, folder, on_remark=remarks.append)
    assert any("masks/7.png isn't used for" in text for text in remarks)


def test_images_that_cannot_be_used_are_left_out_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, small = folder / "normal" / "cut.png", folder / "anomaly" / "small.png"
    cut.write_bytes((folder / "normal" / "0.png").read_bytes()[:-5])
    images.save(small, np.zeros((64, 63, 3), np.uint8))
    package = micro.write(tmp_path / "model", "classification")
    assert main(["evaluate", str(package), str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert (figures["count_normal"], figures["count_anomaly"]) == (3, 3)
    assert [Path(item["image"]) for item in figures["left_out"]] == [cut, small]
    assert "63x64 pixels" in figures["left_out"][1]["reason"]
    assert "2 files are left out:" in printed.err


def test_a_folder_without_anomalies_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "anomaly").iterdir():
        path.unlink()
    with pytest.raises(InvalidConfiguration, match="anomaly holds no images"):
        evaluate(micro.write(tmp_path / "model", "classification"), folder)


def test_a_file_with_both_labels_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "anomaly" / "link.png").symlink_to(folder / "normal" / "0.png")
    with pytest.raises(InvalidConfiguration, match=r"0\.png and .*link\.png are one file"):
        evaluate(tmp_path / "model", folder)


def test_the_command_writes_one_json_object(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "model", "classification")
    assert main(["evaluate", str(package), str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    wanted = {"image_auroc", "average_precision", "f1", "precision", "recall", "threshold"}
    assert wanted | {"count_normal", "count_anomaly"} <= set(figures)


def test_the_command_prints_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "model", "classification")
    assert main(["evaluate", str(package), str(folder)]) == 0
    assert "image auroc" in capsys.readouterr().out
