"""Engines built for real: by TensorRT for RTX, whose builder needs neither GPU nor driver.

Loading an engine takes a real driver. The building process meets a FAKE one here, so that its first
load is refused, or left to a FAKE runtime that takes every engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.demo.package import draw_good_parts
from edge_agent.errors import BackendUnavailable
from edge_agent.manifest import MODEL_FILE, Manifest, parse
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.engines.build import BuildProgress, EngineBuild
from edge_agent.runtime.engines.cache import EngineCache
from edge_agent.runtime.engines.machine import look
from edge_agent.runtime.engines.spec import build_spec
from edge_agent.training.trainer import train
from tests import ROOT
from tests.fakes import fake_cuda
from tests.training import pictures

# Its timing cache does nothing, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")

STAND_IN = """
import sys
import tensorrt_rtx
{more}
sys.modules[__name__] = tensorrt_rtx
"""
TAKES_ALL = """
from types import SimpleNamespace

class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, content):
        context = SimpleNamespace(active_optimization_profile=0)
        return SimpleNamespace(
            num_optimization_profiles=1, create_execution_context=lambda: context
        )

tensorrt_rtx.Runtime = Runtime
"""


@pytest.fixture(name="rtx", scope="module")
def _rtx() -> Any:
    reason = "TensorRT-RTX, which builds without a GPU, isn't installed here"
    return pytest.importorskip("tensorrt_rtx", reason=reason)


@pytest.fixture(name="packages", scope="module")
def _packages(tmp_path_factory: pytest.TempPathFactory, rtx: Any) -> Dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    draw_good_parts(folder / "demo-parts", 12, seed=0)
    plates = pictures.write(folder / "plates", normal=15, anomaly=8)
    made = {name: folder / name for name in ("demo", "labelled", "normals")}
    train(folder / "demo-parts", made["demo"], normal_only=True, progress=print)
    train(plates, made["labelled"], progress=print)
    train(plates, made["normals"], normal_only=True, size=(48, 96), progress=print)
    return made


def read(package: Path) -> Manifest:
    return parse((package / "manifest.json").read_bytes())


@pytest.mark.parametrize("name", ["demo", "labelled", "normals"])
def test_trained_models_are_built_for_batches_of_every_size(
    name: str, packages: Dict[str, Path], rtx: Any
) -> None:
    package = packages[name]
    spec = build_spec(read(package)).model_copy(update={"precision": "fp32"})
    seen: List[float] = []

    built = EngineBuilder(rtx).build(
        (package / MODEL_FILE).read_bytes(), spec, on_progress=seen.append
    )

    assert len(spec.profiles) > 1
    assert len(built.engine) > 100_000
    assert len(seen) > 10


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    fake_cuda.driver(folder)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    return folder


def order(package: Path, cache: EngineCache) -> EngineBuild:
    machine, manifest = look(), read(package)
    assert machine.gpu is not None, machine.no_gpu
    model = (package / MODEL_FILE).read_bytes()
    spec = build_spec(manifest).model_copy(update={"precision": "fp32"})
    wanted = Fingerprint.of(machine.tensorrt, machine.gpu, model, spec)
    return EngineBuild(model, manifest.input, spec, (), wanted, cache)


def test_the_very_process_builds_the_demo_model(
    packages: Dict[str, Path], site: Path, tmp_path: Path
) -> None:
    (site / "tensorrt.py").write_text(STAND_IN.format(more=TAKES_ALL))
    seen: List[BuildProgress] = []
    cache = EngineCache(tmp_path / "cache", 1 << 30)

    path = order(packages["demo"], cache).run(seen.append)

    assert path.stat().st_size > 100_000
    stages = [progress.stage for progress in seen]
    assert stages == sorted(stages, key=["parsing", "measuring kernels", "loading"].index)
    assert stages[-1] == "loading"


def test_an_engine_that_the_real_runtime_cannot_load_here_is_not_kept(
    packages: Dict[str, Path], site: Path, tmp_path: Path
) -> None:
    (site / "tensorrt.py").write_text(STAND_IN.format(more=""))
    seen: List[BuildProgress] = []
    cache = EngineCache(tmp_path / "cache", 1 << 30)

    with pytest.raises(BackendUnavailable, match=r"TensorRT 1\.\S+ can't load the engine: .*CUDA"):
        order(packages["normals"], cache).run(seen.append)

    assert seen[-1].stage == "loading", "it was built"
    assert list((tmp_path / "cache").iterdir()) == []
