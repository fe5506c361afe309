"""Engines that packages bring to other machines, on FAKE GPUs with a FAKE TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from edge_agent.errors import ParityFailed
from edge_agent.manifest import FileEntry, parse
from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines.spec import build_spec
from edge_agent.runtime.engines.supply import EngineSupply, Ready, ToBuild
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.packages.signature import TrustedKeys
from tests.fakes import golden, micro, signatures
from tests.fakes.gpu_machine import GpuMachine

A2 = Gpu("A2", (8, 6), "11.4", "470")
PORTABLE, LASTING = {"hardware_compatible": True}, {"version_compatible": True}

Machines = Callable[..., EngineSupply]


@pytest.fixture(name="supply")
def _supply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """What a machine with an L4 and TensorRT 10.3.0 has, unless said otherwise."""

    def made(version: str = "10.3.0", **gpu: Any) -> EngineSupply:
        values = {"name": "L4", "capability": (8, 9), **gpu}
        machine = GpuMachine(tmp_path, monkeypatch, version, **values)
        return EngineSupply(machine.settings())

    return made


def packed(folder: Path, options: Dict[str, Any], arch: str = "", **made: Any) -> Package:
    """A package with an engine that was built on A2 with TensorRT 10.3.0."""
    model = micro.graph("classification")
    plain = parse((golden.write(folder, "classification") / "manifest.json").read_bytes())
    spec = build_spec(plain).model_copy(update=options)
    engine = Fingerprint.of("10.3.0", A2, model, spec).model_copy(update=made)
    manifest = json.loads(plain.to_json())
    files = {"engines/a.engine": b"engine", "engines/a.json": engine.to_json()}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        manifest["files"].append(FileEntry.of(name, content).model_dump())
    manifest["build"] = json.loads(spec.model_dump_json())
    target = {"os": "LINUX", "arch": arch or here(), "accelerator": "NVIDIA"}
    manifest["target"] = {**target, "gpu_code": "sm_89", "trt_ver": "10.3.0", "cuda_ver": "12.6"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    private = signatures.key(folder.parent, folder.name)
    signatures.signed(folder, private)
    return Package(folder, trusted=TrustedKeys.read(private.with_suffix(".pem")))


def here() -> str:
    from edge_agent.runtime.engines.machine import look

    return look().arch


def test_a_hardware_compatible_engine_serves_on_another_gpu(
    supply: Machines, tmp_path: Path
) -> None:
    known, package = supply(), packed(tmp_path / "m", PORTABLE)
    (candidate,) = known.candidates(package)

    found = known.look_up(candidate)
    assert isinstance(found, Ready)
    assert found.path.read_bytes() == b"engine"
    assert found.path.name == f"{candidate.fingerprint.id}.engine"
    assert known.look_up(candidate) == found


OTHERS = [
    ({}, {}, "not asked for"),
    (PORTABLE, {"capability": (7, 5)}, "before Ampere"),
    (PORTABLE, {"integrated": 1}, "a Jetson"),
    (PORTABLE, {"version": "10.16.1"}, "another TensorRT"),
    (LASTING, {"name": "A2", "capability": (8, 6), "version": "10.16.1"}, "code for the CPU"),
    ({**PORTABLE, **LASTING}, {}, "code for the CPU"),
]


@pytest.mark.parametrize(("options", "machine", "why"), OTHERS)
def test_other_engines_are_built_on_the_device(
    options: Dict[str, Any], machine: Dict[str, Any], why: str, supply: Machines, tmp_path: Path
) -> None:
    known, package = supply(**machine), packed(tmp_path / "m", options)
    (candidate,) = known.candidates(package)

    found = known.look_up(candidate)
    assert isinstance(found, ToBuild)
    assert "isn't built yet" in found.why


def test_code_for_the_cpu_never_comes_out_of_a_package(supply: Machines, tmp_path: Path) -> None:
    """Not even when it claims to be for this very machine."""
    known = supply()
    package = packed(tmp_path / "m", LASTING)
    (candidate,) = known.candidates(package)
    theirs = packed(
        tmp_path / "n", LASTING, **candidate.fingerprint.model_dump(exclude={"model", "profiles"})
    )
    (candidate,) = known.candidates(theirs)

    assert candidate.has_host_code
    assert isinstance(known.look_up(candidate), ToBuild)


def test_an_engine_for_another_processor_is_left(supply: Machines, tmp_path: Path) -> None:
    known = supply()
    other = {"ARM64": "X86_64", "X86_64": "ARM64"}[here()]
    (candidate,) = known.candidates(packed(tmp_path / "m", PORTABLE, arch=other))

    assert isinstance(known.look_up(candidate), ToBuild)


def test_one_from_elsewhere_with_other_results_is_built_again_not_refused(
    supply: Machines, tmp_path: Path
) -> None:
    known, package = supply(), packed(tmp_path / "m", PORTABLE)
    (candidate,) = known.candidates(package)
    known.look_up(candidate)

    to_build = known.refuse(candidate, ParityFailed("2 verdicts differ"))

    assert to_build is not None
    assert to_build.candidate is candidate
    assert "(fp32) must be built again: 2 verdicts differ" in to_build.why
    assert known.refusal(candidate) == ""


def test_an_engine_in_a_package_that_nobody_signed_is_left(
    supply: Machines, tmp_path: Path
) -> None:
    """Loading one is running the code of whoever built it."""
    known, package = supply(), packed(tmp_path / "m", PORTABLE)
    (candidate,) = known.candidates(Package(package.path))

    found = known.look_up(candidate)
    assert isinstance(found, ToBuild)
    assert "isn't built yet" in found.why
