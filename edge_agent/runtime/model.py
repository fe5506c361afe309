"""One served model: its life as a table, what it is loaded into, and the calls it answers.

All methods run on the event loop, so the state needs no lock; loading and closing happen in
threads.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable, Coroutine, Dict, Optional, Tuple, TypeVar

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, ModelError, WrongModelState
from edge_agent.manifest import MODEL_FILE, Manifest
from edge_agent.runtime import memory
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.batching.batcher import Batcher
from edge_agent.runtime.instance import InferenceUnit
from edge_agent.runtime.package import Package
from edge_agent.runtime.store import Registration
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import ModelInfo, ModelState, Prediction

log = logging.getLogger(__name__)
Result = TypeVar("Result")
THREAD_NAME = "model"


class Event(enum.Enum):
    """What can happen to a model."""

    START = "start"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    STOP = "stop"
    FREED = "freed"


# The only moves there are; anything else is refused with the state it was met in.
TRANSITIONS: Dict[Tuple[ModelState, Event], ModelState] = {
    (ModelState.STOPPED, Event.START): ModelState.STARTING,
    (ModelState.FAILED, Event.START): ModelState.STARTING,
    (ModelState.STARTING, Event.LOADED): ModelState.RUNNING,
    (ModelState.STARTING, Event.LOAD_FAILED): ModelState.FAILED,
    (ModelState.RUNNING, Event.STOP): ModelState.STOPPING,
    (ModelState.STOPPING, Event.FREED): ModelState.STOPPED,
}


@dataclass(frozen=True)
class Loaded:
    """A model in memory, warm."""

    registration: Registration
    manifest: Manifest
    batcher: Batcher
    summary: str

    def close(self, within_s: float) -> bool:
        """Finish what waits and free everything; False when calls were cut off."""
        finished = self.batcher.close(within_s)
        memory.give_back()
        return finished


def load(registration: Registration, engine: EngineSettings, limit_bytes: int) -> Loaded:
    """Verify, open and warm the package. Raises ModelError."""
    package = Package(registration.package, limit_bytes)
    manifest = registration.apply(package.manifest)
    model = package.read_model()
    units = engine.inference_units or manifest.runtime.min_inference_units
    threads = engine.threads or max(1, (os.cpu_count() or 1) // units)
    options = BackendOptions(threads, engine.spinning, engine.memory_arena)
    instances = []
    for _ in range(units):
        backend = open_backend(engine.backends, model, manifest, options)
        instances.append(InferenceUnit(backend, manifest))
        instances[-1].warm_up()
    summary = (
        f"Version {manifest.version}, {backend.name} on {backend.device}, "
        f"{units} inference unit{'s' * (units > 1)} of {threads} thread{'s' * (threads > 1)}."
    )
    return Loaded(registration, manifest, Batcher(instances, engine.queue_length), summary)


class ServedModel:
    """A deployed model and the state it is in; `on_change` hears of every change of state."""

    def __init__(
        self,
        registration: Registration,
        models: ModelsSettings,
        engine: EngineSettings,
        on_change: Callable[[ModelInfo], None],
    ) -> None:
        self.registration = registration
        self._models, self._engine = models, engine
        self._on_change = on_change
        self._state, self._message = ModelState.STOPPED, ""
        self._loaded: Optional[Loaded] = None
        self._loading: Optional[asyncio.Task[None]] = None
        self._swapping = asyncio.Lock()

    @property
    def name(self) -> str:
        """The name clients call it by."""
        return self.registration.name

    @property
    def state(self) -> ModelState:
        """Where in its life it is."""
        return self._state

    def info(self) -> ModelInfo:
        """Return what Describe tells."""
        return ModelInfo(self.name, self._state, self._message, self.registration.arn)

    def submit(self, opened: OpenFrame, deadline: Optional[float]) -> Future[Prediction]:
        """Queue a frame. Raises WrongModelState unless RUNNING, Overloaded when it is full."""
        return self._serving().batcher.submit(opened, deadline)

    def manifest(self) -> Manifest:
        """Return the manifest in force. Raises WrongModelState unless RUNNING."""
        return self._serving().manifest

    def start(self) -> None:
        """Begin to load and return at once. Raises WrongModelState, OutOfMemory."""
        if (self._state, Event.START) not in TRANSITIONS:
            raise self._refusal("started")
        self._check_memory()
        self._move(Event.START, "Loading.")
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def stop(self) -> None:
        """Refuse new calls, finish those in flight, free. Raises WrongModelState unless RUNNING.

        Goes on to its end even when the caller is cancelled.
        """
        loaded = self._serving("stopped")
        self._move(Event.STOP, "Waiting for calls in flight.")
        self._loaded = None
        await asyncio.shield(asyncio.ensure_future(self._free(loaded)))

    def retire(self) -> Coroutine[Any, Any, None]:
        """Let go of the model whatever it is doing; nobody hears of its changes any more."""
        self._on_change = lambda _info: None
        return self._retire()

    async def _retire(self) -> None:
        if self._loading is not None:
            await asyncio.wait([self._loading])
        if self._state is ModelState.RUNNING:
            await self.stop()

    async def replace(self, registration: Registration) -> None:
        """Take over a changed registration; a RUNNING model swaps when the new one is warm."""
        self.registration = registration
        async with self._swapping:
            await self._catch_up()

    async def _load(self) -> None:
        try:
            self._loaded = await self._open(self.registration)
        except EdgeAgentError as error:
            self._move(Event.LOAD_FAILED, str(error))
        except Exception as error:
            log.exception("Model %s can't be loaded.", self.name)
            self._move(Event.LOAD_FAILED, f"Unexpected {type(error).__name__}; see the log.")
        else:
            self._move(Event.LOADED, self._loaded.summary)
            await self.replace(self.registration)  # it may have changed since
        finally:
            self._loading = None

    async def _catch_up(self) -> None:
        """Load the registration in force beside the one that serves, then change over."""
        target, old = self.registration, self._loaded
        if old is None or old.registration == target:
            return
        try:
            new = await self._open(target)
        except Exception as error:
            ours = isinstance(error, EdgeAgentError)
            log.error(  # noqa: TRY400 - a refused package is no fault of the agent
                "Model %s keeps its version; the new one can't load: %s",
                self.name,
                error,
                exc_info=not ours,
            )
            self._message = f"{old.summary} A newer package was refused: {error}"
            return
        surplus = new
        if self._loaded is old:
            self._loaded, surplus = new, old
            self._message = new.summary
            log.info("Model %s changed over. %s", self.name, new.summary)
        await in_thread(lambda: surplus.close(self._models.drain_within_s))

    async def _free(self, loaded: Loaded) -> None:
        if not await in_thread(lambda: loaded.close(self._models.drain_within_s)):
            log.warning("Model %s was stopped with calls in flight.", self.name)
        self._move(Event.FREED, "")

    async def _open(self, registration: Registration) -> Loaded:
        limit_bytes = self._models.package_limit_mib * memory.MIB
        return await in_thread(lambda: load(registration, self._engine, limit_bytes))

    def _check_memory(self) -> None:
        try:
            files = Package(self.registration.package).manifest.files
        except ModelError:
            return  # loading will say what is wrong with it
        size = next(entry.size for entry in files if entry.path == MODEL_FILE)
        memory.check(self.name, size, self._models.memory_limit_mib)

    def _serving(self, verb: str = "used") -> Loaded:
        if self._loaded is None or self._state is not ModelState.RUNNING:
            raise self._refusal(verb)
        return self._loaded

    def _refusal(self, verb: str) -> WrongModelState:
        return WrongModelState(
            f"Model {self.name!r} can't be {verb} now. The model is {self._state.name}."
        )

    def _move(self, event: Event, message: str) -> None:
        self._state = TRANSITIONS[self._state, event]
        self._message = message
        level = logging.ERROR if self._state is ModelState.FAILED else logging.INFO
        log.log(level, "Model %s is %s. %s", self.name, self._state.name, message)
        self._on_change(self.info())


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run blocking `work` in a daemon thread of its own, which never holds up the process's end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    result: Result = await asyncio.wrap_future(future)
    return result
