"""The table of `scripts/auroc`: each set of images, trained on normals only, tested on its test."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_agent.evaluation.evaluator import evaluate
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.training.trainer import train

COLUMNS = ("set", "normals", "AUROC", "F1", "best F1", "training s", "ms/image", "package MB")


def score_sets(folder: Path) -> Table:
    """Train on SET/train and evaluate on SET/test for each SET of `folder`."""
    table = Table(*COLUMNS, padding=(0, 0))
    with tempfile.TemporaryDirectory() as workplace:
        for images in sorted(path for path in folder.iterdir() if (path / "test").is_dir()):
            table.add_row(*_score(images, Path(workplace) / images.name))
    return table


def _score(images: Path, package: Path) -> tuple[str, ...]:
    began = time.monotonic()
    train(images / "train", package, normal_only=True, progress=lambda _: None)
    training_s = time.monotonic() - began
    report = evaluate(package, images / "test")
    package_bytes = sum(file.stat().st_size for file in package.iterdir())
    return (
        images.name,
        str(len(LabelledImages.of(images / "train").normal)),
        f"{report.image_auroc:.3f}",
        f"{report.f1:.3f}",
        f"{report.best_f1:.3f}",
        f"{training_s:.1f}",
        f"{report.latency_ms:.1f}",
        f"{package_bytes / 1e6:.2f}",
    )


if __name__ == "__main__":
    Console().print(score_sets(Path(sys.argv[1])))
