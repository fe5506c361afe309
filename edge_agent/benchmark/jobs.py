"""Jobs in processes of their own, seen from both sides: clients, the raw engine, single calls.

`python -m edge_agent.benchmark.jobs JOB OPTIONS` writes one JSON object a line: `{}` when the job
is open, then one answer for each turn requested on standard input, and {"error": ...} when it
fails. It ends, and leaves nothing behind, when standard input does, so also when the benchmark is
killed.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any, ContextManager, Dict, List, Mapping, NoReturn, Optional, Protocol

from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import ClientLoad
from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.system import memory

OPEN_WITHIN_S = 120.0  # a large model takes its time
ANSWER_WITHIN_S = 30.0  # beyond the end of a turn
EXIT_WITHIN_S = 15.0
LEAD_S = 0.03  # from the request of a turn to its begin: the message is there by then
MOST_PROCESSES = 8
JOBS = {
    "clients": ("edge_agent.benchmark.clients", "ClientsJob"),
    "flood": ("edge_agent.benchmark.clients", "FloodJob"),
    "raw": ("edge_agent.benchmark.raw", "RawJob"),
    "bare": ("edge_agent.benchmark.raw", "BareServerJob"),
    "calls": ("edge_agent.benchmark.raw", "SingleCallsJob"),
}


class BenchmarkJob(Protocol):
    """What a process does; it gets ready when it is entered as a context."""

    def turn(self, **options: Any) -> Mapping[str, object]:
        """Work for one turn; return what JSON can hold."""


class JobProcess:
    """A process with one job of JOBS; a context manager that ends it."""

    def __init__(self, job: str, **options: object) -> None:
        command = [sys.executable, "-m", "edge_agent.benchmark.jobs", job, json.dumps(options)]
        self._job = job
        # a session of its own: Ctrl-C reaches only the benchmark, which then ends the job in order
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_input()
        try:
            self._process.wait(EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait_open(self) -> None:
        """Wait until the job is open. Raises EdgeAgentError."""
        self.receive(OPEN_WITHIN_S)

    def request(self, **turn: object) -> None:
        """Request a turn; `receive` its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(turn).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._exited() from None

    def receive(self, within_s: float) -> Dict[str, Any]:
        """Return the next answer. Raises EdgeAgentError when the job failed or hangs."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            raise EdgeAgentError(
                f"The benchmark's {self._job} process did not answer within {within_s:.0f} s."
            )
        line = self._process.stdout.readline()
        if not line:
            raise self._exited()
        answer: Dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EdgeAgentError(answer["error"])
        return answer

    def close_input(self) -> None:
        """Let it end after the turn it is in."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended first
            self._process.stdin.close()

    def _exited(self) -> EdgeAgentError:
        code = self._process.wait(EXIT_WITHIN_S)
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
        self._processes: List[JobProcess] = []

    def __enter__(self) -> Fleet:
        try:
            for options in self._options:
                process = self._stack.enter_context(JobProcess("clients", **options))
                self._processes.append(process)
            for process in self._processes:
                process.wait_open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close_input()  # all at once, before the first is waited for
        self._stack.close()

    def turn(self, load: ClientLoad, turn_s: float) -> Tally:
        """Send `load` for `turn_s` seconds and return what all clients counted together."""
        period_s = load.clients / load.rate_fps if load.rate_fps else None
        offsets_s = [client * (period_s or 0.0) / load.clients for client in range(load.clients)]
        begin_s = time.monotonic() + LEAD_S
        busy = list(zip(self._processes, range(load.clients)))
        for process, first in busy:
            process.request(
                transport=load.transport,
                begin_s=begin_s,
                end_s=begin_s + turn_s,
                offsets_s=offsets_s[first::MOST_PROCESSES],
                period_s=period_s,
            )
        tally = Tally()
        for process, first in busy:
            part = Tally(**process.receive(turn_s + ANSWER_WITHIN_S))
            part.frames_of = {f"{first}:{key}": count for key, count in part.frames_of.items()}
            tally.merge(part)
        tally.seconds = turn_s
        return tally


def raw_turn(process: JobProcess, turn_s: float) -> Tally:
    """Keep the raw engines busy for `turn_s` seconds."""
    begin_s = time.monotonic() + LEAD_S
    process.request(begin_s=begin_s, end_s=begin_s + turn_s)
    tally = Tally(**process.receive(turn_s + ANSWER_WITHIN_S))
    tally.seconds = turn_s
    return tally


def main(words: List[str]) -> int:
    """Open the job, take turns, close it."""
    signal.signal(signal.SIGTERM, exit_on_signal)
    memory.keep_heap()  # clients and raw engines get the process settings of the agent
    module, name = JOBS[words[0]]
    try:
        job_class = getattr(import_module(module), name)
        opened: ContextManager[BenchmarkJob] = job_class(**json.loads(words[1]))
        with opened as job:
            _write({})
            for line in sys.stdin:
                _write(job.turn(**json.loads(line)))
    except EdgeAgentError as error:
        _write({"error": str(error)})
        return 2
    except BrokenPipeError:
        return 1  # the benchmark has ended
    return 0


def exit_on_signal(number: int, _: object) -> NoReturn:
    """Unwind on a signal, so that no process and no shared memory stays behind."""
    raise SystemExit(128 + number)


def _write(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
