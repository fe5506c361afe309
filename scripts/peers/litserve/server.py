"""LitServe's side: a LitAPI around our work. Runs only in LitServe's own processes.

The frame is the request's body as it is, read by a dependency of the endpoint; by itself LitServe
would parse a body as JSON or a form.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List, Tuple

import litserve
import numpy as np
from fastapi import Depends, Request, Response
from typing_extensions import Annotated

from scripts.peers.predictor import BatchPredictor

MAX_BATCH = 4
BATCH_TIMEOUT_S = 0.002
WORKERS = 2
FAST_QUEUE = True  # ZeroMQ between its processes, which its documentation advises for large data


async def read_frame(request: Request) -> Tuple[int, int, bytes]:
    """Return width, height and the pixels of the frame in the body."""
    width, height = (int(request.headers[f"frame-{name}"]) for name in ("width", "height"))
    return width, height, await request.body()


class InspectionAPI(litserve.LitAPI):  # type: ignore[misc]
    """Inspects batches of frames in a worker process."""

    def __init__(self, package: Path, cores: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S)
        self._package, self._threads = package, max(1, cores // WORKERS)

    def setup(self, device: str) -> None:
        """Open the package, once in each worker."""
        self._predictor = BatchPredictor(self._package, self._threads)

    def decode_request(self, request: Any) -> Any:
        """Take what `read_frame` returned as the frame (height, width, 3)."""
        width, height, pixels = request
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)

    def batch(self, inputs: List[Any]) -> List[Any]:
        """Keep frames apart: stacking them would copy each."""
        return inputs

    def predict(self, frames: List[Any]) -> List[Any]:
        """Inspect a batch."""
        return list(self._predictor.predict(frames))

    def unbatch(self, output: List[Any]) -> List[Any]:
        """Keep verdicts as they are: one for each frame."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Send the mask as the body, score and verdict in headers."""
        headers = {"Frame-Score": repr(output.score), "Frame-Anomalous": str(output.is_anomalous)}
        return Response(output.mask.tobytes(), headers=headers)


# LitServe hands these annotations to FastAPI, which needs the types themselves, not their names.
InspectionAPI.decode_request.__annotations__["request"] = Annotated[Any, Depends(read_frame)]
InspectionAPI.encode_response.__annotations__["return"] = Response


def main() -> None:
    """Serve until the process gets a signal to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    server = litserve.LitServer(
        InspectionAPI(arguments.package, arguments.cores),
        accelerator="cpu",
        workers_per_device=WORKERS,
        fast_queue=FAST_QUEUE,
    )
    server.run(
        host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
