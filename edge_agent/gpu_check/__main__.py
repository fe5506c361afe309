"""`python -m edge_agent.gpu_check`: builds, compares, measures and breaks engines on this GPU.

Exit status 0: no check failed; 1: one did, or with --strict a goal wasn't measured; 2: nothing can
be checked here, the reason is on standard error.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import List

# module → the package that brings it
NEEDED = {
    "numpy": "numpy", "pydantic": "pydantic", "cv2": "opencv-python-headless", "onnx": "onnx",
    "onnxruntime": "onnxruntime", "grpc": "grpcio", "google": "protobuf",
}  # fmt: skip
CANT_CHECK = 2


def main(words: List[str]) -> int:
    """Run the requested checks."""
    arguments = _parser().parse_args(words)
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        return _refuse(
            f"{sys.executable} (Python {platform.python_version()}) lacks {', '.join(missing)}; "
            f"install them: {sys.executable} -m pip install {' '.join(missing)}"
        )
    # gRPC's fork handlers may crash a process that starts others after it was a client.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Read when CUDA is loaded: kernels that are loaded as they are needed leave memory to engines.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    from edge_agent.errors import EdgeAgentError
    from edge_agent.gpu_check.acceptance import run

    try:
        with tempfile.TemporaryDirectory(prefix="edge-agent-gpu-check-") as folder:
            return run(arguments, Path(folder))
    except EdgeAgentError as error:
        return _refuse(str(error))


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"gpu_check: {sentence}\n")
    return CANT_CHECK


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} isn't a whole number from 1 on")
    return int(word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    add = parser.add_argument
    add(
        "--out", type=Path, default=Path("build/gpu_check"), help="folder of the JSON (%(default)s)"
    )
    add("--package", type=Path, help="check this model package instead of the demo's model")
    add("--data", type=Path, action="append", default=[], help="folder with normal/ and anomaly/")
    add("--batches", type=_count, nargs="+", default=[1, 4, 16], help="batch sizes (1 4 16)")
    add("--seconds", type=float, default=5.0, help="of each measurement (%(default)s)")
    add("--rounds", type=_count, default=1000, help="starts and stops (%(default)s)")
    add("--clients", type=_count, default=8, help="that call the agent (%(default)s)")
    add("--pictures", type=_count, default=40, help="drawn parts to compare on (%(default)s)")
    add("--parts", type=_count, default=100, help="drawn parts to train on (%(default)s)")
    add(
        "--within", type=_count, default=540, metavar="SECONDS",
        help="checks that have not started by then are skipped (%(default)s)",
    )  # fmt: skip
    add("--strict", action="store_true", help="a goal that was not measured is a failure")
    add(
        "--goal", action="append", default=[], metavar="NAME=VALUE",
        help="another goal: loop=0.95, served=0.85, overlap=1.0, cached_start_s=2.0",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
