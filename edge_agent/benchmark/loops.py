"""Closed and open loop: when the next frame is due, and the result of each call.

Latency counts from the time a frame was due, so that a frame that could not be sent in time because
earlier ones were still in flight shows its wait (no coordinated omission, see G. Tene's wrk2).
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Optional, Protocol

from edge_agent.errors import EdgeAgentError

GONE = "UNAVAILABLE"
OK = "OK"

# W3C Server Timing, https://www.w3.org/TR/server-timing/: `compute;dur=5.01, send;dur=0.05`
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = r'(?:"(?:[^"\\]|\\.)*"|[^\s,;"]+)'
_METRIC = re.compile(rf"({_TOKEN})((?:\s*;\s*{_TOKEN}\s*=\s*{_VALUE})*)\s*(?:,|$)")
_PARAMETER = re.compile(rf"({_TOKEN})\s*=\s*({_VALUE})")


@dataclass(frozen=True)
class CallResult:
    """The name of a call's status, and the times of its stages that the agent reports."""

    status: str = OK
    server_timing: str = ""

    def check(self) -> None:
        """Raise unless the frame was inspected: failing calls are not worth measuring singly."""
        if self.status != OK:
            raise EdgeAgentError(f"The call with the benchmark's frame failed: {self.status}.")


@dataclass
class Tally:
    """Sums of one or more turns; what a turn measured is merged into what came before.

    `frames_within` counts a frame that ended after its turn by the share inside. `not_sent` frames
    were due, but everything allowed in flight was in flight until the turn ended. `frames_of` are
    the answered frames of each client.
    """

    seconds: float = 0.0
    frames_within: float = 0.0
    latencies_ms: List[float] = field(default_factory=list)
    stages_ms: Dict[str, List[float]] = field(default_factory=dict)
    failures: Dict[str, int] = field(default_factory=dict)
    not_sent: int = 0
    cpu_s: float = 0.0
    frames_of: Dict[str, int] = field(default_factory=dict)

    @property
    def throughput_fps(self) -> float:
        """Frames answered a second."""
        return self.frames_within / self.seconds if self.seconds else 0.0

    @property
    def cpu_ms_per_frame(self) -> float:
        """What the measuring process itself spent; 0 when no frame was answered."""
        return 1000 * self.cpu_s / len(self.latencies_ms) if self.latencies_ms else 0.0

    def record(self, result: CallResult, times: CallTimes, end_s: float) -> None:
        """Add one frame of a turn that ends at `end_s`."""
        if result.status != OK:
            self.failures[result.status] = self.failures.get(result.status, 0) + 1
            return
        self.latencies_ms.append(round(1000 * (times.done_s - times.due_s), 4))
        inside = (end_s - times.sent_s) / max(times.done_s - times.sent_s, 1e-9)
        self.frames_within += min(1.0, max(0.0, inside))
        for stage, stage_ms in parse_server_timing(result.server_timing).items():
            self.stages_ms.setdefault(stage, []).append(stage_ms)

    def merge(self, other: Tally) -> None:
        """Add what `other` counted; the caller, who knows what ran side by side, adds `seconds`."""
        self.frames_within += other.frames_within
        self.latencies_ms += other.latencies_ms
        self.not_sent += other.not_sent
        self.cpu_s += other.cpu_s
        for stage, stages_ms in other.stages_ms.items():
            self.stages_ms.setdefault(stage, []).extend(stages_ms)
        for counts, more in ((self.failures, other.failures), (self.frames_of, other.frames_of)):
            for key, count in more.items():
                counts[key] = counts.get(key, 0) + count


@dataclass(frozen=True)
class CallTimes:
    """Of one frame, on one monotonic clock."""

    due_s: float
    sent_s: float
    done_s: float


class LoadSchedule(Protocol):
    """When the next frame is due."""

    def next_due_s(self) -> Optional[float]:
        """Return the due time of the next frame, None when the turn is over."""


class ClosedLoop:
    """The next frame is due as soon as the last one is answered."""

    def __init__(self, begin_s: float, end_s: float, clock: Callable[[], float]) -> None:
        self._begin_s, self._end_s, self._clock = begin_s, end_s, clock

    def next_due_s(self) -> Optional[float]:
        """Return now."""
        now_s = max(self._begin_s, self._clock())
        return now_s if now_s < self._end_s else None


class OpenLoop:
    """Frames are due every `period_s` from `begin_s` on, whether or not earlier ones are answered.

    Shared by the threads that send them: each due time is given out once.
    """

    def __init__(self, begin_s: float, end_s: float, period_s: float) -> None:
        self._begin_s, self._end_s, self._period_s = begin_s, end_s, period_s
        self._given = 0
        self._lock = threading.Lock()

    def next_due_s(self) -> Optional[float]:
        """Return the next due time on the grid."""
        with self._lock:
            due_s = self._begin_s + self._given * self._period_s
            self._given += 1
        return due_s if due_s < self._end_s else None


def drive(
    schedule: LoadSchedule,
    end_s: float,
    call: Callable[[], CallResult],
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> Tally:
    """Send frames by `schedule`, one after another, until the turn ends or the agent is gone."""
    tally = Tally()
    due_s = schedule.next_due_s()
    while due_s is not None:
        taken_s = clock()
        if taken_s >= end_s:
            tally.not_sent += 1
        else:
            wait(max(0.0, due_s - taken_s))
            sent_s = clock()
            result = call()
            tally.record(result, CallTimes(due_s, sent_s, clock()), end_s)
            if result.status == GONE:
                break
        due_s = schedule.next_due_s()
    return tally


def parse_server_timing(header: str) -> Dict[str, float]:
    """Return the metrics that have a duration, in the header's order; others are ignored."""
    stages: Dict[str, float] = {}
    for metric, parameters in _METRIC.findall(header):
        for name, value in _PARAMETER.findall(parameters):
            if name.lower() == "dur":
                with suppress(ValueError):
                    stages[metric] = float(value.strip('"'))
    return stages
