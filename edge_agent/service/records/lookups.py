"""Find resources by the names that calls give.

What belongs to another account is answered exactly like what doesn't exist. Rows have the columns
of their table in `schema`. The region of a call plays no part: there is one machine.
"""

from __future__ import annotations

from typing import Any, Optional

from sqlalchemy import Row, Select, Table, select

from edge_agent.service.faults import ResourceNotFound
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import DATASETS, MODELS, PACKAGING_JOBS, PROJECTS

LATEST = "latest"  # as a model's version: the highest there is


def find_project(transaction: Transaction, account: str, name: str) -> Row[Any]:
    """Return a project of the account, or raise ResourceNotFound."""
    query = select(PROJECTS).where(PROJECTS.c.account == account, PROJECTS.c.name == name)
    row = transaction.connection.execute(query).first()
    if row is None:
        raise ResourceNotFound(f"The project {name} was not found.", "PROJECT", name)
    return row


def find_dataset(
    transaction: Transaction, account: str, project_name: str, dataset_type: str
) -> Row[Any]:
    """Return a dataset by its type, train or test, or raise ResourceNotFound."""
    query = _of_project(DATASETS, account, project_name).where(DATASETS.c.type == dataset_type)
    row = _first(transaction, query, account, project_name)
    if row is None:
        raise ResourceNotFound(
            f"The project {project_name} has no {dataset_type} dataset.",
            "DATASET",
            f"{project_name}/{dataset_type}",
        )
    return row


def find_model(transaction: Transaction, account: str, project_name: str, version: str) -> Row[Any]:
    """Return a model by its version, a number or "latest", or raise ResourceNotFound."""
    query = _of_project(MODELS, account, project_name).order_by(MODELS.c.version.desc()).limit(1)
    if version != LATEST:
        query = query.where(MODELS.c.version == int(version))
    row = _first(transaction, query, account, project_name)
    if row is None:
        raise ResourceNotFound(
            f"The project {project_name} has no model version {version}.",
            "MODEL",
            f"{project_name}/{version}",
        )
    return row


def find_packaging_job(
    transaction: Transaction, account: str, project_name: str, job_name: str
) -> Row[Any]:
    """Return a model packaging job by its name, or raise ResourceNotFound."""
    named = PACKAGING_JOBS.c.name == job_name
    query = _of_project(PACKAGING_JOBS, account, project_name).where(named)
    row = _first(transaction, query, account, project_name)
    if row is None:
        raise ResourceNotFound(
            f"The project {project_name} has no model packaging job {job_name}.",
            "MODEL_PACKAGE_JOB",
            job_name,
        )
    return row


def _of_project(table: Table, account: str, name: str) -> Select[Any]:
    joined = select(table).join(PROJECTS, PROJECTS.c.id == table.c.project_id)
    return joined.where(PROJECTS.c.account == account, PROJECTS.c.name == name)


def _first(
    transaction: Transaction, query: Select[Any], account: str, project_name: str
) -> Optional[Row[Any]]:
    """Return the first row; when there is none, have a missing project say so."""
    row = transaction.connection.execute(query).first()
    if row is None:
        find_project(transaction, account, project_name)
    return row
