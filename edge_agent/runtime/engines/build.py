"""One engine built in a process of its own, watched by the thread that wants it.

Whatever happens to that process (killed, out of memory, hung, gone mad) is a sentence here.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

from edge_agent.config import without_secrets
from edge_agent.errors import BuildFailed
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines import child
from edge_agent.runtime.engines.cache import EngineCache
from edge_agent.runtime.engines.child import LESS_MEMORY, OUT_OF_MEMORY, Request
from edge_agent.runtime.engines.hearing import Hearing
from edge_agent.runtime.engines.inquiry import START
from edge_agent.runtime.engines.storing import storing
from edge_agent.targets import BuildSpec

PULSE_S = 5.0  # the expected time goes on when nothing is told
ENDS_WITHIN_S = 30.0  # after its last word; leaving the GPU takes a while
KILLED_WITHIN_S = 10.0  # a process can't be ended while the driver holds it
LAST = "loading"  # stage
NO_MEMORY = "bad_alloc"  # C++ says so before it gives up
CANCELLED = "The engine build was cancelled."
TOO_LATE = (
    "The engine wasn't built within {:g} s. Allow more in engine.build_within_s, or package the "
    "model with an engine built on a machine like this one."
)


@dataclass(frozen=True)
class Progress:
    """How far a build is. fraction: of the kernels to be measured, None where that isn't known."""

    stage: str
    fraction: Optional[float]
    elapsed_s: float
    remaining_s: Optional[float]

    @classmethod
    def of(
        cls, stage: str, fraction: Optional[float], elapsed_s: float, expected_s: Optional[float]
    ) -> Progress:
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
        self._request = Request(
            wanted=wanted,
            image=image,
            spec=spec,
            pictures=len(pictures),
            dla_core=dla_core,
            parent=os.getpid(),
        )
        self._cache, self._within_s = cache, within_s
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._why = ""  # we ended it

    def run(self, on_progress: Callable[[Progress], None]) -> Path:
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
            with self._running(folder) as process:
                self._watch(process, on_progress)
            path = self._cache.keep(wanted, folder / child.ENGINE, time.monotonic() - began)
            self._cache.keep_timing(self._request.spec.timing_cache, folder / child.TIMING)
        return path

    def cancel(self) -> None:
        """Let `run` raise BuildFailed, now or when it is called."""
        self._end(CANCELLED)

    def _prepare(self, folder: Path) -> None:
        (folder / child.REQUEST).write_text(self._request.model_dump_json())
        (folder / child.MODEL).write_bytes(self._model)
        for index, picture in enumerate(self._pictures):
            (folder / f"{child.PICTURE}{index}").write_bytes(picture)
        with suppress(FileNotFoundError):
            measured = self._cache.timing(self._request.spec.timing_cache)
            shutil.copyfile(measured, folder / child.OLD_TIMING)

    @contextmanager
    def _running(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            self._check()
            self._process = process = _start(folder)
        try:
            yield process
        finally:
            process.kill()
            _wait(process, KILLED_WITHIN_S)
            if process.stdout is not None:
                process.stdout.close()

    def _watch(
        self, process: subprocess.Popen[bytes], on_progress: Callable[[Progress], None]
    ) -> None:
        """Wait for the engine. Raises ModelError when there will be none."""
        assert process.stdout is not None
        began, hearing = time.monotonic(), Hearing(process.stdout)
        expected_s = self._cache.expected_s(self._request.wanted)
        while not hearing.is_over:
            elapsed_s = time.monotonic() - began
            if elapsed_s >= self._within_s:
                self._end(TOO_LATE.format(self._within_s))
            self._check()
            if hearing.hear(min(PULSE_S, self._within_s - elapsed_s)):
                elapsed_s = time.monotonic() - began
                on_progress(Progress.of(hearing.stage, hearing.fraction, elapsed_s, expected_s))
        self._check()
        if hearing.failure is not None:
            raise hearing.failure
        code = _wait(process, ENDS_WITHIN_S)
        if not hearing.is_done:
            self._cache.forget_timing(self._request.spec.timing_cache)  # it may be the reason
            raise _crash(code, hearing.last_words)

    def _end(self, why: str) -> None:
        with self._lock:
            self._why = self._why or why
            if self._process is not None:
                self._process.kill()

    def _check(self) -> None:
        if self._why:
            raise BuildFailed(self._why)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", child.MODULE, str(folder.absolute())],
            cwd=START,
            env=without_secrets(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the agent
        )
    except OSError as error:
        raise BuildFailed(f"The engine build can't be started: {error.strerror}.") from None


def _wait(process: subprocess.Popen[bytes], within_s: float) -> Optional[int]:
    """Return its exit code; None when it doesn't end."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(within_s)
    return None


def _crash(code: Optional[int], words: str) -> BuildFailed:
    said = f": {words}" if words else ""
    if code is None:
        return BuildFailed(f"The engine build fell silent, and was ended{said}.")
    if code == -signal.SIGKILL:
        return BuildFailed(
            "The engine build was ended by SIGKILL, probably by the kernel because memory ran out; "
            f"dmesg tells. {LESS_MEMORY}"
        )
    if NO_MEMORY in words:
        return BuildFailed(OUT_OF_MEMORY)
    if code < 0:
        return BuildFailed(f"The engine build crashed by {_signal(-code)}{said}.")
    return BuildFailed(f"The engine build ended with status {code} and without an engine{said}.")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
