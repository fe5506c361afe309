"""A camera in front of a KServe V2 server that has the same ONNX model.

Such a server takes and gives tensors, so this side does what the agent does itself: preprocess
before and postprocess after each call, with the agent's own code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Tuple

import grpc
import numpy as np

from edge_agent.benchmark.kserve import KserveClient, resized_frame
from edge_agent.benchmark.loops import Answer
from edge_agent.errors import InvalidRequest
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.postprocess import Postprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRANSPORT = "kserve"
CALL_LIMIT_S = 10.0


class KserveCamera:
    """Calls ModelInfer at `url` with one image again and again; `package` is the same model."""

    def __init__(self, url: str, package: str, image: NDArray[np.uint8]) -> None:
        address, model = parse(url)
        manifest = Package(Path(package)).manifest
        self._client = KserveClient(address, model, CALL_LIMIT_S)
        self._image, self._spec = image, manifest.input
        self._postprocessor = Postprocessor(manifest)
        self._mask: NDArray[np.uint8] = np.empty_like(image)

    def __enter__(self) -> KserveCamera:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.__exit__()

    def by_tensor(self) -> Answer:
        """One frame, from the image to its verdict."""
        height, width = self._image.shape[:2]
        try:
            reply = self._client.infer([resized_frame(self._image, self._spec)])
        except grpc.RpcError as error:
            return Answer(error.code().name)
        outputs = {name: np.asarray(value) for name, value in reply.outputs.items()}
        self._postprocessor.predict(outputs, 0, width, height, self._mask)
        return Answer()


def parse(url: str) -> Tuple[str, str]:
    """Return address and model of grpc://HOST:PORT/MODEL. Raises InvalidRequest."""
    scheme, _, rest = url.rpartition("://")
    address, _, model = rest.partition("/")
    if scheme not in ("", "grpc") or ":" not in address or not model:
        raise InvalidRequest(f"--compare is {url!r}; expected grpc://HOST:PORT/MODEL.")
    return address, model
