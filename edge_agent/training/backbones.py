"""Which network with learned weights the trainer looks through besides the filter bank."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Sequence, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.training import lite0, onnx_backbone
from edge_agent.training.features import FeatureExtractor
from edge_agent.training.lite0 import Lite0
from edge_agent.training.resolution import Resolution
from edge_agent.training.tiles import TILE, TiledExtractor

AUTO, NONE, LITE0 = "auto", "none", "lite0"
INSTALL = "pip install 'edge-agent[backbone]'"


class BackboneOptions(NamedTuple):
    """name: AUTO (LITE0 where it is installed), NONE, LITE0 or the path of an ONNX file.

    layers: of the file, names of tensors; none: they are found.
    """

    name: str = AUTO
    layers: Tuple[str, ...] = ()


class Backbone(NamedTuple):
    """Forms of one network, of which validation chooses, and a sentence on it for the user."""

    forms: Sequence[FeatureExtractor]
    remark: str

    def remark_of(self, used: Sequence[FeatureExtractor]) -> str:
        """Return the sentence, with what became of the network in a model that has `used`."""
        if not self.forms or any(form is each for form in self.forms for each in used):
            return self.remark
        return f"{self.remark}: left out, as the filters alone find more"


def find(options: BackboneOptions, resolution: Resolution) -> Backbone:
    """Return the backbone for pictures of `resolution`; a network of a file sees tile after tile.

    Raises InvalidConfiguration when it isn't installed, or when the file can't be one.
    """
    if options.layers and options.name in (AUTO, NONE, LITE0):
        raise InvalidConfiguration(
            "--backbone-layers names tensors of a file; give that file with --backbone FILE.onnx."
        )
    if options.name == NONE:
        return Backbone((), "Without a backbone, as asked")
    if options.name not in (AUTO, LITE0):
        size, tiles = resolution
        seen = (TILE, TILE) if tiles else size
        forms = onnx_backbone.read(Path(options.name), seen, options.layers)
        names = ", ".join(layer.name for layer in forms[0].layers)
        shown = [TiledExtractor(form, tiles) for form in forms] if tiles else forms
        return Backbone(shown, f"Backbone {options.name}, layers {names}")
    weights = lite0.weights_file()
    if weights is not None:
        return Backbone((Lite0.read(weights),), "Backbone EfficientNet-Lite0")
    if options.name == LITE0:
        raise InvalidConfiguration(f"EfficientNet-Lite0 isn't installed: {INSTALL}.")
    return Backbone((), f"Without a backbone; verdicts are often better with one: {INSTALL}")
