"""A FAKE of the CUDA driver: a libcuda.so.1 whose "GPU memory" is the process's own."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Tuple

import pytest

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <stddef.h>
typedef int device; typedef unsigned long long address; typedef void *context;
static int depth, retained, allocated;
int fake_left(void) { return depth + retained + allocated; }
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 11040; return 0; }
int cuDeviceGet(device *found, int ordinal) { *found = 0; return ordinal; }
int cuDeviceGetName(char *name, int length, device one) { strncpy(name, NAME, length); return 0; }
int cuDeviceGetAttribute(int *value, int which, device one)
{ *value = which == 75 ? MAJOR : which == 76 ? MINOR : -1; return 0; }
int cuDevicePrimaryCtxRetain(context *made, device one) { *made = &depth; retained++; return 0; }
int cuDevicePrimaryCtxRelease_v2(device one) { retained--; return 0; }
int cuCtxPushCurrent_v2(context one) { depth++; return one == &depth ? 0 : 201; }
int cuCtxPopCurrent_v2(context *one) { *one = &depth; depth--; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total)
{ *free = (size_t)6 << 30; *total = (size_t)8 << 30; return depth ? 0 : 201; }
int cuMemAlloc_v2(address *made, size_t size)
{ if (!depth) return 201; if (size > LARGEST) return 2;
  *made = (address)malloc(size); allocated++; return 0; }
int cuMemFree_v2(address one)
{ if (!depth) return 201; free((void *)one); allocated--; return 0; }
int cuMemcpyHtoD_v2(address to, const void *from, size_t size)
{ memcpy((void *)to, from, size); return depth ? 0 : 201; }
int cuGetErrorString(int code, const char **text)
{ *text = code == 2 ? "out of memory" : code == 201 ? "invalid device context" : "unknown";
  return 0; }
"""


def driver(
    folder: Path,
    capability: Tuple[int, int] = (7, 2),
    name: str = "Xavier",
    init: int = 0,
    largest: int = 1 << 40,
) -> str:
    """The path of a fake libcuda.so.1; `init` is what cuInit returns, `largest` a buffer's limit.

    `fake_left` in it counts contexts and buffers that weren't given back.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a fake CUDA driver with")
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    values = {
        "INIT": init, "NAME": f'"{name}"', "MAJOR": capability[0], "MINOR": capability[1],
        "LARGEST": f"{largest}ull",
    }  # fmt: skip
    words = [f"-D{key}={value}" for key, value in values.items()]
    subprocess.run(
        [compiler, "-shared", "-fPIC", *words, "-o", str(library), str(source)], check=True
    )
    return str(library)


def left(library: str) -> int:
    return int(ctypes.CDLL(library).fake_left())
