"""Selects the backend that serves a package: the first one that reproduces its golden samples."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    EngineUnusable,
    ModelError,
    NotNumbers,
    ParityFailed,
)
from edge_agent.manifest import MODEL_FILE, Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.catalog import first_that_works, open_named
from edge_agent.runtime.engines import graph_trial
from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.engines.supply import Candidate, EngineSupply, ToBuild
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.models.inference_unit import DecisionInForce, InferenceUnit
from edge_agent.runtime.packages.graph_choice import choose_graph, this_machine
from edge_agent.runtime.packages.package import Package

log = logging.getLogger(__name__)

Trial = Callable[[Backend], None]  # raises ModelError when the backend must not serve
OpenBackend = Callable[[], Backend]


class SelectedBackend:
    """A backend with its first inference unit, warm; `another` makes one more of the same model."""

    def __init__(
        self, selector: BackendSelector, open_backend: OpenBackend, trial: Trial, how: str = ""
    ) -> None:
        """Open and try it. Raises ModelError."""
        self.remarks: List[str] = []  # why it isn't a better one
        self._selector, self._open, self._how = selector, open_backend, how
        self.backend = open_backend()
        self.unit = selector.warm(self.backend, trial)

    @property
    def engine(self) -> str:
        """What computes, where and how, for people: "tensorrt on GPU Orin, fp16"."""
        return self.unit.engine + self._how

    def another(self) -> InferenceUnit:
        """Make one more unit. Raises ModelError, AgentUnavailable while a worker can't start."""
        backend = self.backend.another()
        if backend is None:
            backend = self.backend = self._open()
        return self._selector.warm(backend, _no_trial)


class BackendSelector:
    """Selects the backend of one package; `to_build` is the engine that would serve it better."""

    def __init__(
        self,
        name: str,
        package: Package,
        manifest: Manifest,
        options: BackendOptions,
        supply: EngineSupply,
        must_try: bool = False,
    ) -> None:
        """`manifest` is the package's with the decision in force.

        must_try: a process of its own loads each graph first, as it may take any memory.
        """
        self.to_build: Optional[ToBuild] = None
        self._name, self._package, self._manifest = name, package, manifest
        self._options, self._supply = options, supply
        self._must_try = must_try
        self._tried: Set[str] = set()
        self._pictures = golden_check.read_pictures(package)
        self.in_force = DecisionInForce(manifest, self._pictures)

    def select(
        self, names: Sequence[str]
    ) -> Union[Tuple[SelectedBackend, Dict[str, ModelError]], ToBuild]:
        """Open the first of the backends `names` that serves; return why not those before it.

        Returns what is to be built when only a missing engine is in the way: no backend serves, and
        none of them found a fault in the model. Raises ModelError.
        """
        faults: List[ModelError] = []

        def attempt(name: str) -> SelectedBackend:
            try:
                return self._open(name)
            except ModelError as error:
                if not isinstance(error, BackendUnavailable):
                    faults.append(error)
                raise

        try:
            selected, refused = first_that_works(names, attempt)
        except ModelError:
            if self.to_build is None or faults:
                raise
            return self.to_build
        self._pictures = []  # further units are opened from the same bytes in the same engine
        if self.to_build is not None:
            log.info("Model %s: %s", self._name, self.to_build.why)
            refused.pop(TENSORRT)
        return selected, refused

    def warm(self, backend: Backend, trial: Trial) -> InferenceUnit:
        """Make an inference unit of `backend` and try it; close it when it must not serve."""
        try:
            unit = InferenceUnit(backend, self._manifest, self.in_force)
            unit.warm_up()
            trial(backend)
        except AgentUnavailable as error:  # its worker process was lost
            backend.close()
            raise BackendUnavailable(str(error)) from None
        except Exception:
            backend.close()
            raise
        return unit

    def _open(self, name: str) -> SelectedBackend:
        if name == TENSORRT:
            return self._open_tensorrt()
        graph = choose_graph(self._package.manifest, this_machine(name))
        if graph != MODEL_FILE:
            try:
                return self._open_graph(name, graph)
            except ModelError as error:
                log.warning("Model %s isn't served from %s: %s", self._name, graph, error)
        return self._open_graph(name, MODEL_FILE)

    def _open_graph(self, name: str, graph: str) -> SelectedBackend:
        return SelectedBackend(self, partial(self._load_graph, name, graph), self._check_golden)

    def _load_graph(self, name: str, graph: str) -> Backend:
        options = replace(self._options, is_optimised=graph != MODEL_FILE)
        model = self._package.read_model(graph)
        if self._must_try and graph not in self._tried:
            graph_trial.check(model, self._manifest, options)
            self._tried.add(graph)
        return open_named(name, model, self._manifest, options)

    def _open_tensorrt(self) -> SelectedBackend:
        """Step down from the wanted precision to the next when results aren't the model's.

        Any other failure may be temporary: nothing else is tried then, and nothing built. Sets
        `to_build` when the next engine to be tried isn't there.
        """
        reasons: List[str] = []
        for candidate in self._supply.candidates(self._package):
            reason = self._supply.refusal(candidate)
            if not reason:
                try:
                    found = self._open_engine(candidate)
                except (ParityFailed, NotNumbers) as error:
                    reason = str(error)
                else:
                    if isinstance(found, ToBuild):
                        self.to_build = replace(found, why=" ".join([found.why, *reasons]))
                        raise BackendUnavailable(self.to_build.why)
                    found.remarks = [f"Not in {each}" for each in reasons]
                    return found
            reasons.append(f"{candidate.spec.precision}: {reason}")
        raise BackendUnavailable(" ".join(reasons))

    def _open_engine(self, candidate: Candidate) -> Union[SelectedBackend, ToBuild]:
        supply = self._supply
        found = supply.look_up(candidate)
        if isinstance(found, ToBuild):
            return found
        load = partial(self._load_engine, found.path, candidate)
        try:
            return SelectedBackend(self, load, self._check_golden, f", {candidate.spec.precision}")
        except (ParityFailed, NotNumbers) as error:
            to_build = supply.refuse(candidate, error)
            if to_build is None:
                raise
        except EngineUnusable as error:
            to_build = supply.reject_file(candidate, error)
            if to_build is None:
                raise
        return to_build

    def _load_engine(self, path: Path, candidate: Candidate) -> Backend:
        from edge_agent.runtime.backends.trt import TrtBackend

        return TrtBackend(
            path,
            self._manifest,
            self._options,
            dla_core=self._supply.dla_core,
            allow_host_code=candidate.has_host_code,
        )

    def _check_golden(self, backend: Backend) -> None:
        """Raise ParityFailed unless the engine gives the golden samples' results."""
        try:
            golden_check.check(backend, self._package.manifest, self._pictures)
        except ParityFailed as error:
            for line in error.table.splitlines():
                log.warning("%s: %s", self._name, line)
            raise


def _no_trial(_: Backend) -> None:
    """Let every backend serve."""
