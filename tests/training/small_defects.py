"""The table of `scripts/small_defects`: 4K pictures with small defects, judged in tiles or not."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List

from rich.console import Console
from rich.table import Table

from edge_agent.evaluation import metrics
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.training.resolution import AUTO, NONE, TileChoice
from edge_agent.training.trainer import train
from edge_agent.types import Prediction
from tests.training import large_pictures
from tests.training.large_pictures import DEFECTS, SURFACES

SIDES = (8, 16, 32, 64)  # pixels
GOOD, TESTED, EACH = 20, 12, 3  # pictures trained on, good ones tested, and of each defect
COLUMNS = ("surface", "tiles", "defect", *(f"{side} px" for side in SIDES), "ms", "train s")


def rows(surface: str, tiles: TileChoice, images: Path) -> Iterator[List[str]]:
    """Train and test on drawn pictures below `images`; yield AUROCs for all defects and each."""
    began = time.monotonic()
    package = images / f"package-{tiles}"
    train(images / "train", package, tiles=tiles, progress=print)
    took_s = time.monotonic() - began
    scores: Dict[Path, float] = {}

    def note(path: Path, prediction: Prediction) -> None:
        scores[path] = prediction.score

    report = evaluate(package, images / "test", on_prediction=note)
    good, bad = (
        [scores[path] for path in sorted((images / "test" / label).iterdir())]
        for label in ("normal", "anomaly")
    )
    by_side = [bad[start :: len(SIDES)] for start in range(len(SIDES))]
    for kind, chosen in (
        ("all", slice(None)),
        *((kind, slice(index, None, len(DEFECTS))) for index, kind in enumerate(DEFECTS)),
    ):
        areas = (metrics.auroc(good, scored[chosen]) for scored in by_side)
        figures = (f"{report.latency_ms:.0f}", f"{took_s:.0f}") if kind == "all" else ("", "")
        yield [surface, str(tiles), kind, *(f"{area:.2f}" for area in areas), *figures]


def main(surfaces: List[str]) -> None:
    """Print the table."""
    table = Table(*COLUMNS)
    bad = [(kind, side) for _ in range(EACH) for kind in DEFECTS for side in SIDES]
    for surface in surfaces or SURFACES:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder)
            large_pictures.write(images / "train", surface, GOOD)
            large_pictures.write(images / "test", surface, TESTED, bad, first_seed=1000)
            for tiles in (NONE, AUTO):
                for row in rows(surface, tiles, images):
                    table.add_row(*row)
        Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
