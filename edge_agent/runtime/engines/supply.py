"""The TensorRT engines that a package has on this device: those that are ready, those to be built.

One supply serves all models; engines are built one after the other.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple, Union

from edge_agent.config import MIB, EngineSettings
from edge_agent.errors import BackendUnavailable, BuildFailed, InvalidPackage, ModelError
from edge_agent.manifest import MODEL_FILE
from edge_agent.runtime.backends import fingerprint
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines.build import BuildProgress, EngineBuild
from edge_agent.runtime.engines.cache import (
    ABOUT,
    ENGINE,
    EngineCache,
    RefusedEngines,
    default_cache,
)
from edge_agent.runtime.engines.machine import Machine, look_briefly
from edge_agent.runtime.engines.plan import CUDA, TENSORRT, BackendPlan, plan
from edge_agent.runtime.engines.spec import build_spec, ladder
from edge_agent.runtime.packages.package import Package
from edge_agent.targets import BuildSpec, TargetSpec

log = logging.getLogger(__name__)

JUDGED_LENGTH = 8
PACKED = "engines"  # folder of a package with engines built beforehand
ON_GPU = {TENSORRT, CUDA}
LOOK_AGAIN_S = 300.0  # a look may take a minute
TURN_S = 0.2  # how soon an order that waits for another one sees that it is cancelled


@dataclass(frozen=True)
class Candidate:
    """An engine that may serve a package: what it is built from, and all it depends on."""

    package: Package
    graph: str  # path in the package
    spec: BuildSpec
    fingerprint: Fingerprint

    @property
    def has_host_code(self) -> bool:
        """Whether code for the CPU is inside, which TensorRT must be allowed to run.

        That code is the builder's: such an engine is never taken from a package, see `look_up`.
        """
        return self.spec.version_compatible

    @property
    def judged(self) -> str:
        """Names what engines are judged by: golden samples, tolerance, decision."""
        manifest = self.package.manifest
        parts = (manifest.golden, manifest.runtime.parity_tolerance, manifest.decision)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:JUDGED_LENGTH]

    @property
    def pictures(self) -> List[bytes]:
        """The calibration's files."""
        return [self.package.read(path) for path in self.spec.calibration]

    def __str__(self) -> str:
        return f"TensorRT engine ({self.spec.precision})"


@dataclass(frozen=True)
class Ready:
    """The engine is in the cache, in this file."""

    path: Path


@dataclass(frozen=True)
class ToBuild:
    """The engine can serve as soon as it is built; `why`: a sentence on why there is none."""

    candidate: Candidate
    why: str


class EngineSupply:
    """Owns the cache of engines and what is known of the machine; any thread may use it."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        folder = (settings.cache or default_cache()).absolute()
        self._cache = EngineCache(folder, settings.cache_mib * MIB)
        self._refusals = RefusedEngines(folder)
        self._refused: Dict[str, str] = {}  # fingerprint's id → why, until the process ends
        self._built: List[str] = []  # by this process
        self._looking, self._turn = threading.Lock(), threading.Lock()
        self._machine: Optional[Machine] = None
        self._look_again = 0.0

    def plan(self, target: Optional[TargetSpec]) -> BackendPlan:
        """Say in which order the engines are tried for a package of `target`.

        Raises BackendUnavailable when the settings leave none.
        """
        wanted = self._settings.backends
        if wanted and not ON_GPU & set(wanted):
            return BackendPlan(wanted)
        machine = self._here()
        found = plan(target, machine, wanted)
        if not found.order:
            raise BackendUnavailable(" ".join(found.remarks))
        if not self._settings.wait_for_engine:
            return found
        if TENSORRT not in found.order:
            why = machine.no_gpu or machine.no_tensorrt or " ".join(found.remarks)
            raise BackendUnavailable(f"engine.wait_for_engine wants TensorRT only. {why}")
        return BackendPlan((TENSORRT,), found.remarks)

    @property
    def dla_core(self) -> Optional[int]:
        """The accelerator that engines are made for; None: the GPU."""
        return self._settings.dla_core

    def candidates(self, package: Package) -> Iterator[Candidate]:
        """Yield what may serve, the wanted precision first; each is read when it is asked for.

        Raises BackendUnavailable when this machine has no GPU or no TensorRT.
        """
        machine = self._here()
        if machine.gpu is None or not machine.tensorrt:
            raise BackendUnavailable(machine.no_gpu or machine.no_tensorrt)
        for spec in ladder(build_spec(package.manifest)):
            yield self._candidate(package, spec)

    def refusal(self, candidate: Candidate) -> str:
        """Return why the engine is known to be of no use; empty when it isn't."""
        wanted = candidate.fingerprint
        return self._refused.get(wanted.id, "") or self._refusals.find(wanted, candidate.judged)

    def look_up(self, candidate: Candidate) -> Union[Ready, ToBuild]:
        """Look for the engine's file in the cache and in the package."""
        wanted = candidate.fingerprint
        found = self._cache.find(wanted) or self._unpack(candidate)
        if found is not None:
            return Ready(found)
        changed = self._cache.why_not(wanted)
        why = f"; the existing engine is for another machine: {changed}" if changed else ""
        return ToBuild(candidate, f"The {candidate} isn't built yet{why}.")

    def refuse(self, candidate: Candidate, error: ModelError) -> Optional[ToBuild]:
        """Never try this engine again: it gives other results than the model.

        One that was built for another machine or release is quarantined, to be built here instead.
        """
        if self._cache.is_taken_over(candidate.fingerprint):
            return self._quarantine(candidate, error)
        self._refusals.add(candidate.fingerprint, candidate.judged, str(error))
        self._cache.drop(candidate.fingerprint)
        return None

    def reject_file(self, candidate: Candidate, error: ModelError) -> Optional[ToBuild]:
        """Quarantine an engine that can't be loaded; it is built again unless it was just built."""
        to_build = self._quarantine(candidate, error)
        if candidate.fingerprint.id not in self._built:
            return to_build
        self._refused[candidate.fingerprint.id] = str(error)
        return None

    def build(self, order: EngineOrder, on_progress: Callable[[BuildProgress], None]) -> None:
        """Build what is ordered, when its turn comes.

        What TensorRT can't build at this precision is refused from then on. Raises InvalidPackage
        when it can't read the graph, BuildFailed when the build came to nothing otherwise.
        """
        candidate = order.candidate
        with self._its_turn(order):
            if self._cache.find(candidate.fingerprint):
                return
            build = EngineBuild(
                candidate.package.read_model(candidate.graph),
                candidate.package.manifest.input,
                candidate.spec,
                candidate.pictures,
                candidate.fingerprint,
                self._cache,
                dla_core=self.dla_core,
                within_s=self._settings.build_within_s,
            )
            order.begin(build)
            try:
                build.run(on_progress)
            except BuildFailed:
                raise
            except BackendUnavailable as error:
                log.warning("The %s can't be built: %s", candidate, error)
                self._refused[candidate.fingerprint.id] = str(error)
            else:
                self._built.append(candidate.fingerprint.id)

    def _quarantine(self, candidate: Candidate, error: ModelError) -> ToBuild:
        self._cache.quarantine(candidate.fingerprint, str(error))
        return ToBuild(candidate, f"The {candidate} must be built again: {error}")

    @contextmanager
    def _its_turn(self, order: EngineOrder) -> Iterator[None]:
        while not self._turn.acquire(timeout=TURN_S):
            order.check()
        try:
            order.check()
            yield
        finally:
            self._turn.release()

    def _here(self) -> Machine:
        """Look, and now and then again as long as something is missing: a driver may come later."""
        with self._looking:
            machine = self._machine
            is_whole = machine is not None and machine.gpu is not None and machine.tensorrt
            if machine is None or not (is_whole or time.monotonic() < self._look_again):
                self._machine = machine = look_briefly()
                self._look_again = time.monotonic() + LOOK_AGAIN_S
            return machine

    def _candidate(self, package: Package, spec: BuildSpec) -> Candidate:
        machine = self._here()
        assert machine.gpu is not None  # see `candidates`
        typed = spec.precision == "fp16" and not machine.has_fp16_flag
        graph = spec.half if typed and spec.half else MODEL_FILE
        wanted = Fingerprint.of(
            machine.tensorrt,
            machine.gpu,
            package.read(graph),
            spec,
            [package.read(path) for path in spec.calibration],
            dla_core=self.dla_core,
        )
        return Candidate(package, graph, spec, wanted)

    def _unpack(self, candidate: Candidate) -> Optional[Path]:
        """Take over an engine that the package brings, if it serves here.

        None with code for the CPU: whoever packed it would choose what runs on this device.
        """
        wanted, package = candidate.fingerprint, candidate.package
        if candidate.has_host_code or not package.is_signed:
            return None
        for name, made in _packed(package):
            if made != wanted and not self._is_target(package):
                continue  # GPUs may be alike where processors aren't
            if made.serves(wanted):
                with tempfile.TemporaryDirectory() as folder:
                    engine = Path(folder) / "engine"
                    engine.write_bytes(package.read(f"{name}.engine"))
                    return self._cache.store(wanted, engine, 0.0, made)
        return None

    def _is_target(self, package: Package) -> bool:
        target = package.manifest.target
        return target is not None and target.arch == self._here().arch


class EngineOrder:
    """The request for an engine; `cancel` may be called on any thread at any time."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self._lock = threading.Lock()
        self._cancelled = False
        self._build: Optional[EngineBuild] = None

    def begin(self, build: EngineBuild) -> None:
        """Let `cancel` end this build. Raises BuildFailed when it was called before."""
        with self._lock:
            self._build = build
        self.check()

    def cancel(self) -> None:
        """End the build, or keep it from beginning."""
        with self._lock:
            self._cancelled, build = True, self._build
        if build is not None:
            build.cancel()

    def check(self) -> None:
        """Raise BuildFailed when nobody wants the engine any more."""
        if self._cancelled:
            raise BuildFailed(f"The {self.candidate} isn't needed any more.")


def _packed(package: Package) -> Iterator[Tuple[str, Fingerprint]]:
    """Yield the path of each engine of the package, without its ending, and what it's for."""
    listed = {entry.path for entry in package.manifest.files}
    for path in sorted(listed):
        name = path[: -len(ENGINE)]
        if path != f"{PACKED}/{Path(name).name}{ENGINE}" or f"{name}{ABOUT}" not in listed:
            continue
        try:
            made = fingerprint.parse(package.read(f"{name}{ABOUT}"))
        except (ValueError, InvalidPackage) as error:
            log.warning("The engine %s of %s isn't used: %s", name, package.path, error)
        else:
            yield name, made
