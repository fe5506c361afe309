"""The worker process of a TensorRT engine: slots in, batches computed, answers out.

Its messages are listed in `gpu_worker.py`. The main thread owns the GPU's context and enqueues; a
second one waits for what was enqueued, in that order, and answers.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from edge_agent import logs
from edge_agent.errors import EdgeAgentError, GpuFailed
from edge_agent.runtime.backends import trt_engine
from edge_agent.runtime.backends.cuda.driver import Driver, open_driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_loop import EngineLoop, Slot
from edge_agent.runtime.processes.channel import Channel, Message, Received
from edge_agent.runtime.processes.parent import connect

LOST_GPU = 70  # exit status after an error that only a new process survives
BROKEN = 71  # exit status after a fault of our own
MOST_CHARACTERS = 4000  # of an error: it must fit into a message

log = logging.getLogger(__name__)


def main(arguments: List[str]) -> int:
    """Serve the agent, see `connect` for the arguments."""
    for number in (signal.SIGINT, signal.SIGTERM):  # are for the agent, which hangs up when it ends
        signal.signal(number, signal.SIG_IGN)
    channel = connect(arguments)
    opening = channel.receive()
    if opening is None:
        return 0
    logs.configure(opening.content["log"])
    try:
        with ExitStack() as owned:
            try:
                driver, loop = owned.enter_context(_open(opening))
            except Exception as error:
                _fail(channel, opening.content["id"], error)
                return 1
            _Server(channel, driver, loop).serve(opening.content["id"])
    except GpuFailed as error:
        log.warning("The GPU worker can't free all that it uses. %s", error)
        return 1
    return 0


@contextmanager
def _open(opening: Received) -> Iterator[Tuple[Driver, EngineLoop]]:
    """Make the GPU's context this thread's own, load the engine."""
    asked = opening.content
    trt, driver = trt_engine.library(), open_driver()
    with ExitStack() as owned:
        owned.enter_context(driver.context())
        engine = _content(opening.descriptors[0])
        host_code = asked.get("allow_host_code", False)
        dla_core = asked.get("dla_core")
        loop = EngineLoop(trt, driver, engine, dla_core, host_code, is_timed=False)
        del engine
        owned.callback(loop.close)
        yield driver, loop


def _content(engine: int) -> bytes:
    """Read it all from its beginning: workers before have moved the descriptor."""
    with os.fdopen(engine, "rb") as file:
        file.seek(0)
        return file.read()


class _Open(NamedTuple):
    slot: Slot
    memory: mmap.mmap  # there as long as the slot


class _Server:
    """Does what the agent asks for, until it hangs up."""

    def __init__(self, channel: Channel, driver: Driver, loop: EngineLoop) -> None:
        self._channel, self._driver, self._loop = channel, driver, loop
        self._slots: Dict[int, _Open] = {}
        self._submitted: Queue[Optional[Tuple[int, Slot]]] = Queue()
        self._remarks = 0  # so many were sent

    def serve(self, opening: int) -> None:
        """Answer the opening, then all that comes."""
        waiting = threading.Thread(target=self._wait, name="wait", daemon=True)
        waiting.start()
        loop = self._loop
        self._answer(
            opening,
            tensors=[tensor.to_json() for tensor in loop.tensors],
            max_batch=loop.max_batch,
            device=loop.device,
        )
        for received in iter(self._channel.receive, None):
            self._do(received)
        self._submitted.put(None)
        waiting.join()
        for opened in self._slots.values():
            self._loop.close_slot(opened.slot)

    def _do(self, received: Received) -> None:
        message = received.content
        if message["do"] == "drop":
            self._drop(message["slot"])
            return
        try:
            if message["do"] == "slot":
                self._open_slot(message, received.descriptors[0])
                self._answer(message["id"])
            else:
                self._run(message)
        except Exception as error:
            _fail(self._channel, message["id"], error)

    def _open_slot(self, message: Message, memory: int) -> None:
        loop = self._loop
        layout = SlotLayout(loop.tensors, loop.max_batch)
        try:
            mapped = mmap.mmap(memory, layout.size)
        finally:
            os.close(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        self._slots[message["slot"]] = _Open(loop.open_slot(address, layout), mapped)

    def _run(self, message: Message) -> None:
        slot = self._slots[message["slot"]].slot
        self._loop.submit(slot, message["count"])
        self._submitted.put((message["id"], slot))

    def _drop(self, number: int) -> None:
        """Close a slot; another run of it may be on its way still."""
        opened = self._slots.pop(number, None)
        if opened is not None:
            self._submitted.join()
            self._loop.close_slot(opened.slot)

    def _wait(self) -> None:
        """Answer what was submitted as it is done; a fault here would leave the agent waiting."""
        try:
            with self._driver.context():
                for number, slot in iter(self._submitted.get, None):
                    self._finish(number, slot)
                    self._submitted.task_done()
        except BaseException:
            log.exception("The GPU worker can't continue and ends.")
            os._exit(BROKEN)

    def _finish(self, number: int, slot: Slot) -> None:
        try:
            self._loop.wait(slot)
        except Exception as error:
            _fail(self._channel, number, error)
        else:
            self._answer(number)

    def _answer(self, number: int, **content: object) -> None:
        """Send an answer, with the remarks if there are new ones."""
        remarks = self._loop.remarks
        if len(remarks) > self._remarks:
            self._remarks = len(remarks)
            content["remarks"] = remarks
        _send(self._channel, {"id": number, **content})


def _fail(channel: Channel, number: int, error: Exception) -> None:
    """Answer with an error; after one that took the GPU away the process has no use."""
    described = _describe(error)
    _send(channel, {"id": number, "error": described})
    if described["is_sticky"]:
        os._exit(LOST_GPU)


def _send(channel: Channel, content: Mapping[str, object]) -> None:
    with suppress(ConnectionError):  # the agent has hung up, which the main thread sees
        channel.send(content)


def _describe(error: Exception) -> Message:
    """Return the error as messages have it."""
    kind, text = type(error).__name__, str(error)
    if not isinstance(error, EdgeAgentError):
        log.error("The GPU worker met an unexpected error.", exc_info=error)
        text = f"The GPU worker met an unexpected {kind}; see the log."
    code, is_sticky = getattr(error, "code", 0), getattr(error, "is_sticky", False)
    return {"kind": kind, "text": text[:MOST_CHARACTERS], "code": code, "is_sticky": is_sticky}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
