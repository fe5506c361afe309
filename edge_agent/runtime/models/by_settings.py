"""What the settings make of a registration: its threshold, and whether it may be loaded."""

from __future__ import annotations

import json
from dataclasses import replace

from edge_agent.config import ModelsSettings
from edge_agent.errors import ModelError
from edge_agent.manifest import MODEL_FILE
from edge_agent.runtime.packages.deployments import Registration
from edge_agent.runtime.system import memory


def configured(registration: Registration, models: ModelsSettings) -> Registration:
    """Return the registration with the settings' threshold, and what they allow."""
    if models.allow_downgrade and not registration.allow_downgrade:
        registration = replace(registration, allow_downgrade=True)
    threshold = models.thresholds.get(registration.name)
    decision = json.loads(registration.decision)
    if threshold in (None, decision.get("threshold")):
        return registration
    text = json.dumps({**decision, "threshold": threshold}, sort_keys=True)
    return replace(registration, decision=text, threshold=None, decided_by="the configuration")


def check_memory(registration: Registration, models: ModelsSettings) -> None:
    """Raise OutOfMemory when its model will hardly fit; a package that can't be read passes."""
    try:
        files = registration.open().manifest.files
    except ModelError:
        return  # loading will say what is wrong with it
    model = next(entry.size for entry in files if entry.path == MODEL_FILE)
    largest = max(entry.size for entry in files)  # each is read as a whole to be verified
    memory.check(registration.name, max(model, largest // 2), models.memory_limit_mib)
