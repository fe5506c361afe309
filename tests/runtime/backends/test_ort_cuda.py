"""When onnxruntime's CUDA provider is taken, and what is said when it isn't.

The wheel onnxruntime-gpu is tried where it is installed. Elsewhere a FAKE module stands for it: its
session computes with the real onnxruntime on the CPU, and says that it uses CUDA when the library
of the provider can be loaded, as the real one does. That library is real, and so is what it lacks.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import numpy as np
import onnxruntime
import pytest

from edge_agent.errors import BackendUnavailable, InferenceFailed
from edge_agent.runtime.backends import ort_cuda
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend, OrtCudaBackend
from tests.fakes import micro
from tests.packaging import graphs

MODEL = micro.graph("classification")
HAS_WHEEL = ort_cuda.PROVIDER in onnxruntime.get_available_providers()


# Where onnxruntime's errors come from, as they say: at length, and before what happened.
PLACE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, "
    "ERRTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true]"
)


def opened(precision: str = "fp32", model: bytes = MODEL) -> OrtCudaBackend:
    runtime = {"batch_sizes": [1, 4], "precision": precision}
    return OrtCudaBackend(model, graphs.described(MODEL, runtime=runtime), BackendOptions())


def reds(count: int) -> Any:
    batch = np.zeros((count, micro.SIZE, micro.SIZE, 3), np.uint8)
    batch[..., 0] = np.arange(count).reshape(-1, 1, 1) * 51
    return batch


@pytest.mark.skipif(HAS_WHEEL, reason="onnxruntime-gpu is installed")
def test_the_variant_for_the_cpu_is_refused_with_what_to_install() -> None:
    with pytest.raises(BackendUnavailable, match=r"variant for the CPU.*edge-agent\[gpu\]"):
        opened()


@pytest.mark.skipif(not HAS_WHEEL, reason="onnxruntime-gpu isn't installed, only onnxruntime")
def test_the_real_wheel_computes_on_the_gpu_or_says_what_is_missing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    try:
        backend = opened()
    except BackendUnavailable as error:
        sentence = str(error)
        assert "can't use CUDA" in sentence
        assert " is missing; " in sentence or "no NVIDIA driver" in sentence
    else:
        assert backend.device.startswith("GPU ")
        assert backend.run(reds(4))["score"] == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=1e-4)
    assert capfd.readouterr().out == ""


class FakeModule(SimpleNamespace):
    """What `import onnxruntime` gives: the real one but for the CUDA provider."""

    def __init__(self, folder: Path) -> None:
        super().__init__(**vars(onnxruntime))
        vars(self).pop("preload_dlls", None)
        self.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.__file__ = str(folder / "__init__.py")
        self.asked: List[Dict[str, str]] = []
        self.failure = ""
        module = self

        class InferenceSession(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, model: bytes, options: Any, providers: List[Any]) -> None:
                (cuda, settings), cpu = providers
                assert (cuda, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
                module.asked.append(settings)
                super().__init__(model, options, providers=[cpu])

            def get_providers(self) -> List[str]:
                try:
                    ctypes.CDLL(str(folder / ort_cuda.LIBRARY))
                except OSError:
                    return ["CPUExecutionProvider"]
                return ["CUDAExecutionProvider", "CPUExecutionProvider"]

            def run(self, *arguments: Any) -> Any:
                if module.failure:
                    raise RuntimeError(module.failure)
                return super().run(*arguments)

        self.InferenceSession = InferenceSession


@pytest.fixture(name="fake")
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    fake = FakeModule(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def provider(folder: Path, needs: str = "") -> Path:
    """Make the provider's library; it needs another one, returned, that isn't on the path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a library with")
    made, other = folder / ort_cuda.LIBRARY, folder / "nvidia" / (needs or "unused.so")
    for path in (made, other):
        path.parent.mkdir(exist_ok=True)
    empty = [compiler, "-shared", "-fPIC", "-xc", "/dev/null", "-Wl,--no-as-needed"]
    words = ["-xnone", str(other)] if needs else []
    subprocess.run([*empty, f"-Wl,-soname,{other.name}", "-o", str(other)], check=True)
    subprocess.run([*empty, *words, "-o", str(made)], check=True)
    return other


def test_a_session_that_uses_cuda_takes_whole_batches(fake: FakeModule, tmp_path: Path) -> None:
    provider(tmp_path)
    backend = opened()

    assert (backend.name, backend.max_batch, backend.failure) == ("onnxruntime-cuda", 4, "")
    assert not backend.can_interrupt
    assert backend.device.startswith("GPU")
    for count in (1, 3, 4):
        assert backend.run(reds(count))["score"] == pytest.approx(np.arange(count) / 5, abs=1e-4)
    backend.close()


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "1"), ("int8", "1")])
def test_memory_is_bounded_and_only_coarse_models_are_rounded(
    fake: FakeModule, tmp_path: Path, precision: str, tf32: str
) -> None:
    provider(tmp_path)
    opened(precision).close()

    (settings,) = fake.asked
    assert settings["arena_extend_strategy"] == "kSameAsRequested"
    assert settings["use_tf32"] == tf32


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("libedgeagentblas.so.1", "blas.so.1 is missing; it comes with NVIDIA's packages"),
        ("libedgeagentcuda.so.1", "this machine has no NVIDIA driver (libedgeagentcuda.so.1)"),
    ],
)
def test_a_session_that_went_over_to_the_cpu_is_refused_with_what_is_missing(
    fake: FakeModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(ort_cuda, "DRIVER", "libedgeagentcuda.so.1")  # the real one may be here
    provider(tmp_path, needs=missing)

    with pytest.raises(BackendUnavailable) as caught:
        opened()

    assert sentence in str(caught.value)


def test_a_driver_that_is_too_old_for_the_wheel_is_named(fake: FakeModule, tmp_path: Path) -> None:
    provider(tmp_path)
    source = tmp_path / "provider.c"
    source.write_text(
        "int cuTensorMapEncodeTiled(void);\nint (*used)(void) = cuTensorMapEncodeTiled;"
    )
    words = ["cc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / ort_cuda.LIBRARY)]
    subprocess.run(words, check=True)

    with pytest.raises(BackendUnavailable, match="driver is too old, it lacks cuTensorMapEnco"):
        opened()


def test_a_session_that_gives_no_reason_is_refused_as_well(
    fake: FakeModule, tmp_path: Path
) -> None:
    provider(tmp_path)
    (tmp_path / ort_cuda.LIBRARY).write_bytes(b"no library")

    with pytest.raises(BackendUnavailable, match="gives no reason"):
        opened()


def test_libraries_in_nvidias_wheels_are_loaded_and_stdout_stays_clean(
    fake: FakeModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = provider(tmp_path, needs="libedgeagentcublas.so.13")

    def preload_dlls() -> None:  # since 1.21
        sys.stdout.write("Failed to load libcufft.so.12")
        sys.stdout.buffer.write(b"a result of another thread")
        ctypes.CDLL(str(other), ctypes.RTLD_GLOBAL)

    fake.preload_dlls = preload_dlls
    backend = opened()

    assert backend.run(reds(2))["score"] == pytest.approx([0.0, 0.2], abs=1e-4)
    assert len(fake.asked) == 2
    sys.stdout.flush()
    told = capfd.readouterr()
    assert told.out == "a result of another thread"
    assert "Failed to load" in told.err


def test_wheels_that_could_bring_what_is_missing_are_named(
    fake: FakeModule, tmp_path: Path
) -> None:
    provider(tmp_path, needs="libedgeagentcudnn.so.9")
    fake.preload_dlls = lambda: None

    with pytest.raises(BackendUnavailable, match=r"cudnn.so.9 is missing; install it with"):
        opened()


def test_a_graph_that_cannot_be_loaded_is_left_for_the_cpu_to_judge(
    fake: FakeModule, tmp_path: Path
) -> None:
    provider(tmp_path)

    with pytest.raises(BackendUnavailable, match="can't load the graph"):
        opened(model=b"nonsense")


@pytest.mark.parametrize(
    ("failure", "lasting"),
    [
        (
            "Non-zero status code. CUDA failure 700: an illegal memory access was encountered ; "
            "GPU=0 ; hostname=line-3 ; expr=cudaMemcpyAsync(...)",
            "CUDA failed (an illegal memory access was encountered, 700); this process can't use "
            "the GPU any more. Restart the agent.",
        ),
        (
            f"[ONNXRuntimeError] : 6 : Status Message: {PLACE}:121 {PLACE}:114 CUDA failure 700: "
            "an illegal memory access was encountered ; GPU=0 ; hostname=line-3",
            "CUDA failed (an illegal memory access was encountered, 700); this process can't use "
            "the GPU any more. Restart the agent.",
        ),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=line-3", ""),
        ("Non-zero status code returned while running Gather node", ""),
    ],
)
def test_only_errors_that_last_are_failures(
    fake: FakeModule, tmp_path: Path, failure: str, lasting: str
) -> None:
    provider(tmp_path)
    backend = opened()
    fake.failure = failure
    with pytest.raises(InferenceFailed):
        backend.run(reds(1))
    assert backend.failure == lasting

    fake.failure = "another failure"
    with pytest.raises(InferenceFailed):
        backend.run(reds(1))
    assert backend.failure == lasting


def test_the_session_never_switches_to_the_cpu_by_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing(onnxruntime.InferenceSession):  # type: ignore[misc]
        def _create_inference_session(self, *arguments: Any, **named: Any) -> None:
            raise RuntimeError("the provider failed")

    kind = ort_cuda.session_class(SimpleNamespace(InferenceSession=Failing))

    with pytest.raises(RuntimeError, match="the provider failed"):
        kind(MODEL, providers=["CPUExecutionProvider"])

    assert capsys.readouterr().out == ""


def test_the_cpu_backend_stays_as_it_was() -> None:
    manifest = graphs.described(MODEL, runtime={"batch_sizes": [4]})
    backend = OrtBackend(MODEL, manifest, BackendOptions())

    assert (backend.device, backend.max_batch, backend.failure) == ("CPU", 1, "")
