"""StartModel and StopModel: runtime processes, statuses, conflicts, quotas, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, List, Set

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.faults import (
    Conflict,
    QuotaExceeded,
    ResourceNotFound,
    ServiceFault,
    ValidationFailed,
)
from edge_agent.service.hosting import hosted_model, runtime_process
from edge_agent.service.hosting.statuses import is_hosted
from tests.fakes import golden
from tests.service.aws import needs_aws
from tests.service.hosted import OTHER_ACCOUNT, HostingService, picture, runtimes
from tests.service.running import RunningService

STATUSES = [
    "TRAINING", "TRAINED", "TRAINING_FAILED", "STARTING_HOSTING", "HOSTED", "HOSTING_FAILED",
    "STOPPING_HOSTING", "SYSTEM_UPDATING", "DELETING",
]  # fmt: skip
STARTS_FROM = {"TRAINED", "HOSTING_FAILED"}
ANSWERS_IN = {"HOSTED", "SYSTEM_UPDATING"}
STOPS_FROM = {"STARTING_HOSTING", *ANSWERS_IN}

WRONG_SETTINGS = '{"engine": {"queue_length": 0}}'


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostingService]:
    monkeypatch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
    with HostingService(tmp_path) as running:
        yield running


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_ended(processes: Set[int], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not all(map(has_ended, processes)):
        assert time.monotonic() < end, f"{processes} still run"
        time.sleep(0.02)


def test_a_model_is_started_hosted_with_its_units_and_stopped(service: HostingService) -> None:
    service.add_model("classification")
    answer = service.call("start_model", "latest", MinInferenceUnits=2, MaxInferenceUnits=3)
    assert answer == {"Status": "STARTING_HOSTING"}
    found = service.wait_for("HOSTED")
    assert (found["MinInferenceUnits"], found["MaxInferenceUnits"]) == (2, 3)
    assert len(runtimes()) == 1
    assert service.detect(picture(200))["IsAnomalous"]
    assert service.call("stop_model") == {"Status": "STOPPING_HOSTING"}
    found = service.wait_for("TRAINED")
    assert "MinInferenceUnits" not in found
    assert not runtimes()
    with pytest.raises(Conflict, match="TRAINED"):
        service.detect(picture(200))


def test_golden_samples_are_checked_before_a_model_is_hosted(service: HostingService) -> None:
    package = service.add_model("segmentation")
    golden.write(package, "segmentation")
    service.host()


@pytest.mark.parametrize("status", STATUSES)
def test_statuses_that_do_not_allow_a_call_are_conflicts(
    service: HostingService, status: str
) -> None:
    service.add_model("classification", status=status)
    calls = [
        (STARTS_FROM, lambda: service.call("start_model", MinInferenceUnits=1)),
        (STOPS_FROM, lambda: service.call("stop_model")),
        (ANSWERS_IN, lambda: service.detect(picture(200))),
    ]
    for allowed, call in calls:
        if status not in allowed:
            with pytest.raises(Conflict, match=f"is {status}") as raised:
                call()
            assert raised.value.members["ResourceType"] == "MODEL"
            assert service.status() == status


def test_a_model_in_use_by_a_runtime_counts_as_hosted() -> None:
    in_use = {"STARTING_HOSTING", "HOSTED", "SYSTEM_UPDATING", "STOPPING_HOSTING"}
    assert {status for status in STATUSES if is_hosted(status)} == in_use


def test_models_of_others_are_not_found(service: HostingService) -> None:
    service.add_model("classification", status="HOSTED")
    for operation in ("start_model", "stop_model"):
        with pytest.raises(ResourceNotFound):
            service.call(operation, account=OTHER_ACCOUNT, MinInferenceUnits=1)
        with pytest.raises(ResourceNotFound):
            service.call(operation, version=2, MinInferenceUnits=1)
    with pytest.raises(ResourceNotFound):
        service.call("detect_anomalies", account=OTHER_ACCOUNT, Body=b"", ContentType="image/png")


@pytest.mark.parametrize(("least", "most"), [(3, 2), (65, 65), (1, 65)])
def test_units_that_make_no_sense_are_refused(
    service: HostingService, least: int, most: int
) -> None:
    service.add_model("classification")
    with pytest.raises(ValidationFailed, match="nference"):
        service.call("start_model", MinInferenceUnits=least, MaxInferenceUnits=most)
    assert service.status() == "TRAINED"


def test_quotas_limit_hosted_models_and_the_units_of_each(tmp_path: Path) -> None:
    quotas = {"hosted_models": 3, "inference_units": 5}
    service = HostingService(tmp_path, quotas=quotas)
    for version in (1, 2):
        service.add_model("classification", version, "HOSTED", min_units=5)  # 10 together
    service.add_model("classification", 3)
    with pytest.raises(QuotaExceeded, match="at most 5") as raised:
        service.call("start_model", 3, MinInferenceUnits=1, MaxInferenceUnits=6)
    assert raised.value.members["QuotaCode"] == "inference_units"
    service.add_model("classification", 4, "STOPPING_HOSTING", min_units=1, max_units=2)
    with pytest.raises(QuotaExceeded) as raised:
        service.call("start_model", 3, MinInferenceUnits=5)
    assert raised.value.members["QuotaCode"] == "hosted_models"
    service.records.close()


def test_a_killed_runtime_is_replaced_while_pictures_are_judged(service: HostingService) -> None:
    service.add_model("classification")
    service.host()
    (first,) = runtimes()
    seen: Set[str] = set()
    wrong: List[object] = []
    stop = threading.Event()

    def judge() -> None:
        while not stop.is_set():
            try:
                if not service.detect(picture(200))["IsAnomalous"]:
                    wrong.append("another answer")
            except ServiceFault as error:
                if error.code not in ("InternalServerException", "ThrottlingException"):
                    wrong.append(error)

    def watch() -> None:
        while not stop.is_set():
            seen.add(service.status())

    threads = [threading.Thread(target=work) for work in (judge, judge, watch)]
    for thread in threads:
        thread.start()
    os.kill(first, signal.SIGKILL)
    wait_until_ended({first})
    service.wait_for("SYSTEM_UPDATING")
    service.wait_for("HOSTED")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen == {"HOSTED", "SYSTEM_UPDATING"}
    assert service.detect(picture(200))["IsAnomalous"]
    assert first not in runtimes()


def test_a_runtime_that_gives_no_answer_is_replaced(
    service: HostingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_process, "ANSWERS_WITHIN_S", 3.0)
    service.add_model("classification")
    service.host()
    (first,) = runtimes()
    os.kill(first, signal.SIGSTOP)
    assert "no answer" in service.wait_for("SYSTEM_UPDATING")["StatusMessage"]
    service.wait_for("HOSTED")
    assert first not in runtimes()


def test_runtimes_that_die_again_and_again_end_the_hosting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_model, "PAUSES_S", (0.0,))
    settings = tmp_path / "runtime.json"
    settings.write_text("{}")
    with HostingService(tmp_path, runtime_settings=settings) as service:
        service.add_model("classification")
        settings.write_text(WRONG_SETTINGS)
        service.call("start_model", MinInferenceUnits=1)
        found = service.wait_for("HOSTING_FAILED")
        assert "engine.queue_length" in found["StatusMessage"]
        assert "2 times" in found["StatusMessage"]
        settings.write_text("{}")
        service.host()


def test_wrong_settings_of_runtimes_are_found_when_the_service_starts(tmp_path: Path) -> None:
    settings = tmp_path / "runtime.json"
    settings.write_text(WRONG_SETTINGS)
    with pytest.raises(InvalidConfiguration, match="queue_length"):
        HostingService(tmp_path, runtime_settings=settings).hosting.start()


def test_a_package_that_cannot_serve_is_not_hosted_and_says_why(service: HostingService) -> None:
    package = service.add_model("classification")
    model = package / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    service.call("start_model", MinInferenceUnits=1)
    why = service.wait_for("HOSTING_FAILED")["StatusMessage"]
    assert "model.onnx" in why
    assert "/" not in why
    (package / "manifest.json").unlink()
    service.call("start_model", MinInferenceUnits=1)
    assert "manifest.json" in service.wait_for("HOSTING_FAILED")["StatusMessage"]
    assert not runtimes()


def test_a_model_that_is_being_replaced_can_be_stopped(
    service: HostingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_model, "PAUSES_S", (600.0,))
    service.add_model("classification")
    service.host()
    os.kill(*runtimes(), signal.SIGKILL)
    service.wait_for("SYSTEM_UPDATING")
    service.call("stop_model")
    service.wait_for("TRAINED")
    assert not runtimes()


def test_pictures_in_flight_at_a_stop_are_judged_and_later_ones_are_conflicts(
    service: HostingService,
) -> None:
    service.add_model("classification")
    service.host()
    found: List[object] = []

    def judge() -> None:
        try:
            while True:
                found.append(service.detect(picture(200))["IsAnomalous"])
        except ServiceFault as error:
            found.append(error.code)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(found) < 20:
        time.sleep(0.01)
    service.call("stop_model")
    for thread in threads:
        thread.join()
    service.wait_for("TRAINED")
    assert set(found) == {True, "ConflictException"}


def test_a_service_that_ends_stops_its_runtimes_and_brings_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
    with HostingService(tmp_path) as service:
        service.add_model("classification")
        service.host(MinInferenceUnits=2)
    assert not runtimes()
    with HostingService(tmp_path) as service:
        assert service.status() in ("SYSTEM_UPDATING", "HOSTED")
        found = service.wait_for("HOSTED")
        assert found["MinInferenceUnits"] == 2
        assert service.detect(picture(200))["IsAnomalous"]


SERVE = """
import sys, time
from pathlib import Path
from tests.service.hosted import HostingService, runtimes
with HostingService(Path(sys.argv[1])) as service:
    service.host(1)
    service.call("start_model", 2, MinInferenceUnits=1)
    print(*runtimes(), flush=True)
    time.sleep(600)
"""


def test_a_killed_service_leaves_no_runtime_and_its_models_come_back(tmp_path: Path) -> None:
    service = HostingService(tmp_path)
    for version in (1, 2, 3):
        service.add_model("classification", version)
    service.set_status("STOPPING_HOSTING", 3)
    killed = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    left = set(map(int, killed.stdout.readline().split()))
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert left
    wait_until_ended(left)
    assert service.status() == "HOSTED"
    assert service.status(2) in ("STARTING_HOSTING", "HOSTED")
    with service:
        assert service.status(3) == "TRAINED"
        for version in (1, 2):
            service.wait_for("HOSTED", version)
        assert len(runtimes()) == 2
    assert not runtimes()


JUDGE = """
import pathlib, time

units = {"MinInferenceUnits": 1}
client.start_model(ProjectName="cookies", ModelVersion="1", **units)
def model():
    found = client.describe_model(ProjectName="cookies", ModelVersion="1")
    return found["ModelDescription"]["Status"]
while model() != "HOSTED":
    time.sleep(0.1)
pathlib.Path(hosted).touch()
result = []
while not pathlib.Path(over).exists():
    with open(picture, "rb") as body:
        answer = client.detect_anomalies(
            ProjectName="cookies", ModelVersion="1", Body=body, ContentType="image/png"
        )
    result.append(answer["DetectAnomalyResult"]["IsAnomalous"])
"""


@needs_aws
def test_a_client_sees_nothing_of_a_killed_runtime(tmp_path: Path) -> None:
    with RunningService(tmp_path) as service:
        seeded = HostingService(service.root)
        seeded.add_model("classification")
        shown, hosted, over = (tmp_path / name for name in ("shown.png", "hosted", "over"))
        shown.write_bytes(picture(200))
        given = {"picture": str(shown), "hosted": str(hosted), "over": str(over)}
        with ThreadPoolExecutor(1) as pool:
            judged = pool.submit(service.user().boto3, JUDGE, **given)
            while not hosted.exists():
                assert not judged.done(), judged.exception()
                time.sleep(0.02)
            assert service.process is not None
            (runtime,) = runtimes(service.process.pid)
            os.kill(runtime, signal.SIGKILL)
            seeded.wait_for("SYSTEM_UPDATING")
            seeded.wait_for("HOSTED")
            over.touch()
            assert set(judged.result()) == {True}
        seeded.records.close()
