"""In which order the engines are tried: by the package's target and by what the machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Sequence, Tuple

from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.engines.machine import Machine
from edge_agent.targets import TargetSpec

TENSORRT, CUDA, CPU = "tensorrt", "onnxruntime-cuda", "onnxruntime"


@dataclass(frozen=True)
class BackendPlan:
    """Backends, the best first; and what isn't as the package or the settings want it, and why."""

    order: Tuple[str, ...]
    remarks: Tuple[str, ...] = ()


def plan(target: Optional[TargetSpec], machine: Machine, wanted: Sequence[str]) -> BackendPlan:
    """Choose the backends for a package made for `target`; None: made for no machine in particular.

    wanted: what the settings name, in their order; empty: what suits the target. What can't work on
    this machine isn't among the order, which may then be empty; a remark says why.
    """
    missing = _missing(machine)
    named = tuple(wanted) or _suitable(target)
    order = tuple(name for name in named if name not in missing)
    lost = _refused(named, missing) if wanted else _lost(target, machine, missing)
    return BackendPlan(order, tuple(dict.fromkeys([*_on_target(target, machine, order), *lost])))


def _missing(machine: Machine) -> Dict[str, str]:
    """Return backend → why it can't work here."""
    if machine.gpu is None:
        return {TENSORRT: machine.no_gpu, CUDA: machine.no_gpu}
    return {} if machine.tensorrt else {TENSORRT: machine.no_tensorrt}


def _suitable(target: Optional[TargetSpec]) -> Tuple[str, ...]:
    if target is not None and target.accelerator is None:
        return (CPU,)
    return (TENSORRT, CUDA, CPU)


def _refused(named: Sequence[str], missing: Dict[str, str]) -> Iterator[str]:
    for name in named:
        if name in missing:
            yield f"{name} can't work here. {missing[name]}"


def _lost(target: Optional[TargetSpec], machine: Machine, missing: Dict[str, str]) -> Iterator[str]:
    """Say what the target wanted, or the GPU could do, and can't be had."""
    if target is None or target.accelerator is not None:
        if machine.gpu is not None:
            yield from missing.values()
        elif target is not None:
            yield f"The package was made for a GPU and runs on the CPU here. {machine.no_gpu}"
    elif machine.gpu is not None:
        yield (
            f"The package was made for a CPU, so {machine.gpu.name} isn't used. Package it for an "
            "NVIDIA target, or name the engines in engine.backends."
        )


def _on_target(
    target: Optional[TargetSpec], machine: Machine, order: Sequence[str]
) -> Iterator[str]:
    """Say in what the machine isn't the target."""
    if target is None:
        return
    if target.arch != machine.arch:
        yield (
            f"The package was made for {target.device or target.arch}; this machine is "
            f"{machine.arch}, so the engines and graphs made for the other aren't used."
        )
    if TENSORRT in order and machine.gpu is not None:
        yield from _unlike(target, machine, machine.gpu)


def _unlike(target: TargetSpec, machine: Machine, gpu: Gpu) -> Iterator[str]:
    """Say that an engine must be built for another GPU or release than the package names."""
    pairs = [
        (target.gpu_code, gpu.code, gpu.code),
        (target.trt_ver, release(machine.tensorrt), f"TensorRT {machine.tensorrt}"),
        (target.cuda_ver, gpu.cuda, f"a driver for CUDA {gpu.cuda}"),
    ]
    words = ("{}", "TensorRT {}", "CUDA {}")
    unlike = [
        (word.format(wanted), here)
        for word, (wanted, found, here) in zip(words, pairs)
        if wanted not in (None, found)
    ]
    if unlike:
        yield (
            f"The package was made for {_and([wanted for wanted, _ in unlike])}; this machine's "
            f"{gpu.name} has {_and([here for _, here in unlike])}, so it builds an engine "
            "of its own."
        )


def release(version: str) -> str:
    """Return the part of a TensorRT version that a target names: "8.5.2" of "8.5.2.2"."""
    return ".".join(version.split(".")[:3])


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
