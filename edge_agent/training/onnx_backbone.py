"""Features of any network in an ONNX file: its layers at an eighth and a 16th of the size.

A network that takes pictures of one size only, such as a vision transformer, sees them resized.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from typing_extensions import Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.training.features import STRIDE, feature_model
from edge_agent.training.graph import IMAGE, OPSET, GraphBuilder, Session, Size
from edge_agent.training.onnx_network import PICTURES, Network

STRIDES = (STRIDE, 2 * STRIDE)  # pixels for each value of a layer, each way
TOKEN_SIDES = (8, 14, 16, 32)  # pixels, of a transformer's patches
MOST_EXTRA = 16  # tokens of a transformer that are no patches, at most
DEPTH = 0.75  # of a transformer's layers: the last ones know what a picture shows, not where
SHALLOW = 0.2  # of a network's nodes: what it has seen by then is edges and colours
MOST_CHANNELS = 160  # of a patch; more are projected
UNPADDED = 2.0  # values that a layer may lack at the borders
NUDGE = 0.01  # of a value, so that a factor that isn't whole gives the size that is meant

# Mean and deviation of red, green and blue.
Normalisation = Tuple[Tuple[float, ...], Tuple[float, ...]]
# What networks expect of pixels 0-255. A file doesn't say which; validation chooses.
NORMALISATIONS: Tuple[Normalisation, ...] = (
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # of ImageNet
    ((127.5,) * 3, (127.5,) * 3),
    ((0.0,) * 3, (1.0,) * 3),
)


@dataclass(frozen=True)
class Layer:
    """A tensor of a network, and how it becomes a grid of patches.

    first: of tokens, how many come before those of patches.
    """

    name: str
    channels: int
    grid: Size
    form: Literal["planes", "pixels", "tokens"]  # (N, C, h, w), (N, h, w, C), (N, L, C)
    first: int = 0

    def append(self, graph: GraphBuilder, tensor: str) -> str:
        """Append the tensor → planes (N, C, h, w)."""
        if self.form == "planes":
            return tensor
        if self.form == "pixels":
            return graph.add("Transpose", tensor, perm=[0, 3, 1, 2])
        last = self.first + self.grid[0] * self.grid[1]
        bounds = [graph.constant([each], np.int64) for each in (self.first, last, 1)]
        planes = graph.add("Transpose", graph.add("Slice", tensor, *bounds), perm=[0, 2, 1])
        shape = graph.constant([0, self.channels, *self.grid], np.int64)
        return graph.add("Reshape", planes, shape)


@dataclass(frozen=True)
class OnnxBackbone:
    """Layers of a network, side by side. size: height and width of the pictures.

    resized: what the network takes, when it takes one size only.
    """

    network: Network = field(repr=False)
    normalisation: Normalisation
    size: Size
    resized: Size
    layers: Tuple[Layer, ...]

    @property
    def channels(self) -> int:
        """How many figures a patch has."""
        return min(self._all_channels, MOST_CHANNELS)

    @property
    def _all_channels(self) -> int:
        return sum(layer.channels for layer in self.layers)

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        """Append RGB planes (N, 3, H, W), 0-255 → features (N, channels, H/8, W/8)."""
        mean, deviation = (np.array(each)[:, None, None] for each in self.normalisation)
        centred = graph.add(
            "Sub", _resized(graph, rgb, self.size, self.resized), graph.constant(mean)
        )
        pictures = graph.add("Mul", centred, graph.constant(1.0 / deviation))
        tensors = self.network.append(graph, pictures, [layer.name for layer in self.layers])
        grid = (self.size[0] // STRIDE, self.size[1] // STRIDE)
        maps = []
        for layer, tensor in zip(self.layers, tensors):
            planes = layer.append(graph, tensor)
            smooth = graph.add(
                "AveragePool", planes, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4
            )
            maps.append(_resized(graph, smooth, layer.grid, grid))
        features = graph.add("Concat", *maps, axis=1)
        if self._all_channels == self.channels:
            return features
        # Distances stay about the same (Johnson and Lindenstrauss, 1984).
        random = np.random.default_rng(0)
        projection = random.standard_normal((self.channels, self._all_channels, 1, 1))
        return graph.conv(features, (projection / self.channels**0.5).astype(np.float32))


def read(path: Path, size: Size, names: Sequence[str] = ()) -> Tuple[OnnxBackbone, ...]:
    """Return the network in `path` once for each of NORMALISATIONS.

    size: height and width of the model's input. names: of the tensors whose values are features;
    none: they are found. Raises InvalidConfiguration: what is wrong with the file or the names.
    """
    network = Network.read(path)
    fixed = network.fixed_size or size
    is_transformer = any(layer.form == "tokens" for layer in _found(network, fixed))
    for taken in (fixed,) if is_transformer else dict.fromkeys((size, fixed)):
        layers = tuple(_named(network, taken, names) if names else _found(network, taken))
        first = OnnxBackbone(network, NORMALISATIONS[0], size, taken, layers)
        if len(layers) < len(names):
            problem = _unnamed(network, taken, names)
        elif not layers:
            problem = "no layer has a value for 8 or 16 pixels each way"
        else:
            problem = _problem(first)
        if not problem:
            return tuple(replace(first, normalisation=each) for each in NORMALISATIONS)
    if network.unknown:
        problem = f"opset {OPSET} hasn't its operators {', '.join(network.unknown)}; {problem}"
    raise InvalidConfiguration(
        f"{path} can't be the backbone for pictures of {size[1]}x{size[0]} pixels: {problem}. "
        f"Export it with opset {OPSET}, a free batch size and, if it can, a free size; or name "
        "layers with --backbone-layers."
    )


def _problem(backbone: OnnxBackbone) -> str:
    """Return why the served graph can't hold the network, "" when it can."""
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, *backbone.size, 3), np.uint8)
    try:
        session = Session(feature_model(backbone.size, backbone))
        alone, both = (
            session.run_all(IMAGE, each)["features"] for each in (pictures[1:], pictures)
        )
    except Exception as error:  # of onnx's checker and of onnxruntime, several kinds
        return str(error).strip().splitlines()[0]
    if not np.isfinite(both).all() or not np.allclose(alone[0], both[1], rtol=1e-3, atol=1e-3):
        return "a picture's values depend on the picture beside it, or aren't finite"
    return ""


def _named(network: Network, size: Size, names: Sequence[str]) -> List[Layer]:
    shapes = network.shapes(size)
    layers = (_layer(name, shapes.get(name, ()), size) for name in names)
    return [layer for layer in layers if layer is not None]


def _unnamed(network: Network, size: Size, names: Sequence[str]) -> str:
    """Return what is wrong with `names`, of which not all are layers."""
    usable = [layer.name for layer in _layers(network.shapes(size), size)]
    wrong = next(name for name in names if name not in usable)
    return (
        f"it has no tensor {wrong!r} with a value for each patch; some that have: "
        f"{', '.join(usable[-8:]) or 'none'}"
    )


def _found(network: Network, size: Size) -> List[Layer]:
    """Return the deepest layer of each of STRIDES; of a transformer one at DEPTH.

    Where a network adds or joins branches its blocks end.
    """
    merges = {
        name for node in network.nodes if node.op_type in ("Add", "Concat") for name in node.output
    }
    layers = list(_layers(network.shapes(size), size))
    chosen = []
    for stride in STRIDES:
        fitting = [
            each for each in layers if each.form != "tokens" and _stride(each, size) == stride
        ]
        ends = [each for each in fitting if each.name in merges]
        chosen += (ends or fitting)[-1:]
    tokens = [each for each in layers if each.form == "tokens" and each.name in merges]
    if tokens:
        chosen = tokens[int(DEPTH * len(tokens)) :][:1]
    made = [output for node in network.nodes for output in node.output]
    depth = max((made.index(layer.name) for layer in chosen), default=0) / len(made)
    return chosen if depth > SHALLOW else []


def _layers(shapes: Dict[str, Tuple[int, ...]], size: Size) -> Iterator[Layer]:
    for name, shape in shapes.items():
        layer = _layer(name, shape, size)
        if layer is not None:
            yield layer


def _layer(name: str, shape: Tuple[int, ...], size: Size) -> Optional[Layer]:
    """Return the tensor as a grid of patches, None when it is none."""
    if len(shape) == 4 and 0 not in shape:
        planes = Layer(name, shape[1], (shape[2], shape[3]), "planes")
        pixels = Layer(name, shape[3], (shape[1], shape[2]), "pixels")
        return next((each for each in (planes, pixels) if _stride(each, size)), None)
    if len(shape) == 3 and 0 not in shape:
        for side in TOKEN_SIDES:
            grid = (size[0] // side, size[1] // side)
            extra = shape[1] - grid[0] * grid[1]
            if 0 <= extra <= MOST_EXTRA:
                return Layer(name, shape[2], grid, "tokens", extra)
    return None


def _stride(layer: Layer, size: Size) -> Optional[int]:
    """Return which of STRIDES a value of the layer stands for, each way; None: another one."""
    for stride in STRIDES:
        if all(abs(side / stride - count) < UNPADDED for side, count in zip(size, layer.grid)):
            return stride
    return None


def _resized(graph: GraphBuilder, tensor: str, size: Size, wanted: Size) -> str:
    """Append planes of `size` → of the size `wanted`, linearly."""
    if size == wanted:
        return tensor
    factors = [(goal + NUDGE) / side for side, goal in zip(size, wanted)]
    return graph.add(
        "Resize", tensor, "", graph.constant([1.0, 1.0, *factors]),
        mode="linear", coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
