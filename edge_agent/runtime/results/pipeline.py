"""The results room put together: who records, what keeps, which sinks deliver, who counts.

Start order: outbox → deliveries. Stop order: capture → deliveries → outbox; what isn't delivered by
then is on disk, and the next run delivers it.
"""

from __future__ import annotations

import base64
import logging
import random
import threading
import time
from datetime import datetime
from typing import Any, Callable, Dict, List, Optional

from edge_agent.config import ResultsSettings
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results import sinks
from edge_agent.runtime.results.captures.capture import Capture
from edge_agent.runtime.results.dead_letters import DeadLetters
from edge_agent.runtime.results.delivery import Delivery
from edge_agent.runtime.results.filters import Filter
from edge_agent.runtime.results.ids import Ids
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.recorder import Recorder
from edge_agent.runtime.results.spool.database import Dropped, StoredEvent
from edge_agent.runtime.results.statistics import ResultStatistics
from edge_agent.runtime.results.status import StatusFile
from edge_agent.runtime.vision import picture_files

log = logging.getLogger(__name__)

STATISTICS, LAST_ID = "statistics", "last_id"
ANNOUNCE_EVERY_S = 10.0  # dropped events are counted together for so long
THUMBNAIL_BYTES = 3600  # with base64 and the line it fits into one message
AGENT = ""  # the lane of events about the agent itself


class ResultsPipeline:
    """Everything behind the detector's observer; until `close`."""

    def __init__(
        self,
        settings: ResultsSettings,
        metrics: Metrics,
        on_nucleus_lost: Callable[[str], None],
        nucleus: Optional[Greengrass] = None,
    ) -> None:
        """Open the outbox; nothing is sent yet.

        `nucleus` is a connection that others look after; without it the room makes its own when it
        needs one. Raises InvalidConfiguration when the folder is in use or a sink can't work here.
        """
        self._settings, self._metrics = settings, metrics
        thing = sinks.thing_name(settings)
        self._own_nucleus = None if nucleus else sinks.make_nucleus(settings, on_nucleus_lost)
        self._sinks = sinks.make_sinks(settings, thing, nucleus or self._own_nucleus)
        self._dropping = threading.Lock()  # of the next two
        self._dropped, self._why_dropped = Dropped(), ""
        self._announced_at = -ANNOUNCE_EVERY_S
        self._last_id = ""
        self._disk_refuses, self._damage = False, ""
        self._outbox: Optional[Outbox] = None
        self._deliveries: List[Delivery] = []
        self._statistics = ResultStatistics(settings, metrics.drifts)
        folder = settings.folder
        if folder is not None and self._sinks:
            names = [sink.name for sink in self._sinks]
            self._outbox = Outbox(settings.outbox, folder, thing, names, self._drops)
            self._statistics.restore(self._outbox.get_note(STATISTICS))
            self._last_id = self._outbox.get_note(LAST_ID)
            self._dead_letters, self._status = DeadLetters(folder), StatusFile(folder)
            self._deliveries = [
                Delivery(sink, self._outbox, settings.outbox, self._give_up, self._stalled)
                for sink in self._sinks
            ]
        self._capture = (
            Capture(settings.capture, random.Random()) if settings.capture.folder else None
        )
        self._filter = Filter(settings)
        self.recorder = Recorder(
            self._filter,
            self._statistics,
            Ids(time.time, self._last_id),
            self._outbox,
            self._capture,
            metrics,
        )

    def serve_commands(self, answer: Callable[[str, bytes], bytes]) -> None:
        """Let `answer(requester, payload)` hear commands; before `start`.

        Raises InvalidConfiguration when no sink brings any.
        """
        topics = self._settings.commands
        source = sinks.command_source(self._sinks)
        source.serve_commands(topics.topic, topics.response_topic, answer)

    def start(self) -> None:
        """Begin to store and to deliver."""
        if self._outbox is not None:
            self._outbox.start()
        for delivery in self._deliveries:
            delivery.start()

    def publish_due(self) -> None:
        """Publish what is due, about once a second; called by one thread."""
        self.recorder.count()
        for due in self._statistics.due(datetime.now().astimezone()):
            self.recorder.offer(due.kind, due.model, due.body)
        if self._capture is not None:
            kept = self._capture.kept, self._capture.skipped, self._capture.failed
            self._metrics.frames_kept(*kept)
        if self._outbox is None:
            return
        self._metrics.results_withheld(self._filter.withheld)
        self._outbox.set_note(STATISTICS, self._statistics.snapshot())
        self._announce_drops(ANNOUNCE_EVERY_S)
        self._show_status(self._outbox, self._status)

    def apply_settings(self, settings: ResultsSettings) -> None:
        """Go by other settings of what is published, kept and alarmed from the next frame on."""
        self._filter.apply_settings(settings)
        self._statistics.apply_settings(settings)
        if self._capture is not None:
            self._capture.apply_settings(settings.capture)

    def forget(self, model: str) -> None:
        """Count nothing more of a model that was removed."""
        self._statistics.forget(model)

    def last_capture(self, model: str) -> Optional[Dict[str, Any]]:
        """Return what is known of a model's latest kept frame, with a thumbnail (JPEG, base64)."""
        captured = self._capture.last(model) if self._capture is not None else None
        if captured is None:
            return None
        try:
            picture = picture_files.thumbnail(captured.overlay.read_bytes(), THUMBNAIL_BYTES)
        except (OSError, ValueError):
            return captured.line  # the quota took the files a moment ago
        return {**captured.line, "thumbnail": base64.b64encode(picture).decode()}

    def close(self, within_s: float) -> None:
        """Store what is recorded and disconnect."""
        if self._capture is not None:
            self._capture.close(within_s / 2)
        if self._outbox is not None:
            self.recorder.count()
            self._outbox.set_note(STATISTICS, self._statistics.snapshot())
            self._announce_drops(0.0)
            self._show_status(self._outbox, self._status)
        for delivery in self._deliveries:
            delivery.close(within_s / 4 / len(self._deliveries))
        if self._outbox is not None:
            self._outbox.close(within_s)
        if self._own_nucleus is not None:
            self._own_nucleus.close(within_s / 2)

    def _drops(self, dropped: Dropped, why: str) -> None:
        self._metrics.results_dropped(dropped.normal, dropped.others)
        with self._dropping:
            self._dropped, self._why_dropped = self._dropped + dropped, why

    def _announce_drops(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._announced_at < every_s:
            return
        with self._dropping:
            dropped, self._dropped = self._dropped, Dropped()
        if dropped:
            self._announced_at = now
            log.error(
                "%d normal and %d other results were dropped undelivered: %s.",
                dropped.normal, dropped.others, self._why_dropped,
            )  # fmt: skip
            message = f"{dropped.normal} normal and {dropped.others} other results were dropped."
            self._alarm("results-dropped", message, normal=dropped.normal, others=dropped.others)

    def _give_up(self, sink: str, entry: StoredEvent, reason: str) -> bool:
        if not self._dead_letters.add(sink, entry, reason, time.time()):
            return False
        self._metrics.result_undeliverable(sink)
        if entry.kind == "result":
            self._alarm("result-undeliverable", reason, sink=sink, result=entry.id)
        return True

    def _stalled(self, sink: str) -> None:
        message = "A result doesn't pass, though the sink is connected; this alarm tries the way."
        self._alarm("delivery-stalled", message, sink=sink)

    def _show_status(self, outbox: Outbox, status: StatusFile) -> None:
        waiting = {delivery.name: outbox.waiting(delivery.name) for delivery in self._deliveries}
        for delivery in self._deliveries:
            name = delivery.name
            self._metrics.results_delivered(name, delivery.delivered, waiting[name])
        if outbox.damage != self._damage:
            self._damage = outbox.damage
            self._alarm("outbox-damaged", outbox.damage)
        problem = " ".join(filter(None, (outbox.problem, outbox.journal_problem)))
        if bool(problem) != self._disk_refuses:
            self._disk_refuses = bool(problem)
            message = problem or "The outbox stores results again."
            self._alarm("outbox-disk", message, state="raised" if problem else "ended")
        status.show(
            problem,
            {each.name: (each.problem, waiting[each.name]) for each in self._deliveries},
        )

    def _alarm(self, name: str, message: str, **facts: Any) -> None:
        self.recorder.offer("alarm", AGENT, {"alarm": name, **facts, "message": message})
