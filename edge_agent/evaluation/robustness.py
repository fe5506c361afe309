"""How verdicts hold while pictures change as they do in a plant: each change at three strengths."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from typing_extensions import Literal

from edge_agent.errors import InvalidFrame
from edge_agent.evaluation import metrics
from edge_agent.evaluation.evaluator import Predictor
from edge_agent.evaluation.steps import Steps
from edge_agent.fields import Strict
from edge_agent.pictures.disturbances import DISTURBANCES, Disturbance
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.system import resources
from edge_agent.runtime.vision.preprocess import check_size
from edge_agent.types import Frame

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.manifest import InputSpec
    from edge_agent.types import Pixels

    Verdicts = NDArray[np.float64]

UNSEEN = Steps()
AS_TAKEN = "as taken"
DIGITS = 4  # of shares
MOST_THREADS = 4
_LIGHT = (
    "Take pictures under different light into the training, or fit the package to the site with "
    "`edge-agent calibrate`."
)
_PLACE = (
    "Take pictures of parts that lie differently into the training, or guide the part and fix the "
    "camera."
)
REMEDIES = {
    "brightness": _LIGHT,
    "contrast": _LIGHT,
    "white balance": _LIGHT,
    "shift": _PLACE,
    "rotation": _PLACE,
    "scale": _PLACE,
    "blur": "Take pictures with such a focus into the training, or fix the focus of the lens.",
    "noise": "Take such pictures into the training, or use more light and less gain.",
    "JPEG": "Save pictures as PNG, or take JPEGs of such a quality into the training.",
    "dead columns": "Replace the camera, or have it leave out the columns at the edge.",
}


class RobustnessRow(Strict):
    """Verdicts on pictures under one change, beside those on the pictures as taken.

    strength, change: of the disturbance, as a number and for people; null and "": as taken.
    overkill: share of good pictures called anomalous; escape: of bad ones called normal; both 0 to
    1, rises may be below 0; null where there are no such pictures.
    """

    disturbance: str
    strength: Optional[float]
    change: str
    overkill: Optional[float]
    overkill_rise: Optional[float]
    escape: Optional[float]
    escape_rise: Optional[float]
    auroc: Optional[float]

    @property
    def harm(self) -> float:
        """The higher one of both rises."""
        return max(self.overkill_rise or 0.0, self.escape_rise or 0.0)


class RobustnessTable(Strict):
    """All rows, those of one disturbance from weak to strong; the first one is as taken.

    images: whether these are of the test, or were trained on.
    """

    images: Literal["test", "training"]
    count_normal: int
    count_anomaly: int
    remark: str = ""
    rows: Tuple[RobustnessRow, ...]

    def worst(self) -> RobustnessRow:
        """Return the most harmful row, of the disturbance that harms most at all strengths."""
        total = {row.disturbance: 0.0 for row in self.rows}
        for row in self.rows:
            total[row.disturbance] += row.harm
        return max(self.rows, key=lambda row: (row.harm, total[row.disturbance]))

    def advice(self) -> str:
        """Say in a sentence which disturbance harms most, and what to do."""
        worst = self.worst()
        if worst.harm <= 0.0:
            return "None of these disturbances raises overkill or escape."
        rises = [
            f"{what} rises by {points(rise)} points"
            for what, rise in (("overkill", worst.overkill_rise), ("escape", worst.escape_rise))
            if rise
        ]
        return (
            f"What harms most is {worst.disturbance} ({worst.change}): {' and '.join(rises)}. "
            f"{REMEDIES[worst.disturbance]}"
        )


class _Case(NamedTuple):
    """A disturbance at one strength; None: the picture as taken."""

    disturbance: Optional[Disturbance]
    strength: float = 0.0

    def changed(self, pixels: Pixels, index: int) -> Pixels:
        """Return what becomes of picture number `index`, which decides the direction."""
        if self.disturbance is None:
            return pixels
        return self.disturbance.change(pixels, self.strength, np.random.default_rng(index))


CASES = (_Case(None), *(_Case(each, value) for each in DISTURBANCES for value in each.strengths))


def measure(
    package: Path,
    normal: Sequence[Path],
    anomaly: Sequence[Path],
    images: Literal["test", "training"] = "test",
    steps: Steps = UNSEEN,
) -> RobustnessTable:
    """Let a package judge good and bad pictures under each disturbance, as served.

    Files that can't be used are left out. The same pictures give the same table: what is random is
    drawn by a picture's number. Raises what opening a package raises.
    """
    with _judging(package) as judge:
        spec, bits = judge.manifest.input, judge.manifest.statistics.image_bits
        reader = PictureReader((*normal, *anomaly), bits=bits)
        good, bad = (
            _stacked(judge, _frames(reader, steps.each(paths, f"Disturbing {label} images"), spec))
            for label, paths in (("good", normal), ("bad", anomaly))
        )
    rows = tuple(_row(case, good, bad, index) for index, case in enumerate(CASES))
    return RobustnessTable(images=images, count_normal=len(good), count_anomaly=len(bad), rows=rows)


def points(share: float) -> str:
    """Return a share in points, for people: "2.5"."""
    return f"{100.0 * share:.3g}"


class _Judge:
    """Judges one picture in all CASES at a time, in a thread for each of `predictors`."""

    def __init__(self, predictors: Sequence[Predictor], pool: ThreadPoolExecutor) -> None:
        self.manifest = predictors[0].manifest
        self._predictors, self._pool = predictors, pool
        self._parts = [slice(first, None, len(predictors)) for first in range(len(predictors))]

    def verdicts(self, pixels: Pixels, index: int) -> Verdicts:
        """Return score and verdict in each case, (CASES, 2); 1 is anomalous."""
        found = np.empty((len(CASES), 2))

        def judge(predictor: Predictor, part: slice) -> None:
            for place, case in zip(found[part], CASES[part]):
                prediction, _ = predictor.predict(Frame(case.changed(pixels, index)))
                place[:] = prediction.score, prediction.is_anomalous

        for _ in self._pool.map(judge, self._predictors, self._parts):
            pass
        return found


@contextmanager
def _judging(package: Path) -> Iterator[_Judge]:
    count = min(resources.cores(), MOST_THREADS)
    with ExitStack() as opened:
        predictors = [opened.enter_context(Predictor(package)) for _ in range(count)]
        yield _Judge(predictors, opened.enter_context(ThreadPoolExecutor(count)))


def _frames(reader: PictureReader, paths: Iterable[Path], spec: InputSpec) -> Iterator[Pixels]:
    """Yield those that the agent would take."""
    for _, frame in reader.frames(paths):
        with suppress(InvalidFrame):
            check_size(frame.width, frame.height, spec)
            yield halved(frame.pixels, spec)


def _stacked(judge: _Judge, pictures: Iterable[Pixels]) -> Verdicts:
    """Return the verdicts on all, (pictures, CASES, 2)."""
    found = [judge.verdicts(pixels, index) for index, pixels in enumerate(pictures)]
    return np.array(found).reshape(-1, len(CASES), 2)


def halved(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Average 2x2 pixels while a picture is more than twice as wide and high as the input.

    That is how preprocessing by "pyramid" begins, so that scores stay as they are.
    """
    height, width = pixels.shape[:2]
    while height > 2 * spec.height and width > 2 * spec.width:
        height, width = height // 2, width // 2
        smaller = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(smaller, np.uint8)
    return pixels


def _row(case: _Case, good: Verdicts, bad: Verdicts, index: int) -> RobustnessRow:
    overkill, escape = good[..., 1], 1.0 - bad[..., 1]  # (pictures, CASES)
    auroc = metrics.auroc(good[:, index, 0], bad[:, index, 0]) if len(good) and len(bad) else None
    made = case.disturbance
    return RobustnessRow(
        disturbance=made.name if made else AS_TAKEN,
        strength=case.strength if made else None,
        change=made.unit.format(case.strength) if made else "",
        overkill=_mean(overkill[:, index]),
        overkill_rise=_mean(overkill[:, index] - overkill[:, 0]),
        escape=_mean(escape[:, index]),
        escape_rise=_mean(escape[:, index] - escape[:, 0]),
        auroc=None if auroc is None else round(auroc, DIGITS),
    )


def _mean(values: Verdicts) -> Optional[float]:
    return round(float(values.mean()), DIGITS) if len(values) else None
