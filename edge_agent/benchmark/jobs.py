"""A job in a process of its own: `python -m edge_agent.benchmark.jobs JOB OPTIONS`.

One JSON object a line: `{}` when the job is open, then one answer for each turn asked for on
standard input. It ends, and leaves nothing behind, when standard input does, so also when the
benchmark is killed. An error is told as {"error": ...}.
"""

from __future__ import annotations

import json
import signal
import sys
from importlib import import_module
from typing import Any, List

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.system import memory

JOBS = {
    "clients": ("edge_agent.benchmark.clients", "ClientsJob"),
    "flood": ("edge_agent.benchmark.flood", "FloodJob"),
    "raw": ("edge_agent.benchmark.raw", "RawJob"),
    "bare": ("edge_agent.benchmark.bare", "BareJob"),
    "calls": ("edge_agent.benchmark.calls", "CallsJob"),
}


def main(words: List[str]) -> int:
    """Open the job, take turns, close it."""
    signal.signal(signal.SIGTERM, _leave)
    memory.keep_heap()  # clients and raw engines get the process settings of the agent
    module, name = JOBS[words[0]]
    try:
        with getattr(import_module(module), name)(**json.loads(words[1])) as job:
            _tell({})
            for line in sys.stdin:
                _tell(job.turn(**json.loads(line)))
    except EdgeAgentError as error:
        _tell({"error": str(error)})
        return 2
    except BrokenPipeError:
        return 1  # nobody listens any more
    return 0


def _tell(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _leave(number: int, _: Any) -> None:
    """Unwind on a signal, so that no segment stays behind."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
