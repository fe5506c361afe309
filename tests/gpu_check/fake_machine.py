"""A machine with a GPU and TensorRT, both FAKE: environments in which `scripts/gpu_check` runs.

TensorRT is found the way that users have for it, through the folder EDGE_AGENT_TENSORRT, which
holds the fake driver as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from tests import ROOT
from tests.fakes import fake_cuda

SCRIPT = ROOT / "scripts" / "gpu_check"
NAME = "Fake GPU, no real one"
FREE = 256 << 20  # which the check fills with real memory
SMALL = [
    "--batches", "1", "3", "--seconds", "0.1", "--rounds", "2", "--pictures", "4", "--clients", "2",
    "--goal", "loop=0", "--goal", "served=0", "--goal", "overlap=0", "--goal", "cached_start_s=60",
]  # fmt: skip

TENSORRT = """
import sys
sys.path.insert(1, {root!r})
from tests.fakes import fake_tensorrt, fake_tensorrt_runtime
{change}
made = fake_tensorrt.tensorrt({version!r})
sys.modules[__name__] = fake_tensorrt_runtime.add_runtime(made)
"""

# What the kernel of the check does on a real GPU: from then on every call fails.
KERNELS = """
#include <dlfcn.h>
void fake_write_to_zero(const unsigned *grid, const unsigned *block, void **arguments)
{{
  void (*fail)(const char *) = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "fake_fault");
  if ({is_harmful}) fail("cuEventSynchronize:1=700");
}}
"""


def environment(
    folder: Path,
    version: str = "8.5.2.2",
    change: str = "",
    has_harmful_kernel: bool = True,
    **options: Any,
) -> Dict[str, str]:
    """change: lines of Python that make the fake TensorRT worse. options: of the fake driver.

    has_harmful_kernel: the kernel that writes to address 0 does harm.
    """
    module, libraries = folder / "tensorrt", folder / "lib"
    module.mkdir(parents=True)
    libraries.mkdir()
    text = TENSORRT.format(root=str(ROOT), version=version, change=change)
    (module / "__init__.py").write_text(text)
    fake_cuda.driver(
        libraries, name=NAME, version=13000, free=FREE, total=FREE, report=folder / "left",
        kernels=_kernels(folder, has_harmful_kernel), **options,
    )  # fmt: skip
    return {**clean(), "EDGE_AGENT_TENSORRT": str(folder)}


def clean() -> Dict[str, str]:
    """The environment without what would lead to a real GPU's software."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGE_AGENT_")}
    return {**kept, "VENV": sys.prefix}


def gpu_check(words: List[str], environment: Dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )


def states(out: Path) -> Dict[str, str]:
    """How each check ended, from the JSON."""
    found = json.loads((out / "gpu_check.json").read_bytes())
    return {check["name"]: check["state"] for check in found["checks"]}


def _kernels(folder: Path, is_harmful: bool) -> Path:
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text(KERNELS.format(is_harmful=int(is_harmful)))
    compiler = shutil.which("cc")
    assert compiler is not None  # the fake driver was compiled as well
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library
