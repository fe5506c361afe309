"""Engines to run the same tests on: onnxruntime's, and TensorRT's with FAKES of TensorRT and CUDA.

The TensorRT backend, its worker process, the loop and the packages for CUDA are the real ones; the
module `tensorrt` and the driver, libcuda.so.1, that the worker finds are not: see fake_tensorrt.py
and fake_cuda.py. onnxruntime does their arithmetic.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest

from edge_agent.errors import BackendUnavailable
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend, OrtCudaBackend
from edge_agent.runtime.backends.trt import TrtBackend
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from tests import ROOT
from tests.fakes import fake_cuda, fake_tensorrt, micro, resize_on_cpu
from tests.fakes.engines import settings
from tests.fakes.fake_tensorrt import VERSIONS
from tests.packaging.graphs import described

SITE = ROOT / "tests/fakes/fake_site"
TENSORRT = tuple(f"tensorrt {version}" for version in VERSIONS)
ENGINES = ("onnxruntime", "onnxruntime-cuda", *TENSORRT)
MAPS = micro.graph("anomaly_map")
OPTIONS = BackendOptions(threads=1, cpu_batches=True)
LARGEST = 4
ITEM = (micro.SIZE, micro.SIZE, 3)


class Bench:
    """Opens models in one engine. With TensorRT: on a fake GPU, in processes started from now on.

    fault: what the fake driver does amiss, CALL:NTH=CODE|hang|crash, in processes to come.
    """

    def __init__(self, engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self.folder = engine, folder
        self.is_tensorrt = engine in TENSORRT
        self._version = engine.split()[-1]
        self._opened: List[Backend] = []
        self.may_leave = False  # something in the fake GPU, when giving back fails
        if self.is_tensorrt:
            self.break_gpu("")
            monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
            monkeypatch.setenv("PYTHONPATH", f"{SITE}:{ROOT}")
            monkeypatch.setenv("FAKE_TENSORRT", self._version)

    def break_gpu(self, fault: str, **options: Any) -> None:
        values = {"version": 13000, "kernels": resize_on_cpu.kernels(), "fault": fault}
        fake_cuda.driver(self.folder, report=self.folder / "left", **values, **options)

    def open(self, model: bytes = MAPS, task: str = "anomaly_map", **changes: Any) -> Any:
        runtime = {"batch_sizes": [1, LARGEST]}
        return self.serve(model, described(model, task, **{"runtime": runtime, **changes}))

    def serve(self, model: bytes, manifest: Manifest) -> Any:
        if self.is_tensorrt:
            backend: Backend = TrtBackend(self.build(model), manifest, OPTIONS)
        elif self.engine == "onnxruntime":
            backend = OrtBackend(model, manifest, OPTIONS)
        else:
            try:
                backend = OrtCudaBackend(model, manifest, OPTIONS)
            except BackendUnavailable as error:
                pytest.skip(str(error))
        return self.keep(backend)

    def keep(self, backend: Backend) -> Backend:
        self._opened.append(backend)
        return backend

    def another(self, backend: Backend, model: bytes = MAPS, task: str = "anomaly_map") -> Any:
        more = backend.another()
        return self.open(model, task) if more is None else self.keep(more)

    def build(self, model: bytes) -> Path:
        path = self.folder / "engine"
        builder = EngineBuilder(fake_tensorrt.tensorrt(self._version))
        path.write_bytes(model if model == b"rubbish" else builder.build(model, settings()).engine)
        return path

    def close(self) -> None:
        for backend in self._opened:
            backend.close()
        self._opened.clear()

    @property
    def left(self) -> List[str]:
        """What each process that ended in order didn't give back to the fake GPU."""
        with suppress(FileNotFoundError):
            lines = (self.folder / "left").read_text().split("\n")
            return [line.partition(": ")[2] for line in lines if line]
        return []


def pictures(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, *ITEM), np.uint8)


def expected(model: bytes, batch: Any) -> Any:
    """What onnxruntime computes, as names → arrays."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": batch})))


def check(found: Any, model: bytes, batch: Any) -> None:
    wanted = expected(model, batch)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5)


Open = Callable[..., Any]
