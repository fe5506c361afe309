"""The agent in a process of its own, as on a device: for the demo, the benchmark, `gpu_check`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence

from edge_agent.client import Client
from edge_agent.errors import AgentUnavailable

if TYPE_CHECKING:
    from subprocess import Popen

READY_WITHIN_S = 120  # a busy or slow machine takes its time
EXIT_WITHIN_S = 15.0


class AgentProcess:
    """An agent that serves the packages in folder `models`, as long as the context is open.

    settings: NAME=VALUE. log: file of its log; None: our standard error. `address` is known from
    the start. Raises AgentUnavailable on entering when the agent does not start.
    """

    def __init__(
        self, models: Path, settings: Sequence[str] = (), log: Optional[Path] = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-agent-process-")
        self.address = f"unix://{self._folder.name}/agent.sock"
        self._command = [sys.executable, "-m", "edge_agent", "serve", "--models", str(models)]
        self._command += ["--socket", self.address]
        for setting in settings:
            self._command += ["--set", setting]
        self._log = log
        self._exit_code = 0

    def __enter__(self) -> AgentProcess:
        with ExitStack() as stack:
            stack.enter_context(self._folder)
            stderr = stack.enter_context(self._log.open("wb")) if self._log else None
            # a session of its own: Ctrl-C reaches only us, and we then stop the agent
            process = subprocess.Popen(self._command, stderr=stderr, start_new_session=True)
            stack.callback(self._stop, process)
            self._wait_ready(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check_exit(self) -> None:
        """Raise AgentUnavailable unless it has stopped without an error."""
        if self._exit_code != 0:
            raise AgentUnavailable(
                f"The agent ended with exit code {self._exit_code}; see its log{self._log_place}."
            )

    @property
    def _log_place(self) -> str:
        return f", {self._log}" if self._log else " above"

    def _wait_ready(self, process: Popen[bytes]) -> None:
        with Client(self.address) as client:
            for _ in range(READY_WITHIN_S):
                if process.poll() is not None:
                    break
                try:
                    return client.wait_ready(1.0)
                except AgentUnavailable:
                    continue
        raise AgentUnavailable(f"The agent did not start; see its log{self._log_place}.")

    def _stop(self, process: Popen[bytes]) -> None:
        """Send SIGTERM; an agent that hangs is killed."""
        process.terminate()
        try:
            self._exit_code = process.wait(EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self._exit_code = process.wait()
