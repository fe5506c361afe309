"""Backend names → classes, imported only when asked for, and why one cannot be used here."""

from __future__ import annotations

from importlib import import_module
from typing import List, Sequence

from edge_agent.errors import BackendUnavailable
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions

_CLASSES = {"onnxruntime": "edge_agent.runtime.backends.ort:OrtBackend"}


def open_backend(
    names: Sequence[str], model: bytes, manifest: Manifest, options: BackendOptions
) -> Backend:
    """Load `model` (ONNX) in the first of the engines `names` that works on this machine.

    Raises BackendUnavailable with the reason of each when none does.
    """
    reasons: List[str] = []
    for name in names:
        path, _, class_name = _CLASSES[name].partition(":")
        try:
            backend: Backend = getattr(import_module(path), class_name)(model, manifest, options)
        except BackendUnavailable as error:
            reasons.append(f"{name}: {error}")
        else:
            return backend
    raise BackendUnavailable("No engine can run the model. " + " ".join(reasons))
