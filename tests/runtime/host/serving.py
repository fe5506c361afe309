"""A real agent process, started as a component of a (fake) nucleus."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

import numpy as np

from edge_agent.client import Client
from edge_agent.errors import EdgeAgentError
from edge_agent.types import ModelState, Prediction
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.fake_nucleus import FakeNucleus
from tests.runtime.results.outboxes import wait_until

FRAME = np.full((micro.SIZE, micro.SIZE, 3), 102, np.uint8)  # its score is 0.4
FRAME[::4, :, 1] = 200  # structure, as pictures of a camera have it
SOON = {"rescan_every_s": 0.1}


class ComponentAgent(Agent):
    """`edge-agent serve --greengrass`, with a model "bolts" that is registered in models.d."""

    def __init__(self, folder: Path, nucleus: FakeNucleus, *arguments: str) -> None:
        super().__init__(folder, *arguments, environment=nucleus.environment)
        self.work = folder / "work" / nucleus.component
        (self.work / "models.d").mkdir(parents=True)
        record = {
            "model_component": "bolts", "autostart": True,
            "package": str(micro.write(folder / "packages" / "bolts", "classification")),
        }  # fmt: skip
        (self.work / "models.d" / "bolts.json").write_text(json.dumps(record))
        nucleus.configure({"Socket": self.address, "models": SOON})

    def command(self) -> List[str]:
        serve = ["serve", "--greengrass", str(self.work)]
        return [sys.executable, "-m", "edge_agent", *serve, *self._arguments]

    def code(self, *arguments: str) -> int:
        """Run it to its end; return its exit status."""
        with (self.folder / "agent.log").open("ab") as log:
            command = [*self.command(), *arguments]
            done = subprocess.run(
                command, env=self.environment, stderr=log, check=False, timeout=60
            )
        return done.returncode

    def status(self) -> Dict[str, Any]:
        """Return what it last reported of itself: a sentence by part."""
        try:
            report = json.loads((self.work / "results" / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return {name: part["trouble"] for name, part in report["agent"].items()}

    def running(self) -> Client:
        """Return a client once the model runs."""
        self.wait_for("bolts", ModelState.RUNNING)
        return self.client()

    def records(self) -> List[Dict[str, Any]]:
        """Return the lines of the log."""
        return [json.loads(line) for line in self.log().splitlines() if line[:1] == "{"]

    def lines(self, part: str) -> List[str]:
        """Return the messages that have `part` in them."""
        return [one["message"] for one in self.records() if part in one["message"]]

    def troubles(self) -> List[str]:
        """Return the messages of warnings and errors."""
        return [one["message"] for one in self.records() if one["level"] in ("WARNING", "ERROR")]

    def wait_for_line(self, part: str) -> str:
        wait_until(lambda: bool(self.lines(part)))
        return self.lines(part)[0]


class Line:
    """Sends frames without a pause; keeps what came back."""

    def __init__(self) -> None:
        self.thresholds: Set[float] = set()
        self.answers = 0
        self.failures: List[str] = []
        self.latest: Dict[str, Prediction] = {}
        self._stopping = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self, client: Client) -> None:
        self._thread = threading.Thread(target=self._work, args=(client,))
        self._thread.start()
        wait_until(lambda: self.answers > 0)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, client: Client) -> None:
        while not self._stopping.wait(0.005):
            try:
                verdict = client.detect("bolts", FRAME)
            except EdgeAgentError as error:
                self.failures.append(str(error))
            else:
                self.answers += 1
                self.thresholds.add(round(verdict.threshold, 6))
                self.latest["bolts"] = verdict


@contextmanager
def frames_coming(agent: ComponentAgent) -> Iterator[Line]:
    """A line whose frames come all the time, until the context ends."""
    line = Line()
    with agent.running() as client:
        try:
            line.start(client)
            yield line
        finally:
            line.stop()


def burst(count: int) -> Dict[str, Any]:
    """Changes of `count` values at once, the threshold of "bolts" and publishing among them."""
    thresholds: Dict[str, Any] = {f"model-{number}": 0.5 for number in range(count - 2)}
    return {
        "models": {"thresholds": {**thresholds, "bolts": 0.25}},
        "results": {"publish": "anomalies"},
    }
