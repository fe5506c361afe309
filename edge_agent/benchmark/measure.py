"""The run: agent and raw engine in short turns, so that drift of the machine hits both alike."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edge_agent.benchmark import host_metrics
from edge_agent.benchmark.advice import recommend
from edge_agent.benchmark.jobs import Fleet, JobProcess, raw_turn
from edge_agent.benchmark.kserve import TRANSPORT
from edge_agent.benchmark.loops import GONE, Tally
from edge_agent.benchmark.raw import BLOCK
from edge_agent.benchmark.results import (
    BenchmarkReport,
    ClientLoad,
    Measurement,
    ProcessUsage,
    RawResult,
    SizeReport,
    Split,
    measurement,
    single_calls,
)
from edge_agent.demo.parts import draw_frame
from edge_agent.errors import AgentUnavailable
from edge_agent.runtime.system import resources

BLOCK_WITHIN_S = 300.0  # for the calls of one block
LONGEST_TURN_S = 2.0
LONGEST_OPEN_TURN_S = 10.0  # shorter than a process of the benchmark gets to end
FEWEST_TURNS = 4


@dataclass(frozen=True)
class BenchmarkPlan:
    """What to measure, checked and counted before it begins.

    package: None: no raw engine. rounds: single calls of each kind.
    seconds: of each load on the agent, and as much on the raw engine, in turns.
    """

    address: str
    model: str
    package: Optional[Path]
    units: int
    threads: int
    loads: Tuple[ClientLoad, ...]
    sizes: Tuple[Tuple[int, int], ...]
    seconds: float
    rounds: int
    compare: Optional[str] = None  # a KServe V2 server with the same model

    @property
    def turns(self) -> int:
        """How often a closed loop and a raw engine have their turn."""
        return max(FEWEST_TURNS, math.ceil(self.seconds / LONGEST_TURN_S))

    def turns_of(self, load: ClientLoad) -> int:
        """How often `load` has its turn; open loops seldom, because their queues must grow."""
        if load.rate_fps is None:
            return self.turns
        return math.ceil(self.seconds / LONGEST_OPEN_TURN_S)

    @property
    def blocks(self) -> int:
        """How many blocks of single calls there are."""
        return math.ceil(self.rounds / BLOCK)

    @property
    def splits(self) -> List[Tuple[int, int]]:
        """Units and threads that share the cores in other ways than the one served."""
        cores = resources.cores()
        if self.package is None:
            return []
        units = [2**power for power in range(cores.bit_length())]
        splits = [(count, cores // count) for count in units if count <= cores]
        return [split for split in splits if split != (self.units, self.threads)]

    @property
    def steps(self) -> int:
        """How often `BenchmarkRun` reports a step."""
        a_size = sum(self.turns_of(load) for load in self.loads) + self.blocks
        return len(self.sizes) * a_size + len(self.splits) * self.turns


class BenchmarkRun:
    """Measures `plan` on an agent that runs; calls `on_step` after every turn."""

    def __init__(self, plan: BenchmarkPlan, on_step: Callable[[], None]) -> None:
        self._plan = plan
        self._on_step = on_step
        self._pid = host_metrics.listening_pid(plan.address)

    def report(self) -> BenchmarkReport:
        """Measure everything. Raises EdgeAgentError when agent or clients fail."""
        plan = self._plan
        with tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-") as folder:
            sizes = tuple(
                self._size(size, Path(folder) / f"{number}.npy")
                for number, size in enumerate(plan.sizes)
            )
            splits = tuple(self._splits(Path(folder) / "0.npy"))
        machine = host_metrics.machine()
        advice = recommend(sizes[0], splits, plan.units, plan.threads)
        return BenchmarkReport(
            machine, plan.model, plan.address, plan.units, plan.threads, sizes, splits, advice
        )

    def _size(self, size: Tuple[int, int], frame: Path) -> SizeReport:
        np.save(frame, draw_frame(*size))
        measurements, raw = self._loads(frame)
        total = Tally()
        for tally in raw:
            _add(total, tally)
        return SizeReport(
            f"{size[0]}x{size[1]}",
            measurements,
            single_calls(self._single_calls(frame)),
            RawResult.of(total) if raw else None,
        )

    def _loads(self, frame: Path) -> Tuple[Tuple[Measurement, ...], List[Tally]]:
        plan = self._plan
        sums = [_LoadSums(load) for load in plan.loads]
        most = max(load.clients for load in plan.loads)
        with ExitStack() as stack:
            raw = self._raw(stack, plan.units, plan.threads, frame)
            options = {"compare": plan.compare, "package": str(plan.package)}
            fleet = Fleet(plan.address, plan.model, str(frame), most, **options)
            stack.enter_context(fleet)
            for number in range(plan.turns):
                for of_load in sums:
                    if number < plan.turns_of(of_load.load):
                        self._turn(of_load, raw, fleet)
                        self._on_step()
        return tuple(one.measurement() for one in sums), [one.raw for one in sums if one.raw]

    def _turn(self, sums: _LoadSums, raw: Optional[JobProcess], fleet: Fleet) -> None:
        """Measure a turn of the raw engine, then one of the agent."""
        turn_s = self._plan.seconds / self._plan.turns_of(sums.load)
        if raw is not None:
            sums.add_raw(raw_turn(raw, turn_s))
        of_agent = sums.load.transport != TRANSPORT
        before = self._usage() if of_agent else None
        tally = fleet.turn(sums.load, turn_s)
        sums.board = host_metrics.state()
        if GONE in tally.failures and of_agent:
            raise self._gone()
        sums.add(tally, before, self._usage() if of_agent else None)

    def _single_calls(self, frame: Path) -> List[Dict[str, List[float]]]:
        plan = self._plan
        options = {"address": plan.address, "model": plan.model, "frame": str(frame)}
        package = str(plan.package) if plan.package else None
        engine = {"package": package, "threads": plan.threads}
        turns = []
        with ExitStack() as stack:
            bare = None
            if package is not None:
                bare = f"unix://{frame.with_suffix('.sock')}"
                server = stack.enter_context(
                    JobProcess("bare", frame=str(frame), address=bare, **engine)
                )
                server.wait_open()
            process = stack.enter_context(JobProcess("calls", bare=bare, **engine, **options))
            process.wait_open()
            for _ in range(plan.blocks):
                process.request()
                turns.append(process.receive(BLOCK_WITHIN_S))
                self._on_step()
        return turns

    def _splits(self, frame: Path) -> List[Split]:
        """Measure other splits of the cores beside the one served, each in turns with it."""
        plan, found = self._plan, []
        for units, threads in plan.splits:
            with ExitStack() as stack:
                served_split = self._raw(stack, plan.units, plan.threads, frame)
                other_split = self._raw(stack, units, threads, frame)
                assert served_split is not None
                assert other_split is not None
                sums = Tally(), Tally()
                for _ in range(plan.turns):
                    for tally, process in zip(sums, (served_split, other_split)):
                        _add(tally, raw_turn(process, plan.seconds / plan.turns))
                    self._on_step()
            found.append(Split(units, threads, round(_ratio(sums[1], sums[0]), 3)))
        return found

    def _raw(self, stack: ExitStack, units: int, threads: int, frame: Path) -> Optional[JobProcess]:
        """Open the raw engine in a process of its own that ends with `stack`."""
        if self._plan.package is None:
            return None
        options = {"package": str(self._plan.package), "frame": str(frame)}
        process = stack.enter_context(JobProcess("raw", units=units, threads=threads, **options))
        process.wait_open()
        return process

    def _usage(self) -> Optional[ProcessUsage]:
        if self._pid is None:
            return None
        try:
            return ProcessUsage(
                host_metrics.cpu_seconds(self._pid), host_metrics.peak_rss_mib(self._pid)
            )
        except OSError:
            raise self._gone() from None

    def _gone(self) -> AgentUnavailable:
        return AgentUnavailable(
            f"The agent at {self._plan.address} stopped during the measurement."
        )


class _LoadSums:
    """What the turns of one load add up to."""

    def __init__(self, load: ClientLoad) -> None:
        self.load = load
        self.raw: Optional[Tally] = None
        self.board: Mapping[str, object] = {}
        self._tally = Tally()
        self._usage: Optional[ProcessUsage] = None

    def add_raw(self, turn: Tally) -> None:
        """Add a turn of the raw engine."""
        self.raw = self.raw or Tally()
        _add(self.raw, turn)

    def add(
        self, turn: Tally, before: Optional[ProcessUsage], after: Optional[ProcessUsage]
    ) -> None:
        """Add a turn of the agent, and what its process used meanwhile."""
        _add(self._tally, turn)
        if before and after:
            used_s = self._usage.cpu_s if self._usage else 0.0
            used_s += after.cpu_s - before.cpu_s
            self._usage = ProcessUsage(round(used_s, 3), after.peak_rss_mib)

    def measurement(self) -> Measurement:
        """Sum up."""
        return measurement(self.load, self._tally, self.raw, self._usage, self.board)


def _add(total: Tally, turn: Tally) -> None:
    """Add a turn that came after those of `total`."""
    total.merge(turn)
    total.seconds += turn.seconds


def _ratio(tally: Tally, reference: Tally) -> float:
    return tally.throughput_fps / max(reference.throughput_fps, 1e-9)
