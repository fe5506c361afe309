"""Every server in turn: install, start, load, measure, and nothing left of it."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, List, Sequence, Tuple

import edge_agent
from edge_agent.benchmark import host_metrics, served
from edge_agent.errors import AgentUnavailable
from scripts.peers import environment, process
from scripts.peers.load import PeerLoad, drive
from scripts.peers.servers import PEERS, Launch, PeerServer
from scripts.peers.targets import PeerTarget, error_line, open_target

if TYPE_CHECKING:
    from subprocess import Popen

READY_WITHIN_S = 40.0
AGENT = "edge-agent"
AGENT_KINDS = ("agent, shared memory", "agent, bytes")


@dataclass(frozen=True)
class PeerResult:
    """One server over one transport, under the load of all clients together.

    `failures` are calls that raised; the other figures are of calls that were answered. CPU and
    memory are those of the server's whole process tree: CPU time per answered frame, and the
    proportional set (a page shared by n processes counts 1/n in each) right after the load.
    `score` is the server's result for the frame, `marked` the share of its mask's pixels that are
    not white: all servers must agree. `error` is the reason why there is no measurement.
    """

    name: str
    version: str
    transport: str
    frames_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    calls: int = 0
    failures: int = 0
    cpu_ms_per_frame: float = 0.0
    memory_mib: float = 0.0
    score: float = 0.0
    marked: float = 0.0
    error: str = ""


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

    def measure(self, name: str, version: str, kind: str, address: str, pid: int) -> PeerResult:
        """Load the server at `address`, whose process tree begins at `pid`."""
        target = PeerTarget(kind, address, self.size)
        try:
            load = drive(target, self.clients, self.seconds, lambda: process.usage(pid))
        except Exception as error:
            return PeerResult(name, version, kind, error=error_line(error))
        return _result(name, version, kind, load)


def measure_all(
    work: Work, peers: Sequence[str], on_start: Callable[[str], None]
) -> List[PeerResult]:
    """Measure the agent and then `peers` under the same load, one server at a time.

    A server that cannot be measured yields a PeerResult with the reason in `error`. `on_start` gets
    the name of each before it is measured.
    """
    on_start(AGENT)
    results = _agent(work)
    for name in peers:
        on_start(name)
        results += _peer(PEERS[name], work)
    return results


def _agent(work: Work) -> List[PeerResult]:
    version = edge_agent.__version__
    try:
        with served.agent(work.package, 1, work.cores) as address:
            pid = _listener(address)
            return [work.measure(AGENT, version, kind, address, pid) for kind in AGENT_KINDS]
    except Exception as error:
        reason = error_line(error)
        return [PeerResult(AGENT, version, kind, error=reason) for kind in AGENT_KINDS]


def _listener(address: str) -> int:
    pid = host_metrics.listening_pid(address)
    if pid is None:
        raise AgentUnavailable(f"The process that listens at {address} can't be found.")
    return pid


def _peer(peer: PeerServer, work: Work) -> List[PeerResult]:
    results: List[PeerResult] = []
    try:
        with _serving(peer, work) as (address, pid):
            for kind in peer.kinds:
                results.append(work.measure(peer.name, peer.version, kind, address, pid))
    except Exception as error:
        reason = error_line(error)
        rest = peer.kinds[len(results) :]
        results += [PeerResult(peer.name, peer.version, kind, error=reason) for kind in rest]
    return results


@contextmanager
def _serving(peer: PeerServer, work: Work) -> Iterator[Tuple[str, int]]:
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
            _wait_for_answer(server, PeerTarget(peer.kinds[0], address, work.size), log)
            yield address, server.pid


def _wait_for_answer(server: Popen[bytes], target: PeerTarget, log: Path) -> None:
    """Raise RuntimeError with the log's last lines when the server answers no frame in time."""
    end = time.monotonic() + READY_WITHIN_S
    last_error = "no call was made"
    while time.monotonic() < end and server.poll() is None:
        try:
            with open_target(target) as connection:
                connection.read(connection.call())
        except Exception as error:
            last_error = error_line(error)
            time.sleep(0.5)
        else:
            return
    last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-4:])
    state = (
        "doesn't answer" if server.poll() is None else f"ended with exit code {server.returncode}"
    )
    raise RuntimeError(f"The server {state} ({last_error}). Its log ends: {last}")


def _result(name: str, version: str, kind: str, load: PeerLoad) -> PeerResult:
    calls = len(load.latencies_ms)
    failures = sum(client.failures for client in load.clients)
    p50_ms, p99_ms = load.points_ms()
    reply = load.clients[0].reply
    return PeerResult(
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
