"""Service models: operations, shapes and their limits, as botocore has them, without documentation.

`scripts/service_model` writes the files; their JSON is what botocore's `ServiceModel` takes.
"""

from __future__ import annotations

import json
from pathlib import Path

from botocore.model import ServiceModel

LOOKOUT_FOR_VISION = "lookoutvision-2020-11-20"


def service_model(name: str) -> ServiceModel:
    """Return a service model by the name of its file."""
    file = Path(__file__).with_name(f"{name}.json")
    return ServiceModel(json.loads(file.read_text(encoding="utf-8")))
