"""Every counter and histogram, defined once; served in the Prometheus text format on request.

The names are those of the original's CloudWatch metrics (namespace AWS/LookoutVision) where they
exist, with the prefix `edge_agent_`; counters end in `_total` as Prometheus wants it.
"""

from __future__ import annotations

import logging
import math
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Dict, Iterable, Optional, Sequence, Set, Tuple, Type
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.metrics import MetricWrapperBase

from edge_agent.logs import printable
from edge_agent.runtime.system import stalls
from edge_agent.types import BuildState, CameraProblem, StageTimes

log = logging.getLogger(__name__)

CONNECTIONS = 16  # to the metrics, at a time
SCORES = tuple(step / 20 for step in range(1, 21))
MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Metrics:
    """The figures of one agent; every method may be called on any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._latest_verdict = -math.inf  # monotonic, s
        self._counters: Dict[str, Counter] = {}
        self._successes = self._counter("SuccessfulRequestCount", "Frames that got a verdict")
        self._processed = self._counter("ProcessedImageCount", "Frames that were computed")
        self._anomalous = self._counter(
            "DetectedAnomalyCount", "Frames judged anomalous, those with camera problems left out"
        )
        self._problems = self._counter("CameraProblemCount", "Camera problems", "problem")
        self._invalid = self._counter("InvalidImageCount", "Frames that could not be used")
        self._throttled = self._counter("ThrottledCount", "Frames refused because of load")
        self._errors = self._counter("ErrorCount", "Frames without a verdict, by status", "status")
        self._time = Histogram(
            "Time",
            "Time of a frame in the agent by stage, ms",
            ("model", "stage"),
            namespace="edge_agent",
            registry=self.registry,
            buckets=MILLISECONDS,
        )
        self._time_of = lru_cache(maxsize=None)(self._time.labels)  # a lookup a stage a frame
        self._score_of = lru_cache(maxsize=None)(
            Histogram(
                "Score",
                "Anomaly scores",
                ("model",),
                namespace="edge_agent",
                registry=self.registry,
                buckets=SCORES,
            ).labels
        )
        self._drift = self._gauge("ScoreDrift", "Distance of the scores to training's", "model")
        self._delivered = self._gauge("ResultsDelivered", "Events delivered, since start", "sink")
        self._waiting = self._gauge("ResultsWaiting", "Events that wait for delivery", "sink")
        self._dropped = self._total("ResultsDropped", "Events given up to make room", "verdict")
        self._withheld = self._gauge("ResultsWithheld", "Results beyond per_minute, since start")
        self._undeliverable = self._total("ResultsUndeliverable", "Events given up", "sink")
        self._captures = self._gauge("Captures", "Frames chosen to be kept, since start", "outcome")
        self._units = {
            name: self._gauge(
                f"{name}InferenceUnits", f"Inference units of a model: {name}", "model"
            )
            for name in ("InService", "Desired", "Min", "Max")
        }
        self._engine = self._gauge("Engine", "1 for the engine in use", "model", "engine")
        self._engines: Dict[str, str] = {}  # by model
        self._build = self._gauge(
            "EngineBuild", "How far the engine is that is being built, 0 to 1", "model"
        )
        self._faults = self._gauge(
            "DeploymentFault", "1: can't be used as it stands on disk", "model", "path"
        )
        self._present_faults: Set[Tuple[str, str]] = set()
        self._descriptors = self._gauge("Descriptors", "Open files and connections", "kind")
        self._call_bytes = self._gauge("CallBytes", "Memory of messages in work, bytes", "kind")
        self._calls_ended = self._gauge(
            "CallsEnded", "Calls cut off or refused to save memory, since start", "reason"
        )
        self._listens = self._gauge("SocketListening", "1 while clients can connect", "socket")
        self._restored = self._total("SocketRestored", "Times a lost file was made again", "socket")
        self._build_left = self._gauge("EngineBuildLeft", "Seconds until it is built", "model")
        self._parts_wrong = self._gauge(
            "Problem", "1 while something is wrong with it; the log says what", "part"
        )

    def succeeded(
        self,
        model: str,
        anomalous: bool,
        problems: Sequence[CameraProblem],
        times: StageTimes,
    ) -> None:
        """Count a verdict, and how long its stages took."""
        self._latest_verdict = time.monotonic()
        self._successes.labels(model).inc()
        self._processed.labels(model).inc()
        if anomalous and not problems:
            self._anomalous.labels(model).inc()
        for problem in problems:
            self._problems.labels(model, problem.value).inc()
        total_s = 0.0
        for stage, seconds in vars(times).items():
            self._time_of(model, stage).observe(1000 * seconds)
            total_s += seconds
        self._time_of(model, "total").observe(1000 * total_s)

    def scored(self, model: str, score: float) -> None:
        """Count a verdict's score, 0 to 1."""
        self._score_of(model).observe(score)

    def drifts(self, model: str, distance: float) -> None:
        """Note how far the scores are from those seen in training, 0 to 1."""
        self._drift.labels(model).set(distance)

    def failed(self, model: str, status: str, invalid_image: bool) -> None:
        """Count a frame without a verdict; `status` is the name of its gRPC status code."""
        self._errors.labels(model, status).inc()
        if invalid_image:
            self._invalid.labels(model).inc()
        if status == "RESOURCE_EXHAUSTED":
            self._throttled.labels(model).inc()

    def quiet_for_s(self) -> float:
        """Return for how long no frame has got a verdict; what is refused is no work."""
        return stalls.ran_s(self._latest_verdict)

    def totals(self) -> Dict[str, float]:
        """Return the counts of all models together since the start, by name; `Time` in seconds."""
        totals = {
            name: _sum(counter, f"edge_agent_{name}_total")
            for name, counter in self._counters.items()
        }
        totals["Time"] = _sum(self._time, "edge_agent_Time_sum", stage="total") / 1000
        return totals

    def has_units(self, model: str, in_service: int, desired: int, least: int, most: int) -> None:
        """Note how many inference units a model has, should have and may have."""
        for gauge, count in zip(self._units.values(), (in_service, desired, least, most)):
            gauge.labels(model).set(count)

    def runs_on(self, model: str, engine: str, build: Optional[BuildState]) -> None:
        """Note what computes a model and where, empty for nothing, and how far a build is."""
        before = self._engines.get(model, "")
        if before and before != engine:
            self._engine.remove(model, before)
        if engine:
            self._engine.labels(model, engine).set(1)
        self._engines[model] = engine
        _show(self._build, model, build.done if build else None)
        _show(self._build_left, model, build.left_s if build else None)

    def forget(self, model: str) -> None:
        """Drop the inference units and the engine of a model; its counts stay."""
        for gauge in self._units.values():
            gauge.remove(model)
        self.runs_on(model, "", None)

    def has_faults(self, faults: Iterable[Tuple[str, Path]]) -> None:
        """Note the records, packages and folders that can't be used: of which model, and where."""
        found = {(model, printable(str(path))) for model, path in faults}
        for labels in self._present_faults - found:
            self._faults.remove(*labels)
        for labels in found:
            self._faults.labels(*labels).set(1)
        self._present_faults = found

    def has_descriptors(self, in_use: int, limit: int) -> None:
        """Note how many descriptors are in use, and how many may be."""
        self._descriptors.labels("used").set(in_use)
        self._descriptors.labels("limit").set(limit)

    def has_calls(self, used: int, limit: int, slow: int, evicted: int, refused: int) -> None:
        """Note the bytes that calls hold and may hold, and which were ended since the start.

        slow: beyond their time limit; evicted: slow while memory was short; refused: no room.
        """
        self._call_bytes.labels("used").set(used)
        self._call_bytes.labels("limit").set(limit)
        for reason, count in (("slow", slow), ("evicted", evicted), ("refused", refused)):
            self._calls_ended.labels(reason).set(count)

    def has_problem(self, part: str, wrong: bool) -> None:
        """Note whether something is wrong with a part of the agent, such as "nucleus"."""
        self._parts_wrong.labels(part).set(int(wrong))

    def has_socket(self, path: str, listens: bool) -> None:
        """Note whether who connects to the Unix socket at `path` reaches the agent."""
        self._listens.labels(path).set(listens)

    def socket_restored(self, path: str) -> None:
        """Count a socket's file that was gone or replaced and is there again."""
        self._restored.labels(path).inc()

    def results_delivered(self, sink: str, delivered: int, waiting: int) -> None:
        """Note how many events a sink has delivered since the start, and how many wait for it."""
        self._delivered.labels(sink).set(delivered)
        self._waiting.labels(sink).set(waiting)

    def results_withheld(self, count: int) -> None:
        """Note how many results were beyond `results.per_minute`, since the start."""
        self._withheld.set(count)

    def results_dropped(self, normal: int, others: int) -> None:
        """Count events that were given up to make room."""
        self._dropped.labels("normal").inc(normal)
        self._dropped.labels("others").inc(others)

    def result_undeliverable(self, sink: str) -> None:
        """Count an event that went to the dead letters."""
        self._undeliverable.labels(sink).inc()

    def frames_kept(self, kept: int, skipped: int, failed: int) -> None:
        """Note how many captures were kept, skipped for want of room, failed, since the start."""
        for outcome, count in (("kept", kept), ("skipped", skipped), ("failed", failed)):
            self._captures.labels(outcome).set(count)

    def serve(self, host: str, port: int) -> None:
        """Answer GET /metrics on `host`:`port` until the process ends. Raises OSError."""
        server = make_server(
            host, port, make_wsgi_app(self.registry), _Server, handler_class=_Handler
        )
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        counter = self._counters[name] = self._total(name, meaning, "model", *labels)
        return counter

    def _total(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace="edge_agent", registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace="edge_agent", registry=self.registry)


class _Handler(WSGIRequestHandler):
    """Closes a connection that sends nothing; logs no request."""

    timeout = 5.0  # of socketserver.StreamRequestHandler

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers a few connections at a time, more are closed at once; IPv6 where the host is."""

    daemon_threads = True

    def __init__(self, address: Tuple[str, int], handler: Type[WSGIRequestHandler]) -> None:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        self.address_family = family
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, handler)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether there is a place for the connection."""
        return self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection, and leave its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a line instead of printing a traceback for each connection that is lost."""
        reason = sys.exc_info()[1]
        log.warning("A request for the metrics from %s failed: %r.", client_address, reason)


def _show(gauge: Gauge, model: str, value: Optional[float]) -> None:
    """Set a model's sample, or remove it where there is no value."""
    if value is None:
        with suppress(KeyError):
            gauge.remove(model)
    else:
        gauge.labels(model).set(value)


def _sum(metric: MetricWrapperBase, name: str, **labels: str) -> float:
    samples = [sample for family in metric.collect() for sample in family.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
