"""The process that computes a model's batches on the GPU, as the agent sees it: kept alive.

It owns the CUDA context, so that what ends a context, or hangs, ends it alone. The agent writes
batches into slots, memory that both share, and sends which slot to compute.
"""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from edge_agent.errors import AgentUnavailable, BackendUnavailable
from edge_agent.runtime.backends.patience import Patience
from edge_agent.runtime.backends.questions import Answer, Questions, fail, read_error, wait
from edge_agent.runtime.backends.worker_process import WorkerProcess

COMMAND = (sys.executable, "-m", "edge_agent.runtime.backends.trt_worker")
THREAD_NAME = "gpu-worker"
OPENING = -1  # number of the first question
HUNG = "it hung"
READY_WITHIN_S = 120.0  # to load an engine, or to open a slot
RUN_WITHIN_S = 120.0  # a batch, where nobody interrupts it before

Frames = Sequence[Tuple[int, int, int]]  # index, width and height of each

log = logging.getLogger(__name__)


@dataclass
class _Slot:
    """memory: descriptor of its file, the backend's. is_given_up: takes no more runs."""

    memory: int
    frame_bytes: int
    is_given_up: bool = False


class GpuWorker:
    """Keeps one worker process going until its last slot is closed, or it dies too often.

    One thread owns the process: it starts it, reads its answers and starts it again. Methods may be
    called on any thread; none waits while it holds the lock, for sending doesn't wait.

    ready: what the worker said of its engine when it started the last time. remarks: what isn't as
    fast as it could be, for people. restarts: how often it had to be started again. trouble: why it
    isn't any more, for people; "" while it is.
    """

    def __init__(
        self,
        engine: Path,
        opening: Optional[Mapping[str, Any]] = None,
        command: Sequence[str] = COMMAND,
        patience: Optional[Patience] = None,
    ) -> None:
        """Start it. Raises BackendUnavailable, InvalidPackage, GpuFailed, as its engine does.

        The engine's file is opened once: what happens to it afterwards doesn't matter. opening:
        what `trt_worker` reads besides, each time it starts.
        """
        self.restarts, self.trouble = 0, ""
        self.remarks: Tuple[str, ...] = ()
        try:
            self._engine = engine.open("rb", buffering=0)
        except OSError as error:
            raise BackendUnavailable(
                f"The engine's file can't be opened ({error}). Start the model again."
            ) from None
        self._command, self._opening = command, opening or {}
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._process: Optional[WorkerProcess] = None
        self._is_up = False
        self._closing = threading.Event()
        self._questions = Questions()
        self._numbers = count()  # of slots
        self._slots: Dict[int, _Slot] = {}
        self._first: Future[None] = Future()
        self.ready: Answer = {}
        self._thread = threading.Thread(target=self._keep, name=THREAD_NAME, daemon=True)
        self._thread.start()
        try:
            self._first.result()
        except BaseException:
            self.close()
            raise

    def open_slot(self, memory: int, frame_bytes: int) -> int:
        """Let the worker use this memory, the descriptor of a file, until `close_slot`.

        The descriptor stays the caller's, and must be open until then. Waits while the worker is
        starting. Raises AgentUnavailable, GpuFailed, and what else its engine does.
        """
        number = next(self._numbers)
        with self._changed:
            self._changed.wait_for(self._is_decided, READY_WITHIN_S)
            process = self._running()
            self._slots[number] = slot = _Slot(memory, frame_bytes)
            opened = self._send_slot(process, number, slot)
        try:
            late = f"it didn't open a slot within {READY_WITHIN_S:g} s"
            wait(opened, READY_WITHIN_S, partial(self._end, process, late))
        except BaseException:
            self.close_slot(number)
            raise
        return number

    def run(self, slot: int, items: int, frames: Frames = ()) -> None:
        """Compute the first items of a slot; its outputs are there afterwards.

        Raises AgentUnavailable when the worker isn't there or ends meanwhile, InferenceFailed.
        """
        with self._lock:
            process = self._running()
            if slot not in self._slots or self._slots[slot].is_given_up:
                raise AgentUnavailable("The inference unit was given up; call again.")
            message = {"do": "run", "slot": slot, "count": items, "frames": frames}
            answer = self._ask(process, message, slot=slot)
        wait(answer, RUN_WITHIN_S, partial(self._end, process, HUNG))

    def interrupt(self, slot: int) -> None:
        """End the worker if it is computing this slot, which takes no more runs."""
        with self._lock:
            if slot in self._slots:
                self._slots[slot].is_given_up = True
            if self._process is not None and self._questions.is_computing(slot):
                self._process.kill(HUNG)

    def close_slot(self, slot: int) -> None:
        """Forget the slot, and a run in it; with the last one the worker ends."""
        with self._lock:
            self._slots.pop(slot, None)
            cut = self._questions.take_all(slot)
            if self._is_up and self._process is not None:
                self._process.send({"do": "drop", "slot": slot})
            is_last = not self._slots
        fail(cut, "The inference unit was closed; call again.")
        if is_last:
            self.close()

    def close(self) -> None:
        """End the worker and free everything; runs in flight fail. May be called again."""
        self._closing.set()
        with self._changed:
            if self._process is not None:
                self._process.hang_up()
            self._changed.notify_all()
        self._thread.join()
        self._engine.close()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good, on request."""
        return self._closing.is_set()

    def _is_decided(self) -> bool:
        return self._is_up or self.is_closed or bool(self.trouble)

    def _running(self) -> WorkerProcess:
        """Return the process, with the lock held. Raises AgentUnavailable unless it is up."""
        if self.is_closed:
            raise AgentUnavailable("The model's GPU worker is ending.")
        if self.trouble:
            raise AgentUnavailable(self.trouble)
        if not self._is_up or self._process is None:
            raise AgentUnavailable("The model's GPU worker is starting again; call again.")
        return self._process

    def _ask(
        self,
        process: WorkerProcess,
        message: Mapping[str, Any],
        descriptors: Sequence[int] = (),
        slot: Optional[int] = None,
    ) -> Future[Answer]:
        """Send a message, with the lock held; its answer, or the process's end, ends the future."""
        question = self._questions.add(slot)
        process.send({"id": question.number, **message}, descriptors)
        return question.answer

    def _end(self, process: WorkerProcess, why: str) -> None:
        with self._lock:
            if self._process is process:
                process.kill(why)

    def _send_slot(self, process: WorkerProcess, number: int, slot: _Slot) -> Future[Answer]:
        message = {"do": "slot", "slot": number, "frame_bytes": slot.frame_bytes}
        return self._ask(process, message, [slot.memory])

    def _keep(self) -> None:
        """Start the process, and start it again when it dies, until it does so too often."""
        while not self.is_closed:
            how = self._live()
            if not self._first.done():
                self._first.set_exception(BackendUnavailable(f"The model's GPU worker {how}."))
            if self.is_closed or self._first.exception() is not None:
                return
            pause_s = self._patience.pause_s()
            if pause_s is None:
                self._give_up(how)
                return
            log.warning("The model's GPU worker %s. Starting it again.", how)
            if not self._closing.wait(pause_s):
                self.restarts += 1

    def _live(self) -> str:
        """Start the process and attend to it until its end; return how that came."""
        try:
            process = WorkerProcess(self._command, READY_WITHIN_S)
        except OSError as error:
            return f"can't be started ({error})"
        with self._lock:
            self._process = process
            if self.is_closed:
                process.hang_up()
        try:
            self._attend(process)
        except Exception:
            log.exception("A message of the model's GPU worker can't be read.")
            process.kill("it sent what can't be read")
        with self._lock:
            self._process, self._is_up = None, False
            cut = self._questions.take_all()
        how = process.end()
        fail(cut, f"The model's GPU worker {how}. Call again.")
        return how

    def _attend(self, process: WorkerProcess) -> None:
        """Let it open the engine, then pass on its answers until it is gone."""
        level = logging.getLogger("edge_agent").getEffectiveLevel()
        asked = {"id": OPENING, "do": "open", "log": logging.getLevelName(level), **self._opening}
        process.send(asked, [self._engine.fileno()])
        messages = process.messages()
        first = next(messages, None)
        if first is None or not self._begin(process, first):
            return
        for message in messages:
            self._take(process, message)

    def _begin(self, process: WorkerProcess, answer: Answer) -> bool:
        """Take the worker into service with all slots; False when it can't open the engine."""
        if "error" in answer:
            error = read_error(**answer["error"])
            process.blame(f"it can't open the engine: {error}")
            if not self._first.done():
                self._first.set_exception(error)
            return False
        process.started()
        self.ready, self.remarks = answer, tuple(answer.get("remarks", ()))
        with self._changed:
            for number, slot in self._slots.items():
                opened = self._send_slot(process, number, slot)
                opened.add_done_callback(partial(_check_slot, process))
            self._is_up = True
            self._changed.notify_all()
        if not self._first.done():
            self._first.set_result(None)
        return True

    def _take(self, process: WorkerProcess, message: Answer) -> None:
        """Pass an answer on to whoever asked; what ends the process ends all, and is told then."""
        error = message.get("error")
        if error is not None and error["is_sticky"]:
            process.kill(f"of an error: {error['text']}")
            return
        with self._lock:
            question = self._questions.take(message["id"])
        self.remarks = tuple(message.get("remarks", self.remarks))
        if question is None:  # its slot was closed meanwhile
            return
        if error is None:
            if question.slot is not None:
                self._patience.worked()
            question.answer.set_result(message)
        else:
            question.answer.set_exception(read_error(**error))

    def _give_up(self, how: str) -> None:
        with self._changed:
            self.trouble = (
                f"The model's GPU worker died {self._patience} and isn't started again. The last "
                f"time it {how}. Start the model again; if that doesn't help, restart the device."
            )
            self._changed.notify_all()
        log.error("%s", self.trouble)


def _check_slot(process: WorkerProcess, opened: Future[Answer]) -> None:
    """End a worker that was started again and can't use a slot of before."""
    error = opened.exception()
    if error is not None:
        process.kill(f"it can't use a slot again: {error}")
