"""The observer of every verdict: counts it, captures its frame, offers its event.

Runs in the call's own thread before the answer leaves, because the frame's memory is the caller's
afterwards. It waits for nothing but short locks and never raises; other threads do the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace
from typing import Callable, Deque, Mapping, Optional, Tuple

from edge_agent import manifest as manifests
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results import event
from edge_agent.runtime.results.captures.capture import Capture
from edge_agent.runtime.results.captures.captured_frame import CapturedFrame
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.filters import WARM_UP_FRAMES, Filter, WarmUps
from edge_agent.runtime.results.ids import Ids
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.statistics import ResultStatistics
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import DetectRequest, Prediction, Priority

log = logging.getLogger(__name__)

MOST_UNCOUNTED = 100_000  # verdicts until they are counted, once a second
LOG_EVERY_S = 60.0

Uncounted = Tuple[str, manifests.Statistics, Prediction]


class Recorder:
    """Receives every verdict; may be called on any thread."""

    def __init__(
        self,
        filter_: Filter,
        statistics: ResultStatistics,
        ids: Ids,
        outbox: Optional[Outbox],
        capture: Optional[Capture],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._filter, self._statistics, self._metrics = filter_, statistics, metrics
        self._ids, self._outbox, self._capture = ids, outbox, capture
        self._warm_ups = WarmUps()
        self._clock, self._wall = clock, wall
        self._uncounted: Deque[Uncounted] = deque(maxlen=MOST_UNCOUNTED)
        self._logged_at = -LOG_EVERY_S

    def observe(
        self,
        request: DetectRequest,
        opened: OpenFrame,
        prediction: Prediction,
        manifest: manifests.Manifest,
    ) -> str:
        """Record a verdict; returns the id of its event, "" when there is none.

        A frame that is inspected again (priority rescoring) was recorded before.
        """
        if request.caller.priority is Priority.RESCORING:
            log.debug("Model %r: rescoring records nothing.", request.model)
            return ""
        try:
            black = self._warm_ups.black(request.model, request.caller.name, prediction)
            if 0 < black <= WARM_UP_FRAMES:
                log.debug("Model %r: black frame %d in a row isn't recorded.", request.model, black)
                return ""
            bare = prediction if prediction.mask is None else replace(prediction, mask=None)
            self._uncounted.append((request.model, manifest.statistics, bare))
            if black > WARM_UP_FRAMES + 1:
                return ""  # a camera that stays black was reported
            return self._record(request, opened, prediction)
        except Exception:
            now = self._clock()
            if now - self._logged_at >= LOG_EVERY_S:
                self._logged_at = now
                log.exception("A result couldn't be recorded.")
            return ""

    def offer(self, kind: str, model: str, facts: Mapping[str, object]) -> None:
        """Publish a summary or an alarm; `model` is empty when it is about the agent."""
        if self._outbox is not None:
            self._outbox.offer(EventDraft(self._ids.new(), kind, model, self._wall(), facts))

    def count(self) -> None:
        """Update the statistics with new verdicts; called by one thread."""
        for _ in range(len(self._uncounted)):
            model, trained, prediction = self._uncounted.popleft()
            self._statistics.add(model, trained, prediction)
            if not prediction.camera_problems:
                self._metrics.scored(model, prediction.score)

    def _record(self, request: DetectRequest, opened: OpenFrame, prediction: Prediction) -> str:
        outbox, capture, caller = self._outbox, self._capture, request.caller
        if outbox is not None and not self._filter.passes(
            request.model, caller.name, prediction, self._clock()
        ):
            outbox = None
        reason = capture.choose(request.model, prediction) if capture is not None else ""
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "Model %r: %s; %s.", request.model,
                "published" if outbox is not None else self._why_unpublished(),
                f"captured ({reason})" if reason else "not captured",
            )  # fmt: skip
        if outbox is None and not reason:
            return ""
        id_, now, reference = self._ids.new(), self._wall(), ""
        if capture is not None and reason:
            reference = capture.enqueue(
                _captured_frame(id_, reason, now, request, opened, prediction)
            )
        if outbox is None:
            return ""
        times = request.times
        in_agent_s = (
            times.receive + times.queue + times.preprocess + times.compute + times.postprocess
        )
        facts = event.verdict(prediction, times, caller.camera_id, now - in_agent_s, reference)
        outbox.offer(EventDraft(id_, "result", request.model, now, facts))
        return id_

    def _why_unpublished(self) -> str:
        if self._outbox is None:
            return "not published, because results go nowhere (results.mqtt, .greengrass, .lines)"
        return "not published, by results.publish, .heartbeat_s and .per_minute"


def _captured_frame(
    id_: str,
    reason: str,
    now: float,
    request: DetectRequest,
    opened: OpenFrame,
    prediction: Prediction,
) -> CapturedFrame:
    return CapturedFrame(
        id=id_,
        model=request.model,
        model_version=prediction.model_version,
        time=now,
        reason=reason,
        pixels=opened.frame.pixels,
        shared=not opened.held_bytes,
        prediction=prediction,
        mask=prediction.mask if prediction.mask is not None else opened.mask_target,
        camera_id=request.caller.camera_id,
    )
