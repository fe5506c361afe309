"""The run: agent and raw engine in short turns, so that drift of the machine hits both alike."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

import numpy as np

from edge_agent.benchmark import board, process_usage
from edge_agent.benchmark.advice import recommend
from edge_agent.benchmark.kserve_camera import TRANSPORT
from edge_agent.benchmark.loops import GONE, Tally
from edge_agent.benchmark.plan import Plan
from edge_agent.benchmark.results import (
    Load,
    Measurement,
    Raw,
    Report,
    SizeReport,
    Split,
    Usage,
    measurement,
    single_calls,
)
from edge_agent.benchmark.workers import OPEN_WITHIN_S, Fleet, Worker, raw_turn
from edge_agent.errors import AgentUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_WITHIN_S = 300.0  # for the calls of one block


class Run:
    """Measures `plan` on an agent that runs; `on_step` hears of every turn."""

    def __init__(self, plan: Plan, on_step: Callable[[], None]) -> None:
        self._plan = plan
        self._on_step = on_step
        self._pid = process_usage.listening_pid(plan.address)

    def report(self) -> Report:
        """Measure everything. Raises EdgeAgentError when agent or clients fail."""
        plan = self._plan
        with tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-") as folder:
            sizes = tuple(
                self._size(size, Path(folder) / f"{number}.npy")
                for number, size in enumerate(plan.sizes)
            )
            splits = tuple(self._splits(Path(folder) / "0.npy"))
        machine = board.machine()
        advice = recommend(sizes[0], splits, plan.units, plan.threads)
        return Report(
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
            Raw.of(total) if raw else None,
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

    def _turn(self, sums: _LoadSums, raw: Optional[Worker], fleet: Fleet) -> None:
        """Let the raw engine have its turn, then the agent."""
        turn_s = self._plan.seconds / self._plan.turns_of(sums.load)
        if raw is not None:
            sums.add_raw(raw_turn(raw, turn_s))
        of_agent = sums.load.transport != TRANSPORT
        before = self._usage() if of_agent else None
        tally = fleet.turn(sums.load, turn_s)
        sums.board = board.state()
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
                    Worker("bare", frame=str(frame), address=bare, **engine)
                )
                server.hear(OPEN_WITHIN_S)
            worker = stack.enter_context(Worker("calls", bare=bare, **engine, **options))
            worker.hear(OPEN_WITHIN_S)
            for _ in range(plan.blocks):
                worker.ask()
                turns.append(worker.hear(BLOCK_WITHIN_S))
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
                    for tally, worker in zip(sums, (served_split, other_split)):
                        _add(tally, raw_turn(worker, plan.seconds / plan.turns))
                    self._on_step()
            found.append(Split(units, threads, round(_ratio(sums[1], sums[0]), 3)))
        return found

    def _raw(self, stack: ExitStack, units: int, threads: int, frame: Path) -> Optional[Worker]:
        """Open the raw engine in a process of its own that ends with `stack`."""
        if self._plan.package is None:
            return None
        options = {"package": str(self._plan.package), "frame": str(frame)}
        worker = stack.enter_context(Worker("raw", units=units, threads=threads, **options))
        worker.hear(OPEN_WITHIN_S)
        return worker

    def _usage(self) -> Optional[Usage]:
        if self._pid is None:
            return None
        try:
            return Usage(
                process_usage.cpu_seconds(self._pid), process_usage.peak_rss_mib(self._pid)
            )
        except OSError:
            raise self._gone() from None

    def _gone(self) -> AgentUnavailable:
        return AgentUnavailable(f"The agent at {self._plan.address} went away while measured.")


class _LoadSums:
    """What the turns of one load add up to."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.raw: Optional[Tally] = None
        self.board: Dict[str, object] = {}
        self._tally = Tally()
        self._usage: Optional[Usage] = None

    def add_raw(self, turn: Tally) -> None:
        """Add a turn of the raw engine."""
        self.raw = self.raw or Tally()
        _add(self.raw, turn)

    def add(self, turn: Tally, before: Optional[Usage], after: Optional[Usage]) -> None:
        """Add a turn of the agent, and what its process used meanwhile."""
        _add(self._tally, turn)
        if before and after:
            used_s = self._usage.cpu_s if self._usage else 0.0
            used_s += after.cpu_s - before.cpu_s
            self._usage = Usage(round(used_s, 3), after.peak_rss_mib)

    def measurement(self) -> Measurement:
        """Sum up."""
        return measurement(self.load, self._tally, self.raw, self._usage, self.board)


def _add(total: Tally, turn: Tally) -> None:
    """Add a turn that came after those of `total`."""
    total.merge(turn)
    total.seconds += turn.seconds


def _ratio(tally: Tally, reference: Tally) -> float:
    return tally.throughput_fps / max(reference.throughput_fps, 1e-9)


def draw_frame(width: int, height: int) -> NDArray[np.uint8]:
    """Return a drawn part as a camera of that size would see it: uint8 RGB."""
    from edge_agent.demo import parts

    image = parts.draw(seed=1, defect="scratch").image
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return np.ascontiguousarray(image[rows][:, columns])
