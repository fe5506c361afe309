"""PyTriton's side: a Triton server with our work bound to it. Runs only in PyTriton's processes.

The inference function takes the requests of a batch as they are; with PyTriton's `batch` decorator
their frames would first be copied into one array.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from scripts.peers.predictor import MODEL, BatchPredictor

MAX_BATCH = 4
MAX_QUEUE_DELAY_US = 2000
WORKSPACE = Path("workspace").resolve()  # in the working directory, which is thrown away


def serve(package: Path, threads: int, ports: List[int]) -> None:
    """Serve the package under `MODEL` until the process gets a signal to stop."""
    predictor = BatchPredictor(package, threads)

    def infer(requests: List[Any]) -> List[Dict[str, Any]]:
        frames = [request.data["frame"][0] for request in requests]
        return [_outputs(prediction) for prediction in predictor.predict(frames)]

    grpc_port, http_port = ports
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        allow_metrics=False,
    )
    security = TritonSecurityConfig(restricted_endpoints=[])  # shared memory is refused by default
    with Triton(config=config, security_config=security, workspace=WORKSPACE) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=infer,
            inputs=[Tensor(name="frame", dtype=np.uint8, shape=(-1, -1, 3))],
            outputs=[
                Tensor(name="score", dtype=np.float32, shape=(1,)),
                Tensor(name="anomalous", dtype=np.bool_, shape=(1,)),
                Tensor(name="mask", dtype=np.uint8, shape=(-1, -1, 3)),
            ],
            config=ModelConfig(
                max_batch_size=MAX_BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=MAX_QUEUE_DELAY_US),
            ),
            strict=False,
        )
        triton.serve()


def _outputs(prediction: Any) -> Dict[str, Any]:
    return {
        "score": np.array([[prediction.score]], np.float32),
        "anomalous": np.array([[prediction.is_anomalous]], np.bool_),
        "mask": prediction.mask[np.newaxis],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ports", type=int, nargs=2, required=True)
    arguments = parser.parse_args()
    serve(arguments.package, arguments.threads, arguments.ports)
