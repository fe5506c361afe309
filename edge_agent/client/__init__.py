"""The Python client that programs use to talk to a running agent: docs/api.md."""

from __future__ import annotations

from edge_agent.client import images
from edge_agent.client.client import Client
from edge_agent.client.stream import StreamAnswer
from edge_agent.types import (
    Anomaly,
    CameraProblem,
    ModelInfo,
    ModelState,
    Prediction,
    Priority,
    Region,
)

__all__ = [
    "Anomaly", "CameraProblem", "Client", "ModelInfo", "ModelState", "Prediction", "Priority",
    "Region", "StreamAnswer", "images",
]  # fmt: skip
