"""Builds one engine: `python -m edge_agent.runtime.engines.build_process FOLDER ...`.

The process gives way to everything else on the machine, and is the first to be ended when memory
runs out. FOLDER has `BuildRequest`, the model and the pictures; the engine, loaded once here so
that a crash affects no other process, and the timing cache go there. Each `BuildEvent` is a message
to the agent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import List, Optional, Sequence

from pydantic import Field
from typing_extensions import Annotated, Literal

from edge_agent import logs
from edge_agent.errors import (
    BackendUnavailable,
    BuildFailed,
    GpuFailed,
    InvalidPackage,
    ModelError,
)
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends import trt_loading
from edge_agent.runtime.backends.cuda.driver import Driver, open_driver
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_api import TrtContext, TrtModule
from edge_agent.runtime.backends.trt_engine import EngineBuilder, library
from edge_agent.runtime.engines.disk_errors import storing
from edge_agent.runtime.engines.make import make
from edge_agent.runtime.processes.channel import Channel
from edge_agent.runtime.processes.parent import connect, give_way
from edge_agent.targets import BuildSpec

MODULE = "edge_agent.runtime.engines.build_process"
REQUEST, MODEL, PICTURE, OLD_TIMING = "request.json", "model.onnx", "picture-", "timing.old"
ENGINE, TIMING = "engine", "timing"
EVERY_S = 0.5  # how often progress is reported
MOST_CHARACTERS = 4000  # of a failure: it must fit into a message

LESS_MEMORY = (
    "Unload other models, or package the model with an engine built on a machine like this one."
)
OUT_OF_MEMORY = f"Memory ran out while the engine was built. {LESS_MEMORY}"

Stage = Literal["parsing", "measuring kernels", "loading"]
# what the parent raises again, by name
FAILURES = {kind.__name__: kind for kind in (InvalidPackage, BackendUnavailable, BuildFailed)}


class BuildRequest(Strict):
    """What to build. pictures: how many there are."""

    wanted: Fingerprint
    image: InputSpec
    spec: BuildSpec
    pictures: int
    dla_core: Optional[int]


class BuildEvent(Strict):
    """One report: a stage with what is done of it, the end, or a failure and its sentence."""

    stage: Optional[Stage] = None
    fraction: Optional[Annotated[float, Field(ge=0.0, le=1.0)]] = None
    is_done: bool = False
    failure: Optional[Literal["InvalidPackage", "BackendUnavailable", "BuildFailed"]] = None
    why: str = ""


class Reporter:
    """Sends events to the agent; any thread may report."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._lock = channel, threading.Lock()
        self._stage: Optional[Stage] = None
        self._reported_at = 0.0

    def report(self, event: BuildEvent) -> None:
        """Send it."""
        self._channel.send(event.model_dump(exclude_defaults=True))

    def progress(self, stage: Stage, fraction: Optional[float] = None) -> None:
        """Report it, unless something of the same stage was reported a moment ago."""
        with self._lock:
            now = time.monotonic()
            if stage != self._stage or now >= self._reported_at + EVERY_S:
                self._stage, self._reported_at = stage, now
                self.report(BuildEvent(stage=stage, fraction=fraction))


def main(arguments: Sequence[str]) -> None:
    """Build what the request in the folder asks for; see `connect` for the other arguments."""
    reporter, folder = Reporter(connect(arguments)), Path(arguments[0])
    give_way()
    logs.configure("INFO")
    try:
        request = read_json(BuildRequest, (folder / REQUEST).read_bytes())
        _build(folder, request, reporter)
    except MemoryError:
        failure: ModelError = BuildFailed(OUT_OF_MEMORY)
    except GpuFailed as error:
        failure = BuildFailed(f"The engine build failed. {error}")
    except ModelError as error:
        failure = error
    else:
        reporter.report(BuildEvent(is_done=True))
        return
    kinds = [name for name, kind in FAILURES.items() if type(failure) is kind]
    kind = (kinds or ["BackendUnavailable"])[0]
    reporter.report(BuildEvent(failure=kind, why=str(failure)[:MOST_CHARACTERS]))


def _build(folder: Path, request: BuildRequest, reporter: Reporter) -> None:
    reporter.progress("parsing")
    trt, driver = library(), open_driver()
    model = (folder / MODEL).read_bytes()
    pictures = [(folder / f"{PICTURE}{index}").read_bytes() for index in range(request.pictures)]
    dla_core = request.dla_core
    here = Fingerprint.of(
        trt.__version__, driver.gpu(), model, request.spec, pictures, dla_core=dla_core
    )
    if here != request.wanted:
        raise BuildFailed(
            "The machine has changed since the agent started: "
            f"{request.wanted.differences(here)}. Restart the agent."
        )
    with driver.context():
        builder = EngineBuilder(trt)
        built = make(
            builder,
            driver,
            model,
            request.image,
            request.spec,
            pictures,
            timing_cache=_content(folder / OLD_TIMING),
            dla_core=dla_core,
            on_progress=lambda fraction: reporter.progress("measuring kernels", fraction),
        )
        with storing(folder.parent):
            (folder / ENGINE).write_bytes(built.engine)
            (folder / TIMING).write_bytes(built.timing_cache)
        reporter.progress("loading")
        _load(trt, driver, built.engine, request)


def _load(trt: TrtModule, driver: Driver, engine: bytes, request: BuildRequest) -> None:
    """Load the engine as the agent's worker will, with a context for each profile."""
    runtime = trt_loading.runtime(
        trt, request.dla_core, allow_host_code=request.spec.version_compatible
    )
    loaded = trt_loading.engine(trt, runtime, engine)
    stream = driver.stream()
    try:
        contexts: List[TrtContext] = [
            trt_loading.context(trt, loaded, profile, stream)
            for profile in range(loaded.num_optimization_profiles)
        ]
        contexts.clear()  # before their stream
    finally:
        driver.destroy_stream(stream)


def _content(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # libraries may crash while they are unloaded
