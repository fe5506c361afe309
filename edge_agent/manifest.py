"""The model package's `manifest.json`, format 1: typed reader and writer.

Its JSON Schema, `docs/manifest.schema.json`, is generated from these classes.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Dict, Optional, Set, Tuple

from pydantic import Field, field_validator, model_validator
from typing_extensions import Annotated, Literal

from edge_agent.errors import InvalidPackage
from edge_agent.fields import Strict, kind_of, parse_json, read_json
from edge_agent.targets import BuildSpec, OptimisedGraph, Precision, TargetSpec
from edge_agent.types import PALETTE

FORMAT = 1
FILE_NAME = "manifest.json"
MODEL_FILE = "model.onnx"
GREY_BAND_FILE = "grey_band.json"  # beside the manifest: agents up to 1.3.0 don't look at it
NAME_PATTERN = r"^[a-zA-Z0-9\-_.]{1,128}$"  # the contract's pattern for model components
VERSION_PATTERN = r"^(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}$"  # of a component

GRID_BYTES = 64  # 8x8

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rgb = Tuple[float, float, float]


class InputSpec(Strict):
    """How a frame becomes the model's input.

    uint8 NHWC: the resized RGB frame as it is (batch, height, width, 3).
    float32: value = (pixel * scale - mean) / std per channel, as NCHW or NHWC.
    resize: "pyramid" halves by 2x2 means while more than twice too large, then bilinear; "area" is
    OpenCV's INTER_AREA, "bilinear" its INTER_LINEAR, for models trained with those.
    """

    tensor: str
    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["uint8", "float32"] = "uint8"
    scale: float = 1.0
    mean: Rgb = (0.0, 0.0, 0.0)
    std: Rgb = (1.0, 1.0, 1.0)
    resize: Literal["pyramid", "area", "bilinear"] = "pyramid"
    strict_size: bool = False  # refuse frames of another size than height x width

    @field_validator("std")
    @classmethod
    def _no_zero(cls, std: Rgb) -> Rgb:
        if 0.0 in std:
            raise ValueError("no channel's std may be 0")
        return std


class OutputSpec(Strict):
    """Which output tensor is what. Shapes: score (N) or (N,1); map (N,h,w) or (N,1,h,w);
    class_maps (N,C,h,w) with channel 0 the background and channel i the i-th entry of `classes`.
    """  # noqa: D205

    score: Optional[str] = None
    map: Optional[str] = None
    class_maps: Optional[str] = None


class Calibration(Strict):
    """Raw score or map value x becomes 1 / (1 + exp(-(scale * x + shift))), Platt's sigmoid."""

    scale: Annotated[float, Field(gt=0.0)]
    shift: float


class Zone(Strict):
    """A rectangle to ignore; fractions of the frame's width and height."""

    left: Fraction
    top: Fraction
    width: Fraction
    height: Fraction


class GreyBand(Strict):
    """Scores from `low` to below `high` are unsure, while the threshold lies there too."""

    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _ordered(self) -> GreyBand:
        if self.high < self.low:
            raise ValueError("high is below low")
        return self


class Decision(Strict):
    """From outputs to the verdict. All values in calibrated units, 0 to 1."""

    threshold: Fraction = 0.5  # anomalous from this score on
    pixel_threshold: Fraction = 0.5  # a pixel of the map belongs to a region from this value on
    minimum_region_area: Fraction = 0.0  # smaller regions are dropped; share of all pixels
    ignore_zones: Tuple[Zone, ...] = ()
    verdict: Literal["score", "mask", "either", "both"] = "score"
    calibration: Optional[Calibration] = None  # None: outputs are calibrated already
    grey_band: Optional[GreyBand] = None


class AnomalyClass(Strict):
    """One anomaly type; the background is implied and white."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    color: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]

    @field_validator("color")
    @classmethod
    def _upper(cls, color: str) -> str:
        return color.upper()


class RuntimeSpec(Strict):
    """How the model likes to be run; configuration may override it."""

    batch_sizes: Annotated[Tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (
        1,
    )
    min_inference_units: Annotated[int, Field(ge=1, le=64)] = 1
    max_inference_units: Annotated[int, Field(ge=1, le=64)] = 1
    precision: Precision = "fp32"
    # Of golden samples' scores and maps; ten times what fp32 needs. fp16 needs 0.05.
    parity_tolerance: Annotated[float, Field(gt=0.0, le=1.0)] = 0.001

    @model_validator(mode="after")
    def _ordered(self) -> RuntimeSpec:
        if self.max_inference_units < self.min_inference_units:
            raise ValueError("max_inference_units is below min_inference_units")
        return self


class Histogram(Strict):
    """Counts between neighbouring edges: len(edges) == len(counts) + 1."""

    edges: Tuple[float, ...]
    counts: Tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Histogram:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("a histogram has one edge more than counts")
        return self


class Statistics(Strict):
    """What training saw: calibrated scores, frame brightness (mean luma 0-255) and sharpness
    (variance of the Laplacian of luma at model size), each as (lowest, highest). image_bits: as how
    many bits its image files of 16 bits a channel were read; null when there were none.
    """  # noqa: D205

    normal_scores: Optional[Histogram] = None
    anomaly_scores: Optional[Histogram] = None
    brightness: Optional[Tuple[float, float]] = None
    sharpness: Optional[Tuple[float, float]] = None
    image_bits: Optional[Literal[8, 10, 12, 14, 16]] = None


class GoldenSample(Strict):
    """A picture whose result every engine must reproduce before the model runs.

    image: path of a PNG in the package, 8 bits RGB, of the model's input size. score, anomalous:
    calibrated and by the package's own decision, whatever a registration changes. map: base64 of
    grids of 8x8 bytes, row by row: the means of the calibrated map over 64 equal parts of the
    picture, 255 for 1.0. One grid of an anomaly map; one of each class, in order, of a
    segmentation model's class maps; null for classification.
    """

    image: str
    score: Fraction
    anomalous: bool
    map: Optional[Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]] = None

    @property
    def grids(self) -> bytes:
        """The map's bytes. Raises ValueError when they aren't base64."""
        return base64.b64decode(self.map or "")


class FileEntry(Strict):
    """One file of the package; `path` is relative to the manifest, with forward slashes."""

    path: Annotated[str, Field(min_length=1, max_length=512)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = path.split("/")
        is_plain = path.isprintable() and "\\" not in path
        if not is_plain or any(part in ("", ".", "..") for part in parts):
            raise ValueError("must be a plain relative path inside the package")
        return path

    @classmethod
    def of(cls, path: str, content: bytes) -> FileEntry:
        """Describe `content` under `path`."""
        return cls(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


class Manifest(Strict):
    """Everything the agent needs to know of a model besides its graph."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(min_length=1, max_length=64)] = "1"
    description: Annotated[str, Field(max_length=256)] = ""
    model_arn: str = ""
    created: str = ""  # ISO 8601, UTC
    trained_by: str = ""
    source_digest: str = ""  # sha-256 over the training images
    task: Literal["classification", "segmentation", "anomaly_map"]
    input: InputSpec
    outputs: OutputSpec
    decision: Decision = Decision()
    classes: Tuple[AnomalyClass, ...] = ()
    runtime: RuntimeSpec = RuntimeSpec()
    statistics: Statistics = Statistics()
    golden: Annotated[Tuple[GoldenSample, ...], Field(max_length=16)] = ()
    target: Optional[TargetSpec] = None  # this and the next two are written by `package`
    build: Optional[BuildSpec] = None  # NVIDIA targets only
    optimised: Optional[OptimisedGraph] = None  # CPU targets, when asked for
    files: Tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        needed = {"classification": "score", "anomaly_map": "map", "segmentation": "class_maps"}
        output = needed[self.task]
        if getattr(self.outputs, output) is None:
            raise ValueError(f"a model of task {self.task} must name outputs.{output}")
        if self.task == "segmentation" and not self.classes:
            raise ValueError("a segmentation model must name its classes")
        listed = {entry.path for entry in self.files}
        for path in (MODEL_FILE, *self._named_files()):
            if path not in listed:
                raise ValueError(f"files must list {path}")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Manifest:
        grids = {"classification": 0, "anomaly_map": 1, "segmentation": len(self.classes)}
        wanted = GRID_BYTES * grids[self.task]
        for sample in self.golden:
            if len(sample.grids) != wanted:
                raise ValueError(
                    f"the map of golden sample {sample.image} has {len(sample.grids)} bytes; a "
                    f"model of this task and these classes needs {wanted}"
                )
        return self

    def _named_files(self) -> Tuple[str, ...]:
        """Return the files that golden samples, build settings and the optimised graph name."""
        calibration = self.build.calibration if self.build else ()
        graphs = (self.optimised and self.optimised.path, self.build and self.build.half)
        named = tuple(path for path in graphs if path)
        return (*(sample.image for sample in self.golden), *calibration, *named)

    @property
    def anomaly_classes(self) -> Tuple[AnomalyClass, ...]:
        """The classes; an anomaly map without any has one, `anomaly`, in the second colour."""
        if self.classes or self.task == "classification":
            return self.classes
        return (AnomalyClass(name="anomaly", color=PALETTE[1]),)

    def to_json(self) -> bytes:
        """Serialise; reading it back gives an equal manifest."""
        left_out: Dict[str, Set[str]] = {}  # 1.3.0 refuses keys that it doesn't know
        if self.statistics.image_bits is None:
            left_out["statistics"] = {"image_bits"}
        if self.decision.grey_band is None or self.has_grey_band_file:
            left_out["decision"] = {"grey_band"}
        return (self.model_dump_json(indent=2, exclude=left_out) + "\n").encode()

    @property
    def has_grey_band_file(self) -> bool:
        """Whether the grey band is in a file of its own."""
        return any(entry.path == GREY_BAND_FILE for entry in self.files)

    def with_grey_band(self, content: bytes) -> Manifest:
        """Return it with the band that GREY_BAND_FILE holds. Raises InvalidPackage."""
        try:
            band = read_json(GreyBand, content)
        except ValueError as error:
            raise InvalidPackage(f"{GREY_BAND_FILE}: {error}") from None
        decision = self.decision.model_copy(update={"grey_band": band})
        return self.model_copy(update={"decision": decision})


def parse(content: bytes) -> Manifest:
    """Read a manifest. Raises InvalidPackage: a sentence for each thing that is wrong."""
    try:
        values: Any = parse_json(content)
    except ValueError as error:
        raise InvalidPackage(f"{FILE_NAME} isn't JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidPackage(f"{FILE_NAME} must hold one JSON object, not {kind_of(values)}")
    newer = values.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise InvalidPackage(
            f"{FILE_NAME} has format {newer}; this agent reads up to {FORMAT}. Update the agent."
        )
    try:
        return read_json(Manifest, content)
    except ValueError as error:
        raise InvalidPackage(f"{FILE_NAME}: {error}") from None


def schema() -> Dict[str, Any]:
    """Return the JSON Schema of the manifest."""
    return Manifest.model_json_schema()
