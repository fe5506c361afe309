"""Work in real child processes: results, failures, cancelling, and what a killed service leaves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, List, Set

import pytest
from sqlalchemy import delete, select

from edge_agent.service.faults import RecordsFailed
from edge_agent.service.records import repeating
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import TAGS, WORK
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work import children
from edge_agent.service.work.base import Parameters
from edge_agent.service.work.children import CANCELLED, FOLDER, INTERRUPTED, Children
from tests import ROOT
from tests.service.work.trivial import KINDS, PARTS, recorded

PATIENCE_S = 60.0
KILLS = int(os.environ.get("SERVICE_KILLS", "6"))


@pytest.fixture(autouse=True)
def _children_find_these_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@contextlib.contextmanager
def working(root: Path, records: Records, at_a_time: int = 2) -> Iterator[Children]:
    settings = ServiceSettings(children=at_a_time)
    work = Children(root=root, settings=settings, records=records, kinds=KINDS)
    work.start()
    try:
        yield work
    finally:
        work.close()


def submit(work: Children, records: Records, *parameters: Parameters) -> List[str]:
    with records.write() as transaction:
        return [work.submit("trivial", each, transaction) for each in parameters]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def rows(records: Records) -> List[str]:
    with records.read() as transaction:
        return list(transaction.connection.scalars(select(WORK.c.id)))


def runs(root: Path) -> List[List[str]]:
    file = root / "runs"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def processes(root: Path) -> List[str]:
    """Return the command lines of the child processes that work below `root`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if f"{root}/{FOLDER}/" in line]


def test_work_is_done_recorded_and_leaves_its_artifact_only(
    tmp_path: Path, records: Records
) -> None:
    with working(tmp_path, records) as work:
        submit(work, records, {"name": "a"})
        wait_until(lambda: not rows(records))
    assert recorded(records) == {"a": {"progress": "Half of it is done", "finished": "a"}}
    assert {path.name for path in (tmp_path / "artifacts" / "a").iterdir()} == set(PARTS)
    wait_until(lambda: not list((tmp_path / FOLDER).iterdir()))


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ("refuse", "The picture is too small; take another."),
        (
            "fault",
            "The process ended with exit status 1; its last line: RuntimeError: model.onnx failed",
        ),
        ("die", "The process was ended by SIGKILL, often because memory ran out."),
        ("full disk", "The work can't go on: No space left on device."),
        ("lost", "It failed by a fault of the service, which its log describes."),
    ],
)
def test_each_failure_is_a_sentence(
    tmp_path: Path, records: Records, action: str, sentence: str
) -> None:
    with working(tmp_path, records) as work:
        submit(work, records, {"name": "a", "action": action})
        wait_until(lambda: not rows(records))
    found = recorded(records)["a"]
    assert found["failed"].startswith(sentence)
    assert "finished" not in found
    assert "Traceback" not in found["failed"]
    assert str(tmp_path) not in found["failed"]


def test_a_result_outlasts_records_that_cannot_be_written(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeating, "AGAIN_S", 0.01)
    with working(tmp_path, records) as work:
        submit(work, records, {"name": "a", "action": "busy"})
        wait_until(lambda: not rows(records))
    assert (tmp_path / "busy").exists()
    assert recorded(records)["a"]["finished"] == "a"
    assert "failed" not in recorded(records)["a"]
    assert _whole_artifacts(tmp_path) == {"a"}


def test_a_result_that_cannot_be_stored_is_kept_also_through_a_stop(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STORE_AGAIN_S", 0.01)

    def says_why() -> bool:
        said = recorded(records).get("a", {}).get("progress", "")
        assert str(tmp_path) not in said
        return said.endswith("tried again: key can't be stored: the disk is full.")

    with working(tmp_path, records) as work:
        submit(work, records, {"name": "a", "action": "full bucket"})
        wait_until(says_why)
    assert "failed" not in recorded(records)["a"]
    with records.write() as transaction:
        transaction.connection.execute(delete(TAGS))
    with working(tmp_path, records):
        wait_until(says_why)
        (tmp_path / "room").touch()
        wait_until(lambda: not rows(records))
    assert len(runs(tmp_path)) == 1
    assert recorded(records)["a"]["finished"] == "a"
    assert _whole_artifacts(tmp_path) == {"a"}


def test_a_result_that_cannot_be_stored_for_an_hour_has_failed(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STORED_WITHIN_S", 0.0)
    with working(tmp_path, records) as work:
        submit(work, records, {"name": "a", "action": "unpublished"})
        wait_until(lambda: not rows(records))
    assert recorded(records)["a"]["failed"] == "The bucket is gone; make it."


def test_work_that_is_waiting_or_interrupted_outlasts_records_that_cannot_be_written(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working(tmp_path, records, at_a_time=1) as work:
        submit(work, records, {"name": "runs", "seconds": 60.0}, {"name": "waits"})
        wait_until(lambda: runs(tmp_path))
    monkeypatch.setattr(repeating, "AGAIN_S", 0.01)
    tries: List[int] = []

    def refuse() -> Iterator[Transaction]:
        tries.append(1)
        raise RecordsFailed("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(records, "write", refuse)
        with working(tmp_path, records):
            wait_until(lambda: len(tries) > 4)
            patch.undo()
            wait_until(lambda: not rows(records))
    assert recorded(records)["runs"]["failed"] == INTERRUPTED
    assert recorded(records)["waits"]["finished"] == "waits"


def test_work_of_one_kind_does_not_wait_for_another_kind(tmp_path: Path, records: Records) -> None:
    with working(tmp_path, records, at_a_time=1) as work:
        submit(work, records, {"name": "long", "seconds": 60.0})
        with records.write() as transaction:
            work.submit("other", {"name": "short"}, transaction)
        wait_until(lambda: len(rows(records)) == 1)
        assert recorded(records)["short"]["finished"] == "short"


def test_work_of_a_transaction_that_is_not_committed_is_never_done(
    tmp_path: Path, records: Records
) -> None:
    with working(tmp_path, records) as work:
        with contextlib.suppress(KeyError), records.write() as transaction:
            work.submit("trivial", {"name": "a"}, transaction)
            raise KeyError
        submit(work, records, {"name": "b"})
        wait_until(lambda: not rows(records))
    assert [name for name, _ in runs(tmp_path)] == ["b"]


def test_one_process_at_a_time_does_the_work_in_order(tmp_path: Path, records: Records) -> None:
    with working(tmp_path, records, at_a_time=1) as work:
        submit(work, records, *({"name": name} for name in "abc"))
        wait_until(lambda: not rows(records))
    assert [name for name, _ in runs(tmp_path)] == ["a", "b", "c"]


def test_work_is_cancelled_while_it_waits_and_while_it_runs(
    tmp_path: Path, records: Records
) -> None:
    with working(tmp_path, records, at_a_time=1) as work:
        first, second = submit(
            work, records, {"name": "runs", "seconds": 60.0}, {"name": "waits", "seconds": 60.0}
        )
        wait_until(lambda: runs(tmp_path))
        work.cancel(second)
        work.cancel(first)
        wait_until(lambda: not rows(records))
        work.cancel(first)  # of what has ended: nothing
    found = recorded(records)
    assert found["runs"]["failed"] == found["waits"]["failed"] == CANCELLED
    assert [name for name, _ in runs(tmp_path)] == ["runs"]
    assert not (tmp_path / "artifacts").exists()


def test_a_stopped_service_ends_its_children_and_says_so_at_the_next_start(
    tmp_path: Path, records: Records
) -> None:
    with working(tmp_path, records, at_a_time=1) as work:
        submit(work, records, {"name": "runs", "seconds": 60.0}, {"name": "waits"})
        wait_until(lambda: runs(tmp_path))
        assert len(processes(tmp_path)) == 1
    assert not processes(tmp_path)
    with working(tmp_path, records):
        wait_until(lambda: not rows(records))
    found = recorded(records)
    assert found["runs"]["failed"].startswith("The service was stopped while this was under way.")
    assert found["waits"]["finished"] == "waits"


def test_a_killed_child_fails_alone(tmp_path: Path, records: Records) -> None:
    with working(tmp_path, records) as work:
        submit(work, records, {"name": "killed", "seconds": 60.0})
        wait_until(lambda: runs(tmp_path))
        os.kill(int(runs(tmp_path)[0][1]), signal.SIGKILL)
        submit(work, records, {"name": "next"})
        wait_until(lambda: not rows(records))
    found = recorded(records)
    assert "SIGKILL" in found["killed"]["failed"]
    assert found["next"]["finished"] == "next"


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_service_killed_at_any_moment_leaves_everything_finished_or_failed(
    tmp_path: Path, records: Records, seed: int
) -> None:
    count = 6
    _kill_a_service(tmp_path, count, random.Random(seed).uniform(0.0, 2.5))
    wait_until(lambda: not processes(tmp_path))
    with working(tmp_path, records):
        wait_until(lambda: not rows(records))
        wait_until(lambda: not list((tmp_path / FOLDER).iterdir()))
    found = recorded(records)
    assert set(found) == set(map(str, range(count)))
    assert all(("finished" in each) != ("failed" in each) for each in found.values())
    started = [name for name, _ in runs(tmp_path)]
    assert len(started) == len(set(started)), "something ran twice"
    finished = {name for name, each in found.items() if "finished" in each}
    assert _whole_artifacts(tmp_path) == finished


def _kill_a_service(root: Path, count: int, after_s: float) -> None:
    command = [sys.executable, "-m", "tests.service.work.trivial", str(root), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "submitted\n"
        time.sleep(after_s)  # the moment is what is tried
        service.kill()


def _whole_artifacts(root: Path) -> Set[str]:
    folder = root / "artifacts"
    found = list(folder.iterdir()) if folder.exists() else []
    for artifact in found:
        assert {path.name for path in artifact.iterdir()} == set(PARTS)
    return {artifact.name for artifact in found}
