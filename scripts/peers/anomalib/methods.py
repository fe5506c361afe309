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
    options: Dict[str, int]


# Of a ResNet, anomalib takes the layers with a value for 8 and 16 pixels each way for PatchCore,
# and for 4, 8 and 16 for PaDiM, of whose channels it keeps 100.
METHODS = {
    "PatchCore": Method("Patchcore", ("blocks.2", "blocks.4"), {}),
    "PaDiM": Method("Padim", ("blocks.1", "blocks.2", "blocks.4"), {"n_features": 100}),
    "PaDiM, our layers": Method("Padim", ("blocks.2", "blocks.4"), {"n_features": 100}),
}
