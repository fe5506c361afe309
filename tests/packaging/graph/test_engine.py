"""The engine that travels with a package, built with a FAKE of TensorRT and of the CUDA driver."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import pytest

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.packaging.draft import PackageDraft
from edge_agent.packaging.graph.engine import Tuning, build_here, build_spec
from edge_agent.packaging.graph.findings import GraphFinding
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.target import GpuOptions
from edge_agent.runtime.backends import fingerprint
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.vision.picture_files import png
from edge_agent.targets import MACHINES, TargetSpec
from tests.fakes import fake_cuda, fake_tensorrt, micro
from tests.packaging import graphs

FAKE = fake_tensorrt.tensorrt("8.5.2.2")
MODEL = micro.graph("classification")
ARCH = {machine: arch for arch, machine in MACHINES.items()}[platform.machine()]
OPTIONS = {"gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4"}

Build = Callable[..., Tuple[Dict[str, bytes], GraphFinding]]


def target(**options: str) -> TargetSpec:
    values = GpuOptions.model_validate({**OPTIONS, **options}).model_dump()
    return TargetSpec(os="LINUX", arch=ARCH, accelerator="NVIDIA", **values)


def described(**changes: Any) -> Manifest:
    return graphs.described(MODEL, **changes)


def calibration(count: int) -> Dict[str, bytes]:
    item = (micro.SIZE, micro.SIZE, 3)
    pictures = [np.full(item, (index, 20, 30), np.uint8) for index in range(count)]
    return {f"calibration/{index:03}.png": png(one) for index, one in enumerate(pictures)}


@pytest.fixture(name="build")
def _build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """build_here on a machine with the target's GPU and TensorRT, unless said otherwise."""

    def build(
        manifest: Manifest = described(),  # noqa: B008
        model: bytes = MODEL,
        wanted: TargetSpec = target(),  # noqa: B008
        pictures: Dict[str, bytes] = {},  # noqa: B006
        installed: Any = FAKE,
        tuning: Tuning = Tuning(),  # noqa: B008
        **driver: Any,
    ) -> Tuple[Dict[str, bytes], GraphFinding]:
        monkeypatch.setitem(sys.modules, "tensorrt", installed)
        path = fake_cuda.driver(tmp_path, **driver)
        options = GpuOptions.model_validate(OPTIONS)
        spec = build_spec(Graph(model), manifest, options, sorted(pictures), tuning)
        answer = build_here(
            model, manifest.input, spec, wanted, pictures, lambda: CtypesDriver(path)
        )
        assert fake_cuda.left(path) == 0, "contexts or buffers were kept"
        return answer

    return build


def test_the_engine_and_its_fingerprint_are_files_of_the_package(build: Build) -> None:
    files, finding = build()

    engine, facts = sorted(files)
    made = fingerprint.parse(files[facts])
    assert (engine, facts) == (f"engines/{made.id}.engine", f"engines/{made.id}.json")
    assert (made.gpu, made.compute_capability, made.cuda) == ("Xavier", "7.2", "11.4")
    assert (made.tensorrt, made.precision) == ("8.5.2.2", "fp32")
    assert made.model == hashlib.sha256(MODEL).hexdigest()
    assert finding.severity == "note"
    assert "an engine for Xavier with TensorRT 8.5.2.2" in finding.text


def test_the_package_lists_them(build: Build) -> None:
    files, _ = build()
    draft = PackageDraft(described(), {"model.onnx": MODEL}.__getitem__).add(files)

    listed = {entry.path: entry.sha256 for entry in draft.manifest.files}
    for path, content in files.items():
        assert listed[path] == hashlib.sha256(content).hexdigest()


def test_half_of_the_free_memory_is_workspace(build: Build) -> None:
    files, _ = build()

    (engine,) = (content for path, content in files.items() if path.endswith(".engine"))
    assert fake_tensorrt.asked(engine)["limits"] == {"WORKSPACE": 3 << 30}


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 64, 64, 3)), ("NCHW", (1, 3, 64, 64))])
def test_int8_is_calibrated_with_the_pictures_as_the_model_takes_them(
    layout: str, shape: Tuple[int, ...], build: Build
) -> None:
    spec = InputSpec(tensor="image", height=64, width=64, layout=layout)  # type: ignore[arg-type]
    runtime = {"batch_sizes": [1], "precision": "int8"}
    manifest = described(input=spec.model_dump(), runtime=runtime)

    files, _ = build(manifest, pictures=calibration(3))

    engine, facts = (files[path] for path in sorted(files))
    batches = [np.empty(shape, np.uint8) for _ in range(3)]
    for index, batch in enumerate(batches):
        pixels = batch if layout == "NHWC" else batch.transpose(0, 2, 3, 1)
        pixels[:] = (index, 20, 30)
    wanted = [hashlib.sha256(batch.tobytes()).hexdigest() for batch in batches]
    assert fake_tensorrt.asked(engine)["calibrated"] == wanted
    assert fingerprint.parse(facts).calibration


def test_other_pictures_make_another_fingerprint(build: Build) -> None:
    manifest = described(runtime={"batch_sizes": [1], "precision": "int8"})

    few, many = (build(manifest, pictures=calibration(count))[0] for count in (2, 3))
    assert set(few).isdisjoint(many)


def test_a_gpu_that_fails_while_calibrating_leaves_the_build_to_the_device(build: Build) -> None:
    manifest = described(runtime={"batch_sizes": [1], "precision": "int8"})

    files, finding = build(manifest, pictures=calibration(1), largest=1000)

    assert files == {}
    assert finding.severity == "warning"
    assert "can't be built here; the device will try. The GPU can't be used" in finding.text
    assert "out of memory" in finding.text


MACHINE = {"ARM64": "X86_64", "X86_64": "ARM64"}
UNLIKE = [
    ({"wanted": target(**{"gpu-code": "sm_87"})}, "this machine's Xavier is sm_72, the target sm"),
    ({"wanted": target(**{"trt-ver": "8.6.1"})}, "has TensorRT 8.5.2.2, the target 8.6.1"),
    ({"installed": fake_tensorrt.tensorrt("8.5.20.1")}, "TensorRT 8.5.20.1, the target 8.5.2."),
    ({"wanted": target().model_copy(update={"arch": MACHINE[ARCH]})}, "this machine is "),
    ({"init": 100}, "no NVIDIA GPU that the driver can use"),
]


@pytest.mark.parametrize(("machine", "reason"), UNLIKE)
def test_on_another_machine_the_device_builds_and_the_job_says_why(
    machine: Dict[str, Any], reason: str, build: Build
) -> None:
    files, finding = build(**machine)

    assert files == {}
    assert finding.severity == "note"
    assert finding.text.startswith("The device builds its engine itself")
    assert reason in finding.text


ORIN_NANO = {"name": "Orin", "capability": (8, 7), "integrated": 1}
A2 = {"name": "A2", "capability": (8, 6)}
LATER = {
    "wanted": target(**{"gpu-code": "sm_89", "trt-ver": "10.3.0"}),
    "installed": fake_tensorrt.tensorrt("10.3.0"),
}


def test_an_engine_for_other_gpus_is_built_on_any_of_them(build: Build) -> None:
    files, finding = build(tuning=Tuning(2, hardware_compatible=True), **LATER, **A2)

    engine, facts = (files[path] for path in sorted(files))
    made = fingerprint.parse(facts)
    assert (made.gpu, made.hardware_compatible, made.optimisation_level) == ("A2", True, 2)
    told = fake_tensorrt.asked(engine)
    assert (told["is_portable"], told["level"]) == (True, 2)
    assert finding.text.endswith("unless their GPU is of compute capability 8.0 or newer.")


@pytest.mark.parametrize(("tuning", "gpu"), [
    (Tuning(), A2), (Tuning(hardware_compatible=True), ORIN_NANO),
])  # fmt: skip
def test_otherwise_it_is_built_on_the_very_gpu(
    tuning: Tuning, gpu: Dict[str, Any], build: Build
) -> None:
    files, finding = build(tuning=tuning, **LATER, **gpu)

    assert files == {}
    assert f"this machine's {gpu['name']} is sm_8" in finding.text


def test_an_engine_with_code_for_the_cpu_never_travels(build: Build) -> None:
    files, finding = build(tuning=Tuning(version_compatible=True))

    assert (files, finding.severity) == ({}, "note")
    assert "code for the CPU inside, which a device only runs when it was built" in finding.text


def test_a_machine_without_driver_is_another_machine(tmp_path: Path) -> None:
    manifest = described()
    spec = build_spec(Graph(MODEL), manifest, GpuOptions.model_validate(OPTIONS), ())
    missing = str(tmp_path / "libcuda.so.1")

    files, finding = build_here(
        MODEL, manifest.input, spec, target(), {}, lambda: CtypesDriver(missing)
    )

    assert (files, finding.severity) == ({}, "note")
    assert finding.text.startswith(
        "The device builds its engine itself. This machine has no NVIDIA driver (libcuda.so.1)."
    )


def test_on_a_machine_without_tensorrt_the_job_says_what_brings_it(build: Build) -> None:
    files, finding = build(installed=None)

    assert (files, finding.severity) == ({}, "note")
    assert "TensorRT isn't installed" in finding.text


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_build_that_fails_is_left_to_the_device(precision: str, build: Build) -> None:
    manifest = described(runtime={"batch_sizes": [1], "precision": precision})
    pictures = calibration(2) if precision == "int8" else {}

    files, finding = build(
        manifest, pictures=pictures, installed=fake_tensorrt.tensorrt(failure="out of disk")
    )

    assert (files, finding.severity) == ({}, "warning")
    assert finding.text.endswith("can't build the engine: out of disk.")


def test_a_graph_that_this_very_tensorrt_cannot_read_stops_the_job(build: Build) -> None:
    nodes = [graphs.node("Nonsense", ["float"], ["other"])]

    with pytest.raises(InvalidPackage, match=r"TensorRT 8\.5\.2\.2 can't read model\.onnx, node 1"):
        build(model=graphs.scorer(nodes, head="other"))
