"""The results pipeline put together: recorder, outbox, deliveries to sinks, statistics, captures.

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
from typing import Callable, List, Mapping, Optional

from edge_agent.config import ResultsSettings
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results import sinks
from edge_agent.runtime.results.captures.capture import Capture
from edge_agent.runtime.results.captures.captured_frame import Line
from edge_agent.runtime.results.dead_letters import DeadLetters
from edge_agent.runtime.results.delivery import Delivery
from edge_agent.runtime.results.filters import Filter
from edge_agent.runtime.results.ids import Ids
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.recorder import Recorder
from edge_agent.runtime.results.spool import folder_lock
from edge_agent.runtime.results.spool.database import Dropped, StoredEvent
from edge_agent.runtime.results.statistics import ResultStatistics
from edge_agent.runtime.results.status import StatusFile
from edge_agent.runtime.vision import picture_files

log = logging.getLogger(__name__)

STATISTICS, LAST_ID = "statistics", "last_id"
DROPS_EVERY_S = 10.0  # dropped events are reported together
THUMBNAIL_BYTES = 3600  # in base64, with the capture's line, it fits into one message
AGENT = ""  # the model of events about the agent itself


class ResultsPipeline:
    """Owns everything behind the detector's observer; until `close`."""

    def __init__(
        self,
        settings: ResultsSettings,
        metrics: Metrics,
        on_nucleus_lost: Callable[[str], None],
        nucleus: Optional[Greengrass] = None,
        problems: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Open the outbox; nothing is sent yet.

        `nucleus` is a connection owned by the caller; without it the pipeline makes its own if a
        sink needs one. `problems` returns those of the agent's other parts, for its status: a
        sentence by part, "" for none. Raises InvalidConfiguration when the folder is in use or
        another user may write in it, or a sink can't work here.
        """
        self._settings, self._metrics, self._problems = settings, metrics, problems
        thing = sinks.thing_name(settings)
        self._own_nucleus = None if nucleus else sinks.make_nucleus(settings, on_nucleus_lost)
        self._sinks = sinks.make_sinks(settings, thing, nucleus or self._own_nucleus)
        self._drop_lock = threading.Lock()  # of the next two
        self._dropped, self._why_dropped = Dropped(), ""
        self._reported_at = -DROPS_EVERY_S
        self._last_id = ""
        self._disk_failed, self._damage = False, ""
        self._outbox: Optional[Outbox] = None
        self._deliveries: List[Delivery] = []
        self._statistics = ResultStatistics(settings, metrics.drifts)
        folder = settings.folder
        if folder is not None and not self._sinks:
            folder_lock.check(folder)  # the agent has other files in it
        if folder is not None and self._sinks:
            names = [sink.name for sink in self._sinks]
            self._outbox = Outbox(settings.outbox, folder, thing, names, self._count_dropped)
            self._statistics.restore(self._outbox.get_note(STATISTICS))
            self._last_id = self._outbox.get_note(LAST_ID)
            self._dead_letters, self._status = DeadLetters(folder), StatusFile(folder)
            self._deliveries = [
                Delivery(sink, self._outbox, settings.outbox, self._give_up, self._report_stall)
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
        """Answer commands with `answer(requester, payload)`; call before `start`.

        Raises InvalidConfiguration when no sink receives any.
        """
        topics = self._settings.commands
        source = sinks.command_source(self._sinks)
        source.serve_commands(topics.topic, topics.response_topic, answer)

    def start(self) -> None:
        """Start to store and to deliver."""
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
            counts = self._capture.stored, self._capture.skipped, self._capture.failed
            self._metrics.frames_kept(*counts)
        if self._outbox is None:
            return
        self._metrics.results_withheld(self._filter.withheld)
        self._outbox.set_note(STATISTICS, self._statistics.snapshot())
        self._report_drops(DROPS_EVERY_S)
        self._update_status(self._outbox, self._status)

    def apply_settings(self, settings: ResultsSettings) -> None:
        """Use other settings of publishing, captures and alarms from the next frame on."""
        self._filter.apply_settings(settings)
        self._statistics.apply_settings(settings)
        if self._capture is not None:
            self._capture.apply_settings(settings.capture)

    def forget(self, model: str) -> None:
        """Drop the alarms of a model that was removed."""
        self._statistics.forget(model)

    def last_capture(self, model: str) -> Optional[Line]:
        """Return the manifest line of a model's latest capture, with a thumbnail (JPEG, base64)."""
        captured = self._capture.last(model) if self._capture is not None else None
        if captured is None:
            return None
        try:
            picture = picture_files.thumbnail(captured.overlay.read_bytes(), THUMBNAIL_BYTES)
        except (OSError, ValueError):
            return captured.line  # deleted a moment ago to make room
        return {**captured.line, "thumbnail": base64.b64encode(picture).decode()}

    def close(self, within_s: float) -> None:
        """Store what is recorded and disconnect."""
        if self._capture is not None:
            self._capture.close(within_s / 2)
        if self._outbox is not None:
            self.recorder.count()
            self._outbox.set_note(STATISTICS, self._statistics.snapshot())
            self._report_drops(0.0)
            self._update_status(self._outbox, self._status)
        for delivery in self._deliveries:
            delivery.close(within_s / 4 / len(self._deliveries))
        if self._outbox is not None:
            self._outbox.close(within_s)
        if self._own_nucleus is not None:
            self._own_nucleus.close(within_s / 2)

    def _count_dropped(self, dropped: Dropped, why: str) -> None:
        self._metrics.results_dropped(dropped.normal, dropped.others)
        with self._drop_lock:
            self._dropped, self._why_dropped = self._dropped + dropped, why

    def _report_drops(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._reported_at < every_s:
            return
        with self._drop_lock:
            dropped, self._dropped = self._dropped, Dropped()
        if dropped:
            self._reported_at = now
            log.error(
                "%d normal and %d other results were dropped and not delivered: %s.",
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

    def _report_stall(self, sink: str) -> None:
        message = "Results are not delivered, though the sink is connected. This alarm is a test."
        self._alarm("delivery-stalled", message, sink=sink)

    def _update_status(self, outbox: Outbox, status: StatusFile) -> None:
        waiting = {delivery.name: outbox.waiting(delivery.name) for delivery in self._deliveries}
        for delivery in self._deliveries:
            name = delivery.name
            self._metrics.results_delivered(name, delivery.delivered, waiting[name])
        if outbox.damage != self._damage:
            self._damage = outbox.damage
            self._alarm("outbox-damaged", outbox.damage)
        problem = " ".join(filter(None, (outbox.problem, outbox.journal_problem)))
        if bool(problem) != self._disk_failed:
            self._disk_failed = bool(problem)
            message = problem or "The outbox stores results again."
            self._alarm("outbox-disk", message, state="raised" if problem else "ended")
        status.update(
            problem,
            {each.name: (each.problem, waiting[each.name]) for each in self._deliveries},
            self._problems(),
        )

    def _alarm(self, name: str, message: str, **facts: object) -> None:
        self.recorder.offer("alarm", AGENT, {"alarm": name, **facts, "message": message})
