"""Whether each engine gives the results of the model in onnxruntime on the CPU."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence

import numpy as np

from edge_agent.demo import SEED
from edge_agent.errors import BackendUnavailable
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.gpu_check import engine_build
from edge_agent.gpu_check.models import TOLERANCE, at_model_size
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Rows, Skipped
from edge_agent.gpu_check.site import CUDA_PROVIDER, Site
from edge_agent.manifest import Manifest
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.training import trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pictures = Sequence[NDArray[np.uint8]]
    Results = Sequence[golden_check.GoldenResult]

COLUMNS = ("engine", "batch", "verdicts equal", "scores differ by", "maps by", "allowed")


@dataclass(frozen=True)
class Comparison:
    """How far an engine is from the model: verdicts that agree, largest differences."""

    equal: int
    total: int
    score: float
    map: float

    @classmethod
    def of(cls, expected: Results, got: Results) -> Comparison:
        """Compare picture by picture."""
        pairs = list(zip(expected, got))
        return cls(
            sum(one.anomalous == other.anomalous for one, other in pairs),
            len(pairs),
            max(abs(one.score - other.score) for one, other in pairs),
            max(float(np.abs(one.grids - other.grids).max(initial=0.0)) for one, other in pairs),
        )

    def is_within(self, allowed: float) -> bool:
        """Whether all verdicts agree, and nothing differs by more."""
        return self.equal == self.total and max(self.score, self.map) <= allowed

    def __str__(self) -> str:
        return (
            f"{self.equal} of {self.total} verdicts equal, scores differ by {self.score:.4f} at "
            f"most, maps by {self.map:.4f}"
        )


def check(site: Site, report: AcceptanceReport) -> None:
    """Compare every engine on drawn parts; those that agree are listed in `site.equal`."""
    rows = report.table("Engines beside onnxruntime on the CPU", *COLUMNS)
    expected = reference(site.base, site.pictures)
    for precision in site.engines:
        if report.check(f"parity {precision}", partial(_engine, site, precision, expected, rows)):
            site.equal.append(precision)
    report.check(f"parity {CUDA_PROVIDER}", partial(_provider, site, expected, rows))


def check_data(site: Site, report: AcceptanceReport, source: Path, trains: bool) -> None:
    """Compare verdicts on real pictures: of `source`/test, or `source` where it has no such part.

    Scores and maps may differ: float16 differs by more on some models than drawn parts need.

    trains: with a model of its own, trained on `source`/train or `source`; else with `site.base`.
    """
    rows = report.table(f"Real pictures: {source.name}", *COLUMNS)
    report.check(f"data {source.name}", partial(_data, site, report, source, trains, rows))


def reference(package: Package, pictures: Pictures) -> Results:
    """Run the model itself."""
    manifest = package.manifest
    with closing(OrtBackend(package.read_model(), manifest, BackendOptions())) as backend:
        return _results(backend, manifest, pictures, count=1)


def _results(backend: Backend, manifest: Manifest, pictures: Pictures, count: int) -> Results:
    found = golden_check.run(backend, manifest, pictures, count)
    return [golden_check.GoldenResult.of(outputs, index, manifest) for outputs, index in found]


def _engine(site: Site, precision: str, expected: Results, rows: Rows) -> str:
    allowed = TOLERANCE[precision]
    worst = _compare(site, precision, partial(site.backend, precision), allowed, expected, rows)
    if worst.is_within(allowed):
        return str(worst)
    if precision == "int8":
        raise Skipped(f"{worst}; the agent would use fp16 instead")
    raise Failed(f"{worst}; {allowed:g} is allowed, and all verdicts must be equal")


def _provider(site: Site, expected: Results, rows: Rows) -> str:
    allowed = TOLERANCE["fp32"]
    try:
        worst = _compare(site, CUDA_PROVIDER, site.cuda_provider, allowed, expected, rows)
    except BackendUnavailable as error:
        raise Skipped(str(error)) from None
    if not worst.is_within(allowed):
        raise Failed(f"{worst}; {allowed:g} is allowed, and all verdicts must be equal")
    return str(worst)


def _compare(
    site: Site,
    name: str,
    open_backend: Callable[[], Backend],
    allowed: Optional[float],
    expected: Results,
    rows: Rows,
) -> Comparison:
    """Compare one at a time and in the largest batches; return the worse comparison.

    allowed: difference of scores and maps, for the table; None: any.
    """
    found: List[Comparison] = []
    with closing(open_backend()) as backend:
        for count in sorted({1, backend.max_batch}):
            results = _results(backend, site.base.manifest, site.pictures, count)
            one = Comparison.of(expected, results)
            cells = (f"{one.equal} of {one.total}", f"{one.score:.5f}", f"{one.map:.5f}")
            rows.append((name, str(count), *cells, "any" if allowed is None else f"{allowed:g}"))
            found.append(one)
    return max(found, key=lambda one: (one.total - one.equal, max(one.score, one.map)))


def _data(site: Site, report: AcceptanceReport, source: Path, trains: bool, rows: Rows) -> str:
    package = _trained(site, source) if trains else site.base
    folder = _part(source, "test")
    images = LabelledImages.of(folder)
    paths = [*images.normal, *images.anomaly]
    if not paths:
        raise Skipped(f"{folder} has neither normal/ nor anomaly/ with images in it")
    bits = package.manifest.statistics.image_bits
    reader = PictureReader(paths, lambda item: report.print_line(str(item)), bits)
    frames = (frame for _, frame in reader.frames(paths))
    pictures = [at_model_size(frame.pixels, package.manifest) for frame in frames]
    own = site.on(package, pictures)
    engine_build.build(own, "fp16", [], report.print_line)
    expected = reference(package, pictures)
    worst = _compare(own, "fp16", partial(own.backend, "fp16"), None, expected, rows)
    if worst.equal < worst.total:
        raise Failed(f"{worst}; all verdicts must be equal")
    return str(worst)


def _trained(site: Site, source: Path) -> Package:
    out = site.folder / "models" / f"data-{trainer.safe_name(source)}"
    trainer.train(_part(source, "train"), out, name=out.name, seed=SEED, progress=lambda _: None)
    return Package(out)


def _part(source: Path, name: str) -> Path:
    return source / name if (source / name).is_dir() else source
