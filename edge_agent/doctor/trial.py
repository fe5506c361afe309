"""Computes a tiny model with each provider of onnxruntime, and reads the memory of the GPU.

`python -m edge_agent.doctor.trial` reports the outcome; in a process of its own, because libraries
that don't fit each other may crash.
"""

from __future__ import annotations

import base64
from typing import Tuple, Type

import numpy as np

from edge_agent.doctor import MIB
from edge_agent.errors import EdgeAgentError
from edge_agent.manifest import MODEL_FILE, FileEntry, InputSpec, Manifest, OutputSpec
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.cuda.driver import open_driver
from edge_agent.runtime.backends.ort import OrtBackend, OrtCudaBackend
from edge_agent.runtime.processes.parent import answering

SIDE = 8

# image (N, 8, 8, 3) uint8 → Cast, Transpose, Conv (r + g + b), ReduceMean → score (N)
MODEL = base64.b64decode(
    "CAg6iAIKHwoFaW1hZ2USBWZsb2F0IgRDYXN0KgkKAnRvGAGgAQIKLQoFZmxvYXQSBnBsYW5lcyIJVHJhbnNwb3Nl"
    "KhEKBHBlcm1AAEADQAFAAqABBwoaCgZwbGFuZXMKBG9uZXMSBHN1bXMiBENvbnYKOwoEc3VtcxIFc2NvcmUiClJl"
    "ZHVjZU1lYW4qDwoEYXhlc0ABQAJAA6ABByoPCghrZWVwZGltcxgAoAECEgV0cmlhbCoeCAEIAwgBCAEQAUIEb25l"
    "c0oMAACAPwAAgD8AAIA/WiAKBWltYWdlEhcKFQgCEhEKAxIBTgoCCAgKAggICgIIA2IUCgVzY29yZRILCgkIARIF"
    "CgMSAU5CBAoAEA0="
)
MANIFEST = Manifest(
    name="trial",
    task="classification",
    input=InputSpec(tensor="image", height=SIDE, width=SIDE),
    outputs=OutputSpec(score="score"),
    files=(FileEntry.of(MODEL_FILE, MODEL),),
)


def main() -> None:
    """Report for each backend the device or why it doesn't compute, and the GPU's memory."""
    with answering() as report:
        report({"memory": _memory()})
        for kind in (OrtBackend, OrtCudaBackend):
            device, reason = compute(kind)
            report({kind.name: {"device": device, "reason": reason}})


def compute(kind: Type[OrtBackend]) -> Tuple[str, str]:
    """Return the device on which the model was computed, or why it wasn't."""
    try:
        backend = kind(MODEL, MANIFEST, BackendOptions(threads=1))
        score = backend.run(np.full((1, SIDE, SIDE, 3), 10, np.uint8))["score"]
    except EdgeAgentError as error:
        return "", str(error)
    device = backend.device
    backend.close()
    wrong = abs(float(score[0]) - 30.0) > 0.01
    return ("", f"{device} gives {score[0]:g} instead of 30") if wrong else (device, "")


def _memory() -> str:
    try:
        driver = open_driver()
        with driver.context():
            free, total = driver.free_bytes() // MIB, driver.total_bytes() // MIB
    except EdgeAgentError:
        return ""
    return f"{free} of {total} MiB of memory free"


if __name__ == "__main__":
    main()
