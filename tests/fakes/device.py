"""The rooms below the wire, put together as the agent does it, without a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Type

import numpy as np

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import Bitmap, DetectRequest, ModelState, Prediction

ENGINE = EngineSettings(threads=1, cpu_batches=True)
WITHIN_S = 60.0  # an engine is built at the lowest priority, on a busy machine


class Device:
    """Packages in `folder`/packages, registered by records; `decisions` keeps set thresholds."""

    def __init__(
        self,
        folder: Path,
        decisions: Optional[Path] = None,
        engine: EngineSettings = ENGINE,
        trusted: Optional[Path] = None,
    ) -> None:
        self.packages, self.records = folder / "packages", folder / "models.d"
        self.records.mkdir(exist_ok=True)
        settings = ModelsSettings(records=self.records, trusted_keys=trusted, remove_after_s=0.0)
        self.store = Store(settings)
        self.registry = Registry(settings, engine, decisions=decisions)
        self.detector = Detector(self.registry, FrameReader())

    def __enter__(self) -> Device:
        self.look()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.registry.close(60.0)

    def record(self, name: str, **values: Any) -> None:
        """Write a registration record and take it over."""
        values = {"model_component": name, "package": str(self.packages / name), **values}
        fresh = self.records / f".{name}.new"
        fresh.write_text(json.dumps(values))
        fresh.rename(self.records / f"{name}.json")
        self.look()

    def look(self) -> None:
        """Take over what is deployed now, and wait for what that takes."""
        found = self.store.scan()
        while self.store.is_waiting:
            found = self.store.scan()
        self.registry.sync(found)
        end = time.monotonic() + WITHIN_S
        for name in found:
            while self.registry.find(name).is_changing_package():
                assert time.monotonic() < end, self.detector.describe(name)
                time.sleep(0.005)

    def run(self, name: str) -> None:
        """Start a model and wait until it is RUNNING."""
        self.detector.start(name)
        self.wait(name, ModelState.RUNNING)

    def wait(self, name: str, state: ModelState) -> None:
        end = time.monotonic() + 60.0
        while self.detector.describe(name).state is not state:
            assert time.monotonic() < end, self.detector.describe(name)
            time.sleep(0.005)

    def detect(self, name: str, red: int = 102) -> Prediction:
        """Judge a frame of one colour; micro models score it red / 255."""
        pixels = np.full((64, 64, 3), (red, 40, 0), np.uint8)
        return self.detector.detect(DetectRequest(name, Bitmap(64, 64, pixels.tobytes())))
