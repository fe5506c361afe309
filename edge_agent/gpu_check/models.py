"""The models of the checks: one for each precision, one that does nothing; and their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Sequence, Tuple

import numpy as np
from onnx import TensorProto, helper

from edge_agent.demo import SEED, parts
from edge_agent.gpu_check.report import Skipped
from edge_agent.manifest import MODEL_FILE, Decision, FileEntry, Manifest, Statistics
from edge_agent.packaging.graph import half
from edge_agent.runtime.engines.spec import build_spec
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.picture_files import png
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.targets import Precision
from edge_agent.training import package as package_folder
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

PRECISIONS: Tuple[Precision, ...] = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 0.001, "fp16": 0.05, "int8": 0.1}  # of scores and maps, 0 to 1
OPSET = 13
MAP_STEP = 4  # pixels of the input to one of the map, as trained models have it


def good_pictures(count: int, manifest: Manifest) -> List[Pixels]:
    """Draw good parts of the model's size, to calibrate int8 with."""
    seeds = (parts.training_seed(SEED, index) for index in range(count))
    return [at_model_size(parts.draw(seed).image, manifest) for seed in seeds]


def mixed_pictures(count: int, manifest: Manifest) -> List[Pixels]:
    """Draw good and defective parts of the model's size; none of those to train on."""
    return [
        at_model_size(parts.draw(seed, defect).image, manifest)
        for seed, defect in parts.mixed(count, SEED)
    ]


def at_model_size(image: Pixels, manifest: Manifest) -> Pixels:
    """Resize as the agent does; uint8 RGB, also where the model takes something else."""
    spec = manifest.input.model_copy(update={"dtype": "uint8", "layout": "NHWC"})
    target = np.empty((spec.height, spec.width, 3), np.uint8)
    return write_input(Frame(image), spec, target)


def at_precision(
    package: Package, precision: Precision, batches: Sequence[int], good: Sequence[Pixels],
    typed: bool, out: Path,
) -> Package:  # fmt: skip
    """Write `package` once more, to be built with `precision` for these batches.

    good: pictures to calibrate int8 with. typed: TensorRT goes by the graph's own types (from 11
    on), so float16 needs a graph of its own. Raises Skipped when there can't be one.
    """
    files = {entry.path: package.read(entry.path) for entry in package.manifest.files}
    calibration = _calibration(good)
    manifest = _with_runtime(package.manifest, precision, batches)
    build = build_spec(manifest).model_copy(
        update={
            "quantised": package.manifest.build is not None and package.manifest.build.quantised,
            "calibration": tuple(sorted(calibration)),
            "half": half.FILE_NAME if typed and precision == "fp16" else None,
        }
    )
    if build.half is not None:
        files[build.half] = _half_graph(files[MODEL_FILE], package, manifest)
    files.update(calibration)
    listed = tuple(FileEntry.of(path, content) for path, content in files.items())
    package_folder.write(out, manifest.model_copy(update={"build": build, "files": listed}), files)
    return Package(out)


def _with_runtime(manifest: Manifest, precision: Precision, batches: Sequence[int]) -> Manifest:
    """Return the manifest for that precision and these batches, without packaging's settings."""
    tolerance = max(manifest.runtime.parity_tolerance, TOLERANCE[precision])
    update = {
        "precision": precision,
        "batch_sizes": tuple(batches),
        "parity_tolerance": tolerance,
    }
    runtime = manifest.runtime.model_copy(update=update)
    return manifest.model_copy(update={"runtime": runtime, "build": None})


def _calibration(good: Sequence[Pixels]) -> Dict[str, bytes]:
    return {f"calibration/{index:03}.png": png(picture) for index, picture in enumerate(good)}


def _half_graph(model: bytes, package: Package, manifest: Manifest) -> bytes:
    """Return the graph with float16 in it, as packaging makes it. Raises Skipped."""
    content, finding = half.halve(model, manifest, golden_check.read_pictures(package))
    if content is None:
        raise Skipped(finding.text)
    return content


def write_noop(out: Path, like: Manifest) -> Path:
    """Write a package that computes next to nothing and finds every picture good.

    It has the inputs and outputs of `like`. An agent that serves it is as fast as everything around
    the engine is.
    """
    model = _noop_graph(like)
    update: Dict[str, object] = {
        "decision": Decision(), "statistics": Statistics(), "golden": (), "target": None,
        "build": None, "optimised": None, "files": (FileEntry.of(MODEL_FILE, model),),
    }  # fmt: skip
    package_folder.write(out, like.model_copy(update=update), {MODEL_FILE: model})
    return out


def _noop_graph(like: Manifest) -> bytes:
    """Return zeros of the shapes of all outputs, made of one value of each picture."""
    spec, node, names = like.input, helper.make_node, like.outputs
    height, width = (max(1, size // MAP_STEP) for size in (spec.height, spec.width))
    maps = {names.map: (1, 1, height, width)}
    maps[names.class_maps] = (1, 1 + len(like.classes), height, width)
    nodes = [
        node("Slice", [spec.tensor, "begin", "end", "axes"], ["corner"]),
        node("Cast", ["corner"], ["value"], to=TensorProto.FLOAT),
        node("Mul", ["value", "zero"], ["nothing"]),
    ]
    outputs = []
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        *(_numbers(*each) for each in (("begin", [0] * 3), ("end", [1] * 3), ("axes", [1, 2, 3]))),
    ]
    if names.score is not None:
        nodes.append(node("ReduceMax", ["nothing"], [names.score], axes=[1, 2, 3], keepdims=0))
        outputs.append(helper.make_tensor_value_info(names.score, TensorProto.FLOAT, ["N"]))
    for name, shape in maps.items():
        if name is not None:
            constants.append(_numbers(f"shape of {name}", shape))
            nodes.append(node("Expand", ["nothing", f"shape of {name}"], [name]))
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape[1:]])
            outputs.append(info)
    kind = TensorProto.UINT8 if spec.dtype == "uint8" else TensorProto.FLOAT
    image = helper.make_tensor_value_info(spec.tensor, kind, ["N", *item_shape(spec)])
    graph = helper.make_graph(nodes, "nothing", [image], outputs, constants)
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def _numbers(name: str, values: Sequence[int]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
