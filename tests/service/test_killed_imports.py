"""A service that is killed while datasets change, and one that is copied elsewhere."""

from __future__ import annotations

import base64
import http.client
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Iterable

from tests.service.dataset_site import line
from tests.service.hosted import PROJECT, HostingService
from tests.service.running import ACCOUNT, RunningService

MOMENTS = 10
LINES = 5000
UNSIGNED: Dict[str, Any] = {"unsigned": True, "unsigned_account": ACCOUNT}
WITHIN_S = 120.0


def ask(service: RunningService, method: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WITHIN_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, f"/2020-11-20/projects{path}", content)
        answer = connection.getresponse()
        read = answer.read()
        assert answer.status in (200, 202), read
        return json.loads(read)
    finally:
        connection.close()


def create(service: RunningService, project: str, key: str) -> None:
    ask(service, "POST", "", {"ProjectName": project})
    place = {"GroundTruthManifest": {"S3Object": {"Bucket": "plant", "Key": key}}}
    dataset = {"DatasetType": "train", "DatasetSource": place}
    ask(service, "POST", f"/{project}/datasets", dataset)


def update(service: RunningService, project: str, changes: bytes) -> None:
    body = {"Changes": base64.b64encode(changes).decode()}
    ask(service, "PATCH", f"/{project}/datasets/train/entries", body)


def describe(service: RunningService, project: str) -> Dict[str, Any]:
    return dict(ask(service, "GET", f"/{project}/datasets/train")["DatasetDescription"])


def wait(service: RunningService, project: str) -> Dict[str, Any]:
    end = time.monotonic() + WITHIN_S
    while True:
        description = describe(service, project)
        if not description["Status"].endswith("IN_PROGRESS"):
            return description
        assert time.monotonic() < end
        time.sleep(0.02)


def put(service: RunningService, key: str, images: Iterable[object]) -> bytes:
    text = "".join(f"{json.dumps(line(str(image), 'normal'))}\n" for image in images)
    (service.bucket("plant") / key).write_text(text)
    return text.encode()


def listed(service: RunningService, project: str) -> int:
    answer = ask(service, "GET", f"/{project}/datasets/train/entries?maxResults=5")
    return len(answer["DatasetEntries"])


def test_a_service_killed_while_datasets_change_leaves_none_half_done(tmp_path: Path) -> None:
    chance = random.Random(20)
    moments = [0.0, *(chance.uniform(0.0, 1.0) for _ in range(MOMENTS - 1))]
    seen = set()
    with RunningService(tmp_path, UNSIGNED) as service:
        many = put(service, "many", range(LINES))
        put(service, "few", range(2))
        for number, moment in enumerate(moments):
            created, updated = f"created-{number}", f"updated-{number}"
            create(service, updated, "few")
            wait(service, updated)
            create(service, created, "many")
            update(service, updated, many)
            time.sleep(moment)
            service.kill()
            service.start()
            first, second = describe(service, created), describe(service, updated)
            seen |= {first["Status"], second["Status"]}
            assert (first["Status"], first["ImageStats"]["Total"], listed(service, created)) in (
                ("CREATE_COMPLETE", LINES, 5),
                ("CREATE_FAILED", 0, 0),
            )
            assert (second["Status"], second["ImageStats"]["Total"], listed(service, updated)) in (
                ("UPDATE_COMPLETE", LINES, 5),
                ("UPDATE_FAILED_ROLLBACK_COMPLETE", 2, 2),
            )
            for description in (first, second):
                failed = "FAILED" in description["Status"]
                assert ("The service stopped" in description["StatusMessage"]) == failed
        assert seen & {"CREATE_FAILED", "UPDATE_FAILED_ROLLBACK_COMPLETE"}
        update(service, "updated-0", many)  # and it goes on
        assert wait(service, "updated-0")["ImageStats"]["Total"] == LINES


def test_a_copy_of_the_folder_goes_on_elsewhere(tmp_path: Path) -> None:
    with RunningService(tmp_path / "here", UNSIGNED) as service:
        put(service, "few", range(2))
        create(service, PROJECT, "few")
        wait(service, PROJECT)
    hosting = HostingService(service.root)
    hosting.add_model("classification")
    hosting.records.close()
    with RunningService(tmp_path / "here", UNSIGNED) as service:
        assert describe(service, PROJECT)["ImageStats"]["Total"] == 2
        shutil.copytree(
            service.root, tmp_path / "there" / "root"
        )  # while it runs, and does nothing
    shutil.rmtree(tmp_path / "here")
    with RunningService(tmp_path / "there", UNSIGNED) as copied:
        assert describe(copied, PROJECT)["ImageStats"]["Total"] == listed(copied, PROJECT) == 2
        create(copied, "more", "few")
        assert wait(copied, "more")["Status"] == "CREATE_COMPLETE"
        ask(copied, "POST", f"/{PROJECT}/models/1/start", {"MinInferenceUnits": 1})
        end = time.monotonic() + WITHIN_S
        status = "STARTING_HOSTING"
        while status == "STARTING_HOSTING":
            assert time.monotonic() < end
            time.sleep(0.05)
            status = ask(copied, "GET", f"/{PROJECT}/models/1")["ModelDescription"]["Status"]
        assert status == "HOSTED", copied.log()
