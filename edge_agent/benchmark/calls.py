"""Single calls of each kind in blocks that take turns, in one process: a job of `jobs`.

What a camera on a quiet line sees: the raw engine, the agent over shared memory and over bytes, the
raw engine behind a bare gRPC server, an empty call and one plain copy of the frame, all by the same
process.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

import numpy as np

from edge_agent.benchmark.raw import RawEngine
from edge_agent.benchmark.served import Camera
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 20  # calls of one kind in a row, as one camera makes them


class CallsJob:
    """One camera; one raw engine when the package is known; `bare`: address of a bare server."""

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
        self._image: NDArray[np.uint8] = np.load(frame)
        self._raw = RawEngine(Package(Path(package)), threads) if package else None

    def __enter__(self) -> CallsJob:
        with ExitStack() as stack:
            camera = stack.enter_context(Camera(self._address, self._model, self._image))
            self._kinds = self._kinds_of(camera)
            if self._bare is not None:
                bare = stack.enter_context(Camera(self._bare, self._model, self._image))
                self._kinds["bare_server"] = lambda: bare.by_shared_memory().check()
            self.turn()  # warms caches and mappings
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
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

    def _kinds_of(self, camera: Camera) -> Dict[str, Callable[[], Any]]:
        copy = np.empty_like(self._image)
        kinds: Dict[str, Callable[[], Any]] = {}
        raw = self._raw
        if raw is not None:
            kinds["raw"] = lambda: raw.detect(camera.frame, camera.mask)
        kinds["shared_memory"] = lambda: camera.by_shared_memory().check()
        kinds["bytes"] = lambda: camera.by_bytes().check()
        kinds["empty_call"] = camera.empty_call
        kinds["copy"] = lambda: np.copyto(copy, self._image)
        return kinds
