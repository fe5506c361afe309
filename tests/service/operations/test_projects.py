from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import insert

from edge_agent.service.call import Answer
from edge_agent.service.faults import Conflict, QuotaExceeded, ResourceNotFound, ServiceFault
from edge_agent.service.operations.projects import Projects
from edge_agent.service.records.database import Records
from edge_agent.service.records.lookups import find_project
from edge_agent.service.records.schema import DATASETS, MODELS
from edge_agent.service.settings import ServiceSettings
from tests.service.calls import ACCOUNT, OTHER, call

PROJECTS = Projects(settings=ServiceSettings.model_validate({"quotas": {"projects": 3}}))
CREATED = datetime.fromtimestamp(1000, timezone.utc)
ARN = f"arn:aws:lookoutvision:eu-west-1:{ACCOUNT}:project/cookies"
COOKIES = {"ProjectArn": ARN, "ProjectName": "cookies", "CreationTimestamp": CREATED}


def create(records: Records, name: str = "cookies", account: str = ACCOUNT) -> Answer:
    with records.write() as transaction:
        asked = call("CreateProject", account, ProjectName=name)
        return PROJECTS.create_project(asked, transaction)


def describe(records: Records, name: str = "cookies", account: str = ACCOUNT) -> Any:
    with records.read() as transaction:
        asked = call("DescribeProject", account, ProjectName=name)
        return PROJECTS.describe_project(asked, transaction)["ProjectDescription"]


def delete(records: Records, name: str = "cookies", account: str = ACCOUNT) -> Answer:
    with records.write() as transaction:
        asked = call("DeleteProject", account, ProjectName=name)
        return PROJECTS.delete_project(asked, transaction)


def listed(records: Records, account: str = ACCOUNT, **parameters: Any) -> Any:
    with records.read() as transaction:
        return PROJECTS.list_projects(call("ListProjects", account, **parameters), transaction)


def add_dataset(records: Records, kind: str) -> None:
    with records.write() as transaction:
        project = find_project(transaction, ACCOUNT, "cookies").id
        facts = {"created": 5.0, "updated": 6.0, "status": "CREATE_COMPLETE", "message": "Done."}
        new = insert(DATASETS).values(project_id=project, type=kind, **facts)
        transaction.connection.execute(new)


def test_a_project_is_created_described_and_listed(records: Records) -> None:
    assert create(records) == {"ProjectMetadata": COOKIES}
    assert describe(records) == {**COOKIES, "Datasets": []}
    assert listed(records) == {"Projects": [COOKIES]}


def test_the_datasets_are_described(records: Records) -> None:
    create(records)
    for kind in ("test", "train"):
        add_dataset(records, kind)
    created = datetime.fromtimestamp(5, timezone.utc)
    facts = {"CreationTimestamp": created, "Status": "CREATE_COMPLETE", "StatusMessage": "Done."}
    described = [{"DatasetType": kind, **facts} for kind in ("train", "test")]
    assert describe(records)["Datasets"] == described


def test_a_name_is_taken_once_for_each_account(records: Records) -> None:
    create(records)
    with pytest.raises(Conflict, match=r"^The project cookies already exists.$") as raised:
        create(records)
    assert raised.value.members["ResourceId"] == "cookies"
    assert raised.value.members["ResourceType"] == "PROJECT"
    create(records, account=OTHER)


def test_a_project_is_found_with_every_region_and_keeps_its_arn(records: Records) -> None:
    create(records)
    elsewhere = replace(call("CreateProject", ProjectName="cookies"), region="us-east-1")
    with records.write() as transaction:
        assert PROJECTS.describe_project(elsewhere, transaction)["ProjectDescription"] == {
            **COOKIES,
            "Datasets": [],
        }
        assert PROJECTS.list_projects(elsewhere, transaction) == {"Projects": [COOKIES]}
        with pytest.raises(Conflict, match=r"already exists\. It was created with another region"):
            PROJECTS.create_project(elsewhere, transaction)
        assert PROJECTS.delete_project(elsewhere, transaction) == {"ProjectArn": ARN}


def test_names_differ_by_case(records: Records) -> None:
    create(records)
    create(records, "Cookies")
    assert len(listed(records)["Projects"]) == 2


def test_another_accounts_project_is_answered_as_none(records: Records) -> None:
    create(records)
    for act in (describe, delete):
        faults = []
        for name in ("cookies", "absent"):
            with pytest.raises(ResourceNotFound) as raised:
                act(records, name, OTHER)
            faults.append(str(raised.value.members).replace(name, "NAME"))
        assert faults[0] == faults[1]
    assert listed(records, OTHER) == {"Projects": []}
    assert describe(records)


def test_the_quota_is_said_with_its_setting(records: Records) -> None:
    for name in ("a", "b", "c"):
        create(records, name)
    with pytest.raises(QuotaExceeded, match=r"at most 3 are allowed.*quotas.projects") as raised:
        create(records)
    assert raised.value.members["QuotaCode"] == "projects"
    assert raised.value.members["ServiceCode"] == "lookoutvision"
    create(records, account=OTHER)
    delete(records, "a")
    create(records)


def test_a_project_without_models_and_datasets_is_deleted(records: Records) -> None:
    create(records)
    assert delete(records) == {"ProjectArn": ARN}
    with pytest.raises(ResourceNotFound):
        describe(records)
    create(records)


def test_a_project_with_a_dataset_or_a_model_is_not_deleted(records: Records) -> None:
    create(records)
    add_dataset(records, "train")
    with pytest.raises(Conflict, match=r"The project cookies has datasets. Delete them first"):
        delete(records)
    with records.write() as transaction:
        project = find_project(transaction, ACCOUNT, "cookies").id
        facts = {"arn": "a", "created": 1.0, "status": "TRAINED", "output_bucket": "b"}
        new = insert(MODELS).values(project_id=project, version=1, **facts)
        transaction.connection.execute(new)
    with pytest.raises(Conflict, match=r"The project cookies has models. Delete them first"):
        delete(records)
    assert describe(records)


def test_projects_are_listed_in_pages(records: Records) -> None:
    for name in ("b", "a", "c"):
        create(records, name)
    first = listed(records, MaxResults=2)
    last = listed(records, MaxResults=2, NextToken=first["NextToken"])
    names = [each["ProjectName"] for page in (first, last) for each in page["Projects"]]
    assert names == ["b", "a", "c"]
    assert "NextToken" not in last


def test_the_region_of_a_call_plays_no_part_in_what_it_finds(records: Records) -> None:
    create(records)
    elsewhere = {"region": "us-east-1"}
    with records.read() as transaction:
        asked = call("DescribeProject", ProjectName="cookies")
        moved = type(asked)(**{**vars(asked), **elsewhere})
        described: Any = PROJECTS.describe_project(moved, transaction)
    assert described["ProjectDescription"]["ProjectArn"] == ARN
    with pytest.raises(ServiceFault), records.write() as transaction:
        PROJECTS.create_project(moved, transaction)
