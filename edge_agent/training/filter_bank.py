"""Texture and colour of small patches without learned weights, as ONNX operators.

Per patch of 8x8 pixels: energies of a Gabor filter bank at four scales on luma whose brightness and
contrast were evened out locally, and statistics of the colour planes. Filter banks of this kind:
Manjunath and Ma, "Texture features for browsing and retrieval of image data", PAMI 18 (1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, List, NamedTuple, Optional

import numpy as np

from edge_agent.training.features import STRIDE, Means, append_image, gaussian
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

LEVELS = 4  # of the pyramid, each half as large as the one before
ORIENTATIONS = 6
KERNEL = 9  # pixels, of every filter
WAVE = 4.0  # pixels, of every Gabor
COLOR_PLANES = 3
TEXTURES = (ORIENTATIONS + 1) * (2 * LEVELS - 1)
CHANNELS = TEXTURES + 4 * COLOR_PLANES
_LEAST_MAGNITUDE = 0.02  # of luma with unit contrast, what sensor noise makes
_CONTRAST_FLOOR = 0.02  # deviation (luma 0-1) below which contrast is not amplified further

# Luma and two chroma planes, luma 0-1, of RGB 0-255 (ITU-R BT.601); shape (out, in, 1, 1).
_PLANES = (
    np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
    / np.float32(255.0)
)[:, :, None, None]


class Patches(NamedTuple):
    """Names of tensors (N, channels, H/8, W/8): magnitudes of TEXTURES filters, and colours."""

    textures: str
    colors: str


@dataclass(frozen=True)
class FilterBank:
    """Logarithms of the magnitudes of filters, and colours.

    floors: (TEXTURES,), magnitudes well below which count as flat. usual: the means of figures in
    good images; with them a figure is less its own mean, so that what changes all of an image, such
    as other light, counts for nothing as far as it is usual.
    """

    channels: ClassVar[int] = CHANNELS

    floors: Floats
    usual: Optional[Means] = None

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        """Append RGB planes (N, 3, H, W), 0-255 → features (N, CHANNELS, H/8, W/8)."""
        patches = append_patches(graph, rgb)
        raised = graph.add("Add", patches.textures, graph.constant(self.floors[:, None, None]))
        both = graph.add("Concat", graph.add("Log", raised), patches.colors, axis=1)
        smooth = np.tile(gaussian(3, 0.6), (CHANNELS, 1, 1, 1))
        features = graph.conv(graph.pad(both, 1), smooth, group=CHANNELS)
        if self.usual is None:
            return features
        low, high = (graph.constant(each[:, None, None]) for each in self.usual)
        means = graph.add("ReduceMean", features, axes=[2, 3], keepdims=1)
        return graph.add("Sub", features, graph.add("Max", graph.add("Min", means, high), low))


def usual_magnitudes(images: NDArray[np.uint8]) -> Floats:
    """Return the mean magnitude of each texture (TEXTURES,) in images (n, H, W, 3) uint8 RGB.

    About a hundred of them are looked at.
    """
    images = images[:: max(len(images) // 100, 1)]
    graph = GraphBuilder()
    textures = append_patches(graph, append_image(graph, images.shape[1:3])).textures
    graph.output(
        "means", graph.add("ReduceMean", textures, axes=[2, 3], keepdims=0), (BATCH, TEXTURES)
    )
    means = Session(graph.model()).run_all(IMAGE, images)["means"].mean(axis=0)
    return np.asarray(np.maximum(means, np.float32(_LEAST_MAGNITUDE)))


def append_patches(graph: GraphBuilder, rgb: str) -> Patches:
    """Append everything from RGB planes (N, 3, H, W) to magnitudes and colours of patches."""
    luma = graph.conv(rgb, _PLANES[:1])
    planes = graph.conv(_pooled(graph, "AveragePool", rgb, 2), _PLANES)
    level = _even_out(graph, luma, planes)
    maps: List[str] = []
    for index in range(LEVELS):
        maps += _energies(graph, level, 2 if index == 0 else 1, STRIDE >> index)
        if index + 1 < LEVELS:
            level = _pooled(graph, "AveragePool", level, 2)
    colors = graph.add("Concat", *_colors(graph, planes), axis=1)
    return Patches(graph.add("Concat", *maps, axis=1), colors)


def _even_out(graph: GraphBuilder, luma: str, planes: str) -> str:
    """Subtract from luma its local mean and divide by the local deviation, both of about 40 pixels.

    Both are taken from the half-sized planes and blurred at a quarter of the size. The variance is
    the mean of squared differences: a difference of mean squares loses all its digits in float16.
    """
    half = graph.conv(planes, np.eye(1, COLOR_PLANES, dtype=np.float32)[:, :, None, None])
    mean = _blurred(graph, _pooled(graph, "AveragePool", half, 2))
    away = graph.add("Sub", half, graph.enlarge(mean, 2))
    squares = _pooled(graph, "AveragePool", graph.add("Mul", away, away), 2)
    variance = _blurred(graph, squares)
    floored = graph.add("Add", variance, graph.constant(_CONTRAST_FLOOR**2))
    deviation = graph.enlarge(graph.add("Sqrt", floored), 4)
    return graph.add("Div", graph.add("Sub", luma, graph.enlarge(mean, 4)), deviation)


def _blurred(graph: GraphBuilder, tensor: str) -> str:
    return graph.conv(graph.pad(tensor, KERNEL // 2), gaussian(KERNEL, 2.0)[None, None])


def _energies(graph: GraphBuilder, level: str, stride: int, patch: int) -> List[str]:
    """Filter magnitudes of one pyramid level, mean and maximum over patches of `patch` pixels."""
    bank = filter_bank()
    answers = graph.conv(graph.pad(level, KERNEL // 2), bank[:, None], strides=[stride, stride])
    squares = graph.add("Mul", answers, answers)
    pairs = np.zeros((ORIENTATIONS + 1, len(bank), 1, 1), np.float32)
    for index in range(ORIENTATIONS):
        pairs[index, [2 * index, 2 * index + 1]] = 1.0
    pairs[-1, -1] = 1.0
    magnitudes = graph.add("Sqrt", graph.conv(squares, pairs))
    if patch == stride:
        return [magnitudes]
    kinds = ("AveragePool", "MaxPool")
    return [_pooled(graph, kind, magnitudes, patch // stride) for kind in kinds]


def _colors(graph: GraphBuilder, planes: str) -> List[str]:
    """Mean, maximum, minimum and deviation of each half-sized plane over each patch."""
    patch = STRIDE // 2
    mean = _pooled(graph, "AveragePool", planes, patch)
    highest = _pooled(graph, "MaxPool", planes, patch)
    lowest = graph.add("Neg", _pooled(graph, "MaxPool", graph.add("Neg", planes), patch))
    power = _pooled(graph, "AveragePool", graph.add("Mul", planes, planes), patch)
    variance = graph.add("Relu", graph.add("Sub", power, graph.add("Mul", mean, mean)))
    return [mean, highest, lowest, graph.add("Sqrt", variance)]


def _pooled(graph: GraphBuilder, kind: str, tensor: str, size: int) -> str:
    return graph.add(kind, tensor, kernel_shape=[size, size], strides=[size, size])


def filter_bank() -> Floats:
    """Return (13, 9, 9): even and odd Gabor of each orientation, then a difference of Gaussians.

    None answers to a constant; each has unit norm.
    """
    reach = np.arange(KERNEL) - KERNEL // 2
    y, x = np.meshgrid(reach, reach, indexing="ij")
    window = gaussian(KERNEL, 2.0)
    filters: List[NDArray[np.floating]] = []
    for angle in np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS:
        phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / WAVE
        filters += [_balanced(np.cos(phase), window), _balanced(np.sin(phase), window)]
    filters.append(gaussian(KERNEL, 1.0) - gaussian(KERNEL, 2.0))
    return np.stack([each / np.linalg.norm(each) for each in filters]).astype(np.float32)


def _balanced(wave: NDArray[np.float64], window: Floats) -> NDArray[np.float64]:
    """Window the wave and take the rest of its mean out."""
    return np.asarray((wave - (wave * window).sum() / window.sum()) * window)
