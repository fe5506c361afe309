"""StartModelPackagingJob, DescribeModelPackagingJob, ListModelPackagingJobs."""

from __future__ import annotations

import uuid
from typing import Any, Dict, Sequence

from sqlalchemy import Row, insert, select

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.component_spec import Component
from edge_agent.packaging.target import from_api
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, ValidationFailed
from edge_agent.service.operations.metadata import moment
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model, find_packaging_job, find_project
from edge_agent.service.records.pages import page_of
from edge_agent.service.records.quotas import within_quota
from edge_agent.service.records.schema import PACKAGING_JOBS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Work
from edge_agent.service.work.packaging import CREATED, KIND, UNDER_WAY, WAITS, ComponentPlace

METHOD = "GreengrassV2"  # ModelPackagingMethod
PACKABLE = (
    "TRAINED", "STARTING_HOSTING", "HOSTED", "HOSTING_FAILED", "STOPPING_HOSTING",
    "SYSTEM_UPDATING",
)  # fmt: skip


class PackagingJobs:
    """Components made of trained models."""

    def __init__(self, *, settings: ServiceSettings, buckets: Buckets, work: Work) -> None:
        self._most = settings.quotas.packaging_jobs
        self._buckets, self._work = buckets, work

    def start_model_packaging_job(self, call: Call, transaction: Transaction) -> Answer:
        """Have a component made of a model; answer the job's name at once."""
        given = call.parameters
        project = find_project(transaction, call.account, given["ProjectName"])
        model = find_model(transaction, call.account, project.name, given["ModelVersion"])
        wanted = _completed(given["Configuration"]["Greengrass"], project.name, model.version)
        _check(wanted)
        place = ComponentPlace(wanted)
        self._buckets.check_output(call.account, place.name)
        _check_is_trained(model, project.name)
        name = given.get("JobName") or str(uuid.uuid4())
        _check_is_new(name, project.id, transaction)
        others = _under_way(call, transaction)
        _check_is_free(place, others)
        within_quota(call, "packaging_jobs", len(others) + 1, self._most)
        version = str(model.version)
        parameters = {
            "job": _insert(call, project.id, name, version, wanted, transaction),
            "account": call.account,
            "region": call.region,
            "project": project.name,
            "version": version,
            "configuration": wanted,
            "part": uuid.uuid4().hex,
        }
        self._work.submit(KIND, parameters, transaction)
        return {"JobName": name}

    def describe_model_packaging_job(self, call: Call, transaction: Transaction) -> Answer:
        """Answer all there is to say about a job."""
        project, name = call.parameters["ProjectName"], call.parameters["JobName"]
        job = find_packaging_job(transaction, call.account, project, name)
        output = {"ModelPackagingOutputDetails": {"Greengrass": job.output}} if job.output else {}
        return {
            "ModelPackagingDescription": {
                **_metadata(job, project),
                "ModelPackagingConfiguration": job.configuration,
                **output,
            }
        }

    def list_model_packaging_jobs(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a page of the project's jobs, the oldest first."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        query = select(PACKAGING_JOBS).where(PACKAGING_JOBS.c.project_id == project.id)
        page = page_of(call, transaction, query, PACKAGING_JOBS.c.id)
        jobs = [_metadata(row, project.name) for row in page.rows]
        return {"ModelPackagingJobs": jobs, **page.token}


def _completed(given: Dict[str, Any], project: str, version: int) -> Dict[str, Any]:
    """Return a GreengrassConfiguration with what the component has where nothing is named."""
    defaults = {
        "ComponentVersion": f"{version}.0.0",
        "ComponentDescription": f"Model version {version} of project {project}"[:256],
    }
    return {**defaults, **given}


def _check(wanted: Dict[str, Any]) -> None:
    """Raise ValidationFailed: what the shapes of the service model can't say."""
    try:
        from_api(wanted)
        Component.from_api(wanted)
    except InvalidConfiguration as error:
        raise ValidationFailed(str(error)) from None


def _check_is_trained(model: Row[Any], project: str) -> None:
    if model.status not in PACKABLE:
        raise Conflict(
            f"Model version {model.version} of project {project} is {model.status}; only a trained "
            "model can be packaged. Wait until it is TRAINED, or choose another version.",
            "MODEL",
            model.arn,
        )


def _check_is_new(name: str, project_id: int, transaction: Transaction) -> None:
    query = select(PACKAGING_JOBS.c.id).where(
        PACKAGING_JOBS.c.project_id == project_id, PACKAGING_JOBS.c.name == name
    )
    if transaction.connection.scalar(query) is not None:
        raise Conflict(
            f"The project has a model packaging job {name} already; choose another JobName.",
            "MODEL_PACKAGE_JOB",
            name,
        )


def _check_is_free(place: ComponentPlace, others: Sequence[Row[Any]]) -> None:
    """Find that no job that is under way makes the component of this place."""
    for job in others:
        if ComponentPlace(job.configuration["Greengrass"]).name == place.name:
            raise Conflict(
                f"The model packaging job {job.name} is making {place}. Wait until it is done, or "
                "choose another ComponentName or ComponentVersion.",
                "MODEL_PACKAGE_JOB",
                job.name,
            )


def _insert(
    call: Call,
    project_id: int,
    name: str,
    version: str,
    wanted: Dict[str, Any],
    transaction: Transaction,
) -> int:
    """Write the row of a new job; return its id."""
    row = {
        "project_id": project_id,
        "name": name,
        "model_version": version,
        "description": call.parameters.get("Description"),
        "configuration": {"Greengrass": wanted},
        "status": CREATED,
        "message": WAITS,
        "created": call.now,
        "updated": call.now,
    }
    statement = insert(PACKAGING_JOBS).values(row).returning(PACKAGING_JOBS.c.id)
    job: int = transaction.connection.execute(statement).scalar_one()
    return job


def _under_way(call: Call, transaction: Transaction) -> Sequence[Row[Any]]:
    """Return the jobs of the account that have not ended."""
    query = (
        select(PACKAGING_JOBS)
        .join(PROJECTS)
        .where(PROJECTS.c.account == call.account, PACKAGING_JOBS.c.status.in_(UNDER_WAY))
    )
    return transaction.connection.execute(query).all()


def _metadata(job: Row[Any], project: str) -> Answer:
    """Return ModelPackagingJobMetadata."""
    described = {"ModelPackagingJobDescription": job.description} if job.description else {}
    return {
        "JobName": job.name,
        "ProjectName": project,
        "ModelVersion": job.model_version,
        **described,
        "ModelPackagingMethod": METHOD,
        "Status": job.status,
        "StatusMessage": job.message,
        "CreationTimestamp": moment(job.created),
        "LastUpdatedTimestamp": moment(job.updated),
    }
