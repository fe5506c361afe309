"""`scripts/auroc --anomalib`: our models beside anomalib's, trained and tested on the same images.

anomalib runs in an environment of its own, in processes that call nobody.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from edge_agent.evaluation import metrics
from edge_agent.training import scoreboard
from edge_agent.training.scoreboard import Score, Way
from scripts.peers import process
from scripts.peers.anomalib.methods import METHODS

WAYS = scoreboard.WAYS[:2]  # of ours, those without labels: anomalib learns from good images alone
REPOSITORY = Path(__file__).parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
QUIET = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
# PatchCore keeps a small tensor of each step between large ones that it frees. glibc would take new
# memory for each large one, 20 GB for 23 images; so it gives large ones back, see mallopt(3), and
# PyTorch asks for huge pages, or fresh memory would take half of each step.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "THP_MEM_ALLOC_ENABLE": "1"}
POLL_S = 0.2
UNTIMED_RUNS, RUNS = 10, 100
NOTE = (
    "anomalib learns from four fifths of the good images; the others and the bad ones place its "
    "threshold. Ours has all good ones and no bad ones. train s, CPU s: until there is a model to "
    "serve. ms: the ONNX graph alone on one thread, of its own time, median. MB: what the device "
    "needs. over: more than anomalib's training and scores may take."
)


class Limits(NamedTuple):
    """What the training of one model, and the scores of its test images, may take."""

    minutes: float
    gigabytes: float  # of 10^9 bytes


class Row(NamedTuple):
    """One line of the table: a score, or the reason why there is none."""

    images: str
    method: str
    score: Optional[Score] = None
    reason: str = ""

    @property
    def cells(self) -> Tuple[str, ...]:
        """As scoreboard.COLUMNS has them."""
        return (
            self.images,
            self.method,
            *(self.score.cells if self.score else (self.reason.split(":")[0],)),
        )


def rows(images: Path, python: Path, limits: Limits) -> Iterator[Row]:
    """Train and test each of WAYS and, with the interpreter that has anomalib, each of METHODS."""
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            yield ours(images, Path(folder) / "package", way)
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            yield anomalibs(images, Path(folder), method, python, limits)


def ours(images: Path, package: Path, way: Way) -> Row:
    """Train and test a model of ours."""
    score = scoreboard.measure(images, package, way)
    in_graph = score._replace(latency_ms=graph_ms(package / "model.onnx"))
    return Row(images.name, f"ours, {way.name}", in_graph)


def anomalibs(images: Path, folder: Path, method: str, python: Path, limits: Limits) -> Row:
    """Train and test a model of anomalib's in a process of its own, which works in `folder`."""
    command = [str(python), "-m", "scripts.peers.anomalib.training", str(images.resolve())]
    log = folder / "log"
    with process.running(
        [*command, method, str(folder)], REPOSITORY, {**OFFLINE, **QUIET, **ALLOCATOR}, log
    ) as training:
        reason = failure(training, log, limits)
    if reason:
        return Row(images.name, method, reason=reason)
    found = json.loads((folder / "result.json").read_text())
    return Row(images.name, method, score_of(found, folder / "weights" / "onnx"))


def failure(training: subprocess.Popen[bytes], log: Path, limits: Limits) -> str:
    """Wait for the end of a training; return why it has no result, "": it has one."""
    deadline = time.monotonic() + 60.0 * limits.minutes
    while training.poll() is None:
        if process.usage(training.pid).memory_mib * 2**20 > limits.gigabytes * 1e9:
            return f"over {limits.gigabytes:g} GB"
        if time.monotonic() > deadline:
            return f"over {limits.minutes:g} min"
        time.sleep(POLL_S)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    return " ".join(["failed:", *last]) if training.returncode else ""


def score_of(found: Mapping[str, Any], exported: Path) -> Score:
    """Return what a model is worth by its scores of test images, threshold and files."""
    normal, anomaly = np.array(found["normal"]), np.array(found["anomaly"])
    threshold = found["threshold"]  # a score is anomalous above it
    return Score(
        auroc=metrics.auroc(normal, anomaly),
        overkill=float((normal > threshold).mean()),
        escape=float((anomaly <= threshold).mean()),
        training_s=found["training_s"],
        cpu_s=found["cpu_s"],
        latency_ms=graph_ms(exported / "model.onnx"),
        bytes=sum(file.stat().st_size for file in exported.iterdir()),
    )


def graph_ms(model: Path) -> float:
    """Return the median time that one thread of onnxruntime computes on one image.

    A thread's own time, which others on the machine don't lengthen.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 1 for side in entry.shape]
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = pixels if entry.type == "tensor(uint8)" else (pixels / 255.0).astype(np.float32)
    times_ms: List[float] = []
    for _ in range(UNTIMED_RUNS + RUNS):
        began_s = time.thread_time()
        session.run(None, {entry.name: image})
        times_ms.append(1000.0 * (time.thread_time() - began_s))
    return float(np.median(times_ms[UNTIMED_RUNS:]))


def main() -> int:
    """Print a line of the table when it is there, then the table; 1 when a line has no score."""
    parser = argparse.ArgumentParser(prog="scripts/auroc --anomalib", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of sets of images")
    parser.add_argument("python", type=Path, help="interpreter that has anomalib")
    parser.add_argument("sets", nargs="*", help="names of sets (default: all)")
    parser.add_argument("--minutes", type=float, default=60.0, help="for one of anomalib's models")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of memory for it")
    arguments = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaves no training behind
    limits = Limits(arguments.minutes, arguments.gigabytes)
    known = [images.name for images in scoreboard.sets(arguments.data)]
    for name in arguments.sets:
        if name not in known:
            parser.error(f"There is no set {name} in {arguments.data}, but {', '.join(known)}.")
    table = Table(*scoreboard.COLUMNS, padding=(0, 0))
    progress = Console(stderr=True, highlight=False)
    missing = 0
    for name in arguments.sets or known:
        for row in rows(arguments.data / name, arguments.python, limits):
            progress.print("  ".join(row.cells), row.reason, markup=False, soft_wrap=True)
            table.add_row(*row.cells)
            missing += row.score is None
    console = Console()
    console.print(table)
    console.print(NOTE, highlight=False)
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
