"""What a run is to measure and what it found: frozen values, and the sums that make them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Tuple, TypedDict

import numpy as np

if TYPE_CHECKING:
    from edge_agent.benchmark.loops import Tally

CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)  # % points of a curve

KEPT_UP = 0.95  # of the rate, answered within the turns; the rest was in flight at their ends


@dataclass(frozen=True)
class ClientLoad:
    """What clients do together: closed loop, or `rate_fps` frames a second due in the open loop."""

    transport: str
    clients: int
    rate_fps: Optional[float] = None

    @property
    def title(self) -> str:
        """Its name in tables."""
        if self.rate_fps is not None:
            return f"{self.rate_fps:g}/s open"
        return f"{self.clients} client{'s' * (self.clients > 1)}"


@dataclass(frozen=True)
class Latency:
    """Points of a distribution, milliseconds; `curve` at CURVE."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    curve: Tuple[float, ...]

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Optional[Latency]:
        """Sum up; None of nothing."""
        if not values_ms:
            return None
        p50, p90, p99, most = _points(values_ms, (50.0, 90.0, 99.0, 100.0))
        mean = round(float(np.mean(values_ms)), 3)
        return cls(mean, p50, p90, p99, most, tuple(_points(values_ms, CURVE)))


@dataclass(frozen=True)
class ProcessUsage:
    """What a process used in the turns of one load; the peak is of its life so far."""

    cpu_s: float
    peak_rss_mib: float


@dataclass(frozen=True)
class RawResult:
    """The raw engine with all units busy. `latency_ms` is that of a unit among busy ones."""

    frames: int
    throughput_fps: float
    cpu_ms_per_frame: float
    latency_ms: Optional[Latency]

    @classmethod
    def of(cls, tally: Tally) -> RawResult:
        """Sum up turns."""
        return cls(
            len(tally.latencies_ms),
            round(tally.throughput_fps, 3),
            round(tally.cpu_ms_per_frame, 3),
            Latency.of(tally.latencies_ms),
        )


@dataclass(frozen=True)
class Measurement:
    """One load on the agent, and the raw engine in turns between its own.

    The agent's figures are None where its process cannot be seen, ratios to raw where there is
    no package. `stages_ms` are means; `elsewhere` is the rest of the mean latency. `fairness` is
    Jain's index of the clients' frames: 1 when all got the same (R. Jain et al., DEC-TR-301, 1984).
    """

    load: ClientLoad
    seconds: float
    frames: int
    throughput_fps: float
    latency_ms: Optional[Latency]
    failures: Dict[str, int]
    not_sent: int
    stages_ms: Dict[str, float]
    clients_cpu_s: float
    clients_cpu_ms_per_frame: float
    fairness: float
    agent: Optional[ProcessUsage] = None
    agent_cpu_ms_per_frame: Optional[float] = None
    raw: Optional[RawResult] = None
    throughput_of_raw: Optional[float] = None
    cpu_of_raw: Optional[float] = None
    board: Mapping[str, object] = field(default_factory=dict)

    @property
    def kept_up(self) -> bool:
        """Whether every frame was sent and answered, and none waited ever longer."""
        wanted_fps = KEPT_UP * (self.load.rate_fps or 0.0)
        return not self.failures and not self.not_sent and self.throughput_fps >= wanted_fps


@dataclass(frozen=True)
class Split:
    """Another way to split the cores, and its raw throughput as a ratio to that of the served."""

    units: int
    threads: int
    throughput_of_served_split: float


@dataclass(frozen=True)
class SingleCalls:
    """Calls one at a time, `rounds` of each kind, in milliseconds by kind.

    `added_p50_ms` is what serving adds to the raw engine's median; empty without a raw engine.
    """

    rounds: int
    p50_p90_p99_ms: Dict[str, List[float]]
    added_p50_ms: Dict[str, float]
    frame_copy_ms: float


@dataclass(frozen=True)
class SizeReport:
    """Everything measured with frames of one size."""

    size: str
    measurements: Tuple[Measurement, ...]
    single_calls: SingleCalls
    raw: Optional[RawResult]


class Recommendation(TypedDict, total=False):
    """A configuration; units and threads where a package is known. Only reasons: there is none."""

    transport: str
    clients: int
    capacity_fps: float
    steady_fps: float
    units: int
    threads: int
    reasons: List[str]


@dataclass(frozen=True)
class BenchmarkReport:
    """A whole run. units and threads are those of the agent started here and of the raw engine."""

    machine: Dict[str, object]
    model: str
    address: str
    units: int
    threads: int
    sizes: Tuple[SizeReport, ...]
    splits: Tuple[Split, ...]
    recommended: Recommendation

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


def measurement(
    load: ClientLoad,
    tally: Tally,
    raw: Optional[Tally],
    agent: Optional[ProcessUsage],
    board: Mapping[str, object],
) -> Measurement:
    """Sum up all turns of `load`."""
    frames, latency = len(tally.latencies_ms), Latency.of(tally.latencies_ms)
    agent_ms = 1000 * agent.cpu_s / frames if agent and frames else None
    throughput_of_raw = cpu_of_raw = None
    if raw and raw.latencies_ms:
        throughput_of_raw = tally.throughput_fps / raw.throughput_fps
        cpu_of_raw = agent_ms / raw.cpu_ms_per_frame if agent_ms else None
    return Measurement(
        load=load,
        seconds=round(tally.seconds, 3),
        frames=frames,
        throughput_fps=round(tally.throughput_fps, 3),
        latency_ms=latency,
        failures=dict(tally.failures),
        not_sent=tally.not_sent,
        stages_ms=stage_means(tally.stages_ms, latency),
        clients_cpu_s=round(tally.cpu_s, 3),
        clients_cpu_ms_per_frame=round(tally.cpu_ms_per_frame, 3),
        fairness=round(jain(list(tally.frames_of.values())), 4),
        agent=agent,
        agent_cpu_ms_per_frame=_rounded(agent_ms),
        raw=RawResult.of(raw) if raw else None,
        throughput_of_raw=_rounded(throughput_of_raw),
        cpu_of_raw=_rounded(cpu_of_raw),
        board=board,
    )


def jain(frames: Sequence[int]) -> float:
    """Return (sum x)^2 / (n sum x^2), from 1/n to 1; 1 when there are no frames."""
    squares = sum(count * count for count in frames)
    return sum(frames) ** 2 / (len(frames) * squares) if squares else 1.0


def stage_means(
    stages_ms: Mapping[str, Sequence[float]], latency: Optional[Latency]
) -> Dict[str, float]:
    """Return the mean of each stage, and as `elsewhere` the rest of the latency.

    `elsewhere` is gRPC, the kernel and the client. Empty when the agent reports no times.
    """
    means = {stage: round(float(np.mean(values)), 3) for stage, values in stages_ms.items()}
    if means and latency:
        means["elsewhere"] = round(max(0.0, latency.mean - sum(means.values())), 3)
    return means


def single_calls(turns: Sequence[Mapping[str, Sequence[float]]]) -> SingleCalls:
    """Sum up `turns`: seconds of the calls of every kind, made one after the other.

    Served and raw medians are compared turn by turn and the median of that is taken, because the
    speed of many machines changes from minute to minute by more than serving adds.
    """
    times_ms = {name: 1000 * np.array([turn[name] for turn in turns]) for name in turns[0]}
    points = {
        name: _points(times.ravel().tolist(), (50.0, 90.0, 99.0))
        for name, times in times_ms.items()
    }
    copy_ms = points.pop("copy")[0]
    medians = {name: np.median(times, axis=1) for name, times in times_ms.items()}
    added = {
        name: round(float(np.median(medians[name] - medians["raw"])), 3)
        for name in ("shared_memory", "bytes", "bare_server")
        if "raw" in medians and name in medians
    }
    return SingleCalls(int(times_ms["copy"].size), points, added, copy_ms)


def _points(values: Sequence[float], percents: Sequence[float]) -> List[float]:
    return [round(float(value), 3) for value in np.percentile(values, percents)]


def _rounded(value: Optional[float]) -> Optional[float]:
    return None if value is None else round(value, 3)
