"""The training images at the model's size, and facts about their files that may leak the label."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ANOMALY, NORMAL, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages, read_frame
from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.light import measure
from edge_agent.runtime.vision.preprocess import write_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.training.graph import Size
    from edge_agent.types import Frame

FEWEST_NORMALS = 10
SHAPES = ((256, 256), (192, 384), (384, 192), (128, 512), (512, 128))  # height, width
MULTIPLE = 16  # rows and columns divide by it
LEAKING = ("PNG", "JPEG", "width", "height", "colourless share", "mid-tone share", "brightness")
FEWEST_TO_RANK = 5  # images a label, below which chance alone separates
SEPARATED = 0.98  # AUROC


@dataclass(frozen=True)
class Pictures:
    """Images of one label: `pixels` (n, H, W, 3) uint8 RGB; `facts` by name, each (n,)."""

    pixels: NDArray[np.uint8]
    facts: Dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def load(cls, paths: Sequence[Path], spec: InputSpec) -> Pictures:
        """Read the files through the runtime's own preprocessing."""
        pixels = np.empty((len(paths), spec.height, spec.width, 3), np.uint8)
        facts: List[Dict[str, float]] = []
        for path, slot in zip(paths, pixels):
            frame = read_frame(path)
            write_input(frame, spec, slot)
            facts.append({**_file_facts(path, frame), **_light_facts(slot)})
        return cls(pixels, {name: np.array([fact[name] for fact in facts]) for name in _FACTS})

    def range_of(self, fact: str) -> Tuple[float, float]:
        """Return the lowest and highest value of a fact."""
        return float(self.facts[fact].min()), float(self.facts[fact].max())


_FACTS = (
    "PNG", "JPEG", "width", "height", "colourless share", "mid-tone share",
    "brightness", "sharpness",
)  # fmt: skip


def _file_facts(path: Path, frame: Frame) -> Dict[str, float]:
    pixels = frame.pixels
    colourless = (pixels[..., 0] == pixels[..., 1]) & (pixels[..., 1] == pixels[..., 2])
    green = pixels[..., 1]
    return {
        "PNG": float(path.suffix.lower() == ".png"),
        "JPEG": float(path.suffix.lower() in (".jpg", ".jpeg")),
        "width": float(frame.width),
        "height": float(frame.height),
        "colourless share": float(colourless.mean()),
        "mid-tone share": float(((green > 0) & (green < 255)).mean()),
    }


def _light_facts(pixels: NDArray[np.uint8]) -> Dict[str, float]:
    light = measure(pixels)
    return {"brightness": light.brightness, "sharpness": light.sharpness}


def leak_warnings(normal: Pictures, anomaly: Pictures) -> List[str]:
    """Return a sentence for each fact about the files that separates the labels.

    Such a data leak shows how images were taken or stored, not what is wrong with the part.
    """
    if min(len(normal), len(anomaly)) < FEWEST_TO_RANK:
        return []
    found = []
    for name in LEAKING:
        area = metrics.auroc(normal.facts[name], anomaly.facts[name])
        if max(area, 1.0 - area) >= SEPARATED:
            found.append(
                f"Warning: {name} alone separates normal from anomaly (AUROC {area:.2f}). "
                "Results on such images do not show whether defects are found: take and store the "
                "images of both labels in the same way."
            )
    return found


def find(source: Path, normal_only: bool, options: ManifestOptions) -> LabelledImages:
    """List the images to train on. Raises InvalidConfiguration when there are too few."""
    found = LabelledImages.of(source, options)
    if source.is_dir() and not (source / NORMAL).is_dir():
        raise InvalidConfiguration(
            f"{source} has no folder normal/; put images of good parts there "
            "(and of bad ones into anomaly/)."
        )
    if len(found.normal) < FEWEST_NORMALS:
        place = source / NORMAL if source.is_dir() else f"{source}, of class-name normal,"
        raise InvalidConfiguration(
            f"{place} holds {len(found.normal)} images; training needs {FEWEST_NORMALS} or more."
        )
    return replace(found, anomaly=()) if normal_only else found


def input_size(paths: Sequence[Path]) -> Size:
    """Return the model's height and width: of the first image, or of SHAPES where that is smaller.

    Few shapes, so that time and memory of a model are known whatever the camera.
    """
    frame = read_frame(paths[0])
    shape = min(
        SHAPES,
        key=lambda shape: abs(np.log(frame.height * shape[1]) - np.log(frame.width * shape[0])),
    )
    if frame.height * frame.width > shape[0] * shape[1]:
        return shape
    return _multiple(frame.height), _multiple(frame.width)


def digest(found: LabelledImages, source: Path) -> str:
    """Return the sha-256 over contents, labels and names; in a folder the label is in the name."""
    total = hashlib.sha256()
    for label, paths in ((NORMAL, found.normal), (ANOMALY, found.anomaly)):
        for path in paths:
            name = path.relative_to(source) if source.is_dir() else Path(label, path.name)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  {name.as_posix()}\n".encode())
    return total.hexdigest()


def _multiple(length: int) -> int:
    return max(round(length / MULTIPLE) * MULTIPLE, 4 * MULTIPLE)
