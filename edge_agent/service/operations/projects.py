"""CreateProject, DescribeProject, ListProjects, DeleteProject.

A project is known by account and name. ARNs have the region of the call that created it; calls
signed for other regions find it too, as there is one machine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, Table, delete, exists, func, insert, select

from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict
from edge_agent.service.operations.metadata import dataset_metadata, project_metadata
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_project
from edge_agent.service.records.pages import page_of
from edge_agent.service.records.quotas import within_quota
from edge_agent.service.records.schema import DATASETS, MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings

OTHER_REGION = "It was created with another region: here all regions have the same projects."


class Projects:
    """The projects of each account."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._quotas = settings.quotas

    def create_project(self, call: Call, transaction: Transaction) -> Answer:
        """Create an empty project; Conflict when the account has one of that name."""
        name = call.parameters["ProjectName"]
        mine = select(PROJECTS).where(PROJECTS.c.account == call.account)
        arn = call.arn(f"project/{name}")
        taken = transaction.connection.execute(mine.where(PROJECTS.c.name == name)).first()
        if taken:
            elsewhere = "" if taken.arn == arn else f" {OTHER_REGION}"
            raise Conflict(f"The project {name} already exists.{elsewhere}", "PROJECT", name)
        number = select(func.count()).select_from(mine.subquery())
        there = transaction.connection.execute(number).scalar_one()
        within_quota(call, "projects", there + 1, self._quotas.projects, "PROJECT", name)
        new = insert(PROJECTS).values(account=call.account, name=name, arn=arn, created=call.now)
        row = transaction.connection.execute(new.returning(PROJECTS)).one()
        return {"ProjectMetadata": project_metadata(row)}

    def describe_project(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a project with its datasets."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        query = select(DATASETS).where(DATASETS.c.project_id == project.id)
        datasets = transaction.connection.execute(query.order_by(DATASETS.c.type.desc()))
        described = {"Datasets": [dataset_metadata(row) for row in datasets]}
        return {"ProjectDescription": {**project_metadata(project), **described}}

    def list_projects(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a page of the account's projects, the oldest first."""
        query = select(PROJECTS).where(PROJECTS.c.account == call.account)
        page = page_of(call, transaction, query, PROJECTS.c.id)
        return {"Projects": [project_metadata(row) for row in page.rows], **page.token}

    def delete_project(self, call: Call, transaction: Transaction) -> Answer:
        """Delete a project; Conflict while it has models or datasets, as the original's was."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        _require_none(transaction, project, MODELS, "models")
        _require_none(transaction, project, DATASETS, "datasets")
        transaction.connection.execute(delete(PROJECTS).where(PROJECTS.c.id == project.id))
        return {"ProjectArn": project.arn}


def _require_none(transaction: Transaction, project: Row[Any], table: Table, things: str) -> None:
    some = select(exists().where(table.c.project_id == project.id))
    if transaction.connection.execute(some).scalar_one():
        raise Conflict(
            f"The project {project.name} has {things}. Delete them first.", "PROJECT", project.name
        )
