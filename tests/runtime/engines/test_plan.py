from __future__ import annotations

from itertools import product
from typing import Dict, Optional, Tuple

import pytest

from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.engines.machine import Machine
from edge_agent.runtime.engines.plan import plan
from edge_agent.targets import TargetSpec

ALL = ("tensorrt", "onnxruntime-cuda", "onnxruntime")
CPU = ("onnxruntime",)
NO_GPU, NO_TENSORRT = "No driver here.", "No TensorRT here."

XAVIER_OPTIONS = {"gpu_code": "sm_72", "trt_ver": "8.5.2", "cuda_ver": "11.4"}
SERVER_OPTIONS = {"gpu_code": "sm_90", "trt_ver": "10.3.0", "cuda_ver": "12.6"}


def nvidia(arch: str, device: str = "", **options: str) -> TargetSpec:
    return TargetSpec(device=device, os="LINUX", arch=arch, accelerator="NVIDIA", **options)


XAVIER = nvidia("ARM64", "jetson_xavier", **XAVIER_OPTIONS)
TARGETS: Dict[str, Optional[TargetSpec]] = {
    "jetson_xavier": XAVIER,
    "ARM64 NVIDIA": nvidia("ARM64", **XAVIER_OPTIONS),
    "X86_64 NVIDIA": nvidia("X86_64", **SERVER_OPTIONS),
    "ARM64 CPU": TargetSpec(os="LINUX", arch="ARM64", mattr=("+neon",)),
    "X86_64 CPU": TargetSpec(os="LINUX", arch="X86_64", mcpu="core-avx2"),
    "none": None,
}

GPUS = {
    "ARM64": Gpu("Xavier", (7, 2), "11.4", "R35.3.1"),
    "X86_64": Gpu("H100", (9, 0), "12.6", "560.35"),
}
TENSORRT = {"ARM64": "8.5.2.2", "X86_64": "10.3.0"}


def machine(arch: str, has_gpu: bool = True, has_tensorrt: bool = True) -> Machine:
    return Machine(
        arch=arch,
        gpu=GPUS[arch] if has_gpu else None,
        no_gpu="" if has_gpu else NO_GPU,
        tensorrt=TENSORRT[arch] if has_tensorrt else "",
        no_tensorrt="" if has_tensorrt else NO_TENSORRT,
    )


@pytest.mark.parametrize(
    ("target", "arch", "has_gpu", "has_tensorrt"),
    list(product(TARGETS, ("ARM64", "X86_64"), (True, False), (True, False))),
)
def test_target_and_machine_decide_the_order(
    target: str, arch: str, has_gpu: bool, has_tensorrt: bool
) -> None:
    wanted = CPU if "CPU" in target else ALL
    there = {"onnxruntime": True, "onnxruntime-cuda": has_gpu, "tensorrt": has_gpu and has_tensorrt}

    chosen = plan(TARGETS[target], machine(arch, has_gpu, has_tensorrt), ())

    assert chosen.order == tuple(name for name in wanted if there[name])
    assert chosen.order[-1] == "onnxruntime"


@pytest.mark.parametrize("target", ["jetson_xavier", "ARM64 NVIDIA", "none"])
def test_where_all_is_as_the_package_says_nothing_is_remarked(target: str) -> None:
    assert plan(TARGETS[target], machine("ARM64"), ()).remarks == ()


@pytest.mark.parametrize(
    ("target", "here", "remarks"),
    [
        (
            "jetson_xavier",
            machine("ARM64", has_gpu=False),
            (f"The package was made for a GPU and runs on the CPU here. {NO_GPU}",),
        ),
        ("ARM64 NVIDIA", machine("ARM64", has_tensorrt=False), (NO_TENSORRT,)),
        ("none", machine("X86_64", has_tensorrt=False), (NO_TENSORRT,)),
        ("none", machine("X86_64", has_gpu=False), ()),
        ("X86_64 CPU", machine("X86_64", has_gpu=False, has_tensorrt=False), ()),
        (
            "X86_64 CPU",
            machine("X86_64"),
            (
                "The package was made for a CPU, so H100 isn't used. Package it for an NVIDIA "
                "target, or name the engines in engine.backends.",
            ),
        ),
        (
            "ARM64 CPU",
            machine("X86_64", has_gpu=False),
            (
                "The package was made for ARM64; this machine is X86_64, so the engines and graphs "
                "made for the other aren't used.",
            ),
        ),
        (
            "jetson_xavier",
            machine("X86_64", has_gpu=False),
            (
                "The package was made for jetson_xavier; this machine is X86_64, so the engines "
                "and graphs made for the other aren't used.",
                f"The package was made for a GPU and runs on the CPU here. {NO_GPU}",
            ),
        ),
        (
            "jetson_xavier",
            machine("X86_64"),
            (
                "The package was made for jetson_xavier; this machine is X86_64, so the engines "
                "and graphs made for the other aren't used.",
                "The package was made for sm_72, TensorRT 8.5.2 and CUDA 11.4; this machine's "
                "H100 has sm_90, TensorRT 10.3.0 and a driver for CUDA 12.6, so it builds an "
                "engine of its own.",
            ),
        ),
    ],
)
def test_what_is_not_as_the_package_says_is_a_sentence(
    target: str, here: Machine, remarks: Tuple[str, ...]
) -> None:
    assert plan(TARGETS[target], here, ()).remarks == remarks


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gpu_code": "sm_87"}, "made for sm_87; this machine's Xavier has sm_72, so"),
        (
            {"trt_ver": "8.6.1"},
            "made for TensorRT 8.6.1; this machine's Xavier has TensorRT 8.5.2.2, so",
        ),
        (
            {"cuda_ver": "12.2"},
            "made for CUDA 12.2; this machine's Xavier has a driver for CUDA 11.4, so",
        ),
    ],
)
def test_each_option_that_differs_is_named_alone(options: Dict[str, str], sentence: str) -> None:
    target = nvidia("ARM64", **{**XAVIER_OPTIONS, **options})

    (remark,) = plan(target, machine("ARM64"), ()).remarks

    assert sentence in remark


def test_releases_do_not_matter_where_no_engine_is_built() -> None:
    other = nvidia("ARM64", gpu_code="sm_87", trt_ver="10.3.0", cuda_ver="12.6")

    assert plan(other, machine("ARM64", has_tensorrt=False), ()).remarks == (NO_TENSORRT,)
    assert plan(other, machine("ARM64"), ("onnxruntime-cuda",)).remarks == ()


def test_a_package_that_names_no_gpu_is_unlike_none() -> None:
    assert plan(TARGETS["ARM64 CPU"], machine("ARM64"), ("tensorrt",)).remarks == ()


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_user_names_is_tried_in_his_order(target: str) -> None:
    wanted = ("onnxruntime", "tensorrt")

    assert plan(TARGETS[target], machine("ARM64"), wanted).order == wanted


@pytest.mark.parametrize(
    ("wanted", "here", "order", "remarks"),
    [
        (
            ALL,
            machine("ARM64", has_gpu=False),
            CPU,
            (
                f"tensorrt can't work here. {NO_GPU}",
                f"onnxruntime-cuda can't work here. {NO_GPU}",
            ),
        ),
        (
            ("tensorrt",),
            machine("ARM64", has_tensorrt=False),
            (),
            (f"tensorrt can't work here. {NO_TENSORRT}",),
        ),
        (CPU, machine("ARM64", has_gpu=False), CPU, ()),
    ],
)
def test_what_the_user_names_and_the_machine_cannot_is_a_sentence(
    wanted: Tuple[str, ...], here: Machine, order: Tuple[str, ...], remarks: Tuple[str, ...]
) -> None:
    chosen = plan(XAVIER, here, wanted)

    assert (chosen.order, chosen.remarks) == (order, remarks)
