"""Fits a trained package to the site: what good pictures score there becomes what they scored.

A new camera position or lamp moves and stretches all scores. Median and spread of the site's good
pictures are laid on those that training saw, so that the threshold stands where it stood among
them. The graph stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.evaluator import Predictor
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.manifest import Calibration, FileEntry, Histogram, Manifest
from edge_agent.pictures import listing
from edge_agent.pictures.listing import PictureListing
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.training import calibration, golden
from edge_agent.training.dataset import Pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

FEWEST = 10  # good pictures
MOST_STRETCHED = 5.0  # times, either way: a few pictures know their spread roughly
BELL = 1.349  # quartiles of a bell curve are so many deviations apart
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class SiteCalibration:
    """The package for the site, and how many of its good pictures are called anomalous.

    manifest, files: as `package.write` takes them. before, after: of `count`.
    """

    manifest: Manifest
    files: Dict[str, bytes]
    count: int
    before: int
    after: int


def fit(source: Path, good: Sequence[Path], reader: PictureReader) -> SiteCalibration:
    """Fit package `source` to the good pictures. Raises InvalidConfiguration: what it needs."""
    opened = Package(source)
    manifest = opened.manifest
    decided, seen = _checked(source, manifest)
    pictures = Pictures.load(good, manifest.input, reader)
    if len(pictures) < FEWEST:
        raise InvalidConfiguration(
            f"{len(pictures)} good pictures can be used; calibrating needs {FEWEST} or more, "
            f"better 20 to 50. {listing.sentence(reader.left_out)}".rstrip()
        )
    raw = _scores(source, manifest, pictures.paths, reader)
    fitted = moved(decided, raw, _logits(seen))
    threshold = manifest.decision.threshold
    scores = calibration.apply(fitted, raw)
    model = opened.read_model()
    changed = manifest.model_copy(
        update={
            "version": next_version(manifest.version),
            "decision": manifest.decision.model_copy(update={"calibration": fitted}),
            "statistics": manifest.statistics.model_copy(
                update={
                    "normal_scores": _histogram(scores, seen),
                    "anomaly_scores": None,  # of the other scale
                    "brightness": pictures.range_of("brightness"),
                    "sharpness": pictures.range_of("sharpness"),
                }
            ),
        }
    )
    known = [*golden_check.read_pictures(opened), *pictures.pixels[: golden.CANDIDATES]]
    samples, images = golden.samples(model, changed, known, max(len(manifest.golden), 1))
    kept = {entry.path for entry in manifest.files} - {each.image for each in manifest.golden}
    files = {**{path: opened.read(path) for path in sorted(kept)}, **images}
    entries = tuple(FileEntry.of(path, content) for path, content in files.items())
    return SiteCalibration(
        changed.model_copy(update={"golden": samples, "files": entries}),
        files,
        len(raw),
        int((calibration.apply(decided, raw) >= threshold).sum()),
        int((scores >= threshold).sum()),
    )


def good_pictures(sources: Sequence[Path]) -> Tuple[Path, ...]:
    """List pictures of good parts: of folders, or of their normal/, files, and manifests."""
    found: List[Path] = []
    for source in sources:
        is_labelled = source.is_dir() and (source / "normal").is_dir()
        is_manifest = source.is_file() and not listing.is_picture_name(source.name)
        if is_labelled or is_manifest:
            found += LabelledImages.of(source).normal
        else:
            found += PictureListing.of([source]).paths
    return tuple(found)


def moved(decided: Calibration, raw: Floats, seen: Floats) -> Calibration:
    """Return the sigmoid that gives the site's good pictures the logits that training `seen`.

    raw: (n,) of the site's good pictures, as the graph gives them.
    """
    logits = decided.scale * raw + decided.shift
    (middle, spread), (usual, usual_spread) = _place(logits), _place(seen)
    stretch = float(np.clip(usual_spread / spread, 1.0 / MOST_STRETCHED, MOST_STRETCHED))
    return Calibration(
        scale=stretch * decided.scale, shift=stretch * (decided.shift - middle) + usual
    )


def next_version(version: str) -> str:
    """Return the version after this one: its last number plus one."""
    head, dot, last = version.rpartition(".")
    return f"{head}{dot}{int(last) + 1}" if last.isdecimal() else f"{version}.1"


def _checked(source: Path, manifest: Manifest) -> Tuple[Calibration, Histogram]:
    decided, seen = manifest.decision.calibration, manifest.statistics.normal_scores
    if decided is None or seen is None or not manifest.outputs.score:
        raise InvalidConfiguration(
            f"{source} doesn't say how good images scored in its training, so it can't be "
            "calibrated. Use a package that `edge-agent train` wrote."
        )
    if manifest.target or manifest.build or manifest.optimised:
        raise InvalidConfiguration(
            f"{source} was made for a target. Calibrate the package that `edge-agent train` wrote, "
            "then make the component of the new one."
        )
    return decided, seen


def _place(logits: Floats) -> Tuple[float, float]:
    low, middle, high = np.quantile(logits, (0.25, 0.5, 0.75))
    return float(middle), max(float(high - low) / BELL, LEAST_DEVIATION)


def _logits(seen: Histogram) -> Floats:
    edges = np.asarray(seen.edges)
    scores = np.repeat((edges[1:] + edges[:-1]) / 2.0, seen.counts)
    return np.asarray(np.log(scores / (1.0 - scores)))


def _histogram(scores: Floats, like: Histogram) -> Histogram:
    counts, _ = np.histogram(scores, like.edges)
    return Histogram(edges=like.edges, counts=tuple(counts.tolist()))


def _scores(
    source: Path, manifest: Manifest, paths: Sequence[Path], reader: PictureReader
) -> Floats:
    with Predictor(source) as predictor:
        outputs = (predictor.predict(frame)[1] for _, frame in reader.frames(paths))
        return np.array([float(each[manifest.outputs.score or ""].ravel()[0]) for each in outputs])
