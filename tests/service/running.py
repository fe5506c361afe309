"""A real service process on a real port, with the commands that a user has."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Type

from tests.service.aws import Aws

COMMAND = [sys.executable, "-m", "edge_agent", "service"]
ACCOUNT = "123456789012"


class RunningService:
    """`edge-agent service serve` below `folder`; its log is `folder/service.log`."""

    def __init__(self, folder: Path, settings: Optional[Dict[str, Any]] = None) -> None:
        """`settings`: what `--config` names, in the words of `ServiceSettings`."""
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._config = folder / "service.json"
        self._config.write_text(json.dumps(settings or {}))
        self.process: Optional[subprocess.Popen[bytes]] = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> RunningService:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def bucket(self, name: str) -> Path:
        """The folder of a bucket, made when it isn't there."""
        path = self.root / "buckets" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def user(self, account: str = ACCOUNT) -> Aws:
        """Make an access key of an account and return who has it."""
        words = [*COMMAND, "keys", "add", "--root", str(self.root), "--account", account, "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        key = json.loads(done.stdout)
        return Aws(self.endpoint, key["AccessKeyId"], key["SecretAccessKey"])

    def start(self, within_s: float = 60.0) -> None:
        words = [
            *COMMAND, "serve", "--root", str(self.root), "--listen", f"127.0.0.1:{self.port}",
            "--config", str(self._config),
        ]  # fmt: skip
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=dict(os.environ))
        try:
            self._await_port(within_s)
        except BaseException:
            self.kill()
            raise

    def _await_port(self, within_s: float) -> None:
        assert self.process is not None
        end = time.monotonic() + within_s
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            code = self.process.poll()
            assert code is None, f"The service ended with {code} at its start: {self.log()}"
            assert time.monotonic() < end, f"The service does not listen: {self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def kill(self) -> None:
        """As a crash ends it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, within_s: float = 60.0) -> int:
        """SIGTERM, wait, return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
