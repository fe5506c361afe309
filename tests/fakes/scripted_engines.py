"""Engines whose loading, building and failing a test decides, step by step; they compute in numpy.

Nothing is loaded while `Script.loads_wait`, nothing is built while `Script.builds` is "wait".
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Set, Union
from unittest.mock import patch

import numpy as np

from edge_agent.errors import BuildFailed, ModelError, ParityFailed
from edge_agent.manifest import MODEL_FILE, Manifest
from edge_agent.runtime.backends import trt
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.engines.plan import CPU, TENSORRT, BackendPlan
from edge_agent.runtime.engines.supply import Candidate, EngineOrder, Ready, ToBuild
from edge_agent.runtime.models import backend_selection, load_attempt, registry
from edge_agent.runtime.packages.package import Package
from tests.fakes.engines import engine_of, settings

WITHIN_S = 60.0


class Script:
    """What engines do, and what became of them; used under its condition."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.loads_wait = False
        self.builds = "succeed"  # or "wait", "fail", or "wrong": built with other results
        self.waiting_loads = 0
        self.waiting_builds: Set[EngineOrder] = set()
        self.built: Dict[str, bool] = {}  # package's digest → whether its results are right
        self.refused: Set[str] = set()
        self.open = 0  # backends

    def set(self, **values: Any) -> None:
        with self.changed:
            vars(self).update(values)
            self.changed.notify_all()

    def count(self, step: int) -> None:
        with self.changed:
            self.open += step
            self.changed.notify_all()

    def blocked(self) -> int:
        """How many loads and builds wait for the test; those cancelled end by themselves."""
        with self.changed:
            loads = self.waiting_loads if self.loads_wait else 0
            builds = self.waiting_builds if self.builds == "wait" else ()
            return loads + sum(not each._cancelled for each in builds)

    def load(self, real: Callable[..., Any], *arguments: Any) -> Any:
        with self.changed:
            self.waiting_loads += 1
            try:
                assert self.changed.wait_for(lambda: not self.loads_wait, WITHIN_S)
            finally:
                self.waiting_loads -= 1
        return real(*arguments)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Let agents in this process have these engines."""
        real = load_attempt.load_model
        with ExitStack() as stack:
            stack.enter_context(patch.object(registry, "EngineSupply", lambda _: Supply(self)))
            stack.enter_context(
                patch.object(load_attempt, "load_model", lambda *a: self.load(real, *a))
            )
            stack.enter_context(patch.object(trt, "TrtBackend", lambda *a, **k: OnGpu(self, *a)))
            stack.enter_context(
                patch.object(backend_selection, "open_named", lambda _, *a: OnCpu(self, *a))
            )
            yield


class _Engine(Backend):
    def __init__(self, script: Script, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.fault, self._script = "", script
        script.count(1)

    @property
    def device(self) -> str:
        return "paper"

    @property
    def failure(self) -> str:
        return self.fault

    def _run(self, batch: Any) -> Any:
        return {"score": batch[..., 0].mean((1, 2), dtype=np.float32) / np.float32(255)}

    def _close(self) -> None:
        self._script.count(-1)


class OnCpu(_Engine):
    name = CPU

    def __init__(self, script: Script, model: bytes, manifest: Manifest, _: BackendOptions) -> None:
        super().__init__(script, manifest)


class OnGpu(_Engine):
    name = TENSORRT

    def __init__(self, script: Script, path: Path, manifest: Manifest, _: BackendOptions) -> None:
        if not script.built[str(path)]:
            raise ParityFailed("Other results.")
        super().__init__(script, manifest)


class Supply:
    """The supply of engines, one candidate a package."""

    dla_core = None

    def __init__(self, script: Script) -> None:
        self._script = script

    def plan(self, _: object) -> BackendPlan:
        return BackendPlan((TENSORRT, CPU))

    def candidates(self, package: Package) -> Iterator[Candidate]:
        yield Candidate(package, MODEL_FILE, settings(), engine_of())

    def refusal(self, candidate: Candidate) -> str:
        return "Refused." if candidate.package.digest in self._script.refused else ""

    def look_up(self, candidate: Candidate) -> Union[Ready, ToBuild]:
        digest = candidate.package.digest
        if digest in self._script.built:
            return Ready(Path(digest))
        return ToBuild(candidate, "It isn't built yet.")

    def refuse(self, candidate: Candidate, _: ModelError) -> Optional[ToBuild]:
        self._script.refused.add(candidate.package.digest)
        return None

    def build(self, order: EngineOrder, _: object) -> None:
        script, digest = self._script, order.candidate.package.digest
        with script.changed:
            script.waiting_builds.add(order)
            try:
                while script.builds == "wait":
                    script.changed.wait(0.01)  # a cancelled order says so to nobody
                    order.check()
            finally:
                script.waiting_builds.remove(order)
            if script.builds == "fail":
                raise BuildFailed("The build failed.")
            script.built[digest] = script.builds == "succeed"
