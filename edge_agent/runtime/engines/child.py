"""The process that builds one engine: `python -m edge_agent.runtime.engines.child FOLDER`.

It gives way to everything else on the machine, is the first that the kernel ends when memory runs
out, and ends with the thread that started it. FOLDER has `Request`, the model and the pictures; the
engine, loaded once here so that a crash meets nobody else, and the timing cache go there. What it
has to tell goes to standard output, each `News` a line, between its log and what libraries print.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, List, Optional

from pydantic import Field
from typing_extensions import Annotated, Literal

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
from edge_agent.runtime.backends.parent import end_with
from edge_agent.runtime.backends.trt_engine import EngineBuilder, library
from edge_agent.runtime.engines.make import make
from edge_agent.runtime.engines.storing import storing
from edge_agent.targets import BuildSpec

MODULE = "edge_agent.runtime.engines.child"
REQUEST, MODEL, PICTURE, OLD_TIMING = "request.json", "model.onnx", "picture-", "timing.old"
ENGINE, TIMING = "engine", "timing"
EVERY_S = 0.5  # how often progress is told

IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # number of the system call
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13
LOWEST_NICE = 19
FIRST_TO_END = "1000"  # of /proc/self/oom_score_adj

LESS_MEMORY = (
    "Unload other models, or package the model with an engine built on a machine like this one."
)
OUT_OF_MEMORY = f"Memory ran out while the engine was built. {LESS_MEMORY}"

Stage = Literal["parsing", "measuring kernels", "loading"]
# what the parent raises again, by name
FAILURES = {kind.__name__: kind for kind in (InvalidPackage, BackendUnavailable, BuildFailed)}


class Request(Strict):
    """What to build. pictures: how many there are. parent: id of the process that asks."""

    wanted: Fingerprint
    image: InputSpec
    spec: BuildSpec
    pictures: int
    dla_core: Optional[int]
    parent: int


class News(Strict):
    """One thing told: a stage with what is done of it, the end, or a failure and its sentence."""

    stage: Optional[Stage] = None
    fraction: Optional[Annotated[float, Field(ge=0.0, le=1.0)]] = None
    is_done: bool = False
    failure: Optional[Literal["InvalidPackage", "BackendUnavailable", "BuildFailed"]] = None
    why: str = ""


class Teller:
    """Writes news to a descriptor; any thread may tell."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()
        self._stage: Optional[Stage] = None
        self._told = 0.0

    def tell(self, news: News) -> None:
        """Write it as a line of its own, whatever a library left unfinished before it."""
        os.write(self._descriptor, b"\n" + news.model_dump_json().encode() + b"\n")

    def progress(self, stage: Stage, fraction: Optional[float] = None) -> None:
        """Tell it, unless something of the same stage was told a moment ago."""
        with self._lock:
            now = time.monotonic()
            if stage != self._stage or now >= self._told + EVERY_S:
                self._stage, self._told = stage, now
                self.tell(News(stage=stage, fraction=fraction))


def main(folder: Path) -> None:
    """Build what the request in `folder` asks for."""
    teller = Teller(sys.stdout.fileno())
    request = read_json(Request, (folder / REQUEST).read_bytes())
    end_with(request.parent)
    _give_way()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _build(folder, request, teller)
    except MemoryError:
        failure: ModelError = BuildFailed(OUT_OF_MEMORY)
    except GpuFailed as error:
        failure = BuildFailed(f"The engine build failed. {error}")
    except ModelError as error:
        failure = error
    else:
        teller.tell(News(is_done=True))
        return
    kinds = [name for name, kind in FAILURES.items() if type(failure) is kind]
    teller.tell(News(failure=(kinds or ["BackendUnavailable"])[0], why=str(failure)))


def _build(folder: Path, request: Request, teller: Teller) -> None:
    teller.progress("parsing")
    trt, driver = library(), open_driver()
    model = (folder / MODEL).read_bytes()
    pictures = [(folder / f"{PICTURE}{index}").read_bytes() for index in range(request.pictures)]
    dla_core = request.dla_core
    here = Fingerprint.of(
        trt.__version__, driver.gpu(), model, request.spec, pictures, dla_core=dla_core
    )
    if here != request.wanted:
        raise BuildFailed(
            "The machine isn't what it was when the agent started: "
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
            on_progress=lambda fraction: teller.progress("measuring kernels", fraction),
        )
        with storing(folder.parent):
            (folder / ENGINE).write_bytes(built.engine)
            (folder / TIMING).write_bytes(built.timing_cache)
        teller.progress("loading")
        _load(trt, builder.listener, driver, built.engine, request)


def _load(trt: Any, listener: Any, driver: Driver, engine: bytes, request: Request) -> None:
    """Load the engine as the agent's worker will, with a context for each profile."""
    runtime = trt_loading.runtime(
        trt, listener, request.dla_core, allow_host_code=request.spec.version_compatible
    )
    loaded = trt_loading.engine(trt, listener, runtime, engine)
    stream = driver.stream()
    try:
        contexts: List[Any] = [
            trt_loading.context(trt, listener, loaded, profile, stream)
            for profile in range(loaded.num_optimization_profiles)
        ]
        contexts.clear()  # before their stream
    finally:
        driver.destroy_stream(stream)


def _content(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _give_way() -> None:
    """Let everything else on the machine go first, and live longer when memory runs out."""
    os.nice(LOWEST_NICE)
    with suppress(KeyError):
        number = IOPRIO_SET[platform.machine()]
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_END)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # libraries may crash while they are unloaded
