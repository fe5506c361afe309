"""The agent in a process of its own, as on a device."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from edge_agent.client import Client
from edge_agent.errors import AgentUnavailable

if TYPE_CHECKING:
    from subprocess import Popen

READY_WITHIN_S = 30
GONE_WITHIN_S = 15.0


@contextmanager
def running(models: Path, log: Path) -> Iterator[str]:
    """Serve the packages in folder `models`; yields the agent's address and ends with the agent.

    The agent's log goes to `log`. Raises AgentUnavailable when it does not come up or does not
    go down in order.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder, log.open("wb") as stderr:
        address = f"unix://{folder}/agent.sock"
        command = [sys.executable, "-m", "edge_agent", "serve", "--models", str(models)]
        command += ["--set", f"server.socket={address}"]
        # a session of its own: Ctrl-C reaches only the demo, which then stops the agent
        process = subprocess.Popen(command, stderr=stderr, start_new_session=True)
        try:
            _wait_ready(process, address, log)
            yield address
        except BaseException:
            _stop(process)
            raise
        code = _stop(process)
        if code != 0:
            raise AgentUnavailable(f"The agent ended with exit code {code}; its log is {log}.")


def _wait_ready(process: Popen[bytes], address: str, log: Path) -> None:
    with Client(address) as client:
        for _ in range(READY_WITHIN_S):
            if process.poll() is not None:
                break
            try:
                return client.wait_ready(1.0)
            except AgentUnavailable:
                continue
    raise AgentUnavailable(f"The agent did not come up; its log is {log}.")


def _stop(process: Popen[bytes]) -> int:
    """Send SIGTERM and return the exit code; an agent that hangs is killed."""
    process.terminate()
    try:
        return process.wait(GONE_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
