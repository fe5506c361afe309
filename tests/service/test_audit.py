"""What was changed is written down; nothing that is secret or large is."""

from __future__ import annotations

import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.service import audit as audit_module
from edge_agent.service.audit import AuditEntry, AuditLog, ids_in_path, ids_of
from edge_agent.service.records.database import Records

NOW = 1_606_377_600.0


def entry(number: int = 0, account: str = "123456789012", **ids: object) -> AuditEntry:
    return AuditEntry(
        request_id=f"request-{number}", time=NOW, peer="192.0.2.1", access_key="AKIDEXAMPLE",
        account=account, region="us-east-1", operation="lookoutvision:StartModelPackagingJob",
        is_change=True, ids={"ProjectName": "cookies", **ids},
    )  # fmt: skip


def lines(file: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def change(audit: AuditLog, records: Records, made: AuditEntry) -> None:
    with records.write() as transaction:
        audit.keep(transaction, made)


def test_a_line_says_who_changed_what(tmp_path: Path, records: Records) -> None:
    file = tmp_path / "audit.log"
    audit = AuditLog(file, records)
    given = {"ProjectName": "cookies", "Description": "secret plans", "Body": b"image"}
    answer = {"JobName": "job", "ModelMetadata": {"ModelVersion": "3", "Status": "TRAINING"}}
    change(audit, records, entry(**ids_of(given), **ids_of(answer)))
    audit.refused(entry(ModelVersion="1\n2"), "ConflictException")
    first, second = lines(file)
    assert first == {
        "time": "2020-11-26T08:00:00+00:00",
        "requestId": "request-0",
        "peer": "192.0.2.1",
        "account": "123456789012",
        "accessKeyId": "AKIDEXAMPLE",
        "region": "us-east-1",
        "operation": "lookoutvision:StartModelPackagingJob",
        "ids": {"ProjectName": "cookies", "JobName": "job", "ModelVersion": "3"},
        "outcome": "OK",
    }
    assert (second["outcome"], second["ids"]["ModelVersion"]) == ("ConflictException", "1\n2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_path_names_what_is_meant() -> None:
    assert ids_in_path({"projectName": "a%0Ab" + "c" * 300, "other": "x"}) == {
        "ProjectName": "a\nb" + "c" * 253
    }


def test_a_change_that_is_rolled_back_has_no_line(tmp_path: Path, records: Records) -> None:
    audit = AuditLog(tmp_path / "audit.log", records)

    def fail() -> None:
        with records.write() as transaction:
            audit.keep(transaction, entry())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    audit.copy()
    assert not (tmp_path / "audit.log").exists()


def test_a_line_that_a_crash_left_in_the_records_is_copied_at_the_next_start(
    tmp_path: Path, records: Records
) -> None:
    unwritable = tmp_path / "no folder" / "audit.log"
    change(AuditLog(unwritable, records), records, entry(1))  # committed, and not in the file
    AuditLog(tmp_path / "audit.log", records)
    assert [line["requestId"] for line in lines(tmp_path / "audit.log")] == ["request-1"]


def test_no_line_is_copied_twice_while_the_service_runs(tmp_path: Path, records: Records) -> None:
    audit = AuditLog(tmp_path / "audit.log", records)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: change(audit, records, entry(number)), range(50)))
    found = [line["requestId"] for line in lines(tmp_path / "audit.log")]
    assert sorted(found) == sorted(f"request-{number}" for number in range(50))


def test_a_stop_leaves_no_line_to_be_copied_again(tmp_path: Path, records: Records) -> None:
    audit = AuditLog(tmp_path / "audit.log", records)
    change(audit, records, entry())
    audit.close()
    AuditLog(tmp_path / "audit.log", records)
    assert len(lines(tmp_path / "audit.log")) == 1


def test_strangers_push_nobodys_lines_out(tmp_path: Path, records: Records) -> None:
    audit = AuditLog(tmp_path / "audit.log", records)
    for number in range(300):
        audit.refused(entry(number, account=""), "InvalidSignatureException")
    audit.refused(entry(300), "ThrottlingException")
    written = lines(tmp_path / "audit.log")
    assert 100 <= len(written) < 200
    assert (written[0]["account"], written[-1]["requestId"]) == ("", "request-300")


def test_threads_write_whole_lines_and_two_files_at_most(tmp_path: Path, records: Records) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    audit = AuditLog(folder / "audit.log", records, most_bytes=4000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: audit.refused(entry(number), "Fault"), range(100)))
    assert sorted(file.name for file in folder.iterdir()) == ["audit.log", "audit.log.1"]
    for file in folder.iterdir():
        assert 0 < file.stat().st_size <= 4000
        assert all(line["outcome"] == "Fault" for line in lines(file))


def test_a_line_longer_than_the_limit_is_written_alone(tmp_path: Path, records: Records) -> None:
    audit = AuditLog(tmp_path / "audit.log", records, most_bytes=10)
    for number in range(2):
        audit.refused(entry(number), "Fault")
    assert [lines(tmp_path / name)[0]["requestId"] for name in ("audit.log.1", "audit.log")] == [
        "request-0", "request-1",
    ]  # fmt: skip


def test_what_cannot_be_written_waits_in_the_records_and_is_logged_once(
    tmp_path: Path, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "audit.log"
    file.mkdir()
    audit = AuditLog(file, records)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            change(audit, records, entry(number))
        assert [record.getMessage() for record in caplog.records] == [
            f"{file} can't be written: Is a directory. Lines of changes wait in the records; "
            "correct that."
        ]
        file.rmdir()
        change(audit, records, entry(3))
    found = [line["requestId"] for line in lines(file)]
    assert found == [f"request-{number}" for number in range(4)]


def test_lines_that_wait_are_bounded(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MOST_WAITING", 3)
    unwritable = AuditLog(tmp_path / "no folder" / "audit.log", records)
    for number in range(6):
        change(unwritable, records, entry(number))
    AuditLog(tmp_path / "audit.log", records)
    found = [line["requestId"] for line in lines(tmp_path / "audit.log")]
    assert found == ["request-3", "request-4", "request-5"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_logged(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        AuditLog(Path("/dev/full"), records).refused(entry(), "Fault")
    assert "No space left on device" in caplog.text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, records: Records) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "audit.log").symlink_to(target)
    AuditLog(tmp_path / "audit.log", records).refused(entry(), "Fault")
    assert target.read_bytes() == b""
