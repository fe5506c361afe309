"""Closed and open loop: when the next frame is due, and what became of each.

Latency counts from the time a frame was due, so that a frame that could not be sent in time because
earlier ones were still in flight shows its wait (no coordinated omission, see G. Tene's wrk2).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Optional, Protocol

from edge_agent.benchmark import server_timing
from edge_agent.errors import EdgeAgentError

GONE = "UNAVAILABLE"
OK = "OK"


@dataclass(frozen=True)
class Answer:
    """What came of a call: the name of its status, and the agent's times as it tells them."""

    status: str = OK
    server_timing: str = ""

    def check(self) -> None:
        """Raise unless the frame was judged: calls that fail are not worth measuring one by one."""
        if self.status != OK:
            raise EdgeAgentError(f"The benchmark's frame is answered with {self.status}.")


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

    def record(self, answer: Answer, times: Times, end_s: float) -> None:
        """Add one frame of a turn that ends at `end_s`."""
        if answer.status != OK:
            self.failures[answer.status] = self.failures.get(answer.status, 0) + 1
            return
        self.latencies_ms.append(round(1000 * (times.done_s - times.due_s), 4))
        inside = (end_s - times.sent_s) / max(times.done_s - times.sent_s, 1e-9)
        self.frames_within += min(1.0, max(0.0, inside))
        for stage, stage_ms in server_timing.parse(answer.server_timing).items():
            self.stages_ms.setdefault(stage, []).append(stage_ms)

    def merge(self, other: Tally) -> None:
        """Add what `other` counted; `seconds` are added by who knows what ran side by side."""
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
class Times:
    """Of one frame, on one monotonic clock."""

    due_s: float
    sent_s: float
    done_s: float


class Pace(Protocol):
    """Says when the next frame is due."""

    def next_due_s(self) -> Optional[float]:
        """Return the due time of the next frame, None when the turn is over."""


class ClosedPace:
    """The next frame is due as soon as the last one is answered."""

    def __init__(self, begin_s: float, end_s: float, clock: Callable[[], float]) -> None:
        self._begin_s, self._end_s, self._clock = begin_s, end_s, clock

    def next_due_s(self) -> Optional[float]:
        """Return now."""
        now_s = max(self._begin_s, self._clock())
        return now_s if now_s < self._end_s else None


class OpenPace:
    """Frames are due every `period_s` from `begin_s` on, whatever became of those before.

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
    pace: Pace,
    end_s: float,
    call: Callable[[], Answer],
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> Tally:
    """Send frames at `pace`, one after another, until the turn ends or the agent is gone."""
    tally = Tally()
    due_s = pace.next_due_s()
    while due_s is not None:
        taken_s = clock()
        if taken_s >= end_s:
            tally.not_sent += 1
        else:
            wait(max(0.0, due_s - taken_s))
            sent_s = clock()
            answer = call()
            tally.record(answer, Times(due_s, sent_s, clock()), end_s)
            if answer.status == GONE:
                break
        due_s = pace.next_due_s()
    return tally
