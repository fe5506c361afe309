"""Projects, tags, client tokens and throttling, with the original's own clients."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from tests.service.aws import Aws, ClientFailed, needs_aws
from tests.service.running import ACCOUNT, RunningService

pytestmark = [needs_aws, pytest.mark.timeout(300)]

ROOMY = {"quotas": {"projects": 1000, "calls_per_s": 1e6, "burst": 1_000_000}}
ABSENT = f"arn:aws:lookoutvision:us-east-1:{ACCOUNT}:model/cookies/1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("service"), ROOMY) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: RunningService) -> Aws:
    return service.user()


def error_of(user: Aws, operation: str, **parameters: Any) -> Dict[str, Any]:
    """What boto3 makes of the error that the call ends with."""
    script = """
from botocore.exceptions import ClientError
try:
    getattr(client, operation)(**parameters)
    result = None
except ClientError as error:
    result = error.response
"""
    got: Dict[str, Any] = user.boto3(script, operation=operation, parameters=parameters)
    return got


def test_projects_come_and_go_as_the_command_line_shows_them(user: Aws) -> None:
    created = user.cli("create-project", "--project-name", "line-4")["ProjectMetadata"]
    assert created["ProjectArn"] == f"arn:aws:lookoutvision:us-east-1:{ACCOUNT}:project/line-4"
    described = user.cli("describe-project", "--project-name", "line-4")["ProjectDescription"]
    assert described == {**created, "Datasets": []}
    assert created in user.cli("list-projects")["Projects"]
    assert user.cli("list-models", "--project-name", "line-4") == {"Models": []}
    deleted = user.cli("delete-project", "--project-name", "line-4")
    assert deleted == {"ProjectArn": created["ProjectArn"]}
    with pytest.raises(ClientFailed, match=r"\(ResourceNotFoundException\).*line-4 was not found"):
        user.cli("describe-project", "--project-name", "line-4")


def test_errors_have_the_members_of_their_shapes(user: Aws, service: RunningService) -> None:
    user.boto3('client.create_project(ProjectName="taken")')
    conflict = error_of(user, "create_project", ProjectName="taken")
    assert conflict["Error"]["Code"] == "ConflictException"
    assert conflict["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert (conflict["ResourceType"], conflict["ResourceId"]) == ("PROJECT", "taken")
    absent = error_of(user, "list_tags_for_resource", ResourceArn=ABSENT)
    assert absent["Error"]["Code"] == "ResourceNotFoundException"
    assert (absent["ResourceType"], absent["ResourceId"]) == ("MODEL", ABSENT)
    wrong = error_of(user, "list_projects", NextToken="bm9uZQ==")
    assert wrong["Error"]["Code"] == "ValidationException"
    other = service.user("210987654321")
    assert error_of(other, "describe_project", ProjectName="taken")["ResourceId"] == "taken"


def test_a_token_with_other_parameters_is_a_conflict(user: Aws) -> None:
    script = """
asked = {"ProjectName": "token-1", "ClientToken": "once-only"}
result = [client.create_project(**asked)["ProjectMetadata"] for _ in range(2)]
"""
    first, second = user.boto3(script)
    assert first == second
    refused = error_of(user, "create_project", ProjectName="token-2", ClientToken="once-only")
    assert refused["Error"]["Code"] == "ConflictException"
    assert refused["ResourceId"] == "token-2"


def test_a_paginator_finds_every_project(user: Aws) -> None:
    script = """
for number in range(7):
    client.create_project(ProjectName=f"page-{number}")
pages = client.get_paginator("list_projects").paginate(PaginationConfig={"PageSize": 2})
result = [project["ProjectName"] for page in pages for project in page["Projects"]]
"""
    names = user.boto3(script)
    assert len(names) == len(set(names))
    assert {f"page-{number}" for number in range(7)} <= set(names)


CONCURRENT = """
import random
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config

patient = session.client(
    "lookoutvision", config=Config(max_pool_connections=25, retries={"total_max_attempts": 60})
)

def create(number):
    name = f"c{number}"
    answer = patient.create_project(ProjectName=name, ClientToken=name)["ProjectMetadata"]
    return name, answer["ProjectArn"], str(answer["CreationTimestamp"])

numbers = [number % 200 for number in range(1000)]
random.Random(5).shuffle(numbers)
with ThreadPoolExecutor(25) as pool:
    result = list(pool.map(create, numbers))
"""


def test_1000_concurrent_calls_with_duplicated_tokens_work_once_each_through_a_kill(
    tmp_path: Path,
) -> None:
    with RunningService(tmp_path, ROOMY) as service:
        user = service.user()
        answers: Any = []
        calling = threading.Thread(
            target=lambda: answers.extend(user.boto3(CONCURRENT, within_s=240))
        )
        calling.start()
        while projects_in(service.root / "records.db") < 50:
            time.sleep(0.01)
        service.kill()
        assert calling.is_alive()
        service.start()
        calling.join()
        count = "result = sum(1 for page in client.get_paginator('list_projects').paginate() "
        assert user.boto3(count + "for _ in page['Projects'])") == 200
    assert len(answers) == 1000
    assert len({tuple(answer) for answer in answers}) == 200


def projects_in(file: Path) -> int:
    with closing(sqlite3.connect(file)) as records:
        return int(records.execute("SELECT count(*) FROM projects").fetchone()[0])


def test_calls_that_come_too_often_are_throttled_and_the_sdk_tries_again(tmp_path: Path) -> None:
    slow = {"quotas": {"calls_per_s": 1.0, "burst": 2}}
    with RunningService(tmp_path, slow) as service:
        user = service.user()
        script = """
from botocore.config import Config
from botocore.exceptions import ClientError
once = session.client("lookoutvision", config=Config(retries={"total_max_attempts": 1}))
refused = None
while refused is None:
    try:
        once.list_projects()
    except ClientError as error:
        refused = error.response
standard = Config(retries={"mode": "standard", "total_max_attempts": 10})
patient = session.client("lookoutvision", config=standard)
answers = [patient.list_projects() for _ in range(3)]
retries = sum(answer["ResponseMetadata"]["RetryAttempts"] for answer in answers)
result = refused, retries
"""
        refused, retries = user.boto3(script)
    assert refused["Error"]["Code"] == "ThrottlingException"
    assert refused["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert refused["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    assert refused["RetryAfterSeconds"] == 1
    assert retries > 0
