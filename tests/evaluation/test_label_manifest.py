"""Manifests of Lookout for Vision and of captures, as training and evaluation read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from edge_agent.cli import main
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.evaluation.label_manifest import ALL, LabelManifest, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.training import dataset


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
    source = write(tmp_path, lines)
    read = LabelManifest.read(source, ALL)
    assert (read.paths("normal"), read.paths("anomaly")) == ((), (a,))
    assert read.remarks == (
        f"1 image of {source} has several lines with different labels, of which the last counts "
        f"(first: {a}).",
    )


def test_a_file_is_one_image_however_it_is_named(tmp_path: Path) -> None:
    (a,) = images(tmp_path / "d", "1.png")
    (tmp_path / "link.png").symlink_to(a)
    names = ["d/1.png", str(a), "d/../d/1.png", a.as_uri(), "link.png", f"file://localhost{a}"]
    lines = [line(name, "normal") for name in names] + [line("d/1.png", "anomaly")]
    read = LabelManifest.read(write(tmp_path, lines), ALL)
    assert (read.paths("normal"), read.paths("anomaly")) == ((), (a,))
    assert "1 image of" in read.remarks[0]


def test_what_is_left_out_or_unconfirmed_is_told_in_a_sentence_each(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png")
    lines = [
        line("a.png", "normal", human="no"),
        line("b.png", "anomaly"),
        line("c.png", "unlabeled"),
        {"source-ref": "c.png"},
        line("gone.png", "normal"),
        line("man/d", "normal"),
    ]
    source = write(tmp_path, lines)
    (tmp_path / "man" / "d").mkdir(parents=True)
    no_label, missing, folder, guessed = LabelManifest.read(source, ALL).remarks
    assert no_label.startswith(f"1 image of {source} has no label")
    assert missing.endswith(f"does not exist and is left out: {tmp_path}/gone.png")
    assert folder.endswith(f"is a folder and is left out: {tmp_path}/man/d")
    assert guessed.startswith("1 of 2 labels")


def job(reference: str, value: Any, **metadata: Any) -> Dict[str, Any]:
    """A line of a labelling job of Ground Truth."""
    return {"source-ref": reference, "line-3": value, "line-3-metadata": metadata}


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        (job("a.png", 0, **{"class-name": "Normal", "human-annotated": "yes"}), "normal"),
        (job("a.png", 1, **{"class-name": "good", "type": "groundtruth"}), "normal"),
        (job("a.png", 0, **{"class-name": " NOT_OK "}), "anomaly"),
        (job("a.png", 1, **{"class-map": {"0": "bad", "1": "OK"}}), "normal"),
        (job("a.png", [0], **{"class-map": {"0": "Anomaly", "1": "OK"}}), "anomaly"),
        (job("a.png", 0, **{"class-name": 1}), "anomaly"),
        ({"source-ref": "a.png", "anomaly-label": 1}, "anomaly"),
        ({**line("a.png", "Good"), **job("a.png", 1, **{"class-name": "OK"})}, "normal"),
        ({**line("a.png", "Good"), **job("a.png", 1, **{"class-name": "left-side"})}, "normal"),
        (
            {
                **line("a.png", "Good"),
                **job("a.png", {"annotations": []}, **{"class-map": {"0": "bad"}}),
            },
            "normal",
        ),
        (
            {
                **line("a.png", "normal", "no"),
                **job("a.png", 1, **{"class-name": "bad", "human-annotated": "yes"}),
            },
            "anomaly",
        ),
    ],
)
def test_labels_of_every_job_are_read_as_they_are_meant(
    tmp_path: Path, entry: Dict[str, Any], label: str
) -> None:
    images(tmp_path, "a.png")
    assert LabelManifest.read(write(tmp_path, [entry]), ALL).paths(label) == (tmp_path / "a.png",)


def test_labels_that_are_not_understood_are_findings_of_the_error(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    differing = {**job("c.png", 0, **{"class-name": "ok"}), "job-metadata": {"class-name": "bad"}}
    lines = [line("a.png", "scratch"), line("b.png", "scratch"), differing, {"source-ref": "d.png"}]
    source = write(tmp_path, lines)
    with pytest.raises(InvalidConfiguration) as caught:
        evaluate(tmp_path / "model", source)
    with pytest.raises(InvalidConfiguration, match="holds no images") as of_training:
        dataset.find(source, False, ALL)
    for sentence in (str(caught.value), str(of_training.value)):
        assert f"4 images of {source} have no label that is understood" in sentence
        assert (
            f"2 images: the class-name 'scratch' isn't known (first: {tmp_path}/a.png)" in sentence
        )
        assert "1 image: the labels 'bad', 'ok' differ, of the jobs 'job', 'line-3'" in sentence
        assert "1 image: there is no class-name" in sentence
        assert "Understood are normal, good, ok" in sentence


def test_of_jobs_that_contradict_each_other_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (a,) = images(tmp_path, "a.png")
    adjusted = {**line("a.png", "good"), **job("a.png", 1, **{"class-name": "defect"})}
    source = write(tmp_path, [adjusted])
    (finding,) = LabelManifest.read(source, ALL).findings
    assert "the labels 'defect', 'good' differ, of the jobs 'anomaly-label', 'line-3'" in finding
    for name, label in (("line-3", "anomaly"), ("anomaly-label", "normal")):
        chosen = ManifestOptions(label_attribute=name)
        assert LabelManifest.read(source, chosen).paths(label) == (a,)
    for command in (["evaluate", str(tmp_path)], ["train", "--out", str(tmp_path / "out")]):
        assert main([*command, str(source), "--label-attribute", "line-4"]) == 2
        sentence = "there is no label attribute 'line-4', only 'anomaly-label', 'line-3'"
        assert sentence in capsys.readouterr().err


def test_boxes_are_no_class(tmp_path: Path) -> None:
    boxes = job("a.png", {"annotations": [{"class_id": 0}]}, **{"class-map": {"0": "bad"}})
    (finding,) = LabelManifest.read(write(tmp_path, [boxes]), ALL).findings
    assert "1 image: the label of job 'line-3' is no class (first:" in finding


def s3(*keys: str, bucket: str = "shop") -> List[Dict[str, Any]]:
    return [line(f"s3://{bucket}/{key}", "normal") for key in keys]


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        (["p/teil%201%C3%A4.png", "p/b+2.png"], ["p/teil 1ä.png", "p/b 2.png"]),
        (["p/a%20b.png"], ["p/a%20b.png"]),  # as it is, when that is there
        (["a/b/1.png", "a/b/c/1.png"], ["1.png", "c/1.png"]),  # s3://shop/a/b was downloaded
        (["a/b/1.png", "a/b/c/1.png"], ["b/1.png", "b/c/1.png"]),
        (["a/1.png", "b/1.png"], ["shop/a/1.png", "shop/b/1.png"]),
        (["/a/1.png"], ["a/1.png"]),
    ],
)
def test_what_was_downloaded_is_found(tmp_path: Path, keys: List[str], files: List[str]) -> None:
    there = images(tmp_path / "got", *files)
    read = LabelManifest.read(write(tmp_path, s3(*keys)), ManifestOptions(tmp_path / "got"))
    assert (read.paths("normal"), read.remarks) == (tuple(there), ())


def test_local_names_and_a_byte_order_mark_are_read_too(tmp_path: Path) -> None:
    there = images(tmp_path, "teil 1.png")
    source = write(tmp_path, [line("teil%201.png", "normal")])
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert LabelManifest.read(source, ALL).paths("normal") == tuple(there)


def test_images_of_two_buckets_are_never_one(tmp_path: Path) -> None:
    got = tmp_path / "got"
    images(got, "1.png")
    lines = [*s3("1.png"), line("s3://defects/1.png", "anomaly")]
    source = write(tmp_path, lines)
    sentence = refused(source, ManifestOptions(got))
    assert "s3://shop/1.png and s3://defects/1.png, which are two images" in sentence
    assert "aws s3 sync s3://defects FOLDER/defects; aws s3 sync s3://shop FOLDER/shop" in sentence
    good, bad = images(got, "shop/1.png", "defects/1.png")
    read = LabelManifest.read(source, ManifestOptions(got))
    assert (read.paths("normal"), read.paths("anomaly")) == ((good,), (bad,))


@pytest.mark.parametrize("prefix", ["s3://bk/", ""])
@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("a+b/c+d.png", "a+b/c d.png"), ("a b/c d.png", "a b/c+d.png")),
        (("p%2541.png", "p%41.png"), ("p%41.png",)),
        (("p%20q.png", "p q.png"), ("p q.png",)),
    ],
)
def test_two_names_in_one_place_are_never_one_image(
    tmp_path: Path, prefix: str, names: Tuple[str, str], files: Tuple[str, ...]
) -> None:
    images(tmp_path, *files)
    labels = ("normal", "anomaly")
    lines = [line(prefix + name, label) for name, label in zip(names, labels)]
    sentence = refused(write(tmp_path, lines), ManifestOptions(tmp_path))
    assert f"{prefix}{names[0]} and {prefix}{names[1]}, which are two images" in sentence
    assert "Let each file have the very name that stands in the manifest." in sentence


@pytest.mark.parametrize("name", ["s3://", "s3://bk", "s3:///1.png"])
def test_what_names_no_object_is_refused(tmp_path: Path, name: str) -> None:
    assert f"'{name}', which is no image in S3" in refused(write(tmp_path, [line(name, "normal")]))


def test_equal_names_in_two_folders_of_a_bucket_are_never_one(tmp_path: Path) -> None:
    images(tmp_path / "got", "1.png")  # of which?
    source = write(tmp_path, s3("a/1.png", "b/1.png"))
    assert "can't be seen. Download it with all its folders" in refused(
        source, ManifestOptions(tmp_path / "got")
    )


def test_a_folder_of_downloads_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = ManifestOptions(tmp_path / "gto")
    assert "gto isn't a folder" in refused(write(tmp_path, s3("1.png")), options)


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
