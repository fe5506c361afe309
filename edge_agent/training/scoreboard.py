"""The table of `scripts/auroc`: each set of images, trained in four ways, tested on its test."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

from rich.console import Console
from rich.table import Table

from edge_agent.evaluation.evaluator import evaluate
from edge_agent.training.backbones import LITE0, NONE, BackboneOptions
from edge_agent.training.trainer import train

COLUMNS = ("set", "trained with", "AUROC", "overkill %", "escape %", "train s", "ms", "MB")


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


def score_sets(folder: Path) -> Table:
    """Train on SET/train and evaluate on SET/test for each SET of `folder`, in each of WAYS."""
    table = Table(*COLUMNS, padding=(0, 0))
    found: Dict[str, List[float]] = {way.name: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as workplace:
        for images in sorted(path for path in folder.iterdir() if (path / "test").is_dir()):
            for way in WAYS:
                package = Path(workplace) / f"{images.name}-{way.name}"
                auroc, *others = _score(images, package, way)
                found[way.name].append(auroc)
                table.add_row(images.name, way.name, f"{auroc:.3f}", *others)
    for name, aurocs in found.items():
        table.add_row("mean", name, f"{sum(aurocs) / max(len(aurocs), 1):.3f}")
    return table


def _score(images: Path, package: Path, way: Way) -> tuple[float, str, str, str, str, str]:
    began = time.monotonic()
    train(
        images / "train",
        package,
        normal_only=way.normal_only,
        backbone=way.backbone,
        progress=lambda _: None,
    )
    training_s = time.monotonic() - began
    report = evaluate(package, images / "test")
    package_bytes = sum(file.stat().st_size for file in package.iterdir() if file.is_file())
    return (
        report.image_auroc or 0.0,
        f"{100.0 * report.false_alarms / max(report.count_normal, 1):.1f}",
        f"{100.0 * report.missed / max(report.count_anomaly, 1):.1f}",
        f"{training_s:.1f}",
        f"{report.latency_ms:.1f}",
        f"{package_bytes / 1e6:.1f}",
    )


if __name__ == "__main__":
    Console().print(score_sets(Path(sys.argv[1])))
