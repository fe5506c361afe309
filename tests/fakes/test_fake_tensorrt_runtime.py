"""The FAKE of TensorRT's runtime refuses what the real one refuses, and has no more calls."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from edge_agent.errors import EngineUnusable
from edge_agent.runtime.backends import trt_loading
from edge_agent.runtime.backends.trt_engine import EngineBuilder
from edge_agent.runtime.backends.trt_logger import logger
from edge_agent.targets import BuildSpec, Profile
from tests import ROOT
from tests.fakes.fake_tensorrt import VERSIONS
from tests.fakes.loop_bench import (
    ITEM,
    MAPS,
    Machine,
    Make,
    machines,
)


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Iterator[Make]:
    with machines(tmp_path) as make:
        yield make


@contextlib.contextmanager
def contexts(gpu: Machine, count: int = 1) -> Iterator[Tuple[Any, List[Any]]]:
    """The listener, and so many execution contexts."""
    messages = logger(gpu.trt)
    with gpu.driver.context():
        engine = gpu.trt.Runtime(messages).deserialize_cuda_engine(gpu.engine())
        yield messages, [engine.create_execution_context() for _ in range(count)]
        del engine
        gc.collect()


def ready(context: Any) -> Any:
    context.set_optimization_profile_async(1, 0)
    context.set_input_shape("image", (2, *ITEM))
    for name in ("image", "score", "map"):
        context.set_tensor_address(name, 4096)
    return context


def lend(context: Any, address: int) -> bool:
    context.device_memory = address
    return True


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda one: one.set_input_shape("image", (5, *ITEM)), "maximum dimension in profile is 4"),
        (lambda one: one.set_input_shape("image", (1, *ITEM)), "minimum dimension in profile is 2"),
        (lambda one: one.set_input_shape("image", (2, 9, 9, 3)), "exceed min ~ max range at ind"),
        (lambda one: one.set_input_shape("picture", (2, *ITEM)), "picture is no input"),
        (lambda one: one.set_tensor_address("picture", 1), "picture is no tensor"),
        (lambda one: one.set_optimization_profile_async(2, 0), "profile index is out of range"),
        (
            lambda one: one.set_tensor_address("map", 0) and one.execute_async_v3(0),
            "Address is not set for output tensor map",
        ),
        (
            lambda one: one.set_optimization_profile_async(0, 0) and one.execute_async_v3(0),
            "the shape of image isn't set",
        ),
        (lambda one: one.execute_async_v3(12345), "error 400"),
        (lambda one: lend(one, 0) and one.execute_async_v3(0), "deviceMemory != nullptr"),
        (lambda one: lend(one, 4096 + 128) and False, "256-byte aligned"),
    ],
)
def test_the_fake_refuses_what_tensorrt_refuses(
    machine: Make, spoil: Callable[[Any], bool], reason: str
) -> None:
    with contexts(machine()) as (messages, made):
        assert not spoil(ready(made[0]))
        assert reason in messages.errors[-1]
        made.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_before_10_a_profile_belongs_to_one_context(machine: Make, version: str) -> None:
    with contexts(machine(version), 2) as (messages, made):
        is_shared = version.startswith("1")
        assert made[1].set_optimization_profile_async(0, 0) == is_shared
        assert ("Profile 0 has been chosen" in str(messages.errors)) != is_shared
        assert made[1].set_optimization_profile_async(1, 0)
        made.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_context_without_memory_takes_what_it_is_given(machine: Make, version: str) -> None:
    gpu = machine(version)

    with gpu.driver.context():
        messages = logger(gpu.trt)
        engine = gpu.trt.Runtime(messages).deserialize_cuda_engine(gpu.engine())
        if version.startswith("1"):
            how = gpu.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.create_execution_context(how)
            context.set_device_memory(4096, engine.device_memory_size_v2 - 1)
            assert "setDeviceMemoryV2" in messages.errors[-1]
        else:
            context = engine.create_execution_context_without_device_memory()
        assert not ready(context).execute_async_v3(0)
        assert "deviceMemory != nullptr" in messages.errors[-1]
        del context, engine
        gc.collect()


def test_the_fake_needs_a_current_context(machine: Make) -> None:
    gpu = machine()

    with contexts(gpu) as (messages, made):
        ready(made[0])
        gpu.cuda.cuCtxPopCurrent_v2(None)
        assert not made[0].execute_async_v3(0)
        assert "no context of CUDA is current" in messages.errors[-1]
        with pytest.raises(TypeError, match="returned nullptr"):
            gpu.trt.Runtime(messages)
        gpu.cuda.cuCtxPushCurrent_v2(retained(gpu))
        made.clear()


def retained(gpu: Machine) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    gpu.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    gpu.cuda.cuDevicePrimaryCtxRelease_v2(0)
    return context


@pytest.mark.parametrize(
    ("version", "kind", "missing"),
    [
        ("8.5.2.2", "Runtime", "engine_host_code_allowed"),
        ("8.5.2.2", "ICudaEngine", "device_memory_size_v2"),
        ("8.6.1", "IExecutionContext", "set_device_memory"),
        ("10.16.1", "IExecutionContext", "execute_async_v2"),
        ("11.4.0", "ICudaEngine", "device_memory_size"),
        ("11.4.0", "ICudaEngine", "create_execution_context_without_device_memory"),
        ("11.4.0", "ICudaEngine", "num_bindings"),
    ],
)
def test_a_call_that_a_version_lacks_is_not_there(
    machine: Make, version: str, kind: str, missing: str
) -> None:
    gpu = machine(version)

    assert not hasattr(getattr(gpu.trt, kind), missing)
    with gpu.driver.context():
        runtime = gpu.trt.Runtime(logger(gpu.trt))
        with pytest.raises(AttributeError, match=f"TensorRT {version} has no moon"):
            runtime.moon = True
        del runtime


# Other processes


CHILD = """
import ctypes, mmap, sys
import tensorrt
from edge_agent.runtime.backends.cuda.driver import open_driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_loop import EngineLoop

driver = open_driver("libcuda")
with driver.context():
    loop = EngineLoop(tensorrt, driver, sys.stdin.buffer.read(), dla_core=0)
    layout = SlotLayout(loop.tensors, loop.max_batch)
    memory = mmap.mmap(-1, layout.size)
    layout.view(memory, "image", 2)[1] = 255
    slot = loop.open_slot(ctypes.addressof(ctypes.c_char.from_buffer(memory)), layout)
    loop.submit(slot, 2)
    loop.wait(slot)
    print(tensorrt.__version__, layout.view(memory, "score", 2).tolist())
    loop.close()
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_child_process_finds_the_fakes(machine: Make, tmp_path: Path, version: str) -> None:
    gpu, report = machine(version), tmp_path / "left"
    places = [str(ROOT / "tests/fakes/fake_site"), str(ROOT)]
    settings = {
        "PYTHONPATH": os.pathsep.join(places), "LD_LIBRARY_PATH": str(tmp_path),
        "FAKE_TENSORRT": version, "FAKE_TENSORRT_DLA": "1", "FAKE_CUDA_REPORT": str(report),
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=gpu.engine(), env={**os.environ, **settings}, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert done.stderr.decode() == ""
    assert done.stdout.decode().strip() == f"{version} [0.0, 1.0]"
    assert report.read_text().endswith("nothing left\n")


# The real ones


def calls_of(module: Any) -> List[str]:
    kinds = ("Runtime", "ICudaEngine", "IExecutionContext", "TensorIOMode", "TensorLocation")
    return [
        f"{kind}.{name}"
        for kind in kinds
        for base in (getattr(module, kind), *getattr(module, kind).__mro__[1:2])
        for name in vars(base)
        if not name.startswith("_")
    ]


def real() -> Any:
    try:
        import tensorrt
    except ImportError:
        return pytest.importorskip("tensorrt_rtx", reason="no TensorRT is installed here")
    return tensorrt


def test_every_call_of_the_fake_exists_in_the_real_one(machine: Make) -> None:
    module = real()
    newest = module.__name__ == "tensorrt_rtx"
    gpu = machine("11.4.0" if newest else "8.5.2.2")

    for path in calls_of(gpu.trt):
        kind, _, name = path.partition(".")
        assert hasattr(getattr(module, kind), name), path


# Its timing cache does nothing, and says so.
@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
def test_the_real_one_calls_a_cut_engine_damaged() -> None:
    """A builder was there before; TensorRT goes on telling its listener."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed here")
    one = Profile(tensor="image", minimum=(1, *ITEM), optimum=(1, *ITEM), maximum=(1, *ITEM))
    spec = BuildSpec(
        precision="fp32",
        timing_cache="timing.cache",
        profiles=(one,),
    )
    engine = EngineBuilder(trt).build(MAPS, spec).engine
    runtime = trt_loading.runtime(trt, None)

    for content in (engine[: len(engine) // 2], b"x" * 1000, b""):
        with pytest.raises(EngineUnusable, match=r"The engine is damaged or no engine\. Build it"):
            trt_loading.engine(trt, runtime, content)
