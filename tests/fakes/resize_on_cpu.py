"""The resizing kernels as a library of C, for the FAKE GPU (its option KERNELS)."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from edge_agent.runtime.backends.gpu_resize import KERNELS

SOURCE = Path(__file__).with_suffix(".c")
KERNEL_SOURCE = KERNELS.with_suffix(".cu")


@functools.lru_cache(maxsize=None)
def kernels() -> str:
    """The path of the library, compiled once."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to run the GPU's kernels on the CPU with")
    folder = Path(tempfile.mkdtemp(prefix="resize-on-cpu-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "kernels.so"
    words = ["-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    place = [f"-I{KERNEL_SOURCE.parent}", "-o", str(library), str(SOURCE), "-lm"]
    subprocess.run([compiler, *words, *place], check=True)
    return str(library)
