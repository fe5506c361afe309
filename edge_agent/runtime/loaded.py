"""A model in memory: a package verified, opened in inference units, and warm."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Dict, Tuple

from edge_agent.config import EngineSettings
from edge_agent.errors import BackendUnavailable, ModelError, ParityFailed
from edge_agent.manifest import MODEL_FILE, Decision, Manifest, RuntimeSpec
from edge_agent.runtime import memory, parity
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.catalog import first_that_works, open_named
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.batching.batcher import Batcher, BatchingOptions
from edge_agent.runtime.batching.scaling import Limits, Scaler
from edge_agent.runtime.graph_choice import choose_graph, this_machine
from edge_agent.runtime.instance import InferenceUnit, Verdicts
from edge_agent.runtime.package import Package
from edge_agent.runtime.store import Registration
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import DetectRequest, Prediction

log = logging.getLogger(__name__)

Trial = Callable[[Backend], None]  # raises ModelError when the engine shall not serve


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
    remarks: str  # for people: " Reproduces 4 golden samples."

    @property
    def summary(self) -> str:
        """What serves, for people."""
        units = self.batcher.instances
        return (
            f"Version {self.manifest.version}, {units} inference unit{'s' * (units != 1)} of "
            f"{self.engine}. Threshold {self.manifest.decision.threshold:g}.{self.remarks}"
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

    def limit_units(self, engine: EngineSettings) -> None:
        """Let there be as many units as other settings say, each with the threads it would have
        had before.
        """  # noqa: D205
        limits, _ = unit_limits(self.manifest.runtime, engine)
        if limits != self.scaler.limits:
            log.info(
                "Model %s has %d to %d inference units from now on; how many threads each has, is "
                "reckoned anew when it is started again.",
                self.registration.name, limits.minimum, limits.maximum,
            )  # fmt: skip
        self.scaler.limits = limits

    def close(self, within_s: float) -> bool:
        """Finish what waits and free everything; False when calls were cut off."""
        finished = self.batcher.close(within_s)
        memory.give_back()
        return finished


def load(registration: Registration, engine: EngineSettings, limit_bytes: int) -> Loaded:
    """Verify, open and warm the package in the first engine that gives its own results back.

    Raises ModelError.
    """
    package = registration.open(limit_bytes)
    package.verify()
    manifest = registration.apply(package.manifest)
    verdicts = Verdicts(manifest)
    limits, threads = unit_limits(manifest.runtime, engine)
    options = BackendOptions(threads, engine.spinning, engine.memory_arena, engine.cpu_batches)

    def open_unit(backend: str, graph: str, trial: Trial = _no_trial) -> InferenceUnit:
        prepared = replace(options, is_optimised=graph != MODEL_FILE)
        opened = open_named(backend, package.read_model(graph), manifest, prepared)
        try:
            unit = InferenceUnit(opened, manifest, verdicts)
            unit.warm_up()
            trial(opened)
        except ModelError:
            opened.close()
            raise
        return unit

    trial = _golden_trial(registration.name, package)

    def open_first(backend: str) -> Tuple[InferenceUnit, Callable[[], InferenceUnit]]:
        graph = choose_graph(package.manifest, this_machine(backend))
        if graph != MODEL_FILE:
            try:
                return open_unit(backend, graph, trial), partial(open_unit, backend, graph)
            except ModelError as error:
                log.warning("Model %s isn't served from %s: %s", registration.name, graph, error)
        return open_unit(backend, MODEL_FILE, trial), partial(open_unit, backend, MODEL_FILE)

    (first, open_another), refused = first_that_works(engine.backends, open_first)
    units = [first, *(open_another() for _ in range(1, limits.minimum))]
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
        open_another,
        f"{threads} thread{'s' * (threads > 1)}, batches of up to {first.max_batch}, "
        f"{first.engine}",
        _remarks(registration.name, len(package.manifest.golden), refused),
    )


def _golden_trial(model: str, package: Package) -> Trial:
    """Return the check of an engine by the package's golden samples.

    One unit is tried; further ones are opened from the same verified bytes in the same engine. The
    pictures are freed with the check.
    """
    pictures = parity.read_pictures(package)

    def trial(backend: Backend) -> None:
        try:
            parity.check(backend, package.manifest, pictures)
        except ParityFailed as error:
            for line in error.table.splitlines():
                log.warning("%s: %s", model, line)
            raise

    return trial


def _no_trial(_: Backend) -> None:
    """Let every engine serve."""


def _remarks(model: str, golden: int, refused: Dict[str, ModelError]) -> str:
    """Return what the golden samples said, and which engines are here but don't serve."""
    remarks = [f" Reproduces {golden} golden sample{'s' * (golden > 1)}."] if golden else []
    for name, error in refused.items():
        if not isinstance(error, BackendUnavailable):
            log.warning("Model %s isn't served by %s: %s", model, name, error)
            remarks.append(f" Not on {name}: {error}")
    return "".join(remarks)


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
