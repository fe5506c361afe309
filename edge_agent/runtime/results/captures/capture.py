"""Captures the frames that matter for review and retraining, beside the calls.

A call only decides and queues a copy of the few frames chosen; one thread of low priority encodes
and writes them. When it is too slow, or the disk fails, frames are dropped: no call waits or fails.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Callable, Deque, Dict, Optional, Tuple

from edge_agent.config import MIB, CaptureSettings
from edge_agent.runtime.results.captures.captured_frame import (
    ANOMALY,
    CAMERA_PROBLEM,
    NEAR_THRESHOLD,
    OWN_KEY,
    SAMPLE,
    CapturedFrame,
    Line,
)
from edge_agent.runtime.results.captures.folder import CaptureFolder
from edge_agent.runtime.vision import overlay, picture_files
from edge_agent.types import CameraProblem, Prediction

log = logging.getLogger(__name__)

THREAD_NAME = "capture"
NICENESS = 10
QUEUE_BYTES = 256 * MIB
RETRY_S = 60.0  # until a failed folder is tried again, or a warning is repeated
IMAGE_QUALITY, OVERLAY_QUALITY = 95, 85
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
MINUTE_S = 60.0
CAMERA_PROBLEM_EVERY_S = 60.0  # of each model; more look the same

# The share of the limit a minute that is reserved for more important frames.
RESERVED = {ANOMALY: 0.0, NEAR_THRESHOLD: 0.25, SAMPLE: 0.5, CAMERA_PROBLEM: 0.5}


@dataclass(frozen=True)
class StoredCapture:
    """A capture on disk: its line of the manifest, and the picture with the verdict drawn in."""

    line: Line
    overlay: Path


class Capture:
    """Stores frames in `settings.folder`, which must be set; may be called on any thread.

    `stored`, `skipped` (the queue was full, or the quota by more important captures) and `failed`
    (they couldn't be written) count frames.
    """

    def __init__(
        self,
        settings: CaptureSettings,
        random: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.folder is None:
            raise ValueError("capture.folder isn't set")
        self.stored = self.skipped = self.failed = 0
        self._selector = CaptureSelector(settings, random, clock)
        self._folder = CaptureFolder(settings.folder, settings.quota_mib * MIB)
        self._suffix = SUFFIXES[settings.format]
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: Deque[CapturedFrame] = deque()
        self._held_bytes = 0  # of what waits and what is being written
        self._closing = False
        self._opened = False
        self._retry_at: Optional[float] = None  # set while the folder can't be written
        self._skips_logged = (0, -math.inf)  # the count in the last warning, and when it was
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def apply_settings(self, settings: CaptureSettings) -> None:
        """Use other settings; their folder and format must be the same."""
        self._selector.apply_settings(settings)
        self._folder.quota_bytes = settings.quota_mib * MIB

    def choose(self, model: str, prediction: Prediction) -> str:
        """Return why the frame is to be captured, "": it isn't. Takes microseconds.

        A chosen frame counts against the model's limit a minute; call `enqueue` with it.
        """
        return self._selector.choose(model, prediction)

    def enqueue(self, frame: CapturedFrame) -> str:
        """Queue the frame; return its image's name in the folder, "" when it can't be queued.

        Shared memory is copied; other pixels are referenced and must not change any more. Never
        waits for the disk and never raises.
        """
        try:
            if not self._accepts(frame):
                return ""
            owned = frame.owned()
            with self._changed:
                self._queue.append(owned)
                self._held_bytes += owned.held_bytes
                self._changed.notify()
        except Exception:  # observers can't hurt the request
            self._count(failed=1)
            log.exception("A frame couldn't be stored.")
            return ""
        return frame.stem + self._suffix

    def last(self, model: str) -> Optional[StoredCapture]:
        """Return the newest capture of a model, None when it isn't on disk any more."""
        line = self._folder.last.get(model)
        if line is None or "overlay" not in line[OWN_KEY]:
            return None
        captured = StoredCapture(line, self._folder.path / line[OWN_KEY]["overlay"])
        return captured if captured.overlay.is_file() else None

    def close(self, within_s: float) -> None:
        """Write what waits, for at most so long; the rest is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)
        left = self._drop_waiting()
        if left:
            log.warning("%d captured frames were not written in time (%g s).", left, within_s)

    def _accepts(self, frame: CapturedFrame) -> bool:
        """Whether the frame can be queued now; counted when not."""
        with self._changed:
            broken = self._retry_at is not None and self._clock() < self._retry_at
            full = self._held_bytes + frame.held_bytes > QUEUE_BYTES
        self._count(failed=int(broken), skipped=int(full and not broken))
        return not (broken or full or self._closing)

    def _run(self) -> None:
        with suppress(OSError):  # of this thread alone: Linux has a niceness for each
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._attempt(self._open, frames=0)
        while True:
            frame = self._next()
            if frame is None:
                break
            self._attempt(partial(self._store, frame), frames=1)
            with self._changed:
                self._held_bytes -= frame.held_bytes
            self._log_skipped()
        if self._opened:
            self._attempt(self._folder.close, frames=0)

    def _next(self) -> Optional[CapturedFrame]:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            return self._queue.popleft()

    def _attempt(self, step: Callable[[], None], frames: int) -> None:
        """Do a step for so many frames; a failure is logged and counted."""
        try:
            step()
        except OSError as error:
            self._report_failure(error, frames)
        except Exception:
            self._count(failed=frames)
            log.exception("A frame couldn't be stored.")

    def _report_failure(self, error: OSError, frames: int) -> None:
        self._opened = False
        self._count(failed=frames + self._drop_waiting())
        if self._retry_at is None:
            log.error(
                "Frames can't be stored in %s: %s. Inspection goes on. The agent tries again every "
                "%d s.",
                self._folder.path, error.strerror or error, RETRY_S,
            )  # fmt: skip
        self._retry_at = self._clock() + RETRY_S

    def _drop_waiting(self) -> int:
        with self._changed:
            count = len(self._queue)
            self._held_bytes -= sum(frame.held_bytes for frame in self._queue)
            self._queue.clear()
        return count

    def _open(self) -> None:
        self._folder.open()
        self._opened = True

    def _store(self, frame: CapturedFrame) -> None:
        if not self._opened:
            self._open()
        fits = self._folder.add(*_files(frame, self._suffix))
        self._count(stored=int(fits), skipped=int(not fits))
        if self._retry_at is not None:
            self._retry_at = None
            log.info("Frames are stored in %s again.", self._folder.path)

    def _count(self, stored: int = 0, skipped: int = 0, failed: int = 0) -> None:
        with self._changed:
            self.stored += stored
            self.skipped += skipped
            self.failed += failed

    def _log_skipped(self) -> None:
        logged, logged_at = self._skips_logged
        if self.skipped > logged and self._clock() >= logged_at + RETRY_S:
            log.warning(
                "%d frames were not stored: they came faster than they could be written, or more "
                "important ones use all of results.capture.quota_mib.",
                self.skipped - logged,
            )
            self._skips_logged = self.skipped, self._clock()


def _files(frame: CapturedFrame, suffix: str) -> Tuple[Line, Dict[str, bytes]]:
    """Return the line of a capture and what its files hold, by name, the image last."""
    image, overlay_, mask = (frame.stem + end for end in (suffix, ".overlay.jpg", ".mask.png"))
    contents: Dict[str, bytes] = {}
    if frame.mask is not None:
        contents[mask] = picture_files.png(frame.mask)
    drawn = overlay.draw(frame.pixels, replace(frame.prediction, mask=frame.mask))
    contents[overlay_] = picture_files.jpeg(drawn, OVERLAY_QUALITY)
    contents[image] = (
        picture_files.png(frame.pixels)
        if suffix == ".png"
        else picture_files.jpeg(frame.pixels, IMAGE_QUALITY)
    )
    return frame.line(image, overlay_, mask if frame.mask is not None else None), contents


class CaptureSelector:
    """Chooses frames by verdict and at random, within a limit a minute for each model.

    Touches no file; may be called on any thread.
    """

    def __init__(
        self, settings: CaptureSettings, random: random.Random, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._random = random
        self._clock = clock
        self._lock = threading.Lock()
        self._last_minute: Dict[str, Deque[float]] = {}  # of each model
        self._last_problem: Dict[str, float] = {}

    def apply_settings(self, settings: CaptureSettings) -> None:
        """Use other settings from the next frame on."""
        self._settings = settings

    def choose(self, model: str, prediction: Prediction) -> str:
        """Return why the frame is to be captured, "": it isn't."""
        reason = self._reason(prediction)
        return reason if reason and self._admits(model, reason) else ""

    def _reason(self, prediction: Prediction) -> str:
        problems = prediction.camera_problems
        if problems:
            return "" if CameraProblem.BLACK in problems else CAMERA_PROBLEM
        if prediction.is_anomalous and self._settings.anomalies:
            return ANOMALY
        if abs(prediction.score - prediction.threshold) < self._settings.near_threshold:
            return NEAR_THRESHOLD
        return SAMPLE if self._random.random() < self._settings.sample else ""

    def _admits(self, model: str, reason: str) -> bool:
        now, limit = self._clock(), self._settings.per_minute
        with self._lock:
            chosen_at = self._last_minute.setdefault(model, deque())
            while chosen_at and chosen_at[0] <= now - MINUTE_S:
                chosen_at.popleft()
            if len(chosen_at) >= limit - int(limit * RESERVED[reason]):
                return False
            if reason == CAMERA_PROBLEM:
                last = self._last_problem.get(model)
                if last is not None and now < last + CAMERA_PROBLEM_EVERY_S:
                    return False
                self._last_problem[model] = now
            chosen_at.append(now)
            return True
