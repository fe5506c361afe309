"""The observer of every verdict: counts it, keeps its frame, makes its event.

Runs in the call's own thread before the answer leaves, because the frame's memory is the caller's
afterwards. It waits for nothing but short locks and never raises.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Dict, Optional

from edge_agent.manifest import Manifest
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results import event
from edge_agent.runtime.results.capture import Capture
from edge_agent.runtime.results.filters import Filter
from edge_agent.runtime.results.ids import Ids
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.shot import Shot
from edge_agent.runtime.results.statistics import Statistics
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import DetectRequest, Lane, Prediction

log = logging.getLogger(__name__)

MOST_CHARACTERS = 128  # of a camera id in an event


class Recorder:
    """Offered every verdict; may be called on any thread."""

    def __init__(
        self,
        thing: str,
        filter_: Filter,
        statistics: Statistics,
        ids: Ids,
        outbox: Optional[Outbox],
        capture: Optional[Capture],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._thing, self._filter, self._statistics = thing, filter_, statistics
        self._ids, self._outbox, self._capture, self._metrics = ids, outbox, capture, metrics
        self._clock, self._wall = clock, wall
        self._failed_at = -1e9

    def observe(
        self, request: DetectRequest, opened: OpenFrame, prediction: Prediction, manifest: Manifest
    ) -> str:
        """Take note of a verdict; returns the id of its event, "" when there is none.

        A frame that is judged again (lane rescoring) has been taken note of before.
        """
        if request.caller.lane is Lane.RESCORING:
            return ""
        try:
            return self._observe(request, opened, prediction, manifest)
        except Exception:
            now = self._clock()
            if now - self._failed_at > 60.0:
                self._failed_at = now
                log.exception("A result couldn't be recorded.")
            return ""

    def offer(self, kind: str, model: str, facts: Dict[str, Any]) -> None:
        """Publish a summary or an alarm; `model` is empty when it is about the agent."""
        if self._outbox is not None:
            id_ = self._ids.new()
            body = {**event.common(id_, kind, self._thing, model, self._wall()), **facts}
            self._outbox.offer(event.Event(id_, model, kind, "anomaly", event.encode(body)))

    def _observe(
        self, request: DetectRequest, opened: OpenFrame, prediction: Prediction, manifest: Manifest
    ) -> str:
        model, camera = request.model, request.caller.camera_id[:MOST_CHARACTERS]
        self._statistics.add(model, manifest.statistics, prediction)
        if not prediction.camera_problems:
            self._metrics.scored(model, prediction.score)
        passes = self._outbox is not None and self._filter.passes(
            model, request.caller.name, prediction, self._clock()
        )
        reason = self._capture.choose(model, prediction) if self._capture else ""
        if not passes and not reason:
            return ""
        id_, now = self._ids.new(), self._wall()
        reference = self._keep(id_, reason, now, request, opened, prediction) if reason else ""
        if not passes or self._outbox is None:
            return ""
        times = request.times
        in_agent_s = (
            times.receive + times.queue + times.preprocess + times.compute + times.postprocess
        )
        facts = {
            **event.common(id_, "result", self._thing, model, now),
            "model_version": prediction.model_version,
            "camera": camera or None,
            "frame_time": event.iso(now - in_agent_s),
        }
        self._outbox.offer(event.result(facts, prediction, times, reference))
        return id_

    def _keep(
        self,
        id_: str,
        reason: str,
        now: float,
        request: DetectRequest,
        opened: OpenFrame,
        prediction: Prediction,
    ) -> str:
        assert self._capture is not None
        mask = prediction.mask if prediction.mask is not None else opened.mask_target
        return self._capture.keep(
            Shot(
                id=id_,
                model=request.model,
                model_version=prediction.model_version,
                time=now,
                reason=reason,
                pixels=opened.frame.pixels,
                shared=not opened.held_bytes,
                prediction=prediction,
                mask=mask,
                camera_id=request.caller.camera_id[:MOST_CHARACTERS],
            )
        )
