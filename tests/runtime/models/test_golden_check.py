"""No engine serves that doesn't give back what the model gave when it was made."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.errors import InferenceFailed, InvalidPackage, ParityFailed
from edge_agent.manifest import FileEntry, Manifest, parse
from edge_agent.runtime.backends import catalog
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.picture_files import png
from edge_agent.types import Bitmap, DetectRequest, ModelState, Prediction
from tests.fakes import golden, micro
from tests.fakes.device import ENGINE, Device

TASKS = ("classification", "anomaly_map", "segmentation")
WRONG = ("swapped", "unscaled", "coarse")


@pytest.fixture(autouse=True)
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalog know the faulty engines as well."""
    for name, path in golden.ENGINES.items():
        monkeypatch.setitem(catalog.CLASSES, name, path)
    golden.Faulty.opened.clear()
    golden.Faulty.closed.clear()


def device(folder: Path, *engines: str, **settings: Any) -> Device:
    """Return a device that tries these engines in turn."""
    return Device(folder, engine=ENGINE.model_copy(update={"backends": engines, **settings}))


def check(package: Path, engine: str) -> None:
    opened = Package(package)
    options = BackendOptions(threads=1, cpu_batches=True)
    backend = catalog.open_named(engine, opened.read_model(), opened.manifest, options)
    try:
        golden_check.check(backend, opened.manifest, golden_check.read_pictures(opened))
    finally:
        backend.close()


def change(package: Path, **values: Any) -> None:
    file = package / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def replace_picture(package: Path, content: bytes) -> None:
    """Put another file, listed as it is, in the place of the first picture."""
    (package / "golden" / "0.png").write_bytes(content)
    entry = FileEntry.of("golden/0.png", content).model_dump()
    files = json.loads((package / "manifest.json").read_text())["files"]
    change(package, files=[entry if file["path"] == entry["path"] else file for file in files])


def judge(served: Device, model: str, picture: np.ndarray) -> Prediction:
    return served.detector.detect(DetectRequest(model, Bitmap(64, 64, picture.tobytes())))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", ["onnxruntime", "half"])
def test_an_engine_that_is_right_passes(task: str, engine: str, tmp_path: Path) -> None:
    check(golden.write(tmp_path / "p", task), engine)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", WRONG)
def test_an_engine_that_is_wrong_fails(task: str, engine: str, tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", task)
    with pytest.raises(ParityFailed, match=f"{engine} on CPU gives other results"):
        check(package, engine)


@pytest.mark.parametrize("task", ["anomaly_map", "segmentation"])
def test_a_right_score_at_the_wrong_place_is_seen_in_the_map(task: str, tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", task)
    with pytest.raises(ParityFailed) as caught:
        check(package, "moved")
    lines = caught.value.table.splitlines()[1:]
    assert lines
    assert all(" map of " in line for line in lines)


def test_frames_mixed_up_in_a_batch_are_seen(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "classification")
    with pytest.raises(ParityFailed) as caught:
        check(package, "mixed")
    lines = caught.value.table.splitlines()[1:]
    assert len(lines) == 4  # verdict and score of both
    assert all(" in a batch " in line for line in lines)


def test_an_engine_that_gives_no_numbers_fails(tmp_path: Path) -> None:
    for task in TASKS:
        with pytest.raises(InferenceFailed, match=r"\(NaN\)"):
            check(golden.write(tmp_path / task, task), "numberless")


def test_a_map_without_numbers_beside_a_right_score_fails(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(micro.manifest("anomaly_map", b""))
    outputs = {"score": np.array([0.2]), "map": np.full((1, 1, 16, 16), np.nan, np.float32)}
    with pytest.raises(InferenceFailed, match="map isn't made of numbers"):
        golden_check.GoldenResult.of(outputs, 0, manifest)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_reads_back_within_half_a_step(task: str) -> None:
    grids = {"classification": 0, "anomaly_map": 1, "segmentation": 2}[task]
    values = np.random.default_rng(0).random((grids, 8, 8))
    sample = golden_check.GoldenResult(0.25, False, values).to_sample("golden/0.png")
    back = golden_check.GoldenResult.of_sample(sample)
    assert (back.score, back.anomalous, back.grids.shape) == (0.25, False, values.shape)
    assert np.all(np.abs(back.grids - values) <= golden_check.HALF_A_STEP + 1e-12)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (17, 9), (5, 3), (1, 1)])
def test_every_value_of_a_map_of_any_size_counts(height: int, width: int) -> None:
    manifest = Manifest.model_validate(micro.manifest("anomaly_map", b""))
    zeros = np.zeros((1, 1, height, width), np.float32)
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        values = zeros.copy()
        values[0, 0, row, column] = 1.0
        outputs = {"score": np.array([0.2]), "map": values}
        grid = golden_check.GoldenResult.of(outputs, 0, manifest).grids[0]
        assert grid.shape == (8, 8)
        assert grid.max() > 0.0
    if (height, width) == (64, 64):
        assert grid[7, 7] == 1.0 / 64.0


def test_a_calibrated_map_is_kept_as_it_is_shown() -> None:
    decision = {"calibration": {"scale": 2.0, "shift": -3.0}}
    manifest = Manifest.model_validate(micro.manifest("anomaly_map", b"", decision=decision))
    outputs = {"score": np.array([0.0]), "map": np.full((1, 1, 8, 8), 1.0, np.float32)}
    outputs["map"][0, 0, 0] = 1e30
    grid = golden_check.GoldenResult.of(outputs, 0, manifest).grids[0]
    assert np.allclose(grid[1:], 1.0 / (1.0 + np.exp(1.0)))
    assert np.all(grid[0] == 1.0)


def test_a_model_that_gives_its_results_back_says_so(tmp_path: Path) -> None:
    golden.write(tmp_path / "packages" / "m", "anomaly_map")
    with device(tmp_path, "onnxruntime") as served:
        served.record("m")
        served.run("m")
        assert "Reproduces 2 golden samples." in served.detector.describe("m").message


def test_a_package_without_golden_samples_runs_and_says_nothing_of_them(tmp_path: Path) -> None:
    micro.write(tmp_path / "packages" / "m", "anomaly_map")
    with device(tmp_path, "swapped") as served:
        served.record("m")
        served.run("m")
        assert "golden" not in served.detector.describe("m").message


def test_another_reference_refuses_the_model_with_a_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = golden.write(tmp_path / "packages" / "m", "anomaly_map")
    samples = json.loads((package / "manifest.json").read_text())["golden"]
    samples[0]["score"] += 0.002
    change(package, golden=samples)
    with device(tmp_path, "onnxruntime") as served:
        served.record("m")
        served.detector.start("m")
        served.wait("m", ModelState.FAILED)
        message = served.detector.describe("m").message
    wanted, got = f"{samples[0]['score']:.4f}", f"{samples[0]['score'] - 0.002:.4f}"
    assert message == (
        "onnxruntime on CPU gives other results than the model's own for 1 of 2 golden samples: "
        f"score of golden/0.png is {got}, not {wanted}; "
        f"score in a batch of golden/0.png is {got}, not {wanted}."
    )
    lines = [line for line in caplog.messages if line.startswith("m: ")]
    assert [line.split()[1:] for line in lines] == [
        ["sample", "what", "reference", "got", "tolerance"],
        ["golden/0.png", "score", wanted, got, "0.001"],
        ["golden/0.png", "score", "in", "a", "batch", wanted, got, "0.001"],
    ]


def test_the_worst_differences_are_named_and_the_others_counted(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "segmentation")
    with pytest.raises(ParityFailed) as caught:
        check(package, "swapped")
    head, _, listed = str(caught.value).partition(" golden samples: ")
    named = listed.split("; ")
    rows = caught.value.table.splitlines()[1:]
    assert head == "swapped on CPU gives other results than the model's own for 2 of 2"
    assert len(rows) > 5
    assert named[5:] == [f"and {len(rows) - 5} more", "the log has all."]
    sizes = [1.0 if each.startswith("verdict") else apart(each) for each in named[:5]]
    assert sizes == sorted(sizes, reverse=True)
    assert "\n" not in str(caught.value)


def apart(difference: str) -> float:
    """How far it is from ... is 0.1, not 0.2."""
    got, wanted = difference.rsplit(" is ", 1)[1].split(", not ")
    return abs(float(got) - float(wanted))


def test_a_difference_within_the_tolerance_is_let_pass(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "classification", runtime={"parity_tolerance": 0.01})
    samples = json.loads((package / "manifest.json").read_text())["golden"]
    for shift, passes in ((0.009, True), (0.011, False)):
        moved = [{**sample, "score": sample["score"] + shift} for sample in samples]
        change(package, golden=moved)
        if passes:
            check(package, "onnxruntime")
        else:
            with pytest.raises(ParityFailed):
                check(package, "onnxruntime")


def test_the_next_engine_serves_when_one_computes_wrongly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden.write(tmp_path / "packages" / "m", "anomaly_map")
    with device(tmp_path, "missing", "failing", "swapped", "onnxruntime") as served:
        served.record("m")
        served.run("m")
        right = judge(served, "m", golden.BAD)
        message = served.detector.describe("m").message
    assert right.score == pytest.approx(230 / 255)
    assert right.is_anomalous
    assert "onnxruntime on CPU" in message
    assert "Reproduces 2 golden samples." in message
    assert "Not on swapped: swapped on CPU gives other results" in message
    assert "Not on failing: The engine is out of its mind." in message
    assert "missing" not in message  # an engine that isn't here is no news
    assert any("Model m isn't served by swapped: swapped " in line for line in caplog.messages)
    assert sorted(golden.Faulty.closed) == sorted(golden.Faulty.opened) == ["Failing", "Swapped"]


def test_with_no_engine_left_the_model_fails_with_each_ones_reason(tmp_path: Path) -> None:
    golden.write(tmp_path / "packages" / "m", "segmentation")
    with device(tmp_path, "missing", "coarse", "failing") as served:
        served.record("m")
        served.detector.start("m")
        served.wait("m", ModelState.FAILED)
        message = served.detector.describe("m").message
    assert message.startswith("No engine can run the model. missing: Its library isn't installed. ")
    assert "coarse: coarse on CPU gives other results than the model's own for 2 of 2" in message
    assert message.endswith("failing: The engine is out of its mind.")


def test_further_units_are_of_the_engine_that_passed(tmp_path: Path) -> None:
    golden.write(tmp_path / "packages" / "m", "anomaly_map")
    with device(tmp_path, "swapped", "half", min_inference_units=2) as served:
        served.record("m")
        served.run("m")
        served.registry.find("m").serving().selected.another().close()
        assert golden.Faulty.opened == ["Swapped", "Half", "Half", "Half"]


def test_the_packages_own_decision_is_compared(tmp_path: Path) -> None:
    golden.write(tmp_path / "packages" / "m", "anomaly_map")
    with device(tmp_path, "onnxruntime") as served:
        served.record("m", decision={"threshold": 0.99, "calibration": None})
        served.run("m")
        assert not judge(served, "m", golden.BAD).is_anomalous


def test_a_newer_package_that_no_engine_reproduces_leaves_the_old_one_serving(
    tmp_path: Path,
) -> None:
    micro.write(tmp_path / "packages" / "m", "anomaly_map")
    golden.write(tmp_path / "packages" / "newer", "anomaly_map", version="2")
    with device(tmp_path, "swapped") as served:
        served.record("m")
        served.run("m")
        served.record("m", package=str(tmp_path / "packages" / "newer"))
        message = served.detector.describe("m").message
        assert message.startswith("Version 1, ")
        assert "A newer package was refused: swapped on CPU gives other results" in message
        assert judge(served, "m", golden.BAD).model_version == "1"


def bomb(side: int) -> bytes:
    """A PNG that says it is large and is short."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1 << 20))
    chunks = [header, data, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def unusable() -> Iterator[Tuple[str, bytes, str]]:
    yield "bomb", bomb(60000), "it has 60000x60000 pixels of 8 bits and colour type 2; expected 64"
    yield "small", png(golden.GOOD[:32]), "it has 64x32 pixels"
    yield "grey", cv2.imencode(".png", golden.GOOD[..., 0])[1].tobytes(), "colour type 0"
    deep = cv2.imencode(".png", golden.GOOD.astype(np.uint16) * 257)[1].tobytes()
    yield "deep", deep, "of 16 bits"
    yield "jpeg", cv2.imencode(".jpg", golden.GOOD)[1].tobytes(), "it isn't a PNG"
    yield "empty", b"", "it isn't a PNG"
    yield "headless", png(golden.GOOD)[:18], "it has 0x"
    yield "cut", png(golden.GOOD)[:2000], "it is damaged"


UNUSABLE = list(unusable())


@pytest.mark.parametrize(("content", "why"), [each[1:] for each in UNUSABLE],
                         ids=[each[0] for each in UNUSABLE])  # fmt: skip
def test_a_picture_that_cant_be_used_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "anomaly_map")
    replace_picture(package, content)
    with pytest.raises(
        InvalidPackage, match=r"golden sample golden/0.png can't be used: "
    ) as caught:
        golden_check.read_pictures(Package(package))
    assert why in str(caught.value)


def test_a_picture_altered_by_one_bit_is_refused(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "anomaly_map")
    file = package / "golden" / "1.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(InvalidPackage, match=r"golden/1\.png was altered or damaged"):
        golden_check.read_pictures(Package(package))


def test_pictures_read_back_as_they_were(tmp_path: Path) -> None:
    package = golden.write(tmp_path / "p", "anomaly_map")
    pictures: List[np.ndarray] = golden_check.read_pictures(Package(package))
    assert len(pictures) == 2
    assert np.array_equal(pictures[0], golden.GOOD)
    assert np.array_equal(pictures[1], golden.BAD)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"image": "golden/7.png"}, "files must list golden/7.png"),
        ({"map": None}, "has 0 bytes; a model of this task and these classes needs 64"),
        ({"map": "AAAA"}, "has 3 bytes"),
        ({"map": "AAA"}, "padding"),
    ],
)
def test_a_golden_sample_that_cant_be_compared_is_refused(
    values: Any, why: str, tmp_path: Path
) -> None:
    package = golden.write(tmp_path / "p", "anomaly_map")
    samples = json.loads((package / "manifest.json").read_text())["golden"]
    change(package, golden=[{**samples[0], **values}])
    with pytest.raises(InvalidPackage, match=why):
        parse((package / "manifest.json").read_bytes())
