"""What the checks share: the machine, a model for each precision, and its engines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.gpu_check.report import Skipped
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.ort import OrtCudaBackend
from edge_agent.runtime.backends.trt import TrtBackend
from edge_agent.runtime.engines.machine import Machine
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.packages.package import Package

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIB = 1024 * 1024
CUDA_PROVIDER = OrtCudaBackend.name
GOALS = {"loop": 0.95, "served": 0.85, "overlap": 1.0, "cached_start_s": 2.0}


@dataclass(frozen=True)
class Scope:
    """How much is checked, and what must be reached.

    pictures: drawn parts to compare on, and as many good ones to calibrate int8 with. good_parts:
    to train on. seconds: of each measurement. rounds: starts and stops. goals: of GOALS; loop and
    served are throughputs as a share of the engine's alone and of the loop's; overlap is the
    throughput with copies beside computing as a share of that without; cached_start_s until a model
    with a built engine answers.
    """

    batches: Tuple[int, ...]
    pictures: int
    good_parts: int
    seconds: float
    rounds: int
    clients: int
    goals: Dict[str, float]


@dataclass(frozen=True)
class Site:
    """`packages` and `engines` go by precision; an engine that isn't there couldn't be built.

    The driver's context is current in the thread of the checks.
    """

    folder: Path
    scope: Scope
    machine: Machine
    trt: Any  # the module tensorrt
    driver: Driver
    supply: EngineSupply
    base: Package
    pictures: Sequence[NDArray[np.uint8]]  # to inspect, of the model's size
    packages: Dict[str, Package] = field(default_factory=dict)
    engines: Dict[str, Path] = field(default_factory=dict)
    equal: List[str] = field(default_factory=list)  # precisions that give the model's results

    @property
    def precision(self) -> str:
        """The one that speed is measured with: the fastest that most models bear."""
        for name in ("fp16", "fp32"):
            if name in self.equal:
                return name
        raise Skipped("no engine gives the model's results")

    @property
    def engine(self) -> Path:
        """The engine of `precision`."""
        return self.engines[self.precision]

    @property
    def manifest(self) -> Manifest:
        """Of the package of `precision`."""
        return self.packages[self.precision].manifest

    @property
    def cache(self) -> Path:
        """The folder of the engines."""
        return self.folder / "engines"

    def on(self, base: Package, pictures: Sequence[NDArray[np.uint8]]) -> Site:
        """Return a site for another model on the same machine."""
        return replace(self, base=base, pictures=pictures, packages={}, engines={}, equal=[])

    def backend(self, precision: str = "") -> TrtBackend:
        """Open an engine in a worker process, as the agent does."""
        name = precision or self.precision
        return TrtBackend(self.engines[name], self.packages[name].manifest, BackendOptions())

    def cuda_provider(self) -> Backend:
        """Open the model in onnxruntime's CUDA provider. Raises BackendUnavailable."""
        return OrtCudaBackend(self.base.read_model(), self._batched, BackendOptions())

    @property
    def _batched(self) -> Manifest:
        """The model's manifest with the batches that are checked."""
        runtime = self.base.manifest.runtime.model_copy(update={"batch_sizes": self.scope.batches})
        return self.base.manifest.model_copy(update={"runtime": runtime})
