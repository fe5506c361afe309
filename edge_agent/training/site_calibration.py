"""Fits a trained package to the site: what good pictures score there becomes what they scored.

A new camera position or lamp moves and stretches all scores. Median and spread of the site's good
pictures are laid on those that training saw, so that the threshold stands where it stood among
them. The graph stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.evaluation.evaluator import Predictor
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.manifest import (
    GREY_BAND_FILE,
    Calibration,
    FileEntry,
    GreyBand,
    Histogram,
    Manifest,
)
from edge_agent.pictures import listing
from edge_agent.pictures.listing import PictureListing
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.training import calibration, golden, placement
from edge_agent.training.calibration import QUARTILES_FILE, Quartiles
from edge_agent.training.dataset import Pictures
from edge_agent.training.robustness_file import ROBUSTNESS_FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

FEWEST = 10  # good pictures
LEAST_STRETCH, MOST_STRETCH = 0.2, 1.5  # a few pictures that look alike don't narrow the scale much
LEAST_SPREAD = 1e-3  # between quartiles
DRAWS = 200  # of the bootstrap
COPIES = (".overlay.jpg", ".mask.png")  # beside the frames that the agent keeps


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
    usual = _usual(opened)
    pictures = Pictures.load(good, manifest.input, reader)
    if len(pictures) < FEWEST:
        raise InvalidConfiguration(
            f"{len(pictures)} good pictures can be used; calibrating needs {FEWEST} or more, "
            f"better 20 to 50. {listing.sentence(reader.left_out)}".rstrip()
        )
    raw = _scores(source, manifest, pictures.paths, reader)
    fitted = moved(decided, raw, usual)
    threshold = manifest.decision.threshold
    band = _band(manifest, decided, fitted, raw, usual)
    scores = calibration.apply(fitted, raw)
    model = opened.read_model()
    changed = manifest.model_copy(
        update={
            "version": next_version(manifest.version),
            "decision": manifest.decision.model_copy(
                update={"calibration": fitted, "grey_band": band}
            ),
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
    kept.discard(ROBUSTNESS_FILE)  # of the old threshold
    files = {**{path: opened.read(path) for path in sorted(kept)}, **images}
    files[QUARTILES_FILE] = _unscaled(usual.in_logits(decided), fitted).to_json()
    if band is not None:
        files[GREY_BAND_FILE] = (band.model_dump_json() + "\n").encode()
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
            paths = PictureListing.of([source]).paths
            found += [path for path in paths if not path.name.endswith(COPIES)]
    return tuple(found)


def moved(decided: Calibration, raw: Floats, usual: Quartiles) -> Calibration:
    """Return the sigmoid that gives the site's good pictures the scores that training gave.

    raw: (n,) of the site's good pictures, as the graph gives them; usual: of the training's.
    """
    here, there = Quartiles.of(raw).in_logits(decided), usual.in_logits(decided)
    spreads = [max(each.high - each.low, LEAST_SPREAD) for each in (there, here)]
    stretch = float(np.clip(spreads[0] / spreads[1], LEAST_STRETCH, MOST_STRETCH))
    return Calibration(
        scale=stretch * decided.scale,
        shift=stretch * (decided.shift - here.middle) + there.middle,
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


def _usual(opened: Package) -> Quartiles:
    try:
        return Quartiles.from_json(opened.read(QUARTILES_FILE))
    except (InvalidPackage, ValueError, KeyError, TypeError):
        raise InvalidConfiguration(
            f"{opened.path} has no {QUARTILES_FILE} that says how good images scored in its "
            "training, as packages of older versions; train it again."
        ) from None


def _band(
    manifest: Manifest, decided: Calibration, fitted: Calibration, raw: Floats, usual: Quartiles
) -> Optional[GreyBand]:
    """Return the package's band, wider by what other pictures of the site would have moved it."""
    old = manifest.decision.grey_band
    if old is None:
        return None
    random = np.random.default_rng(0)
    drawn = [
        placement.threshold_of(moved(decided, random.choice(raw, len(raw)), usual))
        for _ in range(DRAWS)
    ]
    return placement.band(fitted, drawn, (old.high - old.low) / 2.0)


def _unscaled(logits: Quartiles, fitted: Calibration) -> Quartiles:
    """Return the raw scores to which `fitted` gives these logits."""
    return Quartiles(*((each - fitted.shift) / fitted.scale for each in logits))


def _histogram(scores: Floats, like: Histogram) -> Histogram:
    counts, _ = np.histogram(scores, like.edges)
    return Histogram(edges=like.edges, counts=tuple(counts.tolist()))


def _scores(
    source: Path, manifest: Manifest, paths: Sequence[Path], reader: PictureReader
) -> Floats:
    with Predictor(source) as predictor:
        outputs = (predictor.predict(frame)[1] for _, frame in reader.frames(paths))
        return np.array([float(each[manifest.outputs.score or ""].ravel()[0]) for each in outputs])
