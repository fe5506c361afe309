"""Closed-loop clients in processes of their own: each sends its next frame when one is answered."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Tuple

import numpy as np

from scripts.peers.process import TreeUsage
from scripts.peers.targets import PeerReply, PeerTarget, error_line, open_target

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

READY_WITHIN_S = 60.0  # from a client's start to its first answer
END_WITHIN_S = 35.0  # a last call may take 30 s
LEAVE_WITHIN_S = 2.0
WARM_CALLS = 3


@dataclass(frozen=True)
class ClientReport:
    """What one client saw: seconds of each answered call, calls that raised, the last error."""

    latencies_s: List[float]
    failures: int
    error: str
    reply: PeerReply


@dataclass(frozen=True)
class PeerLoad:
    """What all clients saw in `seconds`, and what the server had used before and after."""

    clients: List[ClientReport]
    seconds: float
    before: TreeUsage
    after: TreeUsage

    @property
    def latencies_ms(self) -> List[float]:
        """Every answered call's time."""
        return [1000 * one for client in self.clients for one in client.latencies_s]

    def points_ms(self) -> Tuple[float, float]:
        """Return the median and the 99 % point."""
        p50, p99 = np.percentile(self.latencies_ms or [0.0], (50, 99))
        return float(p50), float(p99)


def drive(
    target: PeerTarget, clients: int, seconds: float, observe: Callable[[], TreeUsage]
) -> PeerLoad:
    """Call `target` from `clients` processes for `seconds`; `observe` measures the server.

    Raises RuntimeError with a client's reason when one gets no first answer.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(clients + 1)
    with _clients(spawn, clients, (target, seconds, barrier)) as pipes:
        try:
            barrier.wait(READY_WITHIN_S)
        except threading.BrokenBarrierError:
            raise RuntimeError(_reason(pipes)) from None
        before = observe()
        time.sleep(seconds)
        after = observe()
        reports = [_receive(pipe) for pipe in pipes]
    return PeerLoad(reports, seconds, before, after)


@contextmanager
def _clients(spawn: Any, count: int, work: Tuple[Any, ...]) -> Iterator[List[Connection]]:
    pipes: List[Connection] = []
    processes: List[BaseProcess] = []
    try:
        for _ in range(count):
            receiver, sender = spawn.Pipe(duplex=False)
            processes.append(spawn.Process(target=_client, args=(sender, *work), daemon=True))
            processes[-1].start()
            sender.close()
            pipes.append(receiver)
        yield pipes
    finally:
        for process in processes:
            process.join(LEAVE_WITHIN_S)
            process.terminate()  # leaves its `with` blocks; nothing happens when it has ended
            process.join(LEAVE_WITHIN_S)
            process.kill()


def _client(pipe: Connection, target: PeerTarget, seconds: float, barrier: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark ends its clients
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with open_target(target) as connection:
            for _ in range(WARM_CALLS):
                connection.call()
            reply = connection.read(connection.call())
            barrier.wait(READY_WITHIN_S)
            pipe.send(_loop(connection.call, reply, seconds))
    except Exception as error:
        barrier.abort()
        pipe.send(error_line(error))


def _loop(call: Callable[[], object], reply: PeerReply, seconds: float) -> ClientReport:
    latencies_s: List[float] = []
    failures, error = 0, ""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        try:
            call()
        except Exception as caught:
            failures, error = failures + 1, error_line(caught)
        else:
            answered = time.perf_counter()
            if answered <= end:
                latencies_s.append(answered - began)
    return ClientReport(latencies_s, failures, error, reply)


def _receive(pipe: Connection) -> ClientReport:
    if not pipe.poll(END_WITHIN_S):
        raise RuntimeError(f"A client didn't end within {END_WITHIN_S:g} s.")
    report = pipe.recv()
    if isinstance(report, ClientReport):
        return report
    raise RuntimeError(report)


def _reason(pipes: List[Connection]) -> str:
    """Return the first error that is not another client's fault."""
    errors = [pipe.recv() for pipe in pipes if pipe.poll(1.0)]
    first = [one for one in errors if "BrokenBarrier" not in str(one)]
    return str((first or ["No client got an answer."])[0])
