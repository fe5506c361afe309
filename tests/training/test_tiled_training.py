"""A model of large pictures, trained on drawn surfaces with small defects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List

import cv2
import numpy as np
import pytest

from edge_agent.evaluation.evaluator import Predictor, evaluate
from edge_agent.training.backbones import BackboneOptions
from edge_agent.training.tiles import Tiles
from edge_agent.training.trainer import train
from edge_agent.types import Frame
from tests.conftest import made_once
from tests.training import large_pictures

SIZE = 256, 1152  # of the pictures, and of the model's input: large enough for a Gaussian
TILES = Tiles(1, 5)
DEFECT = 12  # pixels


@dataclass(frozen=True)
class Tiled:
    images: Path
    package: Path
    said: List[str]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Tiled:
    def make(folder: Path) -> None:
        bad = [("spot", DEFECT)] * 6
        large_pictures.write(folder / "seen", "printed", 10, size=SIZE)
        large_pictures.write(
            folder / "unseen", "printed", 6, bad, first_seed=900, size=SIZE, masks=folder / "masks"
        )
        said: List[str] = []
        train(
            folder / "seen", folder / "package", tiles=TILES, progress=said.append,
            backbone=BackboneOptions("none"),
        )  # fmt: skip
        (folder / "said.txt").write_text("\n".join(said))

    folder = made_once(tmp_path_factory, "tiled", make)
    return Tiled(
        folder / "unseen", folder / "package", (folder / "said.txt").read_text().split("\n")
    )


def test_small_defects_are_found_where_they_are(tiled: Tiled) -> None:
    report = evaluate(tiled.package, tiled.images)
    assert report.image_auroc == 1.0
    assert report.pixel_auroc is not None
    assert report.pixel_auroc > 0.9


def test_training_tells_the_tiles_and_what_they_cost(tiled: Tiled) -> None:
    assert "10 normal and 0 anomalous images, trained at 1152x256 pixels" in tiled.said
    (line,) = (each for each in tiled.said if each.startswith("Judges"))
    assert line.startswith("Judges 1x5 tiles, about ")
    assert line.endswith(" ms a picture on one core of this machine")


def test_the_package_asks_for_single_pictures_of_the_tiles_size(tiled: Tiled) -> None:
    with Predictor(tiled.package) as predictor:
        manifest = predictor.manifest
    assert (manifest.input.height, manifest.input.width) == TILES.size
    assert manifest.runtime.batch_sizes == (1,)


@pytest.mark.parametrize("place", [(40, 40), (128, 576), (230, 1110)])
def test_regions_are_in_pixels_of_the_whole_picture(tiled: Tiled, place: tuple[int, int]) -> None:
    pixels, _ = large_pictures.draw("printed", 950, size=SIZE)
    cv2.circle(pixels, place[::-1], 12, (20, 20, 20), -1)
    with Predictor(tiled.package) as predictor:
        prediction, _ = predictor.predict(Frame(np.ascontiguousarray(pixels)))
    assert prediction.is_anomalous
    assert prediction.camera_problems == ()
    best = max(prediction.regions, key=lambda region: region.peak)
    centre = best.top + best.height / 2, best.left + best.width / 2
    assert np.abs(np.subtract(centre, place)).max() < 24


def test_bad_images_that_cant_be_used_choose_no_tiles(tmp_path: Path) -> None:
    images = tmp_path / "seen"
    large_pictures.write(images, "printed", 10, size=(1024, 1024))
    (images / "anomaly").mkdir(exist_ok=True)
    for number in range(8):
        (images / "anomaly" / f"{number}.png").write_bytes(b"not a picture")
    said: List[str] = []
    train(images, tmp_path / "out", backbone=BackboneOptions("none"), progress=said.append)
    assert "10 normal and 0 anomalous images, trained at 256x256 pixels" in said
