"""Backend names → classes, imported only when asked for, and why one cannot be used here."""

from __future__ import annotations

from importlib import import_module
from typing import Callable, Dict, Sequence, Tuple, TypeVar

from edge_agent.errors import BackendUnavailable, ModelError
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions

T = TypeVar("T")

# of those that take the ONNX graph as it is
CLASSES = {
    "onnxruntime": "edge_agent.runtime.backends.ort:OrtBackend",
    "onnxruntime-cuda": "edge_agent.runtime.backends.ort:OrtCudaBackend",
}


def open_named(name: str, model: bytes, manifest: Manifest, options: BackendOptions) -> Backend:
    """Load `model` (ONNX) in the engine `name`. Raises as `Backend`."""
    path, _, class_name = CLASSES[name].partition(":")
    backend: Backend = getattr(import_module(path), class_name)(model, manifest, options)
    return backend


def open_backend(
    names: Sequence[str], model: bytes, manifest: Manifest, options: BackendOptions
) -> Backend:
    """Load `model` (ONNX) in the first of the engines `names` that takes it. Raises ModelError."""
    return first_that_works(names, lambda name: open_named(name, model, manifest, options))[0]


def first_that_works(
    names: Sequence[str], attempt: Callable[[str], T]
) -> Tuple[T, Dict[str, ModelError]]:
    """Return what `attempt` makes of the first of the engines `names`, and why not of those before.

    Raises the error of a single engine, or BackendUnavailable with the reason of each.
    """
    refused: Dict[str, ModelError] = {}
    for name in names:
        try:
            return attempt(name), refused
        except ModelError as error:
            refused[name] = error
    if len(refused) == 1:
        raise refused.popitem()[1]
    reasons = " ".join(f"{name}: {error}" for name, error in refused.items())
    raise BackendUnavailable(f"No engine can run the model. {reasons}")
