"""A model in memory: a package verified, opened in inference units, and warm."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Optional, Tuple, Union

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import BackendUnavailable, EdgeAgentError, ModelError
from edge_agent.manifest import MODEL_FILE, Decision, Manifest, RuntimeSpec
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.batching.batcher import Batcher, BatchingOptions
from edge_agent.runtime.batching.scaling import Limits, Scaler
from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.engines.supply import Candidate, EngineSupply, ToBuild
from edge_agent.runtime.models.backend_selection import BackendSelector, SelectedBackend
from edge_agent.runtime.models.inference_unit import DecisionInForce, FrameItem, InferenceUnit
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.system import memory, resources
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import DetectRequest, Prediction

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedModel:
    """A model in memory, warm; `selected` makes further inference units of it.

    `packaged` is the manifest as it stands in the package, `manifest` with the registration's
    decision.
    """

    registration: Registration
    digest: str  # of the package
    packaged: Manifest
    manifest: Manifest
    in_force: DecisionInForce
    batcher: Batcher[OpenFrame, Prediction]
    scaler: Scaler
    selected: SelectedBackend
    to_build: Optional[Candidate]  # the engine that would serve it better, not built yet
    engine: str  # for people: "2 threads, batches of up to 4, onnxruntime on CPU"
    remarks: List[str]  # for people: "Reproduces 4 golden samples."
    is_adding_unit: bool = False

    @property
    def summary(self) -> str:
        """What serves, for people."""
        units = self.batcher.instances
        remarks = "".join(
            f" {remark}" for remark in (*self.remarks, *self.selected.backend.remarks)
        )
        return (
            f"Version {self.manifest.version}, {units} inference unit{'s' * (units != 1)} of "
            f"{self.engine}. Threshold {self.manifest.decision.threshold:g}.{remarks}"
        )

    @property
    def failure(self) -> str:
        """Why the engine will never compute again; empty while it does."""
        return self.selected.backend.failure

    def predict(self, opened: OpenFrame, request: DetectRequest) -> Prediction:
        """Judge a frame. Raises as Batcher.run."""
        held_bytes = opened.held_bytes
        item = FrameItem(opened, time.monotonic(), request.caller, request.times, held_bytes)
        return self.batcher.run(item)

    def decide(self, registration: Registration) -> str:
        """Judge by another registration of the same package from the next batch on.

        Returns what is different now, for people. Raises InvalidPackage when the decision can't be;
        nothing has changed then.
        """
        before, manifest = self.manifest.decision, registration.apply(self.packaged)
        self.in_force.apply(manifest)
        self.registration, self.manifest = registration, manifest
        return _differences(before, manifest.decision)

    def limit_units(self, engine: EngineSettings) -> None:
        """Apply other limits of the number of units; each unit keeps its number of threads."""
        limits, _ = unit_limits(self.manifest.runtime, engine, self.selected.backend.ring)
        if limits != self.scaler.limits:
            log.info(
                "Model %s has %d to %d inference units from now on. The threads of each unit "
                "change when the model is started again.",
                self.registration.name, limits.minimum, limits.maximum,
            )  # fmt: skip
        self.scaler.limits = limits

    def close(self, within_s: float) -> bool:
        """Finish what waits and free everything; False when calls were cut off."""
        finished = self.batcher.close(within_s)
        memory.give_back()
        return finished


def load_model(
    registration: Registration,
    models: ModelsSettings,
    engine: EngineSettings,
    supply: EngineSupply,
    accepts: Callable[[str], bool] = lambda _name: True,
) -> Union[LoadedModel, ToBuild]:
    """Verify, open and warm the package in the first backend that reproduces its golden samples.

    Of the backends that the supply plans, those are tried that `accepts` says yes to. Returns what
    is to be built when none serves but one would as soon as its engine is built. Raises ModelError.
    """
    package = registration.open(models.package_limit_mib * memory.MIB)
    package.verify()
    manifest = registration.apply(package.manifest)
    plan = supply.plan(package.manifest.target)
    names = list(filter(accepts, plan.order))
    if not names:
        raise BackendUnavailable("There is no other engine for it here.")
    _, threads = unit_limits(manifest.runtime, engine)
    options = _backend_options(models, engine, threads)
    is_limited = models.memory_limit_mib is not None
    selector = BackendSelector(registration.name, package, manifest, options, supply, is_limited)
    outcome = selector.select(names)
    if isinstance(outcome, ToBuild):
        return outcome
    selected, refused = outcome
    limits, _ = unit_limits(manifest.runtime, engine, selected.backend.ring)
    units = _open_all(registration.name, selected, limits.minimum)
    registration.served(package)
    remarks = [
        *_remarks(registration.name, len(package.manifest.golden), refused),
        *selected.remarks,
        *plan.remarks,
    ]
    return LoadedModel(
        registration,
        package.digest,
        package.manifest,
        manifest,
        selector.in_force,
        Batcher(units, _batching_options(engine)),
        Scaler(limits),
        selected,
        selector.to_build.candidate if selector.to_build else None,
        _describe(selected, threads),
        remarks,
    )


def check_memory(registration: Registration, models: ModelsSettings) -> None:
    """Raise OutOfMemory when its model will hardly fit; a package that can't be read passes."""
    try:
        files = registration.open().manifest.files
    except ModelError:
        return  # loading will say what is wrong with it
    model = next(entry.size for entry in files if entry.path == MODEL_FILE)
    largest = max(entry.size for entry in files)  # each is read as a whole to be verified
    memory.check(registration.name, max(model, largest // 2), models.memory_limit_mib)


def _backend_options(
    models: ModelsSettings, engine: EngineSettings, threads: int
) -> BackendOptions:
    return BackendOptions(
        threads,
        engine.spinning,
        engine.memory_arena,
        engine.cpu_batches,
        memory_bytes=memory.free_bytes(models.memory_limit_mib),
        hang_after_s=engine.hang_after_s,
    )


def _batching_options(engine: EngineSettings) -> BatchingOptions:
    return BatchingOptions(
        engine.queue_length, engine.queue_mib * memory.MIB, engine.gather_ms / 1000
    )


def _open_all(name: str, selected: SelectedBackend, count: int) -> List[InferenceUnit]:
    """Return the first unit and further ones, as many as can be had; the scaler asks for others."""
    units = [selected.unit]
    try:
        while len(units) < count:
            units.append(selected.another())
    except EdgeAgentError as error:
        log.warning("Model %s starts with %d of %d units: %s", name, len(units), count, error)
    return units


def _describe(selected: SelectedBackend, threads: int) -> str:
    what = f"{selected.engine}, batches of up to {selected.unit.max_batch}"
    on_cpu = f"{threads} thread{'s' * (threads > 1)}, " if selected.backend.ring == 1 else ""
    return on_cpu + what


def _remarks(model: str, golden: int, refused: Dict[str, ModelError]) -> Iterator[str]:
    """Yield that the golden samples are reproduced, and which engines are here but don't serve."""
    if golden:
        yield f"Reproduces {golden} golden sample{'s' * (golden > 1)}."
    for name, error in refused.items():
        if name == TENSORRT or not isinstance(error, BackendUnavailable):
            log.warning("Model %s isn't served by %s: %s", model, name, error)
            yield f"Not on {name}: {error}"


def unit_limits(runtime: RuntimeSpec, engine: EngineSettings, ring: int = 1) -> Tuple[Limits, int]:
    """Return how many inference units there may be and how many threads each of them has.

    Together they have no more threads than this process may use cores, unless the threads are set.
    There are at least `ring` where a device needs so many to be busy, unless their number is set.
    """
    cores = resources.cores()
    ring = min(ring, engine.max_inference_units or ring)
    minimum = engine.min_inference_units or max(runtime.min_inference_units, ring)
    maximum = max(minimum, engine.max_inference_units or runtime.max_inference_units)
    if not engine.threads and ring == 1:
        minimum, maximum = min(minimum, cores), min(maximum, cores)
    limits = Limits(minimum, maximum, engine.scale_up_after_s, engine.scale_down_after_s)
    return limits, engine.threads or max(1, cores // maximum)


def _differences(old: Decision, new: Decision) -> str:
    """Return what changed, for people: "threshold 0.5 -> 0.6"."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return ", ".join(
        f"{name} {before[name]} -> {value}"
        for name, value in after.items()
        if before[name] != value
    )
