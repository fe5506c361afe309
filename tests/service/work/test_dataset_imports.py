"""What stays of a change when the service is killed, or stopped, while it is under way."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from sqlalchemy import func, select

from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.faults import ResourceNotFound, Throttled
from edge_agent.service.records import database, repeating
from edge_agent.service.records.schema import DATASETS, ENTRIES
from edge_agent.service.work import dataset_imports
from edge_agent.service.work.dataset_imports import DELETING, set_status
from tests import ROOT
from tests.service.dataset_site import DatasetSite, line, manifest, opened

LINES = 6000
WITHIN_S = 120.0
State = Tuple[str, int]  # of the dataset, number of its entries


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DatasetSite]:
    with opened(tmp_path) as service:
        service("CreateProject")
        service.put("m", [line(str(number), "normal") for number in range(LINES)])
        yield service


def state(site: DatasetSite) -> State:
    with site.records.read() as transaction:
        status = transaction.connection.scalar(select(DATASETS.c.status))
        count = transaction.connection.scalar(select(func.count()).select_from(ENTRIES))
    return status or "", count or 0


def killed(site: DatasetSite, operation: str, is_time: Callable[[State], bool]) -> State:
    """Kill a process that changes the dataset; return what it left."""
    command = [sys.executable, "-m", "tests.service.work.changing", str(site.root), operation]
    with subprocess.Popen(command, cwd=ROOT) as process:
        end = time.monotonic() + WITHIN_S
        while not is_time(state(site)) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        process.kill()
    return state(site)


@pytest.mark.parametrize("entries", [0, 2001, LINES])
def test_a_killed_import_is_finished_or_failed_and_never_half(
    site: DatasetSite, entries: int
) -> None:
    status, there = killed(
        site, "create", lambda now: now[0] == "CREATE_IN_PROGRESS" and now[1] >= entries
    )
    assert status in ("CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    if status == "CREATE_IN_PROGRESS":
        assert (site.lines(), site.describe()["ImageStats"]["Total"]) == ([], 0)
        site.imports.start()
        description = site.describe()
        assert (description["Status"], state(site)[1]) == ("CREATE_FAILED", 0)
        assert description["StatusMessage"] == (
            "The service stopped during the import. Delete the dataset, then create it again."
        )
    else:
        assert there == LINES


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_a_killed_update_leaves_the_old_entries_or_all_new_ones(
    site: DatasetSite, after_s: float
) -> None:
    site("CreateDataset", DatasetType="train")
    site.update(line("old", "anomaly"), line("0", "anomaly"))
    before = site.lines()

    def is_time(now: State) -> bool:
        if now[0] == "UPDATE_IN_PROGRESS":
            time.sleep(after_s)
        return now[0] == "UPDATE_IN_PROGRESS"

    killed(site, "update", is_time)
    site.imports.start()
    description = site.describe()
    if description["Status"] == "UPDATE_COMPLETE" and len(site.lines()) > 2:
        assert description["ImageStats"]["Total"] == LINES + 1
    else:
        assert description["Status"] == "UPDATE_FAILED_ROLLBACK_COMPLETE"
        assert "changed nothing. Update it again" in description["StatusMessage"]
        assert site.lines() == before
        assert site.update(line("0", "normal"))["ImageStats"]["Normal"] == 1


def test_a_killed_deletion_is_finished_at_the_next_start(site: DatasetSite) -> None:
    site.create("m")
    killed(site, "delete", lambda now: now[0] == "DELETE_IN_PROGRESS")
    site.imports.start()
    with pytest.raises(ResourceNotFound):
        site.describe()
    assert state(site) == ("", 0)


class EndlessBuckets(FolderBuckets):
    """Manifests have no end."""

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        return repeat(json.dumps(line("a")).encode())


def test_a_stop_of_the_service_waits_for_no_import(tmp_path: Path) -> None:
    with opened(tmp_path, kind=EndlessBuckets) as site:
        site("CreateProject")
        site("CreateDataset", DatasetType="train", DatasetSource=manifest("plant", "m"))
    with opened(tmp_path) as site:
        assert site.describe()["Status"] == "CREATE_FAILED"
        assert state(site)[1] == 0


class BrokenBuckets(FolderBuckets):
    """Manifests meet a fault of ours."""

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        raise RuntimeError("a disk that lies")


def test_a_fault_of_ours_fails_the_dataset_with_a_sentence_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, kind=BrokenBuckets) as site:
        site("CreateProject")
        description = site.create("m")
    assert description["Status"] == "CREATE_FAILED"
    assert description["StatusMessage"] == (
        "It failed by a fault of the service, which its log describes."
    )
    assert "a disk that lies" in caplog.text


class HeldBuckets(FolderBuckets):
    """Manifests are read once `go` is set."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.go = threading.Event()

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        assert self.go.wait(WITHIN_S)
        return super().lines(account, bucket, key, most_bytes)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    monkeypatch.setattr(repeating, "AGAIN_S", 0.05)


@contextmanager
def locked(site: DatasetSite, log: pytest.LogCaptureFixture) -> Iterator[sqlite3.Connection]:
    """Another process writes, once it is told to; until something wasn't recorded twice."""
    file = site.root / "records.db"
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        yield other
        end = time.monotonic() + WITHIN_S
        while log.text.count("isn't recorded yet") < 2:
            assert time.monotonic() < end
            time.sleep(0.01)


def lock(other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lines", [[line("a")], [{}]])
def test_a_failure_is_recorded_as_soon_as_the_records_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: List[object]
) -> None:
    with opened(tmp_path, kind=HeldBuckets) as site:
        site("CreateProject")
        site.put("m", lines)
        site("CreateDataset", DatasetType="train", DatasetSource=manifest("plant", "m"))
        with locked(site, caplog) as other:
            lock(other)
            site.buckets.go.set()
        description = site.wait()
    assert description["Status"] == "CREATE_FAILED"
    assert ("records can't be" if lines != [{}] else "Line 1") in description["StatusMessage"]


@pytest.mark.usefixtures("impatient")
def test_a_deletion_goes_on_as_soon_as_the_records_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as site:
        site("CreateProject")
        site.put("m", [line("a")])
        site.create("m")
        with locked(site, caplog) as other, site.records.write() as transaction:
            transaction.after_commit(lambda: lock(other))
            set_status(1, DELETING, "", transaction)
            site.imports.delete(1, transaction)
        end = time.monotonic() + WITHIN_S
        while state(site) != ("", 0):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert site.create("m")["Status"] == "CREATE_COMPLETE"


def test_updates_that_wait_take_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = json.dumps(line("a")).encode()
    monkeypatch.setattr(dataset_imports, "MOST_HELD_BYTES", 3 * len(changes))
    names = [f"p{number}" for number in range(4)]
    with opened(tmp_path, kind=HeldBuckets) as site:
        site.put("m", [line("a")])
        source = manifest("plant", "m")
        for name in ("second", "third"):  # takes all threads
            site("CreateProject", ProjectName=name)
            site("CreateDataset", ProjectName=name, DatasetType="train", DatasetSource=source)
        for name in names:
            site("CreateProject", ProjectName=name)
            site("CreateDataset", ProjectName=name, DatasetType="train")
        for name in names[:3]:
            site("UpdateDatasetEntries", ProjectName=name, DatasetType="train", Changes=changes)
        last = {"ProjectName": names[3], "DatasetType": "train"}
        with pytest.raises(Throttled) as refused:
            site("UpdateDatasetEntries", **last, Changes=changes)
        assert refused.value.members["RetryAfterSeconds"] == 5
        description: Any = site("DescribeDataset", **last)["DatasetDescription"]
        assert description["Status"] == "CREATE_COMPLETE"
        site.buckets.go.set()
        end = time.monotonic() + WITHIN_S
        while True:
            try:
                site("UpdateDatasetEntries", **last, Changes=changes)
                break
            except Throttled:
                assert time.monotonic() < end
                time.sleep(0.01)
