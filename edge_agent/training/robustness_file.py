"""`robustness.json` of a package: how its verdicts hold under disturbances, as training found."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from typing_extensions import Literal

from edge_agent.evaluation import robustness
from edge_agent.evaluation.robustness import RobustnessTable, points
from edge_agent.manifest import FileEntry, InputSpec, Manifest
from edge_agent.pictures.disturbances import DISTURBANCES
from edge_agent.training import package

if TYPE_CHECKING:
    from edge_agent.evaluation.labelled import LabelledImages
    from edge_agent.evaluation.steps import Steps

ROBUSTNESS_FILE = "robustness.json"  # of a package
MOST = 12  # images of a label: some 10 s on two cores with a backbone, for an input of PIXELS
PIXELS = 256 * 256
FEWEST = 3  # of a larger input, which takes longer
REMARKS: Dict[str, str] = {
    "test": "These images of the test were not trained on.",
    "training": "These images were trained on, which flatters overkill, escape and AUROC: look at "
    "how much they rise or fall. `edge-agent evaluate --robustness` judges other images.",
}


def added(
    manifest: Manifest,
    files: Dict[str, bytes],
    trained: LabelledImages,
    tested: LabelledImages,
    progress: Callable[[str], None],
    steps: Steps,
) -> Tuple[Manifest, Dict[str, bytes]]:
    """Return the package with the table in it, which `progress` gets for people.

    manifest, files: as `package.write` takes them. The images of the test are taken where there
    are both labels, or good ones alone of a model without bad ones; else those trained on.
    """
    is_tested = bool(tested.normal and (tested.anomaly or not trained.anomaly))
    images: Literal["test", "training"] = "test" if is_tested else "training"
    chosen = tested if is_tested else trained
    with tempfile.TemporaryDirectory() as workplace:
        folder = Path(workplace, "package")
        package.write(folder, manifest, files)
        most = most_of(manifest.input)
        good, bad = (some(paths, most) for paths in (chosen.normal, chosen.anomaly))
        table = robustness.measure(folder, good, bad, images, steps)
    table = table.model_copy(update={"remark": REMARKS[images]})
    for line in lines(table):
        progress(line)
    content = (table.model_dump_json(indent=1) + "\n").encode()
    entries = (*manifest.files, FileEntry.of(ROBUSTNESS_FILE, content))
    return manifest.model_copy(update={"files": entries}), {**files, ROBUSTNESS_FILE: content}


def most_of(spec: InputSpec) -> int:
    """Return how many images of a label are judged: fewer of a large input."""
    return int(np.clip(MOST * PIXELS // (spec.height * spec.width), FEWEST, MOST))


def some(paths: Sequence[Path], most: int) -> List[Path]:
    """Choose at most so many, evenly."""
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), most)).round().astype(int)
    return [paths[index] for index in chosen]


def lines(table: RobustnessTable) -> Iterator[str]:
    """Yield the lines of a short table, a disturbance each, and what to do."""
    yield (
        "Robustness: by how many points overkill/escape rise, from weak to strong, on "
        f"{table.count_normal} good and {table.count_anomaly} bad images of the {table.images}:"
    )
    for each in DISTURBANCES:
        strengths = each.unit.format(", ".join(map(str, each.strengths)))
        rises = "".join(
            f"{_points(row.overkill_rise)}/{_points(row.escape_rise)}".rjust(9)
            for row in table.rows
            if row.disturbance == each.name
        )
        yield f"  {each.name:13} {strengths:27} {rises}"
    if table.images == "training":
        yield table.remark
    if not table.count_anomaly:
        yield "Without bad images nobody knows how many more escape."
    yield table.advice()


def _points(rise: Optional[float]) -> str:
    return "-" if rise is None else points(rise)
