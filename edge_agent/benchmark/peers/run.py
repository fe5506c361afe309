"""Every server in turn: install, start, load, measure, and nothing left of it."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Sequence, Tuple

import edge_agent
from edge_agent.benchmark import process_usage, served
from edge_agent.benchmark.peers import environment, process
from edge_agent.benchmark.peers.catalog import PEERS
from edge_agent.benchmark.peers.load import Load, drive
from edge_agent.benchmark.peers.peer import Launch, Peer
from edge_agent.benchmark.peers.result import Result
from edge_agent.benchmark.peers.targets import Target, open_target, words
from edge_agent.errors import AgentUnavailable

if TYPE_CHECKING:
    from subprocess import Popen

READY_WITHIN_S = 40.0
AGENT = "edge-agent"
AGENT_KINDS = ("agent, shared memory", "agent, bytes")


@dataclass(frozen=True)
class Work:
    """What every server is given."""

    package: Path
    size: Tuple[int, int]  # the frame's (width, height)
    seconds: float
    clients: int

    @property
    def cores(self) -> int:
        """How many cores this process, and with it every server and client, may use."""
        return len(os.sched_getaffinity(0))

    def measure(self, name: str, version: str, kind: str, address: str, pid: int) -> Result:
        """Load the server at `address`, whose process tree begins at `pid`."""
        target = Target(kind, address, self.size)
        try:
            load = drive(target, self.clients, self.seconds, lambda: process.usage(pid))
        except Exception as error:
            return Result(name, version, kind, error=words(error))
        return _result(name, version, kind, load)


def run_peers(
    work: Work,
    peers: Sequence[str] = tuple(PEERS),
    tell: Callable[[str], Any] = lambda _line: None,
) -> List[Result]:
    """Measure the agent and then `peers` under the same load, one server at a time.

    A server that cannot be measured yields a Result with the reason in `error`. `tell` hears what
    is measured next.
    """
    tell(AGENT)
    results = _agent(work)
    for name in peers:
        tell(name)
        results += _peer(PEERS[name], work)
    return results


def _agent(work: Work) -> List[Result]:
    version = edge_agent.__version__
    try:
        with served.agent(work.package, 1, work.cores) as address:
            pid = _listener(address)
            return [work.measure(AGENT, version, kind, address, pid) for kind in AGENT_KINDS]
    except Exception as error:
        reason = words(error)
        return [Result(AGENT, version, kind, error=reason) for kind in AGENT_KINDS]


def _listener(address: str) -> int:
    pid = process_usage.listening_pid(address)
    if pid is None:
        raise AgentUnavailable(f"The process that listens at {address} can't be found.")
    return pid


def _peer(peer: Peer, work: Work) -> List[Result]:
    results: List[Result] = []
    try:
        with _serving(peer, work) as (address, pid):
            for kind in peer.kinds:
                results.append(work.measure(peer.name, peer.version, kind, address, pid))
    except Exception as error:
        reason = words(error)
        rest = peer.kinds[len(results) :]
        results += [Result(peer.name, peer.version, kind, error=reason) for kind in rest]
    return results


@contextmanager
def _serving(peer: Peer, work: Work) -> Iterator[Tuple[str, int]]:
    """Install and start `peer`; yields address and process id once it has answered a frame."""
    with tempfile.TemporaryDirectory(prefix="edge-agent-peer-") as name:
        folder = Path(name)
        python = environment.install(peer, folder / "python")
        site = folder / "server"
        site.mkdir()
        variables = {**environment.variables(folder / "package"), "TMPDIR": str(site)}
        ports = process.free_ports()
        command = peer.prepare(Launch(python, site, work.package, work.cores, ports))
        log = folder / "log"
        with process.running(command, site, variables, log) as server:
            address = f"127.0.0.1:{ports[0]}"
            _wait_for_answer(server, Target(peer.kinds[0], address, work.size), log)
            yield address, server.pid


def _wait_for_answer(server: Popen[bytes], target: Target, log: Path) -> None:
    """Raise RuntimeError with the log's last lines when the server answers no frame in time."""
    end = time.monotonic() + READY_WITHIN_S
    heard = "nothing was tried"
    while time.monotonic() < end and server.poll() is None:
        try:
            with open_target(target) as connection:
                connection.read(connection.call())
        except Exception as error:
            heard = words(error)
            time.sleep(0.5)
        else:
            return
    last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-4:])
    state = "doesn't answer" if server.poll() is None else f"ended with {server.returncode}"
    raise RuntimeError(f"The server {state} ({heard}). Its log ends: {last}")


def _result(name: str, version: str, kind: str, load: Load) -> Result:
    calls = len(load.latencies_ms)
    failures = sum(client.failures for client in load.clients)
    p50_ms, p99_ms = load.points_ms()
    reply = load.clients[0].reply
    return Result(
        name=name,
        version=version,
        transport=kind,
        frames_per_s=calls / load.seconds,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        calls=calls,
        failures=failures,
        cpu_ms_per_frame=1000 * (load.after.cpu_s - load.before.cpu_s) / max(calls, 1),
        memory_mib=load.after.memory_mib,
        score=reply.score,
        marked=reply.marked,
        error="" if calls else next(client.error for client in load.clients),
    )
