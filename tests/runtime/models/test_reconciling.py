"""Registrations, settings, starts, stops and engines that come and fail, in any order.

After each step the models come to rest: every load and build that is still under way waits for the
test. What serves then is compared with what the rules below say should.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Dict, List, Optional

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import WrongModelState
from edge_agent.runtime.batching.batcher import THREAD_NAME as UNIT_THREAD
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.models.event_thread import THREAD_NAME, ThreadEnded
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.models.served_model import ServedModel
from edge_agent.runtime.models.thresholds import with_settings
from edge_agent.runtime.packages.package import Package, stamp
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import Bitmap, DetectRequest, ModelState, Prediction
from tests.fakes import micro
from tests.fakes.scripted_engines import Script

NAME, UNTOUCHED = "m", "untouched"
WITHIN_S = 60.0
STOPPED, STARTING, RUNNING, FAILED = (
    ModelState.STOPPED, ModelState.STARTING, ModelState.RUNNING, ModelState.FAILED,
)  # fmt: skip
INVALID = {"minimum_region_area": 7}  # of a classification
FRAME = Bitmap(micro.SIZE, micro.SIZE, np.full((micro.SIZE, micro.SIZE, 3), 102, np.uint8).data)


class Packages:
    """Packages on disk by version; 8 and 9 are broken."""

    def __init__(self, folder: Path) -> None:
        self._paths = {
            version: micro.write(folder / version, "classification", content, version=version)
            for version, content in zip("12389", [None, None, None, b"no graph", b"no graph"])
        }

    def digest(self, version: str) -> str:
        return Package(self._paths[version]).digest

    def registration(
        self, name: str, version: str, autostart: bool, decision: object
    ) -> Registration:
        path = self._paths[version]
        return Registration(
            name, path, stamp(path), autostart, decision=json.dumps(decision),
            digest=self.digest(version),
        )  # fmt: skip


def version(registration: Registration) -> str:
    return registration.package.name


def can_serve(registration: Registration) -> bool:
    return is_valid(registration) and version(registration) in "123"


def is_valid(registration: Registration) -> bool:
    return not INVALID.keys() & json.loads(registration.decision).keys()


class Reconciling(RuleBasedStateMachine):
    """The model `m` in any order of events, beside one that nobody touches."""

    def __init__(self, packages: Packages) -> None:
        super().__init__()
        self.packages, self.script = packages, Script()
        self.threads_before = threads()
        self.playing = ExitStack()
        self.playing.enter_context(self.script.playing())
        self.models, self.engine = ModelsSettings(remove_after_s=0.0), units(1)
        self.registry = Registry(self.models, self.engine)
        self.detector = Detector(self.registry, FrameReader())
        self.deployed: Dict[str, Registration] = {}
        # What is expected of the model.
        self.state: Optional[ModelState] = None  # it isn't deployed
        self.serves = ""  # version
        self.begun_with: Optional[Registration] = None  # the start
        self.has_lost_engine = False
        self.failures: List[Exception] = []
        self.is_over = threading.Event()
        self.caller = threading.Thread(target=self.call)

    @initialize()
    def serve_another_model(self) -> None:
        self.deployed[UNTOUCHED] = self.packages.registration(UNTOUCHED, "1", True, {})
        self.registry.sync(self.deployed)
        self.until(lambda: self.registry.find(UNTOUCHED).info().state is RUNNING)
        self.caller.start()
        self.deploy("1", True, {})

    @rule(
        version=st.sampled_from("123123128"),
        autostart=st.sampled_from([True, True, False]),
        decision=st.sampled_from([{}, {}, {"threshold": 0.2}, {"threshold": 0.7}, INVALID]),
    )
    def deploy(self, version: str, autostart: bool, decision: object) -> None:
        before = self.in_force()
        self.deployed[NAME] = self.packages.registration(NAME, version, autostart, decision)
        self.registry.sync(self.deployed)
        if before is None:
            self.state = STOPPED
        self.registration_changed(before)

    @rule(version=st.sampled_from("1238"))
    def deploy_what_waits_to_be_loaded(self, version: str) -> None:
        self.script.set(loads_wait=True)
        self.deploy(version, True, {})

    @precondition(lambda self: self.state in (STARTING, FAILED) or self.serves == "3")
    @precondition(lambda self: self.state is not None)
    @rule()
    def remove(self) -> None:
        del self.deployed[NAME]
        self.registry.sync(self.deployed)
        self.registry.sync(self.deployed)
        self.state, self.has_lost_engine = None, False

    @rule(threshold=st.sampled_from([None, 0.3, 0.6]), count=st.sampled_from([1, 2]))
    def change_settings(self, threshold: Optional[float], count: int) -> None:
        before = self.in_force()
        thresholds = {} if threshold is None else {NAME: threshold}
        self.models = self.models.model_copy(update={"thresholds": thresholds})
        self.engine = units(count)
        self.registry.use_settings(self.models, self.engine)
        if before is not None:
            self.registration_changed(before)

    @precondition(lambda self: self.state is not None)
    @rule()
    def start(self) -> None:
        if self.state in (STOPPED, FAILED):
            assert self.detector.start(NAME).state is STARTING
            self.expect_start()
        else:
            with pytest.raises(WrongModelState):
                self.detector.start(NAME)

    @precondition(lambda self: self.state is not None)
    @rule()
    def stop(self) -> None:
        if self.state is RUNNING:
            assert self.detector.stop(NAME).state is STOPPED
            self.state, self.has_lost_engine = STOPPED, False
        else:
            with pytest.raises(WrongModelState):
                self.detector.stop(NAME)

    @rule()
    def let_loads_wait_or_go_on(self) -> None:
        self.script.set(loads_wait=not self.script.loads_wait)

    @rule(outcome=st.sampled_from(["succeed", "wait", "succeed", "fail", "wrong"]))
    def let_builds(self, outcome: str) -> None:
        self.script.set(builds=outcome)

    @precondition(lambda self: self.is_on_gpu())
    @rule()
    def lose_the_engine(self) -> None:
        backend = self.registry.find(NAME).serving().selected.backend
        vars(backend)["fault"] = "The worker is lost."
        self.has_lost_engine = True

    @invariant()
    def comes_to_rest_as_expected(self) -> None:
        if not self.deployed:
            return
        self.until(self.is_at_rest)
        if not self.script.loads_wait:
            self.expect_loads()
        assert not self.failures
        if self.state is None:
            assert [info.name for info in self.registry.list()] == [UNTOUCHED]
            return
        info = self.detector.describe(NAME)
        assert info.state is self.state, info
        if self.state is RUNNING:
            assert info.message.startswith(f"Version {self.serves},")
            self.check_answers()
        self.until(self.has_no_leak)

    def check_answers(self) -> None:
        info, in_force = self.detector.describe(NAME), self.in_force()
        assert in_force is not None
        found = self.detect(NAME)
        is_newest = version(in_force) == self.serves
        if is_newest and is_valid(in_force):
            assert found.threshold == json.loads(in_force.decision).get("threshold", 0.5)
        if not self.script.loads_wait:
            assert ("A newer package was refused" in info.message) == (not is_newest)
            is_built = self.script.built.get(self.packages.digest(self.serves), False)
            on_gpu = is_built and not self.has_lost_engine
            assert info.engine.startswith("tensorrt" if on_gpu else "onnxruntime"), info

    def is_on_gpu(self) -> bool:
        engine = self.detector.describe(NAME).engine if self.state is RUNNING else ""
        return engine.startswith("tensorrt")

    def in_force(self) -> Optional[Registration]:
        deployed = self.deployed.get(NAME)
        return None if deployed is None else with_settings(deployed, self.models)

    def registration_changed(self, before: Optional[Registration]) -> None:
        now = self.in_force()
        assert now is not None
        if now == before or not now.autostart:
            return
        begins = before is None or not before.autostart
        if self.state is FAILED or (self.state is STOPPED and begins):
            self.expect_start()

    def expect_start(self) -> None:
        self.begun_with = self.in_force()
        assert self.begun_with is not None
        self.state = (
            STARTING if is_valid(self.begun_with) else FAILED
        )  # checked before it is loaded

    def expect_loads(self) -> None:
        """The last registration wins if it can serve, else what was loaded before it."""
        newest, serves = self.in_force(), self.serves if self.state is RUNNING else ""
        if newest is None or self.state not in (STARTING, RUNNING):
            return
        if can_serve(newest):
            self.state, self.serves = RUNNING, version(newest)
        elif self.state is STARTING and self.begun_with and can_serve(self.begun_with):
            self.state, self.serves = RUNNING, version(self.begun_with)
        elif self.state is STARTING:
            self.state = FAILED
        if self.serves != serves:
            self.has_lost_engine = False

    def is_at_rest(self) -> bool:
        """Whether every thread that works for a model waits for the test."""
        self.registry.supervise()
        before = self.script.blocked()
        models = [*self.registry._models.values(), *self.registry._retired]
        return before == sum(map(working, models)) == self.script.blocked()

    def has_no_leak(self) -> bool:
        """Whether there are as many backends as units, and as many units as are wanted."""
        self.registry.supervise()
        infos = [info for info in self.registry.list() if info.state is RUNNING]
        in_limits = all(
            info.least_units <= info.inference_units <= info.most_units for info in infos
        )
        return in_limits and self.script.open == sum(info.inference_units for info in infos)

    def detect(self, name: str) -> Prediction:
        return self.detector.detect(DetectRequest(name, FRAME))

    def call(self) -> None:
        while not self.is_over.wait(0.005):
            try:
                self.detect(UNTOUCHED)
            except Exception as error:
                self.failures.append(error)

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < end, self.registry.list()
            with self.script.changed:
                self.script.changed.wait(0.002)

    def teardown(self) -> None:
        self.is_over.set()
        if self.caller.ident is not None:
            self.caller.join()
        self.script.set(loads_wait=False)
        self.registry.close(WITHIN_S)
        self.playing.close()
        assert not self.failures
        assert self.script.open == 0
        assert threads() <= self.threads_before


def units(count: int) -> EngineSettings:
    return EngineSettings(threads=1, min_inference_units=count, max_inference_units=count)


def working(model: ServedModel) -> int:
    """How many threads work for the model; asked after everything that has come to it."""
    try:
        return model._events.ask(lambda: model._events._jobs)
    except ThreadEnded:
        return 0


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name in (THREAD_NAME, UNIT_THREAD)}


@pytest.mark.timeout(300)
# The hypothesis of CPython 3.8 finds no holder of numpy's generator after gc.freeze().
@pytest.mark.filterwarnings("ignore:It looks like `register_random`")
def test_the_last_registration_wins_whatever_happens_meanwhile(tmp_path: Path) -> None:
    packages = Packages(tmp_path)
    run_state_machine_as_test(
        lambda: Reconciling(packages),
        settings=settings(
            max_examples=20, stateful_step_count=25, derandomize=True, deadline=None,
            database=None, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
