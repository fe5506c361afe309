"""Errors of the service model, by causes that real callers meet, as the original client has it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from edge_agent.service.wire.model import LOOKOUT_FOR_VISION, service_model
from tests.service.aws import needs_aws
from tests.service.running import RunningService

SCRIPT = """
from botocore.config import Config
client = session.client("lookoutvision", config=Config(retries={"total_max_attempts": 1}))
exceptions, result = client.exceptions, {}

def fails(error, call, **parameters):
    try:
        call(**parameters)
    except error as caught:
        answer = caught.response
        metadata = answer.pop("ResponseMetadata")
        assert metadata["RequestId"]
        result[answer.pop("Error")["Code"]] = [metadata["HTTPStatusCode"], answer]
    else:
        raise AssertionError(error)

client.create_project(ProjectName="a")
fails(exceptions.ServiceQuotaExceededException, client.create_project, ProjectName="b")
fails(exceptions.ConflictException, client.create_project, ProjectName="a")
fails(exceptions.ResourceNotFoundException, client.list_models, ProjectName="b")
fails(exceptions.ValidationException, client.describe_project, ProjectName="!")
foreign = "arn:aws:lookoutvision:us-east-1:210987654321:model/a/1"
fails(exceptions.AccessDeniedException, client.tag_resource, ResourceArn=foreign, Tags=[])
while "ThrottlingException" not in result:
    try:
        client.list_projects()
    except exceptions.ThrottlingException:
        fails(exceptions.ThrottlingException, client.list_projects)
"""
FAILING = """
from botocore.config import Config
client = session.client("lookoutvision", config=Config(retries={"total_max_attempts": 1}))
try:
    client.list_models(ProjectName="a")
except client.exceptions.InternalServerException as caught:
    answer = caught.response
    result = [answer["ResponseMetadata"]["HTTPStatusCode"], answer["Message"]]
"""


@needs_aws
def test_every_error_has_a_cause(tmp_path: Path) -> None:
    quotas = {"projects": 1, "calls_per_s": 0.001, "burst": 5}
    with RunningService(tmp_path, {"quotas": quotas}) as service:
        user = service.user()
        errors = user.boto3(SCRIPT)
        assert {code: status for code, (status, _) in errors.items()} == {
            "AccessDeniedException": 403,
            "ServiceQuotaExceededException": 402,
            "ConflictException": 409,
            "ResourceNotFoundException": 404,
            "ValidationException": 400,
            "ThrottlingException": 429,
        }
        members = {code: set(found) for code, (_, found) in errors.items()}
        assert members["ServiceQuotaExceededException"] >= {"Message", "QuotaCode", "ServiceCode"}
        assert members["ConflictException"] == {"Message", "ResourceId", "ResourceType"}
        assert members["ResourceNotFoundException"] == {"Message", "ResourceId", "ResourceType"}
        assert members["ThrottlingException"] >= {"Message", "RetryAfterSeconds"}
        with closing(sqlite3.connect(service.root / "records.db")) as records:
            records.execute("ALTER TABLE models RENAME TO lost")
        status, message = user.boto3(FAILING)
        assert status == 500
        assert {*errors, "InternalServerException"} == {
            shape.error_code for shape in service_model(LOOKOUT_FOR_VISION).error_shapes
        }
        assert "Traceback" not in message
        assert "models" in service.log()
