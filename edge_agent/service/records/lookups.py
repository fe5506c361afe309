"""Find resources by the names that calls give.

What belongs to another account is answered exactly like what doesn't exist. Rows have the columns
of their table in `schema`. The region of a call plays no part: there is one machine.
"""

from __future__ import annotations

from typing import Any, Optional

from sqlalchemy import Row, Select, Table, bindparam, select

from edge_agent.service.faults import ResourceNotFound
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import DATASETS, MODELS, PACKAGING_JOBS, PROJECTS

LATEST = "latest"  # as a model's version: the highest there is

_IS_MEANT = (
    PROJECTS.c.account == bindparam("account"),
    PROJECTS.c.name == bindparam("project_name"),
)


def _of_project(table: Table) -> Select[Any]:
    return select(table).join(PROJECTS, PROJECTS.c.id == table.c.project_id).where(*_IS_MEANT)


# Made once: to make one takes as long as to run it.
_PROJECT = select(PROJECTS).where(*_IS_MEANT)
_DATASET = _of_project(DATASETS).where(DATASETS.c.type == bindparam("key"))
_MODEL = _of_project(MODELS).where(MODELS.c.version == bindparam("key"))
_LATEST_MODEL = _of_project(MODELS).order_by(MODELS.c.version.desc()).limit(1)
_PACKAGING_JOB = _of_project(PACKAGING_JOBS).where(PACKAGING_JOBS.c.name == bindparam("key"))


def find_project(transaction: Transaction, account: str, name: str) -> Row[Any]:
    """Return a project of the account, or raise ResourceNotFound."""
    meant = {"account": account, "project_name": name}
    row = transaction.connection.execute(_PROJECT, meant).first()
    if row is None:
        raise ResourceNotFound(f"The project {name} was not found.", "PROJECT", name)
    return row


def find_dataset(
    transaction: Transaction, account: str, project_name: str, dataset_type: str
) -> Row[Any]:
    """Return a dataset by its type, train or test, or raise ResourceNotFound."""
    row = _first(transaction, _DATASET, account, project_name, dataset_type)
    if row is None:
        raise ResourceNotFound(
            f"The project {project_name} has no {dataset_type} dataset.",
            "DATASET",
            f"{project_name}/{dataset_type}",
        )
    return row


def find_model(transaction: Transaction, account: str, project_name: str, version: str) -> Row[Any]:
    """Return a model by its version, a number or "latest", or raise ResourceNotFound."""
    if version == LATEST:
        row = _first(transaction, _LATEST_MODEL, account, project_name)
    else:
        row = _first(transaction, _MODEL, account, project_name, int(version))
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
    row = _first(transaction, _PACKAGING_JOB, account, project_name, job_name)
    if row is None:
        raise ResourceNotFound(
            f"The project {project_name} has no model packaging job {job_name}.",
            "MODEL_PACKAGE_JOB",
            job_name,
        )
    return row


def _first(
    transaction: Transaction, query: Select[Any], account: str, project_name: str, key: object = ""
) -> Optional[Row[Any]]:
    """Return the only row; when there is none, have a missing project say so."""
    meant = {"account": account, "project_name": project_name, "key": key}
    row = transaction.connection.execute(query, meant).first()
    if row is None:
        find_project(transaction, account, project_name)
    return row
