"""Micro models whose score is the mean of red, on pictures of one red and a stripe of blue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.client import images
from edge_agent.evaluation import robustness
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.evaluation.robustness import RobustnessRow, RobustnessTable, measure
from edge_agent.fields import read_json
from edge_agent.manifest import InputSpec
from edge_agent.pictures.disturbances import DISTURBANCES
from edge_agent.runtime.system import resources
from edge_agent.runtime.vision.light import measure as measure_light
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Frame
from tests.fakes import micro

GOOD, BAD = (0.2, 0.46, 0.46, 0.46, 0.46, 0.6), (0.52, 0.52, 0.52, 0.52, 0.4, 0.9)  # red


def draw(red: float, size: Tuple[int, int] = (80, 100)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = round(255 * red)
    image[30:50, :, 2] = 255
    return image


def write(folder: Path, reds: Sequence[float], size: Tuple[int, int] = (80, 100)) -> List[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(len(reds))]
    for path, red in zip(paths, reds):
        images.save(path, draw(red, size))
    return paths


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return micro.write(tmp_path / "model", "classification")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "images" / "normal", GOOD)
    write(tmp_path / "images" / "anomaly", BAD)
    return tmp_path / "images"


def rows(table: RobustnessTable, name: str) -> List[RobustnessRow]:
    return [row for row in table.rows if row.disturbance == name]


def measured(model: Path, folder: Path) -> RobustnessTable:
    good, bad = (sorted((folder / label).iterdir()) for label in ("normal", "anomaly"))
    return measure(model, good, bad)


def test_the_first_row_has_the_figures_of_the_evaluation(model: Path, folder: Path) -> None:
    report, table = evaluate(model, folder), measured(model, folder)
    as_taken = table.rows[0]
    assert (as_taken.disturbance, as_taken.strength, as_taken.change) == ("as taken", None, "")
    assert as_taken.overkill == pytest.approx(report.false_alarms / 6, abs=1e-4) == 0.1667
    assert as_taken.escape == pytest.approx(report.missed / 6, abs=1e-4) == 0.1667
    assert as_taken.auroc == pytest.approx(report.image_auroc, abs=1e-4)
    assert (as_taken.overkill_rise, as_taken.escape_rise) == (0.0, 0.0)
    assert (table.count_normal, table.count_anomaly) == (6, 6)


def test_each_disturbance_has_a_row_for_each_strength(model: Path, folder: Path) -> None:
    table = measured(model, folder)
    names = [(row.disturbance, row.strength) for row in table.rows[1:]]
    assert names == [(each.name, value) for each in DISTURBANCES for value in each.strengths]
    assert rows(table, "JPEG")[1].change == "quality lower by 50"


def test_verdicts_change_as_the_light_does(model: Path, folder: Path) -> None:
    weak, usual, strong = rows(measured(model, folder), "brightness")
    # 0.46 becomes 0.48, 0.51, 0.55 where it gets brighter; 0.52 is 0.49 where it is 5 % darker
    assert (weak.overkill, weak.overkill_rise) == (0.1667, 0.0)
    assert usual.overkill is not None
    assert usual.overkill_rise == pytest.approx(usual.overkill - 0.1667, abs=1e-3)
    assert usual.overkill_rise > 0.0
    assert weak.escape_rise is not None
    assert 0.0 < weak.escape_rise < 0.6667
    assert strong.auroc is not None
    assert strong.auroc < measured(model, folder).rows[0].auroc  # type: ignore[operator]


def test_light_that_the_training_did_not_see_counts_as_the_agent_calls_it(tmp_path: Path) -> None:
    """The check of the camera's pictures leaves 12 levels: 5 % of this light are 8, 10 % are 16."""
    light = np.zeros((80, 100, 3), np.uint8)
    light[..., 0], light[..., 1] = 102, 220
    light[30:50, :, 2] = 255
    brightness = measure_light(light).brightness
    known = {"brightness": [brightness, brightness]}
    package = micro.write(tmp_path / "model", "classification", statistics=known)
    images.save(tmp_path / "good.png", light)
    changed = rows(measure(package, [tmp_path / "good.png"], []), "brightness")
    assert [each.overkill for each in changed] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("threads", [1, 3])
def test_one_set_gives_one_table_however_many_threads_compute(
    model: Path, folder: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = measured(model, folder)
    monkeypatch.setattr(resources, "cores", lambda: threads)
    assert measured(model, folder) == once


def test_without_bad_pictures_what_escapes_stays_open(model: Path, folder: Path) -> None:
    table = measure(model, sorted((folder / "normal").iterdir()), [])
    assert {(row.escape, row.escape_rise, row.auroc) for row in table.rows} == {(None, None, None)}
    assert table.count_anomaly == 0
    assert rows(table, "brightness")[2].overkill is not None


def test_a_table_reads_back_from_json(model: Path, folder: Path) -> None:
    table = measured(model, folder)
    assert read_json(RobustnessTable, table.model_dump_json().encode()) == table


@pytest.mark.parametrize("size", [(80, 100), (129, 200), (130, 131), (600, 331), (1024, 640)])
@pytest.mark.parametrize("target", [(64, 64), (64, 128)])
def test_a_large_picture_is_halved_as_preprocessing_does_and_keeps_its_shape(
    size: Tuple[int, int], target: Tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    spec = InputSpec(tensor="image", height=target[0], width=target[1])
    smaller = robustness.halved(pixels, spec)
    slots = [np.empty((*target, 3), np.uint8) for _ in range(2)]
    for given, slot in zip((pixels, smaller), slots):
        write_input(Frame(given), spec, slot)
    assert np.array_equal(*slots)
    height, width = smaller.shape[:2]
    assert width / height == pytest.approx(size[1] / size[0], rel=0.02)
    assert height <= 2 * target[0] or width <= 2 * target[1]


def test_pictures_of_16_bits_a_channel_are_read_as_training_read_them(tmp_path: Path) -> None:
    deep = micro.write(tmp_path / "model", "classification", statistics={"image_bits": 12})
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:  # 12 bits: a red of 0.45
        assert cv2.imwrite(str(path), draw(0.45)[..., ::-1].astype(np.uint16) * 16)
    table = measure(deep, paths, [])
    assert table.rows[0].overkill == 0.0
    assert rows(table, "brightness")[2].overkill in (0.3333, 0.6667, 1.0)


@pytest.mark.parametrize("task", ["anomaly_map", "segmentation"])
def test_models_with_maps_are_judged_too(task: str, folder: Path, tmp_path: Path) -> None:
    table = measured(micro.write(tmp_path / "model", task), folder)
    assert (table.count_normal, table.count_anomaly) == (6, 6)
    assert rows(table, "dead columns")[2].auroc is not None


def test_a_model_of_floats_with_channels_first_is_judged_too(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    planes = planes_model(tmp_path / "planes")
    assert rows(measured(planes, folder), "shift") == rows(measured(model, folder), "shift")


def planes_model(folder: Path) -> Path:
    """The same model, for float32 (N, 3, H, W) of 0 to 1."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Slice", ["image", "zero", "one", "one"], ["red"]),
        helper.make_node("ReduceMean", ["red"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    content = helper.make_model(
        helper.make_graph(
            nodes,
            "planes",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 64, 64])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])],
            [
                helper.make_tensor(name, TensorProto.INT64, [1], [value])
                for name, value in (("zero", 0), ("one", 1))
            ],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    ).SerializeToString()
    spec = {"layout": "NCHW", "dtype": "float32", "scale": 1 / 255}
    return micro.write(
        folder,
        "classification",
        content,
        input={"tensor": "image", "height": 64, "width": 64, **spec},
    )


def test_pictures_of_another_size_than_a_strict_model_takes_are_left_out(
    folder: Path, tmp_path: Path
) -> None:
    strict = {"tensor": "image", "height": 64, "width": 64, "strict_size": True}
    package = micro.write(tmp_path / "model", "classification", input=strict)
    write(folder / "normal", GOOD[:2], (64, 64))
    table = measured(package, folder)
    assert (table.count_normal, table.count_anomaly) == (2, 0)


def row(name: str, overkill: Optional[float], escape: Optional[float] = None) -> RobustnessRow:
    return RobustnessRow(
        disturbance=name, strength=1, change="1 px", overkill=overkill, overkill_rise=overkill,
        escape=escape, escape_rise=escape, auroc=None,
    )  # fmt: skip


def advice(*found: RobustnessRow) -> str:
    as_taken = row("as taken", 0.0, 0.0)
    return RobustnessTable(
        images="test", count_normal=9, count_anomaly=9, rows=(as_taken, *found)
    ).advice()


def test_the_advice_names_what_harms_most_and_what_to_do() -> None:
    said = advice(row("blur", 0.3, 0.0), row("shift", 0.1, 0.305), row("noise", 0.2))
    assert said.startswith(
        "What harms most is shift (1 px): overkill rises by 10 points and escape rises by 30.5 "
        "points. Take pictures of parts that lie differently"
    )
    weak = advice(row("blur", 0.3), row("blur", 0.3), row("noise", 0.0), row("noise", 0.3))
    assert weak.startswith("What harms most is blur")
    assert "calibrate" in advice(row("brightness", 0.1))
    assert advice(row("blur", 0.0), row("noise", -0.1, 0.0)).startswith("None of these")


def test_there_is_a_remedy_for_each_disturbance() -> None:
    assert set(robustness.REMEDIES) == {each.name for each in DISTURBANCES}


def test_the_command_prints_the_table_when_it_is_asked_for(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(model), str(folder)]) == 0
    assert "brightness" not in capsys.readouterr().out
    assert main(["evaluate", str(model), str(folder), "--robustness"]) == 0
    printed = capsys.readouterr().out
    assert "as taken" in printed
    assert "dead columns" in printed
    assert "What harms most is " in printed


def test_the_command_writes_the_rows_as_json(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(model), str(folder), "--json"]) == 0
    assert "robustness" not in json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(model), str(folder), "--json", "--robustness"]) == 0
    figures: Dict[str, List[Dict[str, object]]] = json.loads(capsys.readouterr().out)
    assert len(figures["robustness"]) == 31
    assert figures["robustness"][0]["disturbance"] == "as taken"
    assert set(figures["robustness"][4]) == {
        "disturbance", "strength", "change", "overkill", "overkill_rise", "escape", "escape_rise",
        "auroc",
    }  # fmt: skip
