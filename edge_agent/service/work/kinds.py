"""The kinds of work by name, and where each is written: "module:class".

A class is loaded when work of its kind turns up. In the service it only keeps records, so its
module imports what is heavy (numpy, onnx) where `run` needs it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Mapping

from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Kind

KINDS: Mapping[str, str] = {
    "training": "edge_agent.service.work.training:Training",
    "packaging": "edge_agent.service.work.packaging:Packaging",
}


def load(reference: str, root: Path, settings: ServiceSettings) -> Kind:
    """Return the kind written at "module:class", which is built with root and settings."""
    module, _, name = reference.partition(":")
    kind: Kind = getattr(import_module(module), name)(root, settings)
    return kind
