"""A real agent process on a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Optional, Type

import grpc

from edge_agent.client import Client
from edge_agent.errors import AgentUnavailable
from edge_agent.types import ModelInfo, ModelState


class Agent:
    """`edge-agent serve` in a child process; its log goes to `folder/agent.log`."""

    def __init__(self, folder: Path, *arguments: str, environment: Optional[Dict[str, str]] = None):
        self.folder = folder
        self.models = folder / "models"
        self.models.mkdir(exist_ok=True)
        self.socket = folder / "agent.sock"
        self.address = f"unix://{self.socket}"
        self._arguments = arguments
        # Micro models score frames of one colour, of which cameras without a fault send none.
        judged = {"EDGE_AGENT_DECISION__CAMERA_PROBLEM": "report"}
        self.environment = {**os.environ, **judged, **(environment or {})}
        self.process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def command(self) -> List[str]:
        return [
            sys.executable, "-m", "edge_agent", "serve",
            "--models", str(self.models), "--socket", self.address,
            "--set", "models.rescan_every_s=0.1", "--set", "models.remove_after_s=0.2",
            *self._arguments,
        ]  # fmt: skip

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stderr=log, stdout=log, env=self.environment
            )
        try:
            self._await_socket(90.0)
            self._await_answer(90.0)
        except Exception:
            self.kill()
            raise

    def _await_socket(self, within_s: float) -> None:
        """A plain connect, because a channel waits a second before it tries again."""
        assert self.process is not None
        end = time.monotonic() + within_s
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    return probe.connect(str(self.socket))
                except OSError:
                    pass
            code = self.process.poll()
            assert code is None, f"The agent ended with {code} at its start: {self.log()}"
            assert time.monotonic() < end, f"The agent does not listen: {self.log()}"
            time.sleep(0.01)

    def _await_answer(self, within_s: float) -> List[ModelInfo]:
        """It comes once the agent knows its models; one that falls back listens twice."""
        end = time.monotonic() + within_s
        with self.client() as client:
            while True:
                try:
                    return client.models()
                except AgentUnavailable:
                    assert self.process is not None
                    if self.process.poll() is not None or time.monotonic() > end:
                        raise
                    time.sleep(0.01)

    def client(self, timeout_s: float = 90.0) -> Client:
        return Client(self.address, timeout_s)

    def channel(self) -> grpc.Channel:
        """A channel as existing clients make it: default options."""
        return grpc.insecure_channel(self.address)

    def run(self, name: str) -> None:
        with self.client() as client:
            client.start(name)

    def wait_for(self, name: str, state: ModelState, within_s: float = 60.0) -> ModelInfo:
        end = time.monotonic() + within_s
        with self.client() as client:
            while True:
                found = {info.name: info for info in client.models()}.get(name)
                if found is not None and found.state is state:
                    return found
                assert time.monotonic() < end, f"{name} is {found}, not {state}"
                time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def resident_bytes(self) -> int:
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, wait, return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)
