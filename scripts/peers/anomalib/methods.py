"""The methods of anomalib that are compared, and the layers that they look at.

Layers are the stages of timm's `tf_efficientnet_lite0`. Their outputs have a value for so many
pixels each way: blocks.1 for 4, blocks.2 for 8, blocks.4 for 16; our trainer uses the last two.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

BACKBONE = "tf_efficientnet_lite0"


class Method(NamedTuple):
    """A class of anomalib.models. What isn't said here is anomalib's default."""

    model: str
    layers: Tuple[str, ...]
    options: Dict[str, float]


_PADIM = ("blocks.1", "blocks.2", "blocks.4")  # of a ResNet, anomalib takes those of 4, 8 and 16
_PATCHCORE = ("blocks.2", "blocks.4")  # and those of 8 and 16

METHODS = {
    "PaDiM": Method("Padim", _PADIM, {"n_features": 100}),  # channels, as of a ResNet-18
    "PatchCore": Method("Patchcore", _PATCHCORE, {}),  # keeps 10 % of the patches
    "PatchCore 1 %": Method("Patchcore", _PATCHCORE, {"coreset_sampling_ratio": 0.01}),
}
