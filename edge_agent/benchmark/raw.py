"""The baseline: the raw engine, with the same preprocess and postprocess, in one process.

It is measured with all units busy, behind the smallest gRPC server, and call by call beside the
agent. All are jobs of `jobs`.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Tuple

import grpc
import numpy as np

from edge_agent.benchmark.loops import CallResult, ClosedLoop, Tally, drive
from edge_agent.benchmark.served import Camera
from edge_agent.client.segment import FrameSegment
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol import DETECT_ANOMALIES
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models.inference_unit import FrameItem, InferenceUnit
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import Caller, Frame, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

BLOCK = 20  # single calls of one kind in a row, as one camera makes them


class RawEngine:
    """One inference unit of `threads` threads on a package, without any server."""

    def __init__(self, package: Package, threads: int) -> None:
        manifest = package.manifest
        backend = open_backend(
            ("onnxruntime",), package.read_model(), manifest, BackendOptions(threads)
        )
        self._unit = InferenceUnit(backend, manifest)
        self._unit.warm_up()

    def detect(self, image: Pixels, mask: Pixels) -> Prediction:
        """Inspect `image`, writing the mask into `mask`; both uint8 (height, width, 3)."""
        item = FrameItem(OpenFrame(Frame(image), mask_target=mask), time.monotonic(), Caller())
        self._unit.compute([item])
        prediction: Prediction = item.future.result()
        return prediction


class RawJob:
    """`units` raw engines, each with a frame and a mask in shared memory and a thread."""

    def __init__(self, package: str, units: int, threads: int, frame: str) -> None:
        preprocess.use_one_thread()
        self._engines = [RawEngine(Package(Path(package)), threads) for _ in range(units)]
        self._image: Pixels = np.load(frame)

    def __enter__(self) -> RawJob:
        with ExitStack() as stack:
            self._images = [_in_shared_memory(stack, self._image) for _ in self._engines]
            self._pool = stack.enter_context(ThreadPoolExecutor(len(self._engines)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def turn(self, begin_s: float, end_s: float) -> Mapping[str, object]:
        """Keep every engine busy from `begin_s` to `end_s` (monotonic); return a Tally's fields."""
        tally = Tally()
        used_s = time.process_time()
        for part in self._pool.map(
            lambda unit: self._drive(unit, begin_s, end_s), range(len(self._engines))
        ):
            tally.merge(part)
        tally.cpu_s = time.process_time() - used_s
        return vars(tally)

    def _drive(self, unit: int, begin_s: float, end_s: float) -> Tally:
        def call() -> CallResult:
            self._engines[unit].detect(*self._images[unit])
            return CallResult()

        loop = ClosedLoop(begin_s, end_s, time.monotonic)
        return drive(loop, end_s, call, time.monotonic, time.sleep)


class BareServerJob:
    """The smallest gRPC server around the raw engine: what gRPC and a second process cost alone.

    It answers DetectAnomalies at `address` while it is open and takes no turns. It reads no
    request, checks nothing and publishes nothing: each call computes a frame that the server has
    from the start, and the answer is empty.
    """

    def __init__(self, package: str, threads: int, frame: str, address: str) -> None:
        preprocess.use_one_thread()
        self._engine = RawEngine(Package(Path(package)), threads)
        self._image: Pixels = np.load(frame)
        self._address = address

    def __enter__(self) -> BareServerJob:
        with ExitStack() as stack:
            frame, mask = _in_shared_memory(stack, self._image)

            def detect(_request: bytes, _context: grpc.ServicerContext) -> bytes:
                self._engine.detect(frame, mask)
                return b""  # an answer whose fields are all 0

            server = grpc.server(ThreadPoolExecutor(1))
            _, service, name = DETECT_ANOMALIES.split("/")
            handler = grpc.unary_unary_rpc_method_handler(detect)
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {name: handler}),)
            )
            try:
                server.add_insecure_port(self._address)
            except RuntimeError as error:
                raise EdgeAgentError(f"The bare server can't listen: {error}") from None
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def turn(self) -> Mapping[str, object]:
        """Do nothing."""
        return {}


class SingleCallsJob:
    """Single calls of each kind in blocks that take turns, all made by the same process.

    What a camera on a quiet line sees: the raw engine, the agent over shared memory and over bytes,
    the server at `bare`, an empty call and one plain copy of the frame. package: None: no raw
    engine.
    """

    def __init__(
        self,
        address: str,
        model: str,
        frame: str,
        package: Optional[str],
        threads: int,
        bare: Optional[str],
    ) -> None:
        preprocess.use_one_thread()
        self._address, self._model, self._bare = address, model, bare
        self._image: Pixels = np.load(frame)
        self._raw = RawEngine(Package(Path(package)), threads) if package else None

    def __enter__(self) -> SingleCallsJob:
        with ExitStack() as stack:
            camera = stack.enter_context(Camera(self._address, self._model, self._image))
            self._kinds = self._kinds_of(camera)
            if self._bare is not None:
                bare = stack.enter_context(Camera(self._bare, self._model, self._image))
                self._kinds["bare_server"] = lambda: bare.by_shared_memory().check()
            self.turn()  # warms caches and mappings
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def turn(self) -> Dict[str, List[float]]:
        """Return the seconds of each call of one block of every kind."""
        times: Dict[str, List[float]] = {}
        for name, call in self._kinds.items():
            times[name] = []
            for _ in range(BLOCK):
                began_s = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began_s)
        return times

    def _kinds_of(self, camera: Camera) -> Dict[str, Callable[[], object]]:
        copy = np.empty_like(self._image)
        kinds: Dict[str, Callable[[], object]] = {}
        raw = self._raw
        if raw is not None:
            kinds["raw"] = lambda: raw.detect(camera.frame, camera.mask)
        kinds["shared_memory"] = lambda: camera.by_shared_memory().check()
        kinds["bytes"] = lambda: camera.by_bytes().check()
        kinds["empty_call"] = camera.empty_call
        kinds["copy"] = lambda: np.copyto(copy, self._image)
        return kinds


def _in_shared_memory(stack: ExitStack, image: Pixels) -> Tuple[Pixels, Pixels]:
    """Return `image` and room for its mask, both in a segment of shared memory that `stack` frees.

    All uint8 (height, width, 3).
    """
    height, width = image.shape[:2]
    segment = FrameSegment(image.nbytes)
    stack.callback(segment.close)
    np.copyto(segment.frame(width, height), image)
    return segment.frame(width, height), segment.mask(width, height)
