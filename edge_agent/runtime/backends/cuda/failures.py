"""What the driver's codes mean to people, and which of them end the process's use of the GPU."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from edge_agent.errors import BackendUnavailable, GpuFailed

NO_DEVICE, NOT_FOUND = 100, 500
NO_GPU = "This machine has no NVIDIA GPU that the driver can use."

# Source: the comments on CUresult in cuda.h of CUDA 13. Of the first it says "any further CUDA work
# will return the same error. To continue using CUDA, the process must be terminated and
# relaunched"; of the second that the context or the device is gone or damaged (uncorrectable
# errors of its memory and links), or, 999, that it can't say what happened.
DEADLY = {226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 810, 911}
LOST = {46, NO_DEVICE, 214, 220, 709, 710, 999}
STICKY = DEADLY | LOST

ADVICE = {
    2: "Stop other models or programs that use the GPU, or use smaller batches.",
    34: "This libcuda.so.1 is only for linking; take its folder out of LD_LIBRARY_PATH.",
    46: "Another program may use it alone; see nvidia-smi.",
    803: "The driver was updated while the machine ran; restart the machine.",
    804: "A CUDA compatibility package isn't for this GPU; take it out of LD_LIBRARY_PATH.",
}
UNUSABLE = "This process can't use the GPU any more; another one can."
ODD = "If it happens again, restart the machine, and report it with the agent's log."


def failure(call: str, code: int, words: str) -> GpuFailed:
    """Build the error of `call`, a function of the driver; `words` are the driver's own."""
    advice = ADVICE.get(code) or (UNUSABLE if code in STICKY else ODD)
    sentence = f"The GPU can't be used: {call} failed, {words} ({code}). {advice}"
    return GpuFailed.after(sentence, code, code in STICKY)


def missing(call: str) -> GpuFailed:
    """Build the error of a function that the driver doesn't have."""
    sentence = f"The GPU can't be used: the driver is too old to have {call}. Install a newer one."
    return GpuFailed.after(sentence, NOT_FOUND, False)


@contextmanager
def opening() -> Iterator[None]:
    """Turn what fails while the driver is opened into BackendUnavailable."""
    try:
        yield
    except GpuFailed as error:
        raise BackendUnavailable(NO_GPU if error.code == NO_DEVICE else str(error)) from None
