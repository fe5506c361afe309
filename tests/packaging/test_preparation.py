"""What a target needs in the package: build settings, calibration and golden pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.packaging import archive
from edge_agent.packaging.draft import PackageDraft, open_draft
from edge_agent.packaging.graph.engine import Tuning
from edge_agent.packaging.graph.findings import GraphFinding
from edge_agent.packaging.preparation import Preparation
from edge_agent.packaging.target import Target, parse
from edge_agent.runtime.packages.graph_choice import instruction_set
from edge_agent.runtime.packages.package import Package
from edge_agent.targets import Profile
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.graph.test_optimise import target as target_here


def pictures(folder: Path, count: int, size: Tuple[int, int] = (80, 100)) -> Path:
    """Images whose red rises from picture to picture."""
    folder.mkdir()
    for index in range(count):
        picture = np.full((*size, 3), (10, 20, index), np.uint8)  # OpenCV's order: blue first
        cv2.imwrite(str(folder / f"{index:04}.png"), picture)
    return folder


def prepared(
    package: Path,
    target: Target,
    preparation: Preparation = Preparation(),  # noqa: B008
) -> Tuple[PackageDraft, List[GraphFinding]]:
    told: List[GraphFinding] = []
    return preparation.apply(open_draft(package, None), target, told.append), told


def package(folder: Path, task: str = "classification", **changes: Any) -> Path:
    return micro.write(folder / "model", task, **changes)


def test_an_nvidia_target_gets_a_profile_for_each_batch_size(tmp_path: Path) -> None:
    runtime = {"batch_sizes": [8, 1, 4], "precision": "fp16"}
    draft, _ = prepared(package(tmp_path, runtime=runtime), graphs.gpu("8.5.2"))

    build = draft.manifest.build
    assert build is not None
    item = (64, 64, 3)
    assert [(one.minimum, one.optimum, one.maximum) for one in build.profiles] == [
        ((1, *item), (1, *item), (1, *item)),
        ((2, *item), (4, *item), (4, *item)),
        ((5, *item), (8, *item), (8, *item)),
    ]
    assert {one.tensor for one in build.profiles} == {"image"}
    assert (build.precision, build.quantised, build.calibration) == ("fp16", False, ())
    assert build.timing_cache == "timing-sm_72-8.5.2.cache"


def test_what_tensorrt_is_asked_for_stands_in_the_settings(tmp_path: Path) -> None:
    folder, tuning = package(tmp_path), Tuning(0, True, True)
    target = graphs.gpu("10.3.0")

    draft, _ = prepared(folder, target, Preparation(tuning=tuning))
    plain, _ = prepared(folder, target)

    assert told(draft) == (0, True, True)
    assert told(plain) == (None, False, False)


def told(draft: PackageDraft) -> Tuple[Any, ...]:
    build = draft.manifest.build
    assert build is not None
    return build.optimisation_level, build.hardware_compatible, build.version_compatible


REFUSED = [
    (Tuning(0), "8.5.2", "sm_72", r"--optimisation-level can't.* trt-ver is 8\.5\.2, .*since 8\.6"),
    (Tuning(3, True, True), "8.5.2", "sm_86", "level and --hardware-compatible and --version-comp"),
    (Tuning(None, True), "10.3.0", "sm_75", "engines of sm_75 fit that GPU only"),
    (Tuning(None, True), "10.3.0", "sm_87", "not on Jetson"),
    (Tuning(None, False, True), "8.6.1", "sm_61", "since sm_70"),
]
TAKEN = [
    (Tuning(5), "8.6.1", "sm_61"), (Tuning(None, True), "8.6.1", "sm_80"),
    (Tuning(None, True, True), "11.4.0", "sm_120"), (Tuning(None, False, True), "10.3.0", "sm_87"),
    (Tuning(), "8.5.2", "sm_72"),
]  # fmt: skip


@pytest.mark.parametrize(("tuning", "trt_ver", "code", "why"), REFUSED)
def test_what_the_target_can_not_build_is_refused(
    tuning: Tuning, trt_ver: str, code: str, why: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=why):
        tuning.check(gpu_target(trt_ver, code))


@pytest.mark.parametrize(("tuning", "trt_ver", "code"), TAKEN)
def test_what_it_can_build_is_taken(tuning: Tuning, trt_ver: str, code: str) -> None:
    tuning.check(gpu_target(trt_ver, code))


def gpu_target(trt_ver: str, code: str) -> Target:
    options = {"gpu-code": code, "trt-ver": trt_ver, "cuda-ver": "12.6"}
    return parse(None, "os=LINUX,arch=X86_64,accelerator=NVIDIA", json.dumps(options))


def test_a_cpu_builds_no_engine() -> None:
    with pytest.raises(InvalidConfiguration, match="only NVIDIA targets build a TensorRT engine"):
        Tuning(3).check(parse(None, "os=LINUX,arch=X86_64", None))


def test_a_fixed_batch_has_one_profile_of_just_that(tmp_path: Path) -> None:
    made = onnx.load_model_from_string(micro.graph("classification"))
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    draft, _ = prepared(package(tmp_path, model=made.SerializeToString()), graphs.gpu("8.5.2"))

    (profile,) = draft.manifest.build.profiles if draft.manifest.build else ()
    assert profile.minimum == profile.maximum == (4, 64, 64, 3)


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 64, 64)])
def test_a_profile_whose_shapes_do_not_rise_is_no_profile(shape: Tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="in rising order"):
        Profile(tensor="x", minimum=shape, optimum=(1, 64, 64, 3), maximum=(1, 64, 64, 3))


def test_the_target_stands_in_the_manifest_in_the_words_of_the_api(tmp_path: Path) -> None:
    on_gpu, _ = prepared(package(tmp_path), graphs.gpu("8.6.1"))
    on_cpu, _ = prepared(package(tmp_path), graphs.CPU)

    spec = on_gpu.manifest.target
    assert spec is not None
    assert (spec.os, spec.arch, spec.accelerator) == ("LINUX", "ARM64", "NVIDIA")
    assert (spec.gpu_code, spec.trt_ver, spec.cuda_ver) == ("sm_72", "8.6.1", "11.4")
    assert on_cpu.manifest.target is not None
    assert on_cpu.manifest.target.mcpu == "core-avx2"
    assert on_cpu.manifest.build is None


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    broken = package(tmp_path, input={"tensor": "image", "height": 128, "width": 64})

    with pytest.raises(InvalidPackage) as caught:
        prepared(broken, graphs.gpu("8.5.2"), Preparation(precision="int8"))

    assert "images of 128x64" in str(caught.value)
    assert "int8 needs the ranges" in str(caught.value)


def test_calibration_pictures_travel_at_the_models_size(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "normal", 30)
    (folder / "notes.txt").write_text("no picture")
    preparation = Preparation(precision="int8", calibration_images=folder)

    draft, told = prepared(package(tmp_path), graphs.gpu("8.5.2"), preparation)

    build = draft.manifest.build
    assert build is not None
    assert build.calibration == tuple(f"calibration/{index:03}.png" for index in range(30))
    assert draft.manifest.runtime.precision == build.precision == "int8"
    for index, path in enumerate(build.calibration):  # in the order of their names
        picture = cv2.imdecode(np.frombuffer(draft.read(path), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (64, 64, 3)
        assert picture[32, 32].tolist() == [10, 20, index]
    assert [one.text for one in told if one.severity == "warning"] == [
        "30 calibration pictures are few; int8 ranges of 100 or more are steadier."
    ]
    archive.write(tmp_path / "model.zip", draft)
    assert Package(tmp_path / "model.zip").manifest.build == build


def test_of_too_many_pictures_some_are_taken_evenly(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "normal", 1000, (64, 64))
    preparation = Preparation(precision="int8", calibration_images=folder)

    draft, _ = prepared(package(tmp_path), graphs.gpu("8.5.2"), preparation)

    assert draft.manifest.build is not None
    assert len(draft.manifest.build.calibration) == 500


def test_a_folder_of_training_images_is_searched_to_the_bottom(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    pictures(tmp_path / "parts" / "anomaly", 2)
    normal = pictures(tmp_path / "parts" / "normal", 3)
    (normal / "._0001.png").write_bytes(b"of macOS")
    (normal / "cut.png").write_bytes((normal / "0001.png").read_bytes()[:-4])
    preparation = Preparation(precision="int8", calibration_images=tmp_path / "parts")

    draft, told = prepared(package(tmp_path), graphs.gpu("8.5.2"), preparation)

    assert draft.manifest.build is not None
    assert len(draft.manifest.build.calibration) == 5
    assert any("cut.png is left out: it is cut short" in one.text for one in told)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    empty = pictures(tmp_path / "normal", 0)
    for folder, words in ((empty, "has no images"), (tmp_path / "none", "isn't a folder")):
        with pytest.raises(InvalidConfiguration, match=words):
            prepared(package(tmp_path), graphs.CPU, Preparation(calibration_images=folder))


def test_a_manifest_that_names_files_the_package_lacks_is_refused(tmp_path: Path) -> None:
    draft, _ = prepared(package(tmp_path), graphs.gpu("8.5.2"))
    assert draft.manifest.build is not None
    build = draft.manifest.build.model_copy(update={"calibration": ("calibration/000.png",)})

    with pytest.raises(InvalidPackage, match=r"files must list calibration/000\.png"):
        archive.write(tmp_path / "model.zip", draft.change(build=build))


def test_the_optimised_graph_travels_beside_the_portable_one(tmp_path: Path) -> None:
    here = target_here(instruction_set())
    draft, _ = prepared(package(tmp_path, "anomaly_map"), here, Preparation(optimise=True))

    optimised = draft.manifest.optimised
    assert optimised is not None
    assert optimised.path == "model.optimised.onnx"
    assert draft.read("model.onnx") == micro.graph("anomaly_map")
    assert onnx.load_model_from_string(draft.read(optimised.path)).graph.node
    archive.write(tmp_path / "model.zip", draft)
    assert Package(tmp_path / "model.zip").read(optimised.path) == draft.read(optimised.path)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.001), ("fp16", 0.05)])
def test_a_coarser_precision_may_round(tmp_path: Path, precision: Any, tolerance: float) -> None:
    draft, _ = prepared(package(tmp_path), graphs.gpu("8.5.2"), Preparation(precision=precision))

    assert draft.manifest.runtime.parity_tolerance == tolerance


@pytest.mark.parametrize(
    ("runtime", "tolerance"),
    [
        ({"precision": "fp16"}, 0.05),
        ({"precision": "fp16", "parity_tolerance": 0.2}, 0.2),
        ({"precision": "fp32", "parity_tolerance": 0.0002}, 0.0002),
    ],
)
def test_a_precision_of_the_manifest_may_round_as_well(
    tmp_path: Path, runtime: Dict[str, Any], tolerance: float
) -> None:
    draft, _ = prepared(package(tmp_path, runtime=runtime), graphs.gpu("8.5.2"))

    assert draft.manifest.runtime.precision == runtime["precision"]
    assert draft.manifest.runtime.parity_tolerance == tolerance


def test_a_package_without_golden_samples_is_told_how_to_get_them(tmp_path: Path) -> None:
    _, told = prepared(package(tmp_path), graphs.CPU)

    assert any("--golden-images FOLDER adds them" in one.text for one in told)


def test_golden_pictures_are_judged_here_and_travel(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "normal", 2)
    preparation = Preparation(golden_images=folder)

    draft, told = prepared(package(tmp_path, "anomaly_map"), graphs.CPU, preparation)

    red, black = draft.manifest.golden  # the nearest to the threshold first
    assert (red.score, black.score) == pytest.approx((1 / 255, 0.0), abs=1e-6)
    archive.write(tmp_path / "model.zip", draft)
    packaged = Package(tmp_path / "model.zip")
    encoded = np.frombuffer(packaged.read(packaged.manifest.golden[0].image), np.uint8)
    assert cv2.imdecode(encoded, cv2.IMREAD_COLOR)[32, 32].tolist() == [10, 20, 1]
    assert not any("golden samples" in one.text for one in told)


def test_golden_samples_a_package_has_are_not_replaced(tmp_path: Path) -> None:
    preparation = Preparation(golden_images=pictures(tmp_path / "normal", 1))
    draft, _ = prepared(package(tmp_path), graphs.CPU, preparation)

    with pytest.raises(InvalidConfiguration, match="has golden samples already"):
        preparation.apply(draft, graphs.CPU, lambda finding: None)


def test_pictures_that_are_all_near_the_threshold_are_refused(tmp_path: Path) -> None:
    model = package(tmp_path, decision={"threshold": 0.01})
    preparation = Preparation(golden_images=pictures(tmp_path / "normal", 3))

    with pytest.raises(InvalidConfiguration, match=r"None of the 3 images in .* is far enough"):
        prepared(model, graphs.CPU, preparation)


@pytest.mark.parametrize("place", ["anomaly", "anomaly/dent", "line1/anomaly/dent/old"])
def test_pictures_in_labelled_folders_show_a_score_in_reverse(tmp_path: Path, place: str) -> None:
    for folder, red in (("normal", 240), (place, 10)):
        (tmp_path / "golden" / folder).mkdir(parents=True)
        for index in range(2):
            picture = np.full((80, 100, 3), (10, 20, red + index), np.uint8)
            cv2.imwrite(str(tmp_path / "golden" / folder / f"{index}.png"), picture)

    with pytest.raises(InvalidPackage, match="'score', is higher on normal pictures"):
        prepared(package(tmp_path), graphs.CPU, Preparation(golden_images=tmp_path / "golden"))
