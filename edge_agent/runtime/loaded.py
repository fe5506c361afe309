"""A model in memory: a package verified, opened in inference units, and warm."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Callable, Tuple

from edge_agent.config import EngineSettings
from edge_agent.manifest import Decision, Manifest, RuntimeSpec
from edge_agent.runtime import memory
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.batching.batcher import Batcher, BatchingOptions
from edge_agent.runtime.batching.scaling import Limits, Scaler
from edge_agent.runtime.instance import InferenceUnit, Verdicts
from edge_agent.runtime.package import Package
from edge_agent.runtime.store import Registration
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import DetectRequest, Prediction


@dataclass(eq=False)
class Loaded:
    """A model in memory, warm; `open_unit` makes one more inference unit of it.

    `packaged` is the manifest as it stands in the package, `manifest` with the registration's
    decision.
    """

    registration: Registration
    packaged: Manifest
    manifest: Manifest
    verdicts: Verdicts
    batcher: Batcher
    scaler: Scaler
    open_unit: Callable[[], InferenceUnit]
    engine: str  # for people: "onnxruntime on CPU, 2 threads"

    @property
    def summary(self) -> str:
        """What serves, for people."""
        units = self.batcher.instances
        return (
            f"Version {self.manifest.version}, {units} inference unit{'s' * (units != 1)} of "
            f"{self.engine}. Threshold {self.manifest.decision.threshold:g}."
        )

    def predict(self, opened: OpenFrame, request: DetectRequest) -> Prediction:
        """Judge a frame. Raises as Batcher.run."""
        held_bytes = opened.held_bytes
        item = Item(opened, time.monotonic(), request.caller, request.times, held_bytes)
        prediction: Prediction = self.batcher.run(item)
        return prediction

    def decide(self, registration: Registration) -> str:
        """Judge by another registration of the same package from the next batch on.

        Returns what is different now, for people. Raises InvalidPackage when the decision can't be;
        nothing has changed then.
        """
        before, manifest = self.manifest.decision, registration.apply(self.packaged)
        self.verdicts.follow(manifest)
        self.registration, self.manifest = registration, manifest
        return _differences(before, manifest.decision)

    def close(self, within_s: float) -> bool:
        """Finish what waits and free everything; False when calls were cut off."""
        finished = self.batcher.close(within_s)
        memory.give_back()
        return finished


def load(registration: Registration, engine: EngineSettings, limit_bytes: int) -> Loaded:
    """Verify, open and warm the package. Raises ModelError."""
    package = Package(registration.package, limit_bytes)
    manifest = registration.apply(package.manifest)
    verdicts = Verdicts(manifest)
    limits, threads = unit_limits(manifest.runtime, engine)
    options = BackendOptions(threads, engine.spinning, engine.memory_arena, engine.cpu_batches)

    def open_unit() -> InferenceUnit:
        backend = open_backend(engine.backends, package.read_model(), manifest, options)
        unit = InferenceUnit(backend, manifest, verdicts)
        unit.warm_up()
        return unit

    units = [open_unit() for _ in range(limits.minimum)]
    batching = BatchingOptions(
        engine.queue_length, engine.queue_mib * memory.MIB, engine.gather_ms / 1000
    )
    return Loaded(
        registration,
        package.manifest,
        manifest,
        verdicts,
        Batcher(units, batching),
        Scaler(limits),
        open_unit,
        f"{threads} thread{'s' * (threads > 1)}, batches of up to {units[0].max_batch}, "
        f"{units[0].engine}",
    )


def unit_limits(runtime: RuntimeSpec, engine: EngineSettings) -> Tuple[Limits, int]:
    """Return how many inference units there may be and how many threads each of them has.

    Together they have no more threads than there are cores, unless the threads are set.
    """
    cores = os.cpu_count() or 1
    minimum = engine.min_inference_units or runtime.min_inference_units
    maximum = max(minimum, engine.max_inference_units or runtime.max_inference_units)
    if not engine.threads:
        minimum, maximum = min(minimum, cores), min(maximum, cores)
    limits = Limits(minimum, maximum, engine.scale_up_after_s, engine.scale_down_after_s)
    return limits, engine.threads or cores // maximum


def _differences(old: Decision, new: Decision) -> str:
    """Return what changed, for people: "threshold 0.5 -> 0.6"."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return ", ".join(
        f"{name} {before[name]} -> {value}"
        for name, value in after.items()
        if before[name] != value
    )
