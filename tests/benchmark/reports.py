"""Reports made up by hand."""

from __future__ import annotations

from typing import Any, Optional

from edge_agent.benchmark.advice import recommend
from edge_agent.benchmark.results import (
    BenchmarkReport,
    ClientLoad,
    Latency,
    Measurement,
    ProcessUsage,
    RawResult,
    SingleCalls,
    SizeReport,
)


def measured(
    transport: str,
    clients: int,
    fps: float,
    p50_ms: float,
    rate_fps: Optional[float] = None,
    **more: Any,
) -> Measurement:
    values = {
        "load": ClientLoad(transport, clients, rate_fps),
        "seconds": 1.0,
        "frames": int(fps),
        "throughput_fps": fps,
        "latency_ms": Latency.of([p50_ms, p50_ms + 1.0, p50_ms + 2.0]),
        "failures": {},
        "not_sent": 0,
        "stages_ms": {"compute": p50_ms / 2, "elsewhere": p50_ms / 2},
        "clients_cpu_s": 0.1,
        "clients_cpu_ms_per_frame": 1.0,
        "fairness": 1.0,
        "agent": ProcessUsage(1.0, 123.0),
        "agent_cpu_ms_per_frame": 11.0,
        "throughput_of_raw": 0.9,
        "cpu_of_raw": 1.1,
        **more,
    }
    return Measurement(**values)


RAW = RawResult(100, 100.0, 10.0, Latency.of([10.0]))
CLOSED = (
    measured("shared_memory", 1, 80.0, 11.0),
    measured("shared_memory", 2, 96.0, 20.0),
    measured("shared_memory", 4, 99.0, 40.0),
    measured("bytes", 1, 40.0, 25.0),
    measured("bytes", 2, 41.0, 50.0),
    measured("bytes", 4, 41.0, 100.0),
)


def size(*measurements: Measurement, raw: Optional[RawResult] = RAW) -> SizeReport:
    single = SingleCalls(
        rounds=20,
        p50_p90_p99_ms={"shared_memory": [11.0, 12.0, 13.0], "raw": [10.0, 11.0, 12.0]},
        added_p50_ms={"shared_memory": 1.0, "bytes": 9.0},
        frame_copy_ms=0.2,
    )
    return SizeReport("640x480", measurements, single, raw)


def report(*measurements: Measurement, model: str = "bolts") -> BenchmarkReport:
    one = size(*measurements)
    advice = recommend(one, (), 1, 2)
    return BenchmarkReport({"cores": 2}, model, "unix:///a.sock", 1, 2, (one,), (), advice)
