"""How a model behaves under too much load: more frames than it can do, and one greedy camera.

Overload: a camera sends at a multiple of what the model can do, while another connection probes the
model's state and health all the time. Flood: some polite cameras, each with one frame in flight,
beside one that has hundreds.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

import grpc
import numpy as np

from edge_agent.benchmark import host_metrics
from edge_agent.benchmark.jobs import ANSWER_WITHIN_S, LEAD_S, Fleet, JobProcess
from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import ClientLoad
from edge_agent.protocol import DESCRIBE_MODEL
from edge_agent.wire import edge_agent_pb2 as wire

POLITE = 7
TURN_S = 4.0
TURNS = 3
OVERLOAD = 3.0  # times what the model can do
REFUSED = "RESOURCE_EXHAUSTED"
PROBE_EVERY_S = 0.1
PROBE_LIMIT_S = 10.0
HEALTH = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True)
class Overload:
    """Frames a second before, offered, and in the first second after; times in ms."""

    capacity_fps: float
    offered_fps: float
    seconds: float
    outcomes: Dict[str, int]
    refusal_p50_ms: float
    refusal_p99_ms: float
    question_p99_ms: float
    question_max_ms: float
    rss_first_mib: float
    rss_last_mib: float
    recovered: float  # throughput of the first second after / before


@dataclass(frozen=True)
class Flood:
    """p99 of the polite cameras, ms, without and with the one that floods."""

    in_flight: int
    alone_p99_ms: float
    beside_p99_ms: float
    ratio: float
    polite_fps: float


class HealthProber:
    """Probes a model's state and health while the context is open; raises an error at its end.

    It has a connection of its own, and watches the memory of process `pid` as well.
    """

    def __init__(self, address: str, model: str, pid: Optional[int]) -> None:
        self.times_ms: List[float] = []
        self.rss_mib: List[float] = []  # now and then
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._describe = self._channel.unary_unary(DESCRIBE_MODEL)
        self._health = self._channel.unary_unary(HEALTH)
        name = model.encode()
        self._describe_request = wire.DescribeModelRequest(model_component=model)
        self._health_request = b"\x0a" + bytes([len(name)]) + name  # HealthCheckRequest.service
        self._pid = pid
        self._stopped = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._probe)

    def __enter__(self) -> HealthProber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._channel.close()
        if self._error is not None:
            raise self._error

    def _probe(self) -> None:
        request = self._describe_request.SerializeToString()
        try:
            while not self._stopped.wait(PROBE_EVERY_S):
                for call, content in (
                    (self._describe, request),
                    (self._health, self._health_request),
                ):
                    began_s = time.monotonic()
                    call(content, timeout=PROBE_LIMIT_S)
                    self.times_ms.append(1000 * (time.monotonic() - began_s))
                if self._pid is not None:
                    self.rss_mib.append(host_metrics.rss_mib(self._pid))
        except grpc.RpcError as error:
            self._error = error


def overload(address: str, model: str, frame: str, seconds: float) -> Overload:
    """Offer OVERLOAD times the capacity for `seconds`."""
    pid = host_metrics.listening_pid(address)
    with Fleet(address, model, frame, POLITE + 1) as fleet, _flood(address, model, frame) as camera:
        load = ClientLoad("shared_memory", POLITE + 1)
        before = fleet.turn(load, TURN_S)
        period_s = 1.0 / (OVERLOAD * before.throughput_fps)
        with HealthProber(address, model, pid) as prober:
            times_ms = _flood_turn(camera, seconds, period_s=period_s)
        after = fleet.turn(load, 1.0)
    refused_ms = times_ms.get(REFUSED, [0.0])
    half, most = np.percentile(refused_ms, (50, 99))
    return Overload(
        capacity_fps=before.throughput_fps,
        offered_fps=1.0 / period_s,
        seconds=seconds,
        outcomes={status: len(times) for status, times in times_ms.items()},
        refusal_p50_ms=float(half),
        refusal_p99_ms=float(most),
        question_p99_ms=float(np.percentile(prober.times_ms, 99)),
        question_max_ms=max(prober.times_ms),
        rss_first_mib=prober.rss_mib[min(len(prober.rss_mib) - 1, 2)],
        rss_last_mib=prober.rss_mib[-1],
        recovered=after.throughput_fps / before.throughput_fps,
    )


def flood(address: str, model: str, frame: str, in_flight: int) -> Flood:
    """Measure POLITE cameras without and with one that has `in_flight` frames in flight."""
    load = ClientLoad("shared_memory", POLITE)
    alone, beside = Tally(), Tally()
    with Fleet(address, model, frame, POLITE) as fleet, _flood(address, model, frame) as camera:
        for _ in range(TURNS):
            alone.merge(fleet.turn(load, TURN_S))
            begin_s = time.monotonic() + LEAD_S
            camera.request(begin_s=begin_s, end_s=begin_s + TURN_S + 1.0, in_flight=in_flight)
            time.sleep(0.5)  # until the flood is there
            beside.merge(fleet.turn(load, TURN_S))
            camera.receive(TURN_S + ANSWER_WITHIN_S)
    alone_ms, beside_ms = (float(np.percentile(t.latencies_ms, 99)) for t in (alone, beside))
    return Flood(
        in_flight=in_flight,
        alone_p99_ms=alone_ms,
        beside_p99_ms=beside_ms,
        ratio=beside_ms / alone_ms,
        polite_fps=beside.frames_within / (TURNS * TURN_S),
    )


@contextmanager
def _flood(address: str, model: str, frame: str) -> Iterator[JobProcess]:
    with JobProcess("flood", address=address, model=model, frame=frame) as process:
        process.wait_open()
        yield process


def _flood_turn(camera: JobProcess, seconds: float, **options: float) -> Dict[str, List[float]]:
    begin_s = time.monotonic() + LEAD_S
    camera.request(begin_s=begin_s, end_s=begin_s + seconds, **options)
    times_ms: Dict[str, List[float]] = camera.receive(seconds + ANSWER_WITHIN_S)["times_ms"]
    return times_ms


def rows(result: object) -> List[Tuple[str, str]]:
    """Return name and value of each figure, for people."""
    return [
        (name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
        for name, value in vars(result).items()
    ]
