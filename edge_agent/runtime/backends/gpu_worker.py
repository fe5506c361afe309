"""Supervises, in the agent, the process that computes a model's batches on the GPU.

It owns the CUDA context, so that what ends a context, or hangs, ends it alone. The agent writes
batches into slots, memory that both share, and sends which slot to compute:

    agent → worker                                       worker → agent
    {"id", "do": "open", "log", ...} + engine file       {"id", "tensors", "max_batch", ...}
    {"id", "do": "slot", "slot"} + memory                {"id"}
    {"id", "do": "run", "slot", "count"}                 {"id"}
    {"do": "drop", "slot"}

Messages have "remarks" when there are new ones, or are {"id", "error": {"kind", "text", "code",
"is_sticky"}}. When the agent hangs up, the worker ends.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Tuple

from edge_agent.errors import AgentUnavailable, BackendUnavailable
from edge_agent.runtime.backends.pending_requests import (
    PendingRequests,
    fail,
    read_error,
    wait,
)
from edge_agent.runtime.processes.channel import Message
from edge_agent.runtime.processes.child_process import ChildProcess, python_module
from edge_agent.runtime.processes.restart_policy import RestartPolicy

COMMAND = python_module("edge_agent.runtime.backends.trt_worker")
THREAD_NAME = "gpu-worker"
OPENING = -1  # number of the first request
HUNG = "it hung"
READY_WITHIN_S = 120.0  # to load an engine, or to open a slot
RUN_WITHIN_S = 120.0  # a batch, where nobody interrupts it before
ENDS_WITHIN_S = 5.0  # from hanging up until it is killed

log = logging.getLogger(__name__)


@dataclass
class _Slot:
    """memory: descriptor of its file, the backend's. is_given_up: takes no more runs."""

    memory: int
    is_given_up: bool = False


class GpuWorker:
    """Supervises one worker process until its last slot is closed, or it dies too often.

    One thread owns the process: it starts it, reads its answers and starts it again. Methods may be
    called on any thread; none waits while it holds the lock, for sending doesn't wait.

    ready: what the worker reported of its engine when it started the last time. remarks: what isn't
    as fast as it could be, for people. restarts: how often it had to be started again. failure: why
    it isn't started any more, for people; "" while it is.
    """

    def __init__(
        self,
        engine: Path,
        opening: Optional[Mapping[str, object]] = None,
        command: Sequence[str] = COMMAND,
        policy: Optional[RestartPolicy] = None,
    ) -> None:
        """Start it. Raises BackendUnavailable, InvalidPackage, GpuFailed, as its engine does.

        The engine's file is opened once: what happens to it afterwards doesn't matter. opening:
        what `trt_worker` reads besides, each time it starts.
        """
        self.restarts, self.failure = 0, ""
        self.remarks: Tuple[str, ...] = ()
        try:
            self._engine = engine.open("rb", buffering=0)
        except OSError as error:
            raise BackendUnavailable(
                f"The engine's file can't be opened ({error}). Start the model again."
            ) from None
        self._command, self._opening = command, opening or {}
        self._policy = policy or RestartPolicy()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._process: Optional[ChildProcess] = None
        self._is_up = False
        self._closing = threading.Event()
        self._requests = PendingRequests()
        self._numbers = count()  # of slots
        self._slots: Dict[int, _Slot] = {}
        self._first: Future[None] = Future()
        self.ready: Message = {}
        self._thread = threading.Thread(target=self._supervise, name=THREAD_NAME, daemon=True)
        self._thread.start()
        try:
            self._first.result()
        except BaseException:
            self.close()
            raise

    def open_slot(self, memory: int) -> int:
        """Let the worker use this memory, the descriptor of a file, until `close_slot`.

        The descriptor stays the caller's, and must be open until then. Waits while the worker is
        starting. Raises AgentUnavailable, GpuFailed, and what else its engine does.
        """
        number = next(self._numbers)
        with self._changed:
            self._changed.wait_for(self._is_decided, READY_WITHIN_S)
            process = self._running()
            self._slots[number] = slot = _Slot(memory)
            opened = self._send_slot(process, number, slot)
        try:
            late = f"it didn't open a slot within {READY_WITHIN_S:g} s"
            wait(opened, READY_WITHIN_S, partial(self._end, process, late))
        except BaseException:
            self.close_slot(number)
            raise
        return number

    def run(self, slot: int, items: int) -> None:
        """Compute the first items of a slot; its outputs are there afterwards.

        Raises AgentUnavailable when the worker isn't there or ends meanwhile, InferenceFailed.
        """
        with self._lock:
            process = self._running()
            if slot not in self._slots or self._slots[slot].is_given_up:
                raise AgentUnavailable("The inference unit was given up; call again.")
            message = {"do": "run", "slot": slot, "count": items}
            answer = self._request(process, message, slot=slot)
        wait(answer, RUN_WITHIN_S, partial(self._end, process, HUNG))

    def interrupt(self, slot: int) -> None:
        """End the worker if it is computing this slot, which takes no more runs."""
        with self._lock:
            if slot in self._slots:
                self._slots[slot].is_given_up = True
            if self._process is not None and self._requests.is_computing(slot):
                self._process.kill(HUNG)

    def close_slot(self, slot: int) -> None:
        """Forget the slot, and a run in it; with the last one the worker ends."""
        with self._lock:
            self._slots.pop(slot, None)
            cut = self._requests.take_all(slot)
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
        return self._is_up or self.is_closed or bool(self.failure)

    def _running(self) -> ChildProcess:
        """Return the process, with the lock held. Raises AgentUnavailable unless it is up."""
        if self.is_closed:
            raise AgentUnavailable("The model's GPU worker is ending.")
        if self.failure:
            raise AgentUnavailable(self.failure)
        if not self._is_up or self._process is None:
            raise AgentUnavailable("The model's GPU worker is starting again; call again.")
        return self._process

    def _request(
        self,
        process: ChildProcess,
        message: Mapping[str, object],
        descriptors: Sequence[int] = (),
        slot: Optional[int] = None,
    ) -> Future[Message]:
        """Send a message, with the lock held; its answer, or the process's end, ends the future."""
        request = self._requests.add(slot)
        process.send({"id": request.number, **message}, descriptors)
        return request.answer

    def _end(self, process: ChildProcess, why: str) -> None:
        with self._lock:
            if self._process is process:
                process.kill(why)

    def _send_slot(self, process: ChildProcess, number: int, slot: _Slot) -> Future[Message]:
        message = {"do": "slot", "slot": number}
        return self._request(process, message, [slot.memory])

    def _supervise(self) -> None:
        """Start the process, and start it again when it dies, until it does so too often."""
        while not self.is_closed:
            ending = self._run_process()
            if not self._first.done():
                self._first.set_exception(BackendUnavailable(f"The model's GPU worker {ending}."))
            if self.is_closed or self._first.exception() is not None:
                return
            pause_s = self._policy.pause_s()
            if pause_s is None:
                self._give_up(ending)
                return
            log.warning("The model's GPU worker %s. It is started again.", ending)
            if not self._closing.wait(pause_s):
                self.restarts += 1

    def _run_process(self) -> str:
        """Start the process and read its messages until it ends; return how it ended."""
        try:
            process = ChildProcess(
                self._command,
                name="GPU worker",
                within_s=READY_WITHIN_S,
                late=f"it wasn't ready within {READY_WITHIN_S:g} s",
                ends_within_s=ENDS_WITHIN_S,
            )
        except OSError as error:
            return f"can't be started ({error})"
        with self._lock:
            self._process = process
            if self.is_closed:
                process.hang_up()
        try:
            self._read_messages(process)
        except Exception:
            log.exception("A message from the model's GPU worker can't be read.")
            process.kill("it sent a message that can't be read")
        with self._lock:
            self._process, self._is_up = None, False
            cut = self._requests.take_all()
        ending = str(process.end())
        fail(cut, f"The model's GPU worker {ending}. Call again.")
        return ending

    def _read_messages(self, process: ChildProcess) -> None:
        """Let it open the engine, then pass on its answers until it is gone."""
        level = logging.getLogger("edge_agent").getEffectiveLevel()
        opening = {"id": OPENING, "do": "open", "log": logging.getLevelName(level), **self._opening}
        process.send(opening, [self._engine.fileno()])
        messages = process.messages()
        first = next(messages, None)
        if first is None or not self._begin(process, first):
            return
        for message in messages:
            self._answer(process, message)

    def _begin(self, process: ChildProcess, answer: Message) -> bool:
        """Take the worker into service with all slots; False when it can't open the engine."""
        if "error" in answer:
            error = read_error(**answer["error"])
            process.blame(f"it can't open the engine: {error}")
            if not self._first.done():
                self._first.set_exception(error)
            return False
        process.lift_limit()
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

    def _answer(self, process: ChildProcess, message: Message) -> None:
        """Pass an answer on to whoever waits for it; after a sticky error the process ends."""
        error = message.get("error")
        if error is not None and error["is_sticky"]:
            process.kill(f"of an error: {error['text']}")
            return
        with self._lock:
            request = self._requests.take(message["id"])
        self.remarks = tuple(message.get("remarks", self.remarks))
        if request is None:  # its slot was closed meanwhile
            return
        if error is None:
            if request.slot is not None:
                self._policy.succeeded()
            request.answer.set_result(message)
        else:
            request.answer.set_exception(read_error(**error))

    def _give_up(self, ending: str) -> None:
        with self._changed:
            self.failure = (
                f"The model's GPU worker died {self._policy} and isn't started again. The "
                f"last time it {ending}. Start the model again; if that doesn't help, restart the "
                "device."
            )
            self._changed.notify_all()
        log.error("%s", self.failure)


def _check_slot(process: ChildProcess, opened: Future[Message]) -> None:
    """End a worker that was started again and can't use a slot of before."""
    error = opened.exception()
    if error is not None:
        process.kill(f"it can't use a slot again: {error}")
