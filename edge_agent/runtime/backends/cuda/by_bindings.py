"""NVIDIA's own package: cuda-bindings from 12.3, for CPython 3.8 cuda-python 12.3."""

from __future__ import annotations

from typing import Any

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.runtime.backends.cuda.by_ctypes import BROUGHT as DRIVER_BROUGHT
from edge_agent.runtime.backends.cuda.c_api import CApi

BROUGHT = "pip install cuda-bindings"
