"""Settings that change while the agent runs: what holds at once, and what waits for a restart."""

from __future__ import annotations

import logging
from typing import Dict, List, TypeVar

from edge_agent import logs
from edge_agent.config import Settings
from edge_agent.fields import Strict
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.results.pipeline import ResultsPipeline

log = logging.getLogger(__name__)

# None of them is a secret: their values are logged. Every other setting waits for a restart.
LIVE = frozenset(
    {
        "log_level",
        "engine.min_inference_units",
        "engine.max_inference_units",
        "engine.scale_up_after_s",
        "engine.scale_down_after_s",
        "engine.hang_after_s",
        "models.thresholds",
        "models.allow_downgrade",
        "models.remove_after_s",
        "models.memory_limit_mib",
        "models.drain_within_s",
        "results.publish",
        "results.heartbeat_s",
        "results.per_minute",
        "results.anomaly_rate_alarm",
        "results.capture.anomalies",
        "results.capture.near_threshold",
        "results.capture.sample",
        "results.capture.per_minute",
        "results.capture.quota_mib",
        "updates.quiet_s",
        "updates.defer_at_most_s",
    }
)

T = TypeVar("T", bound=Strict)


class SettingsReload:
    """Puts new settings into force between two batches; no call fails or waits for it."""

    def __init__(self, settings: Settings, registry: Registry, room: ResultsPipeline) -> None:
        """Begin with the settings that the registry and the room were built with."""
        self._registry, self._room = registry, room
        self.in_force = settings

    def apply(self, new: Settings) -> List[str]:
        """Put into force what can be at once; called by the thread that calls `registry.sync`.

        Returns the dotted names of the settings whose new values wait for a restart. Units come and
        go when they are supervised next; the rest holds for the next batch, result or frame stored.
        """
        before, self.in_force = self.in_force, _in_force(self.in_force, new)
        changes = _differences(before, self.in_force)
        if changes:
            described = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
            log.info("In force from now on: %s.", described)
        logs.set_level(self.in_force.log_level)
        self._registry.use_settings(self.in_force.models, self.in_force.engine)
        self._room.apply_settings(self.in_force.results)
        return list(_differences(self.in_force, new))


def _in_force(old: T, new: T, path: str = "") -> T:
    """Return `old` with what is live of `new`."""
    values: Dict[str, object] = {}
    for name in type(old).model_fields:
        here, there = getattr(old, name), getattr(new, name)
        if isinstance(here, Strict):
            values[name] = _in_force(here, there, f"{path}{name}.")
        elif path + name in LIVE:
            values[name] = there
    return old.model_copy(update=values)


def _differences(old: Strict, new: Strict, path: str = "") -> Dict[str, object]:
    """Return the new values that differ, by the settings' dotted names."""
    found: Dict[str, object] = {}
    for name in type(old).model_fields:
        here, there = getattr(old, name), getattr(new, name)
        if isinstance(here, Strict):
            found.update(_differences(here, there, f"{path}{name}."))
        elif here != there:
            found[path + name] = there
    return found
