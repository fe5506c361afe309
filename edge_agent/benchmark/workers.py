"""The processes of a run, as the benchmark sees them: start, ask for turns, end."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Dict, List, Optional, Type

from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import Load
from edge_agent.errors import EdgeAgentError

OPEN_WITHIN_S = 120.0  # a large model takes its time
ANSWER_WITHIN_S = 30.0  # beyond the end of a turn
GONE_WITHIN_S = 15.0
LEAD_S = 0.03  # from asking to the begin of a turn: the message is there by then
MOST_PROCESSES = 8


class Worker:
    """A process with one job of `jobs`; a context manager that ends it."""

    def __init__(self, job: str, **options: Any) -> None:
        command = [sys.executable, "-m", "edge_agent.benchmark.jobs", job, json.dumps(options)]
        self._job = job
        # a session of its own: Ctrl-C reaches only the benchmark, which then ends the job in order
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.hang_up()
        try:
            self._process.wait(GONE_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, **turn: Any) -> None:
        """Ask for a turn; `hear` its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(turn).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, within_s: float) -> Dict[str, Any]:
        """Return the next answer. Raises EdgeAgentError when the job failed or hangs."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            raise EdgeAgentError(f"The benchmark's {self._job} process hangs ({within_s:.0f} s).")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: Dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgeAgentError(answer["error"])
        return answer

    def hang_up(self) -> None:
        """Let it end after the turn it is in."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended first
            self._process.stdin.close()

    def _ended(self) -> EdgeAgentError:
        code = self._process.wait(GONE_WITHIN_S)
        return EdgeAgentError(f"The benchmark's {self._job} process ended with exit code {code}.")


class Fleet:
    """Clients spread over at most MOST_PROCESSES processes, which start a turn together."""

    def __init__(
        self, address: str, model: str, frame: str, clients: int, **options: Optional[str]
    ) -> None:
        self._stack = ExitStack()
        shares = [len(range(first, clients, MOST_PROCESSES)) for first in range(MOST_PROCESSES)]
        self._options = [
            {"address": address, "model": model, "frame": frame, "count": count, **options}
            for count in shares
            if count
        ]
        self._workers: List[Worker] = []

    def __enter__(self) -> Fleet:
        try:
            for options in self._options:
                worker = self._stack.enter_context(Worker("clients", **options))
                self._workers.append(worker)
            for worker in self._workers:
                worker.hear(OPEN_WITHIN_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self._workers:
            worker.hang_up()  # all at once, before the first is waited for
        self._stack.close()

    def turn(self, load: Load, turn_s: float) -> Tally:
        """Send `load` for `turn_s` seconds and return what all clients counted together."""
        period_s = load.clients / load.rate_fps if load.rate_fps else None
        offsets_s = [client * (period_s or 0.0) / load.clients for client in range(load.clients)]
        begin_s = time.monotonic() + LEAD_S
        busy = list(zip(self._workers, range(load.clients)))
        for worker, first in busy:
            worker.ask(
                transport=load.transport,
                begin_s=begin_s,
                end_s=begin_s + turn_s,
                offsets_s=offsets_s[first::MOST_PROCESSES],
                period_s=period_s,
            )
        tally = Tally()
        for worker, first in busy:
            part = Tally(**worker.hear(turn_s + ANSWER_WITHIN_S))
            part.frames_of = {f"{first}:{key}": count for key, count in part.frames_of.items()}
            tally.merge(part)
        tally.seconds = turn_s
        return tally


def raw_turn(worker: Worker, turn_s: float) -> Tally:
    """Keep the raw engines busy for `turn_s` seconds."""
    begin_s = time.monotonic() + LEAD_S
    worker.ask(begin_s=begin_s, end_s=begin_s + turn_s)
    tally = Tally(**worker.hear(turn_s + ANSWER_WITHIN_S))
    tally.seconds = turn_s
    return tally
