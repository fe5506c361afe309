from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import insert

from edge_agent.service.faults import ResourceNotFound
from edge_agent.service.operations.models import Models
from edge_agent.service.records.database import Records
from edge_agent.service.records.lookups import find_dataset, find_packaging_job
from edge_agent.service.records.schema import MODELS, PROJECTS
from tests.service.calls import ACCOUNT, OTHER, call


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def add(records: Records, version: int, **facts: Any) -> None:
    needed = {"created": 1.5, "status": "TRAINING", "output_bucket": "bucket"}
    values = {**needed, "arn": f"arn:{version}", **facts}
    with records.write() as transaction:
        transaction.connection.execute(
            insert(MODELS).values(project_id=1, version=version, **values)
        )


@pytest.fixture(autouse=True)
def _project(records: Records) -> None:
    with records.write() as transaction:
        facts = {"id": 1, "account": ACCOUNT, "name": "cookies", "arn": "a", "created": 1.0}
        transaction.connection.execute(insert(PROJECTS).values(**facts))


def describe(records: Records, version: str, account: str = ACCOUNT) -> Any:
    asked = call("DescribeModel", account, ProjectName="cookies", ModelVersion=version)
    with records.read() as transaction:
        return Models().describe_model(asked, transaction)["ModelDescription"]


def listed(records: Records, **parameters: Any) -> Any:
    with records.read() as transaction:
        asked = call("ListModels", ProjectName="cookies", **parameters)
        return Models().list_models(asked, transaction)


def test_a_model_that_is_being_trained_has_no_results_yet(records: Records) -> None:
    add(records, 1)
    assert describe(records, "1") == {
        "ModelVersion": "1",
        "ModelArn": "arn:1",
        "CreationTimestamp": at(1.5),
        "Status": "TRAINING",
        "StatusMessage": "",
        "OutputConfig": {"S3Location": {"Bucket": "bucket", "Prefix": ""}},
    }


def test_a_hosted_model_is_described_with_all_there_is(records: Records) -> None:
    performance = {"F1Score": 1.0, "Recall": 0.5, "Precision": 0.0}
    place = {"Bucket": "bucket", "Key": "EvaluationResult-cookies.json"}
    add(
        records,
        7,
        status="HOSTED",
        message="The model is hosted.",
        description="first",
        output_prefix="out/",
        kms_key_id="key",
        performance=performance,
        evaluation_manifest=place,
        evaluation_result=place,
        evaluation_ended=9.25,
        min_units=2,
        max_units=3,
    )
    metadata = {
        "ModelVersion": "7",
        "ModelArn": "arn:7",
        "CreationTimestamp": at(1.5),
        "Status": "HOSTED",
        "StatusMessage": "The model is hosted.",
        "Description": "first",
        "Performance": performance,
    }
    assert describe(records, "7") == {
        **metadata,
        "OutputConfig": {"S3Location": {"Bucket": "bucket", "Prefix": "out/"}},
        "EvaluationManifest": place,
        "EvaluationResult": place,
        "EvaluationEndTimestamp": at(9.25),
        "KmsKeyId": "key",
        "MinInferenceUnits": 2,
        "MaxInferenceUnits": 3,
    }
    assert listed(records) == {"Models": [metadata]}


def test_latest_is_the_highest_version(records: Records) -> None:
    for version in (2, 10, 9):
        add(records, version)
    assert describe(records, "latest")["ModelVersion"] == "10"
    assert describe(records, "9")["ModelVersion"] == "9"


@pytest.mark.parametrize("version", ["1", "latest", "9999999999"])
def test_a_version_that_is_not_there_is_said(records: Records, version: str) -> None:
    with pytest.raises(ResourceNotFound, match=f"has no model version {version}") as raised:
        describe(records, version)
    assert raised.value.members["ResourceType"] == "MODEL"
    assert raised.value.members["ResourceId"] == f"cookies/{version}"


def test_another_accounts_model_is_answered_as_an_absent_project(records: Records) -> None:
    add(records, 1)
    with pytest.raises(ResourceNotFound, match="The project cookies was not found") as raised:
        describe(records, "1", OTHER)
    assert raised.value.members["ResourceType"] == "PROJECT"


def test_models_are_listed_in_pages_by_version(records: Records) -> None:
    for version in (3, 1, 2):
        add(records, version)
    first = listed(records, MaxResults=2)
    last = listed(records, MaxResults=2, NextToken=first["NextToken"])
    versions = [each["ModelVersion"] for page in (first, last) for each in page["Models"]]
    assert versions == ["1", "2", "3"]
    assert "NextToken" not in last


def test_absent_datasets_and_packaging_jobs_are_said(records: Records) -> None:
    with records.read() as transaction:
        with pytest.raises(ResourceNotFound, match="cookies has no train dataset") as raised:
            find_dataset(transaction, ACCOUNT, "cookies", "train")
        assert raised.value.members["ResourceType"] == "DATASET"
        with pytest.raises(ResourceNotFound, match="no model packaging job j") as raised:
            find_packaging_job(transaction, ACCOUNT, "cookies", "j")
        assert raised.value.members["ResourceType"] == "MODEL_PACKAGE_JOB"
        with pytest.raises(ResourceNotFound, match="The project cakes was not found"):
            find_packaging_job(transaction, ACCOUNT, "cakes", "j")
