"""The table of `scripts/auroc`: each set of images, trained in four ways, tested on its test."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from rich.console import Console
from rich.table import Table

from edge_agent.evaluation.evaluator import evaluate
from edge_agent.training.backbones import LITE0, NONE, BackboneOptions
from edge_agent.training.trainer import train

COLUMNS = ("set", "trained with", "AUROC", "overkill %", "escape %", "train s", "CPU s", "ms", "MB")


class Way(NamedTuple):
    """How a model is trained."""

    name: str
    normal_only: bool
    backbone: BackboneOptions


WAYS = (
    Way("normals", True, BackboneOptions(NONE)),
    Way("normals, backbone", True, BackboneOptions(LITE0)),
    Way("labels", False, BackboneOptions(NONE)),
    Way("labels, backbone", False, BackboneOptions(LITE0)),
)


class Score(NamedTuple):
    """What a model is worth and costs. Shares are of the test images of one label.

    cpu_s: of the training, on all threads together; unlike training_s the same on a busy machine.
    """

    auroc: float
    overkill: float
    escape: float
    training_s: float
    cpu_s: float
    latency_ms: float
    bytes: int

    @property
    def cells(self) -> Tuple[str, ...]:
        """As COLUMNS has them."""
        return (
            f"{self.auroc:.3f}",
            f"{100.0 * self.overkill:.1f}",
            f"{100.0 * self.escape:.1f}",
            f"{self.training_s:.1f}",
            f"{self.cpu_s:.1f}",
            f"{self.latency_ms:.1f}",
            f"{self.bytes / 1e6:.1f}",
        )


def score_sets(folder: Path) -> Table:
    """Train on SET/train and evaluate on SET/test for each SET of `folder`, in each of WAYS."""
    table = Table(*COLUMNS, padding=(0, 0))
    found: Dict[str, List[float]] = {way.name: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as workplace:
        for images in sets(folder):
            for way in WAYS:
                score = measure(images, Path(workplace) / f"{images.name}-{way.name}", way)
                found[way.name].append(score.auroc)
                table.add_row(images.name, way.name, *score.cells)
    for name, aurocs in found.items():
        table.add_row("mean", name, f"{sum(aurocs) / max(len(aurocs), 1):.3f}")
    return table


def sets(folder: Path) -> List[Path]:
    """Return the sets of images in `folder`."""
    return sorted(path for path in folder.iterdir() if (path / "test").is_dir())


def measure(images: Path, package: Path, way: Way) -> Score:
    """Train a new `package` on SET/train and evaluate it on SET/test."""
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    train(
        images / "train",
        package,
        normal_only=way.normal_only,
        backbone=way.backbone,
        progress=lambda _: None,
    )
    training_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    report = evaluate(package, images / "test")
    return Score(
        auroc=report.image_auroc,
        overkill=report.false_alarms / report.count_normal,
        escape=report.missed / report.count_anomaly,
        training_s=training_s,
        cpu_s=cpu_s,
        latency_ms=report.latency_ms,
        bytes=sum(file.stat().st_size for file in package.iterdir() if file.is_file()),
    )


if __name__ == "__main__":
    Console().print(score_sets(Path(sys.argv[1])))
