"""What the agent has sent to a worker and waits for: requests with numbers, and their answers."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from itertools import count
from typing import Callable, Dict, List, Optional

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    EdgeAgentError,
    EngineUnusable,
    GpuFailed,
    InferenceFailed,
    InvalidPackage,
    OutOfMemory,
)
from edge_agent.runtime.processes.channel import Message
from edge_agent.runtime.system import stalls

KINDS = {
    each.__name__: each
    for each in (BackendUnavailable, EngineUnusable, InferenceFailed, InvalidPackage, OutOfMemory)
}


@dataclass(frozen=True)
class PendingRequest:
    """`answer` ends with the worker's answer, or with an error. slot: computes until then."""

    number: int
    slot: Optional[int]
    answer: Future[Message]


class PendingRequests:
    """Those without an answer. Its user makes sure that one thread at a time calls."""

    def __init__(self) -> None:
        self._numbers = count()
        self._pending: Dict[int, PendingRequest] = {}

    def add(self, slot: Optional[int]) -> PendingRequest:
        """Note a new request."""
        request = PendingRequest(next(self._numbers), slot, Future())
        self._pending[request.number] = request
        return request

    def is_computing(self, slot: int) -> bool:
        """Return whether a run of this slot has no answer yet."""
        return any(request.slot == slot for request in self._pending.values())

    def take(self, number: int) -> Optional[PendingRequest]:
        """Return the request that is answered; None: nobody waits for it any more."""
        return self._pending.pop(number, None)

    def take_all(self, slot: Optional[int] = None) -> List[PendingRequest]:
        """Return all requests, or all runs of a slot, which will get no answer."""
        taken = [each for each in self._pending.values() if slot is None or each.slot == slot]
        for request in taken:
            del self._pending[request.number]
        return taken


def wait(answer: Future[Message], within_s: float, end: Callable[[], None]) -> None:
    """Wait for an answer; `end` the worker when it is late, and with that the wait."""
    try:
        stalls.result(answer, within_s)
    except TooLate:
        end()
        answer.result()


def fail(requests: List[PendingRequest], sentence: str) -> None:
    """Let those who wait fail with an error that says they may call again."""
    for request in requests:
        request.answer.set_exception(AgentUnavailable(sentence))


def read_error(kind: str, text: str, code: int, is_sticky: bool) -> EdgeAgentError:
    """Return the error that the worker met, as one of ours.

    What isn't one of ours, such as MemoryError, comes from circumstances, which pass.
    """
    if kind in KINDS:
        return KINDS[kind](text)
    return GpuFailed.after(text, code, is_sticky)
