"""The servers that are measured, each in a process of its own, and what they hold."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, NamedTuple

STARTS_WITHIN_S, ENDS_WITHIN_S = 60.0, 30.0
SERVICE = [sys.executable, "-m", "edge_agent", "service"]
SETTINGS = {"quotas": {"calls_per_s": 1e6, "burst": 1000000, "models": 20000}}


class Server(NamedTuple):
    """A server that answers on a port of 127.0.0.1."""

    port: int
    pid: int

    def memory_mib(self) -> float:
        """Return its share of the memory (PSS), without child processes."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(rollup.split("\nPss:")[1].split()[0]) / 1024


@contextmanager
def service(root: Path) -> Iterator[Server]:
    """Run the service below `root`."""
    port, config = _free_port(), root.with_suffix(".json")
    config.write_text(json.dumps(SETTINGS))
    words = ["--root", str(root), "--listen", f"127.0.0.1:{port}", "--config", str(config)]
    with _running([*SERVICE, "serve", *words], port, root.with_suffix(".log")) as server:
        yield server


@contextmanager
def bare(folder: Path) -> Iterator[Server]:
    """Run the bare application under the same server as the service."""
    port = _free_port()
    words = [sys.executable, "-m", "uvicorn", "scripts.service_bench.bare:app", "--port", str(port)]
    options = ["--http", "h11", "--loop", "asyncio", "--lifespan", "off", "--no-access-log"]
    with _running([*words, *options], port, folder / "bare.log") as server:
        yield server


def add_key(root: Path) -> Dict[str, str]:
    """Return a new access key of the service, as AWS's tools name its parts."""
    words = [*SERVICE, "keys", "add", "--root", str(root), "--json"]
    done = subprocess.run(words, check=True, capture_output=True)
    key: Dict[str, str] = json.loads(done.stdout)
    return key


@contextmanager
def _running(words: list[str], port: int, log: Path) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=dict(os.environ))
    try:
        _await_port(process, port, log)
        yield Server(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"A server didn't start: {log.read_text()}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
