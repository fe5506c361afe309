"""One engine built in a process of its own, supervised by the thread that wants it.

Whatever happens to that process (killed, out of memory, hung) is a sentence here.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

from pydantic import ValidationError

from edge_agent.errors import BuildFailed
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines import build_process
from edge_agent.runtime.engines.build_process import (
    FAILURES,
    LESS_MEMORY,
    OUT_OF_MEMORY,
    BuildEvent,
    BuildRequest,
)
from edge_agent.runtime.engines.cache import EngineCache
from edge_agent.runtime.engines.disk_errors import storing
from edge_agent.runtime.processes.child_process import ChildProcess, Exit, python_module
from edge_agent.targets import BuildSpec

PULSE_S = 5.0  # the expected time goes on when nothing is reported
ENDS_WITHIN_S = 30.0  # after its last report; leaving the GPU takes a while
LAST = "loading"  # stage
NO_MEMORY = "bad_alloc"  # of C++, in its last line
CANCELLED = "The engine build was cancelled."
TOO_LATE = (
    "The engine wasn't built within {:g} s. Allow more in engine.build_within_s, or package the "
    "model with an engine built on a machine like this one."
)


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is. fraction: of the kernels to be measured, None where that isn't known."""

    stage: str
    fraction: Optional[float]
    elapsed_s: float
    remaining_s: Optional[float]

    @classmethod
    def of(
        cls, stage: str, fraction: Optional[float], elapsed_s: float, expected_s: Optional[float]
    ) -> BuildProgress:
        """Estimate what remains; `expected_s` is how long such a build took the last time.

        It is the mean of what remains by the fraction, weighted by the fraction, and of what
        remains by the last time: the more is done, the less the last time counts. None in the last
        stage, which is short.
        """
        remaining = None
        if expected_s is not None:
            remaining = (1.0 - (fraction or 0.0)) * max(expected_s, elapsed_s)
            if fraction is None:
                remaining = expected_s - elapsed_s
        elif fraction:
            remaining = elapsed_s * (1.0 - fraction) / fraction
        is_known = remaining is not None and remaining > 0.0 and stage != LAST
        return cls(stage, fraction, elapsed_s, remaining if is_known else None)

    def __str__(self) -> str:
        if self.fraction == 1.0:
            return "100 %"
        done = self.stage
        if self.fraction is not None:
            done = f"{min(99.0, 100 * self.fraction):.0f} %"
        return done if self.remaining_s is None else f"{done}, about {_span(self.remaining_s)} left"


class EngineBuild:
    """Builds one engine, once; `cancel` may be called on any thread at any time."""

    def __init__(
        self,
        model: bytes,
        image: InputSpec,
        spec: BuildSpec,
        pictures: Sequence[bytes],
        wanted: Fingerprint,
        cache: EngineCache,
        *,
        dla_core: Optional[int] = None,
        within_s: float = 3600.0,
    ) -> None:
        """`model` is ONNX, `pictures` the calibration's files; the engine goes into `cache`."""
        self._model, self._pictures = model, pictures
        self._request = BuildRequest(
            wanted=wanted,
            image=image,
            spec=spec,
            pictures=len(pictures),
            dla_core=dla_core,
        )
        self._cache, self._within_s = cache, within_s
        self._too_late = TOO_LATE.format(within_s)
        self._lock = threading.Lock()
        self._process: Optional[ChildProcess] = None
        self._is_cancelled = False

    def run(self, on_progress: Callable[[BuildProgress], None]) -> Path:
        """Build it and return its path in the cache; takes seconds to many minutes.

        on_progress is called on this thread, twice a second at most. Raises InvalidPackage when
        TensorRT can't read the graph, BackendUnavailable when it can't build it, or not with this
        precision, BuildFailed when it was killed or cancelled, took too long, or memory or disk ran
        out.
        """
        began, wanted = time.monotonic(), self._request.wanted
        with self._cache.workplace() as folder:
            with storing(folder.parent):
                self._prepare(folder)
            self._build(folder, on_progress)
            path = self._cache.store(
                wanted, folder / build_process.ENGINE, time.monotonic() - began
            )
            self._cache.store_timing(self._request.spec.timing_cache, folder / build_process.TIMING)
        return path

    def cancel(self) -> None:
        """Let `run` raise BuildFailed, now or when it is called."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                self._process.kill(CANCELLED)

    def _prepare(self, folder: Path) -> None:
        (folder / build_process.REQUEST).write_text(self._request.model_dump_json())
        (folder / build_process.MODEL).write_bytes(self._model)
        for index, picture in enumerate(self._pictures):
            (folder / f"{build_process.PICTURE}{index}").write_bytes(picture)
        with suppress(FileNotFoundError):
            measured = self._cache.timing(self._request.spec.timing_cache)
            shutil.copyfile(measured, folder / build_process.OLD_TIMING)

    def _build(self, folder: Path, on_progress: Callable[[BuildProgress], None]) -> None:
        """Run the process to its end. Raises ModelError when there is no engine then."""
        with self._started(folder) as process:
            last: Optional[BuildEvent] = None
            try:
                last = self._read_events(process, on_progress)
            except ValidationError:
                process.kill("it sent a message that can't be read")
            if last is not None and last.failure is not None:
                raise FAILURES[last.failure](last.why)
            ending = process.end()
        if ending.why in (CANCELLED, self._too_late):
            raise BuildFailed(ending.why)
        if last is None:
            self._cache.forget_timing(self._request.spec.timing_cache)  # it may be the reason
            raise _crash(ending)

    def _started(self, folder: Path) -> ChildProcess:
        with self._lock:
            if self._is_cancelled:
                raise BuildFailed(CANCELLED)
            try:
                self._process = ChildProcess(
                    python_module(build_process.MODULE, str(folder.absolute())),
                    name="Engine build",
                    within_s=self._within_s,
                    late=self._too_late,
                    ends_within_s=ENDS_WITHIN_S,
                    output_level=logging.INFO,
                )
            except OSError as error:
                raise BuildFailed(f"The engine build can't be started: {error.strerror}.") from None
            return self._process

    def _read_events(
        self, process: ChildProcess, on_progress: Callable[[BuildProgress], None]
    ) -> Optional[BuildEvent]:
        """Report progress until the build is done or has failed; None: it ended before that."""
        began, latest = time.monotonic(), BuildEvent()
        expected_s = self._cache.expected_s(self._request.wanted)
        for message in process.messages(PULSE_S):
            event = BuildEvent.model_validate(message)
            if event.is_done or event.failure is not None:
                return event
            if event.stage is not None:
                latest = event
            elapsed_s, stage = time.monotonic() - began, latest.stage or "parsing"
            on_progress(BuildProgress.of(stage, latest.fraction, elapsed_s, expected_s))
        return None


def _crash(ending: Exit) -> BuildFailed:
    if ending.code == -signal.SIGKILL and not ending.why:
        return BuildFailed(
            "The engine build was ended by SIGKILL, probably by the kernel because memory ran out; "
            f"dmesg shows it. {LESS_MEMORY}"
        )
    if NO_MEMORY in ending.last_line:
        return BuildFailed(OUT_OF_MEMORY)
    return BuildFailed(f"The engine build made no engine: it {ending}.")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
