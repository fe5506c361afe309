"""What stays of a change when the service is killed, or stopped, while it is under way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path
from typing import Callable, Iterator, Tuple

import pytest
from sqlalchemy import func, select

from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.faults import ResourceNotFound
from edge_agent.service.records.schema import DATASETS, ENTRIES
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
