from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Dict, List, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.label_manifest import ALL
from edge_agent.evaluation.masks import Masks
from edge_agent.manifest import InputSpec
from edge_agent.training import dataset, defect_sizes, exif, findings, same_pictures
from edge_agent.training.dataset import Pictures
from edge_agent.training.findings import DataFinding, LabelledPictures
from edge_agent.training.trainer import train
from tests.training import large_pictures, pictures

SPEC = InputSpec(tensor="image", height=96, width=128)
ENOUGH = 24


def found_in(folder: Path) -> Dict[str, DataFinding]:
    found = dataset.find(folder, False, ALL)
    paths = found.normal, found.anomaly, dataset.test_images(folder, None, ALL)
    normal, anomaly, test = (Pictures.load(each, SPEC) for each in paths)
    return {
        each.kind: each for each in findings.find(LabelledPictures(folder, normal, anomaly, test))
    }


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return pictures.write(tmp_path / "parts" / "train", ENOUGH, anomaly=12)


def copied(source: Path, target: Path, scale: float = 1.0) -> Path:
    """Store a picture again, as a JPEG of another size."""
    picture = cv2.imread(str(source))
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    target.parent.mkdir(parents=True, exist_ok=True)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(target), small, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return target


def test_nothing_is_found_in_images_as_they_should_be(parts: Path) -> None:
    assert found_in(parts) == {}


@pytest.mark.parametrize("scale", [1.0, 0.9, 1.1])
def test_copies_of_other_encoding_and_size_are_found(parts: Path, scale: float) -> None:
    copied(parts / "normal" / "003.png", parts / "normal" / "copy.jpg", scale)
    assert found_in(parts)["twice"].files == ("normal/copy.jpg = normal/003.png",)


def test_a_picture_with_both_labels_contradicts_itself(parts: Path) -> None:
    copied(parts / "normal" / "003.png", parts / "anomaly" / "bad.jpg")
    shutil.copy(parts / "normal" / "004.png", parts / "anomaly" / "worse.png")
    finding = found_in(parts)["both-labels"]
    assert finding.count == 2
    assert finding.files == (
        "anomaly/bad.jpg = normal/003.png",
        "anomaly/worse.png = normal/004.png",
    )


def test_the_same_part_before_and_after_damage_is_no_contradiction(parts: Path) -> None:
    picture = cv2.imread(str(parts / "normal" / "003.png"))
    cv2.circle(picture, (30, 30), 3, (90, 120, 200), -1)
    assert cv2.imwrite(str(parts / "anomaly" / "damaged.png"), picture)
    assert found_in(parts) == {}


def test_pictures_trained_on_and_tested_with_are_found(parts: Path) -> None:
    test = pictures.write(parts.parent / "test", 4, 3, first_seed=500)
    assert found_in(parts) == {}
    copied(parts / "normal" / "003.png", test / "normal" / "seen.jpg", 0.95)
    shutil.copy(parts / "anomaly" / "004.png", test / "anomaly" / "seen.png")
    finding = found_in(parts)["train-and-test"]
    assert finding.count == 2
    assert finding.files[0].endswith("test/normal/seen.jpg = normal/003.png")
    assert finding.files[1].endswith("test/anomaly/seen.png = anomaly/004.png")


def test_the_test_images_may_lie_anywhere(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "normal", tmp_path / "elsewhere")
    listed = dataset.test_images(parts, tmp_path / "elsewhere", ALL)
    assert len(listed) == ENOUGH


def lighter(path: Path, levels: int = 0, blue: int = 0) -> None:
    picture = cv2.imread(str(path)).astype(int) + levels + np.array([blue, 0, 0])
    assert cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("fact", "change"), [("brightness", (8, 0)), ("blueness", (0, 8))])
def test_labels_that_the_light_tells_apart_are_found(parts: Path, fact: str, change: tuple) -> None:
    for path in (parts / "anomaly").iterdir():
        lighter(path, *change)
    assert f"{fact} alone separates" in found_in(parts)[f"separable-{fact}"].what


def test_labels_that_the_size_of_the_files_tells_apart_are_found(parts: Path) -> None:
    for path in (parts / "anomaly").iterdir():
        path.write_bytes(path.read_bytes() + bytes(path.stat().st_size // 2))
    assert set(found_in(parts)) == {"separable-file-size"}


def test_few_images_separate_by_chance_and_are_called_few(tmp_path: Path) -> None:
    folder = pictures.write(tmp_path / "parts", 10, anomaly=3)
    for path in (folder / "anomaly").iterdir():
        lighter(path, 8)
    assert set(found_in(folder)) == {"few-normal", "few-anomaly"}


def test_grey_images_among_coloured_ones_are_found(parts: Path) -> None:
    path = parts / "normal" / "003.png"
    assert cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    assert found_in(parts)["grey-and-colour"].files == ("normal/003.png",)


def test_images_that_show_nothing_are_found(parts: Path) -> None:
    for name, level in (("003", 0), ("004", 255), ("005", 2)):
        assert cv2.imwrite(
            str(parts / "normal" / f"{name}.png"), np.full((96, 128, 3), level, np.uint8)
        )
    assert found_in(parts)["empty"].count == 3


def test_other_sizes_and_shapes_are_counted(parts: Path) -> None:
    for name, size in (("003", (256, 192)), ("004", (128, 128))):
        path = parts / "normal" / f"{name}.png"
        assert cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), size))
    finding = found_in(parts)["sizes"]
    assert finding.files == ("normal/003.png (256x192)", "normal/004.png (128x128)")
    assert "Stretched to the shape of the others: 1." in finding.advice


def with_camera(path: Path, model: bytes) -> None:
    """Turn a picture into a JPEG whose EXIF data name a camera."""
    ok, encoded = cv2.imencode(".jpg", cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert ok
    entries = ((0x10F, b"Acme\0"), (0x110, model + b"\0"))
    at = 8 + 2 + 12 * len(entries) + 4
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    tail = b""
    for tag, text in entries:
        head += struct.pack("<HHII", tag, 2, len(text), at + len(tail))
        tail += text
    block = b"Exif\0\0" + head + bytes(4) + tail
    content = encoded.tobytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    path.unlink()
    path.with_suffix(".jpg").write_bytes(content[:2] + segment + content[2:])


def test_cameras_are_told_by_exif_data(parts: Path) -> None:
    for index, path in enumerate(sorted((parts / "normal").iterdir())):
        with_camera(path, b"Two 2" if index == 3 else b"One 1")
    for path in (parts / "anomaly").iterdir():
        with_camera(path, b"One 1")
    assert exif.camera(parts / "normal" / "000.jpg") == "Acme One 1"
    finding = found_in(parts)["cameras"]
    assert finding.files == ("normal/003.jpg",)
    assert "Acme One 1; Acme Two 2" in finding.what


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xffExif\0\0II*\0", b"Exif\0\0MM\0*" + b"\xff" * 9]
)
def test_damaged_exif_data_name_no_camera(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert exif.camera(tmp_path / "x.jpg") == ""


def test_the_table_comes_before_the_training_and_names_what_cannot_be_read(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts / "normal" / "003.png").write_bytes(b"not a picture")
    shutil.copy(parts / "normal" / "004.png", parts / "normal" / "again.png")
    words = ["train", str(parts), "--out", str(tmp_path / "out"), "--size", "96x128"]
    assert main([*words, "--normal-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("Findings in the images:")
    assert at < next(index for index, line in enumerate(lines) if " MB, " in line)
    assert lines[at + 1].startswith("warns      1  Pictures are there twice")
    assert lines[at + 1].count("normal/again.png = normal/004.png") == 1
    assert lines[at + 2].startswith("warns      1  Left out, as it can't be used: it can't be read")
    assert "(normal/003.png)" in lines[at + 2]


def test_one_picture_many_times_stops_the_training(tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "normal"
    folder.mkdir(parents=True)
    for index in range(12):
        assert cv2.imwrite(str(folder / f"{index}.png"), pictures.draw(1))
    said: List[str] = []
    with pytest.raises(InvalidConfiguration, match="All normal images are the same picture"):
        train(folder.parent, tmp_path / "out", progress=said.append)
    assert said[said.index("Findings in the images:") + 1].startswith(
        "stops     12  All normal images"
    )


def test_thousands_of_sketches_are_compared_in_blocks() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (600, 64, 64, 3), np.uint8)
    pixels[599] = np.clip(pixels[3].astype(int) + 1, 0, 255)
    pixels[300] = pixels[299]
    assert same_pictures.pairs([pixels[:400], pixels[400:]]) == [(3, 599), (299, 300)]


@pytest.mark.parametrize(
    ("radius", "found"),
    [(2, ("anomaly/000.png", "anomaly/001.png")), (20, ())],
)
def test_defects_too_small_to_be_seen_are_found_with_the_tiles_that_show_them(
    tmp_path: Path, radius: int, found: Tuple[str, ...]
) -> None:
    folder = large_pictures.write(tmp_path / "parts", "cast", 1, size=(512, 768))
    spec = InputSpec(tensor="image", height=192, width=384)
    paths = [folder / "anomaly" / f"00{index}.png" for index in range(2)]
    for path in paths:
        for place in (path, folder / "masks" / path.name):
            place.parent.mkdir(exist_ok=True)
            picture = cv2.circle(
                np.zeros((512, 768, 3), np.uint8), (99, 99), radius, (255,) * 3, -1
            )
            assert cv2.imwrite(str(place), picture)
    normal = [folder / "normal" / "000.jpg"]
    defects = defect_sizes.of_masks(Masks.of(folder, paths, print), paths)
    parts = (Pictures.load(each, spec) for each in (normal, paths, ()))
    images = LabelledPictures(folder, *parts, (), defects)
    small = [each for each in findings.find(images) if each.kind == "small-defects"]
    assert [each.files for each in small] == ([found] if found else [])
    for finding in small:
        assert "2 of 2 defects in the masks have less than 6x6 pixels" in finding.what
        assert finding.advice == "Let the model judge the pictures in tiles: --tiles 2x3."
