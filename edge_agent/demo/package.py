"""From drawn good parts to a model package."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from edge_agent.demo import parts
from edge_agent.demo.pictures import emptied, write
from edge_agent.training import trainer

MODEL = "demo"
GOOD_PARTS = 100


def draw_good_parts(folder: Path, count: int, seed: int) -> None:
    """Write `count` pictures to train on into `folder`/normal."""
    normal = emptied(folder / "normal")

    def draw(index: int) -> None:
        write(normal / f"{index + 1:03}.png", parts.draw(parts.training_seed(seed, index)).image)

    with ThreadPoolExecutor() as pool:  # numpy and OpenCV work without the interpreter's lock
        list(pool.map(draw, range(count)))


def train(folder: Path, models: Path, seed: int, tell: Callable[[str], None]) -> Path:
    """Train on `folder`/normal and return the package, a folder inside `models`."""
    package = models / MODEL
    models.mkdir(parents=True, exist_ok=True)
    trainer.train(folder, package, normal_only=True, name=MODEL, seed=seed, progress=tell)
    return package
