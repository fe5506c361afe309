"""A served model whose registration changes back while it is loaded; engines are scripted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.packages.package import Package, stamp
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.scripted_engines import Script

WITHIN_S = 60.0


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def registration(path: Path) -> Registration:
    return Registration("m", path, stamp(path), True, digest=Package(path).digest)


def test_a_package_that_is_replaced_and_put_back_while_it_is_loaded_serves(tmp_path: Path) -> None:
    first = micro.write(tmp_path / "1", "classification", None, version="1")
    second = micro.write(tmp_path / "2", "classification", None, version="2")
    script = Script()
    with script.playing():
        script.set(loads_wait=True)
        registry = Registry(ModelsSettings(), EngineSettings(wait_for_engine=True))
        for path in (first, second, first):
            registry.sync({"m": registration(path)})
            until(lambda: script.waiting_loads)
        script.set(loads_wait=False)
        until(lambda: registry.find("m").info().state is not ModelState.STARTING)

        info = registry.find("m").info()
        assert info.state is ModelState.RUNNING, info.message
        assert "Version 1" in info.message
        registry.close(WITHIN_S)


def test_a_threshold_starts_no_model(tmp_path: Path) -> None:
    broken = micro.write(tmp_path / "1", "classification", b"no graph", version="1")
    registry = Registry(ModelsSettings(), EngineSettings())
    registry.sync({"m": replace(registration(broken), autostart=True)})
    until(lambda: registry.find("m").info().state is ModelState.FAILED)
    registry.set_threshold("m", 0.4, "somebody")

    assert registry.find("m").info().state is ModelState.FAILED
    registry.close(WITHIN_S)
