"""From labelled images to a model package: the steps of training, in order."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from typing_extensions import Literal

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ALL, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.evaluation.masks import Masks
from edge_agent.evaluation.steps import Steps
from edge_agent.manifest import (
    GREY_BAND_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    Calibration,
    Decision,
    FileEntry,
    Histogram,
    InputSpec,
    Manifest,
    OutputSpec,
    RuntimeSpec,
    Statistics,
)
from edge_agent.pictures import listing
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.training import (
    backbones,
    calibration,
    dataset,
    defect_sizes,
    ensemble,
    findings,
    golden,
    graph,
    package,
    placement,
    resolution,
    robustness_file,
)
from edge_agent.training.backbones import Backbone, BackboneOptions
from edge_agent.training.calibration import QUARTILES_FILE, Quartiles
from edge_agent.training.dataset import Pictures
from edge_agent.training.ensemble import ENLARGE, ENOUGH, Ensemble, append_ensemble
from edge_agent.training.features import STRIDE
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Size
from edge_agent.training.placement import Placed, Scores, Wanted
from edge_agent.training.resolution import Resolution, TileChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray

Task = Literal["anomaly_map", "classification"]
BATCH_SIZES = (1, 2, 4)
MAP_STRIDE = STRIDE // ENLARGE  # pixels of the input for each of the map, each way
HISTOGRAM_BINS = 20
GOLDEN_SAMPLES = 4
TIMED = 3  # pictures, of which the fastest counts
DEFAULT_BACKBONE = BackboneOptions()
PARTS = ("train", "training", "test", "val", "validation", "splits", "normal", "good")


def train(
    source: Path,
    out: Path,
    *,
    task: Task = "anomaly_map",
    normal_only: bool = False,
    name: Optional[str] = None,
    version: str = "1",
    size: Optional[Size] = None,
    tiles: TileChoice = resolution.AUTO,
    seed: int = 0,
    bits: Optional[int] = None,
    options: ManifestOptions = ALL,
    backbone: BackboneOptions = DEFAULT_BACKBONE,
    wanted: Wanted = placement.USUAL,
    test: Optional[Path] = None,
    progress: Callable[[str], None],
    steps: Steps = dataset.UNSEEN,
) -> Manifest:
    """Train on `source`/normal (and /anomaly), or on a label manifest; write the package `out`.

    Bad images, where there are any and unless `normal_only`, are learned from, weigh the heads and
    place the threshold. name: None: that of the captures' model, else the folder's. size: height
    and width of the model's input, multiples of 16; None: by the first image. tiles: in which large
    pictures are judged; AUTO: where masks or validation say so. bits: of the camera, in files of 16
    bits a channel; None: by the highest value in them. backbone: what helps the filter bank.
    wanted: where the threshold is to lie. test: images that the model will be tested with, of which
    none should be among those trained on; None: the folder test/ beside a folder train/. The same
    images, seed and libraries give the same package, byte for byte. Tables say what misleads, and
    what is left out. Raises InvalidConfiguration: what cannot be used.
    """
    began = time.monotonic()
    graph.check_libraries()
    package.check_target(out)
    found = dataset.find(source, normal_only, options)
    name = checked_name(name or found.model or safe_name(source))
    for remark in found.remarks:
        progress(remark)
    package.check_inputs(out, (*found.normal, *found.anomaly))
    resolution.check(tiles, size)
    reader = PictureReader((*found.normal, *found.anomaly), lambda item: progress(str(item)), bits)
    defects = defect_sizes.of_masks(
        Masks.of(source, found.anomaly, progress), steps.each(found.anomaly, "Reading masks")
    )
    choices = _choices(found, size, tiles, reader, defects)
    read = _Read.of(found.normal, found.anomaly, choices[0], reader, steps)
    wanted.check(len(read.anomaly))
    left_out = (*found.findings, listing.sentence(reader.left_out))
    dataset.check_count(source, len(read.normal), left_out)
    progress(f"{read.counts}, trained at {read.spec.width}x{read.spec.height} pixels")
    tested = PictureReader(dataset.test_images(source, test, options), bits=reader.bits)
    pictures = (read.normal, read.anomaly, Pictures.load(tested.paths, read.spec, tested, steps))
    findings.report(
        findings.LabelledPictures(source, *pictures, reader.left_out, defects), progress
    )
    read, helped, fitted = _best(read, choices[1:], backbone, seed, steps, progress)
    placed = placement.place(Scores(fitted.normal, fitted.anomaly, fitted.synthetic), wanted, seed)
    used = helped.remark_of([member.extractor for member in fitted.members])
    for remark in (used, *_remarks(read, fitted), *placed.remarks()):
        progress(remark)
    model = build_model(fitted, read.resolution.size, task)
    manifest = _manifest(source, name, version, task, read, fitted, placed, model)
    candidates = golden.candidates(read.normal.pixels, read.anomaly.pixels, seed)
    quartiles = Quartiles.of(fitted.normal.as_taken)
    manifest, files = _with_golden(manifest, model, candidates, quartiles)
    trained = LabelledImages(read.normal.paths, read.anomaly.paths)
    unseen = dataset.labelled_test(source, test, options)
    manifest, files = robustness_file.added(manifest, files, trained, unseen, progress, steps)
    package.write(out, manifest, files)
    if read.resolution.tiles:
        time_ms = _time_ms(model, manifest, candidates[0])
        progress(
            f"Judges {read.resolution.tiles} tiles, about {time_ms:.0f} ms a picture on one core "
            "of this machine"
        )
    progress(f"{out}: {len(model) / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    for line in listing.table((*found.left_out, *reader.left_out)):
        progress(line)
    return manifest


class _Read(NamedTuple):
    """The images, at the size of the model's input `spec`."""

    resolution: Resolution
    spec: InputSpec
    normal: Pictures
    anomaly: Pictures
    reader: PictureReader

    @classmethod
    def of(
        cls,
        normal: Sequence[Path],
        anomaly: Sequence[Path],
        chosen: Resolution,
        reader: PictureReader,
        steps: Steps,
    ) -> _Read:
        """Read the files at the resolution `chosen`."""
        spec = InputSpec(tensor=IMAGE, height=chosen.size[0], width=chosen.size[1])
        good, bad = (Pictures.load(each, spec, reader, steps) for each in (normal, anomaly))
        return cls(chosen, spec, good, bad, reader)

    def at(self, chosen: Resolution, steps: Steps) -> _Read:
        """Read the same files again at another resolution."""
        return self.of(self.normal.paths, self.anomaly.paths, chosen, self.reader, steps)

    @property
    def counts(self) -> str:
        return f"{len(self.normal)} normal and {len(self.anomaly)} anomalous images"


class _Fitted(NamedTuple):
    read: _Read
    backbone: Backbone
    ensemble: Ensemble

    @property
    def auroc(self) -> float:
        """How well bad images are ranked, cross-validated."""
        return metrics.auroc(self.ensemble.normal.as_taken, self.ensemble.anomaly.as_taken)


def _choices(
    found: LabelledImages,
    size: Optional[Size],
    tiles: TileChoice,
    reader: PictureReader,
    defects: Mapping[Path, float],
) -> Tuple[Resolution, ...]:
    if size:
        return (Resolution(size),)
    picture = dataset.picture_size(found.normal, reader)
    glance = dataset.input_size(picture)
    return resolution.choices(tiles, glance, picture, defects, len(found.anomaly))


def _best(
    read: _Read,
    others: Sequence[Resolution],
    backbone: BackboneOptions,
    seed: int,
    steps: Steps,
    progress: Callable[[str], None],
) -> _Fitted:
    """Fit at the resolution that was read, and at the `others` where that finds too little.

    Without a bad image that can be used nothing says which is better.
    """
    best = _fit(read, backbone, seed, steps)
    for other in others if len(read.anomaly) else ():
        if best.auroc >= ENOUGH:
            progress("Judged at one glance, which finds the bad images; --tiles RxC makes tiles")
            break
        tried = _fit(read.at(other, steps), backbone, seed, steps)
        progress(
            f"Cross-validated AUROC {best.auroc:.3f} at one glance, {tried.auroc:.3f} in "
            f"{other.tiles} tiles"
        )
        best = max(best, tried, key=lambda each: each.auroc)
    return best


def _fit(read: _Read, backbone: BackboneOptions, seed: int, steps: Steps) -> _Fitted:
    helped = backbones.find(backbone, read.resolution)
    with steps.during("Training"):
        fitted = ensemble.fit(read.normal.pixels, read.anomaly.pixels, seed, helped.forms)
        return _Fitted(read, helped, fitted)


def _manifest(
    source: Path,
    name: str,
    version: str,
    task: Task,
    read: _Read,
    fitted: Ensemble,
    placed: Placed,
    model: bytes,
) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        description=f"Trained on {read.counts}",
        trained_by=f"edge-agent {__version__}",
        source_digest=dataset.digest(read.normal.paths, read.anomaly.paths, source),
        task=task,
        input=read.spec,
        outputs=OutputSpec(score="score", map="map" if task == "anomaly_map" else None),
        decision=Decision(calibration=placed.calibration, grey_band=placed.band),
        runtime=RuntimeSpec(batch_sizes=(1,) if read.resolution.tiles else BATCH_SIZES),
        statistics=_statistics(fitted, placed.calibration, read.normal, read.reader),
        files=(FileEntry.of(MODEL_FILE, model),),
    )


def build_model(fitted: Ensemble, size: Size, task: Task) -> bytes:
    """Build the graph that is served: image → score (N,), and map (N, 1, H/4, W/4) with the task.

    Both outputs are raw, on one scale.
    """
    builder = GraphBuilder()
    map_, score = append_ensemble(builder, fitted, size)
    builder.output("score", score, (BATCH,))
    if task == "anomaly_map":
        builder.output("map", map_, (BATCH, 1, size[0] // MAP_STRIDE, size[1] // MAP_STRIDE))
    return builder.model()


def checked_name(name: str) -> str:
    """Return `name`. Raises InvalidConfiguration when no model may bear it."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidConfiguration(
            f"A model can't be named {name!r}: 1 to 128 letters, digits, '-', '_' and '.' only."
        )
    return name


def safe_name(source: Path) -> str:
    """Turn the name of a folder, or of the one a manifest lies in, into one a model may have.

    A part of a data set, such as train, isn't named after the product; the folder above it is.
    """
    folder = source.resolve().parent if source.is_file() else source.resolve()
    while folder.name.lower() in PARTS:
        folder = folder.parent
    return re.sub(r"[^a-zA-Z0-9\-_.]+", "-", folder.name)[:128].strip("-.") or "model"


def _remarks(read: _Read, fitted: Ensemble) -> Iterator[str]:
    """Yield what the user should know of the images, and how well they are ranked."""
    if len(read.anomaly):
        auroc = metrics.auroc(fitted.normal.as_taken, fitted.anomaly.as_taken)
        yield f"Cross-validated AUROC {auroc:.3f}"
    yield from read.reader.remarks
    yield from dataset.product_warnings(read.normal.paths, fitted.normal.as_taken)


def _time_ms(model: bytes, manifest: Manifest, picture: NDArray[np.uint8]) -> float:
    """Return how long one core computes a picture of the model's input size."""
    backend = open_backend(golden.BACKENDS, model, manifest, BackendOptions(threads=1))
    try:
        times = []
        for _ in range(TIMED):
            began = time.perf_counter()
            backend.try_out(picture[None])
            times.append(time.perf_counter() - began)
        return 1000.0 * min(times)
    finally:
        backend.close()


def _with_golden(
    manifest: Manifest,
    model: bytes,
    candidates: Sequence[NDArray[np.uint8]],
    quartiles: Quartiles,
) -> Tuple[Manifest, Dict[str, bytes]]:
    """Return the manifest with golden samples in it, and all files of the package by path."""
    samples, pictures = golden.samples(model, manifest, candidates, GOLDEN_SAMPLES)
    band = manifest.decision.grey_band
    bands = {} if band is None else {GREY_BAND_FILE: (band.model_dump_json() + "\n").encode()}
    files = {MODEL_FILE: model, **bands, QUARTILES_FILE: quartiles.to_json(), **pictures}
    listed = tuple(FileEntry.of(path, content) for path, content in files.items())
    return manifest.model_copy(update={"golden": samples, "files": listed}), files


def _statistics(
    fitted: Ensemble, decided: Calibration, normal: Pictures, reader: PictureReader
) -> Statistics:
    return Statistics(
        normal_scores=_histogram(calibration.apply(decided, fitted.normal.as_taken)),
        anomaly_scores=_histogram(calibration.apply(decided, fitted.anomaly.as_taken)),
        brightness=normal.range_of("brightness"),
        sharpness=normal.range_of("sharpness"),
        image_bits=reader.bits,
    )


def _histogram(scores: NDArray[np.floating]) -> Optional[Histogram]:
    if not len(scores):
        return None
    counts, edges = np.histogram(scores, HISTOGRAM_BINS, (0.0, 1.0))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
