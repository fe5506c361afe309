"""From labelled images to a model package: the steps of training, in order."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from typing_extensions import Literal

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ALL, ManifestOptions
from edge_agent.evaluation.labelled import LabelledImages
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
from edge_agent.training import (
    backbones,
    calibration,
    dataset,
    ensemble,
    findings,
    golden,
    graph,
    package,
    placement,
    robustness_file,
)
from edge_agent.training.backbones import BackboneOptions
from edge_agent.training.calibration import QUARTILES_FILE, Quartiles
from edge_agent.training.dataset import Pictures
from edge_agent.training.ensemble import ENLARGE, Ensemble, append_ensemble
from edge_agent.training.features import STRIDE
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Size
from edge_agent.training.placement import Placed, Scores, Wanted

if TYPE_CHECKING:
    from numpy.typing import NDArray

Task = Literal["anomaly_map", "classification"]
BATCH_SIZES = (1, 2, 4)
MAP_STRIDE = STRIDE // ENLARGE  # pixels of the input for each of the map, each way
HISTOGRAM_BINS = 20
GOLDEN_SAMPLES = 4
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
    and width of the model's input, multiples of 16; None: by the first image. bits: of the camera,
    in files of 16 bits a channel; None: by the highest value in them. backbone: what helps the
    filter bank. wanted: where the threshold is to lie. test: images that the model will be tested
    with, of which none should be among those trained on; None: the folder test/ beside a folder
    train/. The same images, seed and libraries give the same package, byte for byte. Tables say
    what misleads, and what is left out. Raises InvalidConfiguration: what cannot be used.
    """
    began = time.monotonic()
    graph.check_libraries()
    package.check_target(out)
    found = dataset.find(source, normal_only, options)
    name = checked_name(name or found.model or safe_name(source))
    for remark in found.remarks:
        progress(remark)
    package.check_inputs(out, (*found.normal, *found.anomaly))
    read = _read(found, size, bits, progress, steps)
    spec, normal, anomaly, reader = read
    helped = backbones.find(backbone, (spec.height, spec.width))
    wanted.check(len(anomaly))
    dataset.check_count(source, len(normal), (*found.findings, listing.sentence(reader.left_out)))
    progress(f"{read.counts}, trained at {spec.width}x{spec.height} pixels")
    tested = PictureReader(dataset.test_images(source, test, options), bits=reader.bits)
    pictures = (normal, anomaly, Pictures.load(tested.paths, spec, tested, steps))
    findings.report(findings.LabelledPictures(source, *pictures, reader.left_out), progress)
    with steps.during("Training"):
        fitted = ensemble.fit(normal.pixels, anomaly.pixels, seed, helped.forms)
    placed = placement.place(Scores(fitted.normal, fitted.anomaly, fitted.synthetic), wanted, seed)
    used = helped.remark_of([member.extractor for member in fitted.members])
    for remark in (used, *_remarks(read, fitted), *placed.remarks()):
        progress(remark)
    model = build_model(fitted, (spec.height, spec.width), task)
    manifest = _manifest(source, name, version, task, read, fitted, placed, model)
    candidates = golden.candidates(normal.pixels, anomaly.pixels, seed)
    quartiles = Quartiles.of(fitted.normal.as_taken)
    manifest, files = _with_golden(manifest, model, candidates, quartiles)
    trained = LabelledImages(normal.paths, anomaly.paths)
    unseen = dataset.labelled_test(source, test, options)
    manifest, files = robustness_file.added(manifest, files, trained, unseen, progress, steps)
    package.write(out, manifest, files)
    progress(f"{out}: {len(model) / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    for line in listing.table((*found.left_out, *reader.left_out)):
        progress(line)
    return manifest


class _Read(NamedTuple):
    """The images, at the size of the model's input `spec`."""

    spec: InputSpec
    normal: Pictures
    anomaly: Pictures
    reader: PictureReader

    @property
    def counts(self) -> str:
        return f"{len(self.normal)} normal and {len(self.anomaly)} anomalous images"


def _read(
    found: LabelledImages,
    size: Optional[Size],
    bits: Optional[int],
    progress: Callable[[str], None],
    steps: Steps,
) -> _Read:
    paths = (*found.normal, *found.anomaly)
    reader = PictureReader(paths, lambda item: progress(str(item)), bits)
    height, width = size or dataset.input_size(found.normal, reader)
    spec = InputSpec(tensor=IMAGE, height=height, width=width)
    normal, anomaly = (
        Pictures.load(each, spec, reader, steps) for each in (found.normal, found.anomaly)
    )
    return _Read(spec, normal, anomaly, reader)


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
        runtime=RuntimeSpec(batch_sizes=BATCH_SIZES),
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
