"""A FAKE of the CUDA driver, compiled from fake_cuda.c, which says what it does.

Processes find it through LD_LIBRARY_PATH, its options through the environment (FAKE_CUDA_NAME=...)
or as a file beside it, as `driver` writes them.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Tuple

import pytest

SOURCE = Path(__file__).with_suffix(".c")


@functools.lru_cache(maxsize=None)
def _compiled() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a fake CUDA driver with")
    folder = Path(tempfile.mkdtemp(prefix="fake-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "libcuda.so.1"
    words = ["-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *words, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def driver(
    folder: Path,
    capability: Tuple[int, int] = (7, 2),
    name: str = "Xavier",
    init: int = 0,
    **options: Any,
) -> str:
    """The path of a libcuda.so.1 in `folder`, with a GPU of its own.

    init: what cuInit returns. options: others of fake_cuda.c, in small letters.
    """
    library = folder / "libcuda.so.1"
    library.unlink(missing_ok=True)  # a loaded one stays what it is
    shutil.copy(_compiled(), library)
    values = {"capability": "{}.{}".format(*capability), "name": name, "init": init, **options}
    lines = [f"{key.upper()}={value}\n" for key, value in values.items()]
    (folder / "options").write_text("".join(lines))
    return str(library)


def left(library: str) -> int:
    """How much wasn't given back; `left_words` says what."""
    return int(ctypes.CDLL(library).fake_left())


def left_words(library: str) -> str:
    words = ctypes.CDLL(library).fake_left_words
    words.restype = ctypes.c_char_p
    return bytes(words()).decode()
