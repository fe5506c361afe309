"""A runtime that serves one model, in a process of its own behind a private socket."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional

import numpy as np

from edge_agent.client import Client
from edge_agent.errors import (
    AgentUnavailable,
    DeadlineExceeded,
    EdgeAgentError,
    FaultyPicture,
    ModelError,
    Overloaded,
    UserError,
)
from edge_agent.manifest import FILE_NAME
from edge_agent.protocol import SMALLEST_SIDE_PX
from edge_agent.runtime.processes.child_process import ChildProcess, Exit, python_module
from edge_agent.runtime.system import private_files
from edge_agent.service.hosting.base import RuntimeOrder
from edge_agent.service.hosting.client_pool import ClientPool
from edge_agent.types import ModelInfo, ModelState, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "model"  # its name inside the runtime
STARTS_WITHIN_S = 300.0
LOOK_EVERY_S = 0.1  # while it starts
CHECK_EVERY_S = 2.0  # afterwards
ANSWERS_WITHIN_S = 20.0  # a frame, or the question how it is; SDKs wait for 60 s
ENDS_WITHIN_S = 10.0


class RuntimeProcess:
    """The process; it belongs to the thread that makes it, and ends with it (see ChildProcess).

    `detect` and `hang_up` are for every thread.
    """

    def __init__(self, order: RuntimeOrder, prefix: str) -> None:
        """Start it; its socket lies in a new folder for temporary files, named after `prefix`.

        Raises OSError, ModelError.
        """
        if not (order.package / FILE_NAME).is_file():
            raise ModelError(f"The model's files aren't there: its package has no {FILE_NAME}.")
        self._folder = Path(tempfile.mkdtemp(prefix=prefix))  # mode 0700
        self._socket = self._folder / "agent.sock"
        self._address = f"unix://{self._socket}"
        self._clients = ClientPool(self._address, ANSWERS_WITHIN_S)
        try:
            above, name = self._folder.parent, self._folder.name
            os.close(private_files.open_subfolder(above, name, make=False))  # checks `above`
            models = self._folder / "models"
            models.mkdir()
            (models / MODEL).symlink_to(order.package.resolve())
            self._child = ChildProcess(
                python_module(f"{__package__}.runtime_main", *self._arguments(order, models)),
                name=f"The runtime of model {order.name}",
                within_s=STARTS_WITHIN_S,
                late=f"it wasn't ready after {STARTS_WITHIN_S:g} s",
                ends_within_s=ENDS_WITHIN_S,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> RuntimeProcess:
        return self

    def __exit__(self, *failure: object) -> None:
        self._child.__exit__(*failure)
        self._clients.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def answers(self) -> Iterator[None]:
        """Yield each time it is found to serve the model, until it ends.

        Raises ModelError when it can't serve it, with the reason.
        """
        if not self._becomes_ready():
            return
        self._child.lift_limit()
        yield
        answered = time.monotonic()
        for _ in self._child.messages(CHECK_EVERY_S):
            if self._is_well():
                answered = time.monotonic()
                yield
            elif time.monotonic() > answered + ANSWERS_WITHIN_S:
                self._child.kill(f"it has served nobody for {ANSWERS_WITHIN_S:g} s")

    def end(self) -> Exit:
        """Wait for its end; return how it ended."""
        return self._child.end()

    def detect(self, image: NDArray[np.uint8]) -> Prediction:
        """Judge `image`, uint8 RGB (height, width, 3). Raises what `Client.detect` raises."""
        with self._clients.client() as client:
            try:
                return client.detect(MODEL, image)
            except (AgentUnavailable, ModelError, UserError):
                raise
            except EdgeAgentError:  # there is no room in /dev/shm, which is small in containers
                return client.detect(MODEL, image, transport="bytes")

    def hang_up(self) -> None:
        """Let calls in flight finish, then end it."""
        self._child.hang_up()

    def _arguments(self, order: RuntimeOrder, models: Path) -> List[str]:
        config = ["--config", str(order.settings.resolve())] if order.settings else []
        return [
            "serve", *config, "--models", str(models), "--autostart",
            "--socket", self._address,
            "--set", f"engine.min_inference_units={order.least_units}",
            "--set", f"engine.max_inference_units={order.most_units}",
        ]  # fmt: skip

    def _becomes_ready(self) -> bool:
        """Wait until it serves the model; False when it ends before."""
        for _ in self._child.messages(LOOK_EVERY_S):
            info = self._look()
            if info is None or info.state is ModelState.STARTING:
                continue
            if info.state is not ModelState.RUNNING:
                raise ModelError(info.message or f"The model is {info.state.name} in its runtime.")
            return self._judges()
        return False

    def _look(self) -> Optional[ModelInfo]:
        """Return how the model is; None as long as nobody answers, or the model isn't known yet."""
        if not self._socket.exists():
            return None
        try:  # as a new caller, who needs that it takes connections
            with Client(self._address, ANSWERS_WITHIN_S) as client:
                return client.describe(MODEL)
        except DeadlineExceeded:
            self._child.kill(f"it gave no answer for {ANSWERS_WITHIN_S:g} s")
        except EdgeAgentError:
            pass
        return None

    def _judges(self) -> bool:
        """Have one picture judged; one that gives no answer is killed. Raises ModelError."""
        side = SMALLEST_SIDE_PX
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        try:
            self.detect(noise)
        except FaultyPicture:
            return True  # it works, and its settings refuse such pictures
        except AgentUnavailable:
            return False  # it is about to end
        except (DeadlineExceeded, Overloaded) as error:
            self._child.kill(f"it judged no picture: {error}")
            return False
        except EdgeAgentError as error:
            raise ModelError(f"The model is loaded, but judges no picture: {error}") from None
        return True

    def _is_well(self) -> bool:
        """Whether it serves the model; one whose model has failed is killed."""
        info = self._look()
        if info is not None and info.state is ModelState.FAILED:
            self._child.kill(f"its model failed: {info.message}")
        return info is not None and info.state is ModelState.RUNNING
