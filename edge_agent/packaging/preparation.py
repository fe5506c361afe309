"""Makes a package fit for its target: checks the graph and adds what the target needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.manifest import InputSpec, RuntimeSpec
from edge_agent.packaging.draft import PackageDraft
from edge_agent.packaging.graph import half, meaning
from edge_agent.packaging.graph.check import check
from edge_agent.packaging.graph.engine import PLAIN, Tuning, build_here, build_spec
from edge_agent.packaging.graph.findings import GraphFinding, GraphReport, note, warning
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.graph.meaning import SamplePictures
from edge_agent.packaging.graph.optimise import optimise
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.target import GpuOptions, Target
from edge_agent.targets import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

GOLDEN_CANDIDATES = 64  # to choose from
_LABELS = {"normal": False, "anomaly": True}  # folders of labelled images
MOST_CALIBRATION = 500
# Of calibrated scores. FP16 was seen to differ by 0.002 to 0.023, wrong graphs by 0.3 and more.
LEAST_TOLERANCE = {"fp32": 0.0, "fp16": 0.05, "int8": 0.1}

OnFinding = Callable[[GraphFinding], None]


@dataclass(frozen=True)
class Preparation:
    """What is requested beyond the target. precision: None keeps the manifest's."""

    precision: Optional[Precision] = None
    golden_images: Optional[Path] = None
    calibration_images: Optional[Path] = None
    optimise: bool = False
    tuning: Tuning = PLAIN

    def to_api(self) -> Document:
        """Return what is set, under keys of our own; a client token stands for these as well."""
        values = {
            "Precision": self.precision,
            "GoldenImages": self.golden_images and str(self.golden_images.absolute()),
            "CalibrationImages": self.calibration_images
            and str(self.calibration_images.absolute()),
            "Optimise": self.optimise or None,
            **self.tuning.to_api(),
        }
        return {key: value for key, value in values.items() if value is not None}

    def apply(self, draft: PackageDraft, target: Target, report: OnFinding) -> PackageDraft:
        """Return the package for `target`; findings that don't stop the job go to `report`.

        Raises InvalidPackage: every error that the checks found; InvalidConfiguration.
        """
        draft = draft.change(runtime=_at_precision(draft.manifest.runtime, self.precision))
        model = draft.read_model()
        calibration = self._calibration(draft.manifest.input, report)
        checked = check(model, draft.manifest, target, len(calibration))
        if checked.of("error"):
            raise InvalidPackage(" ".join(checked.of("error")))
        for finding in (*map(warning, draft.assumptions), *checked.findings):
            report(finding)
        sample_pictures = self._sample_pictures(draft, report)
        read = GraphReport(tuple(meaning.check(model, draft.manifest, sample_pictures)))
        if read.of("error"):
            raise InvalidPackage(" ".join(read.of("error")))
        for finding in read.findings:
            report(finding)
        draft = self._with_golden(draft, model, sample_pictures, report)
        if self.optimise:
            content, optimised = optimise(model, target)
            draft = draft.add({optimised.path: content}).change(optimised=optimised)
        if isinstance(target.options, GpuOptions):
            draft = self._for_gpu(draft, model, target, target.options, calibration, report)
        return draft.change(target=target.to_spec())

    def _for_gpu(
        self,
        draft: PackageDraft,
        model: bytes,
        target: Target,
        options: GpuOptions,
        calibration: Dict[str, bytes],
        report: OnFinding,
    ) -> PackageDraft:
        """Add the settings to build the engine with and what they name; the engine, if it can."""
        paths = sorted(calibration)
        build = build_spec(Graph(model), draft.manifest, options, paths, self.tuning)
        draft = draft.add({path: calibration[path] for path in build.calibration})
        if build.precision == "fp16" and half.is_needed(options.trt_ver):
            halved, finding = half.halve(model, draft.manifest, _golden_pictures(draft))
            report(finding)
            if halved is not None:
                model, build = halved, build.model_copy(update={"half": half.FILE_NAME})
                draft = draft.add({half.FILE_NAME: halved})
        image, spec = draft.manifest.input, target.to_spec()
        files, finding = build_here(model, image, build, spec, calibration)
        report(finding)
        return draft.add(files).change(build=build)

    def _calibration(self, spec: InputSpec, report: OnFinding) -> Dict[str, bytes]:
        """Return the pictures as files of the package, by path."""
        from edge_agent.runtime.vision.picture_files import png

        if self.calibration_images is None:
            return {}
        found = _pictures(self.calibration_images, spec, MOST_CALIBRATION, report)
        pictures = [picture for _, picture in found]
        return {f"calibration/{index:03}.png": png(item) for index, item in enumerate(pictures)}

    def _sample_pictures(self, draft: PackageDraft, report: OnFinding) -> SamplePictures:
        """Return pictures that show what the outputs mean, real ones if there are any."""
        spec, golden = draft.manifest.input, draft.manifest.golden
        if self.golden_images is None:
            if not golden:
                return meaning.synthetic(spec.height, spec.width)
            known = [sample.anomalous for sample in golden]
            return SamplePictures(_golden_pictures(draft), known, "golden samples")
        if golden:
            raise InvalidConfiguration(
                "The package has golden samples already; leave --golden-images out."
            )
        found = _pictures(self.golden_images, spec, GOLDEN_CANDIDATES, report)
        labels = [_label(path, self.golden_images) for path, _ in found]
        pictures = [picture for _, picture in found]
        return SamplePictures(pictures, labels, f"pictures in {self.golden_images}")

    def _with_golden(
        self, draft: PackageDraft, model: bytes, sample_pictures: SamplePictures, report: OnFinding
    ) -> PackageDraft:
        if self.golden_images is None:
            if not draft.manifest.golden:
                report(note(
                    "The package has no golden samples, so the agent can't compare its results "
                    "on the device with those here; --golden-images FOLDER adds them."
                ))  # fmt: skip
            return draft
        from edge_agent.training import golden

        pictures = sample_pictures.pictures
        samples, files = golden.samples(model, draft.manifest, pictures)
        if not samples:
            raise InvalidConfiguration(
                f"None of the {len(pictures)} images in {self.golden_images} is far enough from "
                "the threshold to be a golden sample; give clear ones, normal and anomalous."
            )
        return draft.add(files).change(golden=samples)


def _label(path: Path, folder: Path) -> Optional[bool]:
    """Return what the outermost labelled folder above the picture says, at last `folder` itself."""
    above = (*path.relative_to(folder).parts[:-1], folder.absolute().name)
    return next((_LABELS[name] for name in above if name in _LABELS), None)


def _golden_pictures(draft: PackageDraft) -> List[Picture]:
    from edge_agent.runtime.vision.picture_files import read_png

    spec = draft.manifest.input
    try:
        return [
            read_png(draft.read(sample.image), spec.width, spec.height)
            for sample in draft.manifest.golden
        ]
    except ValueError as error:
        raise InvalidPackage(f"The package's golden samples can't be used: {error}.") from None


def _at_precision(runtime: RuntimeSpec, requested: Optional[Precision]) -> RuntimeSpec:
    """Return the runtime settings with the tolerance that the precision's rounding needs."""
    precision = requested or runtime.precision
    tolerance = max(runtime.parity_tolerance, LEAST_TOLERANCE[precision])
    return runtime.model_copy(update={"precision": precision, "parity_tolerance": tolerance})


def _pictures(
    folder: Path, spec: InputSpec, most: int, report: OnFinding
) -> List[Tuple[Path, Picture]]:
    """Read the images of a folder and its sub-folders at the model's size, `most` at most.

    Of more than these every n-th is taken. What can't be used is left out and reported.
    """
    from edge_agent.pictures import listing
    from edge_agent.pictures.reader import PictureReader
    from edge_agent.runtime.vision.preprocess import write_input

    if not folder.is_dir():
        raise InvalidConfiguration(f"{folder} isn't a folder of images.")
    found = listing.PictureListing.of([folder])
    paths = found.paths
    if len(paths) > most:
        paths = tuple(paths[index * len(paths) // most] for index in range(most))
    reader = PictureReader(paths, lambda item: report(warning(str(item))))
    plain = spec.model_copy(update={"dtype": "uint8", "layout": "NHWC"})
    slots = np.empty((len(paths), spec.height, spec.width, 3), np.uint8)
    pictures = [
        (path, write_input(frame, plain, slot))
        for slot, (path, frame) in zip(slots, reader.frames(paths))
    ]
    if not pictures:
        left_out = listing.sentence((*found.left_out, *reader.left_out))
        endings = ", ".join(listing.SUFFIXES)
        raise InvalidConfiguration(
            f"{folder} has no images that can be used ({endings}). {left_out}".rstrip()
        )
    for remark in reader.remarks:
        report(note(remark))
    return pictures
