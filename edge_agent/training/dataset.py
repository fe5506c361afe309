"""The training images at the model's size, and facts about them and their files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.label_manifest import ANOMALY, NORMAL, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages, holds
from edge_agent.evaluation.steps import Steps
from edge_agent.manifest import InputSpec, Statistics
from edge_agent.pictures.listing import PictureListing, sentence, shown
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.vision.input_check import InputCheck
from edge_agent.runtime.vision.light import measure
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.training import exif
from edge_agent.training.sample import robust_deviation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.training.graph import Size
    from edge_agent.types import Frame

FEWEST_NORMALS = 10
SHAPES = ((256, 256), (192, 384), (384, 192), (128, 512), (512, 128))  # height, width
MOST_IN_MEMORY = 4 << 30  # bytes of pixels of one label
UNLIKE = 15.0  # deviations above the median of good images; real sets reach 9, other products 22
LEAST_SPREAD = 0.5  # of raw scores, whose deviation is about 1
MOST_NAMED = 5
UNSEEN = Steps()


@dataclass(frozen=True)
class Pictures:
    """Images of one label: `pixels` (n, H, W, 3) uint8 RGB; `facts` by name, each (n,); `paths`.

    cameras: make and model of each, as its file says.
    """

    pixels: NDArray[np.uint8]
    facts: Dict[str, NDArray[np.float64]]
    paths: Tuple[Path, ...]
    cameras: Tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def load(
        cls,
        paths: Sequence[Path],
        spec: InputSpec,
        reader: Optional[PictureReader] = None,
        steps: Steps = UNSEEN,
    ) -> Pictures:
        """Read the files through the runtime's own preprocessing; `reader` leaves out bad ones.

        One file at a time is held at its own size.
        """
        pixels = _room((len(paths), spec.height, spec.width, 3))
        facts: List[Dict[str, float]] = []
        used: List[Path] = []
        for path, frame in (reader or PictureReader(paths)).frames(
            steps.each(paths, "Reading images")
        ):
            slot = pixels[len(used)]
            write_input(frame, spec, slot)
            facts.append({**_file_facts(path, frame), **_light_facts(slot)})
            used.append(path)
        by_name = {name: np.array([fact[name] for fact in facts]) for name in _FACTS}
        cameras = tuple(map(exif.camera, used))
        return cls(pixels[: len(used)], by_name, tuple(used), cameras)

    def range_of(self, fact: str) -> Tuple[float, float]:
        """Return the lowest and highest value of a fact."""
        return float(self.facts[fact].min()), float(self.facts[fact].max())


def _room(shape: Tuple[int, ...]) -> NDArray[np.uint8]:
    """Return room for pixels: in memory, or where they are many in a file that nobody else sees."""
    if np.prod(shape, dtype=np.int64) <= MOST_IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


_FACTS = (
    "PNG", "JPEG", "file size", "width", "height", "colourless share", "mid-tone share",
    "brightness", "sharpness", "redness", "blueness", "empty",
)  # fmt: skip


def _file_facts(path: Path, frame: Frame) -> Dict[str, float]:
    pixels = frame.pixels
    colourless = (pixels[..., 0] == pixels[..., 1]) & (pixels[..., 1] == pixels[..., 2])
    green = pixels[..., 1]
    return {
        "PNG": float(path.suffix.lower() == ".png"),
        "JPEG": float(path.suffix.lower() in (".jpg", ".jpeg", ".jfif")),
        "file size": float(path.stat().st_size),
        "width": float(frame.width),
        "height": float(frame.height),
        "colourless share": float(colourless.mean()),
        "mid-tone share": float(((green > 0) & (green < 255)).mean()),
    }


def _light_facts(pixels: NDArray[np.uint8]) -> Dict[str, float]:
    light = measure(pixels)
    red, green, blue = pixels.mean(axis=(0, 1))
    return {
        "brightness": light.brightness,
        "sharpness": light.sharpness,
        "redness": red - green,
        "blueness": blue - green,
        "empty": float(bool(InputCheck(Statistics()).judge(light, camera=""))),
    }


def find(source: Path, normal_only: bool, options: ManifestOptions) -> LabelledImages:
    """List the images to train on. Raises InvalidConfiguration when there are too few."""
    found = LabelledImages.of(source, options)
    if source.is_dir() and not (source / NORMAL).is_dir():
        folders = sorted(shown(Path(path.name)) for path in source.iterdir() if path.is_dir())
        raise InvalidConfiguration(
            f"{source} has no folder normal/; put images of good parts there "
            f"(and of bad ones into anomaly/). Folders in it: {', '.join(folders) or 'none'}."
        )
    check_count(source, len(found.normal), found.findings)
    return replace(found, anomaly=()) if normal_only else found


def test_images(source: Path, test: Optional[Path], options: ManifestOptions) -> Tuple[Path, ...]:
    """List the images that the model will be tested with, with or without labels."""
    place = _test_place(source, test)
    if place is None:
        return ()
    found = LabelledImages.of(place, options)
    return (*found.normal, *found.anomaly) or PictureListing.of([place]).paths


def labelled_test(source: Path, test: Optional[Path], options: ManifestOptions) -> LabelledImages:
    """List those of them that have a label."""
    place = _test_place(source, test)
    return LabelledImages((), ()) if place is None else LabelledImages.of(place, options)


def _test_place(source: Path, test: Optional[Path]) -> Optional[Path]:
    """Return `test`, or test/ beside a folder train/."""
    beside = source.parent / "test"
    is_train = source.name == "train" and source.is_dir() and beside.is_dir()
    return test or (beside if is_train else None)


def check_count(source: Path, normal: int, findings: Sequence[str]) -> None:
    """Raise InvalidConfiguration when there are too few good images; the findings may say why."""
    if normal < FEWEST_NORMALS:
        needed = f"training needs {FEWEST_NORMALS} or more."
        counted = holds(source, NORMAL, normal)
        raise InvalidConfiguration(" ".join((f"{counted}; {needed}", *filter(None, findings))))


def product_warnings(paths: Sequence[Path], scores: NDArray[np.floating]) -> List[str]:
    """Return a sentence about good images that look quite unlike the others.

    scores: raw ones (n,), each of a model that was fitted without the image and its neighbours.
    """
    spread = max(float(robust_deviation(scores)), LEAST_SPREAD)
    strange = np.flatnonzero(scores - np.median(scores) > UNLIKE * spread)
    if not len(strange):
        return []
    names = ", ".join(shown(paths[index]) for index in strange[:MOST_NAMED])
    look, them = ("looks", "it") if len(strange) == 1 else ("look", "them")
    return [
        f"Warning: {len(strange)} of {len(paths)} normal images {look} quite unlike the others. "
        f"Look for another product or a defect, and take {them} out then: {names}"
        f"{' ...' if len(strange) > MOST_NAMED else ''}."
    ]


def picture_size(paths: Sequence[Path], reader: PictureReader) -> Size:
    """Return height and width of the first image that can be used.

    Raises InvalidConfiguration when there is none.
    """
    first = next(reader.frames(paths), None)
    if first is None:
        raise InvalidConfiguration(f"No image can be used. {sentence(reader.left_out)}")
    return first[1].height, first[1].width


def input_size(picture: Size) -> Size:
    """Return the model's height and width: of SHAPES, the one most like the `picture`.

    Few shapes, so that time and memory of a model are known whatever the camera; small images are
    enlarged, as patches of 8 pixels see more in them then.
    """
    height, width = picture
    return min(SHAPES, key=lambda shape: abs(np.log(height * shape[1]) - np.log(width * shape[0])))


def digest(normal: Sequence[Path], anomaly: Sequence[Path], source: Path) -> str:
    """Return the sha-256 over contents, labels and names; in a folder the label is in the name."""
    total = hashlib.sha256()
    for label, paths in ((NORMAL, normal), (ANOMALY, anomaly)):
        for path in paths:
            name = path.relative_to(source) if source.is_dir() else Path(label, path.name)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  ".encode() + os.fsencode(name.as_posix()) + b"\n")
    return total.hexdigest()
