"""What was changed is written down; nothing that is secret or large is."""

from __future__ import annotations

import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.service.audit import AuditLog
from edge_agent.service.call import Call

NOW = 1_606_377_600.0


def call(number: int = 0, **parameters: object) -> Call:
    return Call(
        service="lookoutvision", operation="StartModelPackagingJob", account="123456789012",
        access_key="AKIDEXAMPLE", region="us-east-1", request_id=f"request-{number}", now=NOW,
        parameters={"ProjectName": "cookies", **parameters},
    )  # fmt: skip


def lines(file: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_says_who_changed_what(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    given = {"Description": "secret plans", "Body": b"image", "Tags": [{"Key": "a"}]}
    answer = {"JobName": "job", "ModelMetadata": {"ModelVersion": "3", "Status": "TRAINING"}}
    AuditLog(file).record(call(ClientToken="t", **given), "OK", answer)
    AuditLog(file).record(call(ModelVersion="1\n2"), "ConflictException", {})
    first, second = lines(file)
    assert first == {
        "time": "2020-11-26T08:00:00+00:00",
        "requestId": "request-0",
        "account": "123456789012",
        "accessKeyId": "AKIDEXAMPLE",
        "region": "us-east-1",
        "operation": "lookoutvision:StartModelPackagingJob",
        "ids": {"ProjectName": "cookies", "JobName": "job", "ModelVersion": "3"},
        "outcome": "OK",
    }
    assert (second["outcome"], second["ids"]["ModelVersion"]) == ("ConflictException", "1\n2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_threads_write_whole_lines_and_two_files_at_most(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", most_bytes=4000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: audit.record(call(number), "OK", {}), range(100)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.log", "audit.log.1"]
    for file in tmp_path.iterdir():
        assert 0 < file.stat().st_size <= 4000
        assert all(line["outcome"] == "OK" for line in lines(file))


def test_a_line_longer_than_the_limit_is_written_alone(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", most_bytes=10)
    for number in range(2):
        audit.record(call(number), "OK", {})
    assert [lines(tmp_path / name)[0]["requestId"] for name in ("audit.log.1", "audit.log")] == [
        "request-0", "request-1",
    ]  # fmt: skip


def test_what_cannot_be_written_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "audit.log"
    file.mkdir()
    audit = AuditLog(file)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            audit.record(call(), "OK", {})
        assert [record.getMessage() for record in caplog.records] == [
            f"{file} can't be written: Is a directory. Calls go on without their audit lines; "
            "correct that."
        ]
        file.rmdir()
        audit.record(call(), "OK", {})
        file.unlink()
        file.mkdir()
        audit.record(call(), "OK", {})
    assert len(caplog.records) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        AuditLog(Path("/dev/full")).record(call(), "OK", {})
    assert "No space left on device" in caplog.text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "audit.log").symlink_to(target)
    AuditLog(tmp_path / "audit.log").record(call(), "OK", {})
    assert target.read_bytes() == b""
