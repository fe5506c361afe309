"""What a child process does for its parent: connects, answers, ends with it, gives way to it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

from edge_agent.runtime.processes.channel import Channel

PR_SET_PDEATHSIG = 1  # prctl(2)
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # number of the system call
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13
LOWEST_NICE = 19
FIRST_TO_END = "1000"  # of /proc/self/oom_score_adj


def connect(arguments: Sequence[str]) -> Channel:
    """Return the channel to the parent, by the last arguments of the command line.

    From now on the kernel kills this process when the thread that started it ends, however this
    one hangs. If the parent has gone already, this process ends here.
    """
    descriptor, parent = map(int, arguments[-2:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(0)
    return Channel(socket.socket(fileno=descriptor))


@contextmanager
def answering() -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Yield what reports a fact to `inquiry.ask`; in a process started by hand it prints them."""
    if sys.argv[1:]:
        yield connect(sys.argv).send
    else:
        yield _print


def _print(fact: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def give_way() -> None:
    """Let everything else on the machine go first, and live longer when memory runs out."""
    os.nice(LOWEST_NICE)
    with suppress(KeyError):
        number = IOPRIO_SET[platform.machine()]
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_END)
