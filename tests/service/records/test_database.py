from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import List

import pytest
from sqlalchemy import func, insert, select

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.faults import RecordsFailed
from edge_agent.service.records import database
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import CLIENT_TOKENS, PROJECTS
from tests import ROOT
from tests.service.calls import ACCOUNT


def add(records: Records, name: str) -> None:
    with records.write() as transaction:
        new = insert(PROJECTS).values(account=ACCOUNT, name=name, arn=name, created=1.0)
        transaction.connection.execute(new)


def names(records: Records) -> List[str]:
    with records.read() as transaction:
        return [row.name for row in transaction.connection.execute(select(PROJECTS.c.name))]


def writer(file: Path, most_bytes: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.service.records.writer", str(file), str(most_bytes)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_commit_waits_for_the_disk_and_readers_do_not_wait_for_writers(records: Records) -> None:
    with records.read() as transaction:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        run = transaction.connection.exec_driver_sql
        assert [run(f"PRAGMA {each}").scalar_one() for each in pragmas] == ["wal", 2, 1]


def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    chance = random.Random(8)
    for turn in range(3):
        file = tmp_path / f"{turn}.db"
        with writer(file) as child:
            assert child.stdout
            lines = [child.stdout.readline() for _ in range(chance.randrange(1, 30))]
            child.kill()
            answered = len(lines + child.stdout.readlines())
        with closing(Records(file)) as records, records.read() as transaction:
            count = transaction.connection.execute
            projects = count(select(func.count()).select_from(PROJECTS)).scalar_one()
            tokens = count(select(func.count()).select_from(CLIENT_TOKENS)).scalar_one()
        assert 0 < answered <= projects == tokens


def test_a_full_disk_is_said_and_leaves_what_was_answered(tmp_path: Path) -> None:
    file = tmp_path / "records.db"
    with writer(file, most_bytes=300_000) as child:
        output, _ = child.communicate(timeout=60)
    *answered, last = output.splitlines()
    assert last.startswith("The service's records can't be read or written:")
    assert child.returncode == 0
    with closing(Records(file)) as records:
        there = {name.split("-")[0] for name in names(records)}
    assert answered
    assert there == {f"p{number}" for number in answered}


def test_a_failed_transaction_changes_nothing_and_runs_nothing_afterwards(
    records: Records,
) -> None:
    done: List[str] = []

    def fail() -> None:
        with records.write() as transaction:
            transaction.after_commit(lambda: done.append("after the failure"))
            new = insert(PROJECTS).values(account=ACCOUNT, name="a", arn="a", created=1.0)
            transaction.connection.execute(new)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(records) == []
    with records.write() as transaction:
        transaction.after_commit(lambda: done.append("after the commit"))
        assert done == []
    assert done == ["after the commit"]


def test_what_fails_after_the_commit_leaves_the_call_done(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    done: List[str] = []
    with records.write() as transaction:
        transaction.after_commit(lambda: [][0])
        transaction.after_commit(lambda: done.append("the next"))
    assert done == ["the next"]
    assert "What follows a change of the records failed" in caplog.text


def test_a_reader_sees_one_state(records: Records) -> None:
    add(records, "a")
    with records.read() as transaction:
        count = select(func.count()).select_from(PROJECTS)
        assert transaction.connection.execute(count).scalar_one() == 1
        add(records, "b")
        assert transaction.connection.execute(count).scalar_one() == 1
    assert names(records) == ["a", "b"]


def test_every_commit_is_counted_also_of_other_programs(tmp_path: Path, records: Records) -> None:
    before = records.commits()
    assert (names(records), records.commits()) == ([], before)
    add(records, "a")
    after = records.commits()
    assert after != before
    with closing(sqlite3.connect(tmp_path / "records.db")) as other, other:
        other.execute("UPDATE projects SET name = 'b'")
    assert records.commits() not in (before, after)
    assert names(records) == ["b"]


def test_writers_wait_for_each_other(records: Records) -> None:
    threads = [threading.Thread(target=add, args=(records, str(each))) for each in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(records), key=int) == [str(each) for each in range(100)]


def test_more_readers_than_connections_wait_for_one(records: Records) -> None:
    together = threading.Barrier(database.CONNECTIONS)
    results: List[List[str]] = []

    def read(met: bool) -> None:
        with records.read() as transaction:
            if met:
                together.wait(60)
            rows = transaction.connection.execute(select(PROJECTS.c.name)).fetchall()
            results.append([row.name for row in rows])

    number = 2 * database.CONNECTIONS
    threads = [
        threading.Thread(target=read, args=(each < database.CONNECTIONS,)) for each in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[]] * number


def test_a_file_that_another_process_holds_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    with closing(Records(tmp_path / "records.db")) as records:
        with closing(sqlite3.connect(tmp_path / "records.db")) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(RecordsFailed, match="database is locked") as raised:
                add(records, "a")
        assert "can't be read or written: database is locked" in caplog.text
        assert raised.value.code == "InternalServerException"
        assert raised.value.members["RetryAfterSeconds"] == 5
        add(records, "b")
        assert names(records) == ["b"]


def test_a_writer_that_waits_too_long_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    with closing(Records(tmp_path / "records.db")) as records:
        with records.write():
            thread_failed: List[RecordsFailed] = []

            def write() -> None:
                with pytest.raises(RecordsFailed, match="other calls have been writing") as raised:
                    add(records, "a")
                thread_failed.append(raised.value)

            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert thread_failed
        add(records, "b")


def test_records_that_cannot_be_written_are_said(records: Records) -> None:
    with records.write() as transaction:
        transaction.connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(RecordsFailed, match="readonly database"):
        add(records, "a")


def test_a_copy_made_while_stopped_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with closing(Records(tmp_path / "a" / "records.db")) as first:
        add(first, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with closing(Records(tmp_path / "b" / "records.db")) as second:
        assert names(second) == ["a"]


def test_a_backup_made_while_running_is_whole(tmp_path: Path, records: Records) -> None:
    add(records, "a")
    source = closing(sqlite3.connect(tmp_path / "records.db"))
    target = closing(sqlite3.connect(tmp_path / "copy.db"))
    with source as running, target as copied:
        running.backup(copied)
    with closing(Records(tmp_path / "copy.db")) as copy:
        assert names(copy) == ["a"]


@pytest.mark.parametrize("version", [database.VERSION - 1, database.VERSION + 1])
def test_records_of_another_version_are_refused(tmp_path: Path, version: int) -> None:
    file = tmp_path / "records.db"
    Records(file).close()
    with closing(sqlite3.connect(file)) as other:
        other.execute(f"PRAGMA user_version = {version}")
    sentence = f"are of version {version}, and this release knows version {database.VERSION} only"
    with pytest.raises(InvalidConfiguration, match=sentence):
        Records(file)


@pytest.mark.parametrize("content", [b"no database at all, " * 100, None])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "records.db"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=r"records.db can't be used: "):
        Records(file)


def test_a_folder_with_odd_characters_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "a?b=c #1 %20"
    folder.mkdir()
    with closing(Records(folder / "records.db")) as records:
        add(records, "a")
    assert (folder / "records.db").stat().st_size
