"""How far the builder of TensorRT is.

From 10 on it reports phases of so many steps, within each other. Older ones say in VERBOSE messages
how many layers are left after fusing, for which profile kernels are chosen, and each layer whose
kernels are measured; these lines are the same from 8.4 to 8.6.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Callable, Dict, Optional

from edge_agent.runtime.backends.trt_api import TrtModule, TrtObject
from edge_agent.runtime.backends.trt_logger import TrtMessages

Report = Callable[[float], None]  # takes the fraction that is done, 0.0 to 1.0, never falling

LAYERS = re.compile(r"After concat removal: (\d+) layers")
PROFILE = re.compile(r"Constructing optimization profile number \d+ \[(\d+)/(\d+)\]")
LAYER = "=============== Computing costs for"


def watch(trt: TrtModule, config: TrtObject, logger: TrtMessages, report: Report) -> None:
    """Let `report` know how far the build with `config` is."""
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, Phases(report))
    else:
        logger.on_verbose = LayerCounter(report).read


class _Rising:
    """Reports what is more than before."""

    def __init__(self, report: Report) -> None:
        self._report, self._highest = report, 0.0

    def reach(self, fraction: float) -> None:
        if fraction > self._highest:
            self._highest = min(fraction, 1.0)
            self._report(self._highest)


class LayerCounter:
    """Counts layers in VERBOSE messages; the profiles are done one after the other."""

    def __init__(self, report: Report) -> None:
        self._rising = _Rising(report)
        self._layers, self._measured = 0, 0
        self._profile, self._profiles = 1, 1

    def read(self, message: str) -> None:
        """Take one message."""
        layers, profile = LAYERS.match(message), PROFILE.match(message)
        if layers:
            self._layers = int(layers.group(1))
        elif profile:
            self._profile, self._profiles = map(int, profile.groups())
            self._measured = 0
        elif message.startswith(LAYER) and self._layers:
            self._measured = min(self._measured + 1, self._layers)
            done = self._profile - 1 + self._measured / self._layers
            self._rising.reach(done / self._profiles)


@dataclass
class _Phase:
    parent: Optional[str]
    steps: int
    done: int = 0


class Phases:
    """Adds phases up: one within another fills a step of it. Called by threads of TensorRT."""

    def __init__(self, report: Report) -> None:
        self._rising, self._lock = _Rising(report), threading.Lock()
        self._open: Dict[str, _Phase] = {}

    def start(self, name: str, parent: Optional[str], steps: int) -> None:
        """Begin a phase; names are unique among those under way."""
        with self._lock:
            self._open[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """Count step number `step`, from 0, as done."""
        with self._lock:
            if name in self._open:
                phase = self._open[name]
                phase.done = max(phase.done, step + 1)
                self._rising.reach(self._fraction(next(iter(self._open))))

    def finish(self, name: str) -> None:
        """End a phase, whether or not all its steps were done."""
        with self._lock:
            self._open.pop(name, None)

    def _fraction(self, name: str) -> float:
        phase = self._open[name]
        inner = [other for other, entry in self._open.items() if entry.parent == name]
        part = min(1.0, sum(map(self._fraction, inner)))
        return min(1.0, (phase.done + part) / phase.steps)


def _monitor(trt: TrtModule, phases: Phases) -> TrtObject:
    """Return what the builder reports its phases to."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: Optional[str], steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(name, step)
            return True

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()
