"""Opens a package in the first engine that gives its own results back."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    EngineUnusable,
    ModelError,
    NotBuilt,
    NotNumbers,
    ParityFailed,
)
from edge_agent.manifest import MODEL_FILE, Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.catalog import first_that_works, open_named
from edge_agent.runtime.engines import graph_trial
from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.engines.supply import Candidate, EngineSupply
from edge_agent.runtime.models import golden_check
from edge_agent.runtime.models.inference_unit import InferenceUnit, Verdicts
from edge_agent.runtime.packages.graph_choice import choose_graph, this_machine
from edge_agent.runtime.packages.package import Package

log = logging.getLogger(__name__)

Trial = Callable[[Backend], None]  # raises ModelError when the engine shall not serve
Open = Callable[[], Backend]


class Opened:
    """A first inference unit, warm; `another` makes one more of the same loaded model."""

    def __init__(self, opening: Opening, open_backend: Open, trial: Trial, how: str = "") -> None:
        """Open and try it. Raises ModelError."""
        self.remarks: List[str] = []  # why it isn't a better one
        self._opening, self._open, self._how = opening, open_backend, how
        self.backend = open_backend()
        self.unit = opening.warm(self.backend, trial)

    @property
    def engine(self) -> str:
        """What computes, where and how, for people: "tensorrt on GPU Orin, fp16"."""
        return self.unit.engine + self._how

    def another(self) -> InferenceUnit:
        """Make one more unit. Raises ModelError, AgentUnavailable while a worker can't start."""
        backend = self.backend.another()
        if backend is None:
            backend = self.backend = self._open()
        return self._opening.warm(backend, _no_trial)


class Opening:
    """One package about to serve; `pending` is the engine that it would rather be served by."""

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
        self.verdicts = Verdicts(manifest)
        self.pending: Optional[Candidate] = None
        self._name, self._package, self._manifest = name, package, manifest
        self._options, self._supply = options, supply
        self._must_try = must_try
        self._tried: Set[str] = set()
        self._pictures = golden_check.read_pictures(package)

    def first(self, names: Sequence[str]) -> Tuple[Opened, Dict[str, ModelError]]:
        """Open the first of the engines `names` that serves; say why not those before it.

        Raises ModelError; NotBuilt when there would be one as soon as it is built, and none of the
        others found fault with the model.
        """
        faults: List[ModelError] = []

        def attempt(name: str) -> Opened:
            try:
                return self._open(name)
            except ModelError as error:
                if not isinstance(error, BackendUnavailable):
                    faults.append(error)
                raise

        try:
            opened, refused = first_that_works(names, attempt)
        except ModelError:
            if self.pending is None or faults:
                raise
            raise NotBuilt.of(self.pending, f"The {self.pending} isn't built yet.") from None
        self._pictures = []  # further units are opened from the same bytes in the same engine
        return opened, refused

    def warm(self, backend: Backend, trial: Trial) -> InferenceUnit:
        """Make an inference unit of `backend` and try it; close it when it shall not serve."""
        try:
            unit = InferenceUnit(backend, self._manifest, self.verdicts)
            unit.warm_up()
            trial(backend)
        except AgentUnavailable as error:  # its worker process was lost
            backend.close()
            raise BackendUnavailable(str(error)) from None
        except Exception:
            backend.close()
            raise
        return unit

    def _open(self, name: str) -> Opened:
        if name == TENSORRT:
            return self._open_tensorrt()
        graph = choose_graph(self._package.manifest, this_machine(name))
        if graph != MODEL_FILE:
            try:
                return Opened(self, partial(self._open_graph, name, graph), self._reproduces)
            except ModelError as error:
                log.warning("Model %s isn't served from %s: %s", self._name, graph, error)
        return Opened(self, partial(self._open_graph, name, MODEL_FILE), self._reproduces)

    def _open_graph(self, name: str, graph: str) -> Backend:
        options = replace(self._options, is_optimised=graph != MODEL_FILE)
        model = self._package.read_model(graph)
        if self._must_try and graph not in self._tried:
            graph_trial.check(model, self._manifest, options)
            self._tried.add(graph)
        return open_named(name, model, self._manifest, options)

    def _open_tensorrt(self) -> Opened:
        """Step down from the wanted precision to the next when results aren't the model's.

        What hinders an engine otherwise may pass: nothing else is tried then, and nothing built.
        """
        reasons: List[str] = []
        for candidate in self._supply.candidates(self._package):
            reason = self._supply.refusal(candidate)
            if not reason:
                try:
                    opened = self._open_engine(candidate)
                except NotBuilt as error:
                    self.pending = candidate
                    raise NotBuilt.of(candidate, " ".join([str(error), *reasons])) from None
                except (ParityFailed, NotNumbers) as error:
                    reason = str(error)
                else:
                    opened.remarks = [f"Not in {each}" for each in reasons]
                    return opened
            reasons.append(f"{candidate.spec.precision}: {reason}")
        raise BackendUnavailable(" ".join(reasons))

    def _open_engine(self, candidate: Candidate) -> Opened:
        supply, how = self._supply, f", {candidate.spec.precision}"
        try:
            return Opened(self, partial(self._open_file, candidate), self._reproduces, how)
        except (ParityFailed, NotNumbers) as error:
            supply.refuse(candidate, error)
            raise
        except EngineUnusable as error:
            supply.spoil(candidate, error)
            raise

    def _open_file(self, candidate: Candidate) -> Backend:
        from edge_agent.runtime.backends.trt import TrtBackend

        return TrtBackend(
            self._supply.find(candidate),
            self._manifest,
            self._options,
            dla_core=self._supply.dla_core,
            allow_host_code=candidate.has_host_code,
        )

    def _reproduces(self, backend: Backend) -> None:
        """Raise ParityFailed unless the engine gives the golden samples' results."""
        try:
            golden_check.check(backend, self._package.manifest, self._pictures)
        except ParityFailed as error:
            for line in error.table.splitlines():
                log.warning("%s: %s", self._name, line)
            raise


def _no_trial(_: Backend) -> None:
    """Let every engine serve."""
