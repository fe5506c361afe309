"""From drawn good parts to a model package."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from edge_agent.demo import SEED, parts
from edge_agent.errors import InvalidRequest
from edge_agent.runtime.system import resources
from edge_agent.runtime.vision.picture_files import png
from edge_agent.training import trainer

MODEL = "demo"
GOOD_PARTS = 100


def make_package(folder: Path, good_parts: int = GOOD_PARTS) -> Path:
    """Draw good parts into `folder`, train on them and return the model package's folder.

    It is the same model each time.
    """
    draw_good_parts(folder / "parts", good_parts, SEED)
    return train(folder / "parts", folder / "models", SEED, lambda _: None)


def draw_good_parts(folder: Path, count: int, seed: int) -> None:
    """Write `count` pictures to train on into `folder`/normal."""
    normal = emptied(folder / "normal")

    def draw(index: int) -> None:
        picture = parts.draw(parts.training_seed(seed, index)).image
        (normal / f"{index + 1:03}.png").write_bytes(png(picture))

    # numpy and OpenCV work without the interpreter's lock.
    with ThreadPoolExecutor(resources.cores()) as pool:
        list(pool.map(draw, range(count)))


def train(folder: Path, models: Path, seed: int, progress: Callable[[str], None]) -> Path:
    """Train on `folder`/normal and return the package, a folder inside `models`."""
    package = models / MODEL
    models.mkdir(parents=True, exist_ok=True)
    trainer.train(folder, package, normal_only=True, name=MODEL, seed=seed, progress=progress)
    return package


def emptied(folder: Path) -> Path:
    """Make `folder`, remove the pictures an earlier run left in it, and return it.

    Raises InvalidRequest when pictures in it are somebody's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [path for path in folder.glob("*.png") if path.is_file()]
    mark = folder.with_name(f".{folder.name}.drawn")
    if pictures and not mark.exists():
        raise InvalidRequest(
            f"{folder} holds images that this demo may not have drawn, and would remove. Choose "
            "another --out, or move them away."
        )
    mark.touch()
    for picture in pictures:
        picture.unlink()
    return folder
