"""What a building process tells, read as it comes; of what else it writes, the last words."""

from __future__ import annotations

import logging
import os
import select
from typing import IO, Optional

from edge_agent.errors import ModelError
from edge_agent.fields import read_json
from edge_agent.runtime.engines.child import FAILURES, News

log = logging.getLogger(__name__)

PIPE_BYTES = 64 * 1024
LINE_BYTES = 8 * 1024  # what is longer is cut
MOST_LINES = 100  # of the agent's log
WORDS = 300  # characters of the last line


class Hearing:
    """Reads one process's output on one thread.

    stage, fraction: the newest. is_done, failure: how it ended, by its own word. is_over: it will
    tell no more. last_words: the last line that was no news.
    """

    def __init__(self, output: IO[bytes]) -> None:
        self._descriptor = output.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._line, self._lines = b"", 0
        self.stage: str = "parsing"
        self.fraction: Optional[float] = None
        self.is_done, self.is_over = False, False
        self.failure: Optional[ModelError] = None
        self.last_words = ""

    def hear(self, within_s: float) -> bool:
        """Take what comes within that time; False when it says nothing of the progress."""
        if not self._poll.poll(within_s * 1000):
            return True
        content = os.read(self._descriptor, PIPE_BYTES)
        *lines, rest = (self._line + (content or b"\n")).split(b"\n")
        self._line = rest[:LINE_BYTES]
        found = [self._take(line[:LINE_BYTES]) for line in lines]
        self.is_over = not content or self.is_done or self.failure is not None
        return any(found)

    def _take(self, line: bytes) -> bool:
        try:
            news = read_json(News, line)
        except ValueError:
            words = line.decode(errors="replace").strip()
            if words:
                self.last_words = words[:WORDS]
                self._lines += 1
                level = logging.INFO if self._lines <= MOST_LINES else logging.DEBUG
                log.log(level, "The engine build says: %s", words)
            return False
        if news.stage is not None:
            self.stage, self.fraction = news.stage, news.fraction
        if news.failure is not None:
            self.failure = FAILURES[news.failure](news.why)
        self.is_done = self.is_done or news.is_done
        return news.stage is not None
