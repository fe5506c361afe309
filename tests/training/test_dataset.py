from __future__ import annotations

import os
from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.light import measure
from edge_agent.training import dataset
from edge_agent.training.dataset import Pictures
from edge_agent.training.trainer import safe_name, train
from tests.training import pictures


def refused(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        train(folder, tmp_path / "out", progress=lambda _: None)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "isn't a folder" in refused(tmp_path / "nowhere", tmp_path)


def test_a_folder_without_normal_images_says_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "anomaly").mkdir()
    assert "has no folder normal/" in refused(tmp_path, tmp_path)


def test_too_few_images_are_counted(tmp_path: Path) -> None:
    assert "holds 9 images; training needs 10" in refused(
        pictures.write(tmp_path / "few", 9), tmp_path
    )


def test_what_cannot_be_used_is_named_and_counted_and_the_rest_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures.write(tmp_path / "parts", 13)
    normal = folder / "normal"
    (normal / "000.png").write_bytes(b"not a picture")  # the first, which gives the size
    (normal / "005.png").write_bytes((normal / "005.png").read_bytes()[:-9])
    (normal / os.fsdecode(b"\xe4\n.png")).write_bytes((normal / "006.png").read_bytes())
    for name, size in (("small.png", (63, 80)), ("wide.png", (64, 4097)), ("odd.png", (80, 90))):
        assert cv2.imwrite(str(normal / name), np.full((*size, 3), 128, np.uint8))
    (normal / "notes.txt").write_text("good ones")
    assert main(["train", str(folder), "--out", str(tmp_path / "out"), "--size", "96x128"]) == 0
    said = "".join(capsys.readouterr().out.split())
    for words in (
        "000.png is left out: it can't be read as an image",
        "005.png is left out: it is cut short or damaged",
        "small.png is left out: it is 80x63 pixels; width and height must be 64 to 4096",
        "wide.png is left out: it is 4097x64 pixels",
        "13 normal and 0 anomalous images, trained at 128x96 pixels",
        "1 of 13 images has another size than 128x96 pixels",
        "odd.png (90x80)",
        "1 of 13 normal images looks quite unlike the others",
        "5 files are left out:",
        "1 its name doesn't end as an image's does",
    ):
        assert "".join(words.split()) in said, words


def test_images_inside_the_package_to_replace_are_never_lost(tmp_path: Path) -> None:
    out = tmp_path / "model"
    folder = pictures.write(out / "images", 12)
    (out / "manifest.json").write_text("{}")  # a package lies there already
    with pytest.raises(InvalidConfiguration, match=r"000\.png lies in .*, which the new package"):
        train(folder, out, progress=lambda _: None)
    assert len(list((folder / "normal").iterdir())) == 12


def test_too_few_usable_images_are_counted_with_the_reasons(tmp_path: Path) -> None:
    folder = pictures.write(tmp_path / "parts", 11)
    for name in ("003.png", "004.png"):
        (folder / "normal" / name).write_bytes(b"")
    sentence = refused(folder, tmp_path)
    assert (
        "holds 9 images; training needs 10 or more. 2 files are left out; 2: it is empty"
        in sentence
    )


@pytest.mark.parametrize(
    ("image", "model"),
    [
        ((768, 576), (256, 256)),
        ((460, 1130), (192, 384)),
        ((1130, 460), (384, 192)),
        ((160, 160), (256, 256)),
        ((100, 90), (256, 256)),
        ((200, 2000), (128, 512)),
    ],
)
def test_the_input_has_the_shape_of_the_images(image: Tuple[int, int], model: object) -> None:
    assert dataset.input_size(image) == model


def test_labels_that_show_in_the_files_raise_a_warning(tmp_path: Path) -> None:
    folder = pictures.write(tmp_path / "parts", 12, anomaly=6)
    for path in (folder / "anomaly").iterdir():
        image = cv2.imread(str(path))
        path.unlink()
        assert cv2.imwrite(str(path.with_suffix(".jpg")), image)
    messages: List[str] = []
    train(folder, tmp_path / "out", size=pictures.SIZE, progress=messages.append)
    assert any("JPEG alone separates normal from anomaly" in text for text in messages)
    assert not any("width alone" in text for text in messages)


def test_a_folder_name_becomes_a_model_name() -> None:
    assert safe_name(Path("/data/Line 3 (left)")) == "Line-3-left"
    assert safe_name(Path("/data/???")) == "model"


@pytest.mark.parametrize("part", ["train", "Training", "test", "val", "train/good", "splits/train"])
def test_a_part_of_a_data_set_names_no_model(part: str) -> None:
    assert safe_name(Path("/data/bottle") / part) == "bottle"
    assert safe_name(Path("/") / part) == "model"


def test_training_measures_what_the_agent_measures(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        random = np.random.default_rng(seed)
        assert cv2.imwrite(str(path), random.integers(0, 200 + seed, (96, 128, 3)))
    pictures = Pictures.load(paths, InputSpec(tensor="image", height=64, width=80))
    lights = [measure(pixels) for pixels in pictures.pixels]
    for fact in ("brightness", "sharpness"):
        values = [getattr(light, fact) for light in lights]
        assert pictures.range_of(fact) == (min(values), max(values))
