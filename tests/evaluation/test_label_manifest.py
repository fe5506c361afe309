"""Manifests of Lookout for Vision and of captures, as training and evaluation read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.label_manifest import ALL, LabelManifest, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages


def line(reference: str, label: str, human: str = "yes", model: str = "") -> Dict[str, Any]:
    told: Dict[str, Any] = {
        "source-ref": reference,
        "anomaly-label": 1,  # as in the original's own example, also with class-name normal
        "anomaly-label-metadata": {"class-name": label, "human-annotated": human},
    }
    return {**told, "edge-agent": {"model": model}} if model else told


def write(folder: Path, lines: List[Dict[str, Any]]) -> Path:
    manifest = folder / "output.manifest"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")
    return manifest


def images(folder: Path, *names: str) -> List[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [folder / name for name in names]


def refused(source: Path, options: ManifestOptions = ALL) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        LabelManifest.read(source, options)
    return str(caught.value)


def test_the_class_name_decides_and_the_order_of_lines_stays(tmp_path: Path) -> None:
    b, a, c = images(tmp_path, "b.png", "a.png", "day/c.png")
    lines = [line("b.png", "normal"), line("a.png", "normal"), line("day/c.png", "anomaly")]
    found = LabelledImages.of(write(tmp_path, lines))
    assert (found.normal, found.anomaly, found.remarks) == ((b, a), (c,), ())


def test_a_segmentation_line_of_the_original_is_read_by_its_label(tmp_path: Path) -> None:
    images(tmp_path, "bucket/dataset/images/7 a.png")
    entry = {
        **line("s3://shop/dataset/images/7 a.png", "anomaly"),
        "anomaly-mask-ref": "s3://shop/dataset/masks/7.png",
        "anomaly-mask-ref-metadata": {
            "internal-color-map": {"0": {"class-name": "cracked", "hex-color": "#23A436"}},
            "type": "groundtruth/semantic-segmentation",
        },
    }
    read = LabelManifest.read(write(tmp_path, [entry]), ManifestOptions(images=tmp_path / "bucket"))
    assert read.paths("anomaly") == (tmp_path / "bucket/dataset/images/7 a.png",)


def test_images_in_s3_have_to_be_downloaded_first(tmp_path: Path) -> None:
    sentence = refused(write(tmp_path, [line("s3://shop/a/7.png", "normal")]))
    assert "aws s3 sync s3://shop FOLDER" in sentence
    assert "--images FOLDER" in sentence


def test_absolute_names_and_file_uris_are_taken(tmp_path: Path) -> None:
    a, b = images(tmp_path / "elsewhere", "a.png", "b 1.png")
    lines = [line(str(a), "normal"), line(b.as_uri(), "normal")]
    assert LabelManifest.read(write(tmp_path, lines), ALL).paths("normal") == (a, b)


def test_a_later_line_about_an_image_wins(tmp_path: Path) -> None:
    (a,) = images(tmp_path, "a.png")
    lines = [line("a.png", "normal", human="no"), line("./a.png", "anomaly")]
    read = LabelManifest.read(write(tmp_path, lines), ALL)
    assert (read.paths("normal"), read.paths("anomaly"), read.remarks) == ((), (a,), ())


def test_what_is_left_out_or_unconfirmed_is_told_in_a_sentence_each(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png")
    lines = [
        line("a.png", "normal", human="no"),
        line("b.png", "anomaly"),
        line("c.png", "unlabeled"),
        {"source-ref": "c.png"},
        line("gone.png", "normal"),
    ]
    source = write(tmp_path, lines)
    no_label, missing, guessed = LabelManifest.read(source, ALL).remarks
    assert no_label.startswith(f"1 images of {source} have no label")
    assert str(tmp_path / "gone.png") in missing
    assert guessed.startswith("1 of 2 labels")


def test_captures_of_several_models_are_never_mixed(tmp_path: Path) -> None:
    a, b = images(tmp_path, "a.png", "b.png")
    source = write(tmp_path, [line("a.png", "normal", model="bolts"), line("b.png", "normal", model="nuts")])  # fmt: skip  # noqa: E501
    assert "choose one with --model: bolts, nuts." in refused(source)
    assert "no captures of 'caps'; models in it: bolts, nuts." in refused(
        source, ManifestOptions(model="caps")
    )
    chosen = LabelledImages.of(source, ManifestOptions(model="nuts"))
    assert (chosen.normal, chosen.model) == ((b,), "nuts")
    assert a not in chosen.normal


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{}\n", "line 1, names no image"), ('{"source-ref": "a"}\n\n{"sou', "line 3, isn't JSON")],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    source = tmp_path / "manifest.jsonl"
    source.write_text(content)
    assert sentence in refused(source)


def test_what_is_neither_folder_nor_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"isn't a folder.* nor a manifest"):
        LabelledImages.of(tmp_path / "nowhere")
