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

SIZE = 512, 960  # of the pictures: twice that of the model's input
TILES = Tiles(1, 2)
DEFECT = 16  # pixels


@dataclass(frozen=True)
class Tiled:
    images: Path
    package: Path
    said: List[str]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Tiled:
    def make(folder: Path) -> None:
        bad = [("spot", DEFECT)] * 6
        large_pictures.write(folder / "train", "printed", 12, size=SIZE)
        large_pictures.write(
            folder / "test", "printed", 6, bad, first_seed=900, size=SIZE, masks=folder / "masks"
        )
        said: List[str] = []
        train(
            folder / "train", folder / "package", tiles=TILES, progress=said.append,
            backbone=BackboneOptions("none"),
        )  # fmt: skip
        (folder / "said.txt").write_text("\n".join(said))

    folder = made_once(tmp_path_factory, "tiled", make)
    return Tiled(folder / "test", folder / "package", (folder / "said.txt").read_text().split("\n"))


def test_small_defects_are_found_where_they_are(tiled: Tiled) -> None:
    report = evaluate(tiled.package, tiled.images)
    assert report.image_auroc == 1.0
    assert report.pixel_auroc is not None
    assert report.pixel_auroc > 0.9


def test_training_tells_the_tiles_and_what_they_cost(tiled: Tiled) -> None:
    assert "12 normal and 0 anomalous images, trained at 480x256 pixels" in tiled.said
    (line,) = (each for each in tiled.said if each.startswith("Judges"))
    assert line.startswith("Judges 1x2 tiles, about ")
    assert line.endswith(" ms a picture on one core of this machine")


def test_the_package_asks_for_single_pictures_of_the_tiles_size(tiled: Tiled) -> None:
    with Predictor(tiled.package) as predictor:
        manifest = predictor.manifest
    assert (manifest.input.height, manifest.input.width) == TILES.size
    assert manifest.runtime.batch_sizes == (1,)


@pytest.mark.parametrize("place", [(40, 40), (256, 480), (470, 920)])
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
