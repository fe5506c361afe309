"""Data that misleads: what is found in the images before a model is trained on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from typing_extensions import Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ANOMALY, NORMAL
from edge_agent.pictures.listing import LeftOut, shown
from edge_agent.training import defect_sizes, same_pictures
from edge_agent.training.ensemble import FEWEST_BAD
from edge_agent.training.tiles import Tiles

if TYPE_CHECKING:
    from edge_agent.training.dataset import Pictures

STOPS: Literal["stops"] = "stops"
WARNS: Literal["warns"] = "warns"
FEW_NORMALS = 20  # good images, below which the threshold is a rough guess
# Facts that may separate good from bad images, and by how much at least: defects change a
# picture's mean brightness and colour, and the size of its file, but little.
SEPARATING = {
    "PNG": 0.0, "JPEG": 0.0, "width": 0.0, "height": 0.0,
    "colourless share": 0.05, "mid-tone share": 0.05,
    "brightness": 2.0, "redness": 2.0, "blueness": 2.0,
    "file size": 0.2,  # as a share of it
}  # fmt: skip
SEPARATED = 0.98  # AUROC
SIGNIFICANT = 3.0  # deviations of the AUROC of chance
SAME_SHAPE = 0.02  # of the ratio of width to height
USUALLY = 0.5  # of the images: what more of them have is how the product looks
MOST_NAMED = 5


@dataclass(frozen=True)
class DataFinding:
    """What may mislead: `severity` says whether training stops; `files` are the first ones.

    kind: a word for programs, which stays the same.
    """

    severity: Literal["stops", "warns"]
    kind: str
    count: int
    what: str
    advice: str
    files: Tuple[str, ...] = ()

    def __str__(self) -> str:
        more = " ..." if self.count > len(self.files) else ""
        named = f" ({', '.join(self.files)}{more})" if self.files else ""
        return f"{self.what}{named}. {self.advice}"


class LabelledPictures:
    """The images of a training by label, and those of its test; all at the model's size.

    defects: the side of each one's largest defect, as `defect_sizes.of_masks` returns it.
    """

    def __init__(
        self,
        source: Path,
        normal: Pictures,
        anomaly: Pictures,
        test: Pictures,
        left_out: Sequence[LeftOut] = (),
        defects: Mapping[Path, float] = MappingProxyType({}),
    ) -> None:
        self._source = source
        self.normal, self.anomaly, self.test = normal, anomaly, test
        self.left_out, self.defects = left_out, defects

    @property
    def trained_on(self) -> Tuple[Path, ...]:
        """The files of both labels, the good ones first."""
        return (*self.normal.paths, *self.anomaly.paths)

    @property
    def paths(self) -> Tuple[Path, ...]:
        """The files to train on, then those of the test."""
        return (*self.trained_on, *self.test.paths)

    def fact(self, name: str) -> np.ndarray[Tuple[int, ...], np.dtype[np.float64]]:
        """Return a fact of the images to train on, (n,)."""
        return np.concatenate((self.normal.facts[name], self.anomaly.facts[name]))

    def name(self, path: Path) -> str:
        """Return a file's name, as short as it is clear."""
        folder = self._source if self._source.is_dir() else self._source.parent
        return shown(path.relative_to(folder) if folder in path.parents else path)

    def named(self, paths: Sequence[Path]) -> Tuple[str, ...]:
        """Return the names of the first files."""
        return tuple(map(self.name, paths[:MOST_NAMED]))


def find(images: LabelledPictures) -> List[DataFinding]:
    """Look at the images; the most harmful findings come first."""
    checks: Sequence[Callable[[LabelledPictures], Iterator[DataFinding]]] = (
        _same, _too_few, _small_defects, _separable, _cameras, _sizes, _colourless, _empty,
        _unusable,
    )  # fmt: skip
    found = [finding for check in checks for finding in check(images)]
    return sorted(found, key=lambda finding: finding.severity != STOPS)


def report(images: LabelledPictures, progress: Callable[[str], None]) -> None:
    """Tell what may mislead. Raises InvalidConfiguration when there is nothing to learn."""
    found = find(images)
    for line in table(found):
        progress(line)
    for finding in found:
        if finding.severity == STOPS:
            raise InvalidConfiguration(str(finding))


def table(findings: Sequence[DataFinding]) -> List[str]:
    """Return the lines of a table: severity, how many images, what and which. Empty if none."""
    rows = [f"{each.severity:5} {each.count:6}  {each}" for each in findings]
    return ["Findings in the images:", *rows] if rows else []


def _same(images: LabelledPictures) -> Iterator[DataFinding]:
    parts = (images.normal, images.anomaly, images.test)
    pairs = same_pictures.pairs([part.pixels for part in parts])
    good, trained_on = len(images.normal), len(images.trained_on)
    both = [pair for pair in pairs if pair[0] < good <= pair[1] < trained_on]
    tested = [pair for pair in pairs if pair[0] < trained_on <= pair[1]]
    twice = [pair for pair in pairs if pair[1] < good or good <= pair[0] <= pair[1] < trained_on]
    copies = len({second for _, second in pairs if second < good})
    if good and copies == good - 1:
        yield DataFinding(
            STOPS, "one-picture", good, f"All {NORMAL} images are the same picture",
            "Take pictures of different good parts.", images.named(images.normal.paths),
        )  # fmt: skip
    for kind, found, what, advice in (
        (
            "both-labels", both, f"Pictures are {NORMAL} and {ANOMALY} at once",
            "Such labels contradict each other: keep the right one, and remove the other file.",
        ),
        (
            "train-and-test", tested, "Pictures are trained on and tested with",
            "The test would look better than new parts will: take them out of the test.",
        ),
        (
            "twice", twice, "Pictures are there twice, as copies or taken again of the same part",
            "Copies vouch for each other and count double: keep one of each.",
        ),
    ):  # fmt: skip
        if found:
            yield _of_pairs(images, kind, found, what, advice)


def _of_pairs(
    images: LabelledPictures, kind: str, pairs: Sequence[same_pictures.Pair], what: str, advice: str
) -> DataFinding:
    later = {second: first for first, second in reversed(pairs)}
    names = tuple(
        f"{images.name(images.paths[second])} = {images.name(images.paths[later[second]])}"
        for second in sorted(later)[:MOST_NAMED]
    )
    return DataFinding(WARNS, kind, len(later), what, advice, names)


def _too_few(images: LabelledPictures) -> Iterator[DataFinding]:
    good, bad = len(images.normal), len(images.anomaly)
    if good < FEW_NORMALS:
        yield DataFinding(
            WARNS, "few-normal", good, f"Only {good} {NORMAL} images",
            f"They show little of how good parts differ: take {FEW_NORMALS} or more, 50 if you "
            "can.",
        )  # fmt: skip
    if 0 < bad < FEWEST_BAD:
        yield DataFinding(
            WARNS, "few-anomaly", bad, f"Only {bad} {ANOMALY} image{'' if bad == 1 else 's'}",
            f"They help to place the threshold; from {FEWEST_BAD} on the model also learns from "
            "them.",
        )  # fmt: skip


def _small_defects(images: LabelledPictures) -> Iterator[DataFinding]:
    height, width = images.normal.pixels.shape[1:3]
    least = defect_sizes.LEAST_SEEN / defect_sizes.mean_side((height, width))
    small = [path for path, side in images.defects.items() if side < least]
    if not small:
        return
    picture = (int(images.fact("height")[0]), int(images.fact("width")[0]))
    tiles = Tiles.for_defects(picture, images.defects.values())
    if tiles.size[0] * tiles.size[1] > height * width:
        advice = f"Let the model judge the pictures in tiles: --tiles {tiles}."
    else:
        advice = "Take pictures from nearer, or with more pixels."
    yield DataFinding(
        WARNS, "small-defects", len(small),
        f"{len(small)} of {len(images.defects)} defects in the masks have less than "
        f"{defect_sizes.LEAST_SEEN:g}x{defect_sizes.LEAST_SEEN:g} pixels of the model's input of "
        f"{width}x{height}, and may not be seen",
        advice, images.named(small),
    )  # fmt: skip


def _separable(images: LabelledPictures) -> Iterator[DataFinding]:
    """Yield what separates the labels although it says nothing of the part."""
    good, bad = len(images.normal), len(images.anomaly)
    if not good or not bad:
        return
    chance = float(np.sqrt((good + bad + 1) / (12.0 * good * bad)))
    for name, least in SEPARATING.items():
        facts = images.normal.facts[name], images.anomaly.facts[name]
        area = metrics.auroc(*facts)
        apart = abs(area - 0.5)
        one, other = map(np.median, facts)
        unit = min(one, other) if name == "file size" else 1.0
        is_certain = apart + 0.5 >= SEPARATED and apart >= SIGNIFICANT * chance
        if is_certain and abs(one - other) >= least * unit:
            yield DataFinding(
                WARNS, f"separable-{name.replace(' ', '-')}", good + bad,
                f"{name} alone separates {NORMAL} from {ANOMALY} (AUROC {area:.2f})",
                "Results on such images do not show whether defects are found: take and store the "
                "images of both labels in the same way.",
            )  # fmt: skip


def _cameras(images: LabelledPictures) -> Iterator[DataFinding]:
    cameras = dict(zip(images.trained_on, (*images.normal.cameras, *images.anomaly.cameras)))
    (usual, _), *others = Counter(cameras.values()).most_common()
    if others:
        other = [path for path, camera in cameras.items() if camera != usual]
        names = sorted(shown(Path(camera or "unknown")) for camera in set(cameras.values()))
        yield DataFinding(
            WARNS, "cameras", len(other),
            f"{len(names)} cameras by the files' EXIF data: {'; '.join(names[:MOST_NAMED])}",
            "Train on images of the camera that the model will be used with, all stored alike.",
            images.named(other),
        )  # fmt: skip


def _sizes(images: LabelledPictures) -> Iterator[DataFinding]:
    sizes: Dict[Path, Tuple[int, int]] = dict(
        zip(
            images.trained_on,
            zip(images.fact("width").astype(int), images.fact("height").astype(int)),
        )
    )
    (usual, _), *others = Counter(sizes.values()).most_common()
    if not others:
        return
    other = [path for path, size in sizes.items() if size != usual]
    have = "has" if len(other) == 1 else "have"
    names = tuple(
        f"{images.name(path)} ({sizes[path][0]}x{sizes[path][1]})" for path in other[:MOST_NAMED]
    )
    ratio = usual[0] / usual[1]
    shapes = sum(abs(w / h / ratio - 1.0) > SAME_SHAPE for w, h in (sizes[path] for path in other))
    stretched = f" Stretched to the shape of the others: {shapes}." if shapes else ""
    yield DataFinding(
        WARNS, "sizes", len(other),
        f"{len(other)} of {len(sizes)} images {have} another size than {usual[0]}x{usual[1]} "
        "pixels",
        f"Make sure that all show the same product, from the same camera.{stretched}",
        names,
    )  # fmt: skip


def _colourless(images: LabelledPictures) -> Iterator[DataFinding]:
    grey = images.fact("colourless share") == 1.0
    rarer = grey if grey.sum() * 2 <= len(grey) else ~grey
    if rarer.any():
        other = [path for path, is_other in zip(images.trained_on, rarer) if is_other]
        yield DataFinding(
            WARNS, "grey-and-colour", len(other),
            f"{int(grey.sum())} images are grey, {int((~grey).sum())} have colours",
            "Take and store all images in the same way.", images.named(other),
        )  # fmt: skip


def _empty(images: LabelledPictures) -> Iterator[DataFinding]:
    empty = images.fact("empty") > 0
    if 0.0 < empty.mean() <= USUALLY:
        other = [path for path, is_empty in zip(images.trained_on, empty) if is_empty]
        yield DataFinding(
            WARNS, "empty", len(other), "There is next to nothing to see, as of a camera's fault",
            "Look at them, and take out what shows no part.", images.named(other),
        )  # fmt: skip


def _unusable(images: LabelledPictures) -> Iterator[DataFinding]:
    refused = [item for item in images.left_out if item.is_picture]
    if refused:
        reasons: List[Optional[str]] = [item.reason for item in refused]
        first = f"{reasons[0]}{', and other reasons' if len(set(reasons)) > 1 else ''}"
        yield DataFinding(
            WARNS, "unusable", len(refused), f"Left out, as it can't be used: {first}",
            "Take or store these pictures again.", images.named([item.path for item in refused]),
        )  # fmt: skip
