"""A FAKE of NVIDIA's `tensorrt` for processes that find this folder on PYTHONPATH.

FAKE_TENSORRT: its version. FAKE_TENSORRT_DLA: how many DLA cores there are. FAKE_TENSORRT_FAILURE:
what each build fails with. The driver is what LD_LIBRARY_PATH has as libcuda.so.1: the fake one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[3]))

from tests.fakes import fake_tensorrt, fake_tensorrt_runtime

_fake = fake_tensorrt.tensorrt(
    os.environ.get("FAKE_TENSORRT", "8.5.2.2"),
    dla_cores=int(os.environ.get("FAKE_TENSORRT_DLA", "0")),
    failure=os.environ.get("FAKE_TENSORRT_FAILURE", ""),
)
sys.modules[__name__] = fake_tensorrt_runtime.add_runtime(_fake)
