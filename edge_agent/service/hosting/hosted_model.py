"""One model that is being served: its thread runs a runtime, and another one when that one dies."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Callable, Optional

from edge_agent.errors import AgentUnavailable, ModelError, WrongModelState
from edge_agent.runtime.processes.restart_policy import RestartPolicy
from edge_agent.service.hosting.base import RuntimeOrder
from edge_agent.service.hosting.pictures import pixels_of
from edge_agent.service.hosting.places import Places
from edge_agent.service.hosting.runtime_process import RuntimeProcess
from edge_agent.service.hosting.statuses import HostingStatus
from edge_agent.service.server_paths import without_paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.service.hosting.hosted_models import Shared
    from edge_agent.types import Prediction

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each restart; then it has failed
WITHIN_S = 300.0  # deaths before that don't count
REPLACED_WITHIN_S = 5.0  # a picture waits so long for the next runtime
MOST_CALLS = 12  # that wait for the runtime's answers; a hung one must not hold those of others
LOOK_EVERY_S = 0.1  # whether another model's start has left a place

log = logging.getLogger(__name__)


class HostedModel:
    """Serves a model from `start` until `end` or until its runtimes have died too often."""

    def __init__(
        self,
        order: RuntimeOrder,
        shared: Shared,
        status: HostingStatus,
        on_end: Callable[[], None],
    ) -> None:
        """`on_end` is called at its end, before `status` has that recorded."""
        self._order, self._shared, self._status, self._on_end = order, shared, status, on_end
        self._calls = Places(MOST_CALLS)
        self._policy = RestartPolicy(PAUSES_S, WITHIN_S)
        self._changed = threading.Condition()
        self._runtime: Optional[RuntimeProcess] = None  # the one that is there
        self._ready: Optional[RuntimeProcess] = None  # the same, once it answers
        self._is_ending = False
        self._thread = threading.Thread(
            target=self._work, name=f"hosting {order.name}", daemon=True
        )

    def start(self) -> None:
        """Begin; its runtimes end with the thread."""
        self._thread.start()

    def end(self) -> None:
        """Have it ended, calls in flight first; returns at once."""
        with self._changed:
            self._is_ending = True
            if self._runtime is not None:
                self._runtime.hang_up()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def detect(self, picture: bytes) -> Prediction:
        """Judge a JPEG or PNG file; see `ModelHost.detect` for what is raised."""
        with self._calls.held():
            with self._shared.pictures.held():
                pixels = pixels_of(picture, self._order.package)
            return self._judge(pixels)

    def _judge(self, pixels: NDArray[np.uint8]) -> Prediction:
        """Have a runtime judge the pixels; another one when it has gone meanwhile."""
        end, lost = time.monotonic() + REPLACED_WITHIN_S, None
        while True:
            runtime = self._other_than(lost, end)
            try:
                return runtime.detect(pixels)
            except (AgentUnavailable, WrongModelState):
                lost = runtime

    def _other_than(self, lost: Optional[RuntimeProcess], end: float) -> RuntimeProcess:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_ending or self._ready not in (None, lost), end - time.monotonic()
            )
            if self._is_ending:
                raise WrongModelState("The model is being stopped.")
            if self._ready is None or self._ready is lost:
                raise AgentUnavailable("What serves the model is being replaced. Call again.")
            return self._ready

    def _work(self) -> None:
        why = "The service couldn't go on with it; its log says why."
        try:
            why = self._serve()
        except ModelError as error:
            why = str(error)
        except Exception:
            log.exception("Hosting model %s has failed.", self._order.name)
        self._on_end()
        if self._is_ending:
            self._status.stopped()
        else:
            log.error("Model %s isn't hosted any more: %s", self._order.name, why)
            self._status.failed(self._shown(why))

    def _serve(self) -> str:
        """Run one runtime after the other; return why there is no further one."""
        while True:
            how = self._run()
            if self._is_ending:
                return ""
            pause_s = self._policy.pause_s()
            if pause_s is None:
                return f"The runtime {how}. It died {self._policy}; start the model again."
            log.warning("The runtime of model %s %s. It is replaced.", self._order.name, how)
            self._status.replacing(self._shown(f"The runtime {how}. It is being replaced."))
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending, pause_s)

    def _run(self) -> str:
        """Run one runtime to its end; return how it ended, as the end of a sentence."""
        with ExitStack() as place:
            if not self._waits_for_place():
                return ""
            place.callback(self._shared.starts.release)
            try:
                runtime = RuntimeProcess(self._order, self._shared.prefix)
            except OSError as error:
                return f"can't be started: {error.strerror or error}"
            with runtime:
                self._holds(runtime)
                try:
                    for _ in runtime.answers():
                        place.close()  # once it has started
                        self._policy.succeeded()
                        self._serves(runtime)
                finally:
                    self._holds(None)
                return str(runtime.end())

    def _waits_for_place(self) -> bool:
        """Wait until few enough others start; False when it is to end before."""
        while not self._shared.starts.acquire(timeout=LOOK_EVERY_S):
            if self._is_ending:
                return False
        return True

    def _shown(self, sentence: str) -> str:
        return without_paths(sentence, {self._order.package: "the model's package"})

    def _holds(self, runtime: Optional[RuntimeProcess]) -> None:
        with self._changed:
            self._runtime, self._ready = runtime, None
            if self._is_ending and runtime is not None:
                runtime.hang_up()

    def _serves(self, runtime: RuntimeProcess) -> None:
        if self._ready is runtime:
            return
        with self._changed:
            self._ready = runtime
            self._changed.notify_all()
        self._status.hosted()
