"""From labelled images to a model package: the steps of training, in order."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
from typing_extensions import Literal

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation import metrics
from edge_agent.evaluation.label_manifest import ALL, ManifestOptions
from edge_agent.manifest import (
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
from edge_agent.training import backbones, calibration, dataset, ensemble, golden, graph, package
from edge_agent.training.backbones import BackboneOptions
from edge_agent.training.dataset import Pictures
from edge_agent.training.ensemble import ENLARGE, Ensemble, append_ensemble
from edge_agent.training.evidence import Images
from edge_agent.training.features import STRIDE
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_BACKBONE = BackboneOptions()
Task = Literal["anomaly_map", "classification"]
BATCH_SIZES = (1, 2, 4)
MAP_STRIDE = STRIDE // ENLARGE  # pixels of the input for each of the map, each way
HISTOGRAM_BINS = 20
GOLDEN_SAMPLES = 4
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
    progress: Callable[[str], None],
) -> Manifest:
    """Train on `source`/normal (and /anomaly), or on a label manifest; write the package `out`.

    Bad images, where there are any and unless `normal_only`, are learned from, weigh the heads and
    place the threshold. name: None: that of the model whose captures these are, else the folder's.
    size: height and width of the model's input, multiples of 16; None: by the first image. bits: of
    the camera, in files of 16 bits a channel; None: by the highest value in them. backbone: what
    the filter bank is helped by. The same images, seed and libraries give the same model.onnx.
    Images that can't be used are left out; a table says which. Raises InvalidConfiguration: which
    folder or option cannot be used.
    """
    began = time.monotonic()
    graph.check_libraries()
    package.check_target(out)
    found = dataset.find(source, normal_only, options)
    name = checked_name(name or found.model or safe_name(source))
    for remark in found.remarks:
        progress(remark)
    paths = (*found.normal, *found.anomaly)
    package.check_inputs(out, paths)
    reader = PictureReader(paths, lambda item: progress(str(item)), bits)
    spec = _input_spec(size or dataset.input_size(found.normal, reader))
    normal = Pictures.load(found.normal, spec, reader)
    anomaly = Pictures.load(found.anomaly, spec, reader)
    dataset.check_count(source, len(normal), (*found.findings, listing.sentence(reader.left_out)))
    progress(
        f"{len(normal)} normal and {len(anomaly)} anomalous images, "
        f"trained at {spec.width}x{spec.height} pixels"
    )
    helped = backbones.find(backbone, (spec.height, spec.width))
    random = np.random.default_rng(seed)
    fitted = ensemble.fit(Images.of(normal.pixels, anomaly.pixels, random), seed, helped.forms)
    for remark in (helped.remark, *_remarks(normal, anomaly, reader, fitted)):
        progress(remark)
    decided = _calibrate(fitted)
    model = build_model(fitted, (spec.height, spec.width), task)
    manifest = Manifest(
        name=name,
        version=version,
        description=f"Trained on {len(normal)} normal and {len(anomaly)} anomalous images",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        trained_by=f"edge-agent {__version__}",
        source_digest=dataset.digest(normal.paths, anomaly.paths, source),
        task=task,
        input=spec,
        outputs=OutputSpec(score="score", map="map" if task == "anomaly_map" else None),
        decision=Decision(calibration=decided),
        runtime=RuntimeSpec(batch_sizes=BATCH_SIZES),
        statistics=_statistics(fitted, decided, normal, reader),
        files=(FileEntry.of(MODEL_FILE, model),),
    )
    candidates = golden.candidates(normal.pixels, anomaly.pixels, seed)
    manifest, files = _with_golden(manifest, model, candidates)
    package.write(out, manifest, files)
    progress(f"{out}: {len(model) / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    for line in listing.table((*found.left_out, *reader.left_out)):
        progress(line)
    return manifest


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


def _input_spec(size: Size) -> InputSpec:
    return InputSpec(tensor=IMAGE, height=size[0], width=size[1])


def _remarks(
    normal: Pictures, anomaly: Pictures, reader: PictureReader, fitted: Ensemble
) -> Iterator[str]:
    """Yield what the user should know of the images, and how well they are ranked."""
    if len(anomaly):
        yield f"Cross-validated AUROC {metrics.auroc(fitted.normal, fitted.anomaly):.3f}"
    yield from reader.remarks
    yield from dataset.size_warnings(normal, anomaly)
    yield from dataset.leak_warnings(normal, anomaly)
    yield from dataset.product_warnings(normal.paths, fitted.normal)


def _calibrate(fitted: Ensemble) -> Calibration:
    if len(fitted.anomaly):
        return calibration.from_both(fitted.normal, fitted.anomaly, fitted.synthetic)
    return calibration.from_normals(fitted.normal, fitted.synthetic)


def _with_golden(
    manifest: Manifest, model: bytes, candidates: Sequence[NDArray[np.uint8]]
) -> Tuple[Manifest, Dict[str, bytes]]:
    """Return the manifest with golden samples in it, and all files of the package by path."""
    samples, pictures = golden.samples(model, manifest, candidates, GOLDEN_SAMPLES)
    files = {MODEL_FILE: model, **pictures}
    listed = tuple(FileEntry.of(path, content) for path, content in files.items())
    return manifest.model_copy(update={"golden": samples, "files": listed}), files


def _statistics(
    fitted: Ensemble, decided: Calibration, normal: Pictures, reader: PictureReader
) -> Statistics:
    return Statistics(
        normal_scores=_histogram(calibration.apply(decided, fitted.normal)),
        anomaly_scores=_histogram(calibration.apply(decided, fitted.anomaly)),
        brightness=normal.range_of("brightness"),
        sharpness=normal.range_of("sharpness"),
        image_bits=reader.bits,
    )


def _histogram(scores: NDArray[np.floating]) -> Optional[Histogram]:
    if not len(scores):
        return None
    counts, edges = np.histogram(scores, HISTOGRAM_BINS, (0.0, 1.0))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
