"""Hosting where something else fails: the records, threads, folders, a runtime that is deaf."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, Set

import pytest

from edge_agent.client import Client
from edge_agent.errors import DeadlineExceeded, InvalidConfiguration, Overloaded
from edge_agent.service.faults import ServiceFault
from edge_agent.service.hosting import hosted_models, runtime_process
from edge_agent.service.hosting.hosted_model import HostedModel
from edge_agent.service.hosting.runtime_process import RuntimeProcess
from edge_agent.service.records import database, repeating
from tests.fakes import micro
from tests.service.hosted import HostingService, picture, runtimes
from tests.service.running import free_port

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.types import Prediction

NOT_YET = "isn't recorded yet"
NOBODY = 65534
IN_SERVICE = "InServiceInferenceUnits{"  # of the runtime's metrics


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostingService]:
    monkeypatch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    monkeypatch.setattr(repeating, "AGAIN_S", 0.05)
    with HostingService(tmp_path) as running:
        yield running


@contextlib.contextmanager
def locked(service: HostingService) -> Iterator[None]:
    """Let another process's writer hold the records."""
    with contextlib.closing(sqlite3.connect(service.root / "records.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


def wait_until(holds: Callable[[], bool], within_s: float = 120.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def socket_of(runtime: int) -> Path:
    words = Path(f"/proc/{runtime}/cmdline").read_text().split("\0")
    return Path(words[words.index("--socket") + 1].partition("unix://")[2])


def test_a_status_is_recorded_when_the_records_can_be_written_again(
    service: HostingService, caplog: pytest.LogCaptureFixture
) -> None:
    service.add_model("classification")
    service.call("start_model", MinInferenceUnits=1)
    with locked(service):
        wait_until(lambda: NOT_YET in caplog.text)
        healthy = runtimes()
        assert len(healthy) == 1
        assert service.status() == "STARTING_HOSTING"
    service.wait_for("HOSTED")
    assert runtimes() == healthy
    assert service.detect(picture(200))["IsAnomalous"]
    caplog.clear()
    service.call("stop_model")
    with locked(service):
        wait_until(lambda: NOT_YET in caplog.text)
        assert not runtimes()
        assert service.status() == "STOPPING_HOSTING"
    service.wait_for("TRAINED")


def test_a_service_can_stop_while_the_records_cannot_be_written(
    service: HostingService, caplog: pytest.LogCaptureFixture
) -> None:
    service.add_model("classification")
    service.call("start_model", MinInferenceUnits=1)
    with locked(service):
        wait_until(lambda: NOT_YET in caplog.text)
        service.hosting.close()
    assert not runtimes()
    assert service.status() == "STARTING_HOSTING"  # it comes back with the next start


def test_a_model_whose_hosting_cannot_begin_has_failed(
    service: HostingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: HostedModel) -> None:
        raise RuntimeError("can't start new thread")

    service.add_model("classification")
    with monkeypatch.context() as patch:
        patch.setattr(HostedModel, "start", fail)
        service.call("start_model", MinInferenceUnits=1)
        assert "Start it again" in service.wait_for("HOSTING_FAILED")["StatusMessage"]
    service.host()


def test_a_model_that_is_being_started_can_be_stopped(service: HostingService) -> None:
    service.add_model("classification")
    service.call("start_model", MinInferenceUnits=1)
    wait_until(lambda: bool(runtimes()))
    assert service.call("stop_model") == {"Status": "STOPPING_HOSTING"}
    service.wait_for("TRAINED")
    assert not runtimes()


def test_so_many_models_start_at_a_time_and_one_that_waits_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_models, "MOST_STARTS", 1)
    with HostingService(tmp_path) as service:
        for version in (1, 2, 3):
            service.add_model("classification", version)
        service.call("start_model", 1, MinInferenceUnits=1)
        wait_until(lambda: bool(runtimes()))
        (first,) = runtimes()
        os.kill(first, signal.SIGSTOP)
        for version in (2, 3):
            service.call("start_model", version, MinInferenceUnits=1)
        service.call("stop_model", 2)
        service.wait_for("TRAINED", 2)
        assert runtimes() == {first}
        os.kill(first, signal.SIGCONT)
        for version in (1, 3):
            service.wait_for("HOSTED", version)


def test_a_runtime_that_runs_and_serves_nobody_is_replaced(
    service: HostingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_process, "ANSWERS_WITHIN_S", 3.0)
    service.add_model("classification")
    service.host()
    (deaf,) = runtimes()
    with Client(f"unix://{socket_of(deaf)}") as client:
        client.stop(runtime_process.MODEL)
    service.wait_for("SYSTEM_UPDATING")
    service.wait_for("HOSTED")
    assert deaf not in runtimes()
    assert service.detect(picture(200))["IsAnomalous"]


def test_a_runtime_that_is_killed_while_it_starts_is_replaced(
    service: HostingService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.add_model("classification")
    with monkeypatch.context() as patch:
        patch.setattr(runtime_process, "STARTS_WITHIN_S", 0.05)
        service.call("start_model", MinInferenceUnits=1)
        wait_until(lambda: "it wasn't ready after 0.05 s. It is replaced." in caplog.text)
    service.wait_for("HOSTED")
    assert service.detect(picture(200))["IsAnomalous"]


def test_a_runtime_that_cannot_judge_its_first_picture_in_time_is_replaced(
    service: HostingService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [DeadlineExceeded("No answer came."), Overloaded("Another load is under way.")]
    detect = RuntimeProcess.detect

    def slow(runtime: RuntimeProcess, image: NDArray[np.uint8]) -> Prediction:
        if failures:
            raise failures.pop(0)
        return detect(runtime, image)

    service.add_model("classification")
    monkeypatch.setattr(RuntimeProcess, "detect", slow)
    service.host()
    assert "it judged no picture: No answer came. It is replaced." in caplog.text
    assert "it judged no picture: Another load is under way. It is replaced." in caplog.text


def test_sockets_lie_in_a_private_folder_whose_name_cannot_be_guessed(
    service: HostingService,
) -> None:
    service.add_model("classification")
    folders: Set[Path] = set()
    for _ in range(2):
        service.host()
        folder = socket_of(*runtimes()).parent
        facts = folder.stat()
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (os.geteuid(), 0o700)
        folders.add(folder)
        service.call("stop_model")
        service.wait_for("TRAINED")
        assert not folder.exists()
    assert len(folders) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_what_others_have_put_there_is_left_alone(tmp_path: Path) -> None:
    with HostingService(tmp_path) as service:
        service.add_model("classification")
        service.call("start_model", MinInferenceUnits=1)
        wait_until(lambda: bool(runtimes()))
        folder = socket_of(*runtimes()).parent
    prefix = folder.name[:-8]  # which can be guessed
    theirs, ours = (folder.with_name(prefix + end) for end in ("theirs", "ours"))
    for each in (theirs, ours):
        each.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    try:
        with HostingService(tmp_path):
            assert theirs.exists()
            assert not ours.exists()
    finally:
        theirs.rmdir()


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    service = HostingService(tmp_path)
    with pytest.raises(InvalidConfiguration, match="TMPDIR"):
        service.hosting.start()
    service.records.close()


def test_units_follow_the_load_between_their_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
    metrics = f"127.0.0.1:{free_port()}"
    engine = {"scale_up_after_s": 0.2, "scale_down_after_s": 1.0}
    settings = tmp_path / "runtime.json"
    settings.write_text(json.dumps({"engine": engine, "server": {"metrics": metrics}}))

    def units() -> int:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (line for line in lines if IN_SERVICE in line)
        return int(float(line.split()[-1]))

    with HostingService(tmp_path, runtime_settings=settings) as service:
        service.add_model("classification", model=micro.slow())
        service.host(MinInferenceUnits=1, MaxInferenceUnits=2)
        shown = service.describe()
        assert (shown["MinInferenceUnits"], shown["MaxInferenceUnits"]) == (1, 2)
        assert units() == 1
        with judged(service):
            wait_until(lambda: units() == 2)
        wait_until(lambda: units() == 1)


@contextlib.contextmanager
def judged(service: HostingService) -> Iterator[None]:
    """Have more pictures judged than one unit can, until the block ends."""
    over = threading.Event()

    def judge() -> None:
        while not over.is_set():
            with contextlib.suppress(ServiceFault):
                service.detect(picture(200))

    threads = [threading.Thread(target=judge) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
