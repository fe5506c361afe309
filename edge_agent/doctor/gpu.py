"""The GPU, what calls it, and what computes on it, tried in processes of their own."""

from __future__ import annotations

from importlib.util import find_spec
from typing import List

from edge_agent.doctor import MISSING, OK, PROBLEM, CheckResult
from edge_agent.runtime.engines.machine import Machine, look
from edge_agent.runtime.processes.channel import Message
from edge_agent.runtime.processes.inquiry import ask

TRIAL = "edge_agent.doctor.trial"
WITHIN_S = 60.0  # the first use of a GPU may compile kernels
PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


def results() -> List[CheckResult]:
    """Name the GPU, CUDA, TensorRT, and what a session of onnxruntime really computes on."""
    machine = look(WITHIN_S)
    facts, ending = ask(TRIAL, "tries onnxruntime and the GPU", WITHIN_S)
    trial: Message = {name: value for fact in facts for name, value in fact.items()}
    called = machine.cuda_package and f"called through {machine.cuda_package}"
    return [
        _gpu(machine, trial),
        _check("CUDA", called, "not used: there is no GPU"),
        _check("TensorRT", machine.tensorrt, machine.no_tensorrt),
        *([_providers(machine, trial, ending)] if find_spec("onnxruntime") else []),
    ]


def _gpu(machine: Machine, trial: Message) -> CheckResult:
    gpu, jetson = machine.gpu, f"Jetson with L4T {machine.jetson}, " if machine.jetson else ""
    if gpu is None:
        return CheckResult("GPU", MISSING, f"{jetson}{machine.no_gpu} Models run on the CPU.")
    driver = f"driver {gpu.driver or 'unknown'} for CUDA {gpu.cuda}"
    parts = (f"{jetson}{gpu.name}", gpu.code, driver, trial.get("memory", ""))
    return CheckResult("GPU", OK, ", ".join(part for part in parts if part))


def _check(what: str, detail: str, missing: str) -> CheckResult:
    return CheckResult(what, OK if detail else MISSING, detail or missing)


def _providers(machine: Machine, trial: Message, ending: str) -> CheckResult:
    """Say which of them computed a model; a list of providers proves nothing."""
    parts, used = [], False
    for name, provider in PROVIDERS.items():
        one = trial.get(name, {"device": "", "reason": ending})
        if one["device"]:
            used = True
            parts.append(f"{provider} computes on the {one['device']}")
        elif name == "onnxruntime" or machine.gpu is not None:
            parts.append(f"{provider} doesn't compute: {one['reason']}")
    return CheckResult("onnxruntime providers", OK if used else PROBLEM, "; ".join(parts))
