"""What the agent has asked a worker and waits for: questions with numbers, and their answers."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from itertools import count
from typing import Any, Callable, Dict, List, Optional

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

Answer = Dict[str, Any]

KINDS = {
    each.__name__: each
    for each in (BackendUnavailable, EngineUnusable, InferenceFailed, InvalidPackage, OutOfMemory)
}


@dataclass(frozen=True)
class Question:
    """`answer` ends with what the worker says, or with an error. slot: computes until then."""

    number: int
    slot: Optional[int]
    answer: Future[Answer]


class Questions:
    """Those without an answer. Its user sees to it that one thread at a time calls."""

    def __init__(self) -> None:
        self._numbers = count()
        self._open: Dict[int, Question] = {}

    def add(self, slot: Optional[int]) -> Question:
        """Note a new question."""
        question = Question(next(self._numbers), slot, Future())
        self._open[question.number] = question
        return question

    def is_computing(self, slot: int) -> bool:
        """Tell whether a run of this slot has no answer yet."""
        return any(question.slot == slot for question in self._open.values())

    def take(self, number: int) -> Optional[Question]:
        """Return the question that is answered; None: nobody waits for it any more."""
        return self._open.pop(number, None)

    def take_all(self, slot: Optional[int] = None) -> List[Question]:
        """Return all questions, or all runs of a slot, which will get no answer."""
        taken = [each for each in self._open.values() if slot is None or each.slot == slot]
        for question in taken:
            del self._open[question.number]
        return taken


def wait(answer: Future[Answer], within_s: float, end: Callable[[], None]) -> None:
    """Wait for an answer; when it is late `end` who owes it, and with that the wait."""
    try:
        answer.result(within_s)
    except TooLate:
        end()
        answer.result()


def fail(questions: List[Question], sentence: str) -> None:
    """Let those who wait be told that they may call again."""
    for question in questions:
        question.answer.set_exception(AgentUnavailable(sentence))


def read_error(kind: str, text: str, code: int, is_sticky: bool) -> EdgeAgentError:
    """Return the error that the worker met, as one of ours.

    What isn't one of ours, such as MemoryError, is told of circumstances, which pass.
    """
    if kind in KINDS:
        return KINDS[kind](text)
    return GpuFailed.after(text, code, is_sticky)
