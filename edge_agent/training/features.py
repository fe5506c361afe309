"""What a head looks at: features of small patches, as ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

STRIDE = 8  # pixels of the input per patch, each way
BORDER = 3  # pixels of the input that are not looked at: cameras have dead columns at their edges


class Means(NamedTuple):
    """Between which values (channels,) the mean of each feature lies in images."""

    low: Floats
    high: Floats

    def levelled(self, features: Floats) -> Floats:
        """Return features (n, channels, rows, columns) less the mean of each, as far as usual."""
        low, high = (each[:, None, None] for each in self)
        means: Floats = features.mean(axis=(2, 3), keepdims=True)
        return np.asarray(features - np.clip(means, low, high), np.float32)


class FeatureExtractor(Protocol):
    """Turns pictures into features of patches."""

    @property
    def channels(self) -> int:
        """How many figures a patch has."""

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        """Append RGB planes (N, 3, H, W), 0-255 → features (N, channels, H/8, W/8)."""


def append_image(graph: GraphBuilder, size: Size) -> str:
    """Declare the model's input and return it as RGB planes (N, 3, H, W), float32 of 0-255.

    The outermost pixels are replaced by those inside, mirrored.
    """
    image = graph.input(IMAGE, np.uint8, (BATCH, size[0], size[1], 3))
    planes = graph.add("Transpose", graph.add("Cast", image, to=1), perm=[0, 3, 1, 2])
    ends = ([BORDER] * 2, [-BORDER] * 2, [2, 3])
    inner = graph.add("Slice", planes, *(graph.constant(each, np.int64) for each in ends))
    return graph.pad(inner, BORDER)


def feature_model(size: Size, extractor: FeatureExtractor) -> bytes:
    """Build the graph `image` (N, H, W, 3) uint8 → `features` (N, channels, H/8, W/8) float32."""
    graph = GraphBuilder()
    features = extractor.append(graph, append_image(graph, size))
    rows, columns = size[0] // STRIDE, size[1] // STRIDE
    graph.output("features", features, (BATCH, extractor.channels, rows, columns))
    return graph.model()


def gaussian(size: int, sigma: float) -> Floats:
    """Return a (size, size) Gaussian that sums to 1; sigma in pixels."""
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return np.asarray(np.outer(line, line) / line.sum() ** 2, np.float32)
