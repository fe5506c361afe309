"""Settings that change while models run and callers call. A frame's score is its red / 255."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from pydantic import SecretStr

from edge_agent.config import Settings, build
from edge_agent.errors import AgentUnavailable, EdgeAgentError, OutOfMemory
from edge_agent.fields import Strict
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.results.pipeline import ResultsPipeline
from edge_agent.runtime.settings_reload import LIVE, SettingsReload
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import Bitmap, DetectRequest, ModelInfo, ModelState, Prediction
from tests.fakes import micro
from tests.runtime.results.outboxes import wait_until

GRAY, RED = 102, 255  # scores 0.4 and 1.0


class Plant:
    """An agent without a wire: packages in `folder`/models, `values` as --set has them."""

    def __init__(self, folder: Path, *values: str) -> None:
        self.folder = folder
        self._values = (
            f"models.folder={folder / 'models'}", f"models.records={folder / 'models.d'}",
            f"results.folder={folder / 'results'}", f"results.lines={folder / 'lines.jsonl'}",
            "results.outbox.commit_every_s=0.02", f"results.capture.folder={folder / 'kept'}",
            "results.capture.sample=0", "results.capture.near_threshold=0",
            "results.capture.anomalies=false", "engine.threads=1", *values,
        )  # fmt: skip
        settings = build({}, {}, self._values)
        self.store = Store(settings.models)
        self.room = ResultsPipeline(settings.results, Metrics(), pytest.fail)
        self.registry = Registry(
            settings.models, settings.engine, decisions=folder / "results" / "decisions.json"
        )
        self.detector = Detector(self.registry, FrameReader(), self.room.recorder.observe)
        self.reload = SettingsReload(settings, self.registry, self.room)
        self._closed = False
        self._frames = itertools.count()  # no two are equal, as a camera's

    def __enter__(self) -> Plant:
        self.room.start()
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, once; what was to be kept is on disk then."""
        if not self._closed:
            self._closed = True
            self.registry.close(20.0)
            self.room.close(20.0)

    def set(self, *values: str) -> List[str]:
        """Follow other settings; what isn't among `values` is as it was at the start."""
        return self.reload.apply(build({}, {}, (*self._values, *values)))

    def look(self) -> None:
        """What the agent does once a second."""
        found = self.store.scan()
        while self.store.is_waiting:
            found = self.store.scan()
        self.registry.sync(found)
        self.registry.supervise()
        self.room.publish_due()

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 60.0
        while not holds():
            assert time.monotonic() < end, self.detector.list()
            self.look()
            time.sleep(0.01)

    def run(self, name: str) -> LoadedModel:
        self.detector.start(name)
        self.until(lambda: self.info(name).state is ModelState.RUNNING)
        return self.registry.find(name).serving()

    def info(self, name: str) -> ModelInfo:
        return self.detector.describe(name)

    def limits(self, name: str) -> Tuple[int, int]:
        found = self.info(name)
        return found.least_units, found.most_units

    def detect(self, name: str, red: int = GRAY, size: int = 64, blue: int = 0) -> Prediction:
        noise = np.random.default_rng(next(self._frames)).integers(0, 50, (size, size, 3), np.uint8)
        pixels = noise + np.linspace(0, 200, size).astype(np.uint8)[:, None, None]
        pixels[..., 0], pixels[..., 2] = red, blue
        return self.detector.detect(DetectRequest(name, Bitmap(size, size, pixels.tobytes())))

    def threshold(self, name: str) -> float:
        return self.detect(name).threshold

    def is_published(self, name: str, red: int) -> bool:
        return bool(self.detect(name, red).result_id)

    def images(self) -> List[Path]:
        """Frames on disk."""
        return list((self.folder / "kept").glob("2*/*.png"))

    def alarms(self) -> List[Dict[str, Any]]:
        file = self.folder / "lines.jsonl"
        events = map(json.loads, file.read_bytes().splitlines()) if file.exists() else ()
        return [event for event in events if event["kind"] == "alarm"]

    @contextmanager
    def calls(self, name: str, threads: int = 4) -> Iterator[List[Prediction]]:
        """Callers without a pause; in the end none of them may have failed."""
        done, seen, failures = threading.Event(), [], []  # type: Any, List[Any], List[Any]

        def call() -> None:
            while not done.is_set():
                try:
                    seen.append(self.detect(name))
                except EdgeAgentError as error:
                    failures.append(error)

        callers = [threading.Thread(target=call) for _ in range(threads)]
        for caller in callers:
            caller.start()
        try:
            self.until(lambda: len(seen) > threads)
            yield seen
            before = len(seen)
            self.until(lambda: len(seen) > before + threads)
        finally:
            done.set()
            for caller in callers:
                caller.join()
        assert not failures


def slow(folder: Path) -> None:
    """A model whose callers wait for it."""
    once = {"batch_sizes": [1]}
    micro.write(folder / "models" / "slow", "classification", micro.slow(4), runtime=once)


def plates(folder: Path, **changes: Any) -> None:
    micro.write(folder / "models" / "plates", "classification", **changes)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plates(tmp_path)
    with Plant(tmp_path) as plant:
        plant.run("plates")
        yield plant


def test_a_threshold_flips_verdicts_while_calls_go_on(plant: Plant) -> None:
    serving = plant.registry.find("plates").serving()
    with plant.calls("plates") as seen:
        for threshold in (0.3, 0.5, 0.2, 0.6):
            assert plant.set(f'models.thresholds={{"plates": {threshold}}}') == []
            plant.until(lambda value=threshold: seen[-1].threshold == value)
    assert {each.threshold for each in seen} == {0.5, 0.3, 0.2, 0.6}
    assert all(each.is_anomalous == (each.score >= each.threshold) for each in seen)
    assert plant.registry.find("plates").serving() is serving


def test_a_threshold_needs_no_look_at_the_models(plant: Plant) -> None:
    plant.set('models.thresholds={"plates": 0.25}')
    wait_until(lambda: plant.threshold("plates") == 0.25)


def test_log_and_message_name_the_threshold_and_the_configuration(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plant.set('models.thresholds={"plates": 0.25}')
    plant.until(lambda: "Threshold 0.25." in plant.info("plates").message)
    assert "uses the new decision: threshold 0.5 -> 0.25, set by the configuration." in caplog.text
    assert "In force from now on: models.thresholds = {'plates': 0.25}." in caplog.text


def test_a_threshold_of_the_settings_holds_from_the_start_in_place_of_the_records(
    tmp_path: Path,
) -> None:
    plates(tmp_path)
    (tmp_path / "models.d").mkdir()
    record = {"model_component": "cups", "package": str(tmp_path / "models" / "plates")}
    decision = {"decision": {"threshold": 0.7}}
    (tmp_path / "models.d" / "cups.json").write_text(json.dumps({**record, **decision}))
    with Plant(tmp_path, 'models.thresholds={"plates": 0.3, "cups": 0.2}') as plant:
        plant.run("plates")
        plant.run("cups")
        assert (plant.threshold("plates"), plant.threshold("cups")) == (0.3, 0.2)
        plant.set("models.thresholds={}")
        plant.until(lambda: plant.threshold("plates") == 0.5)
        plant.until(lambda: plant.threshold("cups") == 0.7)


def test_a_threshold_waits_for_its_model_to_be_deployed(plant: Plant, tmp_path: Path) -> None:
    plant.set('models.thresholds={"nuts": 0.25}')
    micro.write(tmp_path / "models" / "nuts", "classification")
    plant.look()
    plant.run("nuts")
    assert (plant.threshold("nuts"), plant.threshold("plates")) == (0.25, 0.5)


def test_a_threshold_set_by_command_ends_with_another_one_of_the_settings_only(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    mine, others = '"plates": 0.3', '"nuts": 0.9'
    plant.set(f"models.thresholds={{{mine}}}")
    plant.detector.set_threshold("plates", 0.25, "hmi")
    for unrelated in ("results.publish=changes", f"models.thresholds={{{mine}, {others}}}"):
        plant.set(f"models.thresholds={{{mine}}}", unrelated)
        plant.look()
        plant.until(lambda: not plant.registry.find("plates").is_changing_package())
        assert plant.threshold("plates") == 0.25
    assert "ends" not in caplog.text
    plant.set('models.thresholds={"plates": 0.6}')
    plant.until(lambda: plant.threshold("plates") == 0.6)
    assert "The threshold 0.25 of model plates, set by hmi, ends" in caplog.text


@pytest.mark.parametrize(("configured", "expected"), [("0.3", 0.25), ("0.6", 0.6)])
def test_a_threshold_set_by_command_meets_the_settings_of_the_next_start(
    tmp_path: Path, configured: str, expected: float
) -> None:
    plates(tmp_path)
    with Plant(tmp_path, 'models.thresholds={"plates": 0.3}') as plant:
        plant.detector.set_threshold("plates", 0.25, "hmi")
    with Plant(tmp_path, f'models.thresholds={{"plates": {configured}}}') as later:
        later.run("plates")
        assert later.threshold("plates") == expected


def test_units_come_and_go_by_new_limits_while_all_are_busy(tmp_path: Path) -> None:
    slow(tmp_path)
    with Plant(tmp_path, "engine.scale_down_after_s=86400") as plant:
        serving = plant.run("slow")
        with plant.calls("slow"):
            assert plant.set("engine.min_inference_units=3") == []
            plant.until(lambda: serving.batcher.instances == 3)
            assert plant.limits("slow") == (3, 3)
            assert plant.set() == []
            plant.until(lambda: serving.batcher.instances == 1)
            assert plant.limits("slow") == (1, 1)
        assert plant.registry.find("slow").serving() is serving


def test_units_come_and_go_with_the_load_by_new_times(tmp_path: Path) -> None:
    slow(tmp_path)
    most = "engine.max_inference_units=2"
    patient = ("engine.scale_up_after_s=86400", "engine.scale_down_after_s=86400")
    with Plant(tmp_path, most, *patient) as plant:
        serving = plant.run("slow")
        with plant.calls("slow"):
            plant.set("engine.scale_up_after_s=0")
            plant.until(lambda: serving.batcher.instances == 2)
        plant.set("engine.scale_down_after_s=0")
        plant.until(lambda: serving.batcher.instances == 1)


def test_a_model_that_is_stopped_or_still_loading_begins_with_the_new_limits(
    plant: Plant, tmp_path: Path
) -> None:
    micro.write(tmp_path / "models" / "late", "classification", micro.slow(30, 256, stride=8))
    plant.look()
    plant.detector.stop("plates")
    plant.detector.start("late")
    plant.set("engine.min_inference_units=2", "engine.max_inference_units=3")
    assert plant.run("plates").batcher.instances == 2
    plant.until(lambda: plant.limits("late") == (2, 3))
    plant.until(lambda: plant.info("late").inference_units == 2)


def test_the_threads_of_a_unit_wait_for_a_restart_and_the_log_says_so(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert plant.set("engine.threads=2", "engine.max_inference_units=2") == ["engine.threads"]
    plant.until(lambda: "Model plates has 1 to 2 inference units from now on" in caplog.text)
    assert "The threads of each unit change when the model is started again." in caplog.text
    plant.detector.stop("plates")
    plant.run("plates")
    assert "1 thread," in plant.info("plates").message


@contextmanager
def hanging_call(plant: Plant) -> Iterator[List[AgentUnavailable]]:
    """A call that hangs, with how it failed, if it has; it ends with the block."""
    serving, failures = plant.run("trap"), []  # type: LoadedModel, List[AgentUnavailable]

    def call() -> None:
        with pytest.raises(AgentUnavailable) as caught:
            plant.detect("trap", blue=255)
        failures.append(caught.value)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        plant.until(lambda: serving.batcher.load().busy > 0.9)
        yield failures
    finally:
        serving.batcher.give_up_hung(0.0)
        caller.join()


def test_an_engine_call_hangs_after_the_new_time(tmp_path: Path) -> None:
    micro.write(tmp_path / "models" / "trap", "classification", micro.hanging())
    with Plant(tmp_path, "engine.hang_after_s=3600") as plant:
        with hanging_call(plant) as failures:
            plant.set("engine.hang_after_s=0.2")
            plant.until(lambda: failures)
        assert "didn't answer for 0.2 s" in str(failures[0])


def test_stopping_waits_for_calls_in_flight_as_long_as_is_said_now(tmp_path: Path) -> None:
    micro.write(tmp_path / "models" / "trap", "classification", micro.hanging())
    endless = ("models.drain_within_s=3600", "engine.hang_after_s=3600")
    with Plant(tmp_path, *endless) as plant, hanging_call(plant) as failures:
        plant.set("models.drain_within_s=0.1")
        assert plant.detector.stop("trap").state is ModelState.STOPPED
        assert not failures


def test_a_model_starts_within_the_new_limit_of_memory(plant: Plant) -> None:
    plant.detector.stop("plates")
    plant.set("models.memory_limit_mib=1")
    with pytest.raises(OutOfMemory):
        plant.detector.start("plates")
    plant.set()
    plant.run("plates")


def test_a_model_changes_over_within_the_new_limit_of_memory(plant: Plant, tmp_path: Path) -> None:
    serving = plant.registry.find("plates").serving()
    plant.set("models.memory_limit_mib=1")
    plates(tmp_path, version="2")
    plant.until(lambda: "models.memory_limit_mib" in plant.info("plates").message)
    assert plant.registry.find("plates").serving() is serving
    plant.set()
    plant.until(lambda: plant.info("plates").message.startswith("Version 2,"))


def refuse_newer_plates(plant: Plant) -> None:
    """Deploy a package that can't be loaded in place of the one that serves."""
    content = b"no graph"
    micro.write(plant.folder / "models" / "plates", "classification", content, version="2")
    plant.until(lambda: "A newer package was refused" in plant.info("plates").message)


def test_a_threshold_reaches_what_serves_in_place_of_a_refused_package(plant: Plant) -> None:
    refuse_newer_plates(plant)
    for threshold in (0.25, 0.75):
        plant.set(f'models.thresholds={{"plates": {threshold}}}')
        expected = f"Threshold {threshold}. A newer package was refused"
        plant.until(lambda expected=expected: expected in plant.info("plates").message)
        assert plant.threshold("plates") == threshold


def test_a_threshold_set_before_a_package_is_refused_stays(plant: Plant) -> None:
    plant.set('models.thresholds={"plates": 0.25}')
    refuse_newer_plates(plant)
    assert plant.threshold("plates") == 0.25


def test_a_refused_package_is_not_loaded_again_for_other_settings(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_newer_plates(plant)
    for settings in ('models.thresholds={"plates": 0.25}', "engine.hang_after_s=5"):
        plant.set(settings)
        plant.look()
        plant.until(lambda: not plant.registry.find("plates").is_changing_package())
    assert caplog.text.count("Model plates keeps its version") == 1
    plates(plant.folder, version="3")
    plant.until(lambda: plant.info("plates").message.startswith("Version 3,"))


def test_a_threshold_of_a_model_that_is_not_deployed_is_warned_of_once(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    misspelt = 'models.thresholds={"plaits": 0.25, "plates": 0.3}'
    plant.set(misspelt)
    plant.look()
    plant.set(misspelt, "engine.hang_after_s=5")
    warning = "models.thresholds names 'plaits', which isn't deployed"
    assert caplog.text.count(warning) == caplog.text.count("models.thresholds names") == 1
    assert "Deployed models: plates." in caplog.text


def test_a_misspelt_threshold_of_the_first_settings_is_warned_of_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plates(tmp_path)
    with Plant(tmp_path, 'models.thresholds={"plaits": 0.25}'):
        assert "models.thresholds names 'plaits'" in caplog.text


def test_what_is_published_changes_with_the_next_verdict(plant: Plant) -> None:
    def published() -> List[bool]:
        return [plant.is_published("plates", red) for red in (GRAY, RED, RED, GRAY, GRAY)]

    assert published() == [True] * 5
    plant.set("results.publish=anomalies", "results.heartbeat_s=0")
    assert published() == [False, True, True, False, False]
    plant.set("results.publish=changes", "results.heartbeat_s=0")
    assert published() == [True, True, False, True, False]
    plant.set("results.publish=changes", "results.heartbeat_s=0.000001")
    assert published() == [True, True, False, True, True]
    plant.set()
    assert published() == [True] * 5


def test_changes_are_reported_again_to_whoever_saw_every_result_in_between(plant: Plant) -> None:
    changes = ("results.publish=changes", "results.heartbeat_s=0")
    plant.set(*changes)
    assert plant.is_published("plates", GRAY)
    plant.set()
    assert plant.is_published("plates", RED)
    plant.set(*changes)
    assert plant.is_published("plates", GRAY)  # else RED would seem to last


def test_an_unrelated_change_repeats_no_result(plant: Plant) -> None:
    changes = ("results.publish=changes", "results.heartbeat_s=0")
    plant.set(*changes)
    assert plant.is_published("plates", GRAY)
    plant.set(*changes, "results.anomaly_rate_alarm=0.9")
    assert not plant.is_published("plates", GRAY)


def test_results_a_minute_are_as_many_as_is_said_now(plant: Plant) -> None:
    assert all(plant.is_published("plates", RED) for _ in range(20))
    plant.set("results.per_minute=3")
    assert sum(plant.is_published("plates", RED) for _ in range(20)) == 3
    plant.set()
    assert all(plant.is_published("plates", RED) for _ in range(20))


def test_calls_go_on_while_publishing_and_keeping_change(plant: Plant) -> None:
    with plant.calls("plates") as seen:
        for round_ in range(30):
            publish = ("all", "anomalies", "changes")[round_ % 3]
            level = ("INFO", "DEBUG")[round_ % 2]
            plant.set(
                f"results.publish={publish}", f"results.per_minute={round_ % 4}",
                f"results.capture.sample={round_ % 2}", f"log_level={level}",
            )  # fmt: skip
            before = len(seen)
            plant.until(lambda count=before: len(seen) > count)


def test_the_alarm_of_anomalies_is_raised_by_the_new_limit(tmp_path: Path) -> None:
    plates(tmp_path)
    with Plant(tmp_path, "results.anomaly_rate_alarm=1.0") as plant:
        plant.run("plates")
        for number in range(120):
            plant.detect("plates", RED if number % 4 else GRAY)
        plant.look()
        plant.set("results.anomaly_rate_alarm=0.6")
        plant.detect("plates", RED)
        plant.until(plant.alarms)
        (alarm,) = plant.alarms()
        assert (alarm["alarm"], alarm["state"], alarm["limit"]) == ("anomaly-rate", "raised", 0.6)


@pytest.mark.parametrize(
    ("setting", "red"), [("anomalies=true", RED), ("sample=1", GRAY), ("near_threshold=0.2", GRAY)]
)
def test_frames_are_kept_from_the_moment_it_is_said(plant: Plant, setting: str, red: int) -> None:
    plant.detect("plates", red)
    plant.set(f"results.capture.{setting}")
    plant.detect("plates", red)
    plant.until(plant.images)
    plant.set()
    plant.detect("plates", red)
    plant.close()
    assert len(plant.images()) == 1


def test_frames_kept_a_minute_are_as_many_as_is_said_now(plant: Plant) -> None:
    for most in (2, 5):
        plant.set("results.capture.anomalies=true", f"results.capture.per_minute={most}")
        for _ in range(9):
            plant.detect("plates", RED)
        plant.until(lambda count=most: len(plant.images()) == count)
    plant.close()
    assert len(plant.images()) == 5


def test_the_next_frame_kept_makes_room_for_a_smaller_quota(plant: Plant) -> None:
    def keep(count: int) -> None:
        for _ in range(count):
            plant.detect("plates", RED, size=512)

    plant.set("results.capture.anomalies=true")
    keep(4)
    plant.until(lambda: len(plant.images()) == 4)
    plant.set("results.capture.anomalies=true", "results.capture.quota_mib=1")
    keep(1)
    plant.until(lambda: len(plant.images()) < 4)
    plant.close()
    files = [file for file in (plant.folder / "kept").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 1024 * 1024


def test_the_log_has_other_lines_at_once(plant: Plant) -> None:
    log = logging.getLogger("edge_agent.runtime")
    assert plant.set("log_level=ERROR") == []
    assert not log.isEnabledFor(logging.WARNING)
    assert plant.set("log_level=DEBUG") == []
    assert log.isEnabledFor(logging.DEBUG)


def test_what_waits_for_a_restart_is_named_until_it_is_taken_back(plant: Plant) -> None:
    waits = ("server.tcp=localhost:7", "models.autostart=true", "results.summary=none")
    names = ["server.tcp", "models.autostart", "results.summary"]
    assert plant.set(*waits, "results.publish=anomalies", "log_level=ERROR") == names
    assert plant.set(*waits) == names
    assert plant.set(*waits[:1]) == names[:1]
    assert plant.set() == []


def leaves(group: Strict, path: str = "") -> Iterator[Tuple[str, Any]]:
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, Strict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


ALL = dict(leaves(Settings()))


def changed(group: Strict, path: List[str], value: Any) -> Any:
    """A copy with another value in one place."""
    inner = changed(getattr(group, path[0]), path[1:], value) if path[1:] else value
    return group.model_copy(update={path[0]: inner})


def test_every_live_setting_exists() -> None:
    assert set(ALL) >= LIVE


@pytest.mark.parametrize("name", sorted(set(ALL) - LIVE))
def test_every_other_setting_waits_for_a_restart(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    old = Settings()
    registry = Registry(old.models, old.engine)
    room = ResultsPipeline(old.results, Metrics(), pytest.fail)
    new = changed(old, name.split("."), SecretStr("1234") if "pin" in name else "other")
    assert SettingsReload(old, registry, room).apply(new) == [name]
    assert not caplog.text
    room.close(0.1)
